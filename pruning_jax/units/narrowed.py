"""The equations of a model run at smaller sizes: what each primitive does without removed units.

Where a rule leaves an axis of units at its full size, the positions that stay are taken from the
result. What then has another shape than it should is refused by name.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pruning_jax import tracing
from pruning_jax.tracing import Equation
from pruning_jax.types import Array
from pruning_jax.units import elementwise, moves
from pruning_jax.units.labels import NONE
from pruning_jax.units.narrowing import Narrowing

Positions = dict[int, np.ndarray]
"""Axis -> the positions that stay, of the axes that lose some."""

Rule = Callable[[Narrowing, Equation, list[Array]], list[Array]]


def handlers(small: Narrowing) -> dict[int, tracing.Handler]:
    """Result of an equation -> what runs it where one of its arrays is smaller."""

    def handle(equation: Equation, operands: list[Array]) -> list[Array]:
        moved = moves.moves(small.model, equation)
        if moved is not None:
            _check_kept(small, equation, moved)
            results = MOVED.get(equation.name, _unchanged)(small, equation, operands, moved)
        else:
            body = equation.name in elementwise.ELEMENTWISE or elementwise.body_of(equation)
            rule = _elementwise if body else RULES.get(equation.name, _plain)
            results = rule(small, equation, operands)
        return [
            _fitted(small, equation, value, result)
            for value, result in zip(equation.outputs, results, strict=True)
        ]

    return {
        equation.outputs[0]: handle
        for equation in small.model.equations
        if equation.outputs
        and not small.kept.keys().isdisjoint([*equation.inputs, *equation.outputs])
    }


def taken(array: Array | np.ndarray, positions: Positions) -> Array | np.ndarray:
    """The entries of an array at positions along some of its axes."""
    for axis, places in positions.items():
        first, count = int(places[0]) if len(places) else 0, len(places)
        if isinstance(array, np.ndarray):
            array = np.take(array, places, axis)
        elif np.array_equal(places, np.arange(first, first + count)):
            array = lax.slice_in_dim(array, first, first + count, axis=axis)
        else:
            array = jnp.take(array, places, axis=axis, mode="clip")
    return array


def grouped_kernels(small: Narrowing) -> dict[int, tuple[int, int, np.ndarray]]:
    """The kernels of grouped convolutions, whose groups keep inputs of their own.

    Returns:
      Value of a leaf -> (axis of inputs, axis of outputs, for every kept output the inputs of its
      group to keep, shape (inputs, outputs)).
    """
    leaves, kernels = set(small.model.leaves.values()), {}
    for equation in small.model.equations:
        if equation.name == "conv_general_dilated" and equation.inputs[1] in leaves:
            spec = equation.params["dimension_numbers"].rhs_spec
            index = _inputs_of_groups(small, equation)
            if index is not None:
                kernels[equation.inputs[1]] = spec[1], spec[0], index
    return kernels


def of_groups(
    kernel: Array | np.ndarray, inputs: int, outputs: int, index: np.ndarray
) -> Array | np.ndarray:
    """A grouped convolution's kernel with the inputs that each output keeps."""
    library = np if isinstance(kernel, np.ndarray) else jnp
    moved = library.moveaxis(kernel, (inputs, outputs), (-2, -1))
    places = np.broadcast_to(index, (*moved.shape[:-2], *index.shape))
    narrow = library.take_along_axis(moved, places, axis=-2)
    return library.moveaxis(narrow, (-2, -1), (inputs, outputs))


def _refusal(equation: Equation, why: str) -> ValueError:
    return ValueError(f"units cannot be cut out: {equation.name} {why}")


def _restricted(
    small: Narrowing, equation: Equation, value: int, array: Array, wanted: Positions
) -> Array:
    """An operand with the positions wanted alone; axes that are not named are wanted whole."""
    have, shape, index = small.of(value), small.model.shape(value), {}
    for axis in have.keys() | wanted.keys():
        if shape[axis] == 1:
            continue
        there = have.get(axis, np.arange(shape[axis]))
        places = wanted.get(axis, np.arange(shape[axis]))
        if not np.isin(places, there).all():
            raise _refusal(equation, f"reads units that were cut, in an array of shape {shape}")
        if not np.array_equal(places, there):
            index[axis] = np.searchsorted(there, places)
    return taken(array, index)


def _fitted(small: Narrowing, equation: Equation, value: int, array: Array) -> Array:
    """A result with the positions that stay, where a rule left an axis whole."""
    shape, whole = small.shape(value), small.model.shape(value)
    if array.ndim == len(whole):
        left = {
            axis: places
            for axis, places in small.of(value).items()
            if array.shape[axis] == whole[axis]
        }
        array = taken(array, left)
    if array.shape != shape:
        raise _refusal(equation, f"gives {array.shape} where {shape} of {whole} should stay")
    return array


def _plain(small: Narrowing, equation: Equation, operands: list[Array]) -> list[Array]:
    """A primitive with no sizes among its parameters."""
    return tracing.bind(equation, operands)


def _elementwise(small: Narrowing, equation: Equation, operands: list[Array]) -> list[Array]:
    wanted = small.of(equation.outputs[0])
    arrays = []
    for value, operand in zip(equation.inputs, operands, strict=True):
        rank = len(small.model.shape(value))
        arrays.append(_restricted(small, equation, value, operand, wanted) if rank else operand)
    if elementwise.inner(equation.params) is None:
        return tracing.bind(equation, arrays)
    return [_called(small, equation, arrays)]


def _called(small: Narrowing, equation: Equation, operands: list[Array]) -> Array:
    """A call with a derivative rule of its own, whose body is elementwise; the rule is kept."""
    shape = small.shape(equation.outputs[0])
    avals = [small.model.avals[value] for value in equation.inputs]
    floats = all(jnp.issubdtype(aval.dtype, jnp.floating) for aval in avals)
    if not floats or equation.name != "custom_jvp_call":
        return _called_whole(small, equation, operands)

    def derivative(primals: Sequence[Array], tangents: Sequence[Array]) -> Array:
        return jax.jvp(lambda *arrays: tracing.bind(equation, list(arrays))[0], primals, tangents)

    structs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    rule = jax.make_jaxpr(derivative)(structs, structs)
    body = equation.params["call_jaxpr"]
    if not (elementwise.is_elementwise(rule) and elementwise.is_elementwise(body)):
        return _called_whole(small, equation, operands)

    @jax.custom_jvp
    def smaller(*arrays: Array) -> Array:
        return _inlined(body, arrays, shape)[0]

    @smaller.defjvp
    def smaller_jvp(primals: Sequence[Array], tangents: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(_inlined(rule, [*primals, *tangents], shape))

    return smaller(*operands)


def _called_whole(small: Narrowing, equation: Equation, operands: list[Array]) -> Array:
    """The same by the call itself at its full size, of which only the first entries are used."""
    shape = small.shape(equation.outputs[0])
    entries = math.prod(shape)
    wide = []
    for value, operand in zip(equation.inputs, operands, strict=True):
        whole = small.model.shape(value)
        if whole:
            flat = jnp.pad(operand.ravel(), (0, math.prod(whole) - entries))
            operand = flat.reshape(whole)
        wide.append(operand)
    (result,) = tracing.bind(equation, wide)
    return result.ravel()[:entries].reshape(shape)


def _inlined(body: Any, operands: Sequence[Array], shape: tuple[int, ...]) -> list[Array]:
    """An elementwise body on arrays of another shape; what is the same everywhere is a scalar."""
    jaxpr = getattr(body, "jaxpr", body)
    known = dict(zip(jaxpr.invars, operands, strict=True))
    known |= zip(jaxpr.constvars, getattr(body, "consts", []), strict=False)

    def array(atom: Any) -> Array:
        literal = tracing.is_literal(atom)
        value = jnp.asarray(atom.val, atom.aval.dtype) if literal else known[atom]
        return jnp.broadcast_to(value, shape) if atom.aval.shape else value

    for step in jaxpr.eqns:
        arrays, within = [array(atom) for atom in step.invars], elementwise.inner(step.params)
        if within is not None:
            results = _inlined(within, arrays, shape)
        elif step.primitive.name == "broadcast_in_dim":
            results = arrays[:1]
        else:
            params = step.primitive.get_bind_params(step.params)
            results = [step.primitive.bind(*arrays, **params)]
        known |= zip(step.outvars, results, strict=True)
    return [array(atom) for atom in jaxpr.outvars]


def _reshape(small: Narrowing, equation: Equation, operands: list[Array]) -> list[Array]:
    shape = small.shape(equation.outputs[0])
    if math.prod(shape) == operands[0].size:
        return tracing.bind(equation, operands, new_sizes=shape)
    return tracing.bind(equation, operands)


def _check_kept(small: Narrowing, equation: Equation, moved: list[moves.Move]) -> None:
    """Checks that nothing goes over units of which some were cut."""
    for move in moved:
        value = equation.inputs[move.operand]
        lost = small.of(value).keys() - move.places.keys()
        if any(small.model.shape(value)[axis] > 1 for axis in lost):
            raise _refusal(equation, "goes over units that were cut")


def _wanted(small: Narrowing, equation: Equation, move: moves.Move) -> Positions:
    """The positions of an operand that the positions which stay of a result take, in order."""
    kept, wanted = small.of(equation.outputs[move.result]), {}
    for axis, (place, positions) in move.places.items():
        if positions is not None:
            wanted[axis] = positions[kept[place]] if place in kept else positions
        elif place in kept:
            wanted[axis] = kept[place]
    return wanted


def _unchanged(
    small: Narrowing, equation: Equation, operands: list[Array], moved: list[moves.Move]
) -> list[Array]:
    return tracing.bind(equation, operands)


def _taken(
    small: Narrowing, equation: Equation, operands: list[Array], moved: list[moves.Move]
) -> list[Array]:
    """Slices, one a move."""
    value, array = equation.inputs[0], operands[0]
    return [
        _restricted(small, equation, value, array, _wanted(small, equation, move)) for move in moved
    ]


def _broadcast(
    small: Narrowing, equation: Equation, operands: list[Array], moved: list[moves.Move]
) -> list[Array]:
    arrays = _taken(small, equation, operands, moved)
    return tracing.bind(equation, arrays, shape=small.shape(equation.outputs[0]))


def _concatenate(
    small: Narrowing, equation: Equation, operands: list[Array], moved: list[moves.Move]
) -> list[Array]:
    axis, pieces = equation.params["dimension"], []
    for move, operand in zip(moved, operands, strict=True):
        wanted, value = _wanted(small, equation, move), equation.inputs[move.operand]
        wanted[axis] = wanted[axis][wanted[axis] != NONE]
        if len(wanted[axis]):
            pieces.append(_restricted(small, equation, value, operand, wanted))
    return tracing.bind(equation, pieces)


def _pad(
    small: Narrowing, equation: Equation, operands: list[Array], moved: list[moves.Move]
) -> list[Array]:
    value, config, index = equation.inputs[0], list(equation.params["padding_config"]), {}
    wanted = _wanted(small, equation, moved[0])
    for axis in wanted.keys() & (small.of(value).keys() | small.of(equation.outputs[0]).keys()):
        there = small.of(value).get(axis, np.arange(small.model.shape(value)[axis]))
        inside = np.isin(wanted[axis], there)
        index[axis] = np.where(inside, np.searchsorted(there, wanted[axis]), len(there))
        config[axis] = (0, 1, 0)
    (padded,) = tracing.bind(equation, operands, padding_config=tuple(config))
    for axis, places in index.items():
        padded = jnp.take(padded, places, axis=axis, mode="clip")
    return [padded]


def _resized(
    small: Narrowing, equation: Equation, operands: list[Array], moved: list[moves.Move]
) -> list[Array]:
    """Whole slices at places that are computed."""
    whole, sizes = small.model.shape(equation.inputs[0]), equation.params["slice_sizes"]
    sized = zip(sizes, whole, operands[0].shape, strict=True)
    changed = tuple(now if size == full else size for size, full, now in sized)
    return tracing.bind(equation, operands, slice_sizes=changed)


def _gather(
    small: Narrowing, equation: Equation, operands: list[Array], moved: list[moves.Move]
) -> list[Array]:
    taken = {axis for axis, (_, positions) in moved[0].places.items() if positions is not None}
    if taken.isdisjoint(small.of(equation.inputs[0])):
        return _resized(small, equation, operands, moved)
    return _taken(small, equation, operands, moved)


def _common(small: Narrowing, values: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """The positions that two operands both have along axes that meet."""
    have = [
        small.of(value).get(axis, np.arange(small.model.shape(value)[axis]))
        for value, axis in zip(values, axes, strict=True)
    ]
    return np.intersect1d(*have)


def _dot_general(small: Narrowing, equation: Equation, operands: list[Array]) -> list[Array]:
    contracted, batched = equation.params["dimension_numbers"]
    result, wanted = small.of(equation.outputs[0]), ({}, {})
    for axes in zip(*contracted, strict=True):
        common = _common(small, equation.inputs, axes)
        for side in (0, 1):
            wanted[side][axes[side]] = common
    place = len(batched[0])
    for side in (0, 1):
        wanted[side].update(
            {axis: result[i] for i, axis in enumerate(batched[side]) if i in result}
        )
        for axis in range(len(small.model.shape(equation.inputs[side]))):
            if axis not in (*contracted[side], *batched[side]):
                if place in result:
                    wanted[side][axis] = result[place]
                place += 1
    arrays = [
        _restricted(small, equation, value, operand, want)
        for value, operand, want in zip(equation.inputs, operands, wanted, strict=True)
    ]
    return tracing.bind(equation, arrays)


def _in_groups(places: np.ndarray, size: int, groups: int) -> np.ndarray | None:
    """Positions in each of some groups, shape (groups, kept); ``None`` where they are unequal."""
    counts = np.bincount(places // (size // groups), minlength=groups)
    if len(set(counts.tolist())) > 1:
        return None
    return places.reshape(groups, -1) % (size // groups)


def _inputs_of_groups(small: Narrowing, equation: Equation) -> np.ndarray | None:
    """For every kept output of a grouped convolution the inputs that its group keeps.

    Shape (inputs, outputs); ``None`` where the convolution has no groups of several inputs, or
    keeps all.

    Raises:
      ValueError: the groups keep unequal numbers.
    """
    groups, numbers = equation.params["feature_group_count"], equation.params["dimension_numbers"]
    (data, kernel), result = equation.inputs, equation.outputs[0]
    if groups == 1 or small.model.shape(kernel)[numbers.rhs_spec[1]] == 1:
        return None
    parts = []
    for value, axis in ((data, numbers.lhs_spec[1]), (result, numbers.out_spec[1])):
        size = small.model.shape(value)[axis]
        places = small.of(value).get(axis, np.arange(size))
        parts.append(_in_groups(places, size, groups))
        if parts[-1] is None:
            counts = np.bincount(places // (size // groups), minlength=groups)
            raise _refusal(
                equation,
                f"has {groups} groups, which would keep {counts.tolist()} of {size // groups} "
                "units; keep as many in every group",
            )
    inputs, outputs = parts
    if inputs.shape[1] * groups == small.model.shape(data)[numbers.lhs_spec[1]]:
        return None
    return np.repeat(inputs.T, outputs.shape[1], axis=1)


def _convolution(small: Narrowing, equation: Equation, operands: list[Array]) -> list[Array]:
    numbers, groups = equation.params["dimension_numbers"], equation.params["feature_group_count"]
    (data, kernel), result = equation.inputs, small.of(equation.outputs[0])
    features, (output, inputs) = numbers.lhs_spec[1], numbers.rhs_spec[:2]
    place, wanted = numbers.out_spec[1], ({}, {})
    if place in result:
        wanted[1][output] = result[place]
    depthwise = groups > 1 and small.model.shape(kernel)[inputs] == 1
    if groups == 1:
        wanted[0][features] = wanted[1][inputs] = _common(
            small, equation.inputs, (features, inputs)
        )
    elif features in small.of(data):
        wanted[0][features] = small.of(data)[features]
    if depthwise:
        groups = _depthwise_groups(small, equation)
    lhs, rhs = operands
    index = _inputs_of_groups(small, equation)
    lhs = _restricted(small, equation, data, lhs, wanted[0])
    if index is None or rhs.shape[inputs] == small.model.shape(kernel)[inputs]:
        rhs = _restricted(small, equation, kernel, rhs, wanted[1])
        rhs = rhs if index is None else of_groups(rhs, inputs, output, index)
    return tracing.bind(equation, [lhs, rhs], feature_group_count=groups)


def _depthwise_groups(small: Narrowing, equation: Equation) -> int:
    """How many groups a depthwise convolution keeps, each with all its outputs."""
    numbers = equation.params["dimension_numbers"]
    (data, _), result = equation.inputs, equation.outputs[0]
    axes = numbers.lhs_spec[1], numbers.out_spec[1]
    sizes = [small.model.shape(v)[a] for v, a in zip((data, result), axes, strict=True)]
    have, outputs = (
        small.of(value).get(axis, np.arange(size))
        for value, axis, size in zip((data, result), axes, sizes, strict=True)
    )
    times = sizes[1] // sizes[0]
    if not np.array_equal(outputs, (have[:, None] * times + np.arange(times)).ravel()):
        raise _refusal(equation, "would keep outputs of channels that it loses")
    return len(have)


RULES: dict[str, Rule] = {
    "reshape": _reshape,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
}
MOVED: dict[str, Callable] = {
    **dict.fromkeys(["slice", "split", "rev"], _taken),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "pad": _pad,
    "gather": _gather,
    "dynamic_slice": _resized,
}
"""Primitive -> how it runs where some of its arrays are smaller; any other has no sizes."""

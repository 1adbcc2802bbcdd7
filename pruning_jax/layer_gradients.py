"""Squared per-example gradients of a layer's leaves, from its inputs and its outputs' cotangents."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from pruning_jax import equations
from pruning_jax.equations import BatchAxis, Equation, Equations
from pruning_jax.provenance import Use
from pruning_jax.types import Array


def needed(model: Equations, uses: Sequence[Use]) -> frozenset[int]:
    """The values that the gradients of these uses are made of."""
    values = set()
    for use in uses:
        values.update(model.equations[use.equation].inputs)
        for step in use.view.steps:
            values.update(model.equations[step].inputs)
    return frozenset(values)


def output(model: Equations, use: Use) -> int:
    """The value whose cotangent gives the gradient of this use."""
    return model.equations[use.equation].outputs[0]


def _arrange(array: Array, batch: BatchAxis, groups: Sequence[Sequence[int]]) -> Array:
    """Examples first, then one axis for each group of axes: shape (examples, *sizes of groups)."""
    axis, before, after = batch
    shape = array.shape
    split = (before, shape[axis] // (before * after), after)
    array = array.reshape(*shape[:axis], *split, *shape[axis + 1 :])
    order, sizes = [axis + 1], [split[1]]
    for group in groups:
        places = [
            place
            for a in group
            for place in ((a, a + 2) if a == axis else (a if a < axis else a + 2,))
        ]
        order += places
        sizes.append(math.prod(array.shape[place] for place in places))
    return array.transpose(order).reshape(sizes)


def _free(rank: int, *taken: Sequence[int]) -> list[int]:
    return [axis for axis in range(rank) if not any(axis in axes for axes in taken)]


def _dense_operands(
    model: Equations, use: Use, data: Array, cotangents: Array
) -> tuple[Array, Array]:
    equation = model.equations[use.equation]
    contracting, batching = equation.params["dimension_numbers"]
    side = 1 - use.operand
    rest = _free(data.ndim, contracting[side], batching[side])
    a = _arrange(
        data, model.batch[equation.inputs[side]], [batching[side], rest, contracting[side]]
    )
    rank = cotangents.ndim - 1
    shared, positions = len(batching[side]), len(rest)
    first = shared if side == 0 else rank - positions
    places = list(range(first, first + positions))
    groups = [range(shared), places, _free(rank, range(shared), places)]
    batch = model.batch[equation.outputs[0]]
    return a, jax.vmap(lambda d: _arrange(d, batch, groups))(cotangents)


def _dense_to_operand(model: Equations, use: Use, kernel: Array) -> Array:
    """From (groups, inputs, outputs) to the layout of the operand, examples' axis of size one."""
    equation = model.equations[use.equation]
    contracting, batching = (axes[use.operand] for axes in equation.params["dimension_numbers"])
    value = equation.inputs[use.operand]
    shape = list(model.avals[value].shape)
    if value in model.batch:
        shape[model.batch[value].axis] = 1
    order = [*batching, *contracting, *_free(len(shape), batching, contracting)]
    return kernel.reshape([shape[axis] for axis in order]).transpose(_inverse(order))


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _patches(data: Array, equation: Equation, kernel_size: Sequence[int]) -> Array:
    """The inputs under the kernel, shape (rows, *output sizes, offsets, channels)."""
    params = equation.params
    lhs = params["dimension_numbers"].lhs_spec
    x = data.transpose(lhs[0], *lhs[2:], lhs[1])
    padding = [
        (low, high, dilation - 1)
        for (low, high), dilation in zip(params["padding"], params["lhs_dilation"], strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *padding, (0, 0, 0)])
    strides, dilations = params["window_strides"], params["rhs_dilation"]
    sizes = [
        (length - dilation * (size - 1) - 1) // stride + 1
        for length, size, dilation, stride in zip(
            x.shape[1:-1], kernel_size, dilations, strides, strict=True
        )
    ]
    taken = []
    for offset in itertools.product(*map(range, kernel_size)):
        start = [o * dilation for o, dilation in zip(offset, dilations, strict=True)]
        limit = [
            s + (size - 1) * stride + 1
            for s, size, stride in zip(start, sizes, strides, strict=True)
        ]
        taken.append(
            lax.slice(x, (0, *start, 0), (x.shape[0], *limit, x.shape[-1]), (1, *strides, 1))
        )
    return jnp.stack(taken, axis=-2)


def _conv_operands(
    model: Equations, use: Use, data: Array, cotangents: Array
) -> tuple[Array, Array]:
    equation = model.equations[use.equation]
    numbers, groups = equation.params["dimension_numbers"], equation.params["feature_group_count"]
    shape = model.avals[equation.inputs[use.operand]].shape
    patches = _patches(data, equation, [shape[axis] for axis in numbers.rhs_spec[2:]])
    patches = patches.reshape(*patches.shape[:-1], groups, -1)
    rank = patches.ndim
    batch = BatchAxis(0, *model.batch[equation.inputs[0]][1:])
    a = _arrange(patches, batch, [[rank - 2], range(rank - 3), [rank - 3, rank - 1]])
    out = numbers.out_spec

    def arranged(d: Array) -> Array:
        d = d.transpose(out[0], *out[2:], out[1])
        d = d.reshape(*d.shape[:-1], groups, -1)
        return _arrange(d, batch, [[d.ndim - 2], range(d.ndim - 2), [d.ndim - 1]])

    return a, jax.vmap(arranged)(cotangents)


def _conv_to_operand(model: Equations, use: Use, kernel: Array) -> Array:
    """From (groups, offsets x channels, outputs) to the layout of the operand."""
    equation = model.equations[use.equation]
    spec = equation.params["dimension_numbers"].rhs_spec
    shape = model.avals[equation.inputs[use.operand]].shape
    units, channels, *window = (shape[axis] for axis in spec)
    groups = equation.params["feature_group_count"]
    kernel = kernel.reshape(groups, *window, channels, units // groups)
    last = kernel.ndim - 1
    kernel = kernel.transpose(0, last, last - 1, *range(1, last - 1))
    return kernel.reshape(units, channels, *window).transpose(_inverse(spec))


_OPERANDS = {"dense": _dense_operands, "conv": _conv_operands}
_TO_OPERAND = {"dense": _dense_to_operand, "conv": _conv_to_operand}


def _operands(model: Equations, use: Use, data: Array, cotangents: Array) -> tuple[Array, Array]:
    """Inputs (n, groups, positions, inputs) and cotangents (c, n, groups, positions, outputs)."""
    a, d = _OPERANDS[use.kind](model, use, data, cotangents)
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, d.dtype), jnp.float32)
    return a.astype(dtype), d.astype(dtype)


def _from_leaf(model: Equations, use: Use, arrays: Mapping[int, Array]) -> Callable:
    """The view as a function of the leaf, for one example."""

    def view(leaf: Array) -> Array:
        known = {model.leaves[use.view.leaf]: leaf}
        for step in use.view.steps:
            equation = model.equations[step]
            changed = {}
            if equation.outputs[0] in model.batch:
                axis, before, after = model.batch[equation.outputs[0]]
                shape = list(equation.params["shape"])
                shape[axis] = before * after
                changed = {"shape": tuple(shape)}
            operands = [known.get(v, arrays.get(v)) for v in equation.inputs]
            results = equations.bind(equation, operands, **changed)
            known.update(zip(equation.outputs, results, strict=True))
        return known[model.equations[use.equation].inputs[use.operand]]

    return view


def _is_injective(model: Equations, use: Use) -> bool:
    """Whether every entry of the leaf is in the operand of one example at most once."""
    entries = math.prod(model.avals[model.leaves[use.view.leaf]].shape)
    for step in use.view.steps:
        result = model.equations[step].outputs[0]
        if result not in model.batch:
            before, entries = entries, math.prod(model.avals[result].shape)
            if entries > before:
                return False
    return True


def _some_examples(array: Array, axes: BatchAxis, first: Array, size: int) -> Array:
    """`size` of the examples of an array, from the one numbered `first` on."""
    axis, before, after = axes
    shape = array.shape
    split = array.reshape(*shape[:axis], before, -1, after, *shape[axis + 1 :])
    taken = lax.dynamic_slice_in_dim(split, first, size, axis + 1)
    return taken.reshape(*shape[:axis], before * size * after, *shape[axis + 1 :])


def _kernel_gradients(
    model: Equations, use: Use, leaf: Array, arrays: Mapping, data: Array, cotangents: Array
) -> Array:
    """The gradients of some examples, shape (examples, columns, *leaf)."""
    view = _from_leaf(model, use, arrays)

    def to_leaf(kernel: Array) -> Array:
        in_layout = _TO_OPERAND[use.kind](model, use, kernel).astype(leaf.dtype)
        return jax.linear_transpose(view, leaf)(in_layout)[0]

    a, d = _operands(model, use, data, cotangents)
    return jax.vmap(jax.vmap(to_leaf))(jnp.einsum("ngpk,cngpo->ncgko", a, d))


def _other_gradients(
    model: Equations, use: Use, leaf: Array, arrays: Mapping, data: Array, cotangents: Array
) -> Array:
    """The same for a bias or an embedding."""
    equation = model.equations[use.equation]
    view = _from_leaf(model, use, arrays)

    def by_example(array: Array, value: int) -> Array:
        return _arrange(array, model.batch[value], [[axis] for axis in range(array.ndim)])

    def forward(leaf: Array, data: Array) -> Array:
        if use.kind == "bias":
            return jnp.broadcast_to(view(leaf), data.shape)
        return equations.bind(equation, [view(leaf), data])[0]

    def one(data: Array, cotangent: Array) -> Array:
        return jax.linear_transpose(lambda leaf: forward(leaf, data), leaf)(cotangent)[0]

    every = by_example(data, equation.inputs[1 - use.operand])
    columns = jax.vmap(lambda d: by_example(d, equation.outputs[0]), out_axes=1)(cotangents)
    return jax.vmap(lambda x, d: jax.vmap(lambda column: one(x, column))(d))(every, columns)


def _examples_at_once(examples: int) -> int:
    """On CPU one, whose gradient stays in the cache; on an accelerator a divisor up to 32."""
    if jax.default_backend() == "cpu":
        return 1
    return max(size for size in range(1, 33) if examples % size == 0)


def _sum_over_examples(
    model: Equations, uses: Sequence[Use], arrays: Mapping, cotangents: Mapping, function: Callable
) -> Array:
    """Sums function([(data, cotangents) of each use]) over groups of examples."""
    values = [
        (model.equations[use.equation].inputs[1 - use.operand], output(model, use)) for use in uses
    ]
    size = _examples_at_once(model.examples)

    def parts(first: Array) -> list[tuple[Array, Array]]:
        return [
            (
                _some_examples(arrays[data], model.batch[data], first, size),
                jax.vmap(lambda d, v=out: _some_examples(d, model.batch[v], first, size))(
                    cotangents[out]
                ),
            )
            for data, out in values
        ]

    def add(total: Array, first: Array) -> tuple[Array, None]:
        return total + function(parts(first)), None

    start = jnp.zeros_like(jax.eval_shape(lambda: function(parts(0))))
    return lax.scan(add, start, jnp.arange(0, model.examples, size))[0]


def _kernel_squares(model: Equations, use: Use, arrays: Mapping, cotangents: Mapping) -> Array:
    """sum_n sum_c (dL_nc / dW)^2 in the layout of the operand."""

    def squares(parts: list[tuple[Array, Array]]) -> Array:
        a, d = _operands(model, use, *parts[0])
        return jnp.sum(jnp.einsum("ngpk,cngpo->ngkco", a, d) ** 2, axis=(0, 3))

    equation = model.equations[use.equation]
    data, out = equation.inputs[1 - use.operand], output(model, use)
    if use.kind == "dense" and _positions(model, use) == 1:
        a, d = _operands(model, use, arrays[data], cotangents[out])
        total = jnp.einsum("ngpk,ngpo->gko", a**2, jnp.sum(d**2, axis=0))
    else:
        total = _sum_over_examples(model, [use], arrays, cotangents, squares)
    return _TO_OPERAND[use.kind](model, use, total)


def _positions(model: Equations, use: Use) -> int:
    """How often a dense layer is applied to each example."""
    equation = model.equations[use.equation]
    contracting, batching = equation.params["dimension_numbers"]
    side = 1 - use.operand
    shape = model.avals[equation.inputs[side]].shape
    rest = math.prod(shape[axis] for axis in _free(len(shape), contracting[side], batching[side]))
    shared = model.batch[equation.inputs[side]].axis in batching[side]
    return rest if shared else rest // model.examples


def squared_sum(
    model: Equations,
    uses: Sequence[Use],
    leaf: Array,
    arrays: Mapping[int, Array],
    cotangents: Mapping[int, Array],
) -> Array:
    """Sums the squared gradients of a leaf over examples and columns.

        sum_n sum_c (sum_u d<s_nc, f_n> / d theta through use u)^2

    Args:
      model: the equations.
      uses: all the uses of one leaf.
      leaf: its array.
      arrays: the values that `needed` names.
      cotangents: output of a use -> (columns, *shape of the output).

    Returns:
      An array like the leaf.
    """
    if len(uses) == 1 and uses[0].kind in _OPERANDS and _is_injective(model, uses[0]):
        squares = _kernel_squares(model, uses[0], arrays, cotangents)
        view = _from_leaf(model, uses[0], arrays)
        entries, pull_back = jax.vjp(view, jnp.ones_like(leaf))
        return pull_back((squares * entries).astype(entries.dtype))[0]

    def squares_of_sum(parts: list[tuple[Array, Array]]) -> Array:
        gradients = [
            (_kernel_gradients if use.kind in _OPERANDS else _other_gradients)(
                model, use, leaf, arrays, *part
            )
            for use, part in zip(uses, parts, strict=True)
        ]
        return jnp.sum(sum(gradients) ** 2, axis=(0, 1))

    if all(use.kind == "bias" for use in uses):
        outputs = [output(model, use) for use in uses]
        others = [model.equations[use.equation].inputs[1 - use.operand] for use in uses]
        return squares_of_sum(
            [(arrays[v], cotangents[o]) for v, o in zip(others, outputs, strict=True)]
        )
    return _sum_over_examples(model, uses, arrays, cotangents, squares_of_sum)

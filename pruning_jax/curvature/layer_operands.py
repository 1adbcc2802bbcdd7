"""A layer's inputs and cotangents as matrices of each example, and back to its kernel's leaf."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from pruning_jax.tracing import equations
from pruning_jax.tracing.equations import BatchAxis, Equation, Equations
from pruning_jax.tracing.provenance import Use
from pruning_jax.types import Array


def arrange(array: Array, batch: BatchAxis, groups: Sequence[Sequence[int]]) -> Array:
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
    a = arrange(data, model.batch[equation.inputs[side]], [batching[side], rest, contracting[side]])
    rank = cotangents.ndim - 1
    shared, positions = len(batching[side]), len(rest)
    first = shared if side == 0 else rank - positions
    places = list(range(first, first + positions))
    groups = [range(shared), places, _free(rank, range(shared), places)]
    batch = model.batch[equation.outputs[0]]
    return a, jax.vmap(lambda d: arrange(d, batch, groups))(cotangents)


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
    a = arrange(patches, batch, [[rank - 2], range(rank - 3), [rank - 3, rank - 1]])
    out = numbers.out_spec

    def arranged(d: Array) -> Array:
        d = d.transpose(out[0], *out[2:], out[1])
        d = d.reshape(*d.shape[:-1], groups, -1)
        return arrange(d, batch, [[d.ndim - 2], range(d.ndim - 2), [d.ndim - 1]])

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


OPERANDS = {"dense": _dense_operands, "conv": _conv_operands}
TO_OPERAND = {"dense": _dense_to_operand, "conv": _conv_to_operand}


def operands(model: Equations, use: Use, data: Array, cotangents: Array) -> tuple[Array, Array]:
    """Inputs (n, groups, positions, inputs) and cotangents (c, n, groups, positions, outputs)."""
    a, d = OPERANDS[use.kind](model, use, data, cotangents)
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, d.dtype), jnp.float32)
    return a.astype(dtype), d.astype(dtype)


def from_leaf(model: Equations, use: Use, arrays: Mapping[int, Array]) -> Callable:
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


def is_injective(model: Equations, use: Use) -> bool:
    """Whether every entry of the leaf is in the operand of one example at most once."""
    entries = math.prod(model.avals[model.leaves[use.view.leaf]].shape)
    for step in use.view.steps:
        result = model.equations[step].outputs[0]
        if result not in model.batch:
            before, entries = entries, math.prod(model.avals[result].shape)
            if entries > before:
                return False
    return True


def positions_of(model: Equations, use: Use) -> int:
    """How often a dense layer is applied to each example."""
    equation = model.equations[use.equation]
    contracting, batching = equation.params["dimension_numbers"]
    side = 1 - use.operand
    shape = model.avals[equation.inputs[side]].shape
    rest = math.prod(shape[axis] for axis in _free(len(shape), contracting[side], batching[side]))
    shared = model.batch[equation.inputs[side]].axis in batching[side]
    return rest if shared else rest // model.examples

"""Squared per-example gradients of a leaf, from its layers' inputs and cotangents.

One example of a layer is a product of matrices, group by group:

    f_gpo = sum_k a_gpk w_gko,   dL/dw_gko = sum_p a_gpk dL/df_gpo

with groups g of the kernel, positions p where it is applied, inputs k and outputs o.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pruning_jax import tracing, trees
from pruning_jax.curvature import averaging
from pruning_jax.tracing import Equation, Equations, Use, layers
from pruning_jax.trees import at_least_single
from pruning_jax.types import Array, Params


def data(model: Equations, use: Use) -> int:
    """The value that meets the leaf at this use."""
    return model.equations[use.equation].inputs[1 - use.operand]


def output(model: Equations, use: Use) -> int:
    """The value whose cotangent gives the gradient of this use."""
    return model.equations[use.equation].outputs[0]


def _free(rank: int, *taken: Sequence[int]) -> list[int]:
    return [axis for axis in range(rank) if not any(axis in axes for axes in taken)]


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _joined(array: Array, *groups: Sequence[int]) -> Array:
    """One axis for each group of axes."""
    sizes = [math.prod(array.shape[axis] for axis in group) for group in groups]
    return array.transpose([axis for group in groups for axis in group]).reshape(sizes)


def _dense_inputs(model: Equations, use: Use, array: Array) -> Array:
    numbers = model.equations[use.equation].params["dimension_numbers"]
    contracting, batching = (axes[1 - use.operand] for axes in numbers)
    return _joined(array, batching, _free(array.ndim, contracting, batching), contracting)


def _dense_outputs(model: Equations, use: Use, cotangent: Array) -> Array:
    contracting, batching = model.equations[use.equation].params["dimension_numbers"]
    side, shared, rank = 1 - use.operand, len(batching[0]), cotangent.ndim
    positions = len(model.shape(data(model, use))) - len(contracting[side]) - shared
    first = shared if side == 0 else rank - positions
    places = range(first, first + positions)
    return _joined(cotangent, range(shared), places, _free(rank, range(shared), places))


def _dense_to_operand(model: Equations, use: Use, kernel: Array) -> Array:
    equation = model.equations[use.equation]
    contracting, batching = (axes[use.operand] for axes in equation.params["dimension_numbers"])
    shape = model.shape(equation.inputs[use.operand])
    order = [*batching, *contracting, *_free(len(shape), batching, contracting)]
    return kernel.reshape([shape[axis] for axis in order]).transpose(_inverse(order))


def _patches(array: Array, equation: Equation, window: Sequence[int]) -> Array:
    """The inputs under the kernel, shape (rows, *output sizes, offsets, channels)."""
    params = equation.params
    lhs = params["dimension_numbers"].lhs_spec
    x = array.transpose(lhs[0], *lhs[2:], lhs[1])
    padding = [
        (low, high, dilation - 1)
        for (low, high), dilation in zip(params["padding"], params["lhs_dilation"], strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *padding, (0, 0, 0)])
    strides, dilations = params["window_strides"], params["rhs_dilation"]
    sizes = [
        (length - dilation * (size - 1) - 1) // stride + 1
        for length, size, dilation, stride in zip(
            x.shape[1:-1], window, dilations, strides, strict=True
        )
    ]
    taken = []
    for offset in itertools.product(*map(range, window)):
        start = [o * dilation for o, dilation in zip(offset, dilations, strict=True)]
        limit = [
            s + (size - 1) * stride + 1
            for s, size, stride in zip(start, sizes, strides, strict=True)
        ]
        taken.append(
            lax.slice(x, (0, *start, 0), (x.shape[0], *limit, x.shape[-1]), (1, *strides, 1))
        )
    return jnp.stack(taken, axis=-2)


def _conv_inputs(model: Equations, use: Use, array: Array) -> Array:
    equation = model.equations[use.equation]
    shape = model.shape(equation.inputs[1])
    window = [shape[axis] for axis in equation.params["dimension_numbers"].rhs_spec[2:]]
    patches = _patches(array, equation, window)
    patches = patches.reshape(*patches.shape[:-1], equation.params["feature_group_count"], -1)
    rank = patches.ndim
    return _joined(patches, [rank - 2], range(rank - 3), [rank - 3, rank - 1])


def _conv_outputs(model: Equations, use: Use, cotangent: Array) -> Array:
    params = model.equations[use.equation].params
    spec = params["dimension_numbers"].out_spec
    d = cotangent.transpose(spec[0], *spec[2:], spec[1])
    d = d.reshape(*d.shape[:-1], params["feature_group_count"], -1)
    return _joined(d, [d.ndim - 2], range(d.ndim - 2), [d.ndim - 1])


def _conv_to_operand(model: Equations, use: Use, kernel: Array) -> Array:
    equation = model.equations[use.equation]
    spec, groups = (
        equation.params["dimension_numbers"].rhs_spec,
        equation.params["feature_group_count"],
    )
    shape = model.shape(equation.inputs[1])
    outputs, channels, *window = (shape[axis] for axis in spec)
    kernel = kernel.reshape(groups, *window, channels, outputs // groups)
    last = kernel.ndim - 1
    kernel = kernel.transpose(0, last, last - 1, *range(1, last - 1))
    return kernel.reshape(outputs, channels, *window).transpose(_inverse(spec))


_PRODUCTS = {
    "dense": (_dense_inputs, _dense_outputs, _dense_to_operand),
    "conv": (_conv_inputs, _conv_outputs, _conv_to_operand),
}
"""Kind of a layer -> a and dL/df of one example, and w back in the layout of its operand."""


def _matrices(model: Equations, use: Use, array: Array, cotangents: Array) -> tuple[Array, Array]:
    """Inputs (n, groups, positions, inputs) and cotangents (c, n, groups, positions, outputs).

    Of uses that `_together` puts side by side, the positions of each follow one another.
    """
    inputs, outputs, _ = _PRODUCTS[use.kind]
    several = array.ndim - 1 - len(model.shape(data(model, use)))
    steps = array.shape[1:2] if several else (1,)
    array = array.reshape(array.shape[0], *steps, *array.shape[1 + several :])
    cotangents = cotangents.reshape(*cotangents.shape[:2], *steps, *cotangents.shape[2 + several :])
    a = jax.vmap(jax.vmap(lambda x: inputs(model, use, x), out_axes=1))(array)
    d = jax.vmap(jax.vmap(jax.vmap(lambda x: outputs(model, use, x), out_axes=1)))(cotangents)
    a, d = (x.reshape(*x.shape[:-3], -1, x.shape[-1]) for x in (a, d))
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, d.dtype), jnp.float32)
    return a.astype(dtype), d.astype(dtype)


def second_moments(
    model: Equations, use: Use, array: Array, weights: Array | None
) -> tuple[Array, int]:
    """sum_n sum_p w_np a_np a_np^T of a layer's inputs, and how many positions there are.

    Args:
      model: the equations.
      use: of a kernel.
      array: the data that it meets, shape (examples, *shape).
      weights: of the positions of a batch's labels, or ``None``.

    Returns:
      The sum, shape (groups, inputs, inputs), and the positions of one example.
    """
    inputs, outputs, _ = _PRODUCTS[use.kind]
    shape = model.shape(output(model, use))
    unit_axis = len(shape) - 1
    if use.kind == "conv":
        unit_axis = model.equations[use.equation].params["dimension_numbers"].out_spec[1]
    spread = jnp.ones((len(array), *[1] * len(shape)))
    if weights is not None:
        spread = averaging.spread(weights, (len(array), *shape), unit_axis)

    def squares(part: Parts) -> Array:
        x, w = part[0]
        a = at_least_single(jax.vmap(lambda x: inputs(model, use, x))(x))
        w = jnp.broadcast_to(w[0], (len(x), *shape)).astype(a.dtype)
        w = jax.vmap(lambda w: outputs(model, use, w))(w)[..., :1]
        return jnp.einsum("ngpk,ngpl->gkl", a * w, a, precision="highest")

    positions = math.prod(shape) // layers.units(model, use)
    return _sum_over_examples([(array, spread[None])], squares), positions


def _view(
    model: Equations, use: Use, variables: Params, start: int | None = None
) -> Callable[[Array], Array]:
    """The operand as a function of the leaf, or of a value on the way from it."""
    value = model.equations[use.equation].inputs[use.operand]
    start = model.leaves[use.view.leaf] if start is None else start
    return _between(model, variables, start, value)


def _between(model: Equations, variables: Params, start: int, end: int) -> Callable[[Array], Array]:
    """A value made of variables, as a function of another one on the way to it."""

    def function(array: Array) -> Array:
        return tracing.evaluate(model, model.known(variables) | {start: array}, [end])[end]

    return function


def _gradients(
    model: Equations, use: Use, variables: Params, start: int, array: Array, cotangents: Array
) -> Array:
    """The gradients of some examples in a value that the operand is made of.

    Returns:
      Shape (columns, examples, *shape of the value).
    """
    equation, view = model.equations[use.equation], _view(model, use, variables, start)
    at_start = tracing.evaluate(model, model.known(variables), [start])[start]
    operand, pull_back = jax.vjp(view, at_start)
    if use.kind in _PRODUCTS:
        a, d = _matrices(model, use, array, cotangents)
        kernels = jnp.einsum("ngpk,cngpo->cngko", a, d)

        def to_start(kernel: Array) -> Array:
            return pull_back(_PRODUCTS[use.kind][2](model, use, kernel).astype(operand.dtype))[0]

        return jax.vmap(jax.vmap(to_start))(kernels)

    def one(array: Array, cotangent: Array) -> Array:
        def layer(operand: Array) -> Array:
            if use.kind == "bias":
                return jnp.broadcast_to(operand, cotangent.shape)
            return tracing.bind(equation, [operand, array])[0]

        return pull_back(jax.linear_transpose(layer, operand)(cotangent)[0])[0]

    return jax.vmap(jax.vmap(one), in_axes=(None, 0))(array, cotangents)


def _examples_at_once(examples: int) -> int:
    """On CPU one, whose gradient stays in the cache; on an accelerator a divisor up to 32."""
    if jax.default_backend() == "cpu":
        return 1
    return max(size for size in range(1, 33) if examples % size == 0)


Parts = Sequence[tuple[Array, Array]]
"""Data (examples, ...) and cotangents (columns, examples, ...) of every use."""


def _sum_over_examples(parts: Parts, function: Callable[[Parts], Array]) -> Array:
    """Sums a function of some examples over all of them."""
    examples = parts[0][1].shape[1]
    size = _examples_at_once(examples)

    def some(first: Array) -> Parts:
        return [
            tuple(lax.dynamic_slice_in_dim(x, first, size, axis) for axis, x in enumerate(part))
            for part in parts
        ]

    def add(total: Array, first: Array) -> tuple[Array, None]:
        return total + function(some(first)), None

    start = jnp.zeros_like(jax.eval_shape(lambda: function(some(0))))
    return lax.scan(add, start, jnp.arange(0, examples, size))[0]


def _sum_of_squares(columns: Array) -> Array:
    """sum_c d_c^2, a column at a time: XLA for CPU reduces a leading axis many times slower."""
    return lax.fori_loop(
        0, len(columns), lambda c, total: total + columns[c] ** 2, jnp.zeros_like(columns[0])
    )


def _kernel_squares(model: Equations, use: Use, part: tuple[Array, Array], positions: int) -> Array:
    """sum_n sum_c (dL_nc / dW)^2 in the layout of the operand."""

    def squares(parts: Parts) -> Array:
        a, d = _matrices(model, use, *parts[0])
        # One product an example, with all columns side by side.
        d = jnp.moveaxis(d, 0, 3)
        gradients = jnp.einsum("ngpk,ngpz->ngkz", a, d.reshape(*d.shape[:3], -1))
        return jnp.sum(gradients.reshape(*gradients.shape[:3], *d.shape[3:]) ** 2, axis=(0, 3))

    shape = jax.eval_shape(lambda: _matrices(model, use, *part))[0].shape
    if shape[2] == positions:
        a, d = _matrices(model, use, *part)
        total = jnp.einsum("ngpk,ngpo->gko", a**2, _sum_of_squares(d))
    else:
        total = _sum_over_examples([part], squares)
    return _PRODUCTS[use.kind][2](model, use, total)


def _through_view(view: Callable[[Array], Array], leaf: Array, squares: Array) -> Array:
    """Squares in the view's layout as those of the leaf, scaled so that halves hold them.

    Each entry of the view is a function of one entry of the leaf, and each of the leaf in one.
    """
    slopes = jax.jvp(view, (leaf,), (jnp.ones_like(leaf),))[1]
    pull_back = jax.vjp(view, leaf)[1]
    if leaf.dtype.itemsize >= 4:
        return pull_back((squares * slopes).astype(slopes.dtype))[0]
    largest = jnp.max(squares)
    scale = jnp.where(largest > 0, largest, 1.0)
    scaled = squares / scale * slopes
    return at_least_single(pull_back(scaled.astype(slopes.dtype))[0]) * scale


def keeps_positions(model: Equations, uses: Sequence[Use], positions: int) -> bool:
    """Whether every entry of a leaf enters once at each of so many positions."""
    use, entries = uses[0], math.prod(model.shape(output(model, uses[0])))
    leaf = math.prod(model.shape(model.leaves[use.view.leaf]))
    if use.kind == "bias":
        return len(uses) == 1 and entries == positions * leaf
    once = use.view.entrywise and entries == positions * layers.units(model, use)
    return len(uses) == 1 and once


def _squares_by_position(
    model: Equations, use: Use, variables: Params, leaf: Array, part: tuple[Array, Array]
) -> Array:
    """sum_n sum_p sum_c (dL_npc / d theta)^2 of a bias or an embedding, at every position once."""
    (array, cotangents), view = part, _view(model, use, variables)
    squares = _sum_of_squares(at_least_single(cotangents))

    def layer(leaf: Array) -> Array:
        if use.kind == "bias":
            return jnp.broadcast_to(view(leaf), squares.shape)
        take = functools.partial(tracing.bind, model.equations[use.equation])
        return jax.vmap(lambda x: take([view(leaf), x])[0])(array)

    return _through_view(layer, leaf, squares)


def squared_sum(
    model: Equations,
    uses: Sequence[Use],
    variables: Params,
    arrays: Mapping[int, Array],
    cotangents: Mapping[int, Array],
    positions: int = 1,
) -> Array:
    """Sums the squared gradients of a leaf over examples and columns.

        sum_n sum_c (sum_u d<s_nc, f_n> / d theta through use u)^2

    Args:
      model: the equations.
      uses: all the uses of one leaf.
      variables: the model's.
      arrays: the data of every use but a bias's -> (examples, *shape).
      cotangents: the output of every use -> (columns, examples, *shape).
      positions: how many there are that `keeps_positions`; each is then an example of its own.

    Returns:
      An array like the leaf, in at least single precision.
    """
    name = uses[0].view.leaf
    leaf, total = trees.named_leaves(variables)[name], 0
    if positions > 1 and uses[0].kind not in _PRODUCTS:
        d = cotangents[output(model, uses[0])]
        part = arrays.get(data(model, uses[0]), d[0]), d
        return _squares_by_position(model, uses[0], variables, leaf, part)
    for start, group in tracing.apart(model, uses):
        end, squares = _squares(model, group, variables, start, arrays, cotangents, positions)
        if end != model.leaves[name]:
            view = _between(model, variables, model.leaves[name], end)
            squares = _through_view(view, leaf, squares)
        total += squares
    return total


def _squares(
    model: Equations,
    group: Sequence[Use],
    variables: Params,
    start: int,
    arrays: Mapping[int, Array],
    cotangents: Mapping[int, Array],
    positions: int,
) -> tuple[int, Array]:
    """A value whose entries are each one of a leaf, and the squares in it by a group of uses."""
    uses, parts = _together(model, group, arrays, cotangents)
    if len(uses) == 1 and uses[0].kind in _PRODUCTS and uses[0].view.entrywise:
        operand = model.equations[uses[0].equation].inputs[uses[0].operand]
        return operand, _kernel_squares(model, uses[0], parts[0], positions)

    def squares_of_sum(parts: Parts) -> Array:
        gradients = [
            _gradients(model, use, variables, start, *part)
            for use, part in zip(uses, parts, strict=True)
        ]
        return jnp.sum(at_least_single(sum(gradients)) ** 2, axis=(0, 1))

    if all(use.kind == "bias" for use in uses):
        return start, squares_of_sum(parts)
    return start, _sum_over_examples(parts, squares_of_sum)


def _together(
    model: Equations,
    uses: Sequence[Use],
    arrays: Mapping[int, Array],
    cotangents: Mapping[int, Array],
) -> tuple[list[Use], Parts]:
    """Uses of a leaf and their parts, those of one dense kernel or bias side by side.

    So a recurrent layer, with a use at every step, is one product with as many positions.
    """
    alike: dict[Any, list[Use]] = {}
    for use in uses:
        equation = model.equations[use.equation]
        kernel, params = equation.inputs[use.operand], str(equation.params)
        shape = model.shape(data(model, use)), model.shape(output(model, use))
        same = kernel, use.kind, params, shape
        alike.setdefault(same if use.kind in ("dense", "bias") else use.equation, []).append(use)
    parts = []
    for same in alike.values():
        d = [cotangents[output(model, use)] for use in same]
        a = [arrays.get(data(model, use), d[0][0]) for use in same]
        if len(same) == 1:
            parts.append((a[0], d[0]))
        elif same[0].kind == "bias":
            parts.append((a[0], sum(d)))
        else:
            parts.append((jnp.stack(a, 1), jnp.stack(d, 2)))
    return [same[0] for same in alike.values()], parts

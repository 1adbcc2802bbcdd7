"""Squared per-example gradients of a leaf, from its layers' inputs and cotangents."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from pruning_jax.curvature import layer_operands
from pruning_jax.tracing import equations
from pruning_jax.tracing.equations import BatchAxis, Equations
from pruning_jax.tracing.provenance import Use
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
    """The gradients of some examples, shape (columns, examples, *leaf)."""
    view = layer_operands.from_leaf(model, use, arrays)

    def to_leaf(kernel: Array) -> Array:
        in_layout = layer_operands.TO_OPERAND[use.kind](model, use, kernel).astype(leaf.dtype)
        return jax.linear_transpose(view, leaf)(in_layout)[0]

    a, d = layer_operands.operands(model, use, data, cotangents)
    return jax.vmap(jax.vmap(to_leaf))(jnp.einsum("ngpk,cngpo->cngko", a, d))


def _other_gradients(
    model: Equations, use: Use, leaf: Array, arrays: Mapping, data: Array, cotangents: Array
) -> Array:
    """The same for a bias or an embedding."""
    equation = model.equations[use.equation]
    view = layer_operands.from_leaf(model, use, arrays)

    def by_example(array: Array, value: int) -> Array:
        return layer_operands.arrange(
            array, model.batch[value], [[axis] for axis in range(array.ndim)]
        )

    def forward(leaf: Array, data: Array) -> Array:
        if use.kind == "bias":
            return jnp.broadcast_to(view(leaf), data.shape)
        return equations.bind(equation, [view(leaf), data])[0]

    def one(data: Array, cotangent: Array) -> Array:
        return jax.linear_transpose(lambda leaf: forward(leaf, data), leaf)(cotangent)[0]

    every = by_example(data, equation.inputs[1 - use.operand])
    columns = jax.vmap(lambda d: by_example(d, equation.outputs[0]))(cotangents)
    return jax.vmap(jax.vmap(one), in_axes=(None, 0))(every, columns)


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


def _sum_of_squares(columns: Array) -> Array:
    """sum_c d_c^2, a column at a time: XLA for CPU reduces a leading axis many times slower."""
    return lax.fori_loop(
        0, len(columns), lambda c, total: total + columns[c] ** 2, jnp.zeros_like(columns[0])
    )


def _kernel_squares(model: Equations, use: Use, arrays: Mapping, cotangents: Mapping) -> Array:
    """sum_n sum_c (dL_nc / dW)^2 in the layout of the operand."""

    def squares(parts: list[tuple[Array, Array]]) -> Array:
        a, d = layer_operands.operands(model, use, *parts[0])
        return jnp.sum(jnp.einsum("ngpk,cngpo->ngkco", a, d) ** 2, axis=(0, 3))

    equation = model.equations[use.equation]
    data, out = equation.inputs[1 - use.operand], output(model, use)
    if use.kind == "dense" and layer_operands.positions_of(model, use) == 1:
        a, d = layer_operands.operands(model, use, arrays[data], cotangents[out])
        total = jnp.einsum("ngpk,ngpo->gko", a**2, _sum_of_squares(d))
    else:
        total = _sum_over_examples(model, [use], arrays, cotangents, squares)
    return layer_operands.TO_OPERAND[use.kind](model, use, total)


def at_least_single(array: Array) -> Array:
    """The array in at least 32 bits."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _half_precision_leaf(
    model: Equations, use: Use, leaf: Array, arrays: Mapping, squares: Array
) -> Array:
    """Squares in the operand's layout as those of the leaf, scaled so that halves hold them."""
    view = layer_operands.from_leaf(model, use, arrays)
    if not use.view.steps:
        return squares
    entries, pull_back = jax.vjp(view, jnp.ones_like(leaf))
    largest = jnp.max(squares)
    scale = jnp.where(largest > 0, largest, 1.0)
    scaled = squares / scale * entries
    return at_least_single(pull_back(scaled.astype(entries.dtype))[0]) * scale


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
      An array like the leaf, in at least single precision.
    """
    if (
        len(uses) == 1
        and uses[0].kind in layer_operands.OPERANDS
        and layer_operands.is_injective(model, uses[0])
    ):
        squares = _kernel_squares(model, uses[0], arrays, cotangents)
        if leaf.dtype.itemsize < 4:
            return _half_precision_leaf(model, uses[0], leaf, arrays, squares)
        view = layer_operands.from_leaf(model, uses[0], arrays)
        entries, pull_back = jax.vjp(view, jnp.ones_like(leaf))
        return pull_back((squares * entries).astype(entries.dtype))[0]

    def squares_of_sum(parts: list[tuple[Array, Array]]) -> Array:
        gradients = [
            (_kernel_gradients if use.kind in layer_operands.OPERANDS else _other_gradients)(
                model, use, leaf, arrays, *part
            )
            for use, part in zip(uses, parts, strict=True)
        ]
        return jnp.sum(at_least_single(sum(gradients)) ** 2, axis=(0, 1))

    if all(use.kind == "bias" for use in uses):
        outputs = [output(model, use) for use in uses]
        others = [model.equations[use.equation].inputs[1 - use.operand] for use in uses]
        return squares_of_sum(
            [(arrays[v], cotangents[o]) for v, o in zip(others, outputs, strict=True)]
        )
    return _sum_over_examples(model, uses, arrays, cotangents, squares_of_sum)

"""The last part of a model, in which each position of its logits is alone."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from pruning_jax.curvature import layer_gradients
from pruning_jax.tracing import Equation, Equations, Trace, Use
from pruning_jax.units import elementwise


class Tail(NamedTuple):
    """The equations from one value of a model to its logits.

    Attributes:
      start: that value, shape (1, *positions, ...); ``None`` where they are the whole model.
      leaves: those that enter there, and nowhere before.
    """

    start: int | None
    leaves: frozenset[str]


def tail(trace: Trace, uses: Mapping[str, Sequence[Use]], columns: int) -> Tail:
    """Where to cut a model in two, to follow few columns of a root.

    In a tail that keeps positions apart, the columns of all of them are followed at once. Before it
    each position has columns of its own, but no more than the start of the tail has entries: those
    of any root of as many columns can be replaced by them.

    Args:
      trace: of the model.
      uses: leaf -> where it enters.
      columns: of the root of one position.
    """
    model = trace.model
    lead = model.shape(model.logits)[:-1] or (1,)
    positions = math.prod(lead)
    best, fewest = Tail(model.logits, frozenset()), columns
    if positions == 1:
        best = Tail(None, frozenset(uses))
    needed, passed = {model.logits}, set()
    for number in reversed(range(len(model.equations))):
        equation = model.equations[number]
        if needed.isdisjoint(equation.outputs):
            continue
        if positions > 1 and not _keeps_positions(model, equation, lead):
            break
        passed.add(number)
        needed = (needed | set(equation.inputs)) & model.from_inputs - set(equation.outputs)
        start = None if needed <= set(model.inputs) else min(needed)
        leaves = _leaves(model, uses, passed, positions)
        if leaves is None or (start is not None and not _can_start(model, needed)):
            continue
        width = 0 if start is None else math.prod(model.shape(start)) // positions
        if positions > 1 and min(width, columns) <= fewest or 0 < width < fewest:
            best, fewest = Tail(start, leaves), min(width, columns)
    return best


def _can_start(model: Equations, values: set[int]) -> bool:
    """Whether a tail can begin at values: at one, which has derivatives."""
    return len(values) == 1 and jnp.issubdtype(model.avals[min(values)].dtype, jnp.inexact)


def _leaves(
    model: Equations, uses: Mapping[str, Sequence[Use]], passed: set[int], positions: int
) -> frozenset[str] | None:
    """The leaves that some equations use; ``None`` where others use one of them as well."""
    found = {leaf for leaf, group in uses.items() if any(use.equation in passed for use in group)}
    for leaf in found:
        if not all(use.equation in passed for use in uses[leaf]):
            return None
        if positions > 1 and not layer_gradients.keeps_positions(model, uses[leaf], positions):
            return None
    return frozenset(found)


_AXES = {
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"), "axes"),
    **dict.fromkeys(("squeeze", "expand_dims"), "dimensions"),
    **dict.fromkeys(("cumsum", "split"), "axis"),
    "concatenate": "dimension",
}
"""Primitives that keep the positions apart if they work along other axes, and what names those."""


def _keeps_positions(model: Equations, equation: Equation, lead: tuple[int, ...]) -> bool:
    """Whether each position of the results, on their first axes, is of that of the operands."""
    name, params, rank = equation.name, equation.params, len(lead)
    data = [value for value in equation.inputs if value in model.from_inputs]
    shapes = [model.shape(value) for value in (*data, *equation.outputs)]
    if any(shape[:rank] != lead for shape in shapes):
        return False
    body = elementwise.inner(params)
    if name in elementwise.ELEMENTWISE or (body is not None and elementwise.is_elementwise(body)):
        return True
    if name in _AXES:
        axes = params[_AXES[name]]
        return min(axes if isinstance(axes, Sequence) else [axes], default=rank) >= rank
    if name in ("broadcast_in_dim", "transpose"):
        moved = params.get("broadcast_dimensions", params.get("permutation"))
        return tuple(moved[:rank]) == tuple(range(rank))
    if name == "dot_general":
        (contracted, _), (shared, _) = params["dimension_numbers"]
        return data == [equation.inputs[0]] and not shared and min(contracted, default=rank) >= rank
    if name == "conv_general_dilated":
        return data == [equation.inputs[0]] and _is_pointwise(model, equation, rank)
    if name == "gather":
        offsets = params["dimension_numbers"].offset_dims
        return data == [equation.inputs[1]] and min(offsets, default=rank) >= rank
    return name in ("reshape", "slice")


def _is_pointwise(model: Equations, equation: Equation, rank: int) -> bool:
    params, kernel = equation.params, model.shape(equation.inputs[1])
    numbers, places = params["dimension_numbers"], tuple(range(1, rank))
    return (
        all((spec[0], *spec[2:]) == (0, *places) for spec in (numbers.lhs_spec, numbers.out_spec))
        and all(kernel[axis] == 1 for axis in numbers.rhs_spec[2:])
        and not any(map(any, params["padding"]))
    )

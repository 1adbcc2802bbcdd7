"""Where each primitive that moves entries takes the axes of its operands, and their positions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from pruning_jax import tracing
from pruning_jax.tracing import Equation, Equations
from pruning_jax.units.labels import NONE, Places

Shape = tuple[int, ...]


class Move(NamedTuple):
    """What becomes of an operand's axes in a result; those that are not named are lost."""

    operand: int
    result: int
    places: Places


def moves(model: Equations, equation: Equation) -> list[Move] | None:
    """The moves of an equation; ``None`` where its primitive does something else."""
    if equation.name not in MOVES:
        return None
    return MOVES[equation.name](model, equation)


def constant(model: Equations, value: int) -> np.ndarray | None:
    """An array that depends on neither variables nor inputs; ``None`` for any other."""
    before = {value}
    for equation in reversed(model.equations):
        if before.intersection(equation.outputs):
            before.update(equation.inputs)
    if before.intersection([*model.leaves.values(), *model.inputs]):
        return None
    with jax.ensure_compile_time_eval():
        return np.asarray(tracing.evaluate(model, {}, [value])[value])


def _alone(places: Callable[[Any, Shape, Shape], Places]) -> Callable:
    """The moves of a primitive with one result, of its first operand."""

    def rule(model: Equations, equation: Equation) -> list[Move]:
        old, new = model.shape(equation.inputs[0]), model.shape(equation.outputs[0])
        return [Move(0, 0, places(equation.params, old, new))]

    return rule


def _in_place(old: Shape, changed: dict[int, np.ndarray]) -> Places:
    return {axis: (axis, changed.get(axis)) for axis in range(len(old))}


def _without(gone: Any, old: Shape) -> Places:
    left = (axis for axis in range(len(old)) if axis not in gone)
    return {axis: (place, None) for place, axis in enumerate(left)}


def _transpose(params: Any, old: Shape, new: Shape) -> Places:
    return {axis: (place, None) for place, axis in enumerate(params["permutation"])}


def _broadcast(params: Any, old: Shape, new: Shape) -> Places:
    places = enumerate(params["broadcast_dimensions"])
    return {axis: (place, None) for axis, place in places if old[axis] == new[place]}


def _slice(params: Any, old: Shape, new: Shape) -> Places:
    strides = params["strides"] or (1,) * len(old)
    parts = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    cut = {a: np.arange(*part) for a, part in enumerate(parts) if part != (0, old[a], 1)}
    return _in_place(old, cut)


def _split(model: Equations, equation: Equation) -> list[Move]:
    old, axis, start, found = model.shape(equation.inputs[0]), equation.params["axis"], 0, []
    for result, size in enumerate(equation.params["sizes"]):
        places = _in_place(old, {axis: np.arange(start, start + size)})
        found.append(Move(0, result, places))
        start += size
    return found


def _concatenate(model: Equations, equation: Equation) -> list[Move]:
    axis, start, found = equation.params["dimension"], 0, []
    for operand, value in enumerate(equation.inputs):
        old = model.shape(value)
        positions = np.arange(model.shape(equation.outputs[0])[axis]) - start
        positions[(positions < 0) | (positions >= old[axis])] = NONE
        found.append(Move(operand, 0, _in_place(old, {axis: positions})))
        start += old[axis]
    return found


def _rev(params: Any, old: Shape, new: Shape) -> Places:
    return _in_place(old, {axis: np.arange(old[axis])[::-1] for axis in params["dimensions"]})


def _pad(params: Any, old: Shape, new: Shape) -> Places:
    changed = {}
    for axis, (low, high, interior) in enumerate(params["padding_config"]):
        if low or high or interior:
            source, between = np.divmod(np.arange(new[axis]) - low, interior + 1)
            there = (between == 0) & (source >= 0) & (source < old[axis])
            changed[axis] = np.where(there, source, NONE)
    return _in_place(old, changed)


def _along(params: Any, old: Shape, new: Shape) -> Places:
    touched = params["dimension"] if "dimension" in params else params["axis"]
    return {axis: (axis, None) for axis in range(len(old)) if axis != touched}


def _window(params: Any, old: Shape, new: Shape) -> Places:
    sizes = params["window_dimensions"]
    return {axis: (axis, None) for axis in range(len(old)) if sizes[axis] == 1}


def _dynamic_slice(params: Any, old: Shape, new: Shape) -> Places:
    return {axis: (axis, None) for axis, n in enumerate(old) if params["slice_sizes"][axis] == n}


def _gather(model: Equations, equation: Equation) -> list[Move]:
    """Those of whole slices, and of entries taken along one axis, at places known and in bounds."""
    source, indices = equation.inputs
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    old, new = model.shape(source), model.shape(equation.outputs[0])
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    left = [axis for axis in range(len(old)) if axis not in gone]
    offsets = zip(left, numbers.offset_dims, strict=True)
    places: dict = {axis: (at, None) for axis, at in offsets if sizes[axis] == old[axis]}
    rows = [axis for axis in range(len(new)) if axis not in numbers.offset_dims]
    single = len(numbers.start_index_map) == len(rows) == 1 and not numbers.operand_batching_dims
    if single and tuple(numbers.collapsed_slice_dims) == tuple(numbers.start_index_map):
        taken = constant(model, indices)
        (axis,) = numbers.start_index_map
        if taken is not None and 0 <= taken.min(initial=0) <= taken.max(initial=0) < old[axis]:
            places[axis] = (rows[0], taken.ravel())
    return [Move(0, 0, places)]


REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod")
_OVER_AXIS = ("sort", "cumsum", "cumprod", "cummax", "cummin")
_WINDOWS = ("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum")

MOVES: dict[str, Callable[[Equations, Equation], list[Move]]] = {
    "transpose": _alone(_transpose),
    "squeeze": _alone(lambda params, old, new: _without(params["dimensions"], old)),
    "broadcast_in_dim": _alone(_broadcast),
    "slice": _alone(_slice),
    "split": _split,
    "rev": _alone(_rev),
    "pad": _alone(_pad),
    "concatenate": _concatenate,
    "gather": _gather,
    "dynamic_slice": _alone(_dynamic_slice),
    **dict.fromkeys(REDUCTIONS, _alone(lambda params, old, new: _without(params["axes"], old))),
    **dict.fromkeys(_WINDOWS, _alone(_window)),
    **dict.fromkeys(_OVER_AXIS, _alone(_along)),
}
"""Primitive -> how it moves axes."""

POOLING = frozenset([*REDUCTIONS, *_WINDOWS])

LOSING = {
    **dict.fromkeys([*_WINDOWS, *_OVER_AXIS, "dynamic_slice"], "goes over their axis"),
    "gather": "takes them by unknown places",
}
"""Primitive -> why units whose axis it loses may not be pruned; reductions are followed further."""

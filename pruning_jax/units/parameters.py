"""Whether an equation read at smaller sizes is the one that an equation becomes there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from pruning_jax import tracing
from pruning_jax.tracing import Equation
from pruning_jax.units.narrowing import Narrowing

_OF_SIZES = {
    "broadcast_in_dim": {"shape"},
    "reshape": {"new_sizes"},
    "conv_general_dilated": {"feature_group_count"},
    "slice": {"start_indices", "limit_indices"},
    "split": {"sizes"},
    "gather": {"slice_sizes"},
    "dynamic_slice": {"slice_sizes"},
}
"""Primitive -> its parameters that follow from the sizes, or whose meaning `_same_places` sees."""


def same_parameters(small: Narrowing, one: Equation, other: Equation) -> bool:
    """Whether an equation does at smaller sizes what another one, of the same shapes, does there.

    Parameters that are functions, as a derivative's rule, cannot be compared.

    Args:
      small: the positions that stay.
      one: an equation of the whole model.
      other: that of the same primitive, read at the smaller sizes.
    """
    if small.kept.keys().isdisjoint([*one.inputs, *one.outputs]):
        return _same(one.params, other.params)
    left_out = _OF_SIZES.get(one.name, set())
    params = ({k: v for k, v in e.params.items() if k not in left_out} for e in (one, other))
    return _same(*params) and _same_places(small, one, other)


def _same_places(small: Narrowing, one: Equation, other: Equation) -> bool:
    """Whether the entries that stay are taken, of an axis that loses some."""
    if one.name in ("slice", "split"):
        pairs = zip(_parts(one), _parts(other), one.outputs, strict=True)
        return all(_same_part(small, one.inputs[0], *pair) for pair in pairs)
    narrow = small.of(one.inputs[0]) if one.inputs else {}
    if one.name == "pad":
        config = one.params["padding_config"]
        return not any(any(config[axis]) for axis in narrow | small.of(one.outputs[0]))
    if one.name in ("gather", "dynamic_slice"):
        whole, sizes = small.model.shape(one.inputs[0]), one.params["slice_sizes"]
        return all(sizes[axis] == whole[axis] for axis in narrow)
    return True


def _parts(equation: Equation) -> list[dict[int, slice]]:
    """Axis -> what each result of a slice or a split takes of it."""
    params = equation.params
    if equation.name == "split":
        ends = np.cumsum(params["sizes"])
        starts = ends - params["sizes"]
        return [{params["axis"]: slice(a, b)} for a, b in zip(starts, ends, strict=True)]
    starts, ends = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    return [{i: slice(*part) for i, part in enumerate(zip(starts, ends, strides, strict=True))}]


def _same_part(
    small: Narrowing, value: int, part: dict[int, slice], own: dict[int, slice], result: int
) -> bool:
    for axis in small.of(value).keys() | small.of(result).keys() | part.keys():
        whole = np.arange(small.model.shape(value)[axis])
        there = small.of(value).get(axis, whole)
        positions = whole[part.get(axis, slice(None))]
        stay = small.of(result).get(axis, np.arange(len(positions)))
        if not np.array_equal(there[own.get(axis, slice(None))], positions[stay]):
            return False
    return True


def _same(one: Any, other: Any) -> bool:
    """Whether two parameters of primitives are equal; of bodies, what they do but for shapes."""
    if hasattr(one, "jaxpr") or hasattr(one, "eqns"):
        return _same_body(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    if all(callable(each) or hasattr(each, "call_wrapped") for each in (one, other)):
        return True
    return bool(np.all(one == other))


def _same_body(one: Any, other: Any) -> bool:
    consts = (getattr(body, "consts", []) for body in (one, other))
    if not _same_constants(*consts):
        return False
    one, other = (getattr(body, "jaxpr", body) for body in (one, other))
    if [step.primitive for step in one.eqns] != [step.primitive for step in other.eqns]:
        return False
    for a, b in zip(one.eqns, other.eqns, strict=True):
        left_out = _OF_SIZES.get(a.primitive.name, set())
        params = ({k: v for k, v in e.params.items() if k not in left_out} for e in (a, b))
        if not (_same_constants(*map(_literals, (a, b))) and _same(*params)):
            return False
    return True


def _literals(step: Any) -> list[Any]:
    return [atom.val if isinstance(atom, core.Literal) else None for atom in step.invars]


def _same_constants(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(map(tracing.same_constant, one, other))

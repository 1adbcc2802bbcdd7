"""Whether two readings of a model run the same equations."""

from typing import Any

import jax
import numpy as np

from pruning_jax import tracing
from pruning_jax.tracing import Equations


def same_equations(one: Equations, other: Equations) -> bool:
    """Whether two models do the same: primitives, parameters, constants, and what enters where.

    Derivative rules are functions and cannot be compared; what a call computes is.
    """
    places = {value: value for value in (*one.leaves.values(), *one.inputs)}
    if one.leaves != other.leaves or len(one.equations) != len(other.equations):
        return False

    def same_value(a: int, b: int) -> bool:
        if a in places:
            return places[a] == b
        constants = one.constants.get(a, a), other.constants.get(b, a)
        return a in one.constants and tracing.same_constant(*constants, shapes=False)

    for a, b in zip(one.equations, other.equations, strict=True):
        shapes = ([model.avals[v] for v in e.outputs] for model, e in ((one, a), (other, b)))
        alike = a.primitive is b.primitive and [*next(shapes)] == [*next(shapes)]
        if not alike or not _same(a.params, b.params):
            return False
        if not all(map(same_value, a.inputs, b.inputs)):
            return False
        places |= zip(a.outputs, b.outputs, strict=True)
    return all(map(same_value, one.outputs, other.outputs))


def _same(one: Any, other: Any) -> bool:
    """Whether two parameters of primitives are equal; of bodies, what they compute."""
    if hasattr(one, "jaxpr") and hasattr(other, "jaxpr"):
        return same_equations(*map(_read, (one, other)))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    if all(callable(each) or hasattr(each, "call_wrapped") for each in (one, other)):
        return True
    return bool(np.all(one == other))


def _read(body: Any) -> Equations:
    from jax.extend import core  # it takes a tenth of the time of importing JAX

    avals = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in body.in_avals]
    return tracing.read(core.jaxpr_as_fun(body), *avals)

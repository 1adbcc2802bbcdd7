"""Calls with a derivative rule of their own whose body is one elementwise function."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend import core

from pruning_jax.tracing.equations import Equation
from pruning_jax.units import zeros
from pruning_jax.units.zeros import Number


def elementwise(equation: Equation) -> Callable[[list[Number]], Number] | None:
    """The function of single numbers that the body of a call is; ``None`` where it is not one."""
    body = equation.params.get("call_jaxpr", equation.params.get("fun_jaxpr"))
    body = getattr(body, "jaxpr", body)
    if body is None or len(body.outvars) != 1 or not _is_elementwise(body):
        return None

    def function(numbers: list[Number]) -> Number:
        return _evaluate(body, numbers)

    return function


def _inner(step: Any) -> Any:
    body = step.params.get("call_jaxpr", step.params.get("fun_jaxpr", step.params.get("jaxpr")))
    return getattr(body, "jaxpr", body)


def _is_elementwise(body: Any) -> bool:
    shape = body.outvars[0].aval.shape
    if any(variable.aval.shape not in (shape, ()) for variable in body.invars):
        return False
    for step in body.eqns:
        if any(variable.aval.shape not in (shape, ()) for variable in step.outvars):
            return False
        inner = _inner(step)
        if inner is not None:
            if not _is_elementwise(inner):
                return False
        elif (
            step.primitive.name not in zeros.ELEMENTWISE | {"broadcast_in_dim"}
            or step.primitive.name == "broadcast_in_dim"
            and step.invars[0].aval.shape
            not in (
                shape,
                (),
            )
        ):
            return False
    return True


def _evaluate(body: Any, numbers: list[Number]) -> Number:
    known = dict(zip(body.invars, numbers, strict=True))

    def number(atom: Any) -> Number:
        if isinstance(atom, core.Literal):
            return float(atom.val) if np.size(atom.val) == 1 else None
        return known.get(atom)

    for step in body.eqns:
        inner, operands = _inner(step), [number(atom) for atom in step.invars]
        if inner is not None:
            found = _evaluate(inner, operands)
        elif step.primitive.name == "broadcast_in_dim":
            found = operands[0]
        else:
            found = zeros.apply(step.primitive.name, step.params, operands)
        known[step.outvars[0]] = found
    return number(body.outvars[0])

"""What an elementwise function makes of single numbers, for a unit whose slices are all zero."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pruning_jax import tracing
from pruning_jax.tracing import Equation

Number = float | None
"""A number; ``None`` where it is not known."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "div": np.divide,
    "rem": np.fmod,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "neg": np.negative,
    "sign": np.sign,
    "abs": np.abs,
    "floor": np.floor,
    "ceil": np.ceil,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "cbrt": np.cbrt,
    "square": np.square,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "atan2": np.arctan2,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "erf": math.erf,
    "erfc": math.erfc,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "not": np.logical_not,
    "is_finite": np.isfinite,
    "clamp": lambda low, x, high: np.clip(x, low, high),
}

UNKNOWN = frozenset(["round", "erf_inv", "lgamma", "digamma", "nextafter", "real", "imag"])
"""Elementwise, with a value at zero that is not worked out."""

SAME = frozenset(
    [
        *("convert_element_type", "reduce_precision", "copy", "copy_p", "sharding_constraint"),
        *("optimization_barrier", "stop_gradient"),
    ]
)
"""Elementwise, and keeping the value."""

ELEMENTWISE = frozenset([*FUNCTIONS, *UNKNOWN, *SAME, "mul", "integer_pow", "select_n"])


def apply(name: str, params: Mapping[str, Any], numbers: Sequence[Number]) -> Number:
    """The result of an elementwise primitive on numbers; NaN where it is not finite.

    A product with zero is zero whatever the other factor where that is not known.
    """
    if name in SAME:
        return numbers[0]
    if any(number is not None and math.isnan(number) for number in numbers):
        return math.nan
    if name == "mul" and 0.0 in numbers and None in numbers:
        return 0.0
    if name == "div" and numbers[0] == 0.0 and numbers[1] is None:
        return 0.0
    if name == "select_n":
        cases = numbers[1:] if numbers[0] is None else [numbers[1 + int(numbers[0])]]
        return cases[0] if len(set(cases)) == 1 else None
    if None in numbers or name in UNKNOWN:
        return None
    with np.errstate(all="ignore"):
        if name == "mul":
            result = numbers[0] * numbers[1]
        elif name == "integer_pow":
            result = np.float64(numbers[0]) ** params["y"]
        else:
            result = FUNCTIONS[name](*map(np.float64, numbers))
    return float(result) if math.isfinite(result) else math.nan


def body_of(equation: Equation) -> Callable[[list[Number]], Number] | None:
    """The function of single numbers that the body of a call is; ``None`` where it is not one."""
    body = equation.params.get("call_jaxpr", equation.params.get("fun_jaxpr"))
    body = getattr(body, "jaxpr", body)
    if body is None or len(body.outvars) != 1 or not is_elementwise(body):
        return None

    def function(numbers: list[Number]) -> Number:
        return _evaluate(body, numbers)

    return function


def inner(params: Mapping[str, Any]) -> Any:
    """The body of a call, with its constants where it has any; ``None`` for what is no call."""
    return params.get("call_jaxpr", params.get("fun_jaxpr", params.get("jaxpr")))


def is_elementwise(body: Any) -> bool:
    """Whether all that a jaxpr does is elementwise, on arrays of one shape and on numbers."""
    body = getattr(body, "jaxpr", body)
    shape = body.outvars[0].aval.shape
    if any(variable.aval.shape not in (shape, ()) for variable in body.invars):
        return False
    for step in body.eqns:
        if any(variable.aval.shape not in (shape, ()) for variable in step.outvars):
            return False
        within = inner(step.params)
        if within is not None:
            if not is_elementwise(within):
                return False
        elif (
            step.primitive.name not in ELEMENTWISE | {"broadcast_in_dim"}
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
        if tracing.is_literal(atom):
            return float(atom.val) if np.size(atom.val) == 1 else None
        return known.get(atom)

    for step in body.eqns:
        within, operands = inner(step.params), [number(atom) for atom in step.invars]
        if within is not None:
            result = _evaluate(getattr(within, "jaxpr", within), operands)
        elif step.primitive.name == "broadcast_in_dim":
            result = operands[0]
        else:
            result = apply(step.primitive.name, step.params, operands)
        known[step.outvars[0]] = result
    return number(body.outvars[0])

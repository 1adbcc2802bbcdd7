"""What an elementwise function makes of single numbers, for a unit whose slices are all zero."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

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
    "logistic": special.expit,
    "erf": special.erf,
    "erfc": special.erfc,
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
    if not all(number is None or math.isfinite(number) for number in numbers):
        return math.nan
    if name == "mul" and 0.0 in numbers:
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
            found = numbers[0] * numbers[1]
        elif name == "integer_pow":
            found = np.float64(numbers[0]) ** params["y"]
        else:
            found = FUNCTIONS[name](*map(np.float64, numbers))
    return float(found) if math.isfinite(found) else math.nan

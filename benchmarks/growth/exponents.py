"""How a cost grows with a size: the exponent over a range, and at the range's upper end."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95


class Exponent(NamedTuple):
    """An exponent k of cost ~ size^k.

    Attributes:
      value: the estimate.
      low, high: its interval; not numbers where nothing is left to estimate it from.
    """

    value: float
    low: float
    high: float


def fit(sizes: Sequence[float], costs: Sequence[float]) -> Exponent:
    """The exponent over a whole range: a straight line through log size and log cost.

        log cost = c + k log size, by least squares; interval by Student's t

    What is fixed bends the line: k is then less than what it tends to, and the interval is wide,
    as the bend counts as error. `at_upper_end` shows where it tends to.

    Args:
      sizes: positive, at least two different ones.
      costs: positive, one of each size: for timings the medians over turns.

    Raises:
      ValueError: sizes or costs that are not positive or not as many; fewer than two sizes.
    """
    sizes, costs = (np.asarray(each, np.float64) for each in (sizes, costs))
    _check(sizes, costs)
    line = stats.linregress(np.log(sizes), np.log(costs))
    if len(sizes) < 3:
        return Exponent(float(line.slope), math.nan, math.nan)
    half = stats.t.ppf((1 + LEVEL) / 2, len(sizes) - 2) * line.stderr
    return Exponent(float(line.slope), float(line.slope - half), float(line.slope + half))


def at_upper_end(sizes: Sequence[float], turns: Sequence[Sequence[float]]) -> Exponent:
    """The exponent between the two largest sizes: median, least and most over the turns.

        k = log(cost_n / cost_m) / log(n / m)  in every turn, for the largest n and the next m

    Args:
      sizes: positive, ascending.
      turns: of every size its costs, one a turn; those of one turn were taken next to each other.

    Raises:
      ValueError: sizes or costs that are not positive or not as many; fewer than two sizes.
    """
    for costs in zip(*turns, strict=True):
        _check(np.asarray(sizes, np.float64), np.asarray(costs, np.float64))
    step = math.log(sizes[-1] / sizes[-2])
    found = [math.log(b / a) / step for a, b in zip(turns[-2], turns[-1], strict=True)]
    return Exponent(statistics.median(found), min(found), max(found))


def _check(sizes: np.ndarray, costs: np.ndarray) -> None:
    if sizes.shape != costs.shape or sizes.ndim != 1:
        raise ValueError(f"sizes have shape {sizes.shape} and costs {costs.shape}; give one a size")
    if len(np.unique(sizes)) < 2:
        raise ValueError(f"sizes are {sizes.tolist()}; an exponent needs two that differ")
    for name, values in (("sizes", sizes), ("costs", costs)):
        if not (values > 0).all() or not np.isfinite(values).all():
            raise ValueError(f"{name} are {values.tolist()}; they must be positive and finite")

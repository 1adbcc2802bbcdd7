"""The rows of the pruning-mechanism study as arrays: curves of utility, barriers, surfaces."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pruning_jax.measurements import Row, where

LAST = "last"
"""The epoch of a network at the end of its training."""

Curve = Mapping[float, float]
"""A share of weights -> a moment of utility."""


class Surface(NamedTuple):
    """A quantity over a plane in parameter space.

    Attributes:
      x: along the first direction, shape (columns,).
      y: along the second direction, shape (rows,).
      values: shape (rows, columns), not a number where a block has no row.
    """

    x: np.ndarray
    y: np.ndarray
    values: np.ndarray


def along_training(rows: Iterable[Row], ratio: float, quantity: str) -> dict[int, float]:
    """Epoch -> a quantity of the dense network's utilities, in the order of the epochs.

    Args:
      rows: of one seed.
      ratio: the share of weights that a subset holds.
      quantity: a column of phase ``utility``, for example "std".
    """
    found = where(rows, phase="utility", network="dense", among=1.0, ratio=ratio)
    epochs = {row["epoch"]: float(row[quantity]) for row in found if row["epoch"] != LAST}
    return dict(sorted(epochs.items()))


def by_ratio(rows: Iterable[Row], quantity: str, **network: object) -> dict[float, float]:
    """Share of a network's own weights -> a quantity of its utilities at the end of its training.

    Args:
      rows: of one seed.
      quantity: a column of phase ``utility``.
      **network: the columns that name it: network, density, and schedules or among where several
        differ in them alone; among is 1 where it is not given.
    """
    columns = {"among": 1.0} | network
    found = where(rows, phase="utility", epoch=LAST, **columns)
    return dict(sorted((row["ratio"], float(row[quantity])) for row in found))


def by_number(curve: Curve, density: float) -> dict[float, float]:
    """A `by_ratio` curve against the number of weights, as a share of the dense network's."""
    return {round(ratio * density, 12): value for ratio, value in curve.items()}


def distance(first: Sequence[Curve], second: Sequence[Curve], shares: Iterable[float]) -> float:
    """How far apart the curves of two networks lie, in [0, 2].

    mean_{m, s}(|a_ms - b_ms| / ((a_ms + b_ms) / 2)), m the moments, s the shares of weights; a pair
    of zeros counts as 0

    Args:
      first: a curve for each moment, none negative.
      second: the other network's curves, in the same order.
      shares: where they are compared.

    Raises:
      LookupError: a curve does not reach a share.
      ValueError: a value that is negative or not finite.
    """
    gaps = []
    for one, other in zip(first, second, strict=True):
        for share in shares:
            a, b = _at(one, share), _at(other, share)
            gaps.append(2 * abs(a - b) / (a + b) if a + b else 0.0)
    return float(np.mean(gaps))


def _at(curve: Curve, share: float) -> float:
    near = [value for key, value in curve.items() if np.isclose(key, share, rtol=1e-6, atol=0)]
    if not near:
        reached = ", ".join(f"{key:g}" for key in curve)
        raise LookupError(f"no utility at a share of {share:g}; there are {reached or 'none'}")
    if not 0 <= near[0] < np.inf:
        raise ValueError(f"a utility at a share of {share:g} is {near[0]}; mend that run first")
    return near[0]


def accuracy_range(row: Row) -> float:
    """Largest less least accuracy over random subsets, in pp; a row of phase ``utility``."""
    return 100 * (row["accuracy_maximum"] - row["accuracy_minimum"])


def random_cost(row: Row) -> float:
    """The mean accuracy that random ablation costs, in pp; a row of phase ``utility``."""
    return 100 * (row["unablated_accuracy"] - row["accuracy_mean"])


def band_costs(row: Row) -> np.ndarray:
    """The accuracy that each band of magnitudes costs, in pp, the smallest weights first."""
    return 100 * (row["unablated_accuracy"] - np.array(row["accuracy"], dtype=float))


def barrier(positions: ArrayLike, accuracies: ArrayLike) -> float:
    """How far accuracy falls below the straight line between the ends of a path.

    max_i(0, (1 - t_i) a_first + t_i a_last - a_i), t the position on the way from first to last

    Args:
      positions: increasing or decreasing, shape (points,), at least 2.
      accuracies: shape (points,).

    Returns:
      The barrier in the accuracies' unit, never negative.

    Raises:
      ValueError: shapes that differ, fewer than 2 points, positions that go back or stand still, or
        a value that is not finite.

    Source: Frankle et al., arXiv 1912.05671, section 2, with the line in place of the mean of the
      ends.
    """
    t, a = np.asarray(positions, dtype=float), np.asarray(accuracies, dtype=float)
    if t.shape != a.shape or t.ndim != 1 or t.size < 2:
        raise ValueError(
            f"positions has shape {t.shape} and accuracies {a.shape}; both must be (points,), at "
            "least 2"
        )
    if not (np.isfinite(t).all() and np.isfinite(a).all()):
        raise ValueError("a path holds a value that is not finite; mend that run first")
    if len({*np.sign(np.diff(t))}) != 1 or t[0] == t[1]:
        raise ValueError(f"positions are {t.tolist()}; they must go one way")
    share = (t - t[0]) / (t[-1] - t[0])
    return max(0.0, float((a[0] + share * (a[-1] - a[0]) - a).max()))


def path_barrier(row: Row) -> float:
    """The `barrier` of a row of phase ``path``, in pp."""
    return 100 * barrier(row["positions"], row["accuracy"])


def compression(row: Row) -> float:
    """Prunable weights / those that remain, of a network's row."""
    return row["prunable"] / (row["prunable"] - row["removed"])


def surface(rows: Iterable[Row], plane: Row, quantity: str, moments: str) -> Surface:
    """A surface over a plane, as far as its blocks have been measured.

    Args:
      rows: of ``results.jsonl``.
      plane: a row of phase ``plane``.
      quantity: "loss" or "accuracy".
      moments: "kept" or "estimated": the statistics of batch normalisation.
    """
    x, y = (np.array(plane[axis], dtype=float) for axis in ("x", "y"))
    grid = np.full((len(y), len(x)), np.nan)
    same = {name: plane[name] for name in ("workload", "seed", "arm", "regime")}
    for row in where(rows, phase="surface", moments=moments, **same):
        grid[row["block"]] = row[quantity]
    return Surface(x, y, grid)

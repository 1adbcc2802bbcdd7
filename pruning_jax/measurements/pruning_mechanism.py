"""The rows of the pruning-mechanism study as arrays: curves of utility, barriers, surfaces."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

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


def path_barrier(row: Row) -> float:
    """How far accuracy falls below the straight line between a path's ends, in pp: its barrier.

    max_i(0, (1 - t_i) a_first + t_i a_last - a_i), t from 0 to 1

    Raises:
      ValueError: a value that is not finite.

    Source: Frankle et al. (2020), "error barrier", with the line in place of the ends' mean.
    """
    t, a = (np.array(row[column], dtype=float) for column in ("positions", "accuracy"))
    if not (np.isfinite(t).all() and np.isfinite(a).all()):
        raise ValueError("a path holds a value that is not finite; mend that run first")
    return 100 * max(0.0, float((np.interp(t, t[[0, -1]], a[[0, -1]]) - a).max()))


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

"""Rows of seeds as curves: means with intervals, straight paths, pooled histograms."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pruning_jax.analysis.statistics import mean_interval
from pruning_jax.measurements import Row


def interval(values: ArrayLike) -> tuple[float, float, float]:
    """The mean over seeds and the ends of its 95 % interval, which of one seed are its value."""
    sample = np.asarray(values, dtype=float)
    return (float(sample[0]),) * 3 if sample.size == 1 else mean_interval(sample)


def at_each(rows: Iterable[Row], place: str, column: str) -> dict[Any, list[float]]:
    """A column's values at each value of another one, in its order; what is not finite is left out.

    Args:
      rows: one a seed and place.
      place: the column that says where, such as ``ratio``.
      column: of numbers.
    """
    found: dict[Any, list[float]] = {}
    for row in sorted(rows, key=lambda row: row[place]):
        if math.isfinite(row[column]):
            found.setdefault(row[place], []).append(row[column])
    return found


def along(paths: Sequence[Row], column: str) -> tuple[np.ndarray, np.ndarray]:
    """The values on straight paths, a path a seed.

    Args:
      paths: rows of phase ``path``; those with other positions than the first are left out, and
        so are those that are not finite.
      column: ``loss`` or ``accuracy``.

    Returns:
      Positions, shape (positions,), and values, shape (seeds, positions).
    """
    positions = paths[0]["positions"]
    same = [row[column] for row in paths if row["positions"] == positions]
    values = np.array([of for of in same if np.isfinite(of).all()], dtype=float)
    return np.array(positions, dtype=float), values.reshape(-1, len(positions))


def pooled(
    histograms: Sequence[Mapping[str, Sequence[float]]], bins: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    """Histograms with bins of their own as one, each weighing the same.

    Within a bin of its own, a histogram's values are taken to lie evenly.

    Args:
      histograms: ``counts`` and ``edges`` each.
      bins: of the result, which spans all of them.

    Returns:
      Shares, shape (bins,), that add up to one, and edges, shape (bins + 1,).
    """
    low = min(one["edges"][0] for one in histograms)
    high = max(one["edges"][-1] for one in histograms)
    edges = np.linspace(low, high, bins + 1) if low < high else low + np.array([-0.5, 0.5])
    shares = [np.diff(_below(one, edges)) for one in histograms if sum(one["counts"])]
    return np.mean(shares, axis=0) if shares else np.zeros(len(edges) - 1), edges


def _below(histogram: Mapping[str, Sequence[float]], at: np.ndarray) -> np.ndarray:
    """The share of a histogram's values below each point."""
    counts, edges = np.asarray(histogram["counts"], float), np.asarray(histogram["edges"], float)
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    if edges[0] == edges[-1]:
        return (at > edges[0]).astype(float)
    return np.interp(at, edges, below)

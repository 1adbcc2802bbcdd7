"""The rows of the pruning-mechanism study as arrays: barriers and surfaces."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pruning_jax.measurements import Row, where

LAST = "last"
"""The epoch of a network at the end of its training."""


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

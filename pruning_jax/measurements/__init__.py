"""The rows of ``results.jsonl``, one measurement each: selected, grouped, reduced to loss gaps."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pruning_jax.lab import tables

_ABSENT = object()

Row = Mapping[str, Any]
Choice = Mapping[tuple, float]
"""(epoch, criterion, stages) -> a step penalty."""


def where(rows: Iterable[Row], **columns: Any) -> list[Row]:
    """The rows that carry every given value."""
    return [row for row in rows if all(row.get(name) == value for name, value in columns.items())]


def rows_of(rows: Iterable[Row], jobs: Iterable[Row]) -> list[Row]:
    """The one row of each job, which may be named by some of its values.

    Raises:
      LookupError: a job has no row.
    """
    rows, by_names, found = list(rows), {}, []
    for job in jobs:
        names = tuple(job)
        if names not in by_names:
            by_names[names] = {}
            for row in rows:
                by_names[names].setdefault(tuple(row.get(name, _ABSENT) for name in names), row)
        row = by_names[names].get(tuple(job.values()))
        if row is None:
            raise LookupError(f"no row for {tables.name(job)}")
        found.append(row)
    return found


def values(rows: Iterable[Row], column: str) -> list:
    """The different values of a column, in order."""
    return sorted({row[column] for row in rows})


def loss_gaps(rows: Iterable[Row]) -> list[float]:
    """|loss after pruning - loss before| of prunings, in nats."""
    return [abs(row["penalty"]) for row in rows]


def loss_gaps_by(rows: list[Row], column: str) -> dict[Any, list[float]]:
    """The loss gaps of prunings at each value of a column."""
    different = dict.fromkeys(row[column] for row in rows)
    return {value: loss_gaps(where(rows, **{column: value})) for value in different}


def fine_tuned(rows: list[Row]) -> dict[str, list[tuple[float, float]]]:
    """Criterion -> the loss gap before fine-tuning and the error gap after it of every seed.

    Args:
      rows: of one workload, of all phases; those without their counterparts are left out.

    Returns:
      Pairs of loss gap, in nats, and validation error less the dense network's, in pp.
    """
    dense = {row["seed"]: row["validation_accuracy"] for row in where(rows, phase="pretrained")}
    same = ("seed", "criterion", "sparsity", "stages", "step_penalty", "epoch")
    points: dict[str, list[tuple[float, float]]] = {}
    for row in where(rows, phase="retrained"):
        before = where(rows, phase="pruned", **{column: row[column] for column in same})
        if before and row["seed"] in dense:
            error_gap = 100 * (dense[row["seed"]] - row["validation_accuracy"])
            pairs = points.setdefault(row["criterion"], [])
            pairs.append((loss_gaps(before)[0], error_gap))
    return points


def best_penalties(pruned: Iterable[Row]) -> Choice:
    """The step penalty of the lowest mean loss gap, for each epoch, criterion and stages."""
    groups: dict[tuple, list[Row]] = {}
    for row in pruned:
        groups.setdefault(_pruning(row), []).append(row)
    by_penalty = {unit: loss_gaps_by(group, "step_penalty") for unit, group in groups.items()}
    return {
        unit: min(gaps, key=lambda penalty, gaps=gaps: np.mean(gaps[penalty]))
        for unit, gaps in by_penalty.items()
    }


def at_penalties(pruned: Iterable[Row], choice: Choice) -> list[Row]:
    """The prunings at the chosen step penalty, which is zero where none was chosen."""
    return [row for row in pruned if row["step_penalty"] == choice.get(_pruning(row), 0.0)]


def invariant(pruned: Iterable[Row]) -> bool:
    """Whether a criterion ran at one stage without penalty alone, where others change nothing."""
    return {(row["stages"], row["step_penalty"]) for row in pruned} == {(1, 0.0)}


def _pruning(row: Row) -> tuple:
    return row["epoch"], row["criterion"], row["stages"]

"""The rows of the mean-replacement study as arrays: penalties, profiles' areas, units selected."""

from collections.abc import Iterable, Sequence

import numpy as np

from pruning_jax.measurements import Row, where
from pruning_jax.measurements.profiles import areas

REPLACEMENTS = ("zero", "mean")
"""A removed unit alone, and with its mean folded into what follows."""

Method = tuple[str, str]
"""Criterion and replacement."""


def comparable(rows: Iterable[Row]) -> list[Row]:
    """The settings, rows of phase ``probed``, in which a unit was removed, that tell methods apart.

    Their penalties are all finite and not all the same.
    """
    found = []
    for row in where(rows, phase="probed"):
        costs = [cost for both in row["penalty"].values() for cost in both.values()]
        removed = any(row["removed"].values())
        if removed and np.isfinite(costs).all() and len(set(costs)) > 1:
            found.append(row)
    return found


def methods(rows: Iterable[Row]) -> list[Method]:
    """Every criterion of probed rows with each replacement."""
    criteria = dict.fromkeys(criterion for row in rows for criterion in row["penalty"])
    return [(criterion, replacement) for criterion in criteria for replacement in REPLACEMENTS]


def penalties(rows: Sequence[Row]) -> dict[Method, np.ndarray]:
    """Loss after pruning - loss before, in nats: each method's, shape (rows,).

    Raises:
      LookupError: a row lacks a criterion that another one has.
    """
    return {
        (criterion, replacement): np.array(
            [row["penalty"][criterion][replacement] for row in rows], dtype=float
        )
        for criterion, replacement in methods(rows)
    }


def method_areas(rows: Sequence[Row]) -> dict[Method, float]:
    """The area under each method's performance profile over the settings of the rows.

    Raises:
      LookupError: as `penalties` does.
      ValueError: as `profiles.areas` does.
    """
    costs = penalties(rows)
    return dict(zip(costs, areas([*costs.values()]).tolist(), strict=True)) if costs else {}


def fine_tuned_pairs(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Fine-tuned networks whose units were removed alone, with those that had means folded."""
    same = ("workload", "seed", "step", "layers", "fraction", "criterion")
    pairs: dict[tuple, dict[str, Row]] = {}
    for row in where(rows, phase="fine_tuned"):
        pairs.setdefault(tuple(row[name] for name in same), {})[row["replacement"]] = row
    return [(pair["zero"], pair["mean"]) for pair in pairs.values() if len(pair) == 2]


def ever_selected(rows: Iterable[Row], size: int) -> dict[str, np.ndarray]:
    """The share of a layer's units selected so far, at each step.

    Args:
      rows: of phase ``selected``, of one seed.
      size: units of the layer.

    Returns:
      Criterion -> shares, shape (steps,), in the order of the steps.
    """
    shares: dict[str, list[float]] = {}
    seen: dict[str, set[int]] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        for criterion, units in row["units"].items():
            seen.setdefault(criterion, set()).update(units)
            shares.setdefault(criterion, []).append(len(seen[criterion]) / size)
    return {criterion: np.array(found) for criterion, found in shares.items()}


def layer_size(rows: Iterable[Row], **columns: object) -> int | None:
    """The units of the layer that an ``activations`` row with these columns tells of."""
    found = where(rows, phase="activations", **columns)
    return len(found[0]["mean_square"]) if found else None

"""The pruning-mechanism study's accuracies as Markdown, beside what S0 published."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pruning_jax.measurements import Row, where
from pruning_jax.studies.pruning_mechanism.claims import NETWORKS
from pruning_jax.studies.pruning_mechanism.published import PUBLISHED, REGIMES

__all__ = ["beside_published"]

HEADER = (
    "network",
    "pruned",
    "retrained by",
    "weights kept (%)",
    "validation accuracy (%)",
    "place",
    "published, ResNet-20 (%)",
    "place",
    "seeds",
)


def beside_published(rows: Iterable[Row], workloads: Mapping[str, Mapping[str, Any]]) -> str:
    """Validation accuracies where regimes are compared, beside S0's Table 1, as Markdown.

    Means over seeds with their standard deviations. The place is that of a regime among those of
    its arm, the most accurate first; it is blank until all of them have the same seeds. What has
    not run yet is left blank.

    Args:
      rows: of ``results.jsonl``, as many as there are.
      workloads: the config's, name -> values; one without arms has no lines.

    Returns:
      A table; for each workload the dense network first, then a line a regime of every arm,
      those of the paper first.
    """
    rows, lines = list(rows), []
    for name, values in workloads.items():
        if values.get("arms"):
            own = where(rows, workload=name, phase="network")
            label = NETWORKS.get(name, name)
            lines.append((label, "nothing", "", *_measured(where(own, network="dense"))))
            for arm in sorted(values["arms"], key=_published_first):
                lines += [(label, *line) for line in _arm(own, arm, values["arms"][arm])]
    return _markdown(HEADER, lines)


def _published_first(arm: str) -> int:
    return [*PUBLISHED].index(arm) if arm in PUBLISHED else len(PUBLISHED)


def _arm(rows: list[Row], name: str, arm: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The cells of each regime, but the first one."""
    cycle, paper = arm["compared"], PUBLISHED.get(name, {})
    at = {"network": "cycle", "arm": name, "cycle": cycle}
    found = {regime: where(rows, regime=regime, **at) for regime in arm["regimes"]}
    seeds = [{row["seed"] for row in own} for own in found.values()]
    paired = all(seeds) and all(of == seeds[0] for of in seeds)
    means = {regime: np.mean(_accuracies(own)) for regime, own in found.items() if paired}
    published = {regime: paper[regime] for regime in found if regime in paper}
    pruned = f"{arm['prunes']}, {100 * arm['share']:g} % in each of {cycle} cycles"
    for regime, own in found.items():
        theirs = f"{published[regime]:.3f}" if regime in published else ""
        places = _place(means, regime), theirs, _place(published, regime)
        yield pruned, REGIMES.get(regime, regime.replace("_", " ")), *_measured(own, places)


def _measured(rows: list[Row], places: Sequence[str] = ("", "", "")) -> tuple[str, ...]:
    """The cells that rows fill, around those of places and published figures."""
    if not rows:
        return "", "", *places, "0"
    kept = 100 * np.mean([1 - row["removed"] / row["prunable"] for row in rows])
    accuracies = _accuracies(rows)
    spread = f" ± {np.std(accuracies, ddof=1):.2f}" if len(accuracies) > 1 else ""
    return f"{kept:.3g}", f"{np.mean(accuracies):.2f}{spread}", *places, str(len(accuracies))


def _accuracies(rows: list[Row]) -> list[float]:
    return [100 * row["validation_accuracy"] for row in rows]


def _place(values: Mapping[str, float], name: str) -> str:
    """One more than how many values are larger."""
    return str(1 + sum(value > values[name] for value in values.values())) if name in values else ""


def _markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)

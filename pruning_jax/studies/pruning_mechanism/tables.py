"""The pruning-mechanism study's accuracies as Markdown, beside what S0 published."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pruning_jax.measurements import Row, where
from pruning_jax.studies.pruning_mechanism.claims import LABELS, PUBLISHED, REGIMES, compression
from pruning_jax.studies.questions import column, markdown, spread

HEADER = (
    *("network", "pruned", "retrained by", "weights kept (%)", "validation accuracy (%)", "place"),
    *("published, ResNet-20 (%)", "place", "seeds"),
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
    for name, of in workloads.items():
        arms, own = of.get("arms") or {}, where(rows, workload=name, phase="network")
        label = LABELS.get(name, name)
        if arms:
            lines.append((label, "nothing", "", *_cells(where(own, network="dense"))))
        for arm in sorted(arms, key=lambda arm: [*PUBLISHED, arm].index(arm)):
            lines += [(label, *line) for line in _arm(own, arm, arms[arm])]
    return markdown(HEADER, lines)


def _arm(rows: list[Row], name: str, arm: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The cells of each regime, but the first one."""
    at = {"network": "cycle", "arm": name, "cycle": arm["compared"]}
    found = {regime: where(rows, regime=regime, **at) for regime in arm["regimes"]}
    seeds = [{row["seed"] for row in own} for own in found.values()]
    paired = all(seeds) and all(of == seeds[0] for of in seeds)
    ours = {r: column(own, "validation_accuracy").mean() for r, own in found.items() if paired}
    theirs = {r: of for r, of in PUBLISHED.get(name, {}).items() if r in found}
    pruned = f"{arm['prunes']}, {100 * arm['share']:g} % in each of {arm['compared']} cycles"
    for regime, own in found.items():
        published = f"{theirs[regime]:.3f}" if regime in theirs else ""
        places = _place(ours, regime), published, _place(theirs, regime)
        yield pruned, REGIMES.get(regime, regime.replace("_", " ")), *_cells(own, places)


def _cells(rows: list[Row], places: Sequence[str] = ("", "", "")) -> tuple[str, ...]:
    """The cells that rows fill, around those of places and published figures."""
    if not rows:
        return "", "", *places, "0"
    kept = 100 * np.mean([1 / compression(row) for row in rows])
    accuracies = 100 * column(rows, "validation_accuracy")
    return f"{kept:.3g}", spread(accuracies), *places, str(len(rows))


def _place(found: Mapping[str, float], name: str) -> str:
    """One more than how many values are larger."""
    return str(1 + sum(value > found[name] for value in found.values())) if name in found else ""

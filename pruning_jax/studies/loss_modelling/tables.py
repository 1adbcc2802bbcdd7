"""The loss-modelling study's results as Markdown: beside what S3 published, and as verdicts."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from pruning_jax import measurements
from pruning_jax.measurements import Row, where
from pruning_jax.studies.loss_modelling.published import ABBREVIATIONS, LABELS, METHODS, PUBLISHED
from pruning_jax.studies.questions import verdicts

__all__ = ["beside_published", "verdicts"]

HEADER = (
    "network",
    "criterion",
    "loss gap (nats)",
    "published",
    "error gap after fine-tuning (pp)",
    "published",
    "seeds",
)


def beside_published(rows: Iterable[Row], tuning_seeds: Mapping[str, Collection[int]]) -> str:
    """Means over the test seeds with their standard deviations, beside S3's Tables 1 and 2.

    Loss gaps are at the largest number of stages with the selected step penalty, error gaps at the
    selected stages and step penalty; what has not run yet is left blank.

    Args:
      rows: of ``results.jsonl``.
      tuning_seeds: workload -> the seeds that selected hyper-parameters.
    """
    rows, lines = list(rows), []
    for workload in measurements.values(rows, "workload"):
        found, tuning = where(rows, workload=workload), tuning_seeds.get(workload, ())
        test = [row for row in found if row["seed"] not in tuning]
        gaps = _loss_gaps(found, test, tuning)
        errors = measurements.fine_tuned(test)
        paper = PUBLISHED.get(workload, {})
        for criterion in METHODS:
            cells = (
                LABELS.get(workload, workload),
                ABBREVIATIONS[criterion],
                _mean(gaps.get(criterion, [])),
                _published(paper, "loss_gap", criterion),
                _mean([error for _, error in errors.get(criterion, [])]),
                _published(paper, "error_gap", criterion),
                str(len(gaps.get(criterion, []))),
            )
            lines.append(cells)
    return _markdown(HEADER, lines)


def _loss_gaps(
    rows: list[Row], test: list[Row], tuning: Collection[int]
) -> dict[str, Sequence[float]]:
    """The loss gaps of each criterion on the test seeds, at its largest number of stages."""
    pruned = where(rows, phase="pruned", epoch="best")
    tuned = [row for row in pruned if row["seed"] in tuning] or pruned
    choice = measurements.best_penalties(tuned)
    chosen = measurements.at_penalties(where(test, phase="pruned", epoch="best"), choice)
    gaps = {}
    for criterion in METHODS:
        by_stages = measurements.loss_gaps_by(where(chosen, criterion=criterion), "stages")
        if by_stages:
            gaps[criterion] = by_stages[max(by_stages)]
    return gaps


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}" if len(values) else ""


def _published(paper: Mapping, figure: str, criterion: str) -> str:
    return "{:.2f} ± {:.2f}".format(*paper[figure][criterion]) if paper else ""


def _markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)

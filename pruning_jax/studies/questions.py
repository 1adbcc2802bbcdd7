"""A paper's questions put to a study's rows: what is claimed, and how a verdict is found.

The unit is the seed, and methods are compared on the same seeds.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from pruning_jax.analysis import statistics
from pruning_jax.analysis.claims import LEVEL, Claim, paired_order
from pruning_jax.analysis.statistics import Alternative, Interval
from pruning_jax.measurements import Row
from pruning_jax.studies.workloads import Workload

LEAST_CONTROL = 2.0
"""The least accuracy, in pp, that random pruning must cost; below it a setting is saturated."""


class Finding(NamedTuple):
    """What the numbers of a claim say; the fields are those of `Claim`."""

    verdict: str
    note: str
    n: int
    estimate: float | None = None
    ci: tuple[float, float] | None = None
    p_value: float | None = None


class Question(NamedTuple):
    """A claim before it is decided.

    Attributes:
      statement: what is claimed.
      source: the place in the paper.
      published: the workload -> the paper's figures, as text.
      find: the rows and workload -> the finding.
      controlled: whether random pruning must cost accuracy for the rows to say anything.
    """

    statement: str
    source: str
    published: Callable[[Workload], str]
    find: Callable[[list[Row], Workload], Finding]
    controlled: bool = True


class Control(NamedTuple):
    """What tells whether a setting is saturated.

    Attributes:
      cost: the rows and workload -> the accuracy that random pruning costs, in pp.
      remark: what else every note says.
    """

    cost: Callable[[list[Row], Workload], float]
    remark: str = ""


def decide(
    questions: Mapping[str, Question],
    rows: list[Row],
    workload: Workload,
    label: str,
    control: Control,
) -> list[Claim]:
    """Decides each question from a workload's rows.

    Args:
      questions: the claims' codes -> the claims.
      rows: of the workload, as many as there are.
      workload: what ran.
      label: what the workload is called in the table of claims.
      control: of the questions that need one.

    Returns:
      A claim for each question: "not tested" where a finding raises `LookupError`, because rows
      are missing; "inconclusive" where it raises `ValueError`, or where the setting is saturated.

    Source: PAPERS.md, sections 3 and 4.
    """
    return [
        Claim(
            id=id,
            statement=question.statement,
            source=question.source,
            workload=label,
            published=question.published(workload),
            **_found(question, rows, workload, control)._asdict(),
        )
        for id, question in questions.items()
    ]


def _found(question: Question, rows: list[Row], workload: Workload, control: Control) -> Finding:
    try:
        cost = control.cost(rows, workload) if question.controlled else None
        finding = question.find(rows, workload)
    except LookupError as error:
        return Finding("not tested", str(error), 0)
    except ValueError as error:
        return Finding("inconclusive", str(error), len(workload.seeds))
    if cost is None:
        return finding
    control_text = f"control: random pruning costs {cost:.1f} pp"
    note = "; ".join(filter(None, (finding.note, control.remark, control_text)))
    if cost < LEAST_CONTROL:
        note += f", less than {LEAST_CONTROL:g}: saturated"
        return finding._replace(verdict="inconclusive", note=note)
    return finding._replace(note=note)


def ordered(
    pairs: dict[str, np.ndarray],
    differences: str = "differences in nats",
    *,
    alternative: Alternative = "less",
    allowed: float = 0.0,
) -> Finding:
    """The finding on paired differences that a claim says lie on one side of zero.

    Args:
      pairs: a label -> one difference a seed.
      differences: what they are, for the note.
      alternative: the side of zero that the claim names.
      allowed: the excess that the first pair is granted.

    Returns:
      The verdict of `claims.paired_order`, with the mean difference of the deciding pair.
    """
    first = next(iter(pairs))
    order = paired_order(pairs | {first: pairs[first] - allowed}, alternative=alternative)
    n, label = order.n, order.deciding.label
    intervals = {name: statistics.mean_interval(values) for name, values in pairs.items()}
    shown = [
        f"{test.label}: {text(intervals[test.label])}, p = {test.p_value:.2g}"
        for test in order.tests
    ]
    decides = f", {label} decides" if len(pairs) > 1 else ""
    note = f"{differences}{decides}: {'; '.join(shown)}"
    if len(pairs) / 2**n >= LEVEL:
        note += f"; no {len(pairs)} tests on {n} seeds can reach p < {LEVEL:g}"
    mean, low, high = intervals[label]
    return Finding(order.verdict, note, n, mean, (low, high), order.deciding.p_value)


def verdicts(claims: Iterable[Claim]) -> str:
    """Every claim as a paragraph of Markdown: its verdict, our figure, and what decided it."""
    paragraphs = []
    for claim in claims:
        figure = "" if claim.estimate is None else f" Ours: {claim.estimate:.3g}"
        if claim.ci is not None:
            figure += " [{:.3g}, {:.3g}]".format(*claim.ci)
        if claim.p_value is not None:
            figure += f", p = {claim.p_value:.2g}"
        paragraphs.append(
            f"**{claim.id}, {claim.workload}: {claim.verdict}** ({claim.n} seeds). "
            f"{claim.statement}. Published: {claim.published}.{figure and figure + '.'}\n\n"
            f"> {claim.note}"
        )
    return "\n\n".join(paragraphs)


def qualitative(workload: Workload) -> str:
    """What a paper published where it gave no figures."""
    return "qualitative"


def text(interval: Interval) -> str:
    """An estimate and its interval in words."""
    return "{:.3g} [{:.3g}, {:.3g}]".format(*interval)

"""A paper's questions put to a study's rows: what is claimed, and how a verdict is found.

The unit is the seed, and methods are compared on the same seeds.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from pruning_jax.analysis import claims, statistics
from pruning_jax.analysis.claims import Claim, Gate, Part
from pruning_jax.analysis.statistics import Interval
from pruning_jax.measurements import Row
from pruning_jax.studies.workloads import Workload


class Finding(NamedTuple):
    """What the rows say on a claim.

    Attributes:
      parts: the statements that it is made of.
      here: our figures, in the paper's quantity and unit.
      gates: what else the rows must meet for this claim.
      note: what a reader needs in order not to misread them.
    """

    parts: tuple[Part, ...]
    here: str
    gates: tuple[Gate, ...] = ()
    note: str = ""


class Question(NamedTuple):
    """A claim before it is decided.

    Attributes:
      statement: what is claimed.
      source: the place in the paper.
      published: the paper's figures, as text, or the workload -> them.
      unit: of the values that decide.
      find: the rows and workload -> the finding.
      formula: what is computed, in a line.
      changes: what would change the verdict, and what that costs.
      history: what was said before, and why it changed.
    """

    statement: str
    source: str
    published: str | Callable[[Workload], str]
    unit: str
    find: Callable[[list[Row], Workload], Finding]
    formula: str
    changes: str
    history: str = ""


def decide(
    questions: Mapping[str, Question],
    rows: list[Row],
    workload: Workload,
    label: str,
    fidelity: str = "proxy",
) -> list[Claim]:
    """Decides each question from a workload's rows.

    Args:
      questions: the claims' codes -> the claims.
      rows: of the workload, as many as there are.
      workload: what ran; its thresholds name the questions that were put after its rows were seen.
      label: what the workload is called in the table of claims.
      fidelity: how near the workload is to the paper's.

    Returns:
      A claim for each question, without parts where rows are missing.

    Source: PAPERS.md, sections 3 and 4.
    """
    return [
        _decided(id, question, rows, workload, label, fidelity)
        for id, question in questions.items()
    ]


def _decided(
    id: str, question: Question, rows: list[Row], workload: Workload, label: str, fidelity: str
) -> Claim:
    published = question.published
    texts = (
        id,
        question.statement,
        question.source,
        label,
        published if isinstance(published, str) else published(workload),
    )
    try:
        finding = question.find(rows, workload)
    except (LookupError, ValueError) as error:
        return Claim(*texts, "-", question.unit, (), (), fidelity, "undecided", str(error))
    gates = finding.gates
    if id in thresholds(workload).get("put_later", ()):
        gates += (claims.fresh(False),)
    if any(gate.met is False and gate.unfits for gate in gates):
        fidelity = "unfit"
    verdict = claims.verdict_of(finding.parts, gates)
    rest = (finding.here, question.unit, finding.parts, gates, fidelity, verdict, finding.note)
    return Claim(*texts, *rest)


def thresholds(workload: Workload) -> Mapping[str, object]:
    """The thresholds of a workload's claims, from its config."""
    return workload.settings.get("thresholds", {})


def verdicts(decided: Iterable[Claim]) -> str:
    """Every claim as a paragraph of Markdown: its verdict, our figures, and what decided it."""
    paragraphs = []
    for claim in decided:
        tests = [
            f"{part.label}: {text(part.interval)}, p = {part.p_value:.2g}" for part in claim.parts
        ]
        unmet = [
            f"gate not met: {gate.name}, {gate.value:.3g}"
            for gate in claim.gates
            if gate.met is False
        ]
        paragraphs.append(
            f"**{claim.id}, {claim.workload}: {claim.standing}** ({claim.n} seeds, "
            f"{claim.fidelity}). {claim.statement}. Published: {claim.published}. Here: "
            f"{claim.here}.\n\n> {'; '.join(filter(None, [*unmet, *tests, claim.note]))}"
        )
    return "\n\n".join(paragraphs)


def means(values: Mapping[str, np.ndarray], unit: str) -> str:
    """The mean of each, in its unit."""
    return f"{', '.join(f'{name} {found.mean():.3g}' for name, found in values.items())} {unit}"


def text(interval: Interval | np.ndarray) -> str:
    """An estimate and its interval in words; of values, one a seed, the mean and Student's."""
    if isinstance(interval, np.ndarray):
        interval = statistics.mean_interval(interval)
    return "{:.3g} [{:.3g}, {:.3g}]".format(*interval)

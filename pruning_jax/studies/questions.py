"""A paper's questions put to a study's rows: what is claimed, and how a verdict is found.

The unit is the seed, and methods are compared on the same seeds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pruning_jax.analysis import claims, statistics
from pruning_jax.analysis.claims import Claim, Gate, Part
from pruning_jax.analysis.statistics import Interval
from pruning_jax.lab.jobs import Lab
from pruning_jax.measurements import Row, rows_of, where
from pruning_jax.studies.workloads import Workload


class Finding(NamedTuple):
    """What the rows say on a claim.

    Attributes:
      parts: the statements that it is made of.
      here: our figures, in the paper's quantity and unit.
      gates: what else the rows must meet, beside the gates of the question.
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
      gates: the rows and workload -> what the workload must meet for any answer.
    """

    statement: str
    source: str
    published: str | Callable[[Workload], str]
    unit: str
    find: Callable[[list[Row], Workload], Finding]
    formula: str
    changes: str
    history: str = ""
    gates: tuple[Callable[[list[Row], Workload], Gate], ...] = ()


def decide(
    questions: Mapping[str, Question],
    rows: Iterable[Row],
    workload: Workload,
    label: str,
    fidelity: str = "proxy",
) -> list[Claim]:
    """Decides each question from a workload's rows.

    Args:
      questions: the claims' codes -> the claims.
      rows: of ``results.jsonl``, of any workloads, as many as there are.
      workload: what ran; its thresholds name the questions that were put after its rows were seen.
      label: what the workload is called in the table of claims.
      fidelity: how near the workload is to the paper's.

    Returns:
      A claim for each question, without parts where rows are missing.

    Source: PAPERS.md, sections 3 and 4.
    """
    own = where(rows, workload=workload.name)
    return [
        _decided(id, question, own, workload, label, fidelity) for id, question in questions.items()
    ]


def _decided(
    id: str, question: Question, rows: list[Row], workload: Workload, label: str, fidelity: str
) -> Claim:
    published = question.published
    published = published if isinstance(published, str) else published(workload)
    texts = id, question.statement, question.source, label, published
    try:
        parts, here, gates, note = question.find(rows, workload)
        gates = (*(gate(rows, workload) for gate in question.gates), *gates)
    except (LookupError, ValueError) as error:
        return Claim(*texts, "-", question.unit, (), (), fidelity, "undecided", str(error))
    if id in getattr(getattr(workload.settings, "thresholds", None), "put_later", ()):
        gates += (claims.fresh(False),)
    if any(gate.met is False and gate.unfits for gate in gates):
        fidelity = "unfit"
    verdict = claims.verdict_of(parts, gates)
    return Claim(*texts, here, question.unit, parts, gates, fidelity, verdict, note)


def each_seed(rows: Iterable[Row], workload: Workload, phase: str, **columns: object) -> list[Row]:
    """The row of each seed, in the order of the workload's seeds.

    Raises:
      LookupError: a seed has none.
    """
    own = {"phase": phase, "workload": workload.name}
    jobs = [own | {"seed": seed} | columns for seed in workload.seeds]
    return rows_of(where(rows, phase=phase, **columns), jobs)


def column(rows: Iterable[Row], name: str) -> np.ndarray:
    """A column of numbers, or of lists of them, one a row."""
    return np.array([row[name] for row in rows], dtype=float)


def accuracy(rows: Sequence[Row], split: str) -> float:
    """The mean accuracy of networks, in %."""
    return 100 * float(np.mean([row[f"{split}_accuracy"] for row in rows]))


def finite(values: np.ndarray, what: str) -> np.ndarray:
    """The values; raises `ValueError` where one is not finite."""
    if not np.isfinite(values).all():
        raise ValueError(f"{what} is {values[~np.isfinite(values)][0]}; mend that run first")
    return values


def write(lab: Lab, decided: Iterable[Claim], drawn: Mapping[str, Any]) -> None:
    """Writes claims and figures."""
    lab.run.write_claims([claims.to_dict(claim) for claim in decided])
    for name, figure in drawn.items():
        lab.run.save_figure(figure, name)


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


def spread(values: Sequence[float]) -> str:
    """The mean of seeds and their standard deviation, or nothing where there are none."""
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{deviation}" if len(values) else ""


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Lines of cells as a Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)

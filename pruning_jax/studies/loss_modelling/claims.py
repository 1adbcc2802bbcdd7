"""What the loss-modelling study decides: claims L1 to L5 of S3, from its rows."""

from collections.abc import Callable, Iterable

from pruning_jax.analysis.claims import Claim
from pruning_jax.measurements import Row
from pruning_jax.studies import questions
from pruning_jax.studies.loss_modelling import findings
from pruning_jax.studies.loss_modelling.gaps import random_cost
from pruning_jax.studies.loss_modelling.published import ABBREVIATIONS, LABELS, PUBLISHED
from pruning_jax.studies.questions import Control, Question, qualitative
from pruning_jax.studies.workloads import Workload

PUBLISHED_STAGES = 140


def decide(rows: Iterable[Row], workload: Workload) -> list[Claim]:
    """Decides the claims that a workload can speak to.

    Args:
      rows: of ``results.jsonl``, of any workloads, as many as there are.
      workload: what ran.

    Returns:
      L1 where the largest number of stages is the paper's, L2, L3, L4, and L5 where networks are
      also pruned early in training. A claim is "not tested" until every seed has its rows.

    Source: S3; PAPERS.md, sections 3 and 4.
    """
    rows = [row for row in rows if row["workload"] == workload.name]
    asked = dict(QUESTIONS)
    if max(workload.settings["stages"]) != PUBLISHED_STAGES:
        del asked["L1"]
    if not workload.settings["early_epochs"]:
        del asked["L5"]
    control = Control(random_cost, f"tuning seeds: {len(workload.settings['tuning_seeds'])}")
    label = LABELS.get(workload.name, workload.name)
    return questions.decide(asked, rows, workload, label, control)


def _published(figure: str) -> Callable[[Workload], str]:
    """The workload -> the paper's means on it, or on the networks that the paper ran."""

    def means(name: str) -> str:
        table = PUBLISHED[name][figure]
        return ", ".join(f"{ABBREVIATIONS[c]} {mean:g}" for c, (mean, _) in table.items())

    def text(workload: Workload) -> str:
        if workload.name in PUBLISHED:
            return means(workload.name)
        return "; ".join(f"{LABELS[name]}: {means(name)}" for name in PUBLISHED)

    return text


QUESTIONS = {
    "L1": Question(
        f"Loss gap after pruning in {PUBLISHED_STAGES} stages: QM <= LM < OBD < MP",
        "S3, contribution 1, Table 1",
        _published("loss_gap"),
        findings.order_of_criteria,
    ),
    "L2": Question(
        "More stages leave a smaller loss gap (LM, QM, OBD; no step penalty)",
        "S3, contribution 2",
        qualitative,
        findings.more_stages,
    ),
    "L3": Question(
        "A step penalty leaves a smaller loss gap (LM, QM, OBD; 1 stage)",
        "S3, contribution 2",
        qualitative,
        findings.step_penalty,
    ),
    "L4": Question(
        "Preserving the loss does not carry over to fine-tuned accuracy: MP, OBD, LM and QM spread "
        "less than half as far in error gap as in loss gap",
        "S3, contribution 3, Table 2",
        _published("error_gap"),
        findings.spreads,
    ),
    "L5": Question(
        "Away from convergence QM leaves a smaller loss gap than OBD, by more the earlier",
        "S3, section 1",
        lambda workload: "OBD > QM on MLP and PreActResNet-18",
        findings.early,
    ),
}
"""The claims, by their codes."""

"""What the mean-replacement study decides: claims M1 to M7 of S4, from its rows."""

from collections.abc import Callable, Iterable

from pruning_jax.analysis.claims import Claim
from pruning_jax.measurements import Row
from pruning_jax.studies import questions
from pruning_jax.studies.mean_replacement import findings
from pruning_jax.studies.mean_replacement.readings import random_cost
from pruning_jax.studies.questions import Control, Question
from pruning_jax.studies.workloads import Workload

LABELS = {
    "small_conv_cifar10": "B: Small Conv, CIFAR-10 subset",
    "medium_conv_cifar10": "Medium Conv, CIFAR-10",
    "vgg11_cifar10": "VGG-11, CIFAR-10",
}


def decide(rows: Iterable[Row], workload: Workload) -> list[Claim]:
    """Decides claims M1 to M7 for a workload.

    Args:
      rows: of ``results.jsonl``, of any workloads, as many as there are.
      workload: what ran.

    Returns:
      M1 to M4 for the loss on every split, M5 to M7 once; a claim is "not tested" until every seed
      has its rows.

    Source: S4; PAPERS.md, sections 3 and 4.
    """
    rows = [row for row in rows if row["workload"] == workload.name]
    label = LABELS.get(workload.name, workload.name)
    splits, decided = workload.settings["evaluation_splits"], []
    for split in splits:
        own = workload._replace(settings=workload.settings | {"evaluation_splits": (split,)})
        of_split = [row for row in rows if row.get("split", split) == split]
        control = Control(random_cost)
        decided += questions.decide(QUESTIONS, of_split, own, f"{label}, {split} loss", control)
        if split == splits[0]:
            decided += questions.decide(UNIT_QUESTIONS, of_split, own, label, control)
    return sorted(decided, key=lambda claim: claim.id)


def _published(text: str) -> Callable[[Workload], str]:
    return lambda workload: text


QUESTIONS = {
    "M1": Question(
        "Folding the means of removed units cuts the penalty for every criterion (norm, random, "
        "ABS_RS, ABS_MRS), on average and in at least 80 % of settings",
        "S4, section 4.1, Figures 2 and 3",
        _published('below y = x in "almost all cases"'),
        findings.folding_helps,
    ),
    "M2": Question(
        "The advantage of folding shrinks with fine-tuning and is still there at its end",
        "S4, section 4.2, Figure 4",
        _published("after 10, 100 and 500 steps, curves only"),
        findings.advantage_shrinks,
    ),
    "M3": Question(
        "Absolute scores prune better than random, raw ones worse: ABS_RS, ABS_MRS > random > RS, "
        "MRS in area under the performance profile",
        "S4, section 4.3, Figure 5",
        _published("the ordering, curves only"),
        findings.order_of_scorers,
    ),
    "M4": Question(
        "ABS_MRS and ABS_RS prune equally well and remove much the same units",
        "S4, section 4.3",
        _published('"very similar"'),
        findings.absolute_scorers_agree,
    ),
}
"""The claims on penalties, by their codes."""

UNIT_QUESTIONS = {
    "M5": Question(
        "MRS removes units of higher activation than ABS_MRS does",
        "S4, Figure 6b",
        _published("histogram only"),
        findings.active_units,
    ),
    "M6": Question(
        "ABS_RS and ABS_MRS keep to a small, stable set of units: fewer are ever selected than at "
        "random, and the set grows less after the first third of training",
        "S4, section 4.4, Figure 7",
        _published("random comes to cover all units, absolute scores few"),
        findings.few_units,
    ),
    "M7": Question(
        "The mean is the constant that best replaces a unit in a linear regression",
        "S4, section 3.3",
        _published("proof"),
        findings.mean_is_optimal,
        controlled=False,
    ),
}
"""The claims on units, which are the same whatever split a penalty is measured on."""

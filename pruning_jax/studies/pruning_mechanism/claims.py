"""What the pruning-mechanism study decides: claims E1 to E7 of S0 and R6, from its rows."""

from collections.abc import Callable, Iterable
from functools import partial

from pruning_jax.analysis.claims import Claim
from pruning_jax.measurements import Row
from pruning_jax.studies import questions
from pruning_jax.studies.pruning_mechanism import cycles, findings
from pruning_jax.studies.pruning_mechanism.published import PUBLISHED, REGIMES, RENDA
from pruning_jax.studies.pruning_mechanism.readings import random_cost
from pruning_jax.studies.questions import Control, Question, qualitative
from pruning_jax.studies.workloads import Workload

NETWORKS = {
    "small_conv": "B: Small Conv",
    "small_conv_bn": "C: Small Conv with batch normalisation",
    "resnet8": "D: ResNet-8",
    "resnet20": "ResNet-20",
}
DATASETS = {"cifar10": "CIFAR-10"}
PAPERS_DEPTH = 20
"""Of the ResNet that the paper ran."""


def decide(rows: Iterable[Row], workload: Workload) -> list[Claim]:
    """Decides the claims that a workload's settings speak to.

    Args:
      rows: of ``results.jsonl``, of any workloads, as many as there are.
      workload: what ran.

    Returns:
      The claims of the sections that are there, sorted by their codes: E1 of `during_training`, E2
      to E4 of `sizes`, E5 of `one_shot`, E7 and R6 of `arms`, E6 of `arms` and `paths`, once for
      each arm that prunes channels. A claim is "not tested" until every seed has its rows.

    Source: S0; PAPERS.md, sections 3 and 4.
    """
    rows = [row for row in rows if row["workload"] == workload.name]
    settings, label, control = workload.settings, label_of(workload), Control(random_cost)
    asked = {id: question for id, question in QUESTIONS.items() if settings[SECTIONS[id]]}
    decided = questions.decide(asked, rows, workload, label, control)
    for name, arm in settings["arms"].items():
        if settings["paths"] and arm["prunes"] == "channels":
            share = f"{100 * arm['share']:g} % a cycle, after cycle {arm['compared']}"
            of_arm = f"{label}; channels, {share}"
            found = partial(cycles.stays_in_basin, arm=name)
            question = {"E6": BASIN._replace(find=found)}
            decided += questions.decide(question, rows, workload, of_arm, control)
    return sorted(decided, key=lambda claim: claim.id)


def label_of(workload: Workload) -> str:
    """What a workload is called in tables: its network and data, and what it stands for."""
    name = NETWORKS.get(workload.name, workload.name)
    depth = getattr(workload.module, "depth", PAPERS_DEPTH)
    stride = getattr(workload.module, "stem_stride", 1)
    if stride > 1:
        name += f" with a stem of stride {stride}"
    data = DATASETS.get(workload.dataset["name"], workload.dataset["name"])
    proxy = f": a proxy for ResNet-{PAPERS_DEPTH}" if depth != PAPERS_DEPTH else ""
    if proxy:
        return f"{name}, {data}, {workload.examples:,} images{proxy}"
    return f"{name}, {data} ({workload.examples:,} images)"


def _published(text: str) -> Callable[[Workload], str]:
    return lambda workload: text


def _table() -> str:
    arms = (
        f"{arm}: " + ", ".join(f"{REGIMES[regime]} {value:.2f}" for regime, value in found.items())
        for arm, found in PUBLISHED.items()
    )
    return f"ResNet-20, validation %: {'; '.join(arms)} (no seeds or errors given)"


def _renda() -> str:
    gains = (f"{gain - lost:+.2f} at {times:g}x" for times, (gain, lost) in RENDA.items())
    return f"ResNet-20, differences of medians in pp: {', '.join(gains)}"


SECTIONS = {
    "E1": "during_training",
    "E2": "sizes",
    "E3": "sizes",
    "E4": "sizes",
    "E5": "one_shot",
    "E7": "arms",
    "R6": "arms",
}
"""The section of the settings that each of `QUESTIONS` needs."""

QUESTIONS = {
    "E1": Question(
        "In training, the standard deviation, the mean and the minimum of the utility of random "
        "subsets of weights grow with the epoch, in every seed and at every ratio",
        "S0, section 2.1.2, Figure 2",
        _published("3 rising curves"),
        findings.utility_grows,
    ),
    "E2": Question(
        "Random ablations of one size spread far in accuracy, by 20 pp or more at some ratio, and "
        "losing the largest tenth of the weights costs more than losing the smallest",
        "S0, Figure 1",
        _published("a range of about 60 % accuracy at ratio .1"),
        findings.large_spread,
    ),
    "E3": Question(
        "Utilities of networks of different sizes agree at equal ratio of ablated weights, not at "
        "equal number: the distance of their curves is less than half as large",
        "S0, section 2.2.1, Figure 3",
        _published('"similar" by ratio, "quite different" by number'),
        findings.ratio_collapses,
    ),
    "E4": Question(
        "The largest utility of a random subset is larger in a network of a quarter of the weights "
        "than in the whole one, at ratios .05 and .1 of its own weights",
        "S0, section 2.2.1, Figure 4",
        _published("the ordering"),
        findings.largest_utility,
    ),
    "E5": Question(
        "Half pruned in one shot and retrained, a network resembles the pretrained one in utility "
        "more than a small network trained as long does",
        "S0, section 2.2.2, Figure 5",
        _published("qualitative; weaker where three quarters are pruned"),
        findings.resembles_pretrained,
    ),
    "E7": Question(
        "Accuracy after pruning in cycles: of weights, rewinding > fine-tuning > small network; of "
        "channels, small network > rewinding > fine-tuning",
        "S0, section 3, Table 1",
        _published(_table()),
        cycles.order_of_regimes,
    ),
    "R6": Question(
        "Rewinding the learning rate beats fine-tuning where weights are pruned in cycles to about "
        "a ninth, and by more the higher the compression (3, 5 and 9 times)",
        "S0, section 3, after Renda et al. (2020)",
        _published(_renda()),
        cycles.rewinding_gains,
    ),
}
"""The claims but E6, by their codes."""

BASIN = Question(
    "Pruning weights, with fine-tuning or rewinding, stays in the basin of the pretrained network "
    "(a barrier of at most 2 pp of training accuracy); pruning channels with rewinding leaves it "
    "(a higher barrier), and with fine-tuning it gets stuck (more than 10 pp below dense)",
    "S0, section 3, Figure 6",
    qualitative,
    cycles.stays_in_basin,
)
"""E6, which is decided for each arm that prunes channels."""

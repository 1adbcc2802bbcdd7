"""What the pruning-mechanism study decides: claims E1 to E7 of S0 and R6, from its rows.

Accuracies, their differences and barriers are in pp.
"""

import itertools
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from pruning_jax.analysis import claims, statistics
from pruning_jax.analysis.claims import Claim, Gate
from pruning_jax.measurements import Row
from pruning_jax.measurements.pruning_mechanism import LAST
from pruning_jax.studies import questions
from pruning_jax.studies.questions import Finding, Question, column, each_seed, finite, means, text
from pruning_jax.studies.workloads import Workload

LABELS = {
    "small_conv": "B: Small Conv",
    "small_conv_bn": "C: Small Conv with batch normalisation",
    "resnet8": "D: ResNet-8",
    "resnet20": "ResNet-20",
}
PAPERS_DEPTH = 20
"""Of the ResNet that the paper ran."""
PAPER = {
    "network": "ResNet-20; a vanilla CNN whose layers the text does not give",
    "data": "CIFAR-10",
    "training": "SGD, 200 epochs, learning rate .1, divided by 10 at 50 and 75 %",
    "seeds": "not given",
}
"""What S0 ran."""
PUBLISHED = {
    "weight": {"fine_tuning": 90.870, "learning_rate_rewinding": 91.897, "small": 89.290},
    "channel": {"fine_tuning": 43.375, "learning_rate_rewinding": 87.138, "small": 88.020},
}
"""S0, Table 1: validation accuracy of ResNet-20 after 5 cycles, in %, by what is pruned and how it
is retrained. The paper gives neither seeds nor errors."""
RENDA = {3.05: (0.41, -0.60), 4.77: (0.02, -1.12), 9.31: (-0.96, -1.95)}
"""Renda et al. (2020), ResNet-20 pruned in cycles: compression -> the median change of accuracy, in
pp, after learning-rate rewinding and after fine-tuning; 3 trials, from their raw results."""
TUNED, REWOUND = "fine_tuning", "learning_rate_rewinding"
REGIMES = {TUNED: "fine-tuning", REWOUND: "rewinding", "small": "small"}
ORDERS = {"weight": (REWOUND, TUNED, "small"), "channel": ("small", REWOUND, TUNED)}
"""What is pruned -> the regimes, the most accurate first."""
DENSE = {"network": "dense", "density": 1.0}
GROWING = ("std", "mean", "minimum")
"""The moments of utility that must grow in training."""
COMPARED = ("mean", "std")
"""Of utility over random subsets: what a network's curves are compared by."""
LEAST_EPOCHS, TENTHS = 3, 10
"""Epochs that show a trend; the bands of magnitudes that are compared."""
SMALLEST, RATIOS_OF_LARGEST = 0.25, (0.05, 0.1)
"""The size of the network whose largest utility is compared, and at which ratios."""
RETRAINED = 0.5
"""The density at which a pruned and retrained network must resemble the pretrained one."""
COMPRESSIONS, NEAR = (3.0, 5.0, 9.0), 1.25
"""At which the gain by rewinding is taken; the factor within which a cycle's stands for one."""


def decide(rows: Iterable[Row], workload: Workload) -> list[Claim]:
    """Decides the claims that a workload's settings speak to.

    Args:
      rows: of ``results.jsonl``, of any workloads, as many as there are.
      workload: what ran.

    Returns:
      The claims of the sections that are there, sorted by their codes: E1 of `during_training`, E2
      to E4 of `sizes`, E5 of `one_shot`, E7 and R6 of `arms`, E6 of `arms` and `paths`, once for
      each arm that prunes channels.

    Source: S0; PAPERS.md, sections 3 and 4.
    """
    own, label, rows = workload.settings, label_of(workload), list(rows)
    fidelity = "matched" if workload.name == "resnet20" else "proxy"
    there = {id: QUESTIONS[id] for id, section in SECTIONS.items() if getattr(own, section)}
    decided = questions.decide(there, rows, workload, label, fidelity)
    for name, arm in own.arms.items():
        if own.paths and arm.prunes == "channels":
            share = f"{100 * arm.share:g} % a cycle, after cycle {arm.compared}"
            question = {"E6": QUESTIONS["E6"]._replace(find=partial(stays_in_basin, arm=name))}
            of_arm = f"{label}; channels, {share}"
            decided += questions.decide(question, rows, workload, of_arm, fidelity)
    return sorted(decided, key=lambda claim: claim.id)


def label_of(workload: Workload) -> str:
    """What a workload is called in tables: its network and data, and what it stands for."""
    name = LABELS.get(workload.name, workload.name)
    stride = getattr(workload.module, "stem_stride", 1)
    if stride > 1:
        name += f" with a stem of stride {stride}"
    name += f", {workload.dataset['name'].replace('cifar10', 'CIFAR-10')}"
    if getattr(workload.module, "depth", PAPERS_DEPTH) != PAPERS_DEPTH:
        return f"{name}, {workload.examples:,} images: a proxy for ResNet-{PAPERS_DEPTH}"
    return f"{name} ({workload.examples:,} images)"


def used(
    rows: list[Row], workload: Workload, ratio: float, *, epoch: Any = LAST, **network: Any
) -> list[Row]:
    """Each seed's utilities of a network's random subsets of a share of its weights."""
    place = {"among": 1.0} | network | {"epoch": epoch, "ratio": ratio}
    return each_seed(rows, workload, "utility", **place)


def small(density: float, schedules: int = 1) -> dict[str, Any]:
    """The columns of a network of a size; of the whole size, the dense one's."""
    own = {"network": "small", "density": density, "schedules": schedules}
    return DENSE if density == 1.0 else own


def own_ratio(workload: Workload, ratio: float) -> float:
    """The ratio as the settings of `sizes` write it; raises `LookupError` where it was not run."""
    ratios = workload.settings.sizes.ratios
    near = [own for own in ratios if math.isclose(own, ratio, rel_tol=1e-6)]
    if not near:
        ran = ", ".join(f"{own:g}" for own in ratios)
        raise LookupError(f"no subsets of a share of {ratio:g} were run; there are {ran}")
    return near[0]


def curves(
    rows: list[Row], workload: Workload, ratios: Iterable[float], **network: Any
) -> np.ndarray:
    """Each seed's mean and standard deviation of utility at each ratio, shape (seeds, both)."""
    own = [used(rows, workload, ratio, **network) for ratio in ratios]
    found = [[row[moment] for row in of] for moment in COMPARED for of in own]
    return finite(np.array(found, float).T.copy(), "a utility")


def distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How far apart the curves of two networks lie, in [0, 2]: mean(|a - b| / ((a + b) / 2)).

    Args:
      first, second: of shape (seeds, values), none negative; a pair of zeros counts as 0.
    """
    if min(first.min(), second.min()) < 0:
        raise ValueError(f"a utility is {min(first.min(), second.min())}; mend that run first")
    total = first + second
    return (2 * np.abs(first - second) / np.where(total, total, 1.0)).mean(axis=1)


def reached(
    rows: list[Row], workload: Workload, split: str, arm: str, regime: str, cycle: int | None = None
) -> np.ndarray:
    """The accuracy of each seed's network of `in_cycle`, in %."""
    return 100 * column(in_cycle(rows, workload, arm, regime, cycle), f"{split}_accuracy")


def in_cycle(
    rows: list[Row], workload: Workload, arm: str, regime: str, cycle: int | None = None
) -> list[Row]:
    """Each seed's network of an arm after a cycle, by default where regimes are compared.

    Raises:
      LookupError: the arm or regime was not run, or a seed has no row.
    """
    need(workload, arm, regime)
    network = {"network": "cycle", "arm": arm, "regime": regime}
    cycle = workload.settings.arms[arm].compared if cycle is None else cycle
    return each_seed(rows, workload, "network", **network, cycle=cycle)


def compression(row: Row) -> float:
    """Prunable weights / those that remain, of a network's row."""
    return row["prunable"] / (row["prunable"] - row["removed"])


def need(workload: Workload, arm: str, *regimes: str) -> None:
    """Raises `LookupError` where an arm, or one of its regimes, is not among those that run."""
    arms = workload.settings.arms
    if arm not in arms:
        raise LookupError(f"arm not run: {arm}")
    missing = [regime for regime in regimes if regime not in arms[arm].regimes]
    if missing:
        raise LookupError(f"regimes not run for arm {arm}: {', '.join(missing)}")


def lengths(rows: list[Row], workload: Workload) -> str:
    """How long the dense networks and the arm's were trained: what a gain may owe to length."""
    dense = each_seed(rows, workload, "network", **DENSE)[0]["epochs"]
    tuned = in_cycle(rows, workload, "weight", TUNED)[0]["epochs"]
    return f"trained for {dense} epochs dense, {tuned} in cycles"


def sensitive(rows: list[Row], workload: Workload) -> Gate:
    """Random ablation of the dense network costs accuracy, at the largest ratio and the end."""
    during, sizes = workload.settings.during_training, workload.settings.sizes
    if not sizes and not during:
        raise LookupError("no random subsets of the dense network were run for the control")
    ratio = max((sizes or during).ratios)
    epoch = LAST if sizes else max(during.epochs)
    own = used(rows, workload, ratio, epoch=epoch, **DENSE)
    lost = [100 * (row["unablated_accuracy"] - row["accuracy_mean"]) for row in own]
    cost = float(np.mean(finite(np.array(lost), "the accuracy that ablation costs")))
    rule = f"random ablation costs {claims.LEAST_LEAD:g} pp"
    return Gate("sensitive", cost, rule, cost >= claims.LEAST_LEAD)


def converged(rows: list[Row], workload: Workload) -> Gate:
    """What the first cycle, which trains the dense network on without a share of it, gains.

    A stand-in for the dense network trained twice as long: it can only gain less.
    """
    for name, arm in workload.settings.arms.items():
        if arm.prunes == "weights" and REWOUND in arm.regimes:
            after = reached(rows, workload, "validation", name, REWOUND, 1)
            dense = each_seed(rows, workload, "network", **DENSE)
            gain = after - 100 * column(dense, "validation_accuracy")
            return claims.converged(float(gain.mean()))
    return claims.converged(None)


def utility_grows(rows: list[Row], workload: Workload) -> Finding:
    """E1. Spearman's correlation of epoch and utility, in each seed; 0 where it never changes."""
    during, found = workload.settings.during_training, {}
    epochs = during.epochs
    if len(epochs) < LEAST_EPOCHS:
        raise LookupError(f"{len(epochs)} epochs were measured; a trend needs {LEAST_EPOCHS}")
    for moment, ratio in itertools.product(GROWING, during.ratios):
        of = [used(rows, workload, ratio, epoch=epoch, **DENSE) for epoch in epochs]
        along = np.transpose([column(own, moment) for own in of])
        finite(along, f"the {moment} of utility at ratio {ratio:g}")
        rho = [statistics.spearman(epochs, own) if np.ptp(own) else 0.0 for own in along]
        found[f"{moment} at {ratio:g}"] = np.array(rho)
    parts = tuple(claims.above(f"{label} > 0", rho) for label, rho in found.items())
    least = min(found, key=lambda label: found[label].mean())
    here = f"Spearman over {len(epochs)} epochs, the least {least}: {text(found[least])}"
    return Finding(parts, here)


def large_spread(rows: list[Row], workload: Workload) -> Finding:
    """E2. The ratio whose mean range is the largest, with Holm over the ratios."""
    least, ranges = workload.settings.thresholds.range, {}
    for ratio in workload.settings.sizes.ratios:
        own = used(rows, workload, ratio, **DENSE)
        ranges[ratio] = 100 * (column(own, "accuracy_maximum") - column(own, "accuracy_minimum"))
    bands = each_seed(rows, workload, "bands", **DENSE, epoch=LAST)
    costs = 100 * (column(bands, "unablated_accuracy")[:, None] - column(bands, "accuracy"))
    if costs.shape[1] != TENTHS:
        raise LookupError(f"{costs.shape[1]} bands of magnitudes were ablated, not {TENTHS}")
    widest = max(ranges, key=lambda ratio: ranges[ratio].mean())
    part = claims.above(f"range at {widest:g} > {least:g} pp", ranges[widest], least)
    # One wide range is enough, so its p is of the best of several; of the opposite all must be.
    every = [claims.above("", of, least) for of in ranges.values()]
    p_value, opposite = min(1.0, len(every) * part.p_value), max(of.p_opposite for of in every)
    part = part._replace(p_value=p_value, p_opposite=opposite)
    ends = claims.above("largest - smallest tenth > 0", costs[:, -1] - costs[:, 0])
    here = f"range {', '.join(f'{of.mean():.3g} at {r:g}' for r, of in ranges.items())} pp"
    tenths = ", ".join(f"{cost:.2g}" for cost in costs.mean(axis=0))
    note = f"mean cost of each tenth, smallest weights first: {tenths}"
    return Finding((part, ends), here, note=note)


def ratio_collapses(rows: list[Row], workload: Workload) -> Finding:
    """E3. Mean over the pairs of sizes, at the shares that `numbers` lists.

    They are of a network's own weights, and of the dense network's.
    """
    share, sizes = workload.settings.thresholds.distance_ratio, workload.settings.sizes
    densities, found = (1.0, *sizes.densities), []
    for scale in ((1.0,) * len(densities), densities):  # by ratio, by number
        of_sizes = []
        for density, by in zip(densities, scale, strict=True):
            ratios = [own_ratio(workload, number / by) for number in sizes.numbers]
            of_sizes.append(curves(rows, workload, ratios, **small(density)))
        pairs = itertools.combinations(of_sizes, 2)
        found.append(np.mean([distance(*pair) for pair in pairs], axis=0))
    by_ratio, by_number = found
    part = claims.below(f"by ratio - {share:g} by number < 0", by_ratio - share * by_number)
    here = f"distance {by_ratio.mean():.3g} at equal ratio, {by_number.mean():.3g} at equal number"
    shares = ", ".join(f"{share:g}" for share in sizes.numbers)
    note = f"partly trivial; sizes {', '.join(f'{d:g}' for d in densities)}; shares {shares}"
    return Finding((part,), here, note=note)


def largest_utility(rows: list[Row], workload: Workload) -> Finding:
    """E4."""
    if SMALLEST not in workload.settings.sizes.densities:
        raise LookupError(f"no network of {SMALLEST:g} of the weights was run")
    parts, here = [], []
    for ratio in RATIOS_OF_LARGEST:
        own = own_ratio(workload, ratio)
        few, dense = (
            column(used(rows, workload, own, **small(density)), "maximum")
            for density in (SMALLEST, 1.0)
        )
        parts.append(claims.above(f"{SMALLEST:g}x - 1x > 0 at {ratio:g}", few - dense))
        here.append(f"{few.mean():.3g} against {dense.mean():.3g} at {ratio:g}")
    return Finding(tuple(parts), f"{', '.join(here)} nats")


def resembles_pretrained(rows: list[Row], workload: Workload) -> Finding:
    """E5. Decided at one density; the others are reported.

    Subsets of the pretrained network are drawn from the weights that pruning keeps.
    """
    shot, shown = workload.settings.one_shot, []
    if RETRAINED not in shot.densities:
        raise LookupError(f"no network was pruned in one shot to a density of {RETRAINED:g}")
    for density in shot.densities:
        of_shot = {"network": "one_shot", "density": density}
        networks = DENSE | {"among": density}, of_shot, small(density, 2)
        pretrained, *others = (curves(rows, workload, shot.ratios, **of) for of in networks)
        pruned, few = (distance(other, pretrained) for other in others)
        shown.append(f"{pruned.mean():.3g} against {few.mean():.3g} at density {density:g}")
        if density == RETRAINED:
            part = claims.below("pruned - small < 0", pruned - few)
    networks = DENSE, {"network": "one_shot", "density": RETRAINED}
    epochs = [each_seed(rows, workload, "network", **of)[0]["epochs"] for of in networks]
    return Finding((part,), f"distance {', '.join(shown)}", (claims.equally_long(*epochs),))


def stays_in_basin(rows: list[Row], workload: Workload, arm: str) -> Finding:
    """E6, for one of the arms that prune channels. A barrier is the dip below the worse end."""
    most, fall = workload.settings.thresholds.barrier, workload.settings.thresholds.fall
    dips = {}
    for name in ("weight", arm):
        need(workload, name, TUNED, REWOUND)
    for name, regime in (("weight", TUNED), ("weight", REWOUND), (arm, REWOUND)):
        place = {"arm": name, "regime": regime, "moments": "estimated"}
        paths = 100 * column(each_seed(rows, workload, "path", **place), "accuracy")
        dips[name, regime] = paths[:, [0, -1]].min(axis=1) - paths.min(axis=1)
    dense = 100 * column(each_seed(rows, workload, "network", **DENSE), "train_accuracy")
    stuck = reached(rows, workload, "train", arm, TUNED) - dense
    parts = (
        claims.below(f"weights, fine-tuning: dip < {most:g}", dips["weight", TUNED], most),
        claims.below(f"weights, rewinding: dip < {most:g}", dips["weight", REWOUND], most),
        claims.above(f"channels, rewinding: dip > {most:g}", dips[arm, REWOUND], most),
        claims.below("channels, fine-tuning: stuck", stuck, -fall),
    )
    kinds = "weight fine-tuning", "weight rewinding", "channel rewinding"
    named = dict(zip(kinds, dips.values(), strict=True))
    here = f"dips {means(named, 'pp')}; channel fine-tuning {stuck.mean():.3g} pp from dense"
    return Finding(parts, here, note=lengths(rows, workload))


def order_of_regimes(rows: list[Row], workload: Workload) -> Finding:
    """E7. Accuracy of validation and test examples, on neither of which anything was chosen."""
    parts, here, kept = [], [], []
    for arm, order in ORDERS.items():
        found = {}
        for regime in order:
            both = (reached(rows, workload, split, arm, regime) for split in ("validation", "test"))
            found[regime] = np.mean([*both], axis=0)
            left = [1 / compression(row) for row in in_cycle(rows, workload, arm, regime)]
            kept.append(f"{arm} {REGIMES[regime]} {100 * float(np.mean(left)):.2g}")
        for high, low in itertools.pairwise(order):
            label = f"{arm}: {REGIMES[high]} - {REGIMES[low]} > 0"
            parts.append(claims.above(label, found[high] - found[low]))
        named = {REGIMES[regime]: of for regime, of in found.items()}
        here.append(f"{arm}: {means(named, '%')}")
    note = f"% of the weights kept: {', '.join(kept)}; {lengths(rows, workload)}"
    return Finding(tuple(parts), "; ".join(here), note=note)


def rewinding_gains(rows: list[Row], workload: Workload) -> Finding:
    """R6. At the cycles of weight pruning whose compressions are nearest to `COMPRESSIONS`."""
    need(workload, "weight", TUNED, REWOUND)
    arm, gains, compressions, cycles = workload.settings.arms["weight"], [], [], []
    for wanted in COMPRESSIONS:
        exact = -math.log(wanted) / math.log(1 - arm.share)
        cycle = min(range(1, arm.cycles + 1), key=lambda cycle, exact=exact: abs(cycle - exact))
        apart = abs(math.log((1 - arm.share) ** -cycle / wanted))
        if apart > math.log(NEAR) or cycle in cycles:
            raise LookupError(f"no cycle of weight pruning leaves about 1/{wanted:g}")
        cycles.append(cycle)
        rewound, tuned = (
            reached(rows, workload, "validation", "weight", regime, cycle)
            for regime in (REWOUND, TUNED)
        )
        gains.append(rewound - tuned)
        own = in_cycle(rows, workload, "weight", TUNED, cycle)
        compressions.append(np.mean([compression(row) for row in own]))
    slopes = np.polyfit(np.log2(compressions), np.stack(gains), 1)[0]
    parts = (
        claims.above(f"rewinding - fine-tuning > 0 at {compressions[-1]:.2g}x", gains[-1]),
        claims.above("growth a doubling of compression > 0", slopes),
    )
    shown = [f"{gain.mean():+.2f} at {c:.2g}x" for c, gain in zip(compressions, gains, strict=True)]
    return Finding(parts, f"{', '.join(shown)} pp", note=lengths(rows, workload))


TABLE_1 = "; ".join(
    f"{arm}: {', '.join(f'{REGIMES[regime]} {value:.2f}' for regime, value in of.items())}"
    for arm, of in PUBLISHED.items()
)
GAINS = ", ".join(f"{gain - lost:+.2f} at {times:g}x" for times, (gain, lost) in RENDA.items())
SECTIONS = {"E1": "during_training", **dict.fromkeys(("E2", "E3", "E4"), "sizes")}
SECTIONS |= {"E5": "one_shot", **dict.fromkeys(("E7", "R6"), "arms")}
"""The section of the settings that each of `QUESTIONS` needs, but E6, decided for every arm."""
AGAIN = (
    "ResNet-8 on 20,000 images for 20 epochs, the dense network continued beside it, 6 seeds: 3 h"
)
QUESTIONS = {
    "E1": Question(
        "In training the standard deviation, mean and minimum of the utility of random subsets "
        "grow",
        "S0, section 2.1.2, Figure 2",
        "3 rising curves",
        "Spearman",
        utility_grows,
        "Spearman's correlation of epoch and moment of utility, in each seed, at each ratio; all "
        "above 0",
        "Two seeds of five in which a moment falls; 8 seeds of the same: 20 min",
        gates=(sensitive,),
    ),
    "E2": Question(
        "Random ablations of one size spread far in accuracy, and only the largest weights matter",
        "S0, Figure 1",
        "a range of about 60 % accuracy at ratio .1",
        "pp",
        large_spread,
        "largest less least accuracy over 500 random subsets, more than 20 pp at some ratio; "
        "accuracy lost without the largest tenth less that without the smallest",
        "The range on 1,024 examples in place of 128, which inflate it by 10 to 15 %: 10 min",
        gates=(sensitive,),
    ),
    "E3": Question(
        "Utilities of networks of different sizes agree at equal ratio of weights, not at equal "
        "number",
        "S0, section 2.2.1, Figure 3",
        '"similar" by ratio, "quite different" by number',
        "distance",
        ratio_collapses,
        "mean distance of the curves of mean and standard deviation of utility, over pairs of "
        "sizes: at equal ratio less half of that at equal number",
        "Ratios below .2 of the smaller networks, so that numbers overlap: 10 min",
        gates=(sensitive,),
    ),
    "E4": Question(
        "The largest utility of a random subset is larger in a network of a quarter of the weights",
        "S0, section 2.2.1, Figure 4",
        "the ordering",
        "nats",
        largest_utility,
        "largest utility over 500 random subsets at ratios .05 and .1, small less dense network",
        "Two seeds of eight the other way; 8 fresh seeds: 15 min",
        gates=(sensitive,),
    ),
    "E5": Question(
        "Half pruned in one shot and retrained, a network resembles the pretrained one in utility "
        "more than a small network trained as long does",
        "S0, section 2.2.2, Figure 5",
        "qualitative; weaker where three quarters are pruned",
        "distance",
        resembles_pretrained,
        "distance of the curves of utility from the dense network, pruned less small network",
        "The dense network retrained as long as the others: 10 min",
        "Said to hold: it compared networks of 12 epochs with one of 6. Withdrawn.",
        gates=(sensitive,),
    ),
    "E6": Question(
        "Pruning weights stays in the basin of the pretrained network; pruning channels with "
        "rewinding leaves it, and with fine-tuning gets stuck",
        "S0, section 3, Figure 6",
        "qualitative",
        "pp",
        partial(stays_in_basin, arm="channel"),
        "dip of training accuracy below the worse end of the straight path from pretrained to "
        "retrained; stuck: training accuracy more than 10 pp below the dense network's",
        AGAIN,
        "The dense network of 6 epochs is far from converged; the path of rewinding climbs from "
        "60 % to 99 %.",
        gates=(converged,),
    ),
    "E7": Question(
        "Accuracy after pruning in cycles: of weights, rewinding > fine-tuning > small network; "
        "of channels, small network > rewinding > fine-tuning",
        "S0, section 3, Table 1",
        f"ResNet-20, validation %: {TABLE_1} (no seeds or errors given)",
        "pp",
        order_of_regimes,
        "mean of validation and test accuracy at the cycle compared, differences paired by seed",
        AGAIN,
        "The dense network of 6 epochs is far from converged, so every regime gains by its length.",
        gates=(converged,),
    ),
    "R6": Question(
        "Rewinding the learning rate beats fine-tuning, and by more the higher the compression",
        "S0, section 3, after Renda et al. (2020)",
        f"ResNet-20, differences of medians in pp: {GAINS}",
        "pp",
        rewinding_gains,
        "accuracy after rewinding less that after fine-tuning at 9x, and its slope a doubling",
        "MLP-300-100 on 5,000 images of MNIST, 3x to 72x, 12 seeds; then " + AGAIN,
        "As E7.",
        gates=(converged,),
    ),
}
"""The claims, by their codes."""

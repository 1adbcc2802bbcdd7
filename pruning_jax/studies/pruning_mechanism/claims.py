"""What the pruning-mechanism study decides: claims E1 to E7 of S0 and R6, from its rows.

Accuracies, their differences and barriers are in pp.
"""

import itertools
from collections.abc import Iterable
from functools import partial

import numpy as np

from pruning_jax.analysis import claims
from pruning_jax.analysis.claims import Claim, Gate
from pruning_jax.measurements import Row
from pruning_jax.measurements import pruning_mechanism as measured
from pruning_jax.studies import questions
from pruning_jax.studies.pruning_mechanism import readings
from pruning_jax.studies.pruning_mechanism.published import PUBLISHED, REGIMES, RENDA
from pruning_jax.studies.questions import Finding, Question, means, text, thresholds
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
GROWING = ("std", "mean", "minimum")
"""The moments of utility that must grow in training."""
LEAST_EPOCHS = 3
"""Epochs that show a trend."""
TENTHS = 10
SMALLEST = 0.25
"""The size of the network whose largest utility is compared."""
RATIOS_OF_LARGEST = (0.05, 0.1)
RETRAINED = 0.5
"""The density at which a pruned and retrained network must resemble the pretrained one."""
ORDERS = {
    "weight": ("learning_rate_rewinding", "fine_tuning", "small"),
    "channel": ("small", "learning_rate_rewinding", "fine_tuning"),
}
"""What is pruned -> the regimes, the most accurate first."""

THRESHOLDS = {
    "range": 20.0,  # pp of accuracy over random subsets of one size
    "distance_ratio": 0.5,  # of curves at equal ratio over those at equal number
    "barrier": 2.0,  # pp below the worse end of a path
    "fall": 10.0,  # pp of training accuracy below the dense network's, to count as stuck
    "put_later": (),
}


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
    rows = [row for row in rows if row["workload"] == workload.name]
    settings, label = workload.settings, label_of(workload)
    fidelity = "matched" if workload.name == "resnet20" else "proxy"
    asked = {id: question for id, question in QUESTIONS.items() if settings[SECTIONS[id]]}
    decided = questions.decide(asked, rows, workload, label, fidelity)
    for name, arm in settings["arms"].items():
        if settings["paths"] and arm["prunes"] == "channels":
            share = f"{100 * arm['share']:g} % a cycle, after cycle {arm['compared']}"
            question = {"E6": BASIN._replace(find=partial(stays_in_basin, arm=name))}
            of_arm = f"{label}; channels, {share}"
            decided += questions.decide(question, rows, workload, of_arm, fidelity)
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


def sensitive(rows: list[Row], workload: Workload) -> Gate:
    """Random ablation of the dense network costs accuracy."""
    cost = readings.random_cost(rows, workload)
    rule = f"random ablation costs {claims.LEAST_LEAD:g} pp"
    return Gate("sensitive", cost, rule, cost >= claims.LEAST_LEAD)


def converged(rows: list[Row], workload: Workload) -> Gate:
    """What the first cycle, which trains the dense network on without a share of it, gains.

    A stand-in for the dense network trained twice as long: it can only gain less.
    """
    arms = [
        name
        for name, arm in workload.settings["arms"].items()
        if arm["prunes"] == "weights" and "learning_rate_rewinding" in arm["regimes"]
    ]
    if not arms:
        return claims.converged(None)
    after = readings.retrained_accuracies(
        rows, workload, "validation", arms[0], "learning_rate_rewinding", 1
    )
    dense = readings.accuracies(rows, workload, "validation", **readings.DENSE)
    return claims.converged(float((after - dense).mean()))


def utility_grows(rows: list[Row], workload: Workload) -> Finding:
    """E1. Spearman's correlation of epoch and utility, in each seed."""
    settings = workload.settings["during_training"]
    count = len(settings["epochs"])
    if count < LEAST_EPOCHS:
        raise LookupError(f"{count} epochs were measured; a trend needs {LEAST_EPOCHS}")
    found = {
        f"{moment} at {ratio:g}": readings.correlations(rows, workload, moment, ratio)
        for moment, ratio in itertools.product(GROWING, settings["ratios"])
    }
    parts = tuple(claims.above(f"{label} > 0", rho) for label, rho in found.items())
    least = min(found, key=lambda label: found[label].mean())
    here = f"Spearman over {count} epochs, the least {least}: {text(found[least])}"
    return Finding(parts, here, (sensitive(rows, workload),))


def large_spread(rows: list[Row], workload: Workload) -> Finding:
    """E2. The ratio whose mean range is the largest, with Holm over the ratios."""
    least = (THRESHOLDS | dict(thresholds(workload)))["range"]
    ranges = readings.accuracy_ranges(rows, workload)
    costs = readings.band_costs(rows, workload)
    if costs.shape[1] != TENTHS:
        raise LookupError(f"{costs.shape[1]} bands of magnitudes were ablated, not {TENTHS}")
    widest = max(ranges, key=lambda ratio: ranges[ratio].mean())
    part = claims.above(f"range at {widest:g} > {least:g} pp", ranges[widest], least)
    # One wide range is enough, so its p is of the best of several; of the opposite all must be.
    every = [claims.above("", values, least) for values in ranges.values()]
    shown = min(1.0, len(every) * part.p_value)
    part = part._replace(p_value=shown, p_opposite=max(each.p_opposite for each in every))
    bands = claims.above("largest - smallest tenth > 0", costs[:, -1] - costs[:, 0])
    here = f"range {', '.join(f'{v.mean():.3g} at {r:g}' for r, v in ranges.items())} pp"
    tenths = ", ".join(f"{cost:.2g}" for cost in costs.mean(axis=0))
    note = f"mean cost of each tenth, smallest weights first: {tenths}"
    return Finding((part, bands), here, (sensitive(rows, workload),), note)


def ratio_collapses(rows: list[Row], workload: Workload) -> Finding:
    """E3."""
    share = (THRESHOLDS | dict(thresholds(workload)))["distance_ratio"]
    by_ratio, by_number = readings.size_distances(rows, workload)
    part = claims.below(f"by ratio - {share:g} by number < 0", by_ratio - share * by_number)
    here = f"distance {by_ratio.mean():.3g} at equal ratio, {by_number.mean():.3g} at equal number"
    settings = workload.settings["sizes"]
    shares = ", ".join(f"{share:g}" for share in settings["numbers"])
    note = f"sizes {', '.join(f'{d:g}' for d in (1.0, *settings['densities']))}; shares {shares}"
    return Finding((part,), here, (sensitive(rows, workload),), f"partly trivial; {note}")


def largest_utility(rows: list[Row], workload: Workload) -> Finding:
    """E4."""
    if SMALLEST not in workload.settings["sizes"]["densities"]:
        raise LookupError(f"no network of {SMALLEST:g} of the weights was run")
    parts, here = [], []
    for ratio in RATIOS_OF_LARGEST:
        own = readings.own_ratio(workload, ratio)
        small, dense = (readings.largest(rows, workload, size, own) for size in (SMALLEST, 1.0))
        parts.append(claims.above(f"{SMALLEST:g}x - 1x > 0 at {ratio:g}", small - dense))
        here.append(f"{small.mean():.3g} against {dense.mean():.3g} at {ratio:g}")
    return Finding(tuple(parts), f"{', '.join(here)} nats", (sensitive(rows, workload),))


def resembles_pretrained(rows: list[Row], workload: Workload) -> Finding:
    """E5. Decided at one density; the others are reported."""
    densities = workload.settings["one_shot"]["densities"]
    if RETRAINED not in densities:
        raise LookupError(f"no network was pruned in one shot to a density of {RETRAINED:g}")
    shown, part = [], None
    for density in densities:
        pruned, small = readings.retrained_distances(rows, workload, density)
        shown.append(f"{pruned.mean():.3g} against {small.mean():.3g} at density {density:g}")
        if density == RETRAINED:
            part = claims.below("pruned - small < 0", pruned - small)
    shot = {"network": "one_shot", "density": RETRAINED}
    epochs = [
        readings.each_seed(rows, workload, "network", **network)[0]["epochs"]
        for network in (readings.DENSE, shot)
    ]
    gates = (sensitive(rows, workload), claims.equally_long(*epochs))
    return Finding((part,), f"distance {', '.join(shown)}", gates)


def stays_in_basin(rows: list[Row], workload: Workload, arm: str) -> Finding:
    """E6, for one of the arms that prune channels. A barrier is the dip below the worse end."""
    limits = THRESHOLDS | dict(thresholds(workload))
    tuned, rewound = "fine_tuning", "learning_rate_rewinding"
    for name in ("weight", arm):
        readings.need(workload, name, tuned, rewound)
    dips = {
        (name, regime): readings.dips(rows, workload, name, regime)
        for name, regime in (("weight", tuned), ("weight", rewound), (arm, rewound))
    }
    dense = readings.accuracies(rows, workload, "train", **readings.DENSE)
    stuck = readings.retrained_accuracies(rows, workload, "train", arm, tuned)
    most = limits["barrier"]
    parts = (
        claims.below(f"weights, fine-tuning: dip < {most:g}", dips["weight", tuned], most),
        claims.below(f"weights, rewinding: dip < {most:g}", dips["weight", rewound], most),
        claims.above(f"channels, rewinding: dip > {most:g}", dips[arm, rewound], most),
        claims.below("channels, fine-tuning: stuck", stuck - dense, -limits["fall"]),
    )
    named = {
        f"{'weight' if name == 'weight' else 'channel'} {REGIMES[regime]}": values
        for (name, regime), values in dips.items()
    }
    here = (
        f"dips {means(named, 'pp')}; channel fine-tuning {(stuck - dense).mean():.3g} pp from dense"
    )
    return Finding(parts, here, (converged(rows, workload),), _lengths(rows, workload, "weight"))


def order_of_regimes(rows: list[Row], workload: Workload) -> Finding:
    """E7. Accuracy of validation and test examples, on neither of which anything was chosen."""
    parts, here = [], []
    for arm, order in ORDERS.items():
        found = {
            regime: np.mean(
                [
                    readings.retrained_accuracies(rows, workload, split, arm, regime)
                    for split in ("validation", "test")
                ],
                axis=0,
            )
            for regime in order
        }
        for high, low in itertools.pairwise(order):
            label = f"{arm}: {REGIMES[high]} - {REGIMES[low]} > 0"
            parts.append(claims.above(label, found[high] - found[low]))
        named = {REGIMES[regime]: values for regime, values in found.items()}
        here.append(f"{arm}: {means(named, '%')}")
    kept = {
        f"{arm} {REGIMES[regime]}": f"{_kept(rows, workload, arm, regime):.2g}"
        for arm, order in ORDERS.items()
        for regime in order
    }
    share = ", ".join(f"{name} {value}" for name, value in kept.items())
    note = f"% of the weights kept: {share}; {_lengths(rows, workload, 'weight')}"
    return Finding(tuple(parts), "; ".join(here), (converged(rows, workload),), note)


def rewinding_gains(rows: list[Row], workload: Workload) -> Finding:
    """R6."""
    gains, compressions = [], []
    for cycle in readings.compared_cycles(workload):
        rewound, tuned = (
            readings.retrained_accuracies(rows, workload, "validation", "weight", regime, cycle)
            for regime in ("learning_rate_rewinding", "fine_tuning")
        )
        gains.append(rewound - tuned)
        network = {"arm": "weight", "regime": "fine_tuning", "cycle": cycle}
        own = readings.each_seed(rows, workload, "network", network="cycle", **network)
        compressions.append(np.mean([measured.compression(row) for row in own]))
    slopes = np.polyfit(np.log2(compressions), np.stack(gains), 1)[0]
    parts = (
        claims.above(f"rewinding - fine-tuning > 0 at {compressions[-1]:.2g}x", gains[-1]),
        claims.above("growth a doubling of compression > 0", slopes),
    )
    shown = [f"{gain.mean():+.2f} at {c:.2g}x" for c, gain in zip(compressions, gains, strict=True)]
    note = _lengths(rows, workload, "weight")
    return Finding(parts, f"{', '.join(shown)} pp", (converged(rows, workload),), note)


def _kept(rows: list[Row], workload: Workload, arm: str, regime: str) -> float:
    """The weights that an arm's networks keep, where regimes are compared; mean of seeds, in %."""
    cycle = workload.settings["arms"][arm]["compared"]
    network = {"network": "cycle", "arm": arm, "regime": regime, "cycle": cycle}
    own = readings.each_seed(rows, workload, "network", **network)
    return 100 * float(np.mean([1 / measured.compression(row) for row in own]))


def _lengths(rows: list[Row], workload: Workload, arm: str) -> str:
    """How long the dense networks and an arm's were trained: what a gain may owe to length."""
    cycle = workload.settings["arms"][arm]["compared"]
    tuned = {"network": "cycle", "arm": arm, "regime": "fine_tuning", "cycle": cycle}
    dense, own = (
        readings.each_seed(rows, workload, "network", **network)[0]["epochs"]
        for network in (readings.DENSE, tuned)
    )
    return f"trained for {dense} epochs dense, {own} in cycles"


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
    ),
    "E2": Question(
        "Random ablations of one size spread far in accuracy, and only the largest weights matter",
        "S0, Figure 1",
        "a range of about 60 % accuracy at ratio .1",
        "pp",
        large_spread,
        "largest less least accuracy over 500 random subsets, more than 20 pp at some ratio; "
        "accuracy "
        "lost without the largest tenth less that without the smallest",
        "The range on 1,024 examples in place of 128, which inflate it by 10 to 15 %: 10 min",
    ),
    "E3": Question(
        "Utilities of networks of different sizes agree at equal ratio of weights, not at equal "
        "number",
        "S0, section 2.2.1, Figure 3",
        '"similar" by ratio, "quite different" by number',
        "distance",
        ratio_collapses,
        "mean distance of the curves of mean and standard deviation of utility, over pairs of "
        "sizes: at "
        "equal ratio less half of that at equal number",
        "Ratios below .2 of the smaller networks, so that numbers overlap: 10 min",
    ),
    "E4": Question(
        "The largest utility of a random subset is larger in a network of a quarter of the weights",
        "S0, section 2.2.1, Figure 4",
        "the ordering",
        "nats",
        largest_utility,
        "largest utility over 500 random subsets at ratios .05 and .1, small less dense network",
        "Two seeds of eight the other way; 8 fresh seeds: 15 min",
    ),
    "E5": Question(
        "Half pruned in one shot and retrained, a network resembles the pretrained one in "
        "utility more "
        "than a small network trained as long does",
        "S0, section 2.2.2, Figure 5",
        "qualitative; weaker where three quarters are pruned",
        "distance",
        resembles_pretrained,
        "distance of the curves of utility from the dense network, pruned less small network",
        "The dense network retrained as long as the others: 10 min",
        "Said to hold: it compared networks of 12 epochs with one of 6. Withdrawn.",
    ),
    "E7": Question(
        "Accuracy after pruning in cycles: of weights, rewinding > fine-tuning > small network; of "
        "channels, small network > rewinding > fine-tuning",
        "S0, section 3, Table 1",
        _table(),
        "pp",
        order_of_regimes,
        "mean of validation and test accuracy at the cycle compared, differences paired by seed",
        AGAIN,
        "The dense network of 6 epochs is far from converged, so every regime gains by its length.",
    ),
    "R6": Question(
        "Rewinding the learning rate beats fine-tuning, and by more the higher the compression",
        "S0, section 3, after Renda et al. (2020)",
        _renda(),
        "pp",
        rewinding_gains,
        "accuracy after rewinding less that after fine-tuning at 9x, and its slope a doubling",
        "MLP-300-100 on 5,000 images of MNIST, 3x to 72x, 12 seeds; then " + AGAIN,
        "As E7.",
    ),
}
"""The claims but E6, by their codes."""

BASIN = Question(
    "Pruning weights stays in the basin of the pretrained network; pruning channels with rewinding "
    "leaves it, and with fine-tuning gets stuck",
    "S0, section 3, Figure 6",
    "qualitative",
    "pp",
    partial(stays_in_basin, arm="channel"),
    "dip of training accuracy below the worse end of the straight path from pretrained to "
    "retrained; "
    "stuck: training accuracy more than 10 pp below the dense network's",
    AGAIN,
    "The dense network of 6 epochs is far from converged; the path of rewinding climbs from 60 % "
    "to 99 %.",
)
"""E6, which is decided for each arm that prunes channels."""

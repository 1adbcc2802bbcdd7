"""What the rows say on pruning and retraining in cycles, E6, E7 and R6: a verdict and its numbers.

The unit is the seed, and networks are compared on the same seeds.
"""

import itertools

import numpy as np

from pruning_jax.analysis import statistics
from pruning_jax.measurements import Row
from pruning_jax.measurements import pruning_mechanism as measured
from pruning_jax.studies.pruning_mechanism import readings
from pruning_jax.studies.pruning_mechanism.published import REGIMES
from pruning_jax.studies.questions import Finding, ordered, text
from pruning_jax.studies.workloads import Workload

MOST_BARRIER = 2.0
"""The barrier, in pp, that leaves a network in its basin."""
LEAST_FALL = 10.0
"""How far, in pp, training accuracy must lie below the dense network's to count as stuck."""
ORDERS = {
    "weight": ("learning_rate_rewinding", "fine_tuning", "small"),
    "channel": ("small", "learning_rate_rewinding", "fine_tuning"),
}
"""What is pruned -> the regimes, the most accurate first."""


def stays_in_basin(rows: list[Row], workload: Workload, arm: str) -> Finding:
    """E6, for one of the arms that prune channels."""
    tuned, rewound = "fine_tuning", "learning_rate_rewinding"
    for name in ("weight", arm):
        readings.need(workload, name, tuned, rewound)
    found = {
        (name, regime): readings.barriers(rows, workload, name, regime)
        for name in ("weight", arm)
        for regime in (tuned, rewound)
    }
    dense = readings.accuracies(rows, workload, "train", **readings.DENSE)
    stuck = readings.retrained_accuracies(rows, workload, "train", arm, tuned)
    pairs = {
        f"weight fine-tuning less {MOST_BARRIER:g}": found["weight", tuned] - MOST_BARRIER,
        f"weight rewinding less {MOST_BARRIER:g}": found["weight", rewound] - MOST_BARRIER,
        "weight less channel rewinding": found["weight", rewound] - found[arm, rewound],
        f"channel fine-tuning less dense, plus {LEAST_FALL:g}": stuck - dense + LEAST_FALL,
    }
    what = "barriers in pp with batch statistics re-estimated, last training accuracies"
    finding = ordered(pairs, what)
    means = ", ".join(
        f"{'weight' if name == 'weight' else 'channel'} {REGIMES[regime]} "
        f"{text(statistics.mean_interval(values))}"
        for (name, regime), values in found.items()
    )
    dips = ", ".join(
        f"{REGIMES[regime]} {readings.dips(rows, workload, 'weight', regime).mean():.2g}"
        for regime in (tuned, rewound)
    )
    reached = f"dense {dense.mean():.3g} %, channel fine-tuning {stuck.mean():.3g} %"
    note = f"{finding.note}; barriers {means}; below the worse end of the path, weight {dips}"
    note = f"{note}; training accuracy {reached}; {_lengths(rows, workload, 'weight')}"
    return finding._replace(note=note)


def order_of_regimes(rows: list[Row], workload: Workload) -> Finding:
    """E7."""
    pairs, means = {}, []
    for arm, order in ORDERS.items():
        found = {
            regime: readings.retrained_accuracies(rows, workload, "validation", arm, regime)
            for regime in order
        }
        for high, low in itertools.pairwise(order):
            pairs[f"{arm}: {REGIMES[high]} > {REGIMES[low]}"] = found[high] - found[low]
        reached = ", ".join(
            f"{REGIMES[name]} {value.mean():.2f} with "
            f"{_kept(rows, workload, arm, name):.2g} % of the weights"
            for name, value in found.items()
        )
        means.append(f"{arm}: {reached}")
    dense = readings.accuracies(rows, workload, "validation", **readings.DENSE)
    finding = ordered(pairs, "differences in validation accuracy, pp", alternative="greater")
    note = f"{finding.note}; means in %: {'; '.join(means)}; dense {dense.mean():.2f}"
    return finding._replace(note=f"{note}; {_lengths(rows, workload, 'weight')}")


def rewinding_gains(rows: list[Row], workload: Workload) -> Finding:
    """R6."""
    cycles = readings.compared_cycles(workload)
    gains, compressions = [], []
    for cycle in cycles:
        rewound, tuned = (
            readings.retrained_accuracies(rows, workload, "validation", "weight", regime, cycle)
            for regime in ("learning_rate_rewinding", "fine_tuning")
        )
        gains.append(rewound - tuned)
        network = {"arm": "weight", "regime": "fine_tuning", "cycle": cycle}
        own = readings.each_seed(rows, workload, "network", network="cycle", **network)
        compressions.append(np.mean([measured.compression(row) for row in own]))
    slopes = np.polyfit(np.log2(compressions), np.stack(gains), 1)[0]
    pairs = {f"rewinding > fine-tuning at {compressions[-1]:.2g}x": gains[-1]}
    pairs["growth a doubling of compression"] = slopes
    finding = ordered(pairs, "differences in validation accuracy, pp", alternative="greater")
    shown = ", ".join(
        f"{compression:.2g}x {text(statistics.mean_interval(gain))}"
        for compression, gain in zip(compressions, gains, strict=True)
    )
    share = workload.settings["arms"]["weight"]["share"]
    ran = ", ".join(f"{compression:.2g}" for compression in compressions)
    asked = ", ".join(f"{compression:g}" for compression in readings.COMPRESSIONS)
    note = f"{finding.note}; differences {shown}; {100 * share:g} % a cycle gives {ran}"
    note = f"{note} times compression in place of {asked}"
    return finding._replace(note=f"{note}; {_lengths(rows, workload, 'weight')}")


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

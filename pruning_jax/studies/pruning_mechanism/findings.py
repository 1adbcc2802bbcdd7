"""What the rows say on how networks use their weights, E1 to E5: a verdict and its numbers.

The unit is the seed, and networks are compared on the same seeds.
"""

import itertools

from pruning_jax.analysis import statistics
from pruning_jax.analysis.claims import LEVEL, PairedTest, paired_order
from pruning_jax.measurements import Row
from pruning_jax.studies.pruning_mechanism import readings
from pruning_jax.studies.questions import Finding, ordered, text
from pruning_jax.studies.workloads import Workload

GROWING = ("std", "mean", "minimum")
"""The moments of utility that must grow in training."""
LEAST_EPOCHS = 3
"""Epochs that show a trend."""
LEAST_RANGE = 20.0
"""The range of accuracy, in pp, that counts as large."""
TENTHS = 10
LARGEST = "largest - smallest tenth"
DISTANCE_RATIO = 0.5
"""How much nearer curves must lie at equal ratio than at equal number."""
SMALLEST = 0.25
"""The size of the network whose largest utility is compared."""
RATIOS_OF_LARGEST = (0.05, 0.1)
RETRAINED = 0.5
"""The density at which a pruned and retrained network must resemble the pretrained one."""


def utility_grows(rows: list[Row], workload: Workload) -> Finding:
    """E1. Every correlation must be positive in every seed, so no p-value needs adjusting."""
    settings = workload.settings["during_training"]
    count = len(settings["epochs"])
    if count < LEAST_EPOCHS:
        raise LookupError(f"{count} epochs were measured; a trend needs {LEAST_EPOCHS}")
    found = {
        f"{moment} at {ratio:g}": readings.correlations(rows, workload, moment, ratio)
        for moment, ratio in itertools.product(GROWING, settings["ratios"])
    }
    order = paired_order(found, alternative="greater")
    p_values = {name: statistics.sign_flip_test(rho, "greater") for name, rho in found.items()}
    positive = all((rho > 0).all() for rho in found.values())
    shown = [
        f"{test.label}: {text(test.interval)}, least {found[test.label].min():.2f}, "
        f"p = {p_values[test.label]:.2g}"
        for test in order.tests
    ]
    if order.verdict == "fails":
        verdict, deciding = "fails", order.deciding
        p_value = p_values[deciding.label]
    else:
        deciding = min(order.tests, key=lambda test: test.interval.estimate)
        p_value = max(p_values.values())
        verdict = "holds" if positive and p_value < LEVEL else "inconclusive"
    note = (
        f"Spearman of epoch and utility over {count} epochs, {deciding.label} decides: "
        f"{'; '.join(shown)}; to hold, all must be positive in every seed, so the claim's p is "
        f"the largest, unadjusted{_opposite(verdict, deciding)}"
    )
    if 2.0**-order.n >= LEVEL:
        note += f"; {order.n} seeds cannot reach p < {LEVEL:g}"
    if len(found) / 2**order.n >= LEVEL:
        note += f"; no {len(found)} tests on {order.n} seeds can show a fall"
    mean, low, high = deciding.interval
    return Finding(verdict, note, order.n, mean, (low, high), p_value)


def large_spread(rows: list[Row], workload: Workload) -> Finding:
    """E2. One wide range is enough, so all are in the family, and the claim fails if none can be.

    The range that counts is that of the ratio whose mean over the seeds is largest.
    """
    ranges = readings.accuracy_ranges(rows, workload)
    costs = readings.band_costs(rows, workload)
    if costs.shape[1] != TENTHS:
        raise LookupError(f"{costs.shape[1]} bands of magnitudes were ablated, not {TENTHS}")
    found = {f"range at {ratio:g}": values for ratio, values in ranges.items()}
    pairs = {label: values - LEAST_RANGE for label, values in found.items()}
    found[LARGEST] = pairs[LARGEST] = costs[:, -1] - costs[:, 0]
    order = paired_order(pairs, alternative="greater")
    *spreads, bands = order.tests
    widest = max(spreads, key=lambda test: test.interval.estimate)
    narrow = all(test.p_opposite < LEVEL for test in spreads)
    if narrow or bands.p_opposite < LEVEL:
        verdict, deciding = "fails", widest if narrow else bands
    else:
        deciding = max(widest, bands, key=lambda test: test.p_value)
        verdict = "holds" if deciding.p_value < LEVEL else "inconclusive"
    intervals = {label: statistics.mean_interval(values) for label, values in found.items()}
    shown = [
        f"{test.label}: {text(intervals[test.label])}, p = {test.p_value:.2g}"
        for test in order.tests
    ]
    note = (
        f"accuracy in pp, ranges tested against {LEAST_RANGE:g}, {deciding.label} decides: "
        f"{'; '.join(shown)}{_opposite(verdict, deciding)}; mean cost of each tenth, smallest "
        f"weights first: {', '.join(f'{cost:.2g}' for cost in costs.mean(axis=0))}"
    )
    if len(pairs) / 2**order.n >= LEVEL:
        note += f"; no {len(pairs)} tests on {order.n} seeds can reach p < {LEVEL:g}"
    mean, low, high = intervals[deciding.label]
    return Finding(verdict, note, order.n, mean, (low, high), deciding.p_value)


def _opposite(verdict: str, deciding: PairedTest) -> str:
    return f"; of the opposite p = {deciding.p_opposite:.2g}" if verdict == "fails" else ""


def ratio_collapses(rows: list[Row], workload: Workload) -> Finding:
    """E3."""
    by_ratio, by_number = readings.size_distances(rows, workload)
    label = f"ratio < {DISTANCE_RATIO:g} number"
    finding = ordered({label: by_ratio - DISTANCE_RATIO * by_number}, "differences in distance")
    distances = ", ".join(
        f"equal {name} {text(statistics.mean_interval(found))}"
        for name, found in (("ratio", by_ratio), ("number", by_number))
    )
    sizes = ", ".join(f"{size:g}" for size in (1.0, *workload.settings["sizes"]["densities"]))
    shares = ", ".join(f"{share:g}" for share in workload.settings["sizes"]["numbers"])
    note = f"{finding.note}; distances {distances}; sizes {sizes}; shares {shares}"
    return finding._replace(note=note)


def largest_utility(rows: list[Row], workload: Workload) -> Finding:
    """E4."""
    if SMALLEST not in workload.settings["sizes"]["densities"]:
        raise LookupError(f"no network of {SMALLEST:g} of the weights was run")
    pairs, means = {}, []
    for ratio in RATIOS_OF_LARGEST:
        own = readings.own_ratio(workload, ratio)
        small, dense = (readings.largest(rows, workload, size, own) for size in (SMALLEST, 1.0))
        pairs[f"{SMALLEST:g} > 1 at {ratio:g}"] = small - dense
        means.append(f"at {ratio:g} {small.mean():.3g} and {dense.mean():.3g}")
    finding = ordered(pairs, "differences in largest utility, nats", alternative="greater")
    return finding._replace(note=f"{finding.note}; means {', '.join(means)}")


def resembles_pretrained(rows: list[Row], workload: Workload) -> Finding:
    """E5. Decided at one density; the others are reported."""
    densities = workload.settings["one_shot"]["densities"]
    if RETRAINED not in densities:
        raise LookupError(f"no network was pruned in one shot to a density of {RETRAINED:g}")
    found, shown = {}, []
    for density in densities:
        pruned, small = readings.retrained_distances(rows, workload, density)
        found[density] = pruned - small
        shown.append(f"at density {density:g} {pruned.mean():.3g} and {small.mean():.3g}")
    finding = ordered({"pruned < small": found.pop(RETRAINED)}, "differences in distance")
    note = f"density {RETRAINED:g}, {finding.note}"
    for density, differences in found.items():
        p_value = statistics.sign_flip_test(differences, "less")
        interval = text(statistics.mean_interval(differences))
        note += f"; not decisive, density {density:g}: {interval}, p = {p_value:.2g}"
    note += f"; distances of pruned and small networks from the pretrained one {', '.join(shown)}"
    return finding._replace(note=note)

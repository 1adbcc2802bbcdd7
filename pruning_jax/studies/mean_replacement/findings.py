"""What the rows of the mean-replacement study say on each claim: a verdict and its numbers.

The unit is the seed, and methods are compared on the same seeds.
"""

import numpy as np

from pruning_jax.analysis import statistics
from pruning_jax.analysis.claims import LEVEL, paired_order
from pruning_jax.measurements import Row
from pruning_jax.measurements.mean_replacement import scorer_areas
from pruning_jax.studies.mean_replacement import readings
from pruning_jax.studies.questions import Finding, ordered, text
from pruning_jax.studies.workloads import Workload

FOLDED = ("weight_norm", "random", "abs_rs", "abs_mrs")
"""The criteria whose penalty folding must cut."""
ABSOLUTE = ("abs_rs", "abs_mrs")
LEAST_BELOW = 0.8
"""The share of settings in which folding must cut the penalty."""
EQUAL_AREA = 0.05
"""The difference in a profile's area that counts as none."""
EXACT = 1e-5
"""The relative error of a numeric minimum that counts as none."""
LEAST_SELECTIONS = 6
"""Selections that can be split into a first third and a remainder, two intervals in the first."""


def folding_helps(rows: list[Row], workload: Workload) -> Finding:
    """M1. By the mean over settings and by the share of settings, where a tie is no help."""
    readings.need(workload, FOLDED)
    by_seed = readings.penalties(rows, workload)
    pairs, shares, ties = {}, {}, {}
    for criterion in FOLDED:
        changes = [found[criterion, "mean"] - found[criterion, "zero"] for found in by_seed]
        pairs[f"{criterion} mean < zero"] = np.array([change.mean() for change in changes])
        shares[criterion] = np.array([(change < 0).mean() for change in changes])
        ties[criterion] = np.mean([(change == 0).mean() for change in changes])
    finding = ordered(pairs, "mean less zero penalty in nats")
    shown = ", ".join(
        f"{name} {100 * share.mean():.0f} % ({100 * ties[name]:.0f} % on it)"
        for name, share in shares.items()
    )
    finding = finding._replace(note=f"{finding.note}; settings below y = x: {shown}")
    return _often_enough(finding, shares)


def _often_enough(finding: Finding, shares: dict[str, np.ndarray]) -> Finding:
    """M1, whose every share of settings must reach `LEAST_BELOW`."""
    least = min(shares, key=lambda name: shares[name].mean())
    mean, low, high = statistics.mean_interval(shares[least])
    if mean >= LEAST_BELOW:
        return finding
    note = f"{finding.note}; {least} lies below y = x in less than {100 * LEAST_BELOW:g} %"
    finding = finding._replace(note=note)
    if high < LEAST_BELOW and finding.verdict != "fails":
        return finding._replace(verdict="fails", estimate=mean, ci=(low, high), p_value=None)
    return finding._replace(verdict="inconclusive") if finding.verdict == "holds" else finding


def advantage_shrinks(rows: list[Row], workload: Workload) -> Finding:
    """M2."""
    gaps = readings.gaps(rows, workload)
    few, many = min(gaps), max(gaps)
    if few == many:
        raise LookupError("only one number of fine-tuning steps was run")
    pairs = {
        f"gap({few}) > gap({many})": gaps[few] - gaps[many],
        f"gap({many}) > 0": gaps[many],
    }
    finding = ordered(pairs, "zero less mean penalty in nats", alternative="greater")
    means = ", ".join(f"gap({count}) {gap.mean():.3g}" for count, gap in gaps.items())
    return finding._replace(note=f"{finding.note}; means {means}")


def _areas(rows: list[Row], workload: Workload) -> dict[str, np.ndarray]:
    """The area under each criterion's performance profiles; shape (seeds,)."""
    by_seed = [scorer_areas(readings.probed(rows, workload, seed)) for seed in workload.seeds]
    return {name: np.array([found[name] for found in by_seed]) for name in by_seed[0]}


def order_of_scorers(rows: list[Row], workload: Workload) -> Finding:
    """M3."""
    order = (("abs_rs", "random"), ("abs_mrs", "random"), ("random", "rs"), ("random", "mrs"))
    readings.need(workload, {name for pair in order for name in pair})
    areas = _areas(rows, workload)
    pairs = {f"{high} > {low}": areas[high] - areas[low] for high, low in order}
    finding = ordered(pairs, "differences in area under the profile", alternative="greater")
    means = ", ".join(f"{name} {area.mean():.3f}" for name, area in areas.items())
    return finding._replace(note=f"{finding.note}; areas {means}")


def absolute_scorers_agree(rows: list[Row], workload: Workload) -> Finding:
    """M4. Equal areas and overlapping units are both shown, or one of them is refuted."""
    readings.need(workload, (*ABSOLUTE, "random"))
    areas = _areas(rows, workload)
    difference = areas["abs_mrs"] - areas["abs_rs"]
    interval = statistics.mean_interval(difference)
    equal = statistics.equivalence_test(difference, EQUAL_AREA)
    same = readings.overlaps(rows, workload, *ABSOLUTE)
    chance = readings.overlaps(rows, workload, "abs_mrs", "random")
    order = paired_order({"overlap": same - chance}, alternative="greater")
    p_value = max(equal, order.deciding.p_value)
    apart = interval.low > EQUAL_AREA or interval.high < -EQUAL_AREA
    refuted = apart or order.verdict == "fails"
    verdict = "holds" if p_value < LEVEL else "fails" if refuted else "inconclusive"
    note = (
        f"area of abs_mrs less that of abs_rs: {text(interval)}, equal within {EQUAL_AREA:g} at "
        f"p = {equal:.2g}; overlap of their units {same.mean():.2f}, of abs_mrs and random "
        f"{chance.mean():.2f}, p = {order.deciding.p_value:.2g}"
    )
    return Finding(verdict, note, order.n, interval.estimate, interval[1:], p_value)


def active_units(rows: list[Row], workload: Workload) -> Finding:
    """M5."""
    readings.need(workload, ("mrs", "abs_mrs"))
    signed, absolute = (
        readings.removed_squares(rows, workload, name) for name in ("mrs", "abs_mrs")
    )
    pairs = {"mrs > abs_mrs": signed - absolute}
    finding = ordered(pairs, "differences in mean squared activation", alternative="greater")
    means = f"means mrs {signed.mean():.3g}, abs_mrs {absolute.mean():.3g}"
    return finding._replace(note=f"{finding.note}; {means}")


def few_units(rows: list[Row], workload: Workload) -> Finding:
    """M6. Growth is the share of units first selected, a selection."""
    readings.need(workload, (*ABSOLUTE, "random"))
    by_seed = readings.selected(rows, workload)
    count = len(by_seed[0]["random"])
    if count < LEAST_SELECTIONS:
        raise LookupError(f"{count} selections; growth needs at least {LEAST_SELECTIONS}")
    final = {
        name: np.array([shares[name][-1] for shares in by_seed]) for name in (*ABSOLUTE, "random")
    }
    pairs = {f"random covers more than {name}": final["random"] - final[name] for name in ABSOLUTE}
    for name in ABSOLUTE:
        pairs[f"{name} slows"] = np.array([_slowing(shares[name]) for shares in by_seed])
    finding = ordered(pairs, "differences in share of units", alternative="greater")
    means = ", ".join(f"{name} {share.mean():.2f}" for name, share in final.items())
    return finding._replace(note=f"{finding.note}; shares after {count} selections {means}")


def _slowing(shares: np.ndarray) -> float:
    """Growth a selection in the first third less that in the remainder."""
    third = len(shares) // 3
    early = (shares[third] - shares[0]) / third
    late = (shares[-1] - shares[third]) / (len(shares) - 1 - third)
    return early - late


def mean_is_optimal(rows: list[Row], workload: Workload) -> Finding:
    """M7. An identity: no test, every seed must show it."""
    errors = readings.relative_errors(rows, workload)
    if len(errors) < 2:
        raise ValueError("one seed decides nothing")
    if not np.isfinite(errors).all():
        raise ValueError(f"a relative error is not finite: {errors.tolist()}")
    worst = float(errors.max())
    note = f"largest relative error of the numeric minimum; at most {EXACT:g} counts as none"
    return Finding("holds" if worst <= EXACT else "fails", note, len(errors), worst)

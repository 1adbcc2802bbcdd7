"""What the mean-replacement study decides: claims M1 to M7 of S4, from its rows.

Penalties are on one split: D_s itself where it was measured, as in the paper's appendix, or else
the first that was.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import scipy  # its parts are imported when they are used

from pruning_jax.analysis import claims
from pruning_jax.analysis.claims import Claim, Gate
from pruning_jax.measurements import Row, profiles, where
from pruning_jax.measurements import mean_replacement as measured
from pruning_jax.studies import questions
from pruning_jax.studies.mean_replacement import grid, readings
from pruning_jax.studies.questions import Finding, Question, means, thresholds
from pruning_jax.studies.workloads import Workload

LABELS = {
    "small_conv_cifar10": "B: Small Conv, CIFAR-10 subset",
    "medium_conv_cifar10": "Medium Conv, CIFAR-10",
    "vgg11_cifar10": "VGG-11, CIFAR-10",
}
PAPER = {
    "network": "Small Conv, Medium Conv, VGG-11; valid padding, no batch normalisation",
    "data": "CIFAR-10; ImageNet 64x64",
    "training": "SGD, 60 epochs, batches of 64; rate .01 and momentum .9 in the authors' code",
    "seeds": "8",
}
"""What S4 ran."""
FOLDED = ("weight_norm", "random", "abs_rs", "abs_mrs")
"""The criteria whose penalty folding must cut."""
ABSOLUTE = ("abs_rs", "abs_mrs")
INFORMED = ("weight_norm", *ABSOLUTE)
"""The criteria whose advantage by folding must last."""
ORDER = (("abs_rs", "random"), ("abs_mrs", "random"), ("random", "rs"), ("random", "mrs"))
AT = 0.1
"""The fraction of the paper's Figures 2, 4 and 6."""

THRESHOLDS = {
    "share_below": 0.8,  # of the settings whose difference is significant
    "equal_area": 0.05,  # of a performance profile
    "overlap": 0.5,  # Jaccard's, of the units that two criteria remove
    "exact": 1e-5,  # relative error of a numeric minimum
    "least_fraction": 0.05,  # of a layer's units, in profiles
    "most_fraction": 0.2,  # in fine-tuning
    "put_later": (),
}


def decide(rows: Iterable[Row], workload: Workload) -> list[Claim]:
    """Decides claims M1 to M7 for a workload.

    Args:
      rows: of ``results.jsonl``, of any workloads, as many as there are.
      workload: what ran.

    Source: S4; PAPERS.md, sections 3 and 4.
    """
    rows = [row for row in rows if row["workload"] == workload.name]
    split = primary(workload)
    own = workload._replace(settings=workload.settings | {"evaluation_splits": (split,)})
    of_split = [row for row in rows if row.get("split", split) == split]
    label = f"{LABELS.get(workload.name, workload.name)}; {SPLITS[split]}"
    return questions.decide(QUESTIONS, of_split, own, label)


SPLITS = {"scored": "D_s", "train": "training examples", "validation": "validation examples"}


def primary(workload: Workload) -> str:
    """The split that decides."""
    splits = workload.settings["evaluation_splits"]
    return "scored" if "scored" in splits else splits[0]


def gates(rows: list[Row], workload: Workload, *names: str) -> tuple[Gate, ...]:
    """Of the last probe's networks, a tenth of all layers removed without replacement."""
    step, criteria = grid.probe_steps(workload)[-1], workload.settings["criteria"]
    everywhere = [name for name, of in workload.settings["layers"].items() if of == "all"]
    probed = where(rows, phase="probed", step=step, fraction=AT, layers=(everywhere or [None])[0])
    dense = where(rows, phase="pretrained")
    if len(probed) < len(workload.seeds) or len(dense) < len(workload.seeds):
        raise LookupError("a network of the gates has no row")
    after = {
        name: 100 * float(np.mean([row["pruned_accuracy"][name]["zero"] for row in probed]))
        for name in criteria
    }
    before = 100 * float(np.mean([row["accuracy"] for row in probed]))
    train, test = (
        100 * float(np.mean([row[f"{split}_accuracy"] for row in dense]))
        for split in ("train", "test")
    )
    best = max(after.values())
    found = {
        "alive": claims.alive(best, before, 10.0),
        "sensitive": claims.sensitive(best, after.get("random", best)),
        "not overfitted": claims.not_overfitted(train, test),
        "converged": claims.converged(None),
    }
    return tuple(found[name] for name in names)


ALL = ("alive", "sensitive", "not overfitted", "converged")


def folding_helps(rows: list[Row], workload: Workload) -> Finding:
    """M1. By the mean over settings, and by the settings whose difference is not chance."""
    limits = THRESHOLDS | dict(thresholds(workload))
    readings.need(workload, FOLDED)
    by_seed = readings.penalties(rows, workload)
    changes = {
        name: np.array([found[name, "mean"] - found[name, "zero"] for found in by_seed])
        for name in FOLDED
    }
    parts = [
        claims.below(f"{name}: folded - plain < 0", change.mean(axis=1))
        for name, change in changes.items()
    ]
    every = np.concatenate([*changes.values()], axis=1)
    with np.errstate(invalid="ignore"):
        p_values = (
            scipy.stats.ttest_1samp(every, 0, axis=0).pvalue if len(every) > 1 else np.ones(1)
        )
    sure = every[:, np.nan_to_num(p_values, nan=1.0) < claims.LEVEL]
    told = Gate(
        "resolution", float(sure.shape[1]), "some setting differs beyond chance", bool(sure.size)
    )
    if sure.size:
        shares, least = (sure < 0).mean(axis=1), limits["share_below"]
        parts.append(claims.above(f"share of settings below y = x > {least:g}", shares, least))
    figure = np.array([_figure_2(rows, workload, seed) for seed in workload.seeds]).mean(axis=0)
    note = (
        f"of {every.shape[1]} settings {sure.shape[1]} differ beyond chance, of which "
        f"{(sure.mean(axis=0) > 0).sum() if sure.size else 0} lie above y = x; Figure 2 itself "
        f"(f = {AT:g}, all layers, mean of seeds): {100 * (figure < 0).mean():.0f} % of "
        f"{figure.size} points below"
    )
    here = means({name: change for name, change in changes.items()}, "nats by folding")
    required = (*gates(rows, workload, *ALL), told._replace(unfits=False))
    return Finding(tuple(parts), here, required, note)


def _figure_2(rows: list[Row], workload: Workload, seed: int) -> np.ndarray:
    own = where(rows, phase="probed", seed=seed, fraction=AT, layers="all")
    return np.array(
        [row["penalty"][n]["mean"] - row["penalty"][n]["zero"] for row in own for n in FOLDED]
    )


def advantage_shrinks(rows: list[Row], workload: Workload) -> Finding:
    """M2. At every fraction that the paper's figure has."""
    tuning, limits = workload.settings["fine_tuning"], THRESHOLDS | dict(thresholds(workload))
    counts = sorted(int(count) for count in tuning["steps"])
    if len(counts) < 2:
        raise LookupError("only one number of fine-tuning steps was run")
    parts, shown = [], []
    for fraction in sorted(f for f in tuning["fractions"] if f != grid.ONE):
        if fraction > limits["most_fraction"]:
            continue
        gaps = readings.gaps(rows, workload, INFORMED, fraction)
        at = f"f = {fraction:g}: "
        middle, last = counts[len(counts) // 2], counts[-1]
        parts.append(claims.above(f"{at}gap(0) - gap({last}) > 0", gaps[0] - gaps[last]))
        parts.append(claims.above(f"{at}gap({middle}) > 0", gaps[middle]))
        parts.append(claims.above(f"{at}gap({last}) > 0", gaps[last]))
        shown.append(at + ", ".join(f"gap({n}) {gap.mean():.3g}" for n, gap in gaps.items()))
    if not parts:
        raise LookupError(f"no fraction up to {limits['most_fraction']:g} was fine-tuned")
    epoch = workload.examples // workload.pretraining.recipe.batch_size
    rule = f"{counts[-1]} steps are no more than the {epoch} of an epoch"
    short = Gate("short", float(counts[-1]), rule, counts[-1] <= epoch)
    random = (
        readings.gaps(rows, workload, ("random",), AT) if "random" in tuning["criteria"] else {}
    )
    note = "random: " + ", ".join(f"gap({n}) {gap.mean():.3g}" for n, gap in random.items())
    here = f"{'; '.join(shown)} nats"
    return Finding(tuple(parts), here, (*gates(rows, workload, *ALL), short), note * bool(random))


def order_of_scorers(rows: list[Row], workload: Workload) -> Finding:
    """M3. For each replacement by itself."""
    least = (THRESHOLDS | dict(thresholds(workload)))["least_fraction"]
    readings.need(workload, {name for pair in ORDER for name in pair})
    parts, here = [], []
    for replacement in measured.REPLACEMENTS:
        areas = _areas(rows, workload, replacement, least)
        for high, low in ORDER:
            label = f"{replacement}: {high} - {low} > 0"
            parts.append(claims.above(label, areas[high] - areas[low]))
        here.append(means({n: areas[n] for pair in ORDER for n in pair}, f"({replacement})"))
    own = where(rows, phase="probed", layers="midconv", fraction=AT)
    figure = {
        name: np.array([row["penalty"][name]["zero"] for row in own])
        for name in workload.settings["criteria"]
    }
    note = f"Figure 6a, midconv, f = {AT:g}: {means(figure, 'nats')}" if own else ""
    return Finding(tuple(parts), f"areas {'; '.join(here)}", gates(rows, workload, *ALL), note)


def _areas(
    rows: list[Row], workload: Workload, replacement: str, least: float
) -> dict[str, np.ndarray]:
    """The area under each criterion's profile over the settings of a seed; shape (seeds,)."""
    found: dict[str, list[float]] = {}
    for seed in workload.seeds:
        own = readings.probed(rows, workload, seed)
        own = [row for row in own if row["fraction"] != grid.ONE and row["fraction"] >= least]
        costs = measured.penalties(own)
        names = [name for name, kind in costs if kind == replacement]
        of = profiles.areas([costs[name, replacement] for name in names])
        for name, area in zip(names, of, strict=True):
            found.setdefault(name, []).append(float(area))
    return {name: np.array(areas) for name, areas in found.items()}


def absolute_scorers_agree(rows: list[Row], workload: Workload) -> Finding:
    """M4."""
    limits = THRESHOLDS | dict(thresholds(workload))
    readings.need(workload, (*ABSOLUTE, "random"))
    by_seed = [
        measured.scorer_areas(readings.probed(rows, workload, seed)) for seed in workload.seeds
    ]
    rs, mrs = (np.array([found[name] for found in by_seed]) for name in ABSOLUTE)
    same = readings.overlaps(rows, workload, *ABSOLUTE)
    chance = readings.overlaps(rows, workload, "abs_mrs", "random")
    margin, least = limits["equal_area"], limits["overlap"]
    area = claims.equal(f"area of abs_mrs - abs_rs = 0 within {margin:g}", mrs - rs, margin)
    parts = area, claims.above(f"overlap of their units > {least:g}", same, least)
    here = f"areas {mrs.mean():.3f} and {rs.mean():.3f}; overlap {same.mean():.2f}"
    note = f"overlap of abs_mrs and random {chance.mean():.2f}"
    required = gates(rows, workload, "alive", "sensitive")
    return Finding(parts, here, (*required, claims.resolution(area)), note)


def active_units(rows: list[Row], workload: Workload) -> Finding:
    """M5."""
    readings.need(workload, ("mrs", "abs_mrs"))
    signed, absolute = (
        readings.removed_squares(rows, workload, name) for name in ("mrs", "abs_mrs")
    )
    part = claims.above("mrs - abs_mrs > 0", signed - absolute)
    here = f"mean square mrs {signed.mean():.3g}, abs_mrs {absolute.mean():.3g}"
    return Finding((part,), here, gates(rows, workload, "sensitive"))


def few_units(rows: list[Row], workload: Workload) -> Finding:
    """M6. Coverage at the end, and counted anew after a third; and overlap from one to the next."""
    names = (*ABSOLUTE, "random")
    readings.need(workload, names)
    coverage, anew, stable = ({name: [] for name in names} for _ in range(3))
    for size, chosen in _selections(rows, workload):
        for name in names:
            own = chosen[name]
            coverage[name].append(len(set().union(*own)) / size)
            anew[name].append(len(set().union(*own[len(own) // 3 :])) / size)
            pairs = zip(own, own[1:], strict=False)
            stable[name].append(np.mean([measured.overlap(*pair) for pair in pairs]))
    parts = []
    for name in ABSOLUTE:
        for what, of, test in (
            ("coverage", coverage, claims.below),
            ("coverage after a third", anew, claims.below),
            ("overlap of successive selections", stable, claims.above),
        ):
            sign = "<" if test is claims.below else ">"
            difference = np.array(of[name]) - np.array(of["random"])
            parts.append(test(f"{what}: {name} - random {sign} 0", difference))
    shares = {name: np.array(values) for name, values in coverage.items()}
    return Finding(
        tuple(parts), f"coverage {means(shares, '')}".strip(), gates(rows, workload, "sensitive")
    )


def _selections(
    rows: list[Row], workload: Workload
) -> Iterator[tuple[int, dict[str, list[set[int]]]]]:
    """Each seed's size of the layer, and the units that every criterion selects step by step."""
    for size, own in readings.selections(rows, workload):
        if len(own) < 3:
            raise LookupError(f"{len(own)} selections; stability needs 3 at least")
        criteria = workload.settings["criteria"]
        yield size, {name: [set(row["units"][name]) for row in own] for name in criteria}


def mean_is_optimal(rows: list[Row], workload: Workload) -> Finding:
    """M7. An identity: no test, every seed must show it."""
    errors = readings.relative_errors(rows, workload)
    if not np.isfinite(errors).all():
        raise ValueError(f"a relative error is not finite: {errors.tolist()}")
    exact = (THRESHOLDS | dict(thresholds(workload)))["exact"]
    part = claims.identity(f"relative error <= {exact:g}", errors, exact)
    return Finding((part,), f"largest relative error {errors.max():.2g}")


FULL = "Small Conv on the whole of CIFAR-10, 42,180 steps, 8 seeds, penalties on D_s: about 2.4 h"
QUESTIONS = {
    "M1": Question(
        "Folding the means of removed units cuts the penalty whatever the scorer",
        "S4, section 4.1, Figures 2 and 3",
        'below y = x in "almost all cases"',
        "nats",
        folding_helps,
        "penalty with means folded less that without, mean over the settings of a seed; and of the "
        "settings whose difference over the seeds is significant, the share below y = x",
        FULL,
        "Said to fail: the signs of differences below resolution were counted.",
    ),
    "M2": Question(
        "The advantage of folding shrinks with fine-tuning and is still there at 500 steps",
        "S4, section 4.2, Figure 4",
        "after 10, 100 and 500 steps, curves only",
        "nats",
        advantage_shrinks,
        "gap(n) = penalty without less that with means folded, after n steps; norm, ABS_RS, "
        "ABS_MRS",
        FULL,
        "500 steps were 4 epochs of the subset, where the paper's were .7 of one.",
    ),
    "M3": Question(
        "Absolute scores prune better than random, raw ones worse",
        "S4, section 4.3, Figure 5",
        "the ordering, curves only",
        "area",
        order_of_scorers,
        "area under the performance profile of each replacement, fractions of 5 % and more",
        FULL,
        "Said to fail for settings of one unit, which the paper's profiles do not have.",
    ),
    "M4": Question(
        "ABS_MRS and ABS_RS prune equally well and remove much the same units",
        "S4, section 4.3",
        '"very similar"',
        "area",
        absolute_scorers_agree,
        "difference in area under the profile, two one-sided t tests within .05; Jaccard's overlap",
        "A difference in area beyond .05, or an overlap below a half; " + FULL,
    ),
    "M5": Question(
        "MRS removes units of higher activation than ABS_MRS does",
        "S4, Figure 6b",
        "histogram only",
        "squared activation",
        active_units,
        "mean squared activation of the removed units, mean over probes, paired by seed",
        "One seed in five the other way; " + FULL,
    ),
    "M6": Question(
        "ABS_RS and ABS_MRS keep to a small, stable set of units",
        "S4, section 4.4, Figure 7",
        "random comes to cover all units, absolute scores few",
        "share of units",
        few_units,
        "share of a layer's units ever selected, in all and anew after a third of training; "
        "Jaccard's "
        "overlap of successive selections; each against random's",
        FULL,
        "Slowing growth was tested before, which any set that fills up shows.",
    ),
    "M7": Question(
        "The mean is the constant that best replaces a unit in a linear regression",
        "S4, section 3.3",
        "proof",
        "relative error",
        mean_is_optimal,
        "|c - mean| / |mean|, c the numeric minimum, double precision",
        "A relative error above 1e-5.",
    ),
}
"""The claims, by their codes."""

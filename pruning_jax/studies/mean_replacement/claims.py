"""What the mean-replacement study decides: claims M1 to M7 of S4, from its rows.

Penalties are on one split: D_s itself where it was measured, as in the paper's appendix, or else
the first that was.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np
import scipy  # its parts are imported when they are used

from pruning_jax.analysis import claims
from pruning_jax.analysis.claims import Claim, Gate
from pruning_jax.measurements import Row, rows_of, where
from pruning_jax.measurements import mean_replacement as measured
from pruning_jax.measurements.profiles import areas
from pruning_jax.studies import questions
from pruning_jax.studies.mean_replacement import grid
from pruning_jax.studies.questions import (
    Finding,
    Question,
    accuracy,
    column,
    each_seed,
    finite,
    means,
)
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


def decide(rows: Iterable[Row], workload: Workload) -> list[Claim]:
    """Decides claims M1 to M7 for a workload.

    Args:
      rows: of ``results.jsonl``, of any workloads, as many as there are.
      workload: what ran.

    Source: S4; PAPERS.md, sections 3 and 4.
    """
    splits = workload.settings.evaluation_splits
    split = "scored" if "scored" in splits else splits[0]
    own = dataclasses.replace(workload.settings, evaluation_splits=(split,))
    of_split = [row for row in rows if row.get("split", split) == split]
    label = f"{LABELS.get(workload.name, workload.name)}; {grid.SPLITS[split]}"
    return questions.decide(QUESTIONS, of_split, workload._replace(settings=own), label)


def need(workload: Workload, criteria: Iterable[str]) -> None:
    """Raises `LookupError` where a criterion is not among those that run."""
    missing = [name for name in criteria if name not in workload.settings.criteria]
    if missing:
        raise LookupError(f"criteria not run: {', '.join(missing)}")


def probed(rows: list[Row], workload: Workload) -> list[list[Row]]:
    """Each seed's settings, every probe x layer set x fraction, in which a unit was removed.

    Raises:
      LookupError: a setting has no row, or none removes a unit.
    """
    found = []
    for seed in workload.seeds:
        own, steps = where(rows, phase="probed", seed=seed), grid.probe_steps(workload)
        rows_of(own, (job for step in steps for job in grid.probed_jobs(workload, seed, step)))
        found.append([row for row in own if any(row["removed"].values())])
        if not found[-1]:
            raise LookupError(f"no fraction removes a unit at seed {seed}")
    return found


def gate(rows: list[Row], workload: Workload, name: str) -> Gate:
    """Of the last probe's networks, a tenth of all layers removed without replacement."""
    step, layers = grid.probe_steps(workload)[-1], workload.settings.layers
    everywhere = next((name for name, of in layers.items() if of == "all"), None)
    place = {"step": step, "fraction": AT, "layers": everywhere}
    last = each_seed(rows, workload, "probed", **place)
    dense = each_seed(rows, workload, "pretrained")
    after = {
        name: 100 * float(np.mean([row["pruned_accuracy"][name]["zero"] for row in last]))
        for name in workload.settings.criteria
    }
    best, before = max(after.values()), 100 * float(np.mean([row["accuracy"] for row in last]))
    return {
        "alive": claims.alive(best, before, 100 / workload.classes),
        "sensitive": claims.sensitive(best, after.get("random", best)),
        "not overfitted": claims.not_overfitted(accuracy(dense, "train"), accuracy(dense, "test")),
        "converged": claims.converged(None),
    }[name]


NAMES = ("alive", "sensitive", "not overfitted", "converged")
GATES = tuple(functools.partial(gate, name=name) for name in NAMES)
ALIVE, SENSITIVE, *_ = GATES


def folding_helps(rows: list[Row], workload: Workload) -> Finding:
    """M1. By the mean over settings, and by the settings whose difference is not chance."""
    need(workload, FOLDED)
    by_seed = [measured.penalties(own) for own in probed(rows, workload)]
    for method, values in itertools.chain(*(own.items() for own in by_seed)):
        finite(values, f"a penalty of {', '.join(method)}")
    changes = {
        name: np.array([found[name, "mean"] - found[name, "zero"] for found in by_seed])
        for name in FOLDED
    }
    parts = [
        claims.below(f"{name}: folded - plain < 0", change.mean(axis=1))
        for name, change in changes.items()
    ]
    every, p_values = np.concatenate([*changes.values()], axis=1), np.ones(1)
    if len(every) > 1:
        with np.errstate(invalid="ignore"):
            p_values = scipy.stats.ttest_1samp(every, 0, axis=0).pvalue
    sure = every[:, np.nan_to_num(p_values, nan=1.0) < claims.LEVEL]
    rule, least = "some setting differs beyond chance", workload.settings.thresholds.share_below
    told = Gate("resolution", float(sure.shape[1]), rule, bool(sure.size), unfits=False)
    if sure.size:
        shares = (sure < 0).mean(axis=1)
        parts.append(claims.above(f"share of settings below y = x > {least:g}", shares, least))
    figure = where(rows, phase="probed", fraction=AT, layers="all")
    figure = [measured.penalties(where(figure, seed=seed)) for seed in workload.seeds]
    figure = np.mean([[of[n, "mean"] - of[n, "zero"] for n in FOLDED] for of in figure], axis=0)
    note = (
        f"of {every.shape[1]} settings {sure.shape[1]} differ beyond chance, of which "
        f"{(sure.mean(axis=0) > 0).sum() if sure.size else 0} lie above y = x; Figure 2 itself "
        f"(f = {AT:g}, all layers, mean of seeds): {100 * (figure < 0).mean():.0f} % of "
        f"{figure.size} points below"
    )
    here = means(changes, "nats by folding")
    return Finding(tuple(parts), here, (told,), note)


def gaps(
    rows: list[Row], workload: Workload, criteria: tuple[str, ...], fraction: float
) -> dict[int, np.ndarray]:
    """Fine-tuning steps -> zero less mean penalty of some criteria at a fraction; shape (seeds,).

    Raises:
      LookupError: a fine-tuned network has no row.
      ValueError: a penalty is not finite.
    """
    own = where(rows, phase="fine_tuned", fraction=fraction)
    own = [row for row in own if row["criterion"] in criteria]
    jobs = [job for job in grid.fine_tuned_jobs(workload) if job["criterion"] in criteria]
    rows_of(own, (job for job in jobs if job["fraction"] == fraction))
    found = {}
    for count in (0, *sorted(workload.settings.fine_tuning.steps)):
        penalties = [
            [
                [row["penalty"][str(count)] for row in pair]
                for pair in measured.fine_tuned_pairs(where(own, seed=seed))
            ]
            for seed in workload.seeds
        ]
        if not all(penalties):
            raise LookupError(f"nothing was fine-tuned of {', '.join(criteria)} at {fraction:g}")
        both = finite(np.array(penalties, float), f"a penalty after {count} fine-tuning steps")
        found[count] = (both[..., 0] - both[..., 1]).mean(axis=1)
    return found


def advantage_shrinks(rows: list[Row], workload: Workload) -> Finding:
    """M2. At every fraction that the paper's figure has."""
    tuning, most = workload.settings.fine_tuning, workload.settings.thresholds.most_fraction
    counts, parts, shown = sorted(tuning.steps), [], []
    if len(counts) < 2:
        raise LookupError("only one number of fine-tuning steps was run")
    middle, last = counts[len(counts) // 2], counts[-1]
    for fraction in sorted(f for f in tuning.fractions if f != grid.ONE and f <= most):
        gap, at = gaps(rows, workload, INFORMED, fraction), f"f = {fraction:g}: "
        parts.append(claims.above(f"{at}gap(0) - gap({last}) > 0", gap[0] - gap[last]))
        parts += [claims.above(f"{at}gap({n}) > 0", gap[n]) for n in (middle, last)]
        shown.append(at + ", ".join(f"gap({n}) {of.mean():.3g}" for n, of in gap.items()))
    if not parts:
        raise LookupError(f"no fraction up to {most:g} was fine-tuned")
    rule = f"{last} steps are no more than the {workload.steps} of an epoch"
    short, note = Gate("short", float(last), rule, last <= workload.steps), ""
    if "random" in tuning.criteria:
        random = gaps(rows, workload, ("random",), AT).items()
        note = "random: " + ", ".join(f"gap({n}) {of.mean():.3g}" for n, of in random)
    here = f"{'; '.join(shown)} nats"
    return Finding(tuple(parts), here, (short,), note)


def order_of_scorers(rows: list[Row], workload: Workload) -> Finding:
    """M3. The area under each criterion's profile, for each replacement by itself."""
    least, parts, here = workload.settings.thresholds.least_fraction, [], []
    need(workload, {name for pair in ORDER for name in pair})
    large = [
        [row for row in own if row["fraction"] != grid.ONE and row["fraction"] >= least]
        for own in probed(rows, workload)
    ]
    for replacement in measured.REPLACEMENTS:
        of_seeds = []
        for costs in map(measured.penalties, large):
            own = {name: of for (name, kind), of in costs.items() if kind == replacement}
            of_seeds.append(dict(zip(own, areas([*own.values()]), strict=True)))
        area = {name: np.array([of[name] for of in of_seeds]) for name in of_seeds[0]}
        for high, low in ORDER:
            label = f"{replacement}: {high} - {low} > 0"
            parts.append(claims.above(label, area[high] - area[low]))
        here.append(means({n: area[n] for pair in ORDER for n in pair}, f"({replacement})"))
    own = where(rows, phase="probed", layers="midconv", fraction=AT)
    figure = {
        name: np.array([row["penalty"][name]["zero"] for row in own])
        for name in workload.settings.criteria
    }
    note = f"Figure 6a, midconv, f = {AT:g}: {means(figure, 'nats')}" if own else ""
    return Finding(tuple(parts), f"areas {'; '.join(here)}", (), note)


def overlap(first: Iterable[int], second: Iterable[int]) -> float:
    """Jaccard's overlap of two sets of units, |A and B| / |A or B|; not a number if both are empty.

    Source: Jaccard (1901).
    """
    a, b = set(first), set(second)
    return len(a & b) / len(a | b) if a | b else math.nan


def overlaps(rows: list[Row], workload: Workload, first: str, second: str) -> np.ndarray:
    """The overlap of the units that two criteria remove, mean over probes and layers; (seeds,)."""
    found = []
    for own in probed(rows, workload):
        chosen = [row["units"] for row in own if row.get("units")]
        if not chosen:
            raise LookupError(f"no row at seed {own[0]['seed']} lists the units removed")
        found.append(np.mean([overlap(units[first], units[second]) for units in chosen]))
    return np.array(found)


def absolute_scorers_agree(rows: list[Row], workload: Workload) -> Finding:
    """M4. Of both replacements."""
    margin = workload.settings.thresholds.equal_area
    least = workload.settings.thresholds.overlap
    need(workload, (*ABSOLUTE, "random"))
    by_seed = [measured.method_areas(own) for own in probed(rows, workload)]
    rs, mrs = (
        np.array([np.mean([of[name, kind] for kind in measured.REPLACEMENTS]) for of in by_seed])
        for name in ABSOLUTE
    )
    same = overlaps(rows, workload, *ABSOLUTE)
    chance = overlaps(rows, workload, "abs_mrs", "random")
    area = claims.equal(f"area of abs_mrs - abs_rs = 0 within {margin:g}", mrs - rs, margin)
    parts = area, claims.above(f"overlap of their units > {least:g}", same, least)
    here = f"areas {mrs.mean():.3f} and {rs.mean():.3f}; overlap {same.mean():.2f}"
    note = f"overlap of abs_mrs and random {chance.mean():.2f}"
    return Finding(parts, here, (claims.resolution(area),), note)


def active_units(rows: list[Row], workload: Workload) -> Finding:
    """M5. In the layer that is selected from, mean over the probes."""
    need(workload, ("mrs", "abs_mrs"))
    selection, squares = vars(workload.settings.selection), []
    for own in probed(rows, workload):
        there = [row["mean_square"] for row in where(own, **selection) if row.get("mean_square")]
        if not there:
            raise LookupError(f"no row at seed {own[0]['seed']} has the squares of {selection}")
        squares.append([np.mean([of[name] for of in there]) for name in ("mrs", "abs_mrs")])
    signed, absolute = np.array(squares).T
    part = claims.above("mrs - abs_mrs > 0", signed - absolute)
    here = f"mean square mrs {signed.mean():.3g}, abs_mrs {absolute.mean():.3g}"
    return Finding((part,), here)


def few_units(rows: list[Row], workload: Workload) -> Finding:
    """M6. Coverage at the end, and counted anew after a third; and overlap from one to the next."""
    names = (*ABSOLUTE, "random")
    need(workload, names)
    found = {what: {name: [] for name in names} for what in ("all", "anew", "stable")}
    for size, selected in _selections(rows, workload):
        for name in names:
            own = [set(units[name]) for units in selected]
            pairs = zip(own, own[1:], strict=False)
            found["all"][name].append(len(set().union(*own)) / size)
            found["anew"][name].append(len(set().union(*own[len(own) // 3 :])) / size)
            found["stable"][name].append(np.mean([overlap(*pair) for pair in pairs]))
    parts = []
    for name in ABSOLUTE:
        for what, of, test, sign in (
            ("coverage", "all", claims.below, "<"),
            ("coverage after a third", "anew", claims.below, "<"),
            ("overlap of successive selections", "stable", claims.above, ">"),
        ):
            difference = np.array(found[of][name]) - np.array(found[of]["random"])
            parts.append(test(f"{what}: {name} - random {sign} 0", difference))
    shares = {name: np.array(values) for name, values in found["all"].items()}
    here = f"coverage {means(shares, '')}".strip()
    return Finding(tuple(parts), here)


def _selections(rows: list[Row], workload: Workload) -> Iterator[tuple[int, list[dict]]]:
    """Each seed's size of the layer, and the units that criteria select step by step."""
    asked, total = workload.settings, grid.total_steps(workload)
    every, place = asked.selection_every, vars(asked.selection)
    for seed in workload.seeds:
        jobs = [grid.selected_job(workload, seed, n) for n in range(every, total + 1, every)]
        own = rows_of(where(rows, phase="selected", seed=seed), jobs)
        (layer,) = rows_of(rows, [{"phase": "activations", "seed": seed, **place}])
        if len(own) < 3:
            raise LookupError(f"{len(own)} selections; stability needs 3 at least")
        yield len(layer["mean_square"]), [row["units"] for row in own]


def mean_is_optimal(rows: list[Row], workload: Workload) -> Finding:
    """M7. An identity: no test, every seed must show it."""
    exact = workload.settings.thresholds.exact
    own = each_seed(rows, workload, "linear_regression")
    errors = finite(column(own, "relative_error"), "a relative error")
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
        "penalty with means folded less that without, mean over the settings of a seed; and of "
        "the settings whose difference over the seeds is significant, the share below y = x",
        FULL,
        "Said to fail: the signs of differences below resolution were counted.",
        gates=GATES,
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
        gates=GATES,
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
        gates=GATES,
    ),
    "M4": Question(
        "ABS_MRS and ABS_RS prune equally well and remove much the same units",
        "S4, section 4.3",
        '"very similar"',
        "area",
        absolute_scorers_agree,
        "difference in area under the profile, two one-sided t tests within .05; Jaccard's overlap",
        "A difference in area beyond .05, or an overlap below a half; " + FULL,
        gates=(ALIVE, SENSITIVE),
    ),
    "M5": Question(
        "MRS removes units of higher activation than ABS_MRS does",
        "S4, Figure 6b",
        "histogram only",
        "squared activation",
        active_units,
        "mean squared activation of the removed units, mean over probes, paired by seed",
        "One seed in five the other way; " + FULL,
        gates=(SENSITIVE,),
    ),
    "M6": Question(
        "ABS_RS and ABS_MRS keep to a small, stable set of units",
        "S4, section 4.4, Figure 7",
        "random comes to cover all units, absolute scores few",
        "share of units",
        few_units,
        "share of a layer's units ever selected, in all and anew after a third of training; "
        "Jaccard's overlap of successive selections; each against random's",
        FULL,
        "Slowing growth was tested before, which any set that fills up shows.",
        gates=(SENSITIVE,),
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

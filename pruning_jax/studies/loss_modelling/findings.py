"""What the rows of the loss-modelling study say on each claim: a verdict and its numbers.

The unit is the seed, criteria are compared on the same seeds, and step penalties and stages were
selected on other seeds.
"""

import itertools
import math

import numpy as np

from pruning_jax.analysis import statistics
from pruning_jax.analysis.statistics import Interval
from pruning_jax.measurements import Row
from pruning_jax.studies.loss_modelling.gaps import (
    error_gaps,
    errors,
    loss_gaps,
    scale,
    spread,
)
from pruning_jax.studies.loss_modelling.prunings import EARLY_CRITERIA, select
from pruning_jax.studies.loss_modelling.published import ABBREVIATIONS, METHODS, PUBLISHED
from pruning_jax.studies.questions import Finding, ordered, text
from pruning_jax.studies.workloads import Workload

MODELS = ("linear", "quadratic", "obd")

MATCHED = "mlp_mnist"
"""The workload whose absolute figures are the paper's own."""
TOLERANCE = 0.3
"""How far a matched mean may lie from the published one, in nats."""
EQUAL_GAP = 0.005 * math.log(10)
"""The excess in loss gap, in nats, that "no larger" allows: .5 % of the loss of a uniform guess
among 10 classes, as the protocol's .5 pp is .5 % of the range of an accuracy."""
SPREAD_RATIO = 0.5
LEAST_TO_RESAMPLE = 4
NOISE = 3.0
"""How many times 1 / sqrt(n), the spread of n seeds of equal methods, methods must spread."""
BOOTSTRAP_SEED = 3


def order_of_criteria(rows: list[Row], workload: Workload) -> Finding:
    """L1. QM <= LM asks that QM's gap exceed LM's by less than `EQUAL_GAP`, by both tests."""
    stages = max(workload.settings["stages"])
    gaps = {}
    for criterion in METHODS:
        choice = select(rows, workload, criterion, "best", [stages])
        gaps[criterion] = loss_gaps(rows, workload, "best", criterion, *choice)
    mp, obd, lm, qm = gaps.values()
    pairs = {"QM <= LM": qm - lm, "LM < OBD": lm - obd, "OBD < MP": obd - mp}
    finding = ordered(pairs, allowed=EQUAL_GAP)
    if finding.verdict == "holds" and not statistics.non_inferior(lm - qm, EQUAL_GAP):
        finding = finding._replace(verdict="inconclusive")
    means = ", ".join(f"{ABBREVIATIONS[name]} {gap.mean():.2f}" for name, gap in gaps.items())
    note = f"{finding.note}; QM <= LM allows an excess of {EQUAL_GAP:.4f}; means {means}"
    finding = finding._replace(note=note)
    return matched(finding, gaps) if workload.name == MATCHED else finding


def matched(finding: Finding, gaps: dict[str, np.ndarray]) -> Finding:
    """L1 on the paper's own workload, where the means of LM and QM must be near its own."""
    for criterion in ("linear", "quadratic"):
        published = PUBLISHED[MATCHED]["loss_gap"][criterion][0]
        mean, low, high = statistics.mean_interval(gaps[criterion])
        if abs(mean - published) <= TOLERANCE:
            continue
        name = f"{ABBREVIATIONS[criterion]} {text(Interval(mean, low, high))}"
        note = f"{finding.note}; {name} is not within {TOLERANCE:g} of {published:g}"
        finding = finding._replace(note=note)
        outside = low > published + TOLERANCE or high < published - TOLERANCE
        if outside and finding.verdict != "fails":
            finding = finding._replace(verdict="fails", estimate=mean, ci=(low, high), p_value=None)
        elif finding.verdict == "holds":
            finding = finding._replace(verdict="inconclusive")
    return finding


def more_stages(rows: list[Row], workload: Workload) -> Finding:
    """L2."""
    most = max(workload.settings["stages"])
    if most == 1:
        raise LookupError("only one number of stages was run")
    pairs = {}
    for criterion in MODELS:
        many, one = (
            loss_gaps(rows, workload, "best", criterion, stages, 0.0) for stages in (most, 1)
        )
        pairs[f"{ABBREVIATIONS[criterion]} {most} < 1"] = many - one
    return ordered(pairs)


def step_penalty(rows: list[Row], workload: Workload) -> Finding:
    """L3."""
    above_zero = [penalty for penalty in workload.settings["step_penalties"] if penalty > 0]
    if not above_zero:
        raise LookupError("no step penalty above zero was run")
    pairs = {}
    for criterion in MODELS:
        _, best = select(rows, workload, criterion, "best", [1], above_zero)
        some, none = (
            loss_gaps(rows, workload, "best", criterion, 1, penalty) for penalty in (best, 0.0)
        )
        pairs[f"{ABBREVIATIONS[criterion]} {best:g} < 0"] = some - none
    return ordered(pairs)


def spreads(rows: list[Row], workload: Workload) -> Finding:
    """L4. The ratio of the methods' spreads, after fine-tuning to before, resampled over seeds."""
    loss, error, gap = [], [], []
    for criterion in METHODS:
        choice = select(rows, workload, criterion, "best", workload.settings["stages"])
        pruning = "best", criterion, *choice
        loss.append(loss_gaps(rows, workload, *pruning))
        error.append(errors(rows, workload, "retrained", *pruning))
        gap.append(error_gaps(rows, workload, "retrained", *pruning))
    loss, error, gap = (np.stack(columns, axis=1) for columns in (loss, error, gap))
    n = len(loss)
    if n < 2:
        raise ValueError("one seed decides nothing")
    least_gap, least_loss = 1e-3 * scale(gap), 1e-3 * scale(loss)

    def ratio(gap: np.ndarray, loss: np.ndarray) -> float:
        apart = spread(loss, least_loss)
        if not apart:
            raise ValueError("the methods do not differ in loss gap, so there is no ratio")
        return spread(gap, least_gap) / apart

    means = zip(METHODS, gap.mean(axis=0), strict=True)
    note = (
        f"ratio of spreads, error gap {spread(gap):.2f} / loss gap {spread(loss):.2f}; "
        f"error gaps {', '.join(f'{ABBREVIATIONS[c]} {mean:.2f}' for c, mean in means)}; "
        f"Spearman of loss gap and error {statistics.spearman(loss.ravel(), error.ravel()):.2f}; "
        f"trained for {workload.pretraining.recipe.epochs} epochs, "
        f"retrained for {workload.retraining.recipe.epochs}"
    )
    if spread(loss) < NOISE / math.sqrt(n):
        raise ValueError(f"the methods do not differ in loss gap beyond noise; {note}")
    if n < LEAST_TO_RESAMPLE:
        note += f"; {n} seeds are too few to resample"
        return Finding("inconclusive", note, n, ratio(gap, loss))
    estimate, low, high = statistics.bootstrap_interval(ratio, gap, loss, seed=BOOTSTRAP_SEED)
    verdict = "holds" if high < SPREAD_RATIO else "fails" if low > SPREAD_RATIO else "inconclusive"
    return Finding(verdict, note, n, estimate, (low, high))


def early(rows: list[Row], workload: Workload) -> Finding:
    """L5."""
    stages, differences = max(workload.settings["early_stages"]), {}
    for epoch in sorted(workload.settings["early_epochs"]):
        obd, quadratic = (
            loss_gaps(rows, workload, epoch, c, *select(rows, workload, c, epoch, [stages]))
            for c in EARLY_CRITERIA
        )
        differences[epoch] = quadratic - obd
    pairs = {f"QM < OBD at epoch {epoch}": value for epoch, value in differences.items()}
    for early, late in itertools.pairwise(differences):
        pairs[f"more so at {early} than {late}"] = differences[early] - differences[late]
    return ordered(pairs)

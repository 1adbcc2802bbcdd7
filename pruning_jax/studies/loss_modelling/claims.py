"""What the loss-modelling study decides: claims L1 to L5 of S3, from its rows.

Loss gap: |training loss after pruning - training loss before|, in nats. A hyper-parameter, which is
the number of stages or the step penalty, is chosen for every seed on all other seeds.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from pruning_jax import measurements
from pruning_jax.analysis import claims, statistics
from pruning_jax.analysis.claims import Claim, Gate
from pruning_jax.criteria import WEIGHT_CRITERIA, required
from pruning_jax.lab.tables import frame
from pruning_jax.measurements import Row, where
from pruning_jax.studies import questions, settings
from pruning_jax.studies.questions import (
    Finding,
    Question,
    accuracy,
    each_seed,
    finite,
    markdown,
    means,
    spread,
    text,
)
from pruning_jax.studies.workloads import Workload

ABBREVIATIONS = {"magnitude": "MP", "obd": "OBD", "linear": "LM", "quadratic": "QM"}
METHODS, MODELS = tuple(ABBREVIATIONS), ("linear", "quadratic", "obd")
EARLY_CRITERIA = ("obd", "quadratic")
PUBLISHED_STAGES, PUBLISHED_EPOCHS = 140, 800
MATCHED = "mlp_mnist"
"""The workload whose network, data and schedule are the paper's own."""
LEAST_TUNED = 10
"""Prunings a seed that a slope of error on loss gap needs."""


def _by_method(*figures: tuple[float, float]) -> dict[str, tuple[float, float]]:
    return dict(zip(METHODS, figures, strict=True))


PUBLISHED = {
    "mlp_mnist": {
        "loss_gap": _by_method((2.02, 0.10), (1.83, 0.11), (1.17, 0.03), (1.05, 0.04)),
        "error_gap": _by_method((2.4, 0.3), (2.0, 0.1), (1.9, 0.3), (1.9, 0.2)),
    },
    "vgg11_cifar10": {
        "loss_gap": _by_method((1.84, 0.44), (0.89, 0.24), (0.90, 0.21), (0.86, 0.22)),
        "error_gap": _by_method((0.2, 0.2), (-0.1, 0.2), (-0.3, 0.1), (-0.1, 0.1)),
    },
    "preact_resnet18_cifar10": {
        "loss_gap": _by_method((2.23, 0.14), (1.95, 0.46), (1.36, 0.18), (1.22, 0.31)),
        "error_gap": _by_method((0.2, 0.2), (0.2, 0.2), (0.1, 0.1), (0.2, 0.2)),
    },
}
"""S3, Table 1 (loss gap, nats) and Table 2 (error gap, pp): mean and spread over 5 seeds."""

LABELS = {
    "mlp_mnist": "A: MLP-300-100, MNIST",
    "mlp_mnist_5k": "A5k: MLP-300-100, 5,000 images of MNIST",
    "small_conv_cifar10": "B: Small Conv, CIFAR-10 subset",
    "vgg11_cifar10": "VGG-11, CIFAR-10",
    "preact_resnet18_cifar10": "PreActResNet-18, CIFAR-10",
    "mlp_digits": "MLP, digits",
}

PAPER = {
    "network": "MLP-300-100 (tanh), VGG-11, PreActResNet-18",
    "data": "MNIST 50,000 / 10,000; CIFAR-10 45,000 / 5,000",
    "training": "SGD, momentum .9, weight decay 5e-4, batches of 100; 800, 300, 200 epochs",
    "seeds": "5",
}
"""What S3 ran."""


@settings.setting
class Thresholds:
    """Of the claims; `put_later` names those put as they are after the rows were seen."""

    excess: settings.Number = 0.005 * math.log(10)  # nats: .5 % of the loss of a guess among 10
    tolerance: settings.Number = 0.3  # nats between a matched mean and the published one
    margin: settings.Number = 0.5  # pp of test error that count as none
    put_later: settings.FewNames = ()


def estimated(criterion: str) -> bool:
    """Whether a criterion is estimated from data; if not, stages and penalties change nothing."""
    return bool(required(WEIGHT_CRITERIA[criterion]) & {"gradient", "ggn"})


Choice = tuple[int, float]
"""Stages and step penalty."""


class Gaps:
    """The loss gaps of a workload's prunings, and their accuracies in %.

    Both are tables: a row an epoch, criterion, number of stages and step penalty; a column a seed.
    """

    def __init__(self, rows: Iterable[Row], workload: Workload) -> None:
        self.workload, self.seeds = workload, list(workload.seeds)
        place = ["epoch", "criterion", "stages", "step_penalty", "seed"]
        own = where(rows, phase="pruned", sparsity=workload.settings.sparsity)
        found = frame(own).reindex(columns=[*place, "penalty", "validation_accuracy"])
        found = found.astype({"epoch": str}).set_index(place)
        gaps = found.penalty.abs().unstack()
        self.of = gaps.reindex(columns=gaps.columns.union(self.seeds))
        self.accuracies = 100 * found.validation_accuracy.unstack()

    def chosen(
        self,
        epoch: int | str,
        criterion: str,
        stages: Iterable[int],
        penalty: Callable[[float], bool] = lambda _: True,
    ) -> tuple[np.ndarray, list[Choice]]:
        """The gap of every seed at the choice of the lowest mean gap over all other seeds.

        Args:
          epoch: of training, or "best".
          criterion: whose prunings.
          stages: to choose from.
          penalty: whether a step penalty is one to choose.

        Raises:
          LookupError: no choice has a row of every seed.
          ValueError: a gap is not finite.
        """
        if not estimated(criterion):
            stages, penalty = (1,), lambda value: value == 0
        asked = [
            (e, c) == (str(epoch), criterion) and s in stages and penalty(p)
            for e, c, s, p in self.of.index
        ]
        choices = self.of[asked].dropna(subset=self.seeds)
        if choices.empty:
            raise LookupError(
                f"no pruning by {criterion} at epoch {epoch} has a finite row of every seed"
            )
        shared, found, made = choices.dropna(axis="columns"), [], []
        for seed in self.seeds:
            others = shared.drop(columns=seed) if shared.shape[1] > 1 else shared
            place = others.sum(axis="columns").idxmin()
            found.append(choices.at[place, seed])
            made.append(place[2:])
        return finite(np.array(found), f"a loss gap of {criterion} at epoch {epoch}"), made

    def at(self, criterion: str, stages: int = 1, penalty: float = 0.0) -> np.ndarray:
        """The gap of every seed at one choice, at the best epoch."""
        return self.chosen("best", criterion, [stages], lambda value: value == penalty)[0]

    def accuracy(self, criterion: str, choices: Iterable[Choice]) -> float:
        """The mean accuracy after pruning at the best epoch, in %."""
        places = zip(choices, self.seeds, strict=True)
        found = [self.accuracies.at[("best", criterion, *choice), s] for choice, s in places]
        return float(np.mean(found))


def decide(rows: Iterable[Row], workload: Workload) -> list[Claim]:
    """Decides the claims that a workload can speak to.

    Args:
      rows: of ``results.jsonl``, of any workloads, as many as there are.
      workload: what ran.

    Returns:
      L1 where the largest number of stages is the paper's, L2, L3, L4, and L5 where networks are
      also pruned early in training.

    Source: S3; PAPERS.md, sections 3 and 4.
    """
    asked, own = dict(QUESTIONS), workload.settings
    if max(own.stages) != PUBLISHED_STAGES:
        del asked["L1"]
    if not own.early_epochs:
        del asked["L5"]
    as_long = workload.pretraining.recipe.epochs == PUBLISHED_EPOCHS
    fidelity = "matched" if workload.name == MATCHED and as_long else "proxy"
    label = LABELS.get(workload.name, workload.name)
    return questions.decide(asked, rows, workload, label, fidelity)


def gates(rows: list[Row], gaps: Gaps, best: float) -> tuple[Gate, ...]:
    """What the prunings of a claim must meet; `best` is the best accuracy compared, in %."""
    dense = each_seed(rows, gaps.workload, "pretrained")
    train, held_out, test = (accuracy(dense, split) for split in ("train", "validation", "test"))
    random = gaps.accuracy("random", [(1, 0.0)] * len(gaps.seeds))
    return (
        claims.alive(best, held_out, 100 / gaps.workload.classes),
        claims.sensitive(best, random),
        claims.not_overfitted(train, test),
        claims.converged(None),
    )


def order_of_criteria(rows: list[Row], workload: Workload) -> Finding:
    """L1."""
    gaps, limits, best, found = Gaps(rows, workload), workload.settings.thresholds, 0.0, {}
    for criterion in METHODS:
        found[criterion], made = gaps.chosen("best", criterion, [PUBLISHED_STAGES])
        best = max(best, gaps.accuracy(criterion, made))
    mp, obd, lm, qm = found.values()
    parts = (
        claims.below("QM - LM <= 0", qm - lm, limits.excess),
        claims.below("LM - OBD < 0", lm - obd),
        claims.below("OBD - MP < 0", obd - mp),
    )
    paper, note = PUBLISHED.get(workload.name, {}).get("loss_gap"), ""
    if paper:
        apart = {c: abs(found[c].mean() - paper[c][0]) for c in ("linear", "quadratic")}
        shown = ", ".join(f"{ABBREVIATIONS[c]} {value:.2f}" for c, value in apart.items())
        within = "within" if max(apart.values()) <= limits.tolerance else "NOT within"
        note = f"from the published means {shown} nats, {within} {limits.tolerance:g}"
    here = means({ABBREVIATIONS[name]: gap for name, gap in found.items()}, "nats")
    return Finding(parts, here, gates(rows, gaps, best), note)


def more_stages(rows: list[Row], workload: Workload) -> Finding:
    """L2. Each criterion at its own step penalty; without any it is reported."""
    gaps, stages = Gaps(rows, workload), workload.settings.stages
    many = [count for count in stages if count > 1]
    if not many or 1 not in stages:
        raise LookupError(f"{stages} stages were run; one and more than one are compared")
    parts, here, note, best = [], [], [], 0.0
    for criterion in MODELS:
        name = ABBREVIATIONS[criterion]
        several, made = gaps.chosen("best", criterion, many)
        one, _ = gaps.chosen("best", criterion, [1])
        best = max(best, gaps.accuracy(criterion, made))
        parts.append(claims.below(f"{name}: {max(many)} stages - 1 < 0", several - one))
        here.append(f"{name} {several.mean():.3g} against {one.mean():.3g}")
        note.append(f"{name} {text(gaps.at(criterion, max(many)) - gaps.at(criterion))}")
    note = f"without a step penalty: {', '.join(note)}"
    return Finding(tuple(parts), f"{', '.join(here)} nats", gates(rows, gaps, best), note)


def step_penalty(rows: list[Row], workload: Workload) -> Finding:
    """L3. Against no penalty, and against an infinite one, which is magnitude pruning."""
    gaps, stages = Gaps(rows, workload), workload.settings.stages
    mp, parts, here, best = gaps.at("magnitude"), [], [], 0.0
    for criterion, count in itertools.product(MODELS, stages):
        some, made = gaps.chosen("best", criterion, [count], lambda penalty: penalty > 0)
        none, name = gaps.at(criterion, count), f"{ABBREVIATIONS[criterion]}, {count}"
        best = max(best, gaps.accuracy(criterion, made))
        parts.append(claims.below(f"{name}: some - none < 0", some - none))
        parts.append(claims.below(f"{name}: some - MP < 0", some - mp))
        if count == max(stages):
            here.append(f"{ABBREVIATIONS[criterion]} {some.mean():.3g} against {none.mean():.3g}")
    here = f"{', '.join(here)} in {max(stages)} stages; MP {mp.mean():.3g} nats"
    return Finding(tuple(parts), here, gates(rows, gaps, best))


def transfer(rows: list[Row], workload: Workload) -> Finding:
    """L4. Over all prunings of a seed that were fine-tuned: the slope of test error on loss gap."""
    gaps, margin = Gaps(rows, workload), workload.settings.thresholds.margin
    tuned = [r for r in where(rows, phase="retrained", epoch="best") if r["criterion"] != "random"]
    by_seed = {seed: where(tuned, seed=seed) for seed in workload.seeds}
    least = min(map(len, by_seed.values()))
    if least < LEAST_TUNED:
        raise LookupError(
            f"{least} prunings of a seed were fine-tuned; a slope of test error on loss gap needs "
            f"{LEAST_TUNED} (every criterion, number of stages and step penalty)"
        )
    spans, ranks, errors = [], [], []
    for seed, own in by_seed.items():
        places = [("best", row["criterion"], row["stages"], row["step_penalty"]) for row in own]
        x = np.array([gaps.of.at[place, seed] for place in places])
        y = np.array([100 * (1 - row["test_accuracy"]) for row in own])
        spans.append(np.polyfit(x, y, 1)[0] * np.ptp(x))
        ranks.append(statistics.spearman(x, y))
        errors.append(y.min())
    span = np.array(spans)
    part = claims.equal(f"slope x range = 0 within {margin:g} pp", span, margin)
    here = f"{text(span)} pp of test error over the range of loss gaps"
    note = f"Spearman in a seed {text(np.array(ranks))}; {least} prunings a seed"
    required = gates(rows, gaps, 100 - float(np.mean(errors)))
    return Finding((part,), here, (*required, claims.resolution(part)), note)


def early(rows: list[Row], workload: Workload) -> Finding:
    """L5. The trend over epochs is described and not tested."""
    gaps, own, parts, shown = Gaps(rows, workload), workload.settings, [], []
    stages = max(own.early_stages)
    for epoch in (*sorted(own.early_epochs), "best"):
        (obd, _), (qm, made) = (gaps.chosen(epoch, c, [stages]) for c in EARLY_CRITERIA)
        parts.append(claims.below(f"QM - OBD < 0 at epoch {epoch}", qm - obd))
        shown.append(f"at {epoch} QM {qm.mean():.3g}, OBD {obd.mean():.3g}")
    best, note = gaps.accuracy("quadratic", made), f"pruned in {stages} stages"
    if 1 in own.stages:
        (obd, _), (qm, _) = (gaps.chosen("best", c, [1]) for c in EARLY_CRITERIA)
        note += f"; in one shot at the best checkpoint QM {qm.mean():.3g}, OBD {obd.mean():.3g}"
    return Finding(tuple(parts), f"{'; '.join(shown)} nats", gates(rows, gaps, best), note)


HEADER = (
    *("network", "criterion", "loss gap (nats)", "published"),
    *("error gap after fine-tuning (pp)", "published", "seeds"),
)


def beside_published(rows: Iterable[Row], tuning_seeds: Mapping[str, Collection[int]]) -> str:
    """Means over the test seeds with their standard deviations, beside S3's Tables 1 and 2.

    Loss gaps are at the largest number of stages with the selected step penalty, error gaps at the
    selected stages and step penalty; what has not run yet is left blank.

    Args:
      rows: of ``results.jsonl``.
      tuning_seeds: workload -> the seeds that selected hyper-parameters.
    """
    rows, lines = list(rows), []
    for workload in measurements.values(rows, "workload"):
        found, tuning = where(rows, workload=workload), tuning_seeds.get(workload, ())
        test = [row for row in found if row["seed"] not in tuning]
        pruned = where(found, phase="pruned", epoch="best")
        tuned = [row for row in pruned if row["seed"] in tuning] or pruned
        pruned = [row for row in pruned if row["seed"] not in tuning]
        chosen = measurements.at_penalties(pruned, measurements.best_penalties(tuned))
        errors, paper = measurements.fine_tuned(test), PUBLISHED.get(workload, {})
        for criterion, name in ABBREVIATIONS.items():
            by_stages = measurements.loss_gaps_by(where(chosen, criterion=criterion), "stages")
            gaps = by_stages[max(by_stages)] if by_stages else []
            published = [
                "{:.2f} ± {:.2f}".format(*paper[figure][criterion]) if paper else ""
                for figure in ("loss_gap", "error_gap")
            ]
            error = spread([gap for _, gap in errors.get(criterion, [])])
            cells = spread(gaps), published[0], error, published[1], str(len(gaps))
            lines.append((LABELS.get(workload, workload), name, *cells))
    return markdown(HEADER, lines)


def _published(figure: str, unit: str) -> Callable[[Workload], str]:
    """The workload -> the paper's means on it, or on the networks that the paper ran."""

    def shown(name: str) -> str:
        table = PUBLISHED[name][figure]
        return ", ".join(f"{ABBREVIATIONS[c]} {mean:g}" for c, (mean, _) in table.items()) + unit

    def published(workload: Workload) -> str:
        if workload.name in PUBLISHED:
            return shown(workload.name)
        return "; ".join(f"{LABELS[name]}: {shown(name)}" for name in PUBLISHED)

    return published


FRESH = "20 fresh seeds (1119 to 1138) of A, every step penalty at 1, 14 and 140 stages: about 2 h"
QUESTIONS = {
    "L1": Question(
        f"Loss gap after pruning in {PUBLISHED_STAGES} stages: QM <= LM < OBD < MP",
        "S3, contribution 1, Table 1",
        _published("loss_gap", " nats"),
        "nats",
        order_of_criteria,
        "gap = |L(pruned) - L(dense)| on the training split; differences of criteria paired by "
        "seed, exact sign flips; QM <= LM allows an excess of .5 % of the loss of a uniform guess",
        "A mean of LM or QM further than .3 nats from the published one, or one order reversed; "
        + FRESH,
        "Adjusted over its parts before, p = .012; a conjunction needs no adjustment.",
    ),
    "L2": Question(
        "More stages leave a smaller loss gap (LM, QM, OBD)",
        "S3, contribution 2",
        "qualitative",
        "nats",
        more_stages,
        "gap at the better of the larger numbers of stages less that at one, each at its own step "
        "penalty",
        FRESH,
        "Put at a step penalty of 0 before, where it was undecided on A; B compared networks that "
        "were dead (accuracy 13 %), so its verdict is withdrawn.",
    ),
    "L3": Question(
        "A step penalty leaves a smaller loss gap than none, and than an infinite one (LM, QM, "
        "OBD)",
        "S3, contribution 2",
        "qualitative",
        "nats",
        step_penalty,
        "gap at the step penalty chosen above 0 less that at 0, and less that of MP, at each "
        "number of stages",
        FRESH,
        "Put at one stage and against no penalty alone before; undecided.",
    ),
    "L4": Question(
        "Preserving the loss does not carry over to fine-tuned accuracy",
        "S3, contribution 3, Table 2",
        _published("error_gap", " pp of error"),
        "pp",
        transfer,
        "slope of test error after fine-tuning on loss gap within a seed, times the range of its "
        "gaps; two one-sided t tests within .5 pp",
        "All prunings of A fine-tuned, about 37 a seed: 1 h; of B at a sparsity where networks "
        "live: 40 min",
        "A ratio of spreads, of signal to noise, was said to hold before; it is withdrawn: within "
        "the same rows error is ordered as loss is.",
    ),
    "L5": Question(
        "Away from convergence QM leaves a smaller loss gap than OBD",
        "S3, section 1",
        "OBD > QM on MLP and PreActResNet-18",
        "nats",
        early,
        "gap of QM less that of OBD on networks of early epochs and the best one",
        "One epoch at which OBD is nearer; " + FRESH,
        "Said to fail before, for the difference was also asked to shrink with training.",
    ),
}
"""The claims, by their codes."""

"""What the loss-modelling study decides: claims L1 to L5 of S3, from its rows.

Loss gap: |training loss after pruning - training loss before|, in nats. A hyper-parameter, which is
the number of stages or the step penalty, is chosen for every seed on all other seeds.
"""

import itertools
import math
from collections.abc import Iterable

import numpy as np

from pruning_jax.analysis import claims, statistics
from pruning_jax.analysis.claims import Claim, Gate
from pruning_jax.measurements import Row, where
from pruning_jax.studies import questions
from pruning_jax.studies.loss_modelling.prunings import EARLY_CRITERIA, estimated
from pruning_jax.studies.loss_modelling.published import ABBREVIATIONS, LABELS, METHODS, PUBLISHED
from pruning_jax.studies.questions import Finding, Question, means, thresholds
from pruning_jax.studies.workloads import Workload

MODELS = ("linear", "quadratic", "obd")
PUBLISHED_STAGES = 140
PUBLISHED_EPOCHS = 800
MATCHED = "mlp_mnist"
"""The workload whose network, data and schedule are the paper's own."""
LEAST_TUNED = 10
"""Prunings a seed that a slope of error on loss gap needs."""

THRESHOLDS = {
    "excess": 0.005 * math.log(10),  # nats: .5 % of the loss of a uniform guess among 10 classes
    "tolerance": 0.3,  # nats between a matched mean and the published one
    "margin": 0.5,  # pp of test error that count as none
    "put_later": (),
}

Choice = tuple[int, float]
"""Stages and step penalty."""


class Gaps:
    """The loss gaps of a workload's prunings by epoch, criterion, stages, step penalty and seed."""

    def __init__(self, rows: Iterable[Row], workload: Workload) -> None:
        self.workload, self.seeds = workload, workload.seeds
        self._found: dict[tuple, dict[Choice, dict[int, float]]] = {}
        self.accuracies: dict[tuple, float] = {}
        for row in where(rows, phase="pruned", sparsity=workload.settings["sparsity"]):
            choice = row["stages"], row["step_penalty"]
            by_choice = self._found.setdefault((row["epoch"], row["criterion"]), {})
            by_choice.setdefault(choice, {})[row["seed"]] = abs(row["penalty"])
            place = row["epoch"], row["criterion"], *choice, row["seed"]
            self.accuracies[place] = 100 * row["validation_accuracy"]

    def at(self, epoch: int | str, criterion: str, *choice: float) -> np.ndarray:
        """The gaps at a choice; shape (seeds,).

        Raises:
          LookupError: a seed has no row.
          ValueError: a gap is not finite.
        """
        by_seed = self._found.get((epoch, criterion), {}).get(choice, {})
        missing = [seed for seed in self.seeds if seed not in by_seed]
        if missing:
            stages, penalty = choice
            raise LookupError(
                f"no row for {criterion} at epoch {epoch}, {stages} stages, step penalty "
                f"{penalty:g}, seed {missing[0]}"
            )
        return self._finite(np.array([by_seed[seed] for seed in self.seeds]), criterion, epoch)

    def chosen(
        self, epoch: int | str, criterion: str, stages: Iterable[int], least: float = -1.0
    ) -> tuple[np.ndarray, list[Choice]]:
        """The gap of every seed at the choice of the lowest mean gap over all other seeds.

        Args:
          epoch: of training, or "best".
          criterion: whose prunings.
          stages: to choose from.
          least: step penalties above it alone.

        Raises:
          LookupError: no choice has a row of every seed.
        """
        if not estimated(criterion):
            return self.at(epoch, criterion, 1, 0.0), [(1, 0.0)] * len(self.seeds)
        stages = {*stages}
        choices = {
            choice: by_seed
            for choice, by_seed in self._found.get((epoch, criterion), {}).items()
            if choice[0] in stages and choice[1] > least and {*self.seeds} <= by_seed.keys()
        }
        if not choices:
            raise LookupError(f"no pruning by {criterion} at epoch {epoch} has a row of every seed")
        shared = set.intersection(*(set(by_seed) for by_seed in choices.values()))
        found, made = [], []
        for seed in self.seeds:
            others = shared - {seed} or shared
            own = min(choices, key=lambda c, others=others: sum(choices[c][s] for s in others))
            found.append(choices[own][seed])
            made.append(own)
        return self._finite(np.array(found), criterion, epoch), made

    def _finite(self, gaps: np.ndarray, criterion: str, epoch: int | str) -> np.ndarray:
        if not np.isfinite(gaps).all():
            raise ValueError(
                f"a loss gap of {criterion} at epoch {epoch} is not finite: {gaps.tolist()}"
            )
        return gaps

    def accuracy(self, criterion: str, choices: list[Choice], epoch: int | str = "best") -> float:
        """The mean accuracy after pruning, in %."""
        places = zip(choices, self.seeds, strict=True)
        return float(np.mean([self.accuracies[epoch, criterion, *c, s] for c, s in places]))


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
    rows = [row for row in rows if row["workload"] == workload.name]
    asked = dict(QUESTIONS)
    if max(workload.settings["stages"]) != PUBLISHED_STAGES:
        del asked["L1"]
    if not workload.settings["early_epochs"]:
        del asked["L5"]
    as_long = workload.pretraining.recipe.epochs == PUBLISHED_EPOCHS
    fidelity = "matched" if workload.name == MATCHED and as_long else "proxy"
    label = LABELS.get(workload.name, workload.name)
    return questions.decide(asked, rows, workload, label, fidelity)


def gates(rows: list[Row], gaps: Gaps, best: float) -> tuple[Gate, ...]:
    """What the prunings of a claim must meet; `best` is the best accuracy compared, in %."""
    by_seed = {row["seed"]: row for row in where(rows, phase="pretrained")}
    dense = [by_seed[seed] for seed in gaps.seeds if seed in by_seed]
    if len(dense) < len(gaps.seeds):
        raise LookupError("a dense network has no row")
    train, held_out, test = (
        100 * float(np.mean([row[f"{split}_accuracy"] for row in dense]))
        for split in ("train", "validation", "test")
    )
    random = gaps.accuracy("random", [(1, 0.0)] * len(gaps.seeds))
    classes = thresholds(gaps.workload).get("classes", 10)
    return (
        claims.alive(best, held_out, 100 / classes),
        claims.sensitive(best, random),
        claims.not_overfitted(train, test),
        claims.converged(None),
    )


def order_of_criteria(rows: list[Row], workload: Workload) -> Finding:
    """L1."""
    gaps, limits = Gaps(rows, workload), THRESHOLDS | dict(thresholds(workload))
    found, best, choices = {}, 0.0, {}
    for criterion in METHODS:
        found[criterion], choices[criterion] = gaps.chosen("best", criterion, [PUBLISHED_STAGES])
        best = max(best, gaps.accuracy(criterion, choices[criterion]))
    mp, obd, lm, qm = found.values()
    parts = (
        claims.below("QM - LM <= 0", qm - lm, limits["excess"]),
        claims.below("LM - OBD < 0", lm - obd),
        claims.below("OBD - MP < 0", obd - mp),
    )
    paper = PUBLISHED.get(workload.name, {}).get("loss_gap")
    note = ""
    if paper:
        apart = {c: abs(found[c].mean() - paper[c][0]) for c in ("linear", "quadratic")}
        within = max(apart.values()) <= limits["tolerance"]
        shown = ", ".join(f"{ABBREVIATIONS[c]} {value:.2f}" for c, value in apart.items())
        note = f"from the published means {shown} nats, " + ("within " if within else "NOT within ")
        note += f"{limits['tolerance']:g}"
    here = means({ABBREVIATIONS[name]: gap for name, gap in found.items()}, "nats")
    return Finding(parts, here, gates(rows, gaps, best), note)


def more_stages(rows: list[Row], workload: Workload) -> Finding:
    """L2. Each criterion at its own step penalty; without any it is reported."""
    gaps, stages = Gaps(rows, workload), workload.settings["stages"]
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
        plain = gaps.at("best", criterion, max(many), 0.0) - gaps.at("best", criterion, 1, 0.0)
        note.append(f"{name} {questions.text(plain)}")
    note = f"without a step penalty: {', '.join(note)}"
    return Finding(tuple(parts), f"{', '.join(here)} nats", gates(rows, gaps, best), note)


def step_penalty(rows: list[Row], workload: Workload) -> Finding:
    """L3. Against no penalty, and against an infinite one, which is magnitude pruning."""
    gaps, stages = Gaps(rows, workload), workload.settings["stages"]
    mp = gaps.at("best", "magnitude", 1, 0.0)
    parts, here, best = [], [], 0.0
    for criterion, count in itertools.product(MODELS, stages):
        some, made = gaps.chosen("best", criterion, [count], least=0.0)
        none = gaps.at("best", criterion, count, 0.0)
        best = max(best, gaps.accuracy(criterion, made))
        name = f"{ABBREVIATIONS[criterion]}, {count}"
        parts.append(claims.below(f"{name}: some - none < 0", some - none))
        parts.append(claims.below(f"{name}: some - MP < 0", some - mp))
        if count == max(stages):
            here.append(f"{ABBREVIATIONS[criterion]} {some.mean():.3g} against {none.mean():.3g}")
    here = f"{', '.join(here)} in {max(stages)} stages; MP {mp.mean():.3g} nats"
    return Finding(tuple(parts), here, gates(rows, gaps, best))


def transfer(rows: list[Row], workload: Workload) -> Finding:
    """L4. Over all prunings of a seed that were fine-tuned: the slope of test error on loss gap."""
    gaps, margin = Gaps(rows, workload), (THRESHOLDS | dict(thresholds(workload)))["margin"]
    tuned = where(rows, phase="retrained", epoch="best")
    spans, ranks, counts, errors = [], [], [], []
    for seed in workload.seeds:
        own = [row for row in tuned if row["seed"] == seed and row["criterion"] != "random"]
        places = [("best", row["criterion"], row["stages"], row["step_penalty"]) for row in own]
        x = np.array([gaps._found[place[:2]][place[2:]][seed] for place in places])
        y = np.array([100 * (1 - row["test_accuracy"]) for row in own])
        counts.append(len(own))
        if len(own) >= LEAST_TUNED:
            spans.append(np.polyfit(x, y, 1)[0] * np.ptp(x))
            ranks.append(statistics.spearman(x, y))
            errors.append(y.min())
    if len(spans) < len(workload.seeds):
        raise LookupError(
            f"{min(counts, default=0)} prunings of a seed were fine-tuned; a slope of test error "
            f"on "
            f"loss gap needs {LEAST_TUNED} (every criterion, number of stages and step penalty)"
        )
    span = np.array(spans)
    part = claims.equal(f"slope x range = 0 within {margin:g} pp", span, margin)
    here = f"{questions.text(span)} pp of test error over the range of loss gaps"
    note = f"Spearman in a seed {questions.text(np.array(ranks))}; {min(counts)} prunings a seed"
    best = 100 - float(np.mean(errors))
    return Finding((part,), here, (*gates(rows, gaps, best), claims.resolution(part)), note)


def early(rows: list[Row], workload: Workload) -> Finding:
    """L5. The trend over epochs is described and not tested."""
    gaps, stages = Gaps(rows, workload), max(workload.settings["early_stages"])
    parts, shown, best = [], [], 0.0
    for epoch in (*sorted(workload.settings["early_epochs"]), "best"):
        (obd, _), (qm, made) = (gaps.chosen(epoch, c, [stages]) for c in EARLY_CRITERIA)
        if epoch == "best":
            best = gaps.accuracy("quadratic", made)
        parts.append(claims.below(f"QM - OBD < 0 at epoch {epoch}", qm - obd))
        shown.append(f"at {epoch} QM {qm.mean():.3g}, OBD {obd.mean():.3g}")
    note = f"pruned in {stages} stages"
    if 1 in workload.settings["stages"]:
        (obd, _), (qm, _) = (gaps.chosen("best", c, [1]) for c in EARLY_CRITERIA)
        note += f"; in one shot at the best checkpoint QM {qm.mean():.3g}, OBD {obd.mean():.3g}"
    return Finding(tuple(parts), f"{'; '.join(shown)} nats", gates(rows, gaps, best), note)


def _published(figure: str, unit: str):
    """The workload -> the paper's means on it, or on the networks that the paper ran."""

    def shown(name: str) -> str:
        table = PUBLISHED[name][figure]
        return ", ".join(f"{ABBREVIATIONS[c]} {mean:g}" for c, (mean, _) in table.items()) + unit

    def text(workload: Workload) -> str:
        if workload.name in PUBLISHED:
            return shown(workload.name)
        return "; ".join(f"{LABELS[name]}: {shown(name)}" for name in PUBLISHED)

    return text


FRESH = "20 fresh seeds (1119 to 1138) of A, every step penalty at 1, 14 and 140 stages: about 2 h"
QUESTIONS = {
    "L1": Question(
        f"Loss gap after pruning in {PUBLISHED_STAGES} stages: QM <= LM < OBD < MP",
        "S3, contribution 1, Table 1",
        _published("loss_gap", " nats"),
        "nats",
        order_of_criteria,
        "gap = |L(pruned) - L(dense)| on the training split; differences of criteria paired by "
        "seed, "
        "exact sign flips; QM <= LM allows an excess of .5 % of the loss of a uniform guess",
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
        "Put at a step penalty of 0 before, where it was undecided on A; B compared networks "
        "that were "
        "dead (accuracy 13 %), so its verdict is withdrawn.",
    ),
    "L3": Question(
        "A step penalty leaves a smaller loss gap than none, and than an infinite one (LM, QM, "
        "OBD)",
        "S3, contribution 2",
        "qualitative",
        "nats",
        step_penalty,
        "gap at the step penalty chosen above 0 less that at 0, and less that of MP, at each "
        "number of "
        "stages",
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
        "gaps; "
        "two one-sided t tests within .5 pp",
        "All prunings of A fine-tuned, about 37 a seed: 1 h; of B at a sparsity where networks "
        "live: 40 min",
        "A ratio of spreads, of signal to noise, was said to hold before; it is withdrawn: "
        "within the "
        "same rows error is ordered as loss is.",
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

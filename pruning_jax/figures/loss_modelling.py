"""The figures of the loss-modelling study."""

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from matplotlib.figure import Figure

from pruning_jax.figures import drawing
from pruning_jax.measurements import (
    Choice,
    Row,
    at_penalties,
    best_penalties,
    fine_tuned,
    invariant,
    loss_gaps,
    loss_gaps_by,
    values,
    where,
)

Spreads = Mapping[str, tuple[float, float]]
"""Criterion -> a published mean and its spread."""

STAGE_STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))
"""Colour and marker of the first, second, ... number of stages."""


def loss_modelling(
    rows: Iterable[Row],
    *,
    published: Mapping[str, Mapping[str, Spreads]] | None = None,
    tuning_seeds: Mapping[str, Collection[int]] | None = None,
) -> dict[str, Figure]:
    """The figures of the loss-modelling study, four a workload, where their rows are there.

    Args:
      rows: of ``results.jsonl``.
      published: workload -> ``"loss_gap"`` and ``"error_gap"`` -> criterion -> mean and spread.
      tuning_seeds: workload -> the seeds that selected hyper-parameters; the others are tests.

    Returns:
      ``step_penalty_W``, ``stages_W``, ``fine_tuning_W`` and ``early_stopping_W`` for a workload W.
    """
    figures, rows = {}, list(rows)
    for workload in values(rows, "workload"):
        found = where(rows, workload=workload)
        seeds = (tuning_seeds or {}).get(workload, ())
        paper = (published or {}).get(workload, {})
        test = [row for row in found if row["seed"] not in seeds]
        pruned = where(test, phase="pruned")
        tuning = [row for row in where(found, phase="pruned") if row["seed"] in seeds]
        best, choice = where(pruned, epoch="best"), best_penalties(tuning or pruned)
        if best or tuning:
            kinds = {"tuning seeds": where(tuning, epoch="best"), "test seeds": best}
            figures[f"step_penalty_{workload}"] = step_penalty(kinds)
        if best:
            figures[f"stages_{workload}"] = stages(best, choice, paper.get("loss_gap", {}))
        if where(test, phase="retrained"):
            figures[f"fine_tuning_{workload}"] = fine_tuning(test, paper)
        if len(best) < len(pruned):
            figures[f"early_stopping_{workload}"] = early_stopping(pruned, choice)
    return figures


def step_penalty(kinds: Mapping[str, list[Row]]) -> Figure:
    """Loss gap against step penalty, a panel a criterion, a colour for each number of stages.

    Args:
      kinds: of seeds -> their prunings at the best epoch; the first is drawn open and dotted.
    """
    rows = [row for of in kinds.values() for row in of]
    penalties, counts = values(rows, "step_penalty"), values(rows, "stages")
    criteria = [c for c in drawing.criteria(rows) if not invariant(where(rows, criterion=c))]
    figure, axes = drawing.panels(max(len(criteria), 1))
    for ax, criterion in zip(axes, criteria, strict=False):
        for count, (color, marker) in zip(counts, STAGE_STYLES, strict=False):
            for (kind, of), line, face in zip(kinds.items(), ":-", ("none", color), strict=True):
                points = loss_gaps_by(where(of, criterion=criterion, stages=count), "step_penalty")
                line = line if len(points) == len(penalties) else "none"
                label = f"{count} stage{'s' * (count > 1)}, {kind}"
                look = {"color": color, "marker": marker, "markerfacecolor": face}
                drawing.line(ax, penalties, points, linestyle=line, label=label, **look)
        drawing.categories(
            ax, ["0" if p == 0 else f"$10^{{{math.log10(p):.3g}}}$" for p in penalties]
        )
        ax.set(title=drawing.look(criterion)["label"], xlabel="step penalty λ")
    return drawing.finish(figure, axes, drawing.LOSS_GAP, loss_gaps(rows))


def stages(best: list[Row], choice: Choice, published: Spreads) -> Figure:
    """Loss gap against stages, without a step penalty and with the selected one.

    Args:
      best: prunings of test seeds at the best epoch.
      choice: from `measurements.best_penalties`.
      published: at the paper's largest number of stages, each criterion's best.
    """
    counts = values(best, "stages")
    figure, axes = drawing.panels(2)
    for ax, (title, drawn) in zip(axes, _without_and_with(best, choice), strict=True):
        for criterion in drawing.criteria(best):
            found = where(drawn, criterion=criterion)
            points = loss_gaps_by(found, "stages")
            if invariant(where(best, criterion=criterion)):
                points = dict.fromkeys(counts, loss_gaps(found))
            drawing.line(ax, counts, points, **drawing.look(criterion))
        drawing.categories(ax, [str(count) for count in counts])
        ax.set(title=title, xlabel="stages")
    for place, (criterion, (mean, sd)) in enumerate(published.items()):
        drawing.star(axes[1], len(counts) - 0.8 + 0.12 * place, mean, criterion, yerr=sd)
    return drawing.finish(figure, axes, drawing.LOSS_GAP, loss_gaps(best))


def fine_tuning(rows: list[Row], paper: Mapping[str, Spreads]) -> Figure:
    """Error gap after fine-tuning against loss gap before it: a point a seed, the means larger.

    Args:
      rows: of test seeds, of all phases.
      paper: ``"loss_gap"`` and ``"error_gap"`` -> criterion -> mean and spread.
    """
    figure, (ax,) = drawing.panels(1)
    for criterion, pairs in fine_tuned(rows).items():
        look, (x, y) = drawing.look(criterion), np.array(pairs).T
        ax.scatter(x, y, s=9, color=look["color"], marker=look["marker"], alpha=0.5)
        ax.scatter(x.mean(), y.mean(), s=50, edgecolor="white", linewidth=0.5, **look)
    for criterion, (mean, sd) in paper.get("error_gap", {}).items():
        x, x_sd = paper["loss_gap"][criterion]
        drawing.star(ax, x, mean, criterion, xerr=x_sd, yerr=sd)
    ax.axhline(0, color="black", linewidth=0.5)
    ax.set(xlabel=drawing.LOSS_GAP, title="after fine-tuning")
    return drawing.finish(figure, [ax], "validation-error gap (pp)")


def early_stopping(pruned: list[Row], choice: Choice) -> Figure:
    """Loss gap of networks pruned early in training: bars of means, a dot a seed.

    Args:
      pruned: prunings of test seeds at early epochs and at the best one.
      choice: from `measurements.best_penalties`.
    """
    early = [row for row in pruned if row["epoch"] != "best"]
    criteria, count = drawing.criteria(early), max(values(early, "stages"))
    epochs, width = [*values(early, "epoch"), "best"], 0.8 / len(criteria)
    figure, axes = drawing.panels(2)
    same_stages = where(pruned, stages=count)
    for ax, (title, drawn) in zip(axes, _without_and_with(same_stages, choice), strict=True):
        for place, criterion in enumerate(criteria):
            look = drawing.look(criterion)
            points = loss_gaps_by(where(drawn, criterion=criterion), "epoch")
            for epoch in filter(points.get, epochs):
                gaps, shift = points[epoch], (place - (len(criteria) - 1) / 2) * width
                x = epochs.index(epoch) + shift
                ax.bar(x, np.mean(gaps), 0.9 * width, color=look["color"], label=look["label"])
                ax.plot([x] * len(gaps), gaps, "o", color="black", markersize=2, alpha=0.6)
        drawing.categories(ax, [str(epoch) for epoch in epochs])
        ax.set(title=f"{title}, {count} stages", xlabel="pruned after epoch")
    return drawing.finish(figure, axes, drawing.LOSS_GAP)


def _without_and_with(rows: list[Row], choice: Choice) -> list[tuple[str, list[Row]]]:
    """The titles and rows of two panels: no step penalty, and the chosen one."""
    without, chosen = at_penalties(rows, {}), at_penalties(rows, choice)
    return [("no step penalty", without), ("selected step penalty", chosen)]

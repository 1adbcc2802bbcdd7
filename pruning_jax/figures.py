"""Results -> matplotlib figures. A figure draws what rows there are, and leaves out the rest.

A row is a line of ``results.jsonl``; a figure is a `matplotlib.figure.Figure`, bound to no display.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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

STYLES = {
    "magnitude": ("magnitude (MP)", "#000000", "s"),
    "obd": ("OBD", "#0072B2", "^"),
    "linear": ("linear (LM)", "#D55E00", "o"),
    "quadratic": ("quadratic (QM)", "#009E73", "D"),
    "random": ("random", "#999999", "X"),
    "gradient_magnitude": ("gradient magnitude", "#CC79A7", "v"),
}
"""Criterion -> label, colour and marker; the colours are Okabe and Ito's."""
STAGE_STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))
"""Colour and marker of the first, second, ... number of stages."""
LOSS_GAP, LOG_RANGE = "loss gap |ΔL| (nats)", 10


def accuracy_by_sparsity(rows: Iterable[Row]) -> Figure:
    """Test accuracy against sparsity, a line a criterion, right after pruning and retrained.

    Args:
      rows: of a comparison; a point is the mean over seeds, its bar their standard deviation.
    """
    rows = list(rows)
    sparsities = values((row for row in rows if "sparsity" in row), "sparsity")
    dense = [100 * row["test_accuracy"] for row in where(rows, phase="pretrained")]
    figure, axes = _panels(2)
    panels = ("pruned", "right after pruning"), ("retrained", "after retraining")
    for ax, (phase, title) in zip(axes, panels, strict=True):
        found = where(rows, phase=phase)
        for criterion in _criteria(found):
            drawn = where(found, criterion=criterion)
            points = {
                sparsity: [100 * row["test_accuracy"] for row in where(drawn, sparsity=sparsity)]
                for sparsity in values(drawn, "sparsity")
            }
            _line(ax, sparsities, points, **_look(criterion))
        if dense:
            ax.axhline(np.mean(dense), color="black", linestyle="--", linewidth=1, label="dense")
        _categories(ax, [f"{100 * sparsity:g}" for sparsity in sparsities])
        ax.set(title=title, xlabel="sparsity (% of prunable weights)")
    return _finish(figure, axes, "test accuracy (%)")


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
    criteria = [c for c in _criteria(rows) if not invariant(where(rows, criterion=c))]
    figure, axes = _panels(max(len(criteria), 1))
    for ax, criterion in zip(axes, criteria, strict=False):
        for count, (color, marker) in zip(counts, STAGE_STYLES, strict=False):
            for (kind, of), line, face in zip(kinds.items(), ":-", ("none", color), strict=True):
                points = loss_gaps_by(where(of, criterion=criterion, stages=count), "step_penalty")
                line = line if len(points) == len(penalties) else "none"
                label = f"{count} stage{'s' * (count > 1)}, {kind}"
                look = {"color": color, "marker": marker, "markerfacecolor": face}
                _line(ax, penalties, points, linestyle=line, label=label, **look)
        _categories(ax, ["0" if p == 0 else f"$10^{{{math.log10(p):.3g}}}$" for p in penalties])
        ax.set(title=_look(criterion)["label"], xlabel="step penalty λ")
    return _finish(figure, axes, LOSS_GAP, loss_gaps(rows))


def stages(best: list[Row], choice: Choice, published: Spreads) -> Figure:
    """Loss gap against stages, without a step penalty and with the selected one.

    Args:
      best: prunings of test seeds at the best epoch.
      choice: from `measurements.best_penalties`.
      published: at the paper's largest number of stages, each criterion's best.
    """
    counts = values(best, "stages")
    figure, axes = _panels(2)
    for ax, (title, drawn) in zip(axes, _without_and_with(best, choice), strict=True):
        for criterion in _criteria(best):
            found = where(drawn, criterion=criterion)
            points = loss_gaps_by(found, "stages")
            if invariant(where(best, criterion=criterion)):
                points = dict.fromkeys(counts, loss_gaps(found))
            _line(ax, counts, points, **_look(criterion))
        _categories(ax, [str(count) for count in counts])
        ax.set(title=title, xlabel="stages")
    for place, (criterion, (mean, sd)) in enumerate(published.items()):
        _star(axes[1], len(counts) - 0.8 + 0.12 * place, mean, criterion, yerr=sd)
    return _finish(figure, axes, LOSS_GAP, loss_gaps(best))


def fine_tuning(rows: list[Row], paper: Mapping[str, Spreads]) -> Figure:
    """Error gap after fine-tuning against loss gap before it: a point a seed, the means larger.

    Args:
      rows: of test seeds, of all phases.
      paper: ``"loss_gap"`` and ``"error_gap"`` -> criterion -> mean and spread.
    """
    figure, (ax,) = _panels(1)
    for criterion, pairs in fine_tuned(rows).items():
        look, (x, y) = _look(criterion), np.array(pairs).T
        ax.scatter(x, y, s=9, color=look["color"], marker=look["marker"], alpha=0.5)
        ax.scatter(x.mean(), y.mean(), s=50, edgecolor="white", linewidth=0.5, **look)
    for criterion, (mean, sd) in paper.get("error_gap", {}).items():
        x, x_sd = paper["loss_gap"][criterion]
        _star(ax, x, mean, criterion, xerr=x_sd, yerr=sd)
    ax.axhline(0, color="black", linewidth=0.5)
    ax.set(xlabel=LOSS_GAP, title="after fine-tuning")
    return _finish(figure, [ax], "validation-error gap (pp)")


def early_stopping(pruned: list[Row], choice: Choice) -> Figure:
    """Loss gap of networks pruned early in training: bars of means, a dot a seed.

    Args:
      pruned: prunings of test seeds at early epochs and at the best one.
      choice: from `measurements.best_penalties`.
    """
    early = [row for row in pruned if row["epoch"] != "best"]
    criteria, count = _criteria(early), max(values(early, "stages"))
    epochs, width = [*values(early, "epoch"), "best"], 0.8 / len(criteria)
    figure, axes = _panels(2)
    same_stages = where(pruned, stages=count)
    for ax, (title, drawn) in zip(axes, _without_and_with(same_stages, choice), strict=True):
        for place, criterion in enumerate(criteria):
            look = _look(criterion)
            points = loss_gaps_by(where(drawn, criterion=criterion), "epoch")
            for epoch in filter(points.get, epochs):
                gaps, shift = points[epoch], (place - (len(criteria) - 1) / 2) * width
                x = epochs.index(epoch) + shift
                ax.bar(x, np.mean(gaps), 0.9 * width, color=look["color"], label=look["label"])
                ax.plot([x] * len(gaps), gaps, "o", color="black", markersize=2, alpha=0.6)
        _categories(ax, [str(epoch) for epoch in epochs])
        ax.set(title=f"{title}, {count} stages", xlabel="pruned after epoch")
    return _finish(figure, axes, LOSS_GAP)


def _without_and_with(rows: list[Row], choice: Choice) -> list[tuple[str, list[Row]]]:
    """The titles and rows of two panels: no step penalty, and the chosen one."""
    without, chosen = at_penalties(rows, {}), at_penalties(rows, choice)
    return [("no step penalty", without), ("selected step penalty", chosen)]


def _criteria(rows: Iterable[Row]) -> list[str]:
    """The criteria of the rows: those with a style of their own first, in its order."""
    found = {row["criterion"] for row in rows}
    return [*(c for c in STYLES if c in found), *sorted(found - STYLES.keys())]


def _look(criterion: str) -> dict[str, str]:
    style = STYLES.get(criterion, (criterion.replace("_", " "), "#E69F00", "P"))
    return dict(zip(("label", "color", "marker"), style, strict=True))


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(7.0 if count > 1 else 4.6, 3.2), dpi=200, layout="constrained")
    return figure, list(figure.subplots(1, count, sharey=True, squeeze=False)[0])


def _line(ax: Axes, order: list, points: Mapping[Any, list[float]], **look: str) -> None:
    """Means at the places of a category axis, with standard deviations over seeds as bars."""
    if points:
        drawn = [value for value in order if value in points]
        means = [np.mean(points[value]) for value in drawn]
        bars = [np.std(points[v], ddof=1) if len(points[v]) > 1 else 0.0 for v in drawn]
        places = [order.index(value) for value in drawn]
        ax.errorbar(places, means, bars, linewidth=1.2, markersize=4, elinewidth=0.8, **look)


def _star(ax: Axes, x: float, y: float, criterion: str, **bars: float) -> None:
    look = {"color": _look(criterion)["color"], "markerfacecolor": "white", "markersize": 8}
    ax.errorbar(x, y, fmt="*", elinewidth=0.8, **bars, **look)
    ax.plot([], [], "*", color="black", markerfacecolor="white", label="published")


def _categories(ax: Axes, labels: list[str]) -> None:
    """Ticks at 0, 1, ...; where there are many, every second one has its label."""
    step = 1 if len(labels) <= 6 else 2
    ax.set_xticks(range(len(labels)), [x if i % step == 0 else "" for i, x in enumerate(labels)])


def _finish(figure: Figure, axes: list[Axes], y_label: str, gaps: list[float] = ()) -> Figure:
    """One legend below all panels, and one vertical axis, logarithmic for gaps of many sizes."""
    axes[0].set_ylabel(y_label)
    if max(gaps, default=0) > LOG_RANGE * min(gaps, default=0) > 0:
        axes[0].set_yscale("log")
    entries = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
        ax.grid(axis="y", linewidth=0.4, alpha=0.5)
        ax.spines[["top", "right"]].set_visible(False)
    if entries:
        columns = 4 if len(axes) > 1 and max(map(len, entries)) <= 20 else 3
        place = {"loc": "outside lower center", "ncols": columns, "fontsize": "small"}
        figure.legend(entries.values(), entries, frameon=False, **place)
    return figure

"""What the study of loss modelling (S3) draws."""

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pruning_jax.figures import plots
from pruning_jax.figures.looks import LABELS, looks
from pruning_jax.figures.plots import Sweep, table
from pruning_jax.measurements import (
    Choice,
    Row,
    at_penalties,
    best_penalties,
    fine_tuned,
    invariant,
    values,
    where,
)

Spreads = Mapping[str, tuple[float, float]]
"""Criterion -> a published mean and its spread."""

GAP = {"y": "gap", "y_label": "loss gap |ΔL| (nats)", "within": (0, np.inf), "wide": True}
PANELS = {"panel": "chosen", "panels": {"none": "no step penalty"}}
PANELS["panels"]["selected"] = "selected step penalty"
STAR = {"marker": "*", "markersize": 10, "markerfacecolor": "white", "linestyle": "none"}


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
        tuned_on = (tuning_seeds or {}).get(workload, ())
        found = [
            row | {"kind": "tuning" if row["seed"] in tuned_on else "test"}
            for row in where(rows, workload=workload)
        ]
        paper = (published or {}).get(workload, {})
        pruned = [row | {"gap": abs(row["penalty"])} for row in where(found, phase="pruned")]
        test, tuning = (where(pruned, kind=kind) for kind in ("test", "tuning"))
        best, choice = where(test, epoch="best"), best_penalties(tuning or test)
        if swept := where(pruned, epoch="best"):
            figures[f"step_penalty_{workload}"] = _step_penalty(swept)
        if best:
            figures[f"stages_{workload}"] = _stages(best, choice, paper.get("loss_gap", {}))
        if pairs := fine_tuned(where(found, kind="test")):
            figures[f"fine_tuning_{workload}"] = _fine_tuning(pairs, paper)
        if len(best) < len(test):
            figures[f"early_stopping_{workload}"] = _early_stopping(test, choice)
    return figures


def _step_penalty(rows: list[Row]) -> Figure:
    """Loss gap against step penalty, a panel a criterion, a curve a number of stages and kind."""
    of_each = {name: where(rows, criterion=name) for name in values(rows, "criterion")}
    swept = [row for of in of_each.values() if not invariant(of) for row in of]
    powers = {
        p: f"$10^{{{math.log10(p):.3g}}}$" if p else "0" for p in values(rows, "step_penalty")
    }
    sweep = Sweep(
        "step_penalty", line="stages", dash="kind", panel="criterion", x_label="step penalty λ",
        lines={count: f"{count} stage{'s' * (count > 1)}" for count in values(rows, "stages")},
        dashes={"tuning": "tuning seeds", "test": "test seeds"}, panels=LABELS, ticks=powers, **GAP
    )  # fmt: skip
    return plots.curves(table(swept or rows), sweep, "right after pruning")


def _stages(best: list[Row], choice: Choice, published: Spreads) -> Figure:
    """Loss gap against stages, without a step penalty and with the selected one."""
    counts, drawn = values(best, "stages"), []
    for row in _without_and_with(best, choice):
        same = invariant(where(best, criterion=row["criterion"]))
        drawn += [row | {"stages": count} for count in (counts if same else [row["stages"]])]
    sweep = Sweep("stages", line="criterion", ticks={}, x_label="stages", **PANELS, **GAP)

    def stars(ax: Axes, key: plots.Key) -> None:
        shown = looks(published) if key[1] == "selected" else {}
        for place, (criterion, look) in enumerate(shown.items()):
            at = len(counts) - 0.8 + 0.12 * place
            ax.plot([at], [published[criterion][0]], color=look.color, **STAR)
            ax.set_xlim(right=at + 0.2)

    note = "; stars: the paper's means at its most stages" if published else ""
    return plots.curves(table(drawn), sweep, f"right after pruning{note}", also=stars)


def _fine_tuning(pairs: Mapping[str, list[tuple]], paper: Mapping[str, Spreads]) -> Figure:
    """Error gap after fine-tuning against loss gap before it: a dot a seed, the means larger."""
    drawn = table(
        {"seed": seed, "criterion": criterion, "before": before, "after": after}
        for criterion, of in pairs.items()
        for seed, (before, after) in enumerate(of)
    )
    before, after = (
        plots.summary(drawn, Sweep("criterion", y, "criterion", within=within)).set_index("line")
        for y, within in (("before", (0, np.inf)), ("after", (-100, 100)))
    )
    figure, axes = plots.lay_out([[("", "")]])
    (ax,) = axes.values()
    for criterion, look in looks(pairs).items():
        style = {"color": look.color, "marker": look.marker, "linestyle": "none"}
        ax.plot(*np.transpose(pairs[criterion]), markersize=2.5, alpha=0.5, **style)
        x, y = before.loc[[criterion]], after.loc[[criterion]]
        bars = {"xerr": plots.errors(x), "yerr": plots.errors(y), "capsize": 2, "markersize": 7}
        ax.errorbar(x["mean"], y["mean"], label=look.label, **bars, **style)
    for criterion, look in looks(paper.get("error_gap", {})).items():
        at = paper["loss_gap"][criterion][0], paper["error_gap"][criterion][0]
        ax.plot(*np.reshape(at, (2, 1)), color=look.color, **STAR)
    ax.axhline(0, color="black", linewidth=0.5)
    ax.set(xlabel=GAP["y_label"], ylabel="validation-error gap (pp)")
    plots.legend(figure, ax.get_legend_handles_labels()[0])
    note = "; stars: the paper's means" if paper.get("error_gap") else ""
    title = f"after fine-tuning; a dot a seed{note}"
    figure.suptitle(f"{title}\n{plots.counted(before['n'])}", fontsize="medium")
    return figure


def _early_stopping(test: list[Row], choice: Choice) -> Figure:
    """Loss gap of networks pruned early in training, as bars."""
    early = [row for row in test if row["epoch"] != "best"]
    count, criteria = max(values(early, "stages")), values(early, "criterion")
    same = [row for row in where(test, stages=count) if row["criterion"] in criteria]
    epochs = {epoch: str(epoch) for epoch in (*values(early, "epoch"), "best")}
    sweep = Sweep(
        "epoch", line="criterion", ticks=epochs, x_label="pruned after epoch", kind="bars",
        **PANELS, **GAP | {"wide": False},
    )  # fmt: skip
    drawn = table(_without_and_with(same, choice))
    return plots.curves(drawn, sweep, f"right after pruning in {count} stages")


def _without_and_with(rows: list[Row], choice: Choice) -> list[Row]:
    """The rows of two panels: no step penalty, and the chosen one."""
    without = [row | {"chosen": "none"} for row in at_penalties(rows, {})]
    return without + [row | {"chosen": "selected"} for row in at_penalties(rows, choice)]

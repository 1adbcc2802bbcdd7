"""What the figures share: the look of a criterion, panels, points with bars, the legend."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pruning_jax.measurements import Row

STYLES = {
    "magnitude": ("magnitude (MP)", "#000000", "s"),
    "obd": ("OBD", "#0072B2", "^"),
    "linear": ("linear (LM)", "#D55E00", "o"),
    "quadratic": ("quadratic (QM)", "#009E73", "D"),
    "random": ("random", "#999999", "X"),
    "gradient_magnitude": ("gradient magnitude", "#CC79A7", "v"),
    "weight_norm": ("weight norm", "#000000", "s"),
    "rs": ("RS", "#56B4E9", "^"),
    "mrs": ("MRS", "#E69F00", "v"),
    "abs_rs": ("|RS|", "#0072B2", "o"),
    "abs_mrs": ("|MRS|", "#D55E00", "D"),
}
"""Criterion -> label, colour and marker; the colours are Okabe and Ito's."""
LOSS_GAP, LOG_RANGE = "loss gap |ΔL| (nats)", 10


def criteria(rows: Iterable[Row]) -> list[str]:
    """The criteria of the rows: those with a style of their own first, in its order."""
    found = {row["criterion"] for row in rows}
    return [*(c for c in STYLES if c in found), *sorted(found - STYLES.keys())]


def look(criterion: str) -> dict[str, str]:
    style = STYLES.get(criterion, (criterion.replace("_", " "), "#E69F00", "P"))
    return dict(zip(("label", "color", "marker"), style, strict=True))


def panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(7.0 if count > 1 else 4.6, 3.2), dpi=200, layout="constrained")
    return figure, list(figure.subplots(1, count, sharey=True, squeeze=False)[0])


def line(ax: Axes, order: list, points: Mapping[Any, list[float]], **style: str) -> None:
    """Means at the places of a category axis, with standard deviations over seeds as bars."""
    if points:
        drawn = [value for value in order if value in points]
        means = [np.mean(points[value]) for value in drawn]
        bars = [np.std(points[v], ddof=1) if len(points[v]) > 1 else 0.0 for v in drawn]
        places = [order.index(value) for value in drawn]
        ax.errorbar(places, means, bars, linewidth=1.2, markersize=4, elinewidth=0.8, **style)


def star(ax: Axes, x: float, y: float, criterion: str, **bars: float) -> None:
    style = {"color": look(criterion)["color"], "markerfacecolor": "white", "markersize": 8}
    ax.errorbar(x, y, fmt="*", elinewidth=0.8, **bars, **style)
    ax.plot([], [], "*", color="black", markerfacecolor="white", label="published")


def categories(ax: Axes, labels: list[str]) -> None:
    """Ticks at 0, 1, ...; where there are many, every second one has its label."""
    step = 1 if len(labels) <= 6 else 2
    ax.set_xticks(range(len(labels)), [x if i % step == 0 else "" for i, x in enumerate(labels)])


def finish(figure: Figure, axes: list[Axes], y_label: str, gaps: list[float] = ()) -> Figure:
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

"""How methods, a criterion with or without its means folded in, are drawn in any figure."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from pruning_jax.figures import drawing
from pruning_jax.measurements import Row
from pruning_jax.measurements.mean_replacement import penalties

REPLACEMENTS = {"zero": ("--", "removed alone"), "mean": ("-", "mean folded in")}
"""Replacement -> line and label; markers are open where units are removed alone."""
PENALTY = "pruning penalty (nats)"
COLUMNS, TICKS, DECADES = 3, 2, 5
RANGE = 30
"""How many times the small penalties the largest one must be for a logarithmic axis."""


def grid(count: int, *, sharex: bool = False, sharey: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of as many panels, in rows of three."""
    columns, lines = min(count, COLUMNS), -(-count // COLUMNS)
    figure = Figure(figsize=(7.0, 2.6 * lines + 0.6), dpi=200, layout="constrained")
    found = figure.subplots(lines, columns, sharex=sharex, sharey=sharey, squeeze=False)
    for ax in found.flat[count:]:
        ax.set_axis_off()
    for ax in found.flat[max(count - columns, 0) : count]:
        ax.tick_params(labelbottom=True)
    return figure, list(found.flat[:count])


def in_order(criteria: Iterable[str]) -> list[str]:
    """The criteria in the order of their styles."""
    return drawing.criteria([{"criterion": criterion} for criterion in criteria])


def appearance(criterion: str, replacement: str) -> dict[str, str]:
    """The look of a method's line; only one of a criterion's two is named in the legend."""
    style = drawing.look(criterion)
    face = style["color"] if replacement == "mean" else "white"
    label = style["label"] if replacement == "mean" else "_"
    line = REPLACEMENTS[replacement][0]
    return style | {"linestyle": line, "markerfacecolor": face, "label": label}


def mean_penalties(ax: Axes, places: Sequence[float], settings: Sequence[list[Row]]) -> None:
    """Each method's mean penalty over the settings at each place, as lines."""
    means = [{m: of.mean() for m, of in penalties(rows).items()} for rows in settings]
    for criterion, replacement in means[0]:
        heights = [mean[criterion, replacement] for mean in means]
        look = appearance(criterion, replacement)
        ax.plot(places, heights, linewidth=1.2, markersize=4, **look)


def finish(figure: Figure, axes: Sequence[Axes], y_label: str, *, wide: bool = False) -> Figure:
    """Names the two replacements in the legend, and the vertical axis of every row of panels.

    Args:
      figure: to be finished.
      axes: its panels, in rows of three.
      y_label: of the vertical axis.
      wide: whether the vertical axis spans many sizes, of both signs.
    """
    for replacement, (line, label) in REPLACEMENTS.items():
        face = "black" if replacement == "mean" else "white"
        look = {"linestyle": line, "marker": "o", "markersize": 4, "markerfacecolor": face}
        axes[0].plot([], [], color="black", label=label, **look)
    if wide:
        drawn = [line.get_ydata() for ax in axes for line in ax.lines]
        _signed_log(axes, np.concatenate(drawn), "y")
    for ax in axes[::COLUMNS]:
        ax.set_ylabel(y_label)
    return drawing.finish(figure, list(axes), y_label)


def gains(zero: np.ndarray, mean: np.ndarray) -> str:
    """How many points lie below y = x, in words."""
    return f"{100 * np.mean(mean < zero):.0f} % below"


def scatter(ax: Axes, criterion: str, points: Sequence[np.ndarray], *, named: bool) -> None:
    """A small point for each pair of penalties, and a larger one in the legend if it is named."""
    look = drawing.look(criterion)
    label = look.pop("label")
    ax.scatter(*points, s=6, linewidths=0, alpha=0.5, rasterized=True, **look)
    if named:
        ax.plot([], [], linestyle="none", markersize=5, label=label, **look)


def finish_scatter(figure: Figure, axes: Sequence[Axes], points: Iterable[np.ndarray]) -> Figure:
    """The line y = x and the same two axes in every panel, for penalties of both signs."""
    points = np.concatenate([np.ravel(of) for of in points])
    low, high = points.min(), points.max()
    for ax in axes:
        ax.plot([low, high], [low, high], color="black", linewidth=0.8, label="y = x")
        ax.set_xlabel("removed alone")
    for ax in axes[::COLUMNS]:
        ax.set_ylabel(label := "mean folded in")
    for axis in "xy":
        _signed_log(axes, points, axis)
    figure.suptitle(PENALTY, fontsize="medium")
    return drawing.finish(figure, list(axes), label)


def _signed_log(axes: Sequence[Axes], drawn: np.ndarray, axis: str) -> None:
    """A logarithmic axis, linear about zero, where sizes differ by thirty times or more."""
    sizes = np.abs(drawn[np.isfinite(drawn) & (drawn != 0)])
    if not sizes.size or sizes.max() < RANGE * np.quantile(sizes, 0.1):
        return
    most = math.floor(math.log10(sizes.max()))
    least = max(math.floor(math.log10(np.quantile(sizes, 0.1))), most - DECADES)
    powers = 10.0 ** np.arange(most, least, -max(2, math.ceil((most - least) / TICKS)))
    ticks = [t for t in (*-powers, 0, *powers[::-1]) if drawn.min() <= t <= drawn.max()]
    for ax in axes:
        getattr(ax, f"set_{axis}scale")("symlog", linthresh=10.0**least)
        getattr(ax, f"{axis}axis").set_major_locator(FixedLocator(ticks))

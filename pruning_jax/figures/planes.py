"""The panels of a loss surface: a plane's contours, points and paths, a line's profile."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from pruning_jax.figures.placing import name_points

Points = Mapping[str, ArrayLike]
"""Name -> coordinates (x, y); for a path, coordinates of shape (steps, 2)."""
Limits = tuple[float, float]

COLOURS, MISSING = "viridis", "#DDDDDD"
MARKERS = "osD^vP"
PATHS = (("#FFFFFF", "-"), ("#E69F00", "-"), ("#FFFFFF", ":"), ("#E69F00", ":"))
"""Colour and line of the first, second, ... path; each has a dark rim."""
LEVELS, LONGEST = 20, 3
ALONG = "distance along û", "distance along v̂"


def fill(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    *,
    limits: Limits | None = None,
) -> ContourSet:
    """The contours of `contours`, on axes that may be one panel of several.

    Both directions have one scale, unless the plane is a strip; its vertical axis says so.
    """
    shown = np.ma.masked_invalid(values)
    low, high = limits or (shown.min(), shown.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    cut = {(False, False): "neither", (True, False): "min", (False, True): "max"}
    levels = np.linspace(low, high, LEVELS + 1)
    beyond = bool(shown.min() < levels[0]), bool(shown.max() > levels[-1])
    ax.set_facecolor(MISSING)
    filled = ax.contourf(x, y, shown, levels, cmap=COLOURS, extend=cut.get(beyond, "both"))
    filled.set_edgecolor("face")
    lines = [level for level in levels[::4] if shown.min() < level < shown.max()]
    if lines:
        ax.contour(x, y, shown, lines, colors="white", linewidths=0.4, alpha=0.6)
    sides = np.ptp(x), np.ptp(y)
    to_scale = max(sides) <= LONGEST * min(sides)
    ax.set_aspect("equal" if to_scale else "auto")
    ax.set_ylabel(ALONG[1] if to_scale else f"{ALONG[1]} (not to scale)")
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    return filled


def size(columns: int, lines: int, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Width and height, in inches, of a figure of panels of one shape with a bar of colours."""
    width = 3.6 if columns == 1 else 5.4 / columns
    ratio = np.ptp(y) / np.ptp(x)
    height = width * (ratio if 1 / LONGEST <= ratio <= LONGEST else 0.75)
    return columns * width + 1.6, lines * (height + 0.55) + 0.9


def mark(ax: Axes, points: Points | None, paths: Points | None) -> None:
    """Points and paths over contours; where a path leaves the grid it is not seen."""
    for (name, path), (colour, line) in zip((paths or {}).items(), itertools.cycle(PATHS)):
        look = {"color": colour, "linestyle": line, "linewidth": 1.3, "markersize": 3.5}
        rim = [withStroke(linewidth=2.6, foreground="#222222")]
        ax.plot(*np.transpose(path), marker=".", path_effects=rim, zorder=3, label=name, **look)
    for (x, y), marker in zip((points or {}).values(), itertools.cycle(MARKERS)):
        look = {"markerfacecolor": "white", "markeredgecolor": "black", "markersize": 6.5}
        ax.plot([x], [y], marker, zorder=4, **look)


def bar(figure: Figure, filled: ContourSet, axes: Sequence[Axes], label: str) -> None:
    """The bar of colours beside panels; ticks beyond its ends would be put at the ends."""
    low, high = filled.levels[[0, -1]]
    ticks = MaxNLocator(6).tick_values(low, high)
    inside = ticks[(low <= ticks) & (ticks <= high)]
    figure.colorbar(filled, ax=list(axes), label=label, ticks=inside)


def finish(figure: Figure, panels: Mapping[Axes, Points]) -> None:
    """One legend of all panels' paths, then the points' names where a panel has room for them."""
    entries = {}
    for ax in panels:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        place = {"loc": "outside lower center", "ncols": min(len(entries), 4), "fontsize": "small"}
        figure.legend(entries.values(), entries, frameon=False, **place)
    name_points(figure, panels)


def profile(ax: Axes, positions: np.ndarray, values: ArrayLike, **look: Any) -> None:
    """A curve of `profiles`: the mean over seeds, their range as a band, the dotted chord."""
    seeds = np.atleast_2d(np.asarray(values, dtype=float))
    mean, colour = seeds.mean(axis=0), look["color"]
    ends = positions[[0, -1]], mean[[0, -1]]
    if len(seeds) > 1:
        band = seeds.min(axis=0), seeds.max(axis=0)
        ax.fill_between(positions, *band, color=colour, alpha=0.18, linewidth=0)
    ax.plot(*ends, color=colour, linestyle=":", linewidth=0.8)
    ax.plot(positions, mean, linewidth=1.4, **look)


def explain(ax: Axes, seeds: int) -> None:
    """Entries of the legend for what `profile` draws beside the curves."""
    ax.plot([], [], color="#555555", linestyle=":", linewidth=0.8, label="line between the ends")
    if seeds > 1:
        ax.fill_between([], [], [], color="#555555", alpha=0.3, label=f"range of {seeds} seeds")

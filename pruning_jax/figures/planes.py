"""A loss surface: contours of planes, profiles along lines, a surface that can be turned."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from pruning_jax.figures import plots
from pruning_jax.figures.looks import AMBER
from pruning_jax.figures.placing import name_points

Points = Mapping[str, ArrayLike]
"""Name -> coordinates (x, y); for a path, coordinates of shape (steps, 2)."""
Limits = tuple[float, float]

COLOURS, MISSING, DARK = "viridis", "#DDDDDD", "#222222"
MARKERS = "osD^vP"
PATHS = (("#FFFFFF", "-"), (AMBER, "-"), ("#FFFFFF", ":"), (AMBER, ":"))
"""Colour and line of the first, second, ... path; each has a dark rim."""
LEVELS, LONGEST = 20, 3
ALONG = "distance along û", "distance along v̂"


class Plane(NamedTuple):
    """A quantity over a plane: as `contours` takes it."""

    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    points: Points
    paths: Points


def contours(
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    *,
    points: Points | None = None,
    paths: Points | None = None,
    label: str = "loss",
    title: str = "",
    limits: Limits | None = None,
) -> Figure:
    """Filled contours of a plane, with points marked and named and paths projected on it.

    Args:
      x: the columns' coordinates, shape (columns,), rising.
      y: the rows' coordinates, shape (rows,), rising.
      values: shape (rows, columns); what is not finite stays grey.
      points: name -> its coordinates, shape (2,).
      paths: name -> the coordinates along it, shape (steps, 2): `analysis.landscape.coordinates`.
      label: of the colours, with the unit.
      title: above the plane.
      limits: the least and the largest value told apart; those beyond share the end's colour.

    Raises:
      ValueError: axes that do not rise, values of another shape or none finite, points or paths of
        another shape, limits that do not rise.
    """
    plane = _checked(x, y, values, points, paths, limits)
    return grid([[(title, plane)]], label=label, limits=limits)


def grid(
    panels: Sequence[Sequence[tuple[str, Plane | None]]],
    *,
    label: str,
    title: str = "",
    limits: Limits | None = None,
) -> Figure:
    """Planes of one shape with one scale of colours, a panel a title; a missing one is left out."""
    there = [plane for line in panels for _, plane in line if plane]
    finite = np.concatenate([plane.values[np.isfinite(plane.values)] for plane in there])
    low, high = limits or (finite.min(), finite.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    beyond = bool(finite.min() < low), bool(finite.max() > high)
    cut = {(False, False): "neither", (True, False): "min", (False, True): "max"}
    look = {"levels": np.linspace(low, high, LEVELS + 1), "extend": cut.get(beyond, "both")}
    size = _size(len(panels[0]), len(panels), there[0])
    figure = Figure(figsize=size, dpi=200, layout="compressed")
    axes, named = figure.subplots(len(panels), len(panels[0]), squeeze=False), {}
    for ax, (name, plane) in zip(axes.flat, itertools.chain(*panels), strict=True):
        if plane is None:
            ax.set_axis_off()
            continue
        filled = _fill(ax, plane, **look)
        _mark(ax, plane)
        ax.set_title(name, fontsize="medium")
        named[ax] = plane.points
    for ax in axes[-1]:
        ax.set_xlabel(ALONG[0])
    ticks = MaxNLocator(6).tick_values(low, high)  # those beyond the ends would be put at the ends
    inside = ticks[(low <= ticks) & (ticks <= high)]
    figure.colorbar(filled, ax=[*named], label=label, ticks=inside)
    figure.suptitle(title, fontsize="medium")
    handles = {h.get_label(): h for ax in named for h in ax.get_legend_handles_labels()[0]}
    plots.legend(figure, [*handles.values()])
    name_points(figure, named)
    return figure


def profiles(
    positions: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    label: str = "loss",
    along: str = "position on the line",
    title: str = "",
    within: Limits = plots.NO_BOUNDS,
) -> Figure:
    """Profiles along a line; the dotted chord between a curve's ends shows its barrier.

    Args:
      positions: shape (positions,), rising.
      curves: name -> values, shape (positions,), or (seeds, positions): then their mean is drawn,
        and its 95 % interval.
      label: of the vertical axis, with the unit.
      along: of the horizontal axis.
      title: above the axes.
      within: what a mean cannot lie beyond, such as (0, 100) of a percentage.

    Raises:
      ValueError: positions that do not rise, no curve, or values of another shape.
    """
    positions = _rising("positions", positions)
    if not curves:
        raise ValueError("curves is empty; it must be name -> values, one curve at least")
    for name, values in curves.items():
        if np.shape(values)[-1:] != positions.shape or np.ndim(values) > 2:
            needed = f"{positions.shape} or (seeds, {positions.size})"
            raise ValueError(f"curves[{name!r}] has shape {np.shape(values)}; it must be {needed}")
    rows = [
        {"seed": seed, "x": x, "y": y, "name": name}
        for name, values in curves.items()
        for seed, heights in enumerate(np.atleast_2d(np.asarray(values, dtype=float)))
        for x, y in zip(positions, heights, strict=True)
    ]
    look = {"x_label": along, "y_label": label, "within": within, "chord": True}
    sweep = plots.Sweep("x", "y", "name", lines={name: name for name in curves}, **look)
    return plots.curves(plots.table(rows), sweep, title)


def surface(
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    *,
    points: Points | None = None,
    paths: Points | None = None,
    label: str = "loss",
    title: str = "",
    limits: Limits | None = None,
) -> Any:
    """An interactive surface over a plane, a ``plotly.graph_objects.Figure``.

    Args:
      x: as `contours` takes it, and so are y, values, points, paths, label and title.
      limits: the least and the largest height; what lies beyond is cut off flat.

    Raises:
      ImportError: plotly is not installed.
      ValueError: as `contours` does.
    """
    x, y, values, points, paths = _checked(x, y, values, points, paths, limits)
    graph = _plotly()
    heights = np.where(np.isfinite(values), values, np.nan)
    low, high = limits or (np.nanmin(heights), np.nanmax(heights))
    heights = np.clip(heights, low, high)
    over = scipy.interpolate.RegularGridInterpolator(
        (y, x), heights, bounds_error=False, fill_value=np.nan
    )

    def scatter(name: str, at: ArrayLike, **look: Any) -> Any:
        at = np.reshape(np.asarray(at, dtype=float), (-1, 2))
        lifted = over(at[:, ::-1]) + 0.01 * (high - low)
        return graph.Scatter3d(x=at[:, 0], y=at[:, 1], z=lifted, name=name, **look)

    look = {"colorscale": COLOURS, "cmin": low, "cmax": high, "colorbar": {"title": label}}
    hover = f"û %{{x:.3g}}, v̂ %{{y:.3g}}<br>{label} %{{z:.4g}}<extra></extra>"
    figure = graph.Figure(graph.Surface(x=x, y=y, z=heights, hovertemplate=hover, **look))
    for (name, path), (colour, line) in zip(paths.items(), itertools.cycle(PATHS)):
        look = {"color": DARK if colour == "#FFFFFF" else colour, "width": 5}
        look |= {"dash": "dot" if line == ":" else "solid"}
        figure.add_trace(scatter(name, path, mode="lines", line=look))
    for name, at in points.items():
        look = {"mode": "markers+text", "text": [name], "marker": {"size": 5, "color": "black"}}
        figure.add_trace(scatter(name, at, showlegend=False, **look))
    axes = {"xaxis_title": ALONG[0], "yaxis_title": ALONG[1], "zaxis_title": label}
    figure.update_layout(title=title, scene=axes, legend={"orientation": "h"})
    return figure


def _fill(ax: Axes, plane: Plane, levels: np.ndarray, extend: str) -> ContourSet:
    """Contours; both directions have one scale, unless the plane is a strip, as its axis says."""
    x, y, shown = plane.x, plane.y, np.ma.masked_invalid(plane.values)
    ax.set_facecolor(MISSING)
    filled = ax.contourf(x, y, shown, levels, cmap=COLOURS, extend=extend)
    filled.set_edgecolor("face")
    lines = [level for level in levels[::4] if shown.min() < level < shown.max()]
    if lines:
        ax.contour(x, y, shown, lines, colors="white", linewidths=0.4, alpha=0.6)
    sides = np.ptp(x), np.ptp(y)
    to_scale = max(sides) <= LONGEST * min(sides)
    ax.set_aspect("equal" if to_scale else "auto")
    ax.set_ylabel(ALONG[1] if to_scale else f"{ALONG[1]} (not to scale)", fontsize="small")
    ax.tick_params(labelsize="small")
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    return filled


def _size(columns: int, lines: int, plane: Plane) -> tuple[float, float]:
    """Width and height, in inches, of a figure of panels of one shape with a bar of colours."""
    width = 3.6 if columns == 1 else 5.4 / columns
    ratio = np.ptp(plane.y) / np.ptp(plane.x)
    height = width * (ratio if 1 / LONGEST <= ratio <= LONGEST else 0.75)
    return columns * width + 1.6, lines * (height + 0.55) + 0.9


def _mark(ax: Axes, plane: Plane) -> None:
    """Points and paths over contours; where a path leaves the grid it is not seen."""
    for (name, path), (colour, line) in zip(plane.paths.items(), itertools.cycle(PATHS)):
        look = {"color": colour, "linestyle": line, "linewidth": 1.3, "markersize": 3.5}
        rim = [withStroke(linewidth=2.6, foreground=DARK)]
        ax.plot(*np.transpose(path), marker=".", path_effects=rim, zorder=3, label=name, **look)
    for (x, y), marker in zip(plane.points.values(), itertools.cycle(MARKERS)):
        look = {"markerfacecolor": "white", "markeredgecolor": "black", "markersize": 6.5}
        ax.plot([x], [y], marker, zorder=4, **look)


def _plotly() -> Any:
    try:
        import plotly.graph_objects as graph
    except ImportError as error:
        message = "surface draws with plotly, which is not installed; the extra `notebooks` has it"
        raise ImportError(f"{message}: pip install 'pruning_jax[notebooks]'") from error
    return graph


def _rising(name: str, values: ArrayLike) -> np.ndarray:
    found = np.asarray(values, dtype=float)
    if found.ndim != 1 or found.size < 2:
        raise ValueError(f"{name} has shape {found.shape}; it must be (n,), n >= 2")
    if not np.isfinite(found).all() or not (np.diff(found) > 0).all():
        raise ValueError(f"{name} is {found.tolist()}; it must be finite and rise")
    return found


def _checked(
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    points: Points | None,
    paths: Points | None,
    limits: Limits | None,
) -> Plane:
    x, y, values = _rising("x", x), _rising("y", y), np.asarray(values, dtype=float)
    if values.shape != (y.size, x.size):
        raise ValueError(f"values has shape {values.shape}; it must be (y, x): {y.size, x.size}")
    if not np.isfinite(values).any():
        raise ValueError("values has no finite entry; there is nothing to draw")
    for name, at in (points or {}).items():
        if np.shape(at) != (2,) or not np.isfinite(at).all():
            raise ValueError(f"points[{name!r}] is {at}; it must be two finite numbers, x and y")
    for name, path in (paths or {}).items():
        if np.ndim(path) != 2 or np.shape(path)[1] != 2:
            raise ValueError(f"paths[{name!r}] has shape {np.shape(path)}; it must be (steps, 2)")
    if limits is not None and not limits[0] < limits[1]:
        raise ValueError(f"limits is {limits}; the first must be below the second")
    return Plane(x, y, values, points or {}, paths or {})

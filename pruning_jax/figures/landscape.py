"""A loss surface: contours of a plane, profiles along lines, a surface that can be turned."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pruning_jax.figures import planes
from pruning_jax.figures.planes import ALONG, COLOURS, PATHS, Limits, Points

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of the first, second, ... profile; Okabe and Ito's."""


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
    x, y, values = _checked(x, y, values, points, paths, limits)
    figure = Figure(figsize=planes.size(1, 1, x, y), dpi=200, layout="compressed")
    ax = figure.subplots()
    filled = planes.fill(ax, x, y, values, limits=limits)
    planes.mark(ax, points, paths)
    ax.set(title=title, xlabel=ALONG[0])
    planes.bar(figure, filled, [ax], label)
    planes.finish(figure, {ax: points or {}})
    return figure


def profiles(
    positions: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    label: str = "loss",
    along: str = "position on the line",
    title: str = "",
) -> Figure:
    """Profiles along a line; the dotted chord between a curve's ends shows its barrier.

    Args:
      positions: shape (positions,), rising.
      curves: name -> values, shape (positions,), or (seeds, positions): then their mean is drawn,
        and their range as a band.
      label: of the vertical axis, with the unit.
      along: of the horizontal axis.
      title: above the axes.

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
    figure = Figure(figsize=(5.2, 3.6), dpi=200, layout="constrained")
    ax = figure.subplots()
    for (name, values), colour in zip(curves.items(), itertools.cycle(LINES)):
        planes.profile(ax, positions, values, color=colour, label=name)
    ax.set(xlabel=along, ylabel=label, title=title, xlim=(positions[0], positions[-1]))
    ax.grid(axis="y", linewidth=0.4, alpha=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    planes.explain(ax, max(len(np.atleast_2d(values)) for values in curves.values()))
    columns = min(len(curves) + 1, 3)
    figure.legend(loc="outside lower center", ncols=columns, fontsize="small", frameon=False)
    return figure


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
    x, y, values = _checked(x, y, values, points, paths, limits)
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
    for (name, path), (colour, line) in zip((paths or {}).items(), itertools.cycle(PATHS)):
        look = {"color": "#222222" if colour == "#FFFFFF" else colour, "width": 5}
        look |= {"dash": "dot" if line == ":" else "solid"}
        figure.add_trace(scatter(name, path, mode="lines", line=look))
    for name, at in (points or {}).items():
        look = {"mode": "markers+text", "text": [name], "marker": {"size": 5, "color": "black"}}
        figure.add_trace(scatter(name, at, showlegend=False, **look))
    axes = {"xaxis_title": ALONG[0], "yaxis_title": ALONG[1], "zaxis_title": label}
    figure.update_layout(title=title, scene=axes, legend={"orientation": "h"})
    return figure


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
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    return x, y, values

"""Names beside points, each where it covers least."""

import itertools
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

NEAR, POINT, TEXT = (5.0, 14.0), 5.0, 7.5
"""In points: the distances of a name that are tried, half a marker, the size of the text."""
SIDES = [side for side in itertools.product((0, 1, -1), (1, -1, 0)) if side != (0, 0)]
"""Above and below a point first, then to its right and left."""
STEPS = 8
"""Into how many parts a stretch of a path is cut to see what it covers."""


def name_points(figure: Figure, panels: Mapping[Axes, Mapping[str, ArrayLike]]) -> None:
    """Writes the name of each point next to it, clear of points, paths and names where it can be.

    Args:
      figure: complete but for the names: they move nothing.
      panels: axes of the figure -> name -> coordinates (x, y).
    """
    figure.draw_without_rendering()
    reach = POINT * figure.dpi / 72
    for ax, points in panels.items():
        places = ax.transData.transform(np.reshape([*points.values()], (-1, 2)))
        paths = [_between(ax.transData.transform(line.get_xydata())) for line in ax.lines]
        boxes = [_around(places, reach), *(_around(path, reach / 2) for path in paths)]
        taken = np.concatenate(boxes)
        for (name, point), at in zip(points.items(), places, strict=True):
            taken = np.concatenate([taken, _name(ax, name, point, at, taken)])


def _name(ax: Axes, name: str, point: ArrayLike, at: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Writes one name at the best of its places; the box of it."""
    rim = [withStroke(linewidth=2.2, foreground="white")]
    look = {"fontsize": TEXT, "path_effects": rim, "ha": "center", "va": "center"}
    text = ax.annotate(name, tuple(point), (0, 0), textcoords="offset points", **look)
    text.set_in_layout(False)
    drawn, scale = text.get_window_extent(), ax.figure.dpi / 72
    half = np.array([drawn.width, drawn.height]) / 2
    tried = np.array([(half + near * scale) * side for near in NEAR for side in SIDES])
    boxes = np.concatenate([at + tried - half, at + tried + half], axis=1)
    outside = 4 * half.prod() - _common(boxes, np.array([ax.bbox.extents]))[:, 0]
    best = np.argmin(outside + _common(boxes, taken).sum(axis=1))
    text.set_position(tried[best] / scale)
    return boxes[best : best + 1]


def _between(path: np.ndarray) -> np.ndarray:
    """Points along a path; of a single point there are none."""
    steps = np.linspace(0, 1, STEPS, endpoint=False)[:, None, None]
    return (path[:-1] + steps * np.diff(path, axis=0)).reshape(-1, 2)


def _around(places: np.ndarray, reach: float) -> np.ndarray:
    """Boxes x0, y0, x1, y1 around places."""
    return np.concatenate([places - reach, places + reach], axis=1)


def _common(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that each box has in common with each of the others, shape (boxes, others)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.maximum(high - low, 0).prod(axis=-1)

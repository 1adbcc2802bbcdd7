"""The drawing of a unit graph: boxes for layers, edges for the units between them."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pruning_jax.figures.looks import BLUE, GREEN, GREY, RED, SKY, VIOLET

Edges = Iterable[tuple[str, str, int, str, bool]]
"""Producing layer, space, its size, consuming layer, whether it may be pruned."""

COLOURS, FIXED = (BLUE, RED, GREEN, VIOLET, SKY), GREY
"""Of prunable spaces, in turn, and of those that may not be pruned."""
BOX, STEP, LANE = 0.13, 0.5, 0.45
"""In inches: half the height of a box, from row to row, from lane to lane."""


class Space(NamedTuple):
    """A space as it is drawn: which rows make and take its units."""

    label: str
    makers: set[int]
    takers: set[int]
    prunable: bool

    @property
    def first(self) -> int:
        return min(self.makers | self.takers)

    @property
    def last(self) -> int:
        return max(self.makers | self.takers)


def unit_graph(edges: Edges) -> Figure:
    """Draws which units go from which layer to which.

    Layers are boxes, in an order in which units go down. A space between two neighbours is an
    arrow; any other one, such as a residual stream, is a line of its own at the side, with a dot
    at each layer that adds to it and an arrow at each that reads it. Spaces that may not be pruned
    are grey.

    Args:
      edges: rows of producing layer, space, size, consuming layer, prunable: `units.edges`.

    Raises:
      ValueError: no edges.
    """
    edges = list(edges)
    if not edges:
        raise ValueError("there are no edges to draw: the graph has no unit space")
    rows = {layer: place for place, layer in enumerate(_order(edges))}
    spaces = _spaces(edges, rows)
    direct = {name for name, space in spaces.items() if _direct(space, spaces.values())}
    lanes = _lanes({name: space for name, space in spaces.items() if name not in direct})
    width = 0.07 * max(map(len, rows)) + 0.2
    right = width / 2 + LANE * (1 + max(lanes.values(), default=-1))
    right += 0.1 + 0.07 * max(len(space.label) for space in spaces.values()) * bool(lanes)
    left, bottom, top = -width / 2 - 0.1, -STEP * (len(rows) - 1) - BOX - 0.1, BOX + 0.1
    figure = Figure(figsize=(right - left, top - bottom), dpi=200)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
    ax.axis("off")
    for layer, row in rows.items():
        _box(ax, layer, row, width)
    colours = itertools.cycle(COLOURS)
    for name, space in spaces.items():
        colour = next(colours) if space.prunable else FIXED
        if name in direct:
            _direct_edge(ax, space, colour)
        else:
            _side_edge(ax, space, colour, width / 2, width / 2 + LANE * (1 + lanes[name]))
    return figure


def _order(edges: list[tuple[str, str, int, str, bool]]) -> list[str]:
    """The layers, each after those that feed it, otherwise as they come."""
    waiting = dict.fromkeys(layer for edge in edges for layer in (edge[0], edge[3]))
    ordered = []
    while waiting:
        fed = {edge[3] for edge in edges if edge[0] in waiting and edge[0] != edge[3]}
        chosen = next((layer for layer in waiting if layer not in fed), next(iter(waiting)))
        ordered.append(chosen)
        del waiting[chosen]
    return ordered


def _spaces(edges: list[tuple[str, str, int, str, bool]], rows: dict[str, int]) -> dict[str, Space]:
    found: dict[str, Space] = {}
    for producer, name, size, consumer, prunable in edges:
        space = found.setdefault(name, Space(f"{size:,}", set(), set(), prunable))
        space.makers.add(rows[producer])
        space.takers.add(rows[consumer])
    return found


def _direct(space: Space, others: Iterable[Space]) -> bool:
    """Whether a space alone joins two neighbours."""
    pair = (space.first, space.last)
    alone = sum((other.first, other.last) == pair for other in others) == 1
    return alone and len(space.makers) == len(space.takers) == 1 and pair[1] - pair[0] == 1


def _lanes(spaces: dict[str, Space]) -> dict[str, int]:
    """The lane of each space, as near to the boxes as those that are there already let it."""
    ends: list[list[Space]] = []
    lanes = {}
    for name, space in sorted(spaces.items(), key=lambda item: item[1].last - item[1].first):
        free = (
            lane
            for lane, used in enumerate(ends)
            if all(other.last < space.first or space.last < other.first for other in used)
        )
        lanes[name] = next(free, len(ends))
        if lanes[name] == len(ends):
            ends.append([])
        ends[lanes[name]].append(space)
    return lanes


def _box(ax: Axes, layer: str, row: int, width: float) -> None:
    colour = FIXED if layer in ("inputs", "outputs") else "black"
    corner = (-width / 2, -STEP * row - BOX)
    ax.add_patch(Rectangle(corner, width, 2 * BOX, facecolor="white", edgecolor=colour))
    ax.text(0, -STEP * row, layer, ha="center", va="center", fontsize=8)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    look = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look)


def _direct_edge(ax: Axes, space: Space, colour: str) -> None:
    top, bottom = -STEP * space.first - BOX, -STEP * space.last + BOX
    _arrow(ax, (0, top), (0, bottom), colour)
    ax.text(0.08, (top + bottom) / 2, space.label, color=colour, fontsize=7, va="center")


def _side_edge(ax: Axes, space: Space, colour: str, box: float, x: float) -> None:
    makers = [-STEP * row - BOX / 2 for row in space.makers]
    takers = [-STEP * row + BOX / 2 for row in space.takers]
    ax.vlines(x, min(makers + takers), max(makers + takers), color=colour, linewidth=1.2)
    ax.hlines(makers, box, x, color=colour, linewidth=1.2)
    ax.plot([x] * len(makers), makers, "o", color=colour, markersize=3)
    for y in takers:
        _arrow(ax, (x, y), (box, y), colour)
    place = (x + 0.05, -STEP * (space.first + 0.5))
    ax.text(*place, space.label, color=colour, fontsize=7, va="center")

"""General figures of a table: curves or bars over a sweep, points by density, histograms.

Every bar and every band is one thing, which the figure says: the 95 % interval of the mean over
seeds, by Student's t, with the number of seeds n.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from pruning_jax.analysis import statistics
from pruning_jax.figures.looks import (
    BLACK,
    DASHES,
    Look,
    Names,
    height_axis,
    looks,
    number_axis,
    ordered,
)

Table = Any
"""A `pandas.DataFrame`."""
Bounds = tuple[float, float]
NO_BOUNDS = (-np.inf, np.inf)
Key = tuple[Any, Any]
"""A panel's row and its column."""

COLUMNS, CELLS, BANDS = 3, 36, 12
"""Panels side by side, cells along an axis, and from how many places on intervals are a band."""
WIDTHS = (2.2, 1.0)
"""Of the first and the last curve."""
APART, WIDEST = 2.2, 16
"""Points by which neighbouring lines are moved apart sideways, and all at most, so that none
hides another."""


def table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Rows as a table."""
    import pandas  # half a second to import, and only figures need it

    return pandas.DataFrame.from_records(list(rows))


class Sweep(NamedTuple):
    """What is drawn over what; the columns of a table, and how their values are named.

    Attributes:
      x: column of the places on the horizontal axis.
      y: column of the heights.
      line: column of the curves.
      dash: column of the two variants of a curve: dashed with open markers, and solid.
      panel: column of the panels.
      row: column of the rows of panels.
      lines: the curves' values -> labels, in order; by default those of criteria.
      dashes: as `lines`, of the variants.
      panels: as `lines`, of the panels' titles.
      rows: as `lines`, of the vertical axes.
      ticks: as `lines`, of the places; then they lie side by side at equal distances.
      x_label: of the horizontal axis, or panel -> label, with the unit.
      y_label: of the vertical axis, or panel -> label, with the unit.
      within: bounds that a mean cannot lie beyond, such as (0, 100) of a percentage, or
        panel -> bounds.
      kind: what is drawn at a place.
      shared: whether panels, or those of a row, share the vertical axis.
      wide: whether it may be logarithmic, or panel -> whether.
      chord: whether a dotted line joins the ends of each curve.
    """

    x: str
    y: str
    line: str
    dash: str | None = None
    panel: str | None = None
    row: str | None = None
    lines: Names | None = None
    dashes: Names | None = None
    panels: Names | None = None
    rows: Names | None = None
    ticks: Names | None = None
    x_label: str | Names = ""
    y_label: str | Names = ""
    within: Bounds | Mapping[Any, Bounds] = NO_BOUNDS
    kind: Literal["curves", "points", "bars"] = "curves"
    shared: bool = True
    wide: bool | Mapping[Any, bool] = False
    chord: bool = False


def curves(
    rows: Table, sweep: Sweep, title: str = "", *, also: Callable[[Axes, Key], None] | None = None
) -> Figure:
    """Means over seeds with their 95 % intervals, a curve a line, a panel a value.

    Several rows of one seed at one place are averaged first. Curves that coincide stay visible: the
    first is the thickest, and their markers stand side by side.

    Args:
      rows: a `pandas.DataFrame`, a row a seed and place, with a column ``seed``; heights that are
        not finite are left out.
      sweep: what is drawn over what.
      title: what is shown; below it stand n and what the bars are.
      also: called with each panel's axes and its (row, panel), before the legend is made.

    Raises:
      ValueError: a column is missing.
    """
    found = summary(rows, sweep)
    shown = looks(found["line"], sweep.lines)
    dashes = _dashes(found, sweep)
    if sweep.ticks is not None:
        ticks = ordered(found["x"], sweep.ticks)
        found["x"] = found["x"].map({value: place for place, value in enumerate(ticks)})
    keys = _keys(found, sweep)
    share = "none" if not sweep.shared else "row" if sweep.row else "all"
    figure, axes = lay_out(keys, share)
    for (row, panel), ax in axes.items():
        here = found[(found["row"] == row) & (found["panel"] == panel)]
        _draw(ax, here, sweep, shown, dashes)
        if sweep.ticks is not None:
            step = 1 if len(ticks) <= 8 else 2
            ax.set_xticks(range(0, len(ticks), step), [*ticks.values()][::step])
            ax.set_xlim(-0.6, max(len(ticks), 1) - 0.4)
        else:
            number_axis(ax, here["x"])
        if also:
            also(ax, (row, panel))
    _name(axes, keys, found, sweep)
    for group in _sharing(axes, sweep):
        own = found[[key in group for key in zip(found["row"], found["panel"], strict=True)]]
        height_axis([axes[key] for key in group], [*own["mean"], *own["low"][own["low"] < 0]])
    legend(figure, _handles(shown.values(), dashes, sweep))
    figure.suptitle("\n".join(filter(None, [title, counted(found["n"])])), fontsize="medium")
    return figure


def summary(rows: Table, sweep: Sweep) -> Table:
    """The mean over seeds at each place, the ends of its 95 % interval, and the number of seeds.

    An end beyond what a mean can be is moved to that bound, which covers as often. One seed has no
    interval: its ends are not numbers.

    Returns:
      A table of row, panel, line, dash, x, mean, low, high and n.
    """
    names = {"row": sweep.row, "panel": sweep.panel, "line": sweep.line, "dash": sweep.dash}
    plain = _picked(rows, names | {"x": sweep.x, "y": sweep.y, "seed": "seed"})
    plain["y"] = plain["y"].astype(float)
    plain = plain[np.isfinite(plain["y"])]
    by = ["row", "panel", "line", "dash", "x"]
    seeds = plain.groupby([*by, "seed"], sort=False)["y"].mean()
    found = seeds.groupby(by, sort=False).agg(["mean", "sem", "count"]).reset_index()
    bounds = [_of(sweep.within, panel, NO_BOUNDS) for panel in found["panel"]]
    _, found["low"], found["high"] = statistics.student_interval(
        found["mean"], found.pop("sem"), found["count"], within=np.reshape(bounds, (-1, 2)).T
    )
    return found.rename(columns={"count": "n"})


def _picked(rows: Table, names: Mapping[str, str | None]) -> Table:
    """The columns under other names; one without a name is empty text."""
    if rows.empty:
        rows = rows.reindex(columns=[*filter(None, names.values())])
    for name in filter(None, names.values()):
        if name not in rows:
            there = ", ".join(map(repr, rows)) or "none"
            raise ValueError(f"the table has no column {name!r}; its columns are {there}")
    return rows[[]].assign(**{key: rows[name] if name else "" for key, name in names.items()})


def counted(counts: Iterable[int]) -> str:
    """What the bars of a figure are, and of how many seeds."""
    counts = [*counts]
    least, most = min(counts, default=0), max(counts, default=0)
    if most < 2:
        return "n = 1 seed, so no interval" if most else ""
    number = most if least == most else f"{least} to {most}"
    return f"mean and its 95 % interval (Student's t), n = {number} seeds"


def density(
    rows: Table,
    x: str,
    y: str,
    *,
    panel: str,
    row: str | None = None,
    panels: Names | None = None,
    labels: tuple[str, str],
    title: str,
    of: str = "points",
) -> Figure:
    """How many points lie where about the line y = x, and the share of them below it.

    Args:
      rows: a `pandas.DataFrame`, a row a point, with a column ``seed``.
      x: column of the horizontal axis.
      y: column of the vertical axis.
      panel: column of the panels.
      row: column of the rows of panels; a criterion.
      panels: panel -> its title.
      labels: of the two axes.
      title: what is shown, with its unit.
      of: what the points are.

    Raises:
      ValueError: a column is missing, or there is no point.
    """
    plain = _picked(rows, {"x": x, "y": y, "panel": panel, "row": row, "seed": "seed"})
    if plain.empty:
        raise ValueError("the table has no row; there is nothing to draw")
    shown, titles = looks(plain["row"]), ordered(plain["panel"], panels)
    sweep = Sweep("x", "y", "", None, "panel", row and "row", panels=panels)
    sweep = sweep._replace(
        rows=dict.fromkeys(shown, labels[1]), x_label=labels[0], y_label=labels[1]
    )
    figure, axes = lay_out(keys := _keys(plain, sweep), "all", sharex="all")
    _name(axes, keys, plain, sweep, "both")
    both = plain[["x", "y"]].to_numpy(float)
    for axis in "xy":
        height_axis([*axes.values()], both.ravel(), axis)
    scale = next(iter(axes.values())).xaxis.get_transform()
    ends = np.array([both.min(), both.max()])
    ends = ends if ends[0] < ends[1] else ends + [-0.5, 0.5]
    edges = scale.inverted().transform(np.linspace(*scale.transform(ends), CELLS + 1))
    edges[[0, -1]] = ends
    here = {key: plain[(plain["row"] == key[0]) & (plain["panel"] == key[1])] for key in axes}
    cells = {k: np.histogram2d(p["y"], p["x"], bins=(edges, edges))[0] for k, p in here.items()}
    norm = LogNorm(1, max(2.0, *(counts.max() for counts in cells.values())))
    for key, ax in axes.items():
        counts = np.ma.masked_equal(cells[key], 0)
        mesh = ax.pcolormesh(edges, edges, counts, norm=norm, cmap="viridis_r", zorder=2)
        ax.plot(ends, ends, color=BLACK, linewidth=0.8, zorder=3)
        below = 100 * (here[key]["y"] < here[key]["x"]).groupby(here[key]["seed"]).mean()
        what = ", ".join([shown[key[0]].label] * bool(row) + [titles[key[1]]])
        ax.set_title(f"{what}\n{mean_text(below, ' % below')}", fontsize="small")
    figure.colorbar(mesh, ax=[*axes.values()], label=f"{of} in a cell", shrink=0.6)
    n = plain["seed"].nunique()
    note = "share below the line y = x (95 % interval over seeds)"
    figure.suptitle(f"{title}: {len(plain):,} {of}, n = {n} seeds\n{note}", fontsize="medium")
    return figure


def histogram(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    *,
    x_label: str,
    y_label: str,
    title: str,
    log: bool = False,
) -> Figure:
    """Shares of values in bins, a panel a title, a step line a name.

    Args:
      panels: title -> name -> shares, shape (bins,), and edges, shape (bins + 1,).
      x_label: of the values, with the unit.
      y_label: of the shares.
      title: what is counted, and of how many seeds.
      log: whether the values' axis is logarithmic.
    """
    keys = [[("", panel) for panel in panels]]
    figure, axes = lay_out(keys, "none")
    shown = looks([name for lines in panels.values() for name in lines])
    for (_, panel), ax in axes.items():
        for place, name in enumerate(line for line in shown if line in panels[panel]):
            look = {"color": shown[name].color, "linewidth": WIDTHS[0] - 0.4 * min(place, 3)}
            look |= {"fill": len(panels[panel]) == 1, "linestyle": "-" if place % 2 == 0 else "--"}
            ax.stairs(*panels[panel][name], label=shown[name].label, **look)
        ax.set(xlabel=x_label, xscale="log" if log else "linear")
        ax.set_title(panel, fontsize="medium")
        _clean(ax)
    axes[keys[0][0]].set_ylabel(y_label)
    legend(figure, [Line2D([], [], color=of.color, label=of.label) for of in shown.values()])
    figure.suptitle(title, fontsize="medium")
    return figure


def mean_text(percentages: Sequence[float], unit: str) -> str:
    """The mean of percentages over seeds, and its interval."""
    if len(percentages) < 2:
        return f"{np.mean(percentages):.2g}{unit}" if len(percentages) else ""
    ends = statistics.mean_interval(percentages, within=(0, 100))
    mean, low, high = (f"{end:.0f}" if end >= 9.5 else f"{end:.2g}" for end in ends)
    return f"{mean}{unit} ({low} to {high})"


def _of(value: Any, panel: Any, other: Any = "") -> Any:
    """What holds in a panel, where panels differ."""
    return value.get(panel, other) if isinstance(value, Mapping) else value


def _keys(found: Table, sweep: Sweep) -> list[list[Key]]:
    """The panels as they stand, in rows."""
    panels = ordered(found["panel"], sweep.panels) if sweep.panel else [""]
    if sweep.row:
        return [[(row, panel) for panel in panels] for row in ordered(found["row"], sweep.rows)]
    keys = [("", panel) for panel in panels] or [("", "")]
    columns = 2 if len(keys) == 4 else COLUMNS
    return [keys[start : start + columns] for start in range(0, len(keys), columns)]


def _lowest(keys: list[list[Key]]) -> list[Key]:
    """The panels below which there is none."""
    below = [len(line) for line in keys[1:]] + [0]
    return [key for line, count in zip(keys, below, strict=True) for key in line[count:]]


def lay_out(
    keys: list[list[Key]], share: str = "all", **shared: str
) -> tuple[Figure, dict[Key, Axes]]:
    columns = max(map(len, keys), default=1)
    size = 7.0 if columns > 1 else 5.2, 2.2 * max(len(keys), 1) + (1.3 if columns > 1 else 2.0)
    figure = Figure(figsize=size, dpi=200, layout="constrained")
    grid = figure.subplots(max(len(keys), 1), columns, squeeze=False, sharey=share, **shared)
    axes = {}
    for line, place in zip(keys, grid, strict=False):
        axes |= dict(zip(line, place, strict=False))
        for ax in place[len(line) :]:
            ax.set_axis_off()
    return figure, axes


def _dashes(found: Table, sweep: Sweep) -> dict[Any, tuple[str, str, bool]]:
    """Variant -> its label, line and whether its markers are filled."""
    if not sweep.dash:
        return {"": ("", "", True)}
    there = ordered(found["dash"], sweep.dashes)
    looks = dict(zip(sweep.dashes or there, itertools.cycle(DASHES)))
    return {value: (label, *looks.get(value, DASHES[0])) for value, label in there.items()}


def _draw(
    ax: Axes, here: Table, sweep: Sweep, shown: Mapping[Any, Look], dashes: Mapping[Any, tuple]
) -> None:
    groups = dict(iter(here.groupby(["line", "dash"], sort=False)))
    there = [(line, dash) for line in shown for dash in dashes if (line, dash) in groups]
    for place, key in enumerate(there):
        own, look = groups[key].sort_values("x"), shown[key[0]]
        _, line, filled = dashes[key[1]]
        style = {"color": look.color, "marker": look.marker, "linestyle": line or look.line}
        style["markerfacecolor"] = look.color if filled else "white"
        style["label"] = look.label
        if (
            sweep.ticks is not None and sweep.kind == "curves"
        ):  # a line does not cross a place without a value
            own = own.set_index("x").reindex(range(own["x"].min(), own["x"].max() + 1))
            own = own.reset_index()
        if sweep.kind == "bars":
            _bars(ax, own, place - (len(there) - 1) / 2, 0.8 / len(there), look)
        else:
            _curve(ax, own, (place, len(there)), sweep, style)


def _bars(ax: Axes, own: Table, shift: float, width: float, look: Look) -> None:
    x, mean = own["x"] + shift * width, own["mean"]
    ax.bar(x, mean, 0.9 * width, color=look.color, label=look.label)
    ax.errorbar(x, mean, errors(own), fmt="none", ecolor=BLACK, elinewidth=0.9, capsize=2)


def _curve(
    ax: Axes, own: Table, place: tuple[int, int], sweep: Sweep, style: dict[str, Any]
) -> None:
    x, mean = own["x"].to_numpy(float), own["mean"].to_numpy()
    late = place[0] / max(place[1] - 1, 1)
    style["linewidth"] = WIDTHS[0] + late * (WIDTHS[1] - WIDTHS[0]) if place[1] > 1 else 1.4
    style |= {"markersize": 5.5 - 2 * late, "zorder": 2 + late}
    if sweep.chord:
        ax.plot(x[[0, -1]], mean[[0, -1]], color=style["color"], linestyle=":", linewidth=0.8)
    if sweep.kind == "curves" and (len(x) > BANDS or not style["marker"]):
        look = {"color": style["color"], "alpha": 0.18, "linewidth": 0}
        if own["low"].notna().any():
            ax.fill_between(x, own["low"], own["high"], **look)
        every = max(len(x) // 8, 1)
        ax.plot(x, mean, **style, markevery=(place[0] * every // max(place[1], 1), every))
        return
    if sweep.kind == "points":
        style["linestyle"] = "none"
    bars = ax.errorbar(x, mean, errors(own), elinewidth=0.9, capsize=2, **style)
    aside = (place[0] - (place[1] - 1) / 2) * min(APART, WIDEST / place[1]) / 72
    bars[0].set_label(style["label"])
    moved = ax.transData + ScaledTranslation(aside, 0, ax.figure.dpi_scale_trans)
    for artist in (bars[0], *bars[1], *bars[2]):
        artist.set_transform(moved)


def errors(own: Table) -> np.ndarray:
    """The lengths of the bars below and above the means, shape (2, places)."""
    return np.abs(own[["low", "high"]].to_numpy().T - own["mean"].to_numpy())


def _name(
    axes: Mapping[Key, Axes], keys: list[list[Key]], found: Table, sweep: Sweep, lines: str = "y"
) -> None:
    """Titles, the axes' labels and a grid."""
    titles = ordered(found["panel"], sweep.panels) if sweep.panel else {}
    rows = ordered(found["row"], sweep.rows) if sweep.row else {}
    for line in keys:
        for key in line:
            row, panel = key
            ax = axes[key]
            if line is keys[0] or not sweep.row:
                ax.set_title(titles.get(panel, ""), fontsize="medium")
            if key in _lowest(keys):
                ax.set_xlabel(_of(sweep.x_label, panel))
            if key == line[0] or not sweep.shared:
                ax.set_ylabel(rows.get(row) or _of(sweep.y_label, panel))
            _clean(ax, lines)


def _clean(ax: Axes, axis: str = "y") -> None:
    ax.grid(axis=axis, linewidth=0.4, alpha=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="small")


def _sharing(keys: Iterable[Key], sweep: Sweep) -> list[list[Key]]:
    """The panels that share a vertical axis, where it may be logarithmic."""
    groups: dict[Any, list[Key]] = {}
    for key in keys:
        if _of(sweep.wide, key[1], False):
            groups.setdefault(key[0] if sweep.shared else key, []).append(key)
    return [*groups.values()]


def _handles(shown: Iterable[Look], dashes: Mapping[Any, tuple], sweep: Sweep) -> list[Line2D]:
    """What the legend shows."""
    lines = []
    for look in shown:
        line = look.line if sweep.kind == "curves" and not sweep.dash else "none"
        marker = "s" if sweep.kind == "bars" else look.marker
        style = {"color": look.color, "marker": marker, "markersize": 5, "linestyle": line}
        lines.append(Line2D([], [], label=look.label, **style))
    for label, line, filled in dashes.values() if sweep.dash else ():
        style = {"linestyle": line if sweep.kind == "curves" else "none", "marker": "o"}
        style |= {"markersize": 4, "markerfacecolor": BLACK if filled else "white"}
        lines.append(Line2D([], [], color=BLACK, label=label, **style))
    if sweep.chord:
        style = {"color": "#555555", "linestyle": ":", "linewidth": 0.8}
        lines.append(Line2D([], [], label="line between the ends", **style))
    return lines


def legend(figure: Figure, lines: Sequence[Line2D]) -> None:
    """One legend below all panels."""
    if lines:
        widest = max(len(line.get_label()) for line in lines)
        most = max(1, int(figure.get_figwidth() * 13 // (widest + 7)))
        columns = -(-len(lines) // -(-len(lines) // most))  # rows of nearly the same length
        place = {"loc": "outside lower center", "ncols": columns, "fontsize": "small"}
        figure.legend(handles=lines, frameon=False, **place)

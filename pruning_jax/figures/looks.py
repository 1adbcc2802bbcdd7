"""How lines look and are named, and the numbers of an axis.

The colours are apart for every reader: at least 20 in CIELAB between any two, in normal vision and
in simulated protanopia and deuteranopia, and each has its own marker.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullFormatter, NullLocator

BLACK, BLUE, RED, GREEN = "#000000", "#0A78C2", "#B34700", "#006B50"
AMBER, VIOLET, SKY, GREY = "#EFAF1E", "#3A1490", "#6CC0F5", "#ADADAD"
PALETTE = (BLACK, BLUE, RED, GREEN, AMBER, VIOLET, SKY, GREY)
MARKERS = "soD^vPX*"
CRITERIA = {
    "magnitude": ("magnitude (MP)", BLACK),
    "obd": ("OBD", BLUE),
    "linear": ("linear (LM)", RED),
    "quadratic": ("quadratic (QM)", GREEN),
    "random": ("random", GREY),
    "gradient_magnitude": ("gradient magnitude", VIOLET),
    "weight_norm": ("weight norm", BLACK),
    "rs": ("RS", SKY),
    "mrs": ("MRS", AMBER),
    "abs_rs": ("|RS|", BLUE),
    "abs_mrs": ("|MRS|", RED),
    "units": ("all units", GREY),
    "subsets": ("random subsets", GREY),
}
"""Criterion, or what one is compared with -> its label and colour, in any figure."""
LABELS = {criterion: label for criterion, (label, _) in CRITERIA.items()}
REFERENCES = {"dense": "dense", "nothing": "nothing removed"}
"""What others are measured against: a black line without markers."""
DASHES = (("--", False), ("-", True))
"""Line and filled marker of the first and the second of two variants."""
SPREAD, DECADES, TICKED = 10, 5, 10
"""How many times the least height the largest must be for a logarithmic axis, the decades of one
on both sides of zero, and the most places that have a tick each."""

Names = Mapping[Any, str]


class Look(NamedTuple):
    """A line's label in the legend, its colour and marker, and its line."""

    label: str
    color: str
    marker: str
    line: str = "-"


def ordered(values: Iterable[Any], names: Names | None) -> dict[Any, str]:
    """The different values with their labels: those named first, in that order, then the others."""
    there, names = set(values), names or {}
    others = sorted(there - names.keys(), key=lambda value: (isinstance(value, str), value))
    return {v: names[v] for v in names if v in there} | {v: _label(v) for v in others}


def _label(value: Any) -> str:
    return value.replace("_", " ") if isinstance(value, str) else f"{value:.4g}"


def looks(values: Iterable[Any], names: Names | None = None) -> dict[Any, Look]:
    """A look for each value; a named one, and a criterion, has the same in every figure."""
    places = {c: PALETTE.index(color) for c, (_, color) in CRITERIA.items()}
    names = LABELS if names is None else names
    for place, name in enumerate(name for name in names if name not in CRITERIA):
        places[name] = place % len(PALETTE)
    found, used = {}, set()
    references = {name: label for name, label in REFERENCES.items() if name not in names}
    for value, label in ordered(values, {**names, **references}).items():
        if value in references:
            found[value] = Look(label, BLACK, "", ":")
            continue
        free = [place for place in range(len(PALETTE)) if place not in used]
        place = places.get(value, -1)
        if place not in free:
            place = free[0] if free else len(found) % len(PALETTE)
        used.add(place)
        found[value] = Look(label, PALETTE[place], MARKERS[place])
    return found


def number_axis(ax: Axes, values: Iterable[float]) -> None:
    """A horizontal axis, a tick at every place of a few; logarithmic if they grow by factors."""
    places = np.unique(np.asarray([*values], dtype=float))
    even = np.ptp(np.diff(places)) < 1e-9 * np.ptp(places) if places.size > 2 else True
    if not even and places[0] > 0 and places[-1] >= 8 * places[0]:
        ax.set_xscale("log")
    if 0 < places.size <= TICKED:
        ax.xaxis.set_major_locator(FixedLocator(places))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FixedFormatter([f"{place:.4g}" for place in places]))


def height_axis(axes: Sequence[Axes], drawn: Iterable[float], axis: str = "y") -> None:
    """A logarithmic axis where sizes differ much: linear about zero if there are both signs."""
    drawn = np.asarray([*drawn], dtype=float)
    sizes = np.abs(drawn[np.isfinite(drawn) & (drawn != 0)])
    if not sizes.size:
        return
    if np.nanmin(drawn) > 0:
        if sizes.max() > SPREAD * sizes.min():
            for ax in axes:
                getattr(ax, f"set_{axis}scale")("log")
                scale = getattr(ax, f"{axis}axis")
                if sizes.max() < 1000 * sizes.min():
                    scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
                    scale.set_major_formatter("{x:g}")
                    scale.set_minor_locator(NullLocator())
                scale.set_minor_formatter(NullFormatter())
        return
    low = np.quantile(sizes, 0.1)
    if sizes.max() < SPREAD * low:
        return
    most = math.floor(math.log10(sizes.max()))
    least = max(math.floor(math.log10(low)), most - DECADES)
    powers = 10.0 ** np.arange(most, least - 1, -max(1, math.ceil((most - least + 1) / 2)))
    ticks = [t for t in (*-powers, 0, *powers[::-1]) if np.nanmin(drawn) <= t <= np.nanmax(drawn)]
    for ax in axes:
        getattr(ax, f"set_{axis}scale")("symlog", linthresh=10.0**least)
        getattr(ax, f"{axis}axis").set_major_locator(FixedLocator(ticks))
        getattr(ax, f"{axis}axis").set_minor_locator(NullLocator())  # each tick takes time

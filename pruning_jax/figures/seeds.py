"""Curves of means over seeds, with their confidence intervals."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from pruning_jax.figures import drawing
from pruning_jax.measurements import Row, values
from pruning_jax.measurements.landscape import interval

Values = Mapping[float, Sequence[float]]
"""Place on the horizontal axis -> one number a seed."""
RANGE = 30
"""How many times the smallest mean the largest must be for a logarithmic axis."""


def curve(ax: Axes, points: Values, **look: object) -> None:
    """The mean at each place, and its 95 % interval as a band; of one seed there is no band."""
    if not points:
        return
    places = sorted(points)
    mean, low, high = np.transpose([interval(points[place]) for place in places])
    if max(map(len, points.values())) > 1:
        ax.fill_between(places, low, high, color=look["color"], alpha=0.2, linewidth=0)
    ax.plot(places, mean, **{"linewidth": 1.3, "markersize": 4} | look)


def note(figure: Figure, title: str, rows: Iterable[Row], what: str = "mean") -> None:
    """The figure's title, and of how many seeds it is."""
    count = len(values(rows, "seed"))
    of = f"{what} and 95 % interval of {count} seeds" if count > 1 else "one seed"
    figure.suptitle(f"{title}\n{of}", fontsize="medium")


def percents(ax: Axes, shares: Iterable[float]) -> None:
    """A horizontal axis of shares that grow by factors, a tick in per cent at each."""
    shares = sorted(set(shares))
    if shares and shares[0] > 0 and shares[-1] >= 8 * shares[0]:
        ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(shares))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([f"{100 * share:.3g}" for share in shares])


def panels(rows: int, columns: int, **shared: object) -> tuple[Figure, np.ndarray]:
    """A figure of rows of panels."""
    figure = Figure(figsize=(7.0, 2.4 * rows + 1.2), dpi=200, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def finish(figure: Figure, axes: Sequence[Axes], *, wide: Sequence[Axes] = ()) -> Figure:
    """As `drawing.finish`, with the vertical axes named already.

    Args:
      figure: to be finished.
      axes: its panels.
      wide: those whose vertical axis is logarithmic where heights are of many sizes.
    """
    for ax in wide:
        heights = np.concatenate([line.get_ydata() for line in ax.lines] or [np.zeros(0)])
        if heights.size and heights.max() > RANGE * heights.min() > 0:
            ax.set_yscale("log")
    return drawing.finish(figure, list(axes), axes[0].get_ylabel())

"""What a reader of a figure sees: names in the legend, curves with their intervals, pixels."""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg


def rendered(figure, dpi=30):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def pixels(figure):
    """Red, green and blue, in [0, 1], shape (rows, columns, 3), the lowest row first."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[::-1, :, :3] / 255


def labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def curve(ax, label, line=None):
    """The points of the one curve of a label, and of a line style: place -> height."""
    found = [one for one in ax.lines if one.get_label() == label]
    (one,) = [one for one in found if line in (None, one.get_linestyle())]
    points = [(round(float(x), 9), float(y)) for x, y in one.get_xydata()]
    return {x: y for x, y in points if np.isfinite(y)}


def has_curve(ax, label):
    return any(one.get_label() == label for one in ax.lines)


def intervals(ax, label):
    """Place -> the ends of the bar of a label's curve."""
    (container,) = [one for one in ax.containers if one.get_label() == label]
    segments = [bar for bars in container[2] for bar in bars.get_segments()]
    bars = [np.asarray(bar) for bar in segments if np.size(bar) and np.isfinite(bar).all()]
    return {round(float(bar[0, 0]), 9): tuple(bar[:, 1]) for bar in bars}


def panels(figure):
    """Title -> axes."""
    return {ax.get_title(): ax for ax in figure.axes if ax.get_title()}

"""Every part of every claim on one axis: how far it lies from the bound that it must pass."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pruning_jax.figures.looks import AMBER, BLUE, GREY, RED

COLOURS = {"agrees": BLUE, "contradicts": RED, "undecided": AMBER, "unfit": GREY}


class Effect(NamedTuple):
    """A part of a claim.

    Attributes:
      label: the claim, its workload and the statement.
      beyond: how far its mean lies on the claimed side of its bound, in half-widths of it.
      standing: what is said of the claim, a key of `COLOURS`.
      is_proxy: whether its workload stands in for the paper's.
    """

    label: str
    beyond: float
    standing: str
    is_proxy: bool


def forest(effects: Sequence[Effect]) -> Figure:
    """A row a part: a mark at its distance from its bound, and its 95 % interval.

    Where the interval, one half-width to each side, lies right of 0, the part is shown.
    """
    figure = Figure(figsize=(9, 0.6 + 0.17 * len(effects)), layout="constrained")
    ax = figure.subplots()
    for place, effect in enumerate(effects):
        colour = COLOURS.get(effect.standing, COLOURS["unfit"])
        face = "white" if effect.is_proxy else colour
        ax.plot([effect.beyond - 1, effect.beyond + 1], [place] * 2, color=colour, linewidth=1)
        ax.plot(effect.beyond, place, "o", color=colour, markerfacecolor=face, markersize=4)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xscale("symlog", linthresh=1)
    ax.set_yticks(range(len(effects)), [effect.label for effect in effects], fontsize=6)
    ax.set(ylim=(len(effects) - 0.4, -0.6))
    what = "mean's distance from its bound, in half-widths of its 95 % interval over seeds"
    ax.set_xlabel(f"{what}; right: as claimed", fontsize="small")
    marks = [
        Line2D([], [], color=colour, marker="o", label=name, linewidth=1)
        for name, colour in COLOURS.items()
    ]
    marks.append(
        Line2D([], [], color="black", marker="o", markerfacecolor="white", label="a proxy")
    )
    figure.legend(handles=marks, loc="outside upper center", ncols=5, fontsize=7, frameon=False)
    ax.grid(axis="x", linewidth=0.3, alpha=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    return figure

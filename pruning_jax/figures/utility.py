"""Figures 1 to 5 of the study of the pruning mechanism: how networks use their weights."""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pruning_jax.figures import seeds
from pruning_jax.measurements import Row, values, where
from pruning_jax.measurements.landscape import at_each, pooled

UTILITY = "utility U (nats)"
ACCURACY = "training accuracy (%)"
RATIO = "weights removed (% of the network's own)"
NUMBER = "weights removed (% of the 1× network's)"
STATISTICS = {"mean": "mean", "std": "standard deviation", "minimum": "minimum"} | {
    "maximum": "maximum"
}
"""Column -> what it is of the utilities of random subsets."""
SIZES = (("#000000", "s"), ("#0072B2", "o"), ("#D55E00", "^"), ("#009E73", "D"), ("#CC79A7", "v"))
"""Colour and marker of the first, second, ... network size or ratio."""
SHAPE = ("mean", "std")
"""The columns by which the shape of utility's distribution is compared."""
ALIKE = {
    "dense": ("pretrained, subsets above the threshold", "#000000", "s"),
    "one_shot": ("pruned and retrained", "#0072B2", "o"),
    "small": ("small, from scratch", "#009E73", "D"),
}
HISTOGRAM = 0.05
"""The ratio whose histogram is drawn, or the nearest one."""


def utility(rows: list[Row]) -> Iterator[tuple[int, Figure]]:
    """The number and figure of each that the rows of a workload allow."""
    found = where(rows, phase="utility")
    bands = where(rows, phase="bands", network="dense")
    last = where(found, epoch="last")
    dense = where(last, network="dense", among=1.0)
    training = [row for row in where(found, network="dense") if row["epoch"] != "last"]
    sizes = {1.0: dense} if dense else {}
    for density in values(where(last, network="small", schedules=1), "density")[::-1]:
        sizes[density] = where(last, network="small", schedules=1, density=density)
    if dense or bands:
        yield 1, random_ablation(dense, bands)
    if training:
        yield 2, during_training(training)
    if len(sizes) > 1:
        yield 3, by_ratio_and_number(sizes)
        yield 4, largest(sizes)
    if where(last, network="one_shot"):
        yield 5, pruned_in_one_shot(last)


def random_ablation(dense: list[Row], bands: list[Row]) -> Figure:
    """Figure 1: accuracy without random weights, and without those of each band of magnitudes.

    Args:
      dense: utility rows of the trained dense network; the range over subsets is of seed means.
      bands: rows of phase ``bands``.
    """
    count = bool(dense) + 2 * bool(bands)
    figure, axes = seeds.panels(1, count)
    axes = list(axes[0])
    if dense:
        ax = axes[0]
        least, most = (at_each(dense, "ratio", f"accuracy_{end}") for end in ("minimum", "maximum"))
        low, high = ([100 * np.mean(of[ratio]) for ratio in of] for of in (least, most))
        ax.fill_between([*least], low, high, color="#999999", alpha=0.3, label="range over subsets")
        mean = _percent(at_each(dense, "ratio", "accuracy_mean"))
        seeds.curve(ax, mean, color="#0072B2", marker="o", label="mean over subsets")
        seeds.percents(ax, mean)
        ax.set(title="at random", xlabel="weights removed (%)", ylabel=ACCURACY)
    if bands:
        *_, ax, beside = axes
        if dense:
            ax.sharey(axes[0])
        looks = {"accuracy": ax, "utility": beside}
        for (column, of), factor in zip(looks.items(), (100, 1), strict=True):
            points = {
                place + 1: [factor * row[column][place] for row in bands]
                for place in range(len(bands[0][column]))
            }
            seeds.curve(of, points, color="#D55E00", marker="s", label="a band of magnitudes")
            of.set_xticks([*points][:: 1 if len(points) < 6 else 3])
            of.set(title="by magnitude", xlabel="band of |w|, ascending")
        ax.set_ylabel(ACCURACY)
        beside.set_ylabel(UTILITY)
    for ax in axes[: count - bool(bands)]:
        unablated = 100 * np.mean([row["unablated_accuracy"] for row in dense + bands])
        ax.axhline(unablated, color="black", linestyle="--", linewidth=1, label="nothing removed")
    seeds.note(
        figure, "accuracy of the trained network without a part of its weights", dense or bands
    )
    return seeds.finish(figure, axes, wide=axes[count - 1 :] if bands else ())


def during_training(rows: list[Row]) -> Figure:
    """Figure 2: utility along training, a curve a ratio, and its histogram early and late.

    Args:
      rows: utility rows of the dense network at epochs.
    """
    figure, grid = seeds.panels(2, 3)
    axes, ratios = list(grid.flat), values(rows, "ratio")
    for ax, (column, title) in zip(axes, STATISTICS.items(), strict=False):
        for place, ratio in enumerate(ratios):
            points = at_each(where(rows, ratio=ratio), "epoch", column)
            seeds.curve(ax, points, **_look(place), label=f"{100 * ratio:g} % removed")
        ax.set_title(title, fontsize="medium")
        ax.set(xlabel="epoch", ylabel=UTILITY)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    nearest = min(ratios, key=lambda ratio: abs(ratio - HISTOGRAM))
    own = where(rows, ratio=nearest)
    epochs = values(own, "epoch")
    early_and_late = zip(axes[len(STATISTICS) :], (epochs[0], epochs[-1]), strict=True)
    for ax, epoch in early_and_late:
        if epoch == epochs[0] and ax is axes[-1]:
            ax.set_axis_off()
            continue
        shares, edges = pooled(where(own, epoch=epoch))
        ax.stairs(100 * shares, edges, fill=True, color="#999999")
        ax.set_title(f"{100 * nearest:g} % removed, epoch {epoch}", fontsize="medium")
        ax.set(xlabel=UTILITY, ylabel="subsets (%)")
    seeds.note(figure, f"utility of {rows[0]['subsets']} random subsets along training", rows)
    return seeds.finish(figure, axes, wide=axes[:4])


def by_ratio_and_number(sizes: Mapping[float, list[Row]]) -> Figure:
    """Figure 3: utility's mean and standard deviation by ratio, beside those by absolute number.

    Args:
      sizes: share of the 1x network's weights -> utility rows of that network.
    """
    figure, grid = seeds.panels(2, 2, sharex="col", sharey="row")
    for line, column in zip(grid, SHAPE, strict=True):
        for place, (density, rows) in enumerate(sizes.items()):
            points = at_each(rows, "ratio", column)
            numbers = {ratio * density: of for ratio, of in points.items()}
            for ax, of in zip(line, (points, numbers), strict=True):
                seeds.curve(ax, of, **_look(place), label=f"{density:g}× network")
        line[0].set_ylabel(f"{STATISTICS[column]} of U (nats)")
    ratios = {row["ratio"] for rows in sizes.values() for row in rows}
    seeds.percents(grid[1, 0], ratios)
    seeds.percents(grid[1, 1], (r * density for density in sizes for r in ratios))
    grid[0, 0].set_title("by ratio")
    grid[0, 1].set_title("by number")
    grid[1, 0].set_xlabel(RATIO)
    grid[1, 1].set_xlabel(NUMBER)
    every = [row for rows in sizes.values() for row in rows]
    seeds.note(figure, "utility of random subsets, by the size of the network", every)
    return seeds.finish(figure, list(grid.flat), wide=list(grid.flat))


def largest(sizes: Mapping[float, list[Row]]) -> Figure:
    """Figure 4: the largest utility of random subsets against their ratio, a curve a size.

    Args:
      sizes: as in figure 3.
    """
    figure, ((ax,),) = seeds.panels(1, 1)
    for place, (density, rows) in enumerate(sizes.items()):
        seeds.curve(
            ax, at_each(rows, "ratio", "maximum"), **_look(place), label=f"{density:g}× network"
        )
    every = [row for rows in sizes.values() for row in rows]
    seeds.percents(ax, {row["ratio"] for row in every})
    ax.set(xlabel=RATIO, ylabel="maximum of U (nats)")
    seeds.note(figure, f"the largest utility of {every[0]['subsets']} random subsets", every)
    return seeds.finish(figure, [ax], wide=[ax])


def pruned_in_one_shot(last: list[Row]) -> Figure:
    """Figure 5: utility of the pruned and retrained, the pretrained and the small network.

    Args:
      last: utility rows of trained networks; the pretrained network's subsets are of the weights
        above the threshold alone.
    """
    densities = values(where(last, network="one_shot"), "density")[::-1]
    figure, grid = seeds.panels(2, len(densities), sharex=True, sharey="row")
    for density, column in zip(densities, grid.T, strict=True):
        chosen = {
            "dense": where(last, network="dense", among=density),
            "one_shot": where(last, network="one_shot", density=density),
            "small": where(last, network="small", density=density, schedules=2),
        }
        for (network, rows), (name, ax) in itertools.product(
            chosen.items(), zip(SHAPE, column, strict=True)
        ):
            label, colour, marker = ALIKE[network]
            look = {"color": colour, "marker": marker, "label": label}
            seeds.curve(ax, at_each(rows, "ratio", name), **look)
        seeds.percents(column[-1], {row["ratio"] for rows in chosen.values() for row in rows})
        column[0].set_title(f"{100 * (1 - density):g} % pruned")
        column[-1].set_xlabel("weights removed\n(% of those that are left)")
    for ax, name in zip(grid[:, 0], SHAPE, strict=True):
        ax.set_ylabel(f"{STATISTICS[name]} of U (nats)")
    seeds.note(figure, "utility of random subsets, by how the network came about", last)
    return seeds.finish(figure, list(grid.flat), wide=list(grid.flat))


def _look(place: int) -> dict[str, str]:
    return dict(zip(("color", "marker"), SIZES[place % len(SIZES)], strict=True))


def _percent(points: Mapping[float, list[float]]) -> dict[float, list[float]]:
    return {place: [100 * value for value in of] for place, of in points.items()}

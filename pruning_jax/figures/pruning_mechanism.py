"""What the study of the pruning mechanism (S0) draws, numbered as the paper's figures.

Of the paper's figures only what its text says of them is known here, so these show the same
quantities and do not copy a layout.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pruning_jax.figures import planes, plots
from pruning_jax.figures.looks import looks
from pruning_jax.figures.plots import Sweep, table
from pruning_jax.measurements import Row, values, where
from pruning_jax.measurements.landscape import pooled
from pruning_jax.measurements.pruning_mechanism import path_barrier, surface

Published = Mapping[str, Mapping[str, float]]
"""Arm -> regime -> validation accuracy in per cent."""

ARMS = {"weight": "weights", "channel": "channels", "harsh_channel": "channels, harsher"}
REGIMES = {"fine_tuning": "fine-tuning", "learning_rate_rewinding": "rewinding"}
REGIMES |= {"small": "small from the start"}
MOMENTS = {"estimated": "re-estimated at every point", "kept": "kept"}
POINTS = {"pretrained": "$W^*$", "pruned": "$W^p$", "retrained": "$W^r$"}
MEANING = "$W^*$ pretrained, $W^p$ pruned for the last time, $W^r$ retrained"
NORM = "batch-norm statistics"
PHASES = {"network": "after retraining", "pruned": "right after pruning"}
TRAINING, VALIDATION = "training accuracy (%)", "validation accuracy (%)"
UTILITY = {"within": (0, np.inf), "wide": True, "y_label": "utility U (nats)"}
STATISTICS = {"mean": "mean", "std": "standard deviation", "minimum": "minimum"}
STATISTICS |= {"maximum": "maximum"}
"""Column -> what it is of the utilities of random subsets."""
SHAPE = {name: f"{STATISTICS[name]} of U (nats)" for name in ("mean", "std")}
"""The statistics by which the shape of utility's distribution is compared."""
ALIKE = {"dense": "pretrained, subsets above the threshold", "one_shot": "pruned and retrained"}
ALIKE |= {"small": "small, from scratch"}
SUBSETS = {"mean": "mean over subsets", "minimum": "most harmful subset"}
SUBSETS |= {"maximum": "least harmful subset", "bands": "a band of magnitudes"}
HISTOGRAM = 0.05
"""The ratio whose histogram is drawn, or the nearest one."""


def pruning_mechanism(
    rows: Iterable[Row], *, published: Published | None = None
) -> dict[str, Figure]:
    """The figures 1 to 6 of S0 and its table for each workload, where their rows are there.

    Args:
      rows: of ``results.jsonl``.
      published: arm -> regime -> the paper's validation accuracy in per cent.

    Returns:
      For a workload W, ``figure_1_W`` to ``figure_5_W`` and ``figure_2_histogram_W``; the planes,
      with re-estimated batch-norm statistics ``figure_6_W``, with those of the pretrained network
      ``figure_6_kept_W``, of a further seed S ``figure_6_seed_S_W``; the profiles
      ``figure_6_barriers_W``; the table's ``accuracies_W``.
    """
    figures, rows = {}, list(rows)
    for workload in values(rows, "workload"):
        own = where(rows, workload=workload)
        for name, figure in (*_utility(own), *_basins(own, published or {})):
            figures[f"{name}_{workload}"] = figure
    return figures


def _utility(rows: list[Row]) -> Iterator[tuple[str, Figure]]:
    found, bands = where(rows, phase="utility"), where(rows, phase="bands", network="dense")
    last = [row | {"percent": 100 * row["ratio"]} for row in where(found, epoch="last")]
    dense = where(last, network="dense", among=1.0)
    if dense or bands:
        title = "accuracy and utility of the trained network without a part of its weights"
        yield "figure_1", plots.curves(table(_ablated(dense, bands)), FIGURE_1, title)
    if training := [row for row in where(found, network="dense") if row["epoch"] != "last"]:
        yield "figure_2", _during_training(training)
        yield "figure_2_histogram", _early_and_late(training)
    sizes = dense + where(last, network="small", schedules=1)
    if where(sizes, network="small"):
        yield "figure_3", _by_ratio_and_number(sizes)
        names = _sizes(sizes)
        sweep = Sweep("percent", "maximum", "density", lines=names, x_label=RATIO, **UTILITY)
        title = f"the largest utility of {sizes[0]['subsets']} random subsets"
        yield "figure_4", plots.curves(table(sizes), sweep._replace(y_label=MOST), title)
    if where(last, network="one_shot"):
        yield "figure_5", _pruned_in_one_shot(last)


RATIO, NUMBER = (
    "weights removed (% of the network's own)",
    "weights removed (% of the 1× network's)",
)
MOST = "maximum of U (nats)"
PANELS_1 = {"random": "at random", "band": "by magnitude", "utility": "by magnitude"}
FIGURE_1 = Sweep(
    "x",
    "y",
    "what",
    panel="panel",
    lines=SUBSETS,
    panels=PANELS_1,
    x_label={"random": "weights removed (%)"} | dict.fromkeys(("band", "utility"), "band of |w|"),
    y_label=dict.fromkeys(("random", "band"), TRAINING) | {"utility": UTILITY["y_label"]},
    within=dict.fromkeys(("random", "band"), (0, 100)) | {"utility": (0, np.inf)},
    shared=False,
    wide={"utility": True},
)


def _ablated(dense: list[Row], bands: list[Row]) -> Iterator[dict[str, Any]]:
    """Figure 1: accuracy without random weights, and without those of each band of magnitudes."""
    for row in dense:
        same = {"seed": row["seed"], "panel": "random", "x": row["percent"]}
        for what in ("mean", "minimum", "maximum"):
            yield same | {"what": what, "y": 100 * row[f"accuracy_{what}"]}
        yield same | {"what": "nothing", "y": 100 * row["unablated_accuracy"]}
    for row in bands:
        for place, (accuracy, nats) in enumerate(zip(row["accuracy"], row["utility"], strict=True)):
            same = {"seed": row["seed"], "panel": "band", "what": "bands", "x": place + 1}
            yield same | {"y": 100 * accuracy}
            yield same | {"what": "nothing", "y": 100 * row["unablated_accuracy"]}
            yield same | {"panel": "utility", "y": nats}


def _during_training(rows: list[Row]) -> Figure:
    """Figure 2: utility along training, a panel a statistic, a curve a ratio."""
    found = table(rows).melt(
        ["seed", "epoch", "ratio"], [*STATISTICS], var_name="statistic", value_name="nats"
    )
    ratios = {ratio: f"{100 * ratio:g} % removed" for ratio in values(rows, "ratio")}
    look = {"lines": ratios, "panels": STATISTICS, "x_label": "epoch", "shared": False} | UTILITY
    sweep = Sweep("epoch", "nats", "ratio", panel="statistic", **look)
    return plots.curves(found, sweep, f"utility of {rows[0]['subsets']} random subsets in training")


def _early_and_late(rows: list[Row]) -> Figure:
    """Figure 2: the histogram of utility at the first and the last epoch measured."""
    nearest = min(values(rows, "ratio"), key=lambda ratio: abs(ratio - HISTOGRAM))
    own = where(rows, ratio=nearest)
    panels = {}
    for epoch in dict.fromkeys(values(own, "epoch")[i] for i in (0, -1)):
        shares, edges = pooled(where(own, epoch=epoch))
        panels[f"epoch {epoch}"] = {"subsets": (100 * shares, edges)}
    count = len(values(own, "seed"))
    title = (
        f"{100 * nearest:g} % removed; the subsets of n = {count} seed{'s' * (count > 1)} pooled"
    )
    look = {"y_label": "subsets (%)", "title": title}
    return plots.histogram(panels, x_label=UTILITY["y_label"], **look)


def _sizes(rows: list[Row]) -> dict[float, str]:
    return {density: f"{density:g}× network" for density in values(rows, "density")[::-1]}


def _by_ratio_and_number(sizes: list[Row]) -> Figure:
    """Figure 3: utility's mean and standard deviation by ratio, beside those by number."""
    found = [
        {"seed": row["seed"], "density": row["density"], "by": by, "of": name, "y": row[name]}
        | {"x": row["percent"] * (row["density"] if by == "number" else 1)}
        for row in sizes
        for name in SHAPE
        for by in ("ratio", "number")
    ]
    look = {"lines": _sizes(sizes), "panels": {"ratio": "by ratio", "number": "by number"}}
    look |= {"rows": SHAPE, "x_label": {"ratio": RATIO, "number": NUMBER}} | UTILITY
    sweep = Sweep("x", "y", "density", panel="by", row="of", **look)
    return plots.curves(table(found), sweep, "utility of random subsets, by the network's size")


def _pruned_in_one_shot(last: list[Row]) -> Figure:
    """Figure 5: utility of the pruned and retrained, the pretrained and the small network."""
    found = []
    for density in values(where(last, network="one_shot"), "density"):
        chosen = where(last, network="one_shot", density=density)
        chosen += where(last, network="dense", among=density)
        chosen += where(last, network="small", density=density, schedules=2)
        for row in chosen:
            same = {"seed": row["seed"], "network": row["network"], "x": row["percent"]}
            same["pruned"] = 100 * (1 - density)
            found += [same | {"of": name, "y": row[name]} for name in SHAPE]
    panels = {share: f"{share:g} % pruned" for share in values(found, "pruned")}
    look = {"lines": ALIKE, "panels": panels, "rows": SHAPE} | UTILITY
    look["x_label"] = "weights removed\n(% of those that are left)"
    sweep = Sweep("x", "y", "network", panel="pruned", row="of", **look)
    return plots.curves(table(found), sweep, "utility of random subsets, by the network's origin")


def _basins(rows: list[Row], published: Published) -> Iterator[tuple[str, Figure]]:
    shown, begun = where(rows, phase="plane"), where(rows, phase="surface")
    for seed in values(shown, "seed"):
        for moments in MOMENTS:
            there = where(begun, seed=seed, moments=moments)
            measured = {(row["arm"], row["regime"]) for row in there}
            own = [p for p in where(shown, seed=seed) if (p["arm"], p["regime"]) in measured]
            if own:
                kept = "" if moments == "estimated" else f"_{moments}"
                again = "" if seed == shown[0]["seed"] else f"_seed_{seed}"
                yield f"figure_6{kept}{again}", _contours(own, begun, moments)
    if paths := where(rows, phase="path"):
        yield "figure_6_barriers", _barriers(paths)
    if cycles := [row for row in where(rows, network="cycle") if row["phase"] in PHASES]:
        dense = where(rows, phase="network", network="dense")
        yield "accuracies", _accuracies(cycles, dense, published)


def _contours(shown: list[Row], blocks: list[Row], moments: str) -> Figure:
    """Figure 6: training accuracy in the planes of a seed; what is not measured yet stays grey."""
    drawn = {}
    arms = plots.ordered(_of(shown, "arm"), ARMS)
    regimes = plots.ordered(_of(shown, "regime"), REGIMES)
    for plane in shown:
        x, y, accuracy = surface(blocks, plane, "accuracy", moments)
        paths = {name: list(path) for name, path in plane["paths"].items() if len(path)}
        start = plane["points"].get("pruned")
        if start and "retraining" in paths:  # it begins at the pruned network
            paths["retraining"] = [start, *paths["retraining"]]
        points = {POINTS.get(name, name): at for name, at in plane["points"].items()}
        drawn[plane["arm"], plane["regime"]] = planes.Plane(x, y, 100 * accuracy, points, paths)
    grid = [
        [(f"{arm}, {regime}", drawn.get((a, r))) for r, regime in regimes.items()]
        for a, arm in arms.items()
    ]
    title = f"{MEANING}\n{NORM} {MOMENTS[moments]}, seed {shown[0]['seed']} alone"
    return planes.grid(grid, label=TRAINING, title=title)


def _barriers(paths: list[Row]) -> Figure:
    """Figure 6, profiles: training accuracy along the line from W* to W^r, a panel an arm."""
    known = [row for row in paths if np.isfinite(row["accuracy"]).all()]
    found = [
        {"seed": row["seed"], "arm": row["arm"], "regime": row["regime"], "moments": row["moments"]}
        | {"position": position, "accuracy": 100 * accuracy}
        for row in known
        for position, accuracy in zip(row["positions"], row["accuracy"], strict=True)
    ]
    rows = {kind: f"{TRAINING}\n{NORM}\n{text}" for kind, text in MOMENTS.items()}
    look = {"lines": REGIMES, "panels": ARMS, "rows": rows, "within": (0, 100), "chord": True}
    look["x_label"] = "from $W^*$ (0) to $W^r$ (1)"
    sweep = Sweep("position", "accuracy", "regime", panel="arm", row="moments", **look)

    def name(ax: Axes, key: plots.Key) -> None:
        own = where(known, moments=key[0], arm=key[1])
        for place, (regime, of) in enumerate(looks(_of(own, "regime"), REGIMES).items()):
            heights = [path_barrier(row) for row in where(own, regime=regime)]
            text = plots.mean_text(heights, " pp")
            style = {"transform": ax.transAxes, "fontsize": "x-small", "color": of.color}
            style |= {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}}
            ax.text(0.03, 0.04 + 0.1 * place, text, **style)
        ax.margins(y=0.25)

    title = "on the line from the pretrained to the retrained network; the numbers are barriers"
    return plots.curves(table(found), sweep, title, also=name)


def _accuracies(cycles: list[Row], dense: list[Row], published: Published) -> Figure:
    """Validation accuracy over cycles, beside the dense networks of the same seeds."""
    shown = [row for row in cycles if row["phase"] == "network" or row["regime"] != "small"]
    places = {(row["seed"], row["phase"], row["arm"], row["cycle"]) for row in shown}
    for row in dense:
        for seed, phase, arm, cycle in sorted(places):
            if seed == row["seed"]:
                at = {"phase": phase, "arm": arm, "cycle": cycle}
                shown.append(row | at | {"regime": "dense"})
    found = [row | {"accuracy": 100 * row["validation_accuracy"]} for row in shown]
    rows = {phase: f"{text}:\n{VALIDATION}" for phase, text in PHASES.items()}
    look = {"lines": REGIMES, "panels": ARMS, "rows": rows, "within": (0, 100)}
    look["x_label"] = "cycle, weights kept (%)"
    sweep = Sweep("cycle", "accuracy", "regime", panel="arm", row="phase", **look)
    drawn = plots.ordered(_of(cycles, "phase"), PHASES)

    def also(ax: Axes, key: plots.Key) -> None:
        own = where(cycles, phase=key[0], arm=key[1])
        ticks = _kept(own)
        step = -(-len(ticks) // 8) or 1
        ax.set_xticks([*ticks][::step], [*ticks.values()][::step], fontsize="small")
        if key[0] == next(iter(drawn)) and key[1] in published:
            _publish(ax, published[key[1]])

    return plots.curves(table(found), sweep, "pruning and retraining in cycles", also=also)


def _publish(ax: Axes, published: Mapping[str, float]) -> None:
    """The published accuracies in a panel, each in the colour of its regime."""
    style = {"fontsize": "x-small", "transform": ax.transAxes}
    ax.text(0.03, 0.03, "S0, ResNet-20 (%):", **style)
    for place, (name, look) in enumerate(looks(published, REGIMES).items()):
        ax.text(0.56 + 0.15 * place, 0.03, f"{published[name]:.1f}", color=look.color, **style)
    ax.margins(y=0.15)


def _kept(cycles: list[Row]) -> dict[float, str]:
    """Cycle -> its number, and below it the share of weights that are left then."""
    pruned = [row for row in cycles if row["regime"] != "small"] or cycles
    shares: dict[int, list[float]] = {}
    for row in sorted(pruned, key=lambda row: row["cycle"]):
        shares.setdefault(row["cycle"], []).append(1 - row["removed"] / row["prunable"])
    ticks = {row["cycle"]: str(row["cycle"]) for row in cycles}
    return ticks | {cycle: f"{cycle}\n{100 * np.mean(of):.2g}" for cycle, of in shares.items()}


def _of(rows: list[Row], column: str) -> list[Any]:
    return [row[column] for row in rows]

"""Figure 6 of the study of the pruning mechanism, and the accuracies of its table."""

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pruning_jax.figures import drawing, planes, seeds
from pruning_jax.measurements import Row, values, where
from pruning_jax.measurements.landscape import along, at_each
from pruning_jax.measurements.pruning_mechanism import path_barrier, surface

Published = Mapping[str, Mapping[str, float]]
"""Arm -> regime -> validation accuracy in per cent."""

ARMS = {"weight": "weights", "channel": "channels", "harsh_channel": "channels, harsher"}
REGIMES = {
    "fine_tuning": ("fine-tuning", "#0072B2", "o"),
    "learning_rate_rewinding": ("rewinding", "#D55E00", "s"),
    "small": ("small from the start", "#009E73", "D"),
}
"""Regime -> label, colour, marker."""
MOMENTS = {"estimated": "re-estimated at every point", "kept": "kept"}
POINTS = {"pretrained": "$W^*$", "pruned": "$W^p$", "retrained": "$W^r$"}
MEANING = "$W^*$ pretrained, $W^p$ pruned for the last time, $W^r$ retrained"
STATISTICS = "batch-norm statistics"
ACCURACY = "training accuracy (%)"
PHASES = {"network": "after retraining", "pruned": "right after pruning"}


def basins(rows: list[Row], published: Published) -> Iterator[tuple[str, Figure]]:
    """The name and figure of each that the rows of a workload allow."""
    shown, begun = where(rows, phase="plane"), where(rows, phase="surface")
    for seed in values(shown, "seed"):
        for moments in MOMENTS:
            pairs = values_of(where(begun, seed=seed, moments=moments))
            own = [p for p in where(shown, seed=seed) if (p["arm"], p["regime"]) in pairs]
            if own:
                kept = "" if moments == "estimated" else f"_{moments}"
                again = "" if seed == shown[0]["seed"] else f"_seed_{seed}"
                yield f"figure_6{kept}{again}", contours(own, begun, moments)
    if paths := where(rows, phase="path"):
        yield "figure_6_barriers", barriers(paths)
    if cycles := [row for row in where(rows, network="cycle") if row["phase"] in PHASES]:
        dense = where(rows, phase="network", network="dense")
        yield "accuracies", accuracies(cycles, dense, published)


def values_of(rows: list[Row]) -> set[tuple[str, str]]:
    """The arms and regimes of rows."""
    return {(row["arm"], row["regime"]) for row in rows}


def contours(shown: list[Row], blocks: list[Row], moments: str) -> Figure:
    """Figure 6: training accuracy in the plane of W*, W^p and W^r, a panel an arm and regime.

    Args:
      shown: rows of phase ``plane``, of one seed.
      blocks: rows of phase ``surface``; what is not measured yet stays grey.
      moments: ``estimated`` or ``kept``.
    """
    arms, regimes = _in_order(ARMS, shown, "arm"), _in_order(REGIMES, shown, "regime")
    found = {(p["arm"], p["regime"]): (p, surface(blocks, p, "accuracy", moments)) for p in shown}
    inches = planes.size(len(regimes), len(arms), *next(iter(found.values()))[1][:2])
    figure = Figure(figsize=inches, dpi=200, layout="compressed")
    grid = figure.subplots(len(arms), len(regimes), squeeze=False)
    finite = np.concatenate([100 * of.values[np.isfinite(of.values)] for _, of in found.values()])
    limits, named = (finite.min(), finite.max()), {}
    for place, ax in np.ndenumerate(grid):
        arm, regime = arms[place[0]], regimes[place[1]]
        if (arm, regime) not in found:
            ax.set_axis_off()
            continue
        plane, of = found[arm, regime]
        filled = planes.fill(ax, of.x, of.y, 100 * of.values, limits=limits)
        named[ax] = {POINTS.get(name, name): at for name, at in plane["points"].items()}
        planes.mark(ax, named[ax], _paths(plane))
        ax.set_title(f"{_arm(arm)}, {_regime(regime)[0]}", fontsize="medium")
        ax.tick_params(labelsize="small")
        ax.yaxis.label.set_size("small")
    for ax in grid[-1]:
        ax.set_xlabel(planes.ALONG[0])
    planes.bar(figure, filled, grid.flat, ACCURACY)
    title = f"{STATISTICS} {MOMENTS[moments]}, seed {shown[0]['seed']}"
    figure.suptitle(f"{MEANING}\n{title}", fontsize="medium")
    planes.finish(figure, named)
    return figure


def barriers(paths: list[Row]) -> Figure:
    """Figure 6, profiles: training accuracy along the line from W* to W^r, a panel an arm.

    Args:
      paths: rows of phase ``path``; a curve is the mean over seeds, its band their range.
    """
    arms = _in_order(ARMS, paths, "arm")
    kinds = _in_order(MOMENTS, paths, "moments")
    figure, grid = seeds.panels(len(kinds), len(arms), sharex=True, sharey=True)
    for place, ax in np.ndenumerate(grid):
        own = where(paths, moments=kinds[place[0]], arm=arms[place[1]])
        for regime in _in_order(REGIMES, own, "regime"):
            positions, accuracy = along(where(own, regime=regime), "accuracy")
            label, colour, _ = _regime(regime)
            if len(accuracy):
                planes.profile(ax, positions, 100 * accuracy, color=colour, label=label)
        _name_barriers(ax, own)
        if place[0] == 0:
            ax.set_title(_arm(arms[place[1]]), fontsize="medium")
    for ax, moments in zip(grid[:, 0], kinds, strict=True):
        ax.set_ylabel(
            f"{ACCURACY}\n{STATISTICS}\n{MOMENTS.get(moments, moments)}", fontsize="small"
        )
    for ax in grid[-1]:
        ax.set_xlabel("from $W^*$ (0) to $W^r$ (1)")
    count = len(values(paths, "seed"))
    planes.explain(grid[0, 0], count)
    grid[0, 0].margins(y=0.2)
    title = "on the line from the pretrained to the retrained network"
    of = f"means of {count} seeds" if count > 1 else "one seed"
    figure.suptitle(f"{title}\n{of}; the numbers are barriers in pp", fontsize="medium")
    return seeds.finish(figure, list(grid.flat))


def _name_barriers(ax: Axes, own: list[Row]) -> None:
    """The mean barrier of each regime, in its colour, in the lower left corner."""
    for place, regime in enumerate(_in_order(REGIMES, own, "regime")):
        found = [row for row in where(own, regime=regime) if np.isfinite(row["accuracy"]).all()]
        if found:
            mean, colour = np.mean([path_barrier(row) for row in found]), _regime(regime)[1]
            at = {"x": 0.04 + 0.3 * place, "y": 0.04, "transform": ax.transAxes}
            at |= {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.8}}
            ax.text(s=f"{mean:.1f}", color=colour, fontsize="small", **at)


def accuracies(cycles: list[Row], dense: list[Row], published: Published) -> Figure:
    """Validation accuracy over cycles, retrained and right after pruning, a panel an arm.

    Args:
      cycles: rows of the networks of cycles.
      dense: rows of the dense network.
      published: written above, each in the colour of its regime.
    """
    arms, of = _in_order(ARMS, cycles, "arm"), values(cycles, "seed")
    dense = [row for row in dense if row["seed"] in of]
    phases = [phase for phase in PHASES if where(cycles, phase=phase)]
    figure, grid = seeds.panels(len(phases), len(arms))
    for place, ax in np.ndenumerate(grid):
        arm, phase = arms[place[1]], phases[place[0]]
        own = where(cycles, arm=arm, phase=phase)
        own = [row for row in own if phase == "network" or row["regime"] != "small"]
        for regime in _in_order(REGIMES, own, "regime"):
            label, colour, marker = _regime(regime)
            found = at_each(where(own, regime=regime), "cycle", "validation_accuracy")
            points = {cycle: [100 * value for value in of] for cycle, of in found.items()}
            line = "--" if regime == "small" else "-"
            seeds.curve(ax, points, color=colour, marker=marker, linestyle=line, label=label)
        if dense:
            height = 100 * np.mean([row["validation_accuracy"] for row in dense])
            ax.axhline(height, color="black", linestyle="--", linewidth=1, label="dense")
        ticks = _kept(own)
        if place[0] == 0 and arm in published:
            _publish(ax, published[arm])
        ax.set_xticks([*ticks], [*ticks.values()], fontsize="small")
        ax.set_xlabel("cycle, weights kept (%)")
    for ax, arm in zip(grid[0], arms, strict=True):
        ax.set_title(_arm(arm), fontsize="medium", pad=18 if published else None)
    for ax, phase in zip(grid[:, 0], phases, strict=True):
        ax.set_ylabel(f"{PHASES[phase]}:\nvalidation accuracy (%)")
    seeds.note(figure, "pruning and retraining in cycles", cycles)
    return drawing.finish(figure, list(grid.flat), grid[0, 0].get_ylabel())


def _publish(ax: Axes, published: Mapping[str, float]) -> None:
    """The published accuracies above a panel, each in the colour of its regime."""
    look = {"y": 1.03, "fontsize": "small", "transform": ax.transAxes}
    ax.text(x=0.0, s="S0, ResNet-20:", **look)
    for place, regime in enumerate(name for name in REGIMES if name in published):
        at = 0.53 + 0.165 * place
        ax.text(x=at, s=f"{published[regime]:.1f}", color=_regime(regime)[1], **look)


def _kept(cycles: list[Row]) -> dict[float, str]:
    """Cycle -> its number, and below it the share of weights that are left then."""
    pruned = [row for row in cycles if row["regime"] != "small"] or cycles
    shares: dict[int, list[float]] = {}
    for row in sorted(pruned, key=lambda row: row["cycle"]):
        shares.setdefault(row["cycle"], []).append(1 - row["removed"] / row["prunable"])
    ticks = {row["cycle"]: str(row["cycle"]) for row in cycles}
    return ticks | {cycle: f"{cycle}\n{100 * np.mean(of):.2g}" for cycle, of in shares.items()}


def _paths(plane: Row) -> dict[str, list]:
    """The projected paths; retraining begins at the pruned network."""
    found = {name: list(path) for name, path in plane["paths"].items() if len(path)}
    start = plane["points"].get("pruned")
    if start and "retraining" in found:
        found["retraining"] = [start, *found["retraining"]]
    return found


def _in_order(known: Mapping[str, object], rows: list[Row], column: str) -> list[str]:
    found = {row[column] for row in rows}
    return [*(name for name in known if name in found), *sorted(found - known.keys())]


def _arm(arm: str) -> str:
    return ARMS.get(arm, arm.replace("_", " "))


def _regime(regime: str) -> tuple[str, str, str]:
    return REGIMES.get(regime, (regime.replace("_", " "), "#E69F00", "P"))

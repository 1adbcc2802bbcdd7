"""The figures of the mean-replacement study, numbered as the paper's.

Of the paper's figures only what its text says of them is known here, so these show the same
quantities and do not copy a layout.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pruning_jax.figures import drawing, methods
from pruning_jax.measurements import Row, values, where
from pruning_jax.measurements import mean_replacement as measured
from pruning_jax.measurements.profiles import profile

CHOSEN_BY = ("mrs", "abs_mrs", "rs", "abs_rs")
BINS = 16


def mean_replacement(rows: Iterable[Row]) -> dict[str, Figure]:
    """The figures 2 to 9 of S4 for each workload, where their rows are there.

    Args:
      rows: of ``results.jsonl``.

    Returns:
      ``figure_2_W`` to ``figure_9_W`` for a workload W; where penalties are measured on several
      splits, those of S are in ``figure_N_W_S``.
    """
    figures, rows = {}, list(rows)
    for workload in values(rows, "workload"):
        found = where(rows, workload=workload)
        splits = sorted({row["split"] for row in found if "split" in row})
        for split in splits:
            own = [row for row in found if row.get("split", split) == split]
            for number, figure in _of_penalties(own):
                suffix = f"_{split}" if len(splits) > 1 else ""
                figure.suptitle(f"{split} loss", fontsize="medium")
                figures[f"figure_{number}_{workload}{suffix}"] = figure
        for number, figure in _of_units(found):
            figures[f"figure_{number}_{workload}"] = figure
    return figures


def _of_units(rows: list[Row]) -> Iterator[tuple[int, Figure]]:
    selected, activations = where(rows, phase="selected"), where(rows, phase="activations")
    layer = {name: row[name] for row in selected[:1] for name in ("layers", "fraction")}
    if activations:
        yield 6, squared_activations(activations)
    if selected and (size := measured.layer_size(rows, **layer)):
        yield 7, ever_selected(selected, size)


def _of_penalties(rows: list[Row]) -> Iterator[tuple[int, Figure]]:
    settings = measured.comparable(rows)
    pairs = [pair for pair in measured.fine_tuned_pairs(rows) if all(map(_finite, pair))]
    selected = where(rows, phase="selected")
    layer = {name: row[name] for row in selected[:1] for name in ("layers", "fraction")}
    in_layer = where(settings, **layer) if layer else []
    if in_layer:
        yield 2, penalty_by_step(in_layer)
    if settings:
        yield 3, folding(settings)
    if pairs:
        yield 4, fine_tuning(pairs)
    if settings:
        yield 5, profiles(settings)
        yield 8, penalty_by_fraction(settings)
        yield 9, areas_by_layers(settings)


def penalty_by_step(settings: list[Row]) -> Figure:
    """Figure 2: the penalty along training, a curve a method: 12 curves in 6 colours.

    Args:
      settings: `measurements.mean_replacement.comparable` rows of one layer set and fraction; a
        point is the mean over seeds.
    """
    steps = values(settings, "step")
    layers, fraction = settings[0]["layers"], settings[0]["fraction"]
    figure, (ax,) = drawing.panels(1)
    figure.set_size_inches(7.0, 4.2)
    methods.mean_penalties(ax, steps, [where(settings, step=step) for step in steps])
    ax.set(xlabel="training step", title=f"{layers}, {_percent(fraction)} of units")
    return methods.finish(figure, [ax], methods.PENALTY, wide=True)


def folding(settings: list[Row]) -> Figure:
    """Figure 3: the penalty with the mean folded in against that without, a panel a criterion.

    Args:
      settings: comparable rows of every probe, layer set, fraction and seed: a point each. Points
        below y = x gain by folding.
    """
    penalties = measured.penalties(settings)
    criteria = methods.in_order(settings[0]["penalty"])
    figure, axes = methods.grid(len(criteria), sharex=True)
    for ax, criterion in zip(axes, criteria, strict=True):
        zero, mean = penalties[criterion, "zero"], penalties[criterion, "mean"]
        methods.scatter(ax, criterion, (zero, mean), named=False)
        title = f"{drawing.look(criterion)['label']}: {methods.gains(zero, mean)}"
        ax.set_title(title, fontsize="medium")
    return methods.finish_scatter(figure, axes, penalties.values())


def fine_tuning(pairs: Sequence[tuple[Row, Row]]) -> Figure:
    """Figure 4: as figure 3, a panel for each number of fine-tuning steps after the pruning.

    Args:
      pairs: from `measurements.mean_replacement.fine_tuned_pairs`: a point each.
    """
    counts = sorted({int(count) for pair in pairs for count in pair[0]["penalty"]} - {0})
    figure, axes = methods.grid(len(counts), sharex=True)
    drawn = []
    for ax, count in zip(axes, counts, strict=True):
        points = np.array([[row["penalty"][str(count)] for row in pair] for pair in pairs], float)
        chosen = np.array([pair[0]["criterion"] for pair in pairs])
        for criterion in drawing.criteria([pair[0] for pair in pairs]):
            methods.scatter(ax, criterion, points[chosen == criterion].T, named=True)
        ax.set_title(f"{count} steps: {methods.gains(*points.T)}", fontsize="medium")
        drawn.append(points)
    return methods.finish_scatter(figure, axes, drawn)


def profiles(settings: list[Row]) -> Figure:
    """Figure 5: performance profiles, the share of settings in which a method is near the best.

    Args:
      settings: comparable rows of every probe, layer set, fraction and seed, all pooled.
    """
    penalties, taus = measured.penalties(settings), np.linspace(0, 1, 201)
    shares = profile([*penalties.values()], taus)
    figure, (ax,) = drawing.panels(1)
    figure.set_size_inches(7.0, 4.2)
    for (criterion, replacement), share in zip(penalties, shares, strict=True):
        look = methods.appearance(criterion, replacement)
        ax.plot(taus, share, linewidth=1.2, markersize=4, markevery=25, **look)
    ax.set(xlabel="τ: from below the worst (0) to the best (1)", ylim=(0, 1.02), xlim=(0, 1))
    return methods.finish(figure, [ax], f"share of {len(settings)} settings")


def squared_activations(rows: list[Row]) -> Figure:
    """Figure 6: squared activations (a) of all units and (b) of those that criteria remove.

    Args:
      rows: of phase ``activations``, the units of all seeds pooled; on a logarithmic axis, units
        that are never active count as the least active of the others.
    """
    squares = np.concatenate([row["mean_square"] for row in rows])
    active = squares[squares > 0]
    low, high = (active.min(), active.max()) if active.size else (0.5, 1.0)
    bins = np.geomspace(low / 1.01, high * 1.01, BINS + 1)
    figure, (every, removed) = methods.grid(2, sharey=False)
    _histogram(every, squares, bins, color="#999999", label="all units")
    for criterion in CHOSEN_BY:
        chosen = [np.take(row["mean_square"], row["units"].get(criterion, [])) for row in rows]
        if sum(map(len, chosen)):
            look = {name: drawing.look(criterion)[name] for name in ("label", "color")}
            look |= {
                "histtype": "step",
                "linewidth": 1.6,
                "linestyle": "-" if "mrs" in criterion else "--",
            }
            _histogram(removed, np.concatenate(chosen), bins, **look)
    layers, fraction = rows[0]["layers"], _percent(rows[0]["fraction"])
    every.set_title(f"(a) all units of {layers}")
    removed.set_title(f"(b) the {fraction} that go first")
    for ax in (every, removed):
        ax.set(xscale="log", xlabel="mean squared activation")
    return drawing.finish(figure, [every, removed], "share of units")


def ever_selected(selected: list[Row], size: int) -> Figure:
    """Figure 7: the share of a layer's units selected so far, against the training step.

    Args:
      selected: rows of phase ``selected`` of one layer set and fraction; a line is the mean over
        seeds, its band their standard deviation.
      size: units of the layer.
    """
    figure, (ax,) = drawing.panels(1)
    figure.set_size_inches(7.0, 3.8)
    points: dict[str, dict[int, list[float]]] = {}
    for seed in values(selected, "seed"):
        own = where(selected, seed=seed)
        for criterion, shares in measured.ever_selected(own, size).items():
            for step, share in zip(values(own, "step"), shares, strict=True):
                points.setdefault(criterion, {}).setdefault(step, []).append(share)
    for criterion in methods.in_order(points):
        steps, style = sorted(points[criterion]), drawing.look(criterion)
        mean = np.array([np.mean(points[criterion][step]) for step in steps])
        spread = np.array([np.std(points[criterion][step]) for step in steps])
        ax.plot(steps, mean, markersize=4, markevery=max(len(steps) // 10, 1), **style)
        ax.fill_between(steps, mean - spread, mean + spread, color=style["color"], alpha=0.2)
    title = f"{selected[0]['layers']}, {_percent(selected[0]['fraction'])} of {size} units"
    ax.set(xlabel="training step", ylim=(0, 1.02), title=title)
    return drawing.finish(figure, [ax], "share ever selected")


def penalty_by_fraction(settings: list[Row]) -> Figure:
    """Figure 8: the mean penalty over probes and seeds against the share of units removed."""
    fractions = sorted({row["fraction"] for row in settings}, key=_rank)
    layer_sets = _layer_sets(settings)
    figure, axes = methods.grid(len(layer_sets))
    for ax, layers in zip(axes, layer_sets, strict=True):
        of = [where(settings, layers=layers, fraction=fraction) for fraction in fractions]
        places = [place for place, rows in enumerate(of) if rows]
        methods.mean_penalties(ax, places, [rows for rows in of if rows])
        labels = ["one" if f == "one" else f"{100 * f:g}" for f in fractions]
        ax.set_xticks(range(len(fractions)), labels)
        ax.set(title=layers, xlabel="units removed (%)")
    return methods.finish(figure, axes, methods.PENALTY, wide=True)


def areas_by_layers(settings: list[Row]) -> Figure:
    """Figure 9: the area under each method's performance profile within a layer set.

    Args:
      settings: comparable rows; a point is the mean over seeds, its bar their standard deviation.
    """
    layer_sets, criteria = _layer_sets(settings), methods.in_order(settings[0]["penalty"])
    figure, (ax,) = drawing.panels(1)
    figure.set_size_inches(7.0, 3.8)
    for place, layers in enumerate(layer_sets):
        found = where(settings, layers=layers)
        areas = [measured.method_areas(where(found, seed=s)) for s in values(found, "seed")]
        for criterion, replacement in measured.methods(found):
            own = [area[criterion, replacement] for area in areas]
            shift = (criteria.index(criterion) - (len(criteria) - 1) / 2) * 0.8 / len(criteria)
            look = methods.appearance(criterion, replacement) | {"linestyle": "none"}
            ax.errorbar(place + shift, np.mean(own), np.std(own), markersize=5, **look)
    ax.set_xticks(range(len(layer_sets)), layer_sets)
    return methods.finish(figure, [ax], "area under the profile")


def _histogram(ax: Axes, squares: np.ndarray, bins: np.ndarray, **look: object) -> None:
    """The share of values in each bin; what lies below the first counts in it."""
    clipped = np.maximum(squares, bins[0])
    ax.hist(clipped, bins, weights=np.full(len(squares), 1 / len(squares)), **look)


def _finite(row: Row) -> bool:
    return bool(np.isfinite([*row["penalty"].values()]).all())


def _layer_sets(settings: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["layers"] for row in settings))


def _percent(fraction: float | str) -> str:
    return "one unit" if fraction == "one" else f"{100 * fraction:g} %"


def _rank(fraction: float | str) -> float:
    return -1.0 if fraction == "one" else fraction

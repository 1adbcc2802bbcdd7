"""What the study of mean replacement (S4) draws, numbered as the paper's figures.

Of the paper's figures only what its text says of them is known here, so these show the same
quantities and do not copy a layout.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pruning_jax.figures import plots
from pruning_jax.figures.looks import LABELS
from pruning_jax.figures.plots import Sweep, table
from pruning_jax.measurements import Row, values, where
from pruning_jax.measurements import mean_replacement as measured
from pruning_jax.measurements.profiles import profile

CHOSEN_BY = ("mrs", "abs_mrs", "rs", "abs_rs")
BINS = 16
PENALTY = "pruning penalty (nats)"
METHODS = {"line": "criterion", "dash": "replacement"}
METHODS |= {"dashes": {"zero": "removed alone", "mean": "mean folded in"}}


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
            suffix = f"_{split}" if len(splits) > 1 else ""
            for number, figure in _of_penalties(own, f"{split} loss"):
                figures[f"figure_{number}_{workload}{suffix}"] = figure
        for number, figure in _of_units(found):
            figures[f"figure_{number}_{workload}"] = figure
    return figures


def _of_units(rows: list[Row]) -> Iterator[tuple[int, Figure]]:
    selected, activations = where(rows, phase="selected"), where(rows, phase="activations")
    if activations:
        yield 6, _squared_activations(activations)
    if selected and (size := measured.layer_size(rows, **_layer(selected))):
        yield 7, _ever_selected(selected, size)


def _of_penalties(rows: list[Row], split: str) -> Iterator[tuple[int, Figure]]:
    settings, layer = measured.comparable(rows), _layer(where(rows, phase="selected"))
    pairs = {"x": "zero", "y": "mean", "labels": ("removed alone", "mean folded in")}
    pairs |= {"title": f"{PENALTY}, {split}", "of": "settings"}
    if layer and where(settings, **layer):
        steps = _penalties(where(settings, **layer), "step", x_label="training step")
        yield 2, plots.curves(*steps, f"{split}, {_described(layer)}")
    if settings:
        yield 3, plots.density(_both(settings), panel="criterion", panels=LABELS, **pairs)
    if tuned := [row for row in _fine_tuned(rows) if np.isfinite([row["zero"], row["mean"]]).all()]:
        counts = {count: f"{count} steps" for count in values(tuned, "steps")}
        grid = {"panel": "steps", "panels": counts, "row": "criterion"}
        yield 4, plots.density(table(tuned), **grid, **pairs)
    if settings:
        yield 5, _profiles(settings, split)
        yield 8, _penalty_by_fraction(settings, split)
        yield 9, _areas_by_layers(settings, split)


def _penalties(settings: list[Row], x: str, **changes: Any) -> tuple[plots.Table, Sweep]:
    """Each method's penalty over the settings."""
    both = _both(settings)
    ids = [name for name in both if name not in METHODS["dashes"]]
    sweep = Sweep(x, "penalty", **METHODS, y_label=PENALTY, wide=True)
    return both.melt(ids, var_name="replacement", value_name="penalty"), sweep._replace(**changes)


def _both(settings: list[Row]) -> plots.Table:
    """A row a setting and criterion, with the penalties of its two methods."""
    same = ("seed", "step", "layers", "fraction")
    return table(
        {name: row[name] for name in same} | {"criterion": criterion} | both
        for row in settings
        for criterion, both in row["penalty"].items()
    )


def _fine_tuned(rows: list[Row]) -> Iterator[Row]:
    """As `_both`, of fine-tuned networks and each number of steps."""
    for zero, mean in measured.fine_tuned_pairs(rows):
        for count in zero["penalty"].keys() - {"0"}:
            both = {"zero": zero["penalty"][count], "mean": mean["penalty"][count]}
            yield {"seed": zero["seed"], "criterion": zero["criterion"], "steps": int(count)} | both


def _profiles(settings: list[Row], split: str) -> Figure:
    """Figure 5: performance profiles, the share of settings in which a method is near the best."""
    found, taus = [], np.linspace(0, 1, 201)
    for seed in values(settings, "seed"):
        costs = measured.penalties(where(settings, seed=seed))
        for method, shares in zip(costs, profile([*costs.values()], taus), strict=True):
            same = dict(zip(("criterion", "replacement"), method, strict=True)) | {"seed": seed}
            found += [
                same | {"tau": tau, "share": share}
                for tau, share in zip(taus.tolist(), shares.tolist(), strict=True)
            ]
    sweep = Sweep("tau", "share", **METHODS, within=(0, 1), y_label="share of settings")
    sweep = sweep._replace(x_label="τ: from below the worst (0) to the best (1)")
    return plots.curves(table(found), sweep, f"{split}, {len(settings):,} settings")


def _squared_activations(rows: list[Row]) -> Figure:
    """Figure 6: squared activations of all units and of those that criteria remove.

    On the logarithmic axis, units that are never active count as the least active of the others.
    """
    squares = np.concatenate([row["mean_square"] for row in rows])
    active = squares[squares > 0]
    low, high = (active.min(), active.max()) if active.size else (0.5, 1.0)
    bins = np.geomspace(low / 1.01, high * 1.01, BINS + 1)
    chosen = {
        name: np.concatenate(
            [np.take(row["mean_square"], row["units"].get(name, [])) for row in rows]
        )
        for name in CHOSEN_BY
    }
    groups = {"all": {"units": squares}, "removed": {n: of for n, of in chosen.items() if len(of)}}
    titles = {"all": "(a) all units", "removed": "(b) those that go first"}
    panels = {
        titles[panel]: {
            name: (np.histogram(np.maximum(of, bins[0]), bins)[0] / len(of), bins)
            for name, of in group.items()
        }
        for panel, group in groups.items()
    }
    title = f"{_described(rows[0])}; the units of n = {len(rows)} seeds pooled"
    return plots.histogram(
        panels, x_label="mean squared activation", y_label="share of units", title=title,
        log=True,
    )  # fmt: skip


def _ever_selected(selected: list[Row], size: int) -> Figure:
    """Figure 7: the share of a layer's units selected so far, against the training step."""
    found = []
    for seed in values(selected, "seed"):
        own = where(selected, seed=seed)
        for criterion, shares in measured.ever_selected(own, size).items():
            for step, share in zip(values(own, "step"), shares, strict=True):
                found.append({"seed": seed, "criterion": criterion, "step": step, "share": share})
    sweep = Sweep("step", "share", "criterion", within=(0, 1), x_label="training step")
    sweep = sweep._replace(y_label="share of units ever selected")
    return plots.curves(table(found), sweep, f"{_described(selected[0])}, {size} units")


def _penalty_by_fraction(settings: list[Row], split: str) -> Figure:
    """Figure 8: the mean penalty over probes against the share of units removed."""
    fractions = sorted({row["fraction"] for row in settings}, key=_rank)
    ticks = {f: f if f == "one" else f"{100 * f:g}" for f in fractions}
    layers = {row["layers"]: row["layers"] for row in settings}
    look = {"panel": "layers", "panels": layers, "ticks": ticks, "x_label": "units removed (%)"}
    return plots.curves(*_penalties(settings, "fraction", **look), split)


def _areas_by_layers(settings: list[Row], split: str) -> Figure:
    """Figure 9: the area under each method's performance profile within a layer set."""
    layers, found = {row["layers"]: row["layers"] for row in settings}, []
    for layer in layers:
        of_layer = where(settings, layers=layer)
        for seed in values(of_layer, "seed"):
            areas = measured.method_areas(where(of_layer, seed=seed))
            for (criterion, replacement), area in areas.items():
                same = {"seed": seed, "layers": layer, "criterion": criterion}
                found.append(same | {"replacement": replacement, "area": area})
    sweep = Sweep("layers", "area", **METHODS, ticks=layers, kind="points", within=(0, 1))
    sweep = sweep._replace(x_label="layers", y_label="area under the performance profile")
    return plots.curves(table(found), sweep, split)


def _layer(selected: list[Row]) -> dict[str, Any]:
    return {name: row[name] for row in selected[:1] for name in ("layers", "fraction")}


def _described(row: Row) -> str:
    fraction = row["fraction"]
    share = "one unit" if fraction == "one" else f"{100 * fraction:g} % of units"
    return f"{row['layers']}, {share}"


def _rank(fraction: float | str) -> float:
    return -1.0 if fraction == "one" else fraction

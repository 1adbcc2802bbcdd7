"""The probes of the mean-replacement study: every variant of a network in training, measured."""

import functools
from collections.abc import Callable

import numpy as np

from pruning_jax.analysis import variants
from pruning_jax.analysis.variants import Measured
from pruning_jax.studies.mean_replacement import grid, regression, scoring
from pruning_jax.studies.mean_replacement.scoring import Examples, Scored
from pruning_jax.studies.phases import Row, Session, describe, pending, record, save
from pruning_jax.studies.pretrained import Visit, load_variables
from pruning_jax.studies.pretrained import unit_of as dense_unit
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Batch, Params
from pruning_jax.units import UnitGraph


def watch(session: Session, workload: Workload) -> Visit:
    """What is done while networks train: selections recorded, networks to be probed kept."""
    graph, settings = grid.graph_of(workload), workload.settings
    probes = grid.probe_steps(workload)
    # Networks that train together are visited in turn.
    drawn = _drawn(workload, keep=len(workload.seeds))

    def call(seed: int, step: int, variables: Params) -> None:
        if step in probes:
            save(session.run, dense_unit(workload, seed, step=step), variables)
        unit = grid.selected_unit(workload, seed, step)
        if step % settings["selection_every"] or not pending(session.run, [unit]):
            return
        scored = scoring.score(workload, graph, variables, drawn(seed), seed=seed, step=step)
        chosen = scoring.selected(workload, graph, scored, unit["layers"], unit["fraction"])
        record(session.run, [unit | {"units": chosen}], [unit])

    every = np.gcd(settings["probe_every"], settings["selection_every"])
    return Visit(int(every), call)


def probe(session: Session, workload: Workload) -> None:
    """Measures every probe's network and its variants; the last of a seed in more detail."""
    graph, steps = grid.graph_of(workload), grid.probe_steps(workload)
    drawn = _drawn(workload, keep=1)
    for seed in workload.seeds:
        for step in steps:
            units = list(grid.probed_units(workload, seed, step))
            if step == steps[-1]:
                units.append(grid.selected_unit(workload, seed, step, "activations"))
                units.append(_regression_unit(workload, seed))
            if not pending(session.run, units):
                continue
            variables = load_variables(session, dense_unit(workload, seed, step=step))
            examples = drawn(seed)
            scored = scoring.score(workload, graph, variables, examples, seed=seed, step=step)
            rows = measured(workload, graph, variables, examples, scored, units)
            record(session.run, rows, units)
            label = describe({"phase": "probed", "workload": workload.name, "seed": seed})
            session.tell(label, step, steps[-1], {"loss": rows[0]["loss"]})


def _drawn(workload: Workload, keep: int) -> Callable[[int], Examples]:
    """The examples of a seed; those of the last seeds stay in memory."""

    @functools.lru_cache(maxsize=keep)
    def drawn(seed: int) -> Examples:
        return scoring.draw(workload, workload.load(seed), seed)

    return drawn


def measured(
    workload: Workload,
    graph: UnitGraph,
    variables: Params,
    examples: Examples,
    scored: Scored,
    units: list[Row],
) -> list[Row]:
    """The rows of one probe."""
    rows = []
    for split in workload.settings["evaluation_splits"]:
        asked = [unit for unit in units if unit.get("split") == split]
        rows += _on_split(workload, graph, variables, examples.evaluation[split], scored, asked)
    for unit in units[len(rows) :]:
        detail = _activations if unit["phase"] == "activations" else _regression
        rows.append(unit | detail(workload, graph, variables, examples, scored))
    return rows


def _on_split(
    workload: Workload,
    graph: UnitGraph,
    variables: Params,
    batch: Batch,
    scored: Scored,
    asked: list[Row],
) -> list[Row]:
    """The rows of one probe on one split."""
    unit_masks = [
        {
            name: grid.masks_of(workload, graph, scores, unit["layers"], unit["fraction"])
            for name, scores in scored.scores.items()
        }
        for unit in asked
    ]
    dense, measured_variants = variants.measure(
        graph,
        variables,
        batch,
        [masks for by_criterion in unit_masks for masks in by_criterion.values()],
        means=scored.statistics.means,
    )
    before = {"loss": float(dense.loss), "accuracy": float(dense.accuracy)}
    results, rows = iter(measured_variants), []
    for unit, by_criterion in zip(asked, unit_masks, strict=True):
        costs = _costs({name: next(results) for name in by_criterion}, dense.loss)
        row = unit | {"removed": _removed(unit, by_criterion)} | before | costs
        names = grid.names_of(workload, graph, unit["layers"])
        if len(names) == 1 and unit["fraction"] == grid.SHOWN:
            row |= _shown(workload, graph, scored, unit)
        rows.append(row)
    return rows


def _removed(unit: Row, by_criterion: dict) -> dict[str, int]:
    """How many units each space loses, or all together where criteria differ in the space."""
    counts = [
        {name: int(np.sum(~np.asarray(mask))) for name, mask in masks.items()}
        for masks in by_criterion.values()
    ]
    if all(count == counts[0] for count in counts):
        return counts[0]
    return {unit["layers"]: sum(counts[0].values())}


def _costs(by_criterion: dict[str, Measured], before: np.ndarray) -> Row:
    """Penalty and accuracy of every criterion's variants."""
    return {
        "penalty": {
            name: {kind: float(metrics.loss - before) for kind, metrics in both._asdict().items()}
            for name, both in by_criterion.items()
        },
        "pruned_accuracy": {
            name: {kind: float(metrics.accuracy) for kind, metrics in both._asdict().items()}
            for name, both in by_criterion.items()
        },
    }


def _shown(workload: Workload, graph: UnitGraph, scored: Scored, unit: Row) -> Row:
    """The removed units of one layer, and their mean squared activation."""
    squares, chosen = scoring.activations(workload, graph, scored, unit)
    return {
        "units": chosen,
        "mean_square": {
            name: float(np.mean([squares[number] for number in numbers]))
            for name, numbers in chosen.items()
            if numbers
        },
    }


def _activations(
    workload: Workload, graph: UnitGraph, variables: Params, examples: Examples, scored: Scored
) -> Row:
    unit = grid.selected_unit(workload, 0, 0)
    squares, chosen = scoring.activations(workload, graph, scored, unit)
    return {"mean_square": squares, "units": chosen}


def _regression_unit(workload: Workload, seed: int) -> Row:
    return {"phase": "linear_regression", "workload": workload.name, "seed": seed}


def _regression(
    workload: Workload, graph: UnitGraph, variables: Params, examples: Examples, scored: Scored
) -> Row:
    return {"relative_error": regression.relative_error(graph, variables, examples.scoring)}

"""Every weight criterion at several sparsities, on one network: before, after, and retrained."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pruning_jax import figures
from pruning_jax.lab.jobs import Lab
from pruning_jax.measurements import Row, rows_of
from pruning_jax.studies import workloads
from pruning_jax.studies.networks import pretrain, prune, pruning_job, retrain
from pruning_jax.studies.workloads import Workload

SETTINGS = ("criteria", "sparsities", "stages", "schedule", "scope", "statistics_examples")


class Plan(NamedTuple):
    """What a comparison does."""

    workload: Workload
    criteria: tuple[str, ...]
    sparsities: tuple[float, ...]
    stages: int


def build(config: Mapping[str, Any]) -> Plan:
    """The comparison that a config describes; raises `ValueError` for one that cannot run."""
    if not isinstance(config.get("workload"), Mapping):
        raise ValueError(f"workload is {config.get('workload')!r}; give its fields")
    workload = workloads.build(config["study"], config["workload"])
    workloads.check_settings(workload, SETTINGS)
    settings = workload.settings
    workloads.check_pruning(workload, settings["sparsities"], [settings["stages"]])
    return Plan(
        workload, tuple(settings["criteria"]), tuple(settings["sparsities"]), settings["stages"]
    )


def run(plan: Plan, lab: Lab) -> None:
    """Pretrains, prunes by every criterion to every sparsity, retrains each, and concludes."""
    pretrain(lab, plan.workload, plan.workload.seeds)
    pruned = jobs(plan)
    prune(lab, plan.workload, pruned, keep=pruned)
    retrain(lab, plan.workload, pruned)
    conclude(plan, lab)


def conclude(plan: Plan, lab: Lab) -> None:
    """Draws and prints the rows so far; it decides no claim, so its list of them is empty."""
    rows = lab.run.rows()
    lab.run.save_figure(figures.accuracy_by_sparsity(rows), "accuracy_by_sparsity")
    lab.run.write_claims([])
    print(table(plan, rows))


def jobs(plan: Plan) -> list[Row]:
    """Every pruning, ordered by the seed whose network it prunes."""
    return [
        pruning_job(plan.workload, seed, criterion, sparsity=sparsity, stages=plan.stages)
        for seed, criterion, sparsity in itertools.product(
            plan.workload.seeds, plan.criteria, plan.sparsities
        )
    ]


HEADER = ("criterion", "sparsity", "before %", "pruned %", "retrained %", "penalty", "compression")


def table(plan: Plan, rows: list[Row]) -> str:
    """Means over the seeds: a line for each criterion and sparsity that has been retrained.

    A line is of the seeds whose rows are there; what misses some says how many it has.
    """
    seeds, lines, notes = plan.workload.seeds, [HEADER], set()
    for criterion, sparsity in itertools.product(plan.criteria, plan.sparsities):
        unit = {"criterion": criterion, "sparsity": sparsity}
        by_seed = [_of_seed(rows, unit, seed) for seed in seeds]
        there = [found for found in by_seed if found is not None]
        if not there:
            notes.add("a line is missing where nothing has been retrained")
            continue
        dense, pruned, retrained = map(list, zip(*there, strict=True))
        empties = any(row["empty_layers"] for row in pruned)
        parameters, removed = pruned[0]["parameters"], pruned[0]["removed"]
        if empties:
            notes.add("* a layer lost all its weights")
        if len(there) < len(seeds):
            notes.add("(n) the mean of n seeds alone")
        lines.append(
            (
                criterion + (f" ({len(there)})" if len(there) < len(seeds) else ""),
                f"{sparsity:g}",
                f"{100 * mean(dense, 'test_accuracy'):.2f}",
                f"{100 * mean(pruned, 'test_accuracy'):.2f}" + "*" * empties,
                f"{100 * mean(retrained, 'test_accuracy'):.2f}",
                f"{mean(pruned, 'penalty'):.4f}",
                f"{parameters / (parameters - removed):.1f}",
            )
        )
    title = f"test accuracy on {plan.workload.dataset['name']}, mean of seeds {seeds}"
    return "\n".join([title, *aligned(lines), *sorted(notes)])


def _of_seed(rows: list[Row], unit: Row, seed: int) -> list[Row] | None:
    """The dense network's row, the pruned one's and the retrained one's, if all are there."""
    units = [
        {"phase": "pretrained", "seed": seed},
        *(unit | {"phase": phase, "seed": seed} for phase in ("pruned", "retrained")),
    ]
    try:
        return rows_of(rows, units)
    except LookupError:
        return None


def aligned(lines: list[tuple[str, ...]]) -> list[str]:
    """Lines of cells in columns, the first flush left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]


def mean(rows: list[Row], column: str) -> float:
    """The mean of a column."""
    return float(np.mean([row[column] for row in rows]))

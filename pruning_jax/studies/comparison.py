"""Every weight criterion at several sparsities, on one network: before, after, and retrained."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pruning_jax import figures
from pruning_jax.studies import workloads
from pruning_jax.studies.phases import Row, Session, rows_of
from pruning_jax.studies.pretrained import pretrain
from pruning_jax.studies.pruned import prune, unit_of
from pruning_jax.studies.retrained import retrain
from pruning_jax.studies.workloads import Workload


class Plan(NamedTuple):
    """What a comparison does."""

    workload: Workload
    criteria: tuple[str, ...]
    sparsities: tuple[float, ...]
    stages: int


def build(config: Mapping[str, Any]) -> Plan:
    """The comparison that a config describes; raises `ValueError` for one that cannot run."""
    workload = workloads.build(config["study"], config["workload"])
    settings = workload.settings
    workloads.check_pruning(workload, settings["sparsities"], [settings["stages"]])
    return Plan(
        workload, tuple(settings["criteria"]), tuple(settings["sparsities"]), settings["stages"]
    )


def run(plan: Plan, session: Session) -> None:
    """Pretrains, prunes by every criterion to every sparsity, retrains each, draws and prints."""
    pretrain(session, plan.workload, plan.workload.seeds)
    pruned = units(plan)
    prune(session, plan.workload, pruned, keep=pruned)
    retrain(session, plan.workload, pruned)
    rows = session.run.rows()
    session.run.save_figure(figures.accuracy_by_sparsity(rows), "accuracy_by_sparsity")
    print(table(plan, rows))


def units(plan: Plan) -> list[Row]:
    """Every pruning, ordered by the seed whose network it prunes."""
    return [
        unit_of(plan.workload, seed, criterion, sparsity=sparsity, stages=plan.stages)
        for seed, criterion, sparsity in itertools.product(
            plan.workload.seeds, plan.criteria, plan.sparsities
        )
    ]


def table(plan: Plan, rows: list[Row]) -> str:
    """Means over the seeds: a line for each criterion and sparsity."""
    header = (
        "criterion",
        "sparsity",
        "before %",
        "pruned %",
        "retrained %",
        "penalty",
        "compression",
    )
    lines = [header]
    seeds = plan.workload.seeds
    dense = rows_of(rows, ({"phase": "pretrained", "seed": seed} for seed in seeds))
    before = 100 * mean(dense, "test_accuracy")
    for criterion, sparsity in itertools.product(plan.criteria, plan.sparsities):
        found = {
            phase: rows_of(
                rows,
                (
                    {"phase": phase, "criterion": criterion, "sparsity": sparsity, "seed": seed}
                    for seed in seeds
                ),
            )
            for phase in ("pruned", "retrained")
        }
        total = found["pruned"][0]["parameters"]
        lines.append(
            (
                criterion,
                f"{sparsity:g}",
                f"{before:.2f}",
                f"{100 * mean(found['pruned'], 'test_accuracy'):.2f}",
                f"{100 * mean(found['retrained'], 'test_accuracy'):.2f}",
                f"{mean(found['pruned'], 'penalty'):.4f}",
                f"{total / (total - found['pruned'][0]['removed']):.1f}",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    title = f"test accuracy on {plan.workload.dataset['name']}, mean of {len(seeds)} seeds"
    return "\n".join([title, *text])


def mean(rows: list[Row], column: str) -> float:
    """The mean of a column."""
    return float(np.mean([row[column] for row in rows]))

"""Every weight criterion at several sparsities, on one network: before, after, and retrained."""

import contextlib
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from pruning_jax import choices, figures, tables
from pruning_jax.lab.jobs import Lab
from pruning_jax.lab.tables import Job
from pruning_jax.measurements import Row, rows_of
from pruning_jax.studies import settings, workloads
from pruning_jax.studies.networks import pretrain, prune, pruning_job, retrain
from pruning_jax.studies.workloads import Workload

Sparsity = settings.several(lambda _, value: choices.check_sparsity(value))


@settings.setting
class Settings:
    """What is compared."""

    criteria: workloads.Criteria
    sparsities: settings.Annotated[tuple[float, ...], Sparsity]
    stages: int
    schedule: workloads.Schedule
    scope: workloads.Scope
    statistics_examples: int


def build(config: Mapping[str, Any]) -> Workload:
    """The comparison that a config describes; raises `ValueError` for one that cannot run."""
    if not isinstance(config.get("workload"), Mapping):
        raise ValueError(f"workload is {config.get('workload')!r}; give its fields")
    workload = workloads.build(config["study"], config["workload"], Settings)
    workloads.check_pruning(workload, workload.settings.sparsities, [workload.settings.stages])
    return workload


def run(workload: Workload, lab: Lab) -> None:
    """Pretrains, prunes by every criterion to every sparsity, retrains each, and concludes."""
    pretrain(lab, workload, workload.seeds)
    pruned = jobs(workload)
    prune(lab, workload, pruned, keep=pruned)
    retrain(lab, workload, pruned)
    conclude(workload, lab)


def jobs(workload: Workload) -> list[Job]:
    """Every pruning, ordered by the seed whose network it prunes."""
    asked = workload.settings
    return [
        pruning_job(workload, seed, criterion, sparsity=sparsity, stages=asked.stages)
        for seed, criterion, sparsity in itertools.product(
            workload.seeds, asked.criteria, asked.sparsities
        )
    ]


def conclude(workload: Workload, lab: Lab) -> None:
    """Draws and prints the rows so far; it decides no claim, so its list of them is empty."""
    rows = lab.run.rows()
    lab.run.save_figure(figures.accuracy_by_sparsity(rows), "accuracy_by_sparsity")
    lab.run.write_claims([])
    print(table(workload, rows))


HEADER = ("criterion", "sparsity", "before %", "pruned %", "retrained %", "penalty", "compression")


def table(workload: Workload, rows: list[Row]) -> str:
    """Means over the seeds: a line for each criterion and sparsity that has been retrained.

    A line is of the seeds whose rows are there; what misses some says how many it has.
    """
    seeds, lines, notes = workload.seeds, [HEADER], set()
    for criterion, sparsity in itertools.product(
        workload.settings.criteria, workload.settings.sparsities
    ):
        there = []
        for seed in seeds:
            job = {"criterion": criterion, "sparsity": sparsity, "seed": seed}
            phases = [job | {"phase": phase} for phase in ("pruned", "retrained")]
            with contextlib.suppress(LookupError):
                there.append(rows_of(rows, [{"phase": "pretrained", "seed": seed}, *phases]))
        if not there:
            notes.add("a line is missing where nothing has been retrained")
            continue
        empties = any(pruned["empty_layers"] for _, pruned, _ in there)
        if empties:
            notes.add("* a layer lost all its weights")
        if len(there) < len(seeds):
            notes.add("(n) the mean of n seeds alone")
        accuracies = 100 * np.mean([[r["test_accuracy"] for r in of] for of in there], axis=0)
        before, after, again = (f"{accuracy:.2f}" for accuracy in accuracies)
        penalty, (_, pruned, _) = np.mean([of["penalty"] for _, of, _ in there]), there[0]
        left = pruned["parameters"] - pruned["removed"]
        few = f" ({len(there)})" if len(there) < len(seeds) else ""
        line = criterion + few, f"{sparsity:g}", before, after + "*" * empties, again
        lines.append((*line, f"{penalty:.4f}", f"{pruned['parameters'] / left:.1f}"))
    title = f"test accuracy on {workload.dataset['name']}, mean of seeds {seeds}"
    return "\n".join([title, *tables.table(lines, right=range(1, len(HEADER))), *sorted(notes)])

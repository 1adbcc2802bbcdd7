"""The papers' grids as tasks, and as the runs of the sweeps that go through them."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.projection import grids, rethinking
from benchmarks.projection.work import Task
from configs import loss_modelling, mean_replacement, pruning_mechanism


class Grid(NamedTuple):
    """A paper's grid.

    Attributes:
      name: of it.
      tasks: all of them.
      workloads: those of every workload of its study, where one run goes through them all.
      runs: those of every run of its sweep; empty where there is none.
    """

    name: str
    tasks: list[Task]
    workloads: list[list[Task]]
    runs: list[list[Task]]


@functools.cache
def papers() -> tuple[Grid, ...]:
    """The grids, from the ``paper`` variants and their sweeps."""
    found = []
    for name, module, sweep in (
        ("S0, the pruning mechanism", pruning_mechanism, "claims"),
        ("S3, loss modelling", loss_modelling, "claims"),
        ("S4, mean replacement, with probes", mean_replacement, "claims"),
        ("S4, Table 2, a run a setting", mean_replacement, "table2"),
    ):
        config = module.get_config("paper")
        values = config.to_dict()
        runs = [
            _all(grids.tasks(overridden(values, overrides)))
            for overrides in module.SWEEPS[sweep](config)
        ]
        workloads = [] if sweep == "table2" else list(grids.tasks(values).values())
        found.append(Grid(name, [task for run in runs for task in run], workloads, runs))
    found.append(Grid("S2, L1 filters, training alone", rethinking.tasks(), [], []))
    return tuple(found)


def overridden(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config with some fields changed, by their dotted names."""
    changed = dict(values)
    for field, value in overrides.items():
        section, (*parents, last) = changed, field.split(".")
        for parent in parents:
            section[parent] = dict(section[parent])
            section = section[parent]
        section[last] = value
    return changed


def _all(by_workload: Mapping[str, list[Task]]) -> list[Task]:
    return [task for tasks in by_workload.values() for task in tasks]

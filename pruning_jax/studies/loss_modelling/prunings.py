"""The prunings of the loss-modelling study (S3), and how their hyper-parameters are selected."""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from pruning_jax.criteria import WEIGHT_CRITERIA, required
from pruning_jax.measurements import Row, rows_of
from pruning_jax.studies.networks import pruning_job
from pruning_jax.studies.workloads import Workload

EARLY_CRITERIA = ("obd", "quadratic")


def estimated(criterion: str) -> bool:
    """Whether a criterion is estimated from data; if not, stages and penalties change nothing."""
    return bool(required(WEIGHT_CRITERIA[criterion]) & {"gradient", "ggn"})


def at(workload: Workload, seed: int, epoch, criterion: str, stages: int, penalty: float) -> Row:
    """A pruning to the workload's sparsity."""
    return pruning_job(
        workload,
        seed,
        criterion,
        sparsity=workload.settings["sparsity"],
        stages=stages,
        step_penalty=penalty,
        epoch=epoch,
    )


def tuning_jobs(workload: Workload) -> Iterator[Row]:
    """Every criterion, number of stages and step penalty, on the tuning seeds."""
    yield from _every(workload, workload.settings["tuning_seeds"], estimated)


def _every(
    workload: Workload, seeds: Iterable[int], asked: Callable[[str], bool] = lambda _: True
) -> Iterator[Row]:
    settings = workload.settings
    late = ["best"], [c for c in settings["criteria"] if estimated(c)], settings["stages"]
    early = settings["early_epochs"], EARLY_CRITERIA, settings["early_stages"]
    for seed in seeds:
        for criterion in settings["criteria"]:
            if asked(criterion) and not estimated(criterion):
                yield at(workload, seed, "best", criterion, 1, 0.0)
        for epochs, criteria, stages in (late, early):
            combinations = itertools.product(epochs, criteria, stages, settings["step_penalties"])
            for combination in combinations:
                yield at(workload, seed, *combination)


def test_jobs(workload: Workload, rows: list[Row]) -> Iterator[Row]:
    """On the other seeds: no penalty and the selected one; at one stage, every penalty.

    Without tuning seeds, where hyper-parameters are chosen on the other seeds, all of them.
    """
    settings = workload.settings
    if not settings["tuning_seeds"]:
        yield from _every(workload, workload.seeds)
        return
    for seed in workload.seeds:
        for criterion in settings["criteria"]:
            if not estimated(criterion):
                yield at(workload, seed, "best", criterion, 1, 0.0)
                continue
            for stages in settings["stages"]:
                chosen = select(rows, workload, criterion, "best", [stages])[1]
                penalties = settings["step_penalties"] if stages == 1 else {0.0, chosen}
                for penalty in sorted(penalties):
                    yield at(workload, seed, "best", criterion, stages, penalty)
        early = itertools.product(
            settings["early_epochs"], EARLY_CRITERIA, settings["early_stages"]
        )
        for epoch, criterion, stages in early:
            chosen = select(rows, workload, criterion, epoch, [stages])[1]
            for penalty in sorted({0.0, chosen}):
                yield at(workload, seed, epoch, criterion, stages, penalty)


def selected_jobs(workload: Workload, rows: list[Row]) -> list[Row]:
    """Each seed's prunings at each criterion's selected stages and step penalty.

    Without tuning seeds, every pruning of the best networks.
    """
    settings = workload.settings
    if not settings["tuning_seeds"]:
        every = _every(workload, workload.seeds)
        return [
            job
            for job in every
            if job["epoch"] == "best" and job["criterion"] in settings["retrained"]
        ]
    chosen = {
        c: select(rows, workload, c, "best", settings["stages"]) for c in settings["retrained"]
    }
    return [at(workload, seed, "best", c, *chosen[c]) for seed in workload.seeds for c in chosen]


def select(
    rows: list[Row],
    workload: Workload,
    criterion: str,
    epoch: int | str,
    stages: Iterable[int],
    penalties: Iterable[float] | None = None,
) -> tuple[int, float]:
    """The stages and step penalty of the lowest mean loss gap on the tuning seeds."""
    if not estimated(criterion):
        return 1, 0.0
    settings = workload.settings
    penalties = settings["step_penalties"] if penalties is None else penalties

    def gap(choice: tuple[int, float]) -> float:
        jobs = [at(workload, s, epoch, criterion, *choice) for s in settings["tuning_seeds"]]
        return float(np.mean([abs(row["penalty"]) for row in rows_of(rows, jobs)]))

    return min(itertools.product(stages, penalties), key=gap)

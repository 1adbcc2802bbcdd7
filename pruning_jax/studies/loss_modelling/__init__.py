"""Revisiting Loss Modelling for Unstructured Pruning (S3): prunings by models of the loss.

Dense networks are pruned to one sparsity by every criterion, number of stages and step penalty, at
the best epoch and at early ones, and some are trained again. With tuning seeds, stages and step
penalties are selected on them alone, and the other seeds run no penalty and the selected one (at
one stage every penalty); without them the seeds run all, for claims to choose by the other seeds.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any

import numpy as np

from pruning_jax import choices, figures
from pruning_jax.lab.jobs import Lab
from pruning_jax.lab.tables import Job
from pruning_jax.measurements import Row, rows_of
from pruning_jax.studies import questions, settings, workloads
from pruning_jax.studies.loss_modelling.claims import (
    EARLY_CRITERIA,
    LABELS,
    PAPER,
    PUBLISHED,
    QUESTIONS,
    Thresholds,
    decide,
    estimated,
)
from pruning_jax.studies.networks import pretrain, prune, pruning_job, retrain
from pruning_jax.studies.settings import Count, Counts, FewCounts, FewNames, Numbers
from pruning_jax.studies.workloads import Workload

__all__ = ["LABELS", "PAPER", "QUESTIONS", "build", "conclude", "decide", "run"]


@settings.setting
class Settings:
    """What the study asks for; `retrained` names the criteria whose networks are trained again."""

    criteria: workloads.Criteria
    retrained: FewNames
    schedule: workloads.Schedule
    scope: workloads.Scope
    sparsity: float
    stages: Counts
    step_penalties: Numbers
    tuning_seeds: Annotated[tuple[int, ...], settings.several(workloads.SEED, least=0)]
    statistics_examples: Count
    early_stages: FewCounts
    early_epochs: FewCounts
    thresholds: Thresholds


def build(config: Mapping[str, Any]) -> list[Workload]:
    """The study's workloads; raises `ValueError` for a config that it cannot run."""
    built = workloads.build_all(config, Settings)
    for workload in built:
        own, epochs = workload.settings, workload.pretraining.recipe.epochs
        workloads.check_pruning(workload, [own.sparsity], (*own.stages, *own.early_stages))
        for criterion in own.retrained:
            choices.check("criterion of retrained", criterion, own.criteria)
        for epoch in own.early_epochs:
            if epoch > epochs:
                raise ValueError(f"early_epochs has {epoch}; training has {epochs} epochs")
        if set(own.tuning_seeds) & set(workload.seeds):
            both = own.tuning_seeds, workload.seeds
            raise ValueError("tuning_seeds {} share a seed with seeds {}".format(*both))
    return built


def run(built: list[Workload], lab: Lab) -> None:
    """Pretrains, prunes over the grid, retrains, and decides claims L1 to L5."""
    for workload in built:
        own = workload.settings
        pretrain(lab, workload, (*workload.seeds, *own.tuning_seeds), own.early_epochs)
        prune(lab, workload, tuning_jobs(workload))
        rows = lab.run.rows()
        prune(lab, workload, test_jobs(workload, rows), selected_jobs(workload, rows))
        conclude(built, lab)
    for workload in built:
        retrain(lab, workload, selected_jobs(workload, lab.run.rows()))
        conclude(built, lab)


def conclude(built: list[Workload], lab: Lab) -> None:
    """Writes the claims and the figures that the rows so far give."""
    rows = lab.run.rows()
    decided = [claim for workload in built for claim in decide(rows, workload)]
    tuning = {workload.name: workload.settings.tuning_seeds for workload in built}
    drawn = figures.loss_modelling(rows, published=PUBLISHED, tuning_seeds=tuning)
    questions.write(lab, decided, drawn)


def at(workload: Workload, seed: int, epoch, criterion: str, stages: int, penalty: float) -> Job:
    """A pruning to the workload's sparsity."""
    options = {"sparsity": workload.settings.sparsity, "epoch": epoch}
    return pruning_job(workload, seed, criterion, stages=stages, step_penalty=penalty, **options)


def _grid(
    workload: Workload, seeds: Iterable[int], criteria: Iterable[str], penalties: Callable
) -> Iterator[Job]:
    """Prunings at some step penalties: (epoch, criterion, stages) -> those that are run."""
    own, criteria = workload.settings, list(criteria)
    early = [*itertools.product(own.early_epochs, EARLY_CRITERIA, own.early_stages)]
    for seed in seeds:
        for criterion in criteria:
            if not estimated(criterion):
                yield at(workload, seed, "best", criterion, 1, 0.0)
                continue
            for stages in own.stages:
                for penalty in penalties("best", criterion, stages):
                    yield at(workload, seed, "best", criterion, stages, penalty)
        for place in early:
            for penalty in penalties(*place):
                yield at(workload, seed, *place, penalty)


def tuning_jobs(workload: Workload) -> Iterator[Job]:
    """Every estimated criterion, number of stages and step penalty, on the tuning seeds."""
    own = workload.settings
    criteria = filter(estimated, own.criteria)
    return _grid(workload, own.tuning_seeds, criteria, lambda *_: own.step_penalties)


def test_jobs(workload: Workload, rows: list[Row]) -> Iterator[Job]:
    """What the other seeds run."""
    own = workload.settings

    @functools.cache
    def penalties(epoch: int | str, criterion: str, stages: int) -> Iterable[float]:
        if not own.tuning_seeds or (epoch, stages) == ("best", 1):
            return own.step_penalties
        return sorted({0.0, select(rows, workload, criterion, epoch, [stages])[1]})

    return _grid(workload, workload.seeds, own.criteria, penalties)


def selected_jobs(workload: Workload, rows: list[Row]) -> list[Job]:
    """The prunings that are trained again: at each criterion's selected stages and step penalty.

    Without tuning seeds, every pruning of the best networks.
    """
    own = workload.settings
    if not own.tuning_seeds:
        every = _grid(workload, workload.seeds, own.retrained, lambda *_: own.step_penalties)
        return [job for job in every if job["epoch"] == "best"]
    chosen = {c: select(rows, workload, c, "best", own.stages) for c in own.retrained}
    return [at(workload, seed, "best", c, *chosen[c]) for seed in workload.seeds for c in chosen]


def select(
    rows: list[Row], workload: Workload, criterion: str, epoch: int | str, stages: Iterable[int]
) -> tuple[int, float]:
    """The stages and step penalty of the lowest mean loss gap on the tuning seeds."""
    own = workload.settings
    if not estimated(criterion):
        return 1, 0.0

    def gap(choice: tuple[int, float]) -> float:
        jobs = [at(workload, seed, epoch, criterion, *choice) for seed in own.tuning_seeds]
        return float(np.mean([abs(row["penalty"]) for row in rows_of(rows, jobs)]))

    return min(itertools.product(stages, own.step_penalties), key=gap)

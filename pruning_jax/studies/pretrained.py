"""The first phase of a study: dense networks, trained."""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax import data, training
from pruning_jax.lab import checkpointing, replicates
from pruning_jax.studies import groups
from pruning_jax.studies.phases import (
    Row,
    Session,
    folder_name,
    pending,
)
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Params


class Dense(NamedTuple):
    """A dense network with the data that it was trained on."""

    variables: Params
    dataset: data.Dataset


class Visit(NamedTuple):
    """What is done with every network in the middle of epochs.

    Attributes:
      every: steps between visits.
      call: what is called with the seed, the steps taken, and the variables, which the next step
        consumes.
    """

    every: int
    call: Callable[[int, int, Params], None]


def unit_of(
    workload: Workload, seed: int, epoch: int | str = "best", step: int | None = None
) -> Row:
    """The dense network of a seed: at its best validation accuracy, or after an epoch or a step."""
    unit = {"phase": "pretrained", "workload": workload.name, "seed": seed}
    if step is not None:
        return unit | {"step": step}
    return unit if epoch == "best" else unit | {"epoch": epoch}


def pretrain(
    session: Session,
    workload: Workload,
    seeds: Iterable[int],
    snapshots: tuple[int, ...] = (),
    visit: Visit | None = None,
) -> None:
    """Trains dense networks and keeps each at its best validation accuracy.

    Args:
      session: where to.
      workload: what.
      seeds: one a replicate.
      snapshots: epochs after which the network is kept as well, besides the one that retraining
        goes back to.
      visit: what is done with the networks in the middle of epochs.
    """
    units = [unit_of(workload, seed) for seed in seeds]
    snapshots = (*snapshots, rewound_epoch(workload))

    def begin(unit: Row, dataset: data.Dataset) -> groups.Begun:
        task, variables = workload.pretraining, workload.initial(unit["seed"], dataset)
        key, examples = workload.keys(unit["seed"]).training, len(dataset.train.labels)
        return groups.Begun(task, training.start(task, variables, key, examples), {})

    def snapshot(group: list[Row], epoch: int, progress: training.Progress) -> None:
        if epoch in snapshots:
            groups.keep_epoch(session.run, group, epoch, progress)

    def pause(group: list[Row]) -> training.Pause | None:
        return visit and training.Pause(visit.every, _visiting(visit, group))

    left = pending(session.run, units, kept=units)
    finish = functools.partial(groups.keep_best, session.run, workload)
    groups.train(session, left, workload.load, begin, finish, snapshot, pause)


def rewound_epoch(workload: Workload) -> int | None:
    """The epoch whose weights a workload's retraining goes back to, if it does."""
    plan = workload.retraining
    steps = workload.examples // workload.pretraining.recipe.batch_size
    return plan.step // steps if plan.rewinds_weights else None


def _visiting(visit: Visit, group: list[Row]) -> Callable[[int, training.TrainState], None]:
    def call(step: int, state: training.TrainState) -> None:
        for unit, one in zip(group, replicates.unstack(state), strict=True):
            visit.call(unit["seed"], step, one.variables)

    return call


def load_dense(
    session: Session,
    workload: Workload,
    seed: int,
    epoch: int | str = "best",
    step: int | None = None,
) -> Dense:
    """A kept dense network and its data."""
    unit = unit_of(workload, seed, epoch, step)
    return Dense(load_variables(session, unit), workload.load(seed))


def load_variables(session: Session, unit: Row) -> Params:
    """A kept dense network."""
    found = checkpointing.load(session.run.checkpoints / folder_name(unit))
    return jax.tree.map(jnp.asarray, found)

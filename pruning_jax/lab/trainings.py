"""Trainings of a study: which go together, and how they are kept and continued.

A group is kept as one, with the jobs in it, so that each of them goes on from there in any other
group: on any number of devices.
"""

import functools
import hashlib
import itertools
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pruning_jax import data, training
from pruning_jax.lab import checkpointing, jobs, processes, records, replicates, tables
from pruning_jax.lab.jobs import Lab
from pruning_jax.lab.records import Record
from pruning_jax.lab.tables import Job
from pruning_jax.types import Params, PyTree

MEMBERS = "members.json"
"""In a folder of a group's checkpoints: its jobs, in their order."""

Held = dict[Path, list[Job]]


class Training(NamedTuple):
    """A network to be trained: from what, how, and what of it is kept.

    Attributes:
      job: its name, with a seed.
      task: what is trained and how.
      start: its data -> the training before the first step.
      finish: the training at its end, and its data -> the tree that is kept, and what was found.
      snapshots: the epochs after which the network is kept as well.
    """

    job: Job
    task: training.Task
    start: Callable[[data.Dataset], training.Progress]
    finish: Callable[[training.Progress, data.Dataset], tuple[PyTree, Record]]
    snapshots: Collection[int] = ()


class Visit(NamedTuple):
    """What is done with every network in the middle of epochs.

    Attributes:
      every: steps between visits.
      call: what is called with the job, the steps taken, and the variables, which the next step
        consumes.
    """

    every: int
    call: Callable[[Job, int, Params], None]


def train(
    lab: Lab,
    trainings: Iterable[Training],
    load: Callable[[int], data.Dataset],
    visit: Visit | None = None,
) -> None:
    """Trains what has no row or no network yet, each from the last step at which it is kept.

    Those that are equally far are trained together, as many as the devices allow.

    Args:
      lab: where to.
      trainings: all of them.
      load: a seed -> its data.
      visit: what is done in the middle of epochs.

    Raises:
      Stopped: the study was asked to stop; a checkpoint holds the steps taken here.
    """
    asked = {tables.key(one.job): one for one in trainings}
    names = [one.job for one in asked.values()]
    left = [asked[tables.key(job)] for job in jobs.pending(lab, names, keeps=names)]
    held = _held(lab) if left else {}

    def need(one: Training) -> int | None:
        dataset = load(one.job["seed"])
        start = one.start(dataset)
        return training.memory(start, dataset.train, dataset.validation, task=one.task)

    for group in equally_far(held, left, need):
        lab.check(f"{tables.name(group[0].job)}: 0 steps")
        seeds = [one.job["seed"] for one in group]
        loaded = {seed: data.on_host(load(seed)) for seed in dict.fromkeys(seeds)}
        datasets = [loaded[seed] for seed in seeds]
        _finish(lab, group, datasets, _train(lab, held, group, datasets, visit))
        _remove_finished(lab, held)


def equally_far(
    held: Held, trainings: list[Training], need: Callable[[Training], int | None] | None = None
) -> list[list[Training]]:
    """Which trainings go together: those of one task that are kept at one step.

    On how many devices those were trained before does not matter.

    Args:
      held: the jobs of every folder of checkpoints.
      trainings: what is left.
      need: a training -> the bytes of memory that it takes, as `replicates.groups` asks.
    """
    last: dict[str, int] = {}
    for folder, members in held.items():
        step = max(checkpointing.steps(folder), default=0)
        for job in members:
            last[tables.key(job)] = max(last.get(tables.key(job), 0), step)
    places = [last.get(tables.key(one.job), 0) for one in trainings]
    processes.require_same(kept=places)
    together: dict[tuple, list[Training]] = {}
    for one, step in zip(trainings, places, strict=True):
        together.setdefault((step, one.task), []).append(one)
    return [group for members in together.values() for group in replicates.groups(members, need)]


def _train(
    lab: Lab,
    held: Held,
    group: list[Training],
    datasets: list[data.Dataset],
    visit: Visit | None,
) -> list[training.Progress]:
    """Trains a group to the end, from the last step at which all of them are kept."""
    task, label = group[0].task, tables.name(group[0].job)
    members = [one.job for one in group]
    starts = [one.start(dataset) for one, dataset in zip(group, datasets, strict=True)]
    taken, found = reached(lab, held, members, starts)
    progress = replicates.stack(found)
    del starts, found  # no device holds them besides
    examples = replicates.stack_on_host([dataset.train for dataset in datasets])
    validation = replicates.stack_on_host([dataset.validation for dataset in datasets])
    processes.require_same(step=taken)
    steps = examples.labels.shape[1] // task.recipe.batch_size
    ends = range(steps, task.recipe.epochs * steps + 1, steps)
    later = (step for step in ends if step > taken)
    lab.run.forget(job | {"step": step} for step, job in itertools.product(later, members))
    pause, saved = (
        visit and training.Pause(visit.every, _visiting(visit, members)),
        time.monotonic(),
    )

    def due() -> bool:
        return lab.due(saved)

    parts = training.fit(progress, examples, validation, task=task, pause=pause, handover=due)
    for epoch, progress, measured in parts:
        if measured is not None:
            _log(lab, members, epoch * steps, measured)
            _keep_snapshots(lab, group, epoch, progress)
            figures = {key: float(value.mean()) for key, value in measured.items()}
            lab.report(label, epoch, task.recipe.epochs, figures)
        if measured is None or due():
            taken = training.taken(progress.state)
            keep(lab, held, members, taken, progress)
            saved = time.monotonic()
            lab.check(f"{label}: step {taken}/{task.recipe.epochs * steps}")
    return replicates.unstack(progress)


def _finish(
    lab: Lab,
    group: list[Training],
    datasets: list[data.Dataset],
    ended: list[training.Progress],
) -> None:
    """Keeps the networks of a group, then adds their rows at once."""
    rows = []
    for one, dataset, progress in zip(group, datasets, ended, strict=True):
        tree, found = one.finish(progress, dataset)
        lab.keep(one.job, tree, found)
        rows.append(found)
    jobs.record(lab, [one.job for one in group], rows)


def _keep_snapshots(
    lab: Lab, group: list[Training], epoch: int, progress: training.Progress
) -> None:
    asked = [epoch in one.snapshots for one in group]
    if any(asked):
        for wanted, one, own in zip(asked, group, replicates.unstack(progress), strict=True):
            if wanted:
                lab.keep(one.job | {"epoch": epoch}, own.state.variables)


def _visiting(visit: Visit, members: list[Job]) -> Callable[[int, training.TrainState], None]:
    def call(step: int, state: training.TrainState) -> None:
        for job, one in zip(members, replicates.unstack(state), strict=True):
            visit.call(job, step, one.variables)

    return call


def _log(lab: Lab, members: list[Job], step: int, measured: dict[str, np.ndarray]) -> None:
    for replicate, job in enumerate(members):
        found = {key: float(values[replicate]) for key, values in measured.items()}
        lab.run.log(job | {"step": step}, found)


def _held(lab: Lab) -> Held:
    """The folders that groups' trainings are kept in, and the jobs of each."""
    files = sorted((lab.run.checkpoints / "training").glob(f"*/*/*/{MEMBERS}"))
    return {file.parent: records.read_json(file, []) for file in files}


def keep(lab: Lab, held: Held, members: list[Job], step: int, progress: training.Progress) -> None:
    """Keeps the training of a group so far: all of its jobs, or none."""
    names = [tables.folder(job) for job in members]
    others = hashlib.sha256("\n".join(names[1:]).encode()).hexdigest()[:8]
    place = f"{names[0]}+{others}" if names[1:] else names[0]
    folder = lab.run.checkpoints / "training" / place
    if folder not in held:
        processes.together(lambda: records.write_whole(folder / MEMBERS, records.to_json(members)))
        held[folder] = members
    checkpointing.save_step(folder, step, progress, metadata=_whose(lab, members))


def _whose(lab: Lab, members: list[Job]) -> Record:
    return {"jobs": members, "run": lab.run.identity}


def _remove_finished(lab: Lab, held: Held) -> None:
    """Removes the checkpoints of groups whose every job has a row."""
    for folder in [
        f for f, members in held.items() if all(job in lab.run.table for job in members)
    ]:
        processes.together(functools.partial(checkpointing.remove, folder))
        del held[folder]


def reached(
    lab: Lab, held: Held, members: list[Job], starts: list[training.Progress]
) -> tuple[int, list[training.Progress]]:
    """The last step at which all jobs are kept, in one folder or in several, and their trainings.

    The step is 0, and they are as they start, where there is none.
    """
    keys = [tables.key(job) for job in members]
    own = {
        folder: names
        for folder, of in held.items()
        if not {*keys}.isdisjoint(names := [tables.key(job) for job in of])
    }
    most = None
    while True:
        found = {key: (0, start) for key, start in zip(keys, starts, strict=True)}
        for folder, names in own.items():
            whose = _whose(lab, held[folder])
            for key, kept in _latest(folder, names, starts[0], most, whose).items():
                if key in found and kept[0] > found[key][0]:
                    found[key] = kept
        most = min(step for step, _ in found.values())
        if all(step == most for step, _ in found.values()):
            return most, [progress for _, progress in found.values()]


def _latest(
    folder: Path, names: list[str], like: training.Progress, most: int | None, whose: Record
) -> dict[str, tuple[int, training.Progress]]:
    """The last step that a folder keeps, to `most`, and the training of each of its jobs then."""
    stacked = replicates.stack([like] * len(names))
    found = checkpointing.latest(folder, stacked, most=most, whose=whose)
    if found is None:
        return {}
    step, progress = found
    return {
        name: (step, one) for name, one in zip(names, replicates.unstack(progress), strict=True)
    }

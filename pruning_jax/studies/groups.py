"""Units of work that train together: how they are grouped, kept and continued.

A group is kept as one, with the names of its units, so that each of them goes on from there in any
other group: on any number of devices.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pruning_jax import data, training
from pruning_jax.lab import checkpointing, processes, records, replicates, results
from pruning_jax.studies.phases import (
    Row,
    Session,
    describe,
    folder_name,
    measure,
    record,
    save,
)
from pruning_jax.studies.workloads import Workload

MEMBERS = "members.json"
"""In a folder of a group's checkpoints: the names of its units, in their order."""


class Begun(NamedTuple):
    """The training of a unit of work before its first step.

    Attributes:
      task: what is trained and how; the same for all units of a call.
      start: from where.
      columns: of the unit's row, known before.
    """

    task: training.Task
    start: training.Progress
    columns: Row


class Trained(NamedTuple):
    """Units of work that were trained together, each field in their order.

    Attributes:
      units: their names.
      datasets: what they were trained on, in the host's memory.
      columns: of their rows, known before.
      ended: their trainings at the end.
    """

    units: list[Row]
    datasets: list[data.Dataset]
    columns: list[Row]
    ended: list[training.Progress]


def train(
    session: Session,
    units: Iterable[Row],
    load: Callable[[int], data.Dataset],
    begin: Callable[[Row, data.Dataset], Begun],
    finish: Callable[[Trained], None],
    on_epoch: Callable[[list[Row], int, training.Progress], None] = lambda *_: None,
    pause: Callable[[list[Row]], training.Pause | None] = lambda _: None,
) -> None:
    """Trains units of work group by group, each from the last step at which it is kept.

    Args:
      session: where to.
      units: to be trained.
      load: a seed -> its data.
      begin: a unit and its data -> its training before the first step.
      finish: called with every group as it ends.
      on_epoch: called after every epoch with the group, the epoch and the progress.
      pause: a group -> what is done in the middle of its epochs.

    Raises:
      Stopped: the session was asked to stop; a checkpoint holds the steps taken here.
    """

    def need(unit: Row) -> int | None:
        dataset = load(unit["seed"])
        task, start, _ = begin(unit, dataset)
        return training.memory(start, dataset.train, dataset.validation, task=task)

    for group in equally_far(session.run, units, need):
        session.check(f"{describe(group[0])}: 0 steps")
        seeds = [unit["seed"] for unit in group]
        loaded = {seed: data.on_host(load(seed)) for seed in dict.fromkeys(seeds)}
        datasets = [loaded[seed] for seed in seeds]
        each = functools.partial(on_epoch, group)
        finish(_train(session, group, datasets, begin, each, pause(group)))


def keep_epoch(run: results.Run, units: list[Row], epoch: int, progress: training.Progress) -> None:
    """Keeps the networks of a group as they are after an epoch."""
    for unit, one in zip(units, replicates.unstack(progress), strict=True):
        save(run, unit | {"epoch": epoch}, one.state.variables)


def keep_best(run: results.Run, workload: Workload, trained: Trained) -> None:
    """Keeps the best network of each of a group's trainings, then adds their rows at once."""
    rows = []
    for unit, dataset, columns, progress in zip(*trained, strict=True):
        save(run, unit, progress.best, columns)
        best = {"best_epoch": int(progress.best_epoch)}
        rows.append(unit | columns | best | measure(workload, progress.best, dataset))
    record(run, rows, trained.units)


def equally_far(
    run: results.Run, units: Iterable[Row], need: Callable[[Row], int | None] | None = None
) -> list[list[Row]]:
    """Which units train together: those whose trainings are kept at one step, as devices allow.

    On how many devices those were trained before does not matter.

    Args:
      run: that keeps them.
      units: to be trained.
      need: a unit -> the bytes of memory that its training takes, as `replicates.groups` asks.
    """
    held, by_step = _held(run), {}
    for unit in units:
        folders = [folder for folder, members in held.items() if folder_name(unit) in members]
        steps = [step for folder in folders for step in checkpointing.steps(folder)]
        by_step.setdefault(max(steps, default=0), []).append(unit)
    processes.require_same(kept=by_step)
    return [group for members in by_step.values() for group in replicates.groups(members, need)]


def _train(
    session: Session,
    units: list[Row],
    datasets: list[data.Dataset],
    begin: Callable[[Row, data.Dataset], Begun],
    on_epoch: Callable[[int, training.Progress], None],
    pause: training.Pause | None,
) -> Trained:
    """Trains a group of replicates to the end, from the last step at which all of them are kept."""
    run, label = session.run, describe(units[0])
    (task, *_), starts, columns = zip(*map(begin, units, datasets), strict=True)
    taken, reached = _reached(run, units, list(starts))
    progress = replicates.stack(reached)
    del starts, reached  # no device holds them besides
    examples = replicates.stack_on_host([dataset.train for dataset in datasets])
    validation = replicates.stack_on_host([dataset.validation for dataset in datasets])
    processes.require_same(step=taken)
    steps = examples.labels.shape[1] // task.recipe.batch_size
    ends = range(steps, task.recipe.epochs * steps + 1, steps)
    run.forget(unit | {"step": step} for unit in units for step in ends if step > taken)
    saved = time.monotonic()

    def due() -> bool:
        return session.due(saved)

    parts = training.fit(progress, examples, validation, task=task, pause=pause, handover=due)
    for epoch, progress, found in parts:
        if found is not None:
            _log(run, units, epoch * steps, found)
            on_epoch(epoch, progress)
            figures = {key: float(value.mean()) for key, value in found.items()}
            session.report(label, epoch, task.recipe.epochs, figures)
        if found is None or due():
            taken = training.taken(progress.state)
            _keep(run, units, taken, progress)
            saved = time.monotonic()
            session.check(f"{label}: step {taken}/{task.recipe.epochs * steps}")
    return Trained(units, datasets, list(columns), replicates.unstack(progress))


def _held(run: results.Run) -> dict[Path, list[str]]:
    """The folders that groups' trainings are kept in, and the names of each group's units."""
    files = sorted((run.checkpoints / "training").glob(f"*/*/*/{MEMBERS}"))
    return {file.parent: records.read_json(file, []) for file in files}


def _keep(run: results.Run, units: list[Row], step: int, progress: training.Progress) -> None:
    """Keeps the training of a group so far: all of its units, or none."""
    names = [folder_name(unit) for unit in units]
    others = hashlib.sha256("\n".join(names[1:]).encode()).hexdigest()[:8]
    folder = run.checkpoints / "training" / (f"{names[0]}+{others}" if names[1:] else names[0])
    processes.together(lambda: records.write_whole(folder / MEMBERS, records.to_json(names)))
    checkpointing.save_step(folder, step, progress)


def _reached(
    run: results.Run, units: list[Row], starts: list[training.Progress]
) -> tuple[int, list[training.Progress]]:
    """The last step at which all units are kept, in one folder or in several, and their trainings.

    The step is 0, and the units are as they start, where there is none.
    """
    names = [folder_name(unit) for unit in units]
    held = {folder: members for folder, members in _held(run).items() if {*members} & {*names}}
    most = None
    while True:
        reached = {name: (0, start) for name, start in zip(names, starts, strict=True)}
        for folder, members in held.items():
            for name, kept in _latest(folder, members, starts[0], most).items():
                if name in reached and kept[0] > reached[name][0]:
                    reached[name] = kept
        most = min(step for step, _ in reached.values())
        if all(step == most for step, _ in reached.values()):
            return most, [progress for _, progress in reached.values()]


def _latest(
    folder: Path, members: list[str], like: training.Progress, most: int | None
) -> dict[str, tuple[int, training.Progress]]:
    """The last step that a folder keeps, to `most`, and the training of each of its units then."""
    found = checkpointing.latest(folder, replicates.stack([like] * len(members)), most=most)
    if found is None:
        return {}
    step, progress = found
    return {
        name: (step, one) for name, one in zip(members, replicates.unstack(progress), strict=True)
    }


def _log(run: results.Run, units: list[Row], step: int, record: dict[str, np.ndarray]) -> None:
    for replicate, unit in enumerate(units):
        figures = {key: float(values[replicate]) for key, values in record.items()}
        run.log(unit | {"step": step}, figures)

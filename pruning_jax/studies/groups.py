"""Units of work that train together: how they are grouped, kept and continued.

A group is kept as one, with the names of its units, so that each of them goes on from there in any
other group: on any number of devices.
"""

import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from pruning_jax import checkpointing, data, processes, replicates, results, training
from pruning_jax.results import records
from pruning_jax.studies.phases import Row, Session, describe, folder_name, matches

MEMBERS = "members.json"
"""In a folder of a group's checkpoints: the names of its units, in their order."""


def equally_far(run: results.Run, units: Iterable[Row]) -> list[list[Row]]:
    """Which units train together: those whose trainings are kept at one step, as devices allow.

    On how many devices those were trained before does not matter.
    """
    held, by_step = _held(run), {}
    for unit in units:
        folders = [folder for folder, members in held.items() if folder_name(unit) in members]
        steps = [step for folder in folders for step in checkpointing.steps(folder)]
        by_step.setdefault(max(steps, default=0), []).append(unit)
    found = [group for members in by_step.values() for group in replicates.groups(members)]
    processes.require_same(groups=found)
    return found


def train(
    session: Session,
    task: training.Task,
    units: list[Row],
    starts: list[training.Progress],
    datasets: list[data.Dataset],
    on_epoch: Callable[[int, training.Progress], None] = lambda epoch, progress: None,
    pause: training.Pause | None = None,
) -> list[training.Progress]:
    """Trains a group of replicates to the end, from the last step at which all of them are kept.

    Raises:
      Stopped: the session was asked to stop; a checkpoint holds the steps taken here.
    """
    run, label = session.run, describe(units[0])
    session.check(f"{label}: 0 steps")
    examples = replicates.stack([dataset.train for dataset in datasets])
    validation = replicates.stack([dataset.validation for dataset in datasets])
    taken, reached = _reached(run, units, starts)
    progress = replicates.stack(reached)
    processes.require_same(step=taken)
    steps = examples.labels.shape[1] // task.recipe.batch_size
    run.forget(
        lambda record: record.get("step", 0) > taken and any(matches(record, u) for u in units)
    )
    saved = time.monotonic()

    def due() -> bool:
        return session.due(saved)

    parts = training.fit(progress, examples, validation, task=task, pause=pause, handover=due)
    for epoch, progress, record in parts:
        if record is not None:
            _log(run, units, epoch * steps, record)
            on_epoch(epoch, progress)
            figures = {key: float(value.mean()) for key, value in record.items()}
            session.report(label, epoch, task.recipe.epochs, figures)
        if record is None or due():
            taken = training.taken(progress.state)
            _keep(run, units, taken, progress)
            saved = time.monotonic()
            session.check(f"{label}: step {taken}/{task.recipe.epochs * steps}")
    return replicates.unstack(progress)


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
        run.log(**unit, step=step, **figures)

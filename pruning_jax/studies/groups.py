"""Units of work that train together: how they are grouped, continued and kept.

Each has checkpoints of its own, so that a training goes on wherever it is continued, on any number
of devices.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np

from pruning_jax import checkpointing, data, processes, replicates, results, training
from pruning_jax.studies.phases import Row, Session, describe, folder_name, matches


def of(run: results.Run, units: Iterable[Row]) -> list[list[Row]]:
    """Which units train together: those that are equally far, so that none begins again.

    How many share the devices may differ between the starts of a run.
    """
    equal: dict[int, list[Row]] = {}
    for unit in units:
        steps = checkpointing.steps(_middle(run, unit))
        equal.setdefault(max(steps, default=0), []).append(unit)
    found = [group for those in equal.values() for group in replicates.groups(those)]
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
    """Trains a group of replicates to the end, from the last step of which all have a checkpoint.

    Raises:
      Stopped: the session was asked to stop; checkpoints hold the training so far.
    """
    run, label = session.run, describe(units[0])
    session.check(f"{label}: 0 steps")
    train = replicates.stack([dataset.train for dataset in datasets])
    validation = replicates.stack([dataset.validation for dataset in datasets])
    taken, reached = _reached(run, units, starts)
    progress = replicates.stack(reached)
    processes.require_same(step=taken)
    steps = train.labels.shape[1] // task.recipe.batch_size
    run.forget(
        lambda record: record.get("step", 0) > taken and any(matches(record, u) for u in units)
    )
    saved = time.monotonic()

    def due() -> bool:
        return session.due(saved)

    parts = training.fit(progress, train, validation, task=task, pause=pause, handover=due)
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


def _middle(run: results.Run, unit: Row) -> Path:
    """The folder for checkpoints of a unit's training."""
    return run.checkpoints / "training" / folder_name(unit)


def _reached(
    run: results.Run, units: list[Row], starts: list[training.Progress]
) -> tuple[int, list[training.Progress]]:
    """The last step of which all units have a whole checkpoint, and what those hold.

    It is 0, and the units are as they start, where there is none.
    """
    most = None
    while True:
        found = [
            checkpointing.latest(_middle(run, unit), start, most=most) or (0, start)
            for unit, start in zip(units, starts, strict=True)
        ]
        most = min(step for step, _ in found)
        if all(step == most for step, _ in found):
            return most, [progress for _, progress in found]


def _keep(run: results.Run, units: list[Row], step: int, progress: training.Progress) -> None:
    """Keeps the training so far, each unit's on its own."""
    fetched = jax.tree.map(processes.fetch, progress)
    for place, unit in enumerate(units):
        own = jax.tree.map(lambda leaf, place=place: leaf[place, ...], fetched)
        checkpointing.save_step(_middle(run, unit), step, own)


def _log(run: results.Run, units: list[Row], step: int, record: dict[str, np.ndarray]) -> None:
    for replicate, unit in enumerate(units):
        figures = {key: float(values[replicate]) for key, values in record.items()}
        run.log(**unit, step=step, **figures)

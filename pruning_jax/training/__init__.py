"""One jitted step and one loop, for any model, recipe and method, over one or many replicates."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import evaluation, methods, recipes
from pruning_jax.lab import meshes, processes, replicates
from pruning_jax.training import pieces, steps
from pruning_jax.training.steps import Pause, Task, TrainFn, TrainState, taken, train_step
from pruning_jax.types import Array, Batch, Masks, Params, PyTree

__all__ = [
    "Pause",
    "Progress",
    "Task",
    "TrainFn",
    "TrainState",
    "fit",
    "memory",
    "start",
    "take_steps",
    "taken",
    "train_step",
]


class Progress(NamedTuple):
    """A run after some steps.

    Attributes:
      state: of it.
      best: the variables after the epoch of the best validation accuracy.
      best_accuracy: that accuracy; -1 before the first epoch's end.
      best_epoch: that epoch; 0 before the first epoch's end.
      losses: the mean loss of each step of the epoch under way, shape (steps of an epoch,); those
        of steps that are not taken yet are of the epoch before.
      accuracies: the same of the accuracy; -1 for a step that this run has never taken.
    """

    state: TrainState
    best: Params
    best_accuracy: Array
    best_epoch: Array
    losses: Array
    accuracies: Array


def start(
    task: Task,
    variables: Params,
    key: Array,
    examples: int,
    kept: Masks | None = None,
    *,
    step: int = 0,
) -> Progress:
    """A run of one replicate about to take its first step, or another of its schedule.

    Args:
      task: what will be trained.
      variables: ``{"params": ..., **model_state}``, as `models.init` returns.
      key: the replicate's.
      examples: of the training split, at least one batch.
      kept: masks like ``variables["params"]`` to begin with, of a method that has masks, or
        ``None``: of the default, to train every weight.
      step: of the recipe at which the run begins, with a fresh optimiser: its learning rate, its
        batches and its randomness are those of that step.

    Raises:
      ValueError: a recipe that cannot be followed on so many examples, or not from that step; a
        method that acts later than it ends; masks that are no booleans of the parameters' shapes.
    """
    recipes.check(task.recipe)
    steps_per_epoch = steps.of_an_epoch(task, examples)
    if not isinstance(step, int) or not 0 <= step <= task.recipe.epochs * steps_per_epoch:
        raise ValueError(
            f"step is {step!r}; it must be 0 to {task.recipe.epochs * steps_per_epoch}, the end of "
            f"{task.recipe.epochs} epochs of {steps_per_epoch} steps"
        )
    methods.check_steps(task.method, task.recipe.epochs * steps_per_epoch, step)
    model_state = {name: tree for name, tree in variables.items() if name != "params"}
    tx = steps.optimizer(task, steps_per_epoch)
    run = methods.start(task.method, tx, variables["params"], key, kept)
    state = TrainState(
        run.trained, model_state, run.opt_state, run.state, jnp.int32(step), key, task.method
    )
    best = jax.tree.map(jnp.array, state.variables)
    losses, accuracies = jnp.zeros(steps_per_epoch), jnp.full(steps_per_epoch, -1.0)
    return Progress(state, best, jnp.float32(-1.0), jnp.int32(0), losses, accuracies)


def fit(
    progress: Progress,
    train: Batch,
    validation: Batch,
    *,
    task: Task,
    pause: Pause | None = None,
    handover: Callable[[], bool] | None = None,
) -> Iterator[tuple[int, Progress, dict[str, np.ndarray] | None]]:
    """Trains to the recipe's last epoch, from the step of `progress` on; yields after every epoch.

    Every leaf of `progress`, `train` and `validation` has a leading replicate axis
    (`replicates.stack`). The same keys and pauses give the same bits and the same records on one
    mesh, resumed or not, wherever that was.

    Args:
      progress: what `start` returned, or what an earlier call yielded; its state is consumed, so
        what a caller keeps of a yielded state must be copied before the next epoch.
      train: training splits; all replicates of one length.
      validation: validation splits, by whose accuracy the best epoch is chosen (the first of
        equals).
      task: what is trained and how.
      pause: what is done in the middle of epochs.
      handover: asked in the middle of epochs, every 50 steps at least (every step where they are
        not scanned), whether to yield there too: a caller can then save the progress and go on, or
        leave.

    Yields:
      (epoch, progress, record): epochs done, and for each replicate the epoch's mean training loss
      and accuracy (over its steps, while they are taken) and its validation loss and accuracy. In
      the middle of an epoch, where `handover` was true, the record is ``None``.

    Raises:
      ValueError: replicates at different steps, or past the end of their schedule.
      FloatingPointError: the loss turned non-finite; names the step.
    """
    count, examples = train.labels.shape[:2]
    scanned, whole = None, steps.of_an_epoch(task, examples)
    begun = taken(progress.state)
    if begun > task.recipe.epochs * whole:
        raise ValueError(
            f"the run is at step {begun}, past the {task.recipe.epochs} epochs of {whole} steps "
            f"that {examples} examples have"
        )
    pause = pause and pause.of(count)
    mesh = meshes.current()
    progress, train, validation = replicates.place((progress, train, validation), mesh)
    placed = train.labels.shape[0]
    programs = steps.programs_of(task, examples, placed, mesh)
    for epoch in range(begun // whole, task.recipe.epochs):
        order = programs.order(progress.state.key, np.full(placed, epoch))
        if scanned is None:
            scanned = steps.scans(programs, progress.state, train, order)
        first = max(begun, epoch * whole)
        parts = pieces.take(
            programs, scanned, progress.state, train, order, taken=first, pause=pause
        )
        for step, *part in parts:
            progress = _after(progress, step, *part)
            if handover is not None and step % whole and handover():
                yield epoch, replicates.trim(progress, count), None
        held = evaluation.evaluate(
            task.apply_fn,
            progress.state.variables,
            validation,
            loss=task.loss,
            replicated=True,
            mesh=mesh,
        )
        progress, record = _measured(programs, progress, held, epoch + 1)
        yield epoch + 1, *replicates.trim((progress, record), count)


def memory(progress: Progress, train: Batch, held_out: PyTree, *, task: Task) -> int | None:
    """The bytes of a device's memory that the training of one replicate takes.

    Args:
      progress: of `start`.
      train: its training split.
      held_out: the examples that it is measured with.
      task: what is trained and how.

    Returns:
      What the compiler says that a step holds, with the best variables before and after it and the
      examples held out; ``None`` where it says nothing.
    """
    computing = steps.memory(task, progress.state, train)
    besides = jax.tree.leaves((progress.best, progress.best, held_out))
    return None if computing is None else computing + sum(leaf.nbytes for leaf in besides)


def _after(
    progress: Progress, step: int, state: TrainState, loss: np.ndarray, accuracy: np.ndarray
) -> Progress:
    """The progress after a piece, whose last step is `step`."""
    losses, accuracies = (np.array(processes.fetch(x)) for x in progress[-2:])
    last = (step - 1) % losses.shape[1] + 1
    place = slice(last - loss.shape[1], last)
    losses[:, place], accuracies[:, place] = loss, accuracy
    return progress._replace(state=state, losses=losses, accuracies=accuracies)


def _measured(
    programs: steps.Programs, progress: Progress, held: evaluation.Metrics, epoch: int
) -> tuple[Progress, dict[str, np.ndarray]]:
    """The progress at the end of an epoch, with its best, and the epoch's record."""
    variables = progress.state.variables
    reached = np.asarray(held.accuracy, np.float32), np.full(len(held.accuracy), epoch)
    before = progress.best, progress.best_accuracy, progress.best_epoch
    best, accuracy, of_epoch = programs.keep_best(before, (variables, *reached))
    progress = progress._replace(best=best, best_accuracy=accuracy, best_epoch=of_epoch)
    # A run that began in the middle of its first epoch took no step before.
    first = int(np.argmax(progress.accuracies[0] >= 0))
    record = {
        "train_loss": progress.losses[:, first:].mean(1),
        "train_accuracy": progress.accuracies[:, first:].mean(1),
        "validation_loss": held.loss,
        "validation_accuracy": held.accuracy,
    }
    return progress, record


def take_steps(
    state: TrainState, train: Batch, count: int, *, task: Task, pause: Pause | None = None
) -> TrainState:
    """Takes a number of steps, those that `fit` would take next, and measures nothing.

    Args:
      state: of `start`, with a leading replicate axis as every leaf of `train`; it is consumed.
      train: training splits.
      count: of steps, whatever the recipe's epochs.
      task, pause: as in `fit`.

    Raises:
      FloatingPointError: the loss turned non-finite; names the step.
    """
    replicated, examples = train.labels.shape[:2]
    whole, step = steps.of_an_epoch(task, examples), taken(state)
    pause, last = pause and pause.of(replicated), step + count
    mesh = meshes.current()
    state, train = replicates.place((state, train), mesh)
    placed = train.labels.shape[0]
    programs = steps.programs_of(task, examples, placed, mesh)
    while step < last:
        epoch = step // whole
        order = programs.order(state.key, np.full(placed, epoch))
        scanned = steps.scans(programs, state, train, order)
        end = min((epoch + 1) * whole, last)
        parts = pieces.take(
            programs, scanned, state, train, order, taken=step, last=end, pause=pause
        )
        *_, (step, state, _, _) = parts
    return replicates.trim(state, replicated)

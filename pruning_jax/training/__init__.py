"""One jitted step and one loop, for any model, recipe and masks, over one or many replicates."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import evaluation, masks, recipes, trees
from pruning_jax.training import steps
from pruning_jax.training.steps import Pause, Task, TrainFn, TrainState, train_step
from pruning_jax.types import Array, Batch, Masks, Params

__all__ = [
    "Pause",
    "Progress",
    "Task",
    "TrainFn",
    "TrainState",
    "fit",
    "start",
    "take_steps",
    "train_step",
]


class Progress(NamedTuple):
    """A run after some epochs: its state, and the best of it by validation accuracy."""

    state: TrainState
    best: Params
    best_accuracy: Array
    best_epoch: Array


def start(
    task: Task, variables: Params, key: Array, examples: int, kept: Masks | None = None
) -> Progress:
    """A run of one replicate about to take its first step.

    Args:
      task: what will be trained.
      variables: ``{"params": ..., **model_state}``, as `models.init` returns.
      key: the replicate's.
      examples: of the training split, at least one batch.
      kept: masks like ``variables["params"]``, or ``None`` to train every weight.

    Raises:
      ValueError: a recipe that cannot be followed on so many examples.
    """
    recipes.check(task.recipe)
    if examples < task.recipe.batch_size:
        raise ValueError(
            f"batch_size is {task.recipe.batch_size}, more than the {examples} training examples"
        )
    model_state = {name: tree for name, tree in variables.items() if name != "params"}
    kept = trees.select(variables["params"], ()) if kept is None else kept
    params = masks.apply(variables["params"], kept)
    opt_state = recipes.optimizer(task.recipe, examples // task.recipe.batch_size).init(params)
    state = TrainState(params, model_state, opt_state, kept, jnp.int32(0), key)
    best = jax.tree.map(jnp.array, state.variables)
    return Progress(state, best, jnp.float32(-1.0), jnp.int32(0))


def fit(
    progress: Progress,
    train: Batch,
    validation: Batch,
    *,
    task: Task,
    from_epoch: int = 0,
    pause: Pause | None = None,
) -> Iterator[tuple[int, Progress, dict[str, np.ndarray]]]:
    """Trains, and yields after every epoch.

    Every leaf of `progress`, `train` and `validation` has a leading replicate axis
    (`replicates.stack`). The same keys and pauses give the same bits, resumed or not.

    Args:
      progress: what `start` returned, or what an earlier call yielded; its state is consumed, so
        what a caller keeps of a yielded state must be copied before the next epoch.
      train: training splits; all replicates of one length.
      validation: validation splits, by whose accuracy the best epoch is chosen (the first of
        equals).
      task: what is trained and how.
      from_epoch: how many epochs are behind `progress`.
      pause: what is done in the middle of epochs.

    Yields:
      (epoch, progress, record): epochs done, and for each replicate the epoch's mean training loss
      and accuracy (over its steps, while they are taken) and its validation loss and accuracy.

    Raises:
      FloatingPointError: the loss turned non-finite; names the step.
    """
    count, examples = train.labels.shape[:2]
    programs = steps.programs_of(task, examples, count)
    scanned = None
    for epoch in range(from_epoch, task.recipe.epochs):
        order = programs.order(progress.state.key, jnp.full(count, epoch))
        if scanned is None:
            scanned = steps.scans(programs, progress.state, train, order)
        state, loss, accuracy = steps.take(
            programs,
            scanned,
            progress.state,
            train,
            order,
            taken=epoch * order.shape[1],
            pause=pause,
        )
        held = evaluation.evaluate(
            task.apply_fn, state.variables, validation, loss=task.loss, replicated=True
        )
        reached = jnp.asarray(held.accuracy, jnp.float32), jnp.full(count, epoch + 1)
        best = programs.keep_best(tuple(progress[1:]), (state.variables, *reached))
        progress = Progress(state, *best)
        record = {
            "train_loss": loss.mean(1),
            "train_accuracy": accuracy.mean(1),
            "validation_loss": held.loss,
            "validation_accuracy": held.accuracy,
        }
        yield epoch + 1, progress, record


def take_steps(
    state: TrainState, train: Batch, count: int, *, task: Task, pause: Pause | None = None
) -> TrainState:
    """Takes a number of steps, the first that `fit` would take, and measures nothing.

    Args:
      state: of `start`, with a leading replicate axis as every leaf of `train`; it is consumed.
      train: training splits.
      count: of steps, whatever the recipe's epochs.
      task, pause: as in `fit`.

    Raises:
      FloatingPointError: the loss turned non-finite; names the step.
    """
    replicated, examples = train.labels.shape[:2]
    programs = steps.programs_of(task, examples, replicated)
    epoch = examples // task.recipe.batch_size
    for first in range(0, count, epoch):
        order = programs.order(state.key, jnp.full(replicated, first // epoch))
        scanned = steps.scans(programs, state, train, order)
        order = order[:, : count - first]
        state, *_ = steps.take(programs, scanned, state, train, order, taken=first, pause=pause)
    return state

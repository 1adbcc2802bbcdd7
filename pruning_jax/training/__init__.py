"""One jitted step and one loop, for any model, recipe and masks, over one or many replicates."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import evaluation, masks, recipes, trees
from pruning_jax.training import steps
from pruning_jax.training.regularisers import ScaleL1
from pruning_jax.training.steps import Pause, Task, TrainFn, TrainState, train_step
from pruning_jax.types import Array, Batch, Masks, Params

__all__ = [
    "Pause",
    "Progress",
    "ScaleL1",
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
      kept: masks like ``variables["params"]``, or ``None`` to train every weight.
      step: of the recipe at which the run begins, with a fresh optimiser: its learning rate, its
        batches and its randomness are those of that step.

    Raises:
      ValueError: a recipe that cannot be followed on so many examples, or not from that step;
        masks that are no booleans of the parameters' shapes.
    """
    recipes.check(task.recipe)
    steps_per_epoch = steps.of_an_epoch(task, examples)
    if not isinstance(step, int) or not 0 <= step <= task.recipe.epochs * steps_per_epoch:
        raise ValueError(
            f"step is {step!r}; it must be 0 to {task.recipe.epochs * steps_per_epoch}, the end of "
            f"{task.recipe.epochs} epochs of {steps_per_epoch} steps"
        )
    model_state = {name: tree for name, tree in variables.items() if name != "params"}
    kept = trees.select(variables["params"], ()) if kept is None else kept
    trees.check_selection("kept", kept, variables["params"])
    for name, mask in trees.named_leaves(kept).items():
        if mask.dtype != bool:
            raise ValueError(f"the mask of {name!r} is {mask.dtype}; masks are booleans")
    params = masks.apply(variables["params"], kept)
    opt_state = recipes.optimizer(task.recipe, steps_per_epoch).init(params)
    state = TrainState(params, model_state, opt_state, kept, jnp.int32(step), key)
    best = jax.tree.map(jnp.array, state.variables)
    return Progress(state, best, jnp.float32(-1.0), jnp.int32(0))


def fit(
    progress: Progress,
    train: Batch,
    validation: Batch,
    *,
    task: Task,
    pause: Pause | None = None,
) -> Iterator[tuple[int, Progress, dict[str, np.ndarray]]]:
    """Trains to the recipe's last epoch, from the step of `progress` on; yields after every epoch.

    Every leaf of `progress`, `train` and `validation` has a leading replicate axis
    (`replicates.stack`). The same keys and pauses give the same bits, resumed or not.

    Args:
      progress: what `start` returned, or what an earlier call yielded; its state is consumed, so
        what a caller keeps of a yielded state must be copied before the next epoch.
      train: training splits; all replicates of one length.
      validation: validation splits, by whose accuracy the best epoch is chosen (the first of
        equals).
      task: what is trained and how.
      pause: what is done in the middle of epochs.

    Yields:
      (epoch, progress, record): epochs done, and for each replicate the epoch's mean training loss
      and accuracy (over its steps, while they are taken) and its validation loss and accuracy.

    Raises:
      ValueError: replicates at different steps, or past the end of their schedule.
      FloatingPointError: the loss turned non-finite; names the step.
    """
    count, examples = train.labels.shape[:2]
    programs = steps.programs_of(task, examples, count)
    scanned, whole = None, steps.of_an_epoch(task, examples)
    taken = steps.taken(progress.state)
    if taken > task.recipe.epochs * whole:
        raise ValueError(
            f"the run is at step {taken}, past the {task.recipe.epochs} epochs of {whole} steps "
            f"that {examples} examples have"
        )
    for epoch in range(taken // whole, task.recipe.epochs):
        order = programs.order(progress.state.key, jnp.full(count, epoch))[:, taken % whole :]
        if scanned is None:
            scanned = steps.scans(programs, progress.state, train, order)
        state, loss, accuracy = steps.take(
            programs,
            scanned,
            progress.state,
            train,
            order,
            taken=taken,
            epoch=whole,
            pause=pause,
        )
        taken = (epoch + 1) * whole
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
    programs = steps.programs_of(task, examples, replicated)
    epoch, taken = steps.of_an_epoch(task, examples), steps.taken(state)
    last = taken + count
    while taken < last:
        order = programs.order(state.key, jnp.full(replicated, taken // epoch))
        scanned = steps.scans(programs, state, train, order)
        order = order[:, taken % epoch :][:, : last - taken]
        state, *_ = steps.take(
            programs, scanned, state, train, order, taken=taken, epoch=epoch, pause=pause
        )
        taken += order.shape[1]
    return state

"""One jitted step and one loop, for any model, recipe and masks, over one or many replicates."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pruning_jax import data, evaluation, losses, masks, recipes, replicates, trees
from pruning_jax.types import ApplyFn, Array, Batch, Masks, Params, PyTree


class TrainFn(Protocol):
    """A model as a pure function, in training mode."""

    def __call__(self, variables: Params, inputs: Array, key: Array, /) -> tuple[Array, PyTree]:
        """Returns the logits and the new model state, ``{}`` where the model keeps none."""


class Task(NamedTuple):
    """What is trained and how: static through a run.

    Attributes:
      train_fn: the model in training mode.
      apply_fn: the model in evaluation mode.
      recipe: the values of the run.
      loss: of an example.
    """

    train_fn: TrainFn
    apply_fn: ApplyFn
    recipe: recipes.Recipe
    loss: losses.Loss = losses.cross_entropy


class TrainState(NamedTuple):
    """Everything that the next step depends on.

    Attributes:
      params: the trained leaves.
      model_state: the other collections of the model, such as batch statistics.
      opt_state: the optimiser's.
      masks: like `params`; True = kept, ``None`` where nothing is masked.
      step: how many steps were taken.
      key: the replicate's key; a step's randomness is a function of it and the step.
    """

    params: Params
    model_state: dict[str, PyTree]
    opt_state: PyTree
    masks: Masks
    step: Array
    key: Array

    @property
    def variables(self) -> Params:
        """What the model is applied to."""
        return {"params": self.params, **self.model_state}


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


def train_step(
    task: Task, tx: optax.GradientTransformation, state: TrainState, batch: Batch
) -> tuple[TrainState, tuple[Array, Array]]:
    """One step: mask the gradient, update, mask the parameters.

    Returns:
      The next state, and the batch's mean loss and accuracy before the update.
    """
    model_key, augment_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    inputs = data.augment(augment_key, batch.inputs) if task.recipe.augment else batch.inputs

    def objective(params):
        variables = {"params": params, **state.model_state}
        logits, model_state = task.train_fn(variables, inputs, model_key)
        return task.loss.value(logits, batch.labels).mean(), (model_state, logits)

    gradient_fn = jax.value_and_grad(objective, has_aux=True)
    (loss, (model_state, logits)), gradient = gradient_fn(state.params)
    gradient = masks.apply(gradient, state.masks)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params = masks.apply(optax.apply_updates(state.params, updates), state.masks)
    accuracy = jnp.mean(evaluation.correct(logits, batch.labels))
    return (
        TrainState(params, model_state, opt_state, state.masks, state.step + 1, state.key),
        (loss, accuracy),
    )


class _Programs(NamedTuple):
    step: Callable
    epoch: Callable
    order: Callable
    keep_best: Callable
    single_step: Callable


@functools.lru_cache(maxsize=64)
def _programs(task: Task, examples: int, count: int) -> _Programs:
    """The compiled parts of the loop, shared by every run of one task."""
    tx = recipes.optimizer(task.recipe, examples // task.recipe.batch_size)

    def step(state, train, index):
        return train_step(task, tx, state, Batch(train.inputs[index], train.labels[index]))

    def epoch(state, train, order):
        return jax.lax.scan(lambda carry, index: step(carry, train, index), state, order)

    def order(key, epoch):
        return data.batch_order(jax.random.fold_in(key, epoch), examples, task.recipe.batch_size)

    def keep_best(progress, state, accuracy, epoch):
        better = accuracy > progress.best_accuracy
        best, best_accuracy, best_epoch = jax.tree.map(
            lambda new, old: jnp.where(better, new, old),
            (state.variables, accuracy, epoch),
            (progress.best, progress.best_accuracy, progress.best_epoch),
        )
        return Progress(state, best, best_accuracy, best_epoch)

    lift = functools.partial(replicates.lift, count=count)
    return _Programs(
        jax.jit(lift(step), donate_argnums=0),
        jax.jit(lift(epoch), donate_argnums=0),
        jax.jit(lift(order)),
        jax.jit(lift(keep_best)),
        step,
    )


def _scans(programs: _Programs, state: TrainState, train: Batch, order: Array) -> bool:
    """Whether an epoch is one scan: always, but for convolutions on CPU.

    XLA for CPU runs a convolution inside a scan many times slower than outside.
    """
    if jax.default_backend() != "cpu":
        return True
    first = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (state, train, order[:, 0])
    )
    return "conv_general_dilated" not in str(jax.make_jaxpr(programs.single_step)(*first))


def _dispatch(programs: _Programs, state: TrainState, train: Batch, order: Array):
    """An epoch, a step at a time from Python; what `_Programs.epoch` returns."""
    records = []
    for index in np.asarray(order).swapaxes(0, 1):
        state, record = programs.step(state, train, index)
        records.append(record)
    return state, jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *records)


def fit(
    progress: Progress, train: Batch, validation: Batch, *, task: Task, from_epoch: int = 0
) -> Iterator[tuple[int, Progress, dict[str, np.ndarray]]]:
    """Trains, and yields after every epoch.

    Every leaf of `progress`, `train` and `validation` has a leading replicate axis
    (`replicates.stack`). The same keys give the same bits, resumed or not.

    Args:
      progress: what `start` returned, or what an earlier call yielded; its state is consumed, so
        what a caller keeps of a yielded state must be copied before the next epoch.
      train: training splits; all replicates of one length.
      validation: validation splits, by whose accuracy the best epoch is chosen (the first of
        equals).
      task: what is trained and how.
      from_epoch: how many epochs are behind `progress`.

    Yields:
      (epoch, progress, record): epochs done, and for each replicate the epoch's mean training loss
      and accuracy (over its steps, while they are taken) and its validation loss and accuracy.

    Raises:
      FloatingPointError: the loss turned non-finite; names the step.
    """
    count, examples = train.labels.shape[:2]
    programs = _programs(task, examples, count)
    scans = None
    for epoch in range(from_epoch, task.recipe.epochs):
        order = programs.order(progress.state.key, jnp.full(count, epoch))
        if scans is None:
            scans = _scans(programs, progress.state, train, order)
        run = programs.epoch if scans else functools.partial(_dispatch, programs)
        state, (loss, accuracy) = run(progress.state, train, order)
        _check_finite(np.asarray(loss), epoch)
        held = evaluation.evaluate(
            task.apply_fn, state.variables, validation, loss=task.loss, replicated=True
        )
        progress = programs.keep_best(
            progress._replace(state=state),
            state,
            jnp.asarray(held.accuracy, jnp.float32),
            jnp.full(count, epoch + 1),
        )
        record = {
            "train_loss": np.asarray(loss).mean(1),
            "train_accuracy": np.asarray(accuracy).mean(1),
            "validation_loss": held.loss,
            "validation_accuracy": held.accuracy,
        }
        yield epoch + 1, progress, record


def _check_finite(loss: np.ndarray, epoch: int) -> None:
    bad = np.argwhere(~np.isfinite(loss))
    if len(bad):
        replicate, step = bad[bad[:, 1].argmin()]
        raise FloatingPointError(
            f"the training loss is {loss[replicate, step]} at step {epoch * loss.shape[1] + step} "
            f"(epoch {epoch + 1}, replicate {replicate} of this group); lower the learning rate. "
            "The last checkpoint is kept."
        )

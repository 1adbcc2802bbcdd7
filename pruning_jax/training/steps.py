"""One jitted step, and the steps of an epoch: in one scan or dispatched, with pauses or without."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pruning_jax import data, evaluation, losses, masks, recipes, replicates
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
      regulariser: params -> what is added to a batch's mean loss, such as `ScaleL1`; or ``None``.
    """

    train_fn: TrainFn
    apply_fn: ApplyFn
    recipe: recipes.Recipe
    loss: losses.Loss = losses.cross_entropy
    regulariser: Callable[[Params], Array] | None = None


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


class Pause(NamedTuple):
    """What is done in the middle of epochs.

    Attributes:
      every: steps between pauses, counted from the first step of the schedule.
      call: what is called with the number of steps taken and the state, whose leaves have a leading
        replicate axis. The next step consumes the state: what is kept of it must be copied.
    """

    every: int
    call: Callable[[int, TrainState], None]


def train_step(
    task: Task, tx: optax.GradientTransformationExtraArgs, state: TrainState, batch: Batch
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
        loss = task.loss.value(logits, batch.labels).mean()
        added = 0.0 if task.regulariser is None else task.regulariser(params)
        return loss + added, (loss, model_state, logits)

    gradient, (loss, model_state, logits) = jax.grad(objective, has_aux=True)(state.params)
    gradient = masks.apply(gradient, state.masks)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params, step=state.step)
    params = masks.apply(optax.apply_updates(state.params, updates), state.masks)
    accuracy = jnp.mean(evaluation.correct(logits, batch.labels))
    return (
        TrainState(params, model_state, opt_state, state.masks, state.step + 1, state.key),
        (loss, accuracy),
    )


class Programs(NamedTuple):
    step: Callable
    epoch: Callable
    order: Callable
    keep_best: Callable
    single_step: Callable


@functools.lru_cache(maxsize=64)
def programs_of(task: Task, examples: int, count: int) -> Programs:
    """The compiled parts of the loop, shared by every run of one task."""
    tx = recipes.optimizer(task.recipe, examples // task.recipe.batch_size)

    def step(state, train, index):
        return train_step(task, tx, state, Batch(train.inputs[index], train.labels[index]))

    def epoch(state, train, order):
        return jax.lax.scan(lambda carry, index: step(carry, train, index), state, order)

    def order(key, epoch):
        return data.batch_order(jax.random.fold_in(key, epoch), examples, task.recipe.batch_size)

    def keep_best(best, candidate):
        better = candidate[1] > best[1]
        return jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, best)

    lift = functools.partial(replicates.lift, count=count)
    return Programs(
        jax.jit(lift(step), donate_argnums=0),
        jax.jit(lift(epoch), donate_argnums=0),
        jax.jit(lift(order)),
        jax.jit(lift(keep_best)),
        step,
    )


def scans(programs: Programs, state: TrainState, train: Batch, order: Array) -> bool:
    """Whether an epoch is one scan: always, but for convolutions on CPU.

    XLA for CPU runs a convolution inside a scan many times slower than outside.
    """
    if jax.default_backend() != "cpu":
        return True
    first = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (state, train, order[:, 0])
    )
    return "conv_general_dilated" not in str(jax.make_jaxpr(programs.single_step)(*first))


def dispatch(programs: Programs, state: TrainState, train: Batch, order: Array):
    """Steps, one at a time from Python; what `Programs.epoch` returns."""
    records = []
    for index in np.asarray(order).swapaxes(0, 1):
        state, record = programs.step(state, train, index)
        records.append(record)
    return state, jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *records)


def taken(state: TrainState) -> int:
    """How many steps of the schedule are behind a state, whose leaves have a replicate axis.

    Raises:
      ValueError: replicates that are not at the same step.
    """
    found = np.unique(np.asarray(state.step)).tolist()
    if len(found) != 1:
        raise ValueError(f"the replicates are at steps {found}; those of one run take equal steps")
    return found[0]


def of_an_epoch(task: Task, examples: int) -> int:
    """How many steps an epoch has; raises `ValueError` where that is none."""
    if examples < task.recipe.batch_size:
        raise ValueError(
            f"batch_size is {task.recipe.batch_size}, more than the {examples} training examples"
        )
    return examples // task.recipe.batch_size


def take(
    programs: Programs,
    scanned: bool,
    state: TrainState,
    train: Batch,
    order: Array,
    *,
    taken: int,
    epoch: int,
    pause: Pause | None = None,
) -> tuple[TrainState, np.ndarray, np.ndarray]:
    """Takes steps of one epoch, all or some of them.

    Args:
      programs, scanned: of the run.
      state: its leaves have a leading replicate axis; it is consumed.
      train: the same.
      order: indices, shape (replicates, steps, batch).
      taken: how many steps are behind `state`.
      epoch: how many steps a whole one has.
      pause: what is done between steps.

    Returns:
      The state, and the loss and the accuracy of every step, shape (replicates, steps).

    Raises:
      FloatingPointError: a loss is not finite; names the step.
    """
    whole = order.shape[1]
    lengths = {whole, pause.every} if pause else {whole}
    records = []
    for first, last in _pieces(taken, whole, pause):
        # A piece of a length of its own would be compiled on its own.
        once = scanned and last - first in lengths
        run = programs.epoch if once else functools.partial(dispatch, programs)
        state, (loss, accuracy) = run(state, train, order[:, first:last])
        records.append((np.asarray(loss), np.asarray(accuracy)))
        _check_finite(records[-1][0], taken + first, epoch)
        if pause and (taken + last) % pause.every == 0:
            pause.call(taken + last, state)
    loss, accuracy = (np.concatenate(parts, axis=1) for parts in zip(*records, strict=True))
    return state, loss, accuracy


def _pieces(taken: int, whole: int, pause: Pause | None) -> Iterator[tuple[int, int]]:
    """The first and last step of each piece between pauses, counted in the epoch."""
    every = pause.every if pause else taken + whole
    stops = [*range(every - taken % every, whole, every), whole]
    return zip([0, *stops], stops, strict=False)


def _check_finite(loss: np.ndarray, taken: int, epoch: int) -> None:
    bad = np.argwhere(~np.isfinite(loss))
    if len(bad):
        replicate, step = bad[bad[:, 1].argmin()]
        raise FloatingPointError(
            f"the training loss is {loss[replicate, step]} at step {taken + step} "
            f"(epoch {(taken + step) // epoch + 1}, replicate {replicate} of this group); lower "
            "the learning rate. The last checkpoint is kept."
        )

"""One jitted step, many in a scan, and whether a model's steps are scanned."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from pruning_jax import data, evaluation, losses, methods, recipes
from pruning_jax.lab import meshes, processes, replicates
from pruning_jax.methods import Method, protocol
from pruning_jax.types import ApplyFn, Array, Batch, Masks, Params, PyTree

STATIC = methods.build("static")
"""Masks that stay as they are, those that a run is started with."""


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
      method: of `methods.build`, whose equal methods are one; by default masks that stay.
    """

    train_fn: TrainFn
    apply_fn: ApplyFn
    recipe: recipes.Recipe
    loss: losses.Loss = losses.cross_entropy
    method: Method = STATIC


class TrainState(NamedTuple):
    """Everything that the next step depends on.

    Attributes:
      params: what the optimiser moves: the model's parameters, or what a method makes them of.
      model_state: the other collections of the model, such as batch statistics.
      opt_state: the optimiser's.
      sparse: what the method keeps, such as masks.
      step: how many steps were taken.
      key: the replicate's key; a step's randomness is a function of it and the step.
      method: the task's; it has no leaves.
    """

    params: PyTree
    model_state: dict[str, PyTree]
    opt_state: PyTree
    sparse: PyTree
    step: Array
    key: Array
    method: Method = STATIC

    @property
    def variables(self) -> Params:
        """What the model is applied to in evaluation, of one replicate or of all."""
        seen = protocol.evaluated(self.method, self.step.ndim > 0)
        return {"params": seen(self.params, self.sparse, self.step), **self.model_state}

    @property
    def masks(self) -> Masks:
        """What a method that keeps masks and nothing else keeps."""
        return self.sparse


class Pause(NamedTuple):
    """What is done in the middle of epochs.

    Attributes:
      every: steps between pauses, counted from the first step of the schedule.
      call: what is called with the number of steps taken and the state, whose leaves have a leading
        replicate axis. The next step consumes the state: what is kept of it must be copied.
    """

    every: int
    call: Callable[[int, TrainState], None]

    def of(self, count: int) -> "Pause":
        """The same of the first `count` replicates, where others fill the devices of a mesh."""
        return self._replace(
            call=lambda step, state: self.call(step, replicates.trim(state, count))
        )


def optimizer(task: Task, steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """The recipe's optimiser, as the task's method uses it."""
    return task.method.optimizer(recipes.optimizer(task.recipe, steps_per_epoch))


def train_step(
    task: Task,
    tx: optax.GradientTransformationExtraArgs,
    state: TrainState,
    batch: Batch,
    step: Array | None = None,
) -> tuple[TrainState, tuple[Array, Array]]:
    """One step of the task's method.

    Args:
      task: what is trained and how.
      tx: of `optimizer`.
      state: before the step.
      batch: its examples.
      step: how many steps were taken, where that is not for the state to say: a number that
        replicates share, so that they branch on it together.

    Returns:
      The next state, and the batch's mean loss and accuracy before the update.
    """
    step = state.step if step is None else step
    model_key, augment_key = jax.random.split(jax.random.fold_in(state.key, step))
    inputs = data.augment(augment_key, batch.inputs) if task.recipe.augment else batch.inputs
    train_fn, loss_of = task.method.model(task.train_fn), recipes.loss(task.recipe, task.loss)

    def variables(params):
        return {"params": params, **state.model_state}

    def objective(params):
        logits, model_state = train_fn(variables(params), inputs, model_key)
        loss = loss_of.value(logits, batch.labels).mean()
        return loss, (loss, model_state, logits)

    run = methods.Run(state.params, state.sparse, state.opt_state, step, state.key)
    batch = batch._replace(inputs=inputs)
    run, (loss, model_state, logits) = methods.take_step(
        task.method, tx, run, objective, batch=batch, variables=variables
    )
    state = state._replace(
        params=run.trained, model_state=model_state, opt_state=run.opt_state, sparse=run.state
    )
    accuracy = jnp.mean(evaluation.correct(logits, batch.labels))
    return state._replace(step=state.step + 1), (loss, accuracy)


class Programs(NamedTuple):
    """The parts of the loop; the last argument of a step and of a scan is the first step's number.

    Replicates share that number: a method's branches on it stay branches when they are mapped.
    """

    step: Callable
    scan: Callable
    order: Callable
    keep_best: Callable
    single_step: Callable


@functools.lru_cache(maxsize=64)
def programs_of(task: Task, examples: int, count: int, mesh: Mesh) -> Programs:
    """The compiled parts of the loop on a mesh, shared by every run of one task."""
    tx = optimizer(task, examples // task.recipe.batch_size)

    def step(state, train, index, number, mesh=mesh):
        batch = Batch(train.inputs[index], train.labels[index])
        return train_step(task, tx, state, meshes.share(batch, mesh), number)

    def scan(state, train, order, first):
        # Flat, for XLA copies a whole split of images of one channel into a layout of its own.
        flat = train.inputs.reshape(examples, -1)

        def scanned(state, at):
            index, number = at
            inputs = flat[index].reshape(index.shape + train.inputs.shape[1:])
            batch = Batch(inputs, train.labels[index])
            return train_step(task, tx, state, meshes.share(batch, mesh), number)

        return jax.lax.scan(scanned, state, (order, first + jnp.arange(len(order))))

    def order(key, epoch):
        return data.batch_order(jax.random.fold_in(key, epoch), examples, task.recipe.batch_size)

    def keep_best(best, candidate):
        better = candidate[1] > best[1]
        return jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, best)

    lift = functools.partial(replicates.lift, count=count, mesh=mesh)
    return Programs(
        jax.jit(lift(step, shared=1), donate_argnums=0),
        jax.jit(lift(scan, shared=1), donate_argnums=0),
        jax.jit(lift(order)),
        jax.jit(lift(keep_best)),
        functools.partial(step, mesh=None),
    )


def scans(programs: Programs, state: TrainState, train: Batch, order: Array) -> bool:
    """Whether steps are scanned: always, but for convolutions on CPU.

    XLA for CPU runs a convolution inside a scan many times slower than outside.
    """
    if jax.default_backend() != "cpu":
        return True
    leaves, structure = jax.tree.flatten((state, train, order[:, 0]))
    arrays = tuple((leaf.shape[1:], leaf.dtype) for leaf in leaves)
    return not _convolves(programs.single_step, structure, arrays)


@functools.lru_cache(maxsize=64)
def _convolves(step: Callable, structure: Any, arrays: tuple) -> bool:
    """Whether a step of one replicate has convolutions."""
    described = [jax.ShapeDtypeStruct(*array) for array in arrays]
    first = jax.tree.unflatten(structure, described)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    return "conv_general_dilated" in str(jax.make_jaxpr(step)(*first, number))


def memory(task: Task, state: TrainState, train: Batch) -> int | None:
    """The bytes of a device's memory that one replicate's steps take, if the compiler says so."""
    leaves, structure = jax.tree.flatten((state, train))
    return _memory(task, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))


@functools.lru_cache(maxsize=64)
def _memory(task: Task, structure: Any, arrays: tuple) -> int | None:
    described = [jax.ShapeDtypeStruct(*array) for array in arrays]
    state, train = jax.tree.unflatten(structure, described)
    tx = optimizer(task, of_an_epoch(task, train.labels.shape[0]))

    def step(state, train, index):
        return train_step(task, tx, state, Batch(train.inputs[index], train.labels[index]))

    index = jax.ShapeDtypeStruct((task.recipe.batch_size,), jnp.int32)
    needs = jax.jit(step).lower(state, train, index).compile().memory_analysis()
    if needs is None:
        return None
    held = needs.argument_size_in_bytes + needs.output_size_in_bytes
    return held + needs.temp_size_in_bytes


def taken(state: TrainState) -> int:
    """How many steps of the schedule are behind a state, whose leaves have a replicate axis.

    Raises:
      ValueError: replicates that are not at the same step.
    """
    found = np.unique(processes.fetch(state.step)).tolist()
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

"""The shape of a method that trains sparsely, and the one step that takes any of them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import masks as masks_
from pruning_jax import trees
from pruning_jax.methods import slots
from pruning_jax.types import Array, Masks, Params, PyTree

OPEN = 2**31 - 1
"""Where a timetable without an end stops: the last step that an integer of a device can count."""


class Taken(NamedTuple):
    """What a method is told after a step of the optimiser.

    Attributes:
      step: how many steps are behind, this one among them.
      gradient: of the mean loss at what the model was applied to, dense.
      variables: what the model was applied to, with its state.
      batch: the examples of the step.
      key: of the step, for what a method draws at random.
    """

    step: Array
    gradient: PyTree
    variables: Params
    batch: Any
    key: Array


def _as_it_is(params: Params, key: Array, masks: Masks | None = None) -> tuple[Params, PyTree]:
    del key
    refuse_masks(masks, "this method")
    return params, ()


def _itself(trained: PyTree, state: PyTree, step: Array, key: Array | None) -> Params:
    del state, step, key
    return trained


def _nothing(trained: PyTree, state: PyTree, taken: Taken) -> tuple[PyTree, PyTree, None]:
    del taken
    return trained, state, None


def _unchanged(argument: Any) -> Any:
    return argument


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Method:
    """Sparsity while training: what is trained in place of the parameters, and how it changes.

    A pytree without leaves, equal where its functions are the same ones, so that it can be the key
    of a compiled program; `build` returns equal methods for equal arguments.

    Attributes:
      init: (params, key, masks or ``None``) -> (trained, state): what the optimiser moves, and
        what the method keeps beside it, such as masks. Masks to begin with are for those methods
        that have some.
      view: (trained, state, step, key or ``None``) -> the parameters that the model is applied to;
        without a key those of evaluation, plain arrays whose removed weights are +0.0.
      penalty: (trained, state, step) -> what is added to the loss; ``None`` for nothing.
      update: (trained, state, `Taken`) -> (trained, state, restart): what the method changes after
        a step of the optimiser. Where `restart` is True, a tree like `trained`, the optimiser
        begins anew; ``None`` for nowhere.
      optimizer: optax transformation -> the one that is used in its place.
      model: train_fn -> the one that is used in its place, where what `view` returns in training
        are no plain arrays.
      acts: the steps after which `update` does something, and the last that the method names.
    """

    init: Callable = _as_it_is
    view: Callable = _itself
    penalty: Callable | None = None
    update: Callable = _nothing
    optimizer: Callable = _unchanged
    model: Callable = _unchanged
    acts: range = range(0)


class Run(NamedTuple):
    """A training under a method: what its next step depends on, but for the batch.

    Attributes:
      trained: what the optimiser moves.
      state: what the method keeps beside it.
      opt_state: the optimiser's.
      step: how many steps are behind.
      key: a random key; a step's randomness is a function of it and the step.
    """

    trained: PyTree
    state: PyTree
    opt_state: PyTree
    step: Array
    key: Array


def start(method: Method, tx: Any, params: Params, key: Array, masks: Masks | None = None) -> Run:
    """A training under a method about to take its first step.

    Args:
      method: of `build`, or one of your own.
      tx: ``method.optimizer`` of an optax transformation.
      params: of the model.
      key: a random key.
      masks: to begin with, for a method that has masks: booleans like `params`, True = kept,
        ``None`` where a leaf is not prunable.

    Returns:
      The run, for `take_step`.

    Raises:
      ValueError: masks that do not fit, or for a method that has none.

    >>> import optax
    >>> method, params = pj.methods.static(0.5), {"kernel": jnp.array([[1.0, 2.0]])}
    >>> run = pj.methods.start(method, optax.sgd(0.1), params, jax.random.key(0))
    >>> int((run.trained["kernel"] == 0).sum())
    1
    """
    check_masks(masks, params)
    trained, state = method.init(params, jax.random.fold_in(key, np.uint32(2**32 - 1)), masks)
    return Run(trained, state, tx.init(trained), jnp.int32(0), key)


def take_step(
    method: Method,
    tx: Any,
    run: Run,
    loss: Callable[[Params], tuple[Array, PyTree]],
    *,
    batch: Any = None,
    variables: Callable[[Params], PyTree] = _unchanged,
) -> tuple[Run, PyTree]:
    """One step of any method.

        p = view(trained);  g = d loss / d p;  trained moves by (dp / dtrained)^T g + d penalty

    Args:
      method, tx: as in `start`.
      run: of `start`, or of the step before.
      loss: what the model is applied to -> the mean loss of the batch, and what else is wanted.
      batch: the examples, for methods that take statistics on them.
      variables: parameters -> what the model's trace or unit graph was taken of, where those are
        not the parameters alone.

    Returns:
      The run after the step, and what else was wanted.

    >>> import optax
    >>> method, params = pj.methods.static(0.5), {"kernel": jnp.array([[1.0, 2.0]])}
    >>> run = pj.methods.start(method, optax.sgd(0.1), params, jax.random.key(0))
    >>> run, _ = pj.methods.take_step(
    ...     method, optax.sgd(0.1), run, lambda p: ((p["kernel"] ** 2).sum(), None)
    ... )
    >>> int((run.trained["kernel"] == 0).sum()), int(run.step)
    (1, 1)
    """
    import optax  # here, for importing it takes a fifth of what jax takes

    key = jax.random.fold_in(jax.random.fold_in(run.key, run.step), 2**31)

    def view(trained: PyTree) -> Params:
        return method.view(trained, run.state, run.step, key)

    seen, pull = jax.vjp(view, run.trained)
    dense, wanted = jax.grad(loss, has_aux=True)(seen)
    (gradient,) = pull(dense)
    if method.penalty is not None:
        added = jax.grad(lambda trained: method.penalty(trained, run.state, run.step))(run.trained)
        gradient = jax.tree.map(jnp.add, gradient, added)
    update = optax.with_extra_args_support(tx).update
    moves, opt_state = update(gradient, run.opt_state, run.trained, step=run.step)
    trained = optax.apply_updates(run.trained, moves)
    taken = Taken(run.step + 1, dense, variables(seen), batch, jax.random.fold_in(key, 1))
    trained, state, restart = method.update(trained, run.state, taken)
    if restart is not None:
        opt_state = slots.reset(tx, opt_state, restart)
    return Run(trained, state, opt_state, run.step + 1, run.key), wanted


class Finished(NamedTuple):
    """A network that was trained sparsely.

    Attributes:
      params: the parameters of evaluation, removed weights +0.0.
      masks: booleans, True where a weight is not zero; ``None`` where a leaf has one axis or none.
      empty: the names of layers that have lost all their weights.
    """

    params: Params
    masks: Masks
    empty: list[str]


def finish(method: Method, run: Run) -> Finished:
    """The network that a run has come to, and what is left of it.

    Args:
      method: of the run.
      run: of `take_step`.

    Returns:
      Its parameters, its masks, and the layers that a threshold has emptied.

    >>> import optax
    >>> method, params = pj.methods.static(0.5), {"kernel": jnp.array([[1.0, 2.0]])}
    >>> run = pj.methods.start(method, optax.sgd(0.1), params, jax.random.key(0))
    >>> pj.masks.sparsity(pj.methods.finish(method, run).masks)
    0.5
    """
    params = evaluated(method)(run.trained, run.state, run.step)
    found = jax.tree.map(lambda leaf: leaf != 0 if leaf.ndim > 1 else None, params)
    return Finished(params, found, masks_.empty_layers(found))


@functools.lru_cache(maxsize=64)
def evaluated(method: Method, replicated: bool = False) -> Callable:
    """(trained, state, step) -> the parameters of evaluation, compiled; of replicates too."""

    def view(trained: PyTree, state: PyTree, step: Array) -> Params:
        return method.view(trained, state, step, None)

    return jax.jit(jax.vmap(view) if replicated else view)


def timetable(first: int, last: int | None, every: int) -> range:
    """The steps after which a method acts: every so many from the first to the last.

    Raises:
      ValueError: numbers that are no steps, or between which it would never act.
    """
    end = OPEN if last is None else last + 1
    for name, value in (("first", first), ("every", every), ("last", end)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a number of steps, 1 or more")
    acts = range(first, end, every)
    if not acts:
        raise ValueError(
            f"a method that acts every {every} steps from step {first} to step {last} would never "
            f"act; give a last step of {first} or more"
        )
    return acts


def acting(acts: range, step: Array) -> Array:
    """Whether a step, traced or not, is one of a timetable."""
    return (step >= acts.start) & (step < acts.stop) & ((step - acts.start) % acts.step == 0)


def number(acts: range, step: Array) -> Array:
    """The number of the act at a step, from 0."""
    return jnp.clip((step - acts.start) // acts.step, 0, len(acts) - 1)


def check_steps(method: Method, steps: int, begun: int = 0) -> None:
    """Checks that a training is long enough for what a method does in it.

    Args:
      method: of `build`, or one of your own.
      steps: of the training.
      begun: steps that are behind it when it starts.

    Raises:
      ValueError: the method names a later step, or acts at none of those that are left.

    >>> pj.methods.check_steps(pj.methods.set_(0.9, every=10, last=100), 100)
    """
    acts = method.acts
    if not acts:
        return
    last = acts[0] if acts.stop == OPEN else acts[-1]
    if last > steps:
        raise ValueError(
            f"the method acts until step {last}, and the training has {steps} steps: train longer, "
            f"or give it a last step of {steps} at most"
        )
    if begun >= (steps if acts.stop == OPEN else last):
        raise ValueError(
            f"the training begins at step {begun}, and the method acts for the last time at "
            f"{last}: it would never act"
        )


def check_masks(masks: Masks | None, params: Params) -> None:
    """Raises `ValueError` for masks that are no booleans at leaves of the parameters."""
    trees.check_selection("kept", masks, params)
    for name, mask in trees.named_leaves(masks).items():
        if mask.dtype != bool:
            raise ValueError(f"the mask of {name!r} is {mask.dtype}; masks are booleans")


def refuse_masks(masks: Masks | None, what: str) -> None:
    """Raises `ValueError` for masks to begin with, of a method that has none."""
    if jax.tree.leaves(masks):
        raise ValueError(f"{what} has no masks to begin with: leave them out")

"""The values of a training run, and the optimiser that they describe."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pruning_jax import choices
from pruning_jax.losses import Loss
from pruning_jax.types import Array, Extended, Params, PyTree


class Recipe(NamedTuple):
    """The values of one training run.

    Attributes:
      epochs: passes over the training split.
      batch_size: examples a step; the remainder of each epoch's permutation is left out.
      learning_rate: the initial one, or that after the warm-up.
      boundaries: epochs at whose start the learning rate is multiplied by `factor`.
      factor: what the learning rate is multiplied by at each boundary.
      optimizer: a name in `OPTIMIZERS`, of an optimiser of optax, or the import path
        ``"my_package.my_module:function"`` of one that takes the learning rate, as optax's do.
      momentum: of ``sgd``; the first-moment decay of ``adam``.
      weight_decay: added to the gradient (L2 regularisation); of an optimiser that takes a
        `weight_decay` of its own, as ``adamw``, that one.
      augment: crop and flip every batch.
      warmup: epochs in which the learning rate grows by the same amount at every step.
      annealing: ``steps``, at the boundaries, or ``cosine``, to 0 at the end.
      decays: which leaves `weight_decay` is of: ``all``, or ``kernels``, those of two axes and
        more, and so no norms and no biases.
      label_smoothing: the share of a label that is spread over all outputs, in training.
      options: (name, value) of what else an optimiser takes that is not in `OPTIMIZERS`.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    boundaries: tuple[int, ...] = ()
    factor: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    augment: bool = False
    warmup: int = 0
    annealing: str = "steps"
    decays: str = "all"
    label_smoothing: float = 0.0
    options: tuple[tuple[str, Any], ...] = ()


OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "sgd": lambda momentum: optax.trace(momentum) if momentum else optax.identity(),
    "adam": lambda momentum: optax.scale_by_adam(b1=momentum),
}
"""(momentum) -> the direction of the step, before the learning rate."""

ANNEALINGS, DECAYS = ("steps", "cosine"), ("all", "kernels")


def check(recipe: Recipe) -> None:
    """Raises `ValueError` for a recipe that cannot be followed, naming the field and the rule."""
    if not choices.is_path(recipe.optimizer):
        choices.check("optimizer", recipe.optimizer, (*OPTIMIZERS, *_of_optax()))
    choices.check("annealing", recipe.annealing, ANNEALINGS)
    choices.check("decays", recipe.decays, DECAYS)
    for name, low in (("epochs", 0), ("batch_size", 1), ("warmup", 0)):
        value = getattr(recipe, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least {low}")
    for name, below in (("learning_rate", math.inf), ("weight_decay", math.inf)):
        choices.number(name, getattr(recipe, name), below)
    choices.number("factor", recipe.factor)
    choices.number("momentum", recipe.momentum, below=1)
    choices.number("label_smoothing", recipe.label_smoothing, below=1)
    if not isinstance(recipe.augment, bool):
        raise ValueError(f"augment is {recipe.augment!r}; it must be True or False")
    if recipe.warmup and recipe.warmup >= recipe.epochs:
        raise ValueError(
            f"warmup is {recipe.warmup} of {recipe.epochs} epochs; it must end before they do"
        )
    _check_boundaries(recipe)
    _direction(recipe)


def _check_boundaries(recipe: Recipe) -> None:
    epochs = list(recipe.boundaries)
    whole = all(isinstance(epoch, int) and not isinstance(epoch, bool) for epoch in epochs)
    if not whole or epochs != sorted(set(epochs)) or min(epochs, default=1) < 1:
        raise ValueError(
            f"boundaries are {recipe.boundaries}; they must be increasing epochs, integers of 1 or "
            "more"
        )
    if epochs and recipe.annealing == "cosine":
        raise ValueError(f"boundaries are {recipe.boundaries}; a cosine has none: leave them out")


def learning_rate(recipe: Recipe, steps_per_epoch: int) -> optax.Schedule:
    """The recipe's learning rate as a function of the step, of W steps of warm-up and T in all.

    steps:  constant between boundaries;   cosine:  rate (1 + cos(pi (t - W) / (T - W))) / 2
    both times min(1, (t + 1) / W)
    """
    warm, whole = (epochs * steps_per_epoch for epochs in (recipe.warmup, recipe.epochs))
    if recipe.annealing == "cosine":
        cosine = optax.cosine_decay_schedule(recipe.learning_rate, max(whole - warm, 1))
        after = lambda step: cosine(jnp.maximum(step - warm, 0))  # noqa: E731
    else:
        after = optax.piecewise_constant_schedule(
            recipe.learning_rate,
            {epoch * steps_per_epoch: recipe.factor for epoch in recipe.boundaries},
        )
    return (lambda step: after(step) * jnp.minimum(1.0, (step + 1) / warm)) if warm else after


def optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """The recipe's optimiser: weight decay joins the gradient, then momentum, then the rate.

    Its `update` takes the keyword `step`, of which the learning rate is a function: a fresh
    optimiser can follow the schedule from any step on.
    """
    rate = learning_rate(recipe, steps_per_epoch)
    direction, sign, own_decay = _direction(recipe)

    def scale(updates, state, params=None, *, step, **_):
        return jax.tree.map(lambda update: sign * rate(step) * update, updates), state

    decay = recipe.weight_decay and not own_decay
    return optax.chain(
        _decay(recipe) if decay else optax.identity(),
        direction,
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), scale),
    )


def decayed(recipe: Recipe, params: PyTree) -> PyTree:
    """Whether each leaf of the parameters is decayed: booleans."""
    if isinstance(params, Extended):
        added = jax.tree.map(lambda _: False, params.added)
        return Extended(decayed(recipe, params.params), added)
    return jax.tree.map(lambda leaf: recipe.decays == "all" or leaf.ndim > 1, params)


def _decay(recipe: Recipe) -> optax.GradientTransformation:
    def update(updates: PyTree, state: Any, params: Params | None = None):
        def one(slope: Array, leaf: Array, decays: bool) -> Array:
            return slope + recipe.weight_decay * leaf if decays else slope

        return jax.tree.map(one, updates, params, decayed(recipe, params)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _direction(recipe: Recipe) -> tuple[optax.GradientTransformation, float, bool]:
    """The direction of the step, the sign of the rate, and whether it has the weight decay."""
    name, options = recipe.optimizer, dict(recipe.options)
    if name in OPTIMIZERS:
        if options:
            raise ValueError(f"options are {recipe.options}; {name!r} takes its momentum alone")
        return OPTIMIZERS[name](recipe.momentum), -1.0, False
    build = choices.imported("optimizer", name) if choices.is_path(name) else getattr(optax, name)
    takes = inspect.signature(build).parameters
    own = {"weight_decay": recipe.weight_decay, "mask": functools.partial(decayed, recipe)}
    own = {key: value for key, value in own.items() if key in takes and "weight_decay" in takes}
    try:
        return build(1.0, **own | options), 1.0, bool(own)
    except TypeError as error:
        raise ValueError(f"the optimizer {name!r} cannot be built: {error}") from error


@functools.cache
def _of_optax() -> tuple[str, ...]:
    """The optimisers of optax: its functions whose first parameter is the learning rate."""

    def first(thing: Any) -> str | None:
        return next(iter(inspect.signature(thing).parameters), None)

    functions = {name: thing for name, thing in vars(optax).items() if inspect.isfunction(thing)}
    return tuple(sorted(name for name, f in functions.items() if first(f) == "learning_rate"))


def loss(recipe: Recipe, whole: Loss) -> Loss:
    """The loss of training: of labels that are smoothed, y <- (1 - e) y + e / outputs."""
    share = recipe.label_smoothing
    if not share:
        return whole

    def value(logits: Array, labels: Array) -> Array:
        outputs = logits.shape[-1]
        if jnp.issubdtype(labels.dtype, jnp.integer):
            labels = jax.nn.one_hot(labels, outputs, dtype=logits.dtype)
        return whole.value(logits, (1 - share) * labels + share / outputs)

    return whole._replace(value=value)

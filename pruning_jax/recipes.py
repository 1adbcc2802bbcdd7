"""The values of a training run, and the optimiser that they describe."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from pruning_jax import choices


class Recipe(NamedTuple):
    """The values of one training run.

    Attributes:
      epochs: passes over the training split.
      batch_size: examples a step; the remainder of each epoch's permutation is left out.
      learning_rate: the initial one.
      boundaries: epochs at whose start the learning rate is multiplied by `factor`.
      factor: what the learning rate is multiplied by at each boundary.
      optimizer: a name in `OPTIMIZERS`.
      momentum: of ``sgd``; the first-moment decay of ``adam``.
      weight_decay: added to the gradient (L2 regularisation, not decoupled).
      augment: crop and flip every batch.
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


OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "sgd": lambda momentum: optax.trace(momentum) if momentum else optax.identity(),
    "adam": lambda momentum: optax.scale_by_adam(b1=momentum),
}
"""(momentum) -> the direction of the step, before the learning rate."""


def check(recipe: Recipe) -> None:
    """Raises `ValueError` for a recipe that cannot be followed, naming the field and the rule."""
    choices.check("optimizer", recipe.optimizer, OPTIMIZERS)
    for name, low in (("epochs", 0), ("batch_size", 1)):
        value = getattr(recipe, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least {low}")
    for name, below in (("learning_rate", math.inf), ("weight_decay", math.inf)):
        choices.number(name, getattr(recipe, name), below)
    choices.number("factor", recipe.factor)
    choices.number("momentum", recipe.momentum, below=1)
    if not isinstance(recipe.augment, bool):
        raise ValueError(f"augment is {recipe.augment!r}; it must be True or False")
    epochs = list(recipe.boundaries)
    whole = all(isinstance(epoch, int) and not isinstance(epoch, bool) for epoch in epochs)
    if not whole or epochs != sorted(set(epochs)) or min(epochs, default=1) < 1:
        raise ValueError(
            f"boundaries are {recipe.boundaries}; they must be increasing epochs, integers of 1 or "
            "more"
        )


def learning_rate(recipe: Recipe, steps_per_epoch: int) -> optax.Schedule:
    """The recipe's learning rate as a function of the step, constant between boundaries."""
    return optax.piecewise_constant_schedule(
        recipe.learning_rate,
        {epoch * steps_per_epoch: recipe.factor for epoch in recipe.boundaries},
    )


def optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """The recipe's optimiser: weight decay joins the gradient, then momentum, then the rate.

    Its `update` takes the keyword `step`, of which the learning rate is a function: a fresh
    optimiser can follow the schedule from any step on.
    """
    rate = learning_rate(recipe, steps_per_epoch)

    def scale(updates, state, params=None, *, step, **_):
        return jax.tree.map(lambda update: -rate(step) * update, updates), state

    return optax.chain(
        optax.add_decayed_weights(recipe.weight_decay) if recipe.weight_decay else optax.identity(),
        OPTIMIZERS[recipe.optimizer](recipe.momentum),
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), scale),
    )

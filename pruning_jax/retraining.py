"""What follows pruning: which recipe the surviving weights are trained with.

A regime is a function from the pretraining recipe to the retraining recipe. The run itself is
`training.start` from the pruned variables with their masks, and `training.fit`.
"""

from collections.abc import Callable

from pruning_jax import choices
from pruning_jax.recipes import Recipe


def original_schedule(recipe: Recipe) -> Recipe:
    """The whole pretraining schedule again, from its first learning rate (S3, section 5)."""
    return recipe


def last_learning_rate(recipe: Recipe) -> Recipe:
    """The learning rate that pretraining ended with, held constant (fine-tuning, S0, section 3)."""
    passed = sum(boundary < recipe.epochs for boundary in recipe.boundaries)
    return recipe._replace(
        learning_rate=recipe.learning_rate * recipe.factor**passed, boundaries=()
    )


REGIMES: dict[str, Callable[[Recipe], Recipe]] = {
    "original_schedule": original_schedule,
    "last_learning_rate": last_learning_rate,
}


def recipe(regime: str, pretraining: Recipe, **changes) -> Recipe:
    """The recipe of a regime, with any of its fields changed afterwards.

    Args:
      regime: a name in `REGIMES`.
      pretraining: the recipe that the dense network was trained with.
      **changes: fields of `Recipe` to replace, such as ``epochs`` or ``learning_rate``.

    Raises:
      ValueError: an unknown regime or field.
    """
    choices.check("retraining regime", regime, REGIMES)
    for field in changes:
        choices.check("retraining field", field, Recipe._fields)
    return REGIMES[regime](pretraining)._replace(**changes)

"""Retraining recipes, from the pretraining recipe."""

import pytest

from pruning_jax import retraining
from pruning_jax.recipes import Recipe

PRETRAINING = Recipe(200, 100, 0.1, boundaries=(70, 140), factor=0.1)


def test_the_original_schedule_is_the_pretraining_recipe():
    assert retraining.recipe("original_schedule", PRETRAINING) == PRETRAINING


def test_the_last_learning_rate_is_held_constant():
    got = retraining.recipe("last_learning_rate", PRETRAINING, epochs=40)
    assert got.learning_rate == pytest.approx(1e-3)
    assert (got.epochs, got.boundaries, got.batch_size) == (40, (), 100)


def test_a_boundary_that_pretraining_never_reached_does_not_count():
    got = retraining.recipe("last_learning_rate", PRETRAINING._replace(epochs=100))
    assert got.learning_rate == pytest.approx(1e-2)


def test_any_field_can_be_changed():
    got = retraining.recipe("original_schedule", PRETRAINING, learning_rate=0.02, boundaries=())
    assert (got.learning_rate, got.boundaries, got.epochs) == (0.02, (), 200)


@pytest.mark.parametrize(
    ("regime", "changes", "named"),
    [("rewind", {}, "last_learning_rate"), ("original_schedule", {"epoch": 3}, "epochs")],
)
def test_unknown_names_are_refused_with_the_valid_ones(regime, changes, named):
    with pytest.raises(ValueError, match=named):
        retraining.recipe(regime, PRETRAINING, **changes)

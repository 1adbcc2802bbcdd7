"""Schedules against their formulas, and by properties."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_jax.schedules import SCHEDULES, sparsities

NAMES = list(SCHEDULES)
SHARES = st.floats(0.0, 1.0)


@given(name=st.sampled_from(NAMES), final=SHARES, stages=st.integers(1, 300))
def test_targets_never_fall_and_end_at_the_final_sparsity(name, final, stages):
    targets = sparsities(name, final, stages)
    assert len(targets) == stages
    assert targets[-1] == final
    assert all(0.0 <= target <= 1.0 for target in targets)
    assert all(b >= a - 1e-15 for a, b in zip(targets, targets[1:], strict=False))


@given(name=st.sampled_from(NAMES), ends=st.tuples(SHARES, SHARES))
def test_a_schedule_runs_from_initial_to_final(name, ends):
    initial, final = sorted(ends)
    np.testing.assert_allclose(SCHEDULES[name](0.0, final, initial), initial, atol=1e-12)
    np.testing.assert_allclose(SCHEDULES[name](1.0, final, initial), final, atol=1e-12)
    assert initial - 1e-12 <= SCHEDULES[name](0.37, final, initial) <= final + 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_takes_a_traced_progress(name):
    traced = jax.jit(lambda progress: SCHEDULES[name](progress, 0.9, 0.1))(0.25)
    np.testing.assert_allclose(traced, SCHEDULES[name](0.25, 0.9, 0.1), rtol=1e-6)


def test_the_values_of_the_formulas():
    assert sparsities("one_shot", 0.9, 3) == [0.9, 0.9, 0.9]
    np.testing.assert_allclose(sparsities("linear", 0.9, 3), [0.3, 0.6, 0.9])
    np.testing.assert_allclose(sparsities("exponential", 0.875, 3), [0.5, 0.75, 0.875])
    np.testing.assert_allclose(sparsities("cubic", 0.8, 2), [0.8 - 0.8 / 8, 0.8])


def test_exponential_removes_the_same_share_of_what_remains():
    density = 1 - np.asarray([0.0, *sparsities("exponential", 0.98847, 140)])
    np.testing.assert_allclose(density[1:] / density[:-1], (1 - 0.98847) ** (1 / 140))


def test_an_unknown_schedule_names_the_nearest():
    with pytest.raises(ValueError, match="'exponental'.*mean 'exponential'.*one_shot, linear"):
        sparsities("exponental", 0.5, 3)


@pytest.mark.parametrize("stages", [0, -1, 1.5, 2.0, "3", None, True])
def test_stages_must_be_a_positive_integer(stages):
    with pytest.raises(ValueError, match="stages must be an integer"):
        sparsities("linear", 0.5, stages)


@pytest.mark.parametrize("final", [-0.1, 1.2, float("nan"), float("inf"), "much", None])
def test_the_final_sparsity_must_be_a_share(final):
    with pytest.raises(ValueError, match=r"sparsity.*\[0, 1\]"):
        sparsities("linear", final, 3)

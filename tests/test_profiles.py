"""Performance profiles, against their definition counted setting by setting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pruning_jax.measurements.profiles import advantages, areas, profile

COSTS = arrays.arrays(
    float, st.tuples(st.integers(2, 5), st.integers(1, 8)), elements=st.integers(-4, 4)
)


def counted(costs, tau):
    """P_i(tau) by the words of the definition, in exact arithmetic for eighths."""
    shares, settings = np.zeros(len(costs)), 0
    for column in costs.T:
        low, high = column.min(), column.max()
        if low == high:
            continue
        settings += 1
        threshold = tau * low + (1 - tau) * high
        shares += [cost < threshold for cost in column]
    return shares / settings


@given(COSTS.filter(lambda costs: (np.ptp(costs, axis=0) > 0).any()), st.integers(0, 8))
def test_a_profile_is_the_share_of_settings_below_the_threshold(costs, eighths):
    tau = eighths / 8
    apart = np.ptp(costs, axis=0) > 0
    ends = costs[:, apart].max(0) - costs[:, apart]
    at_threshold = ends * 8 == eighths * np.ptp(costs[:, apart], axis=0)
    found, expected = profile(costs, [tau])[:, 0], counted(costs, tau)
    near = at_threshold.any(axis=1)
    np.testing.assert_allclose(found[~near], expected[~near])
    assert (np.abs(found - expected) <= at_threshold.mean(axis=1) + 1e-12).all()


@given(COSTS.filter(lambda costs: (np.ptp(costs, axis=0) > 0).any()))
def test_an_area_is_the_integral_of_the_profile(costs):
    points = 2000
    taus = (np.arange(points) + 0.5) / points
    integral = profile(costs, taus).mean(axis=1)
    np.testing.assert_allclose(areas(costs), integral, atol=1 / points)


def test_by_hand():
    costs = [[1.0, 5.0, 2.0], [3.0, 1.0, 2.0], [2.0, 4.0, 2.0]]
    np.testing.assert_allclose(advantages(costs), [[1, 0], [0, 1], [0.5, 0.25]])
    np.testing.assert_allclose(areas(costs), [0.5, 0.5, 0.375])
    np.testing.assert_allclose(
        profile(costs, [0.0, 0.3, 1.0]).T, [[0.5, 0.5, 1], [0.5] * 3, [0] * 3]
    )


def test_neither_scale_nor_shift_of_a_setting_matters():
    draw = np.random.default_rng(0)
    costs = draw.normal(size=(12, 40))
    moved = costs * draw.uniform(0.1, 9, size=40) + draw.normal(size=40)
    np.testing.assert_allclose(areas(moved), areas(costs))
    order = draw.permutation(12)
    np.testing.assert_allclose(areas(costs[order]), areas(costs)[order])


def test_settings_where_all_are_equal_are_left_out():
    draw = np.random.default_rng(1)
    costs = draw.normal(size=(3, 5))
    level = np.full((3, 4), 0.7)
    np.testing.assert_array_equal(areas(np.hstack([level, costs])), areas(costs))


@pytest.mark.parametrize(
    "costs, message",
    [
        ([1.0, 2.0], "must be"),
        (np.empty((0, 3)), "must be"),
        (np.empty((3, 0)), "must be"),
        ([[1.0, np.nan], [2.0, 3.0]], r"costs\[0, 1\] is nan"),
        ([[1.0, 2.0], [2.0, np.inf]], r"costs\[1, 1\] is inf"),
        ([[1.0, 2.0], [1.0, 2.0]], "none of 2 settings"),
    ],
)
def test_bad_costs_are_refused(costs, message):
    for function in (areas, advantages, lambda costs: profile(costs, [0.5])):
        with pytest.raises(ValueError, match=message):
            function(costs)

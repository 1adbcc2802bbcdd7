"""What the comparison of floating-point values lets through, and what it does not."""

import closeness
import numpy as np
import pytest
from closeness import ROUNDING, assert_close

VALUES = {"a": np.array([300.0, -2.0, 0.0], np.float32), "b": [np.ones((2, 2), np.float32)]}


def moved(by, index=2):
    a = VALUES["a"].copy()
    a[index] += by
    return {**VALUES, "a": a}


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_units_of_the_values_do_not_matter(scale):
    a = scale * VALUES["a"].astype(np.float64)
    assert_close(a + 0.9 * ROUNDING * 300 * scale, a, ROUNDING)
    with pytest.raises(AssertionError, match="off by"):
        assert_close(a + 1.1 * ROUNDING * 300 * scale, a, ROUNDING)


def test_an_error_is_of_its_own_array():
    assert_close(moved(0.9 * ROUNDING * 300), VALUES, ROUNDING)
    small = {**VALUES, "b": [VALUES["b"][0] + np.float32(2 * ROUNDING)]}
    with pytest.raises(AssertionError, match=r"\['b'\]\[0\] is off by"):
        assert_close(small, VALUES, ROUNDING)
    assert_close(small, VALUES, ROUNDING, scale=closeness.largest(VALUES))


@pytest.mark.parametrize(
    "found",
    [
        moved(np.nan),
        moved(np.inf),
        moved(1.0),
        {"a": VALUES["a"]},
        {**VALUES, "b": [np.ones((1, 2))]},
        {**VALUES, "b": [np.ones(4)]},
        {**VALUES, "b": np.ones((2, 2))},
    ],
    ids=["nan", "inf", "another value", "a leaf less", "broadcast", "shape", "structure"],
)
def test_what_differs_is_refused(found):
    with pytest.raises(AssertionError):
        assert_close(found, VALUES, ROUNDING)


def test_what_is_not_finite_is_close_to_nothing():
    for value in (np.nan, np.inf):
        with pytest.raises(AssertionError):
            assert_close(np.full(3, value), np.full(3, value), ROUNDING)


def test_zero_is_close_to_zero_alone():
    assert_close(np.zeros(3), np.zeros(3), ROUNDING)
    with pytest.raises(AssertionError):
        assert_close(np.full(3, 1e-30), np.zeros(3), ROUNDING)


def test_the_bounds_hold_a_long_sum_in_any_order():
    terms = np.random.default_rng(0).normal(size=(64, 400)).astype(np.float32)
    exact = terms.astype(np.float64).sum(1)
    for order in (terms, terms[:, ::-1]):
        assert_close(np.add.accumulate(order, 1, np.float32)[:, -1], exact, ROUNDING)

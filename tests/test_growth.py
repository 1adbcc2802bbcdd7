"""The benchmark of growth: fitted exponents, and devices that must agree."""

import numpy as np
import pytest

from benchmarks.growth import command, exponents
from benchmarks.growth.operations import Case

SIZES = [2**power for power in range(6, 13)]


def noisy(exponent, seed, fixed=0.0, turns=5):
    """Costs of every size in every turn, of a known exponent, 3 % noise each."""
    rng = np.random.default_rng(seed)
    clean = np.array([fixed + 3e-4 * size**exponent for size in SIZES])
    return clean[:, None] * np.exp(0.03 * rng.standard_normal((len(SIZES), turns)))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_a_known_exponent_is_recovered_from_noise(exponent):
    turns = noisy(exponent, seed=0)
    found = exponents.fit(SIZES, np.median(turns, axis=1))
    assert found.low < exponent < found.high
    assert found.value == pytest.approx(exponent, abs=0.03)
    upper = exponents.at_upper_end(SIZES, turns.tolist())
    assert upper.low <= upper.value <= upper.high
    assert upper.value == pytest.approx(exponent, abs=0.1)


def test_the_interval_covers_a_known_exponent_as_often_as_it_says():
    fits = [exponents.fit(SIZES, noisy(1.2, seed, turns=1)[:, 0]) for seed in range(300)]
    covered = np.mean([found.low <= 1.2 <= found.high for found in fits])
    assert 0.91 <= covered <= 0.99


def test_a_fixed_cost_bends_the_fit_and_less_the_upper_end():
    turns = noisy(1.0, seed=1, fixed=0.3)
    whole = exponents.fit(SIZES, np.median(turns, axis=1))
    upper = exponents.at_upper_end(SIZES, turns.tolist())
    assert whole.value < upper.value < 1.0
    assert whole.high - whole.low > 0.1


@pytest.mark.parametrize(
    "sizes, costs, message",
    [
        ([1, 2], [1.0], "one a size"),
        ([3, 3], [1.0, 2.0], "two that differ"),
        ([1, 2], [0.0, 1.0], r"costs are \[0.0, 1.0\]"),
        ([0, 2], [1.0, 1.0], r"sizes are \[0.0, 2.0\]"),
    ],
)
def test_what_has_no_exponent_is_refused(sizes, costs, message):
    with pytest.raises(ValueError, match=message):
        exponents.fit(sizes, costs)


def test_devices_that_disagree_are_refused():
    points, split = Case("landscape", "mlp", 8, 100, 4), Case("training epoch", "mlp", 8, 100)
    close = {1: [1.0, 2.0], 4: [1.0, 2.0 + 2e-6]}
    assert command.largest_difference(split, close, "cpu") == pytest.approx(1e-6)
    with pytest.raises(SystemExit, match="4 devices differ from those of 1 by 1.0e-06"):
        command.largest_difference(points, close, "cpu")
    with pytest.raises(SystemExit, match="training epoch"):
        command.largest_difference(split, {1: [1.0], 2: [float("nan")]}, "cpu")

"""Intervals and tests against enumeration, published tables and hand-worked values."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_jax.analysis import statistics

STUDENT_975 = {3: 4.302652730, 8: 2.364624252}  # t tables, by n: two-sided 95 %, n - 1 degrees
STUDENT_95 = {3: 2.919985580, 8: 1.894578605}  # one-sided 95 %
INTEGERS = st.lists(st.integers(-6, 6), min_size=2, max_size=8)


def enumerate_flips(differences, alternative):
    """Counts sign patterns in exact integer arithmetic."""
    sign = 1 if alternative == "less" else -1
    observed = sign * sum(differences)
    flips = itertools.product((-1, 1), repeat=len(differences))
    sums = [sign * sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in flips]
    return sum(total <= observed for total in sums) / len(sums)


def test_mean_interval_of_three_hand_worked_values():
    interval = statistics.mean_interval([1.0, 2.0, 6.0])
    half = STUDENT_975[3] * math.sqrt(7.0 / 3.0)
    np.testing.assert_allclose(interval, (3.0, 3.0 - half, 3.0 + half), rtol=1e-8)


def test_an_interval_ends_where_a_mean_cannot_be():
    half = 12.706205 * 5  # of Student's with one degree of freedom, times the standard error
    assert statistics.mean_interval([10.0, 20.0]) == pytest.approx((15, 15 - half, 15 + half))
    assert statistics.mean_interval([10.0, 20.0], within=(0, 60)) == (15, 0, 60)
    several = statistics.student_interval(
        np.array([15.0, 50.0]), np.array([5.0, 1.0]), np.array([2, 1]), within=(0, 100)
    )
    np.testing.assert_allclose(several.low, [0, np.nan])
    np.testing.assert_allclose(several.high, [15 + half, np.nan])


def test_mean_interval_of_equal_values_is_a_point():
    assert statistics.mean_interval([0.25] * 5) == (0.25, 0.25, 0.25)


def test_mean_interval_covers_at_its_stated_rate():
    draws = np.random.default_rng(0).normal(1.5, 2.0, size=(2000, 8))
    intervals = [statistics.mean_interval(draw) for draw in draws]
    covered = np.mean([interval.low <= 1.5 <= interval.high for interval in intervals])
    assert abs(covered - 0.95) < 0.02


def test_lower_bound_of_three_hand_worked_values():
    expected = 3.0 - STUDENT_95[3] * math.sqrt(7.0 / 3.0)
    assert statistics.lower_bound([1.0, 2.0, 6.0]) == pytest.approx(expected, rel=1e-8)


@settings(deadline=None, max_examples=40)
@given(INTEGERS, st.sampled_from(["less", "greater"]))
def test_sign_flip_test_equals_enumeration(differences, alternative):
    expected = enumerate_flips(differences, alternative)
    assert statistics.sign_flip_test(differences, alternative) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n, floor", [(2, 1 / 4), (5, 1 / 32), (8, 1 / 256)])
def test_sign_flip_test_reaches_its_floor_where_all_signs_agree(n, floor):
    differences = -np.arange(1.0, n + 1)
    assert statistics.sign_flip_test(differences, "less") == floor
    assert statistics.sign_flip_test(differences, "greater") == 1.0
    assert statistics.sign_flip_test(-differences, "greater") == floor


def test_sign_flip_test_of_no_difference_shows_nothing():
    assert statistics.sign_flip_test([0.0] * 6, "less") == 1.0


def test_sign_flip_test_takes_as_many_as_it_says():
    n = statistics.MOST_SIGN_FLIPS
    assert statistics.sign_flip_test(np.ones(n), "greater") == 2.0**-n
    with pytest.raises(ValueError, match=f"{n + 1} values; enumeration stops at {n}"):
        statistics.sign_flip_test(np.ones(n + 1), "greater")


def test_holm_of_hand_worked_values():
    adjusted = statistics.holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(statistics.holm([0.6, 0.7]), [1.0, 1.0])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level):
    m, ranked = len(p_values), sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = set()
    for step, i in enumerate(ranked):
        if p_values[i] * (m - step) > level:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(statistics.holm(p_values)) if p <= level} == rejected


def test_two_tests_at_five_seeds_cannot_reach_the_level_and_twelve_at_eight_can():
    assert statistics.holm([1 / 32] * 2).min() > 0.05
    assert statistics.holm([1 / 64] * 2).max() < 0.05
    assert statistics.holm([1 / 256] * 12).max() < 0.05


def test_equivalence_agrees_with_the_interval_inclusion_rule():
    draws = np.random.default_rng(1).normal(0.1, 0.6, size=(200, 8))
    decided = set()
    for draw in draws:
        half = STUDENT_95[8] * draw.std(ddof=1) / math.sqrt(8)
        inside = abs(draw.mean()) + half < 0.5
        assert (statistics.equivalence_test(draw, 0.5) < 0.05) == inside
        decided.add(inside)
    assert decided == {True, False}


def test_equivalence_of_equal_differences_needs_no_variance():
    assert statistics.equivalence_test([0.1] * 4, 0.5) == 0.0
    assert statistics.equivalence_test([0.6] * 4, 0.5) == 1.0


def test_non_inferiority_follows_the_one_sided_bound():
    differences = np.array([1.0, 2.0, 6.0]) - 3.0
    bound = STUDENT_95[3] * math.sqrt(7.0 / 3.0)
    assert statistics.non_inferior(differences, bound + 1e-6)
    assert not statistics.non_inferior(differences, bound - 1e-6)


def test_bootstrap_of_the_mean_approaches_its_normal_interval():
    sample = np.random.default_rng(2).normal(3.0, 1.0, size=200)
    interval = statistics.bootstrap_interval(np.mean, sample, seed=0, resamples=4000)
    half = 1.96 * sample.std() / math.sqrt(200)
    np.testing.assert_allclose(
        interval, (sample.mean(), sample.mean() - half, sample.mean() + half), atol=0.02
    )


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_bootstrap_covers_as_often_as_it_says_with_eight_seeds(draw):
    generator, covered = np.random.default_rng(1), []
    for _ in range(500):
        sample = getattr(generator, draw)(size=8)
        found = statistics.bootstrap_interval(np.mean, sample, seed=1, resamples=300)
        covered.append(found.low <= (0.0 if draw == "normal" else 0.5) <= found.high)
    assert 0.91 <= np.mean(covered) <= 0.98  # plain percentiles cover .88


def test_bootstrap_keeps_pairs_together_and_repeats_for_a_seed():
    first = np.random.default_rng(3).normal(size=(8, 4))

    def spread(a, b):
        return np.abs(a - b).max()

    same = statistics.bootstrap_interval(spread, first, first + 2.0, seed=1, resamples=200)
    np.testing.assert_allclose(same, (2.0, 2.0, 2.0))

    def mean(a):
        return a.mean()

    runs = [statistics.bootstrap_interval(mean, first, seed=s, resamples=200) for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_spearman_of_hand_worked_ranks():
    assert statistics.spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)
    assert statistics.spearman([1, 2, 3], [9, 1, 0]) == pytest.approx(-1.0)
    # Ranks (1, 2.5, 2.5, 4) against (1, 2, 3, 4): Pearson 4.5 / sqrt(4.5 * 5).
    assert statistics.spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(22.5))


SINGLE = {
    "mean_interval": statistics.mean_interval,
    "lower_bound": statistics.lower_bound,
    "sign_flip_test": lambda values: statistics.sign_flip_test(values, "less"),
    "equivalence_test": lambda values: statistics.equivalence_test(values, 0.5),
    "non_inferior": lambda values: statistics.non_inferior(values, 0.5),
    "bootstrap_interval": lambda values: statistics.bootstrap_interval(np.mean, values, seed=0),
    "spearman": lambda values: statistics.spearman(values, values),
}


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan, 2.0], [1.0, math.inf, 2.0]])
def test_too_few_or_non_finite_seeds_are_refused(name, values):
    with pytest.raises(ValueError, match="n >= 2|at least 2|mend that run"):
        SINGLE[name](values)


BAD = {
    "confidence is 1": lambda: statistics.mean_interval([1.0, 2.0], confidence=1),
    "confidence is 0": lambda: statistics.lower_bound([1.0, 2.0], confidence=0),
    "margin is -0.1": lambda: statistics.equivalence_test([1.0, 2.0], -0.1),
    "margin is nan": lambda: statistics.non_inferior([1.0, 2.0], math.nan),
    "'less' or 'greater'": lambda: statistics.sign_flip_test([1.0, 2.0], "two-sided"),
    r"all in \[0, 1\]": lambda: statistics.holm([0.2, math.nan]),
    "at least one": lambda: statistics.holm([]),
    r"\[2, 3\] seeds": lambda: statistics.bootstrap_interval(max, [1, 2], [1, 2, 3], seed=0),
    "nan on a resample": lambda: statistics.bootstrap_interval(
        lambda a: math.nan, [1, 2], seed=0, resamples=5
    ),
    "must be pairs": lambda: statistics.spearman([1, 2], [1, 2, 3]),
    "one value throughout": lambda: statistics.spearman([1, 1], [1, 2]),
    r"shape \(2, 2\)": lambda: statistics.mean_interval([[1, 2], [3, 4]]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_names_the_value_and_the_rule(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()

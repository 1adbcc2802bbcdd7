"""Intervals and exact tests over replicates; one seed is one observation.

Two methods are compared by their differences on the same seeds. Claims are one-sided, so the tests
are too, and with n seeds an exact one-sided sign-flip test cannot go below 2^-n.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import scipy  # its parts are imported when they are used
from numpy.typing import ArrayLike

Alternative = Literal["less", "greater"]

MOST_SIGN_FLIPS = 20
"""The largest sample whose 2^n sign flips are enumerated."""


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    estimate: float
    low: float
    high: float


def _sample(values: ArrayLike, name: str = "values") -> np.ndarray:
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or sample.size < 2:
        raise ValueError(f"{name} has shape {sample.shape}; it must be (n,), n >= 2: one per seed")
    if not np.isfinite(sample).all():
        seed = int(np.argmin(np.isfinite(sample)))
        raise ValueError(f"{name}[{seed}] is {sample[seed]}; mend that run first")
    return sample


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1, as 0.95 does")


def _check_margin(margin: float) -> None:
    if not 0 < margin < np.inf:
        raise ValueError(f"margin is {margin}; it must be a positive number, for example 0.005")


def _upper_tail(shift: float, sample: np.ndarray) -> float:
    """One-sided p of a t test whose mean stands `shift` above the bound it is to exceed."""
    error = scipy.stats.sem(sample)
    if error == 0:
        return 0.0 if shift > 0 else 1.0
    return float(scipy.stats.t.sf(shift / error, sample.size - 1))


def lower_bound(values: ArrayLike, confidence: float = 0.95) -> float:
    """One-sided lower confidence bound of the mean, by Student's t.

    mean - t(confidence; n - 1) sd / sqrt(n)

    Args:
      values: one number a seed, shape (n,), n >= 2.
      confidence: the bound's one-sided coverage, in (0, 1).

    Raises:
      ValueError: a bad sample or confidence.
    """
    sample = _sample(values)
    _check_confidence(confidence)
    return float(
        sample.mean() - scipy.stats.t.ppf(confidence, sample.size - 1) * scipy.stats.sem(sample)
    )


def student_interval(
    mean: ArrayLike,
    error: ArrayLike,
    count: ArrayLike,
    confidence: float = 0.95,
    within: tuple[ArrayLike, ArrayLike] = (-np.inf, np.inf),
) -> Interval:
    """Two-sided confidence intervals of means, by Student's t; each argument may be an array.

    mean +- t((1 + confidence) / 2; n - 1) error

    Args:
      mean: over seeds.
      error: its standard error.
      count: n, how many seeds; of one seed the ends are not numbers.
      confidence: the interval's coverage, in (0, 1).
      within: what a mean cannot lie beyond, such as (0, 100) of a percentage; an end beyond it is
        moved to it, and the interval covers the mean as often as before.

    Raises:
      ValueError: a bad confidence.
    """
    _check_confidence(confidence)
    low = mean - scipy.stats.t.ppf((1 + confidence) / 2, np.asarray(count) - 1) * error
    high, (least, most) = 2 * mean - low, within
    if not np.isneginf(least).all():
        low = np.maximum(low, np.minimum(least, mean))
    if not np.isposinf(most).all():
        high = np.minimum(high, np.maximum(most, mean))
    return Interval(mean, low, high)


def mean_interval(
    values: ArrayLike,
    confidence: float = 0.95,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """The mean and its two-sided confidence interval, by Student's t: `student_interval`.

    Args:
      values: one number a seed, shape (n,), n >= 2.
      confidence: the interval's coverage, in (0, 1).
      within: what the mean cannot lie beyond.

    Raises:
      ValueError: a bad sample or confidence.
    """
    sample = _sample(values)
    error = scipy.stats.sem(sample)
    found = student_interval(sample.mean(), error, sample.size, confidence, within)
    return Interval(*map(float, found))


def one_sided_test(values: ArrayLike) -> float:
    """p that the mean lies above 0, by Student's t.

    Args:
      values: one number a seed, shape (n,), n >= 2.

    Raises:
      ValueError: a bad sample.
    """
    sample = _sample(values)
    return _upper_tail(sample.mean(), sample)


def sign_flip_test(differences: ArrayLike, alternative: Alternative) -> float:
    """Exact one-sided p of paired differences, under the null that each sign is a coin's.

    p = #{s in {-1, 1}^n : mean(s d) <= mean(d)} / 2^n for ``less``, and >= for ``greater``.

    Args:
      differences: one paired difference a seed, shape (n,), 2 <= n <= 20.
      alternative: the side that the claim names: the mean is ``less`` or ``greater`` than 0.

    Returns:
      The p-value, a multiple of 2^-n and never 0.

    Raises:
      ValueError: a bad sample, more than 20 differences, or another alternative.

    Source: Fisher, The Design of Experiments (1935), section 21.
    """
    sample = _sample(differences, "differences")
    if alternative not in ("less", "greater"):
        raise ValueError(f"alternative is {alternative!r}; it must be 'less' or 'greater'")
    if sample.size > MOST_SIGN_FLIPS:
        raise ValueError(
            f"differences has {sample.size} values; enumeration stops at {MOST_SIGN_FLIPS}"
        )
    result = scipy.stats.permutation_test(
        (sample,),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf,
        batch=2**14,
        alternative=alternative,
    )
    return float(result.pvalue)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjustment of a family's p-values.

    p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)), with p_(1) <= ... <= p_(m)

    Args:
      p_values: shape (m,), m >= 1, each in [0, 1].

    Returns:
      The adjusted p-values in the order given, shape (m,).

    Raises:
      ValueError: no p-value, or one outside [0, 1].

    Source: Holm (1979).
    """
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or p.size == 0 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values is {p_values}; it must hold at least one number, all in [0, 1]")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1, p[order] * np.arange(p.size, 0, -1)))
    return adjusted


def equivalence_test(differences: ArrayLike, margin: float) -> float:
    """p of equivalence within `margin`: the larger of two one-sided paired t tests (TOST).

    H0: |mean| >= margin, H1: |mean| < margin

    Args:
      differences: one paired difference a seed, shape (n,), n >= 2.
      margin: half the width of what counts as equal, > 0, in the differences' unit.

    Returns:
      The p-value; below 0.05 the two are equivalent.

    Raises:
      ValueError: a bad sample or margin.

    Source: Schuirmann (1987).
    """
    sample = _sample(differences, "differences")
    _check_margin(margin)
    mean = sample.mean()
    return max(_upper_tail(mean + margin, sample), _upper_tail(margin - mean, sample))


def non_inferior(differences: ArrayLike, margin: float, confidence: float = 0.95) -> bool:
    """Whether the mean's one-sided lower bound stays above ``-margin``.

    Args:
      differences: the method's score less the reference's on each seed, shape (n,), n >= 2.
      margin: the loss that still counts as no worse, > 0, in the differences' unit.
      confidence: the bound's one-sided coverage, in (0, 1).

    Raises:
      ValueError: a bad sample, margin or confidence.
    """
    _check_margin(margin)
    return lower_bound(_sample(differences, "differences"), confidence) > -margin


def bootstrap_interval(
    statistic: Callable[..., float],
    *samples: ArrayLike,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """A statistic of whole seeds and its expanded percentile-bootstrap interval.

    The seeds are drawn with replacement, the same draw in every sample, so that pairs stay pairs.
    So that few seeds are covered too, each tail is Phi(-t sqrt(n / (n - 1))) in place of a / 2,
    t the quantile 1 - a / 2 of Student's on n - 1, which makes a mean's interval Student's own.

    Args:
      statistic: takes the samples and returns one number.
      *samples: arrays whose first axis is the seed, each of shape (n, ...), n >= 2.
      seed: of the draws.
      confidence: the interval's coverage, in (0, 1).
      resamples: the number of draws.

    Returns:
      The statistic of the samples as they are, and the interval's ends.

    Raises:
      ValueError: samples of different n, n < 2, or a value or statistic that is not finite.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3; Hesterberg,
    What Teachers Should Know About the Bootstrap (2015), section 4.3.
    """
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    lengths = {len(array) if array.ndim else 0 for array in arrays}
    if len(lengths) != 1 or min(lengths) < 2:
        raise ValueError(f"samples have {sorted(lengths)} seeds; all need the same n, at least 2")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("samples hold a value that is not finite; mend that run first")
    _check_confidence(confidence)

    def of_seeds(seeds: np.ndarray) -> float:
        value = float(statistic(*(array[seeds] for array in arrays)))
        if not np.isfinite(value):
            raise ValueError(f"statistic is {value} on a resample; let it return a number for ties")
        return value

    seeds = np.arange(lengths.pop())
    quantile = scipy.stats.t.ppf((1 + confidence) / 2, seeds.size - 1)
    tail = scipy.stats.norm.cdf(-quantile * np.sqrt(seeds.size / (seeds.size - 1)))
    result = scipy.stats.bootstrap(
        (seeds,),
        of_seeds,
        vectorized=False,
        n_resamples=resamples,
        confidence_level=1 - 2 * tail,
        method="percentile",
        rng=seed,
    )
    low, high = (float(end) for end in result.confidence_interval)
    return Interval(of_seeds(seeds), low, high)


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation, in [-1, 1]; ties share their mean rank.

    Args:
      x, y: shape (n,), n >= 2.

    Raises:
      ValueError: bad samples, different lengths, or a sample whose values are all the same.
    """
    first, second = _sample(x, "x"), _sample(y, "y")
    if first.size != second.size:
        raise ValueError(f"x holds {first.size} values and y {second.size}; they must be pairs")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        raise ValueError("x or y holds one value throughout; ranks need values that differ")
    return float(scipy.stats.spearmanr(first, second).statistic)

"""The measurement: divergences of many ablated networks from the whole one, and their summary."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from pruning_jax import choices, evaluation, losses, masks
from pruning_jax.analysis.utility.ablations import check_masks
from pruning_jax.analysis.utility.divergence import divergences
from pruning_jax.curvature import averaging
from pruning_jax.lab import blocks
from pruning_jax.types import ApplyFn, Array, Batch, Masks, Params


class Utilities(NamedTuple):
    """What each of n ablations does to a network.

    Attributes:
      divergence: the utility of the ablated weights, shape (n,).
      accuracy: the share of right answers without them, shape (n,).
      unablated_accuracy: that of the whole network.
    """

    divergence: np.ndarray
    accuracy: np.ndarray
    unablated_accuracy: float


class Summary(NamedTuple):
    """How utilities are distributed over subsets.

    Attributes:
      mean: their mean.
      std: their standard deviation, as of a whole population: the imbalance of the weights.
      minimum: the smallest.
      maximum: the largest.
      counts: how many lie in each bin of a histogram.
      edges: of the bins, one more than there are bins.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    counts: list[int]
    edges: list[float]


class _Examples(NamedTuple):
    batch: Batch
    reference: Array


@functools.lru_cache(maxsize=64)
def _ablated(apply_fn: ApplyFn) -> Callable:
    """(masks, variables, examples) -> the sum of an ablation's divergences, and right answers.

    The sum is no number where a logit is not finite.
    """

    def sums(kept: Masks, variables: Params, examples: _Examples) -> tuple[Array, Array]:
        logits = apply_fn(masks.apply(variables, kept), examples.batch.inputs)
        _, right = evaluation.totals(losses.cross_entropy, logits, examples.batch)
        found, weights = divergences(examples.reference, logits), examples.batch.weights
        total = found.sum() if weights is None else (found * weights).sum()
        return jnp.where(jnp.isfinite(logits).all(), total, jnp.nan), right

    return sums


@functools.lru_cache(maxsize=64)
def _whole(apply_fn: ApplyFn) -> Callable:
    """(variables, batch) -> the logits of the whole network, and how many answers are right."""

    def whole(variables: Params, batch: Batch) -> tuple[Array, Array]:
        logits = apply_fn(variables, batch.inputs)
        return logits, evaluation.totals(losses.cross_entropy, logits, batch)[1]

    return jax.jit(whole)


def measure(
    apply_fn: ApplyFn,
    variables: Params,
    ablations: Iterable[Masks],
    batch: Batch,
    *,
    chunk: int | None = None,
    size: int | None = None,
) -> Utilities:
    """The utility of each of many subsets of a network's weights, and the accuracy without it.

        U(W_s) = E_x KL(f_W(x) || f_{W without W_s}(x))

    Args:
      apply_fn: the model, in evaluation mode. It is compiled once for an identity: a global that it
        reads and that is bound anew later keeps its old value here.
      variables: what it is applied to: the weights W, and whatever else the model reads.
      ablations: masks of the whole tree `variables`, False for the weights of a subset W_s; drawn
        as they are needed. All mask the same leaves.
      batch: the examples of the mean.
      chunk: examples in memory at once; by default what forward passes are fastest with.
      size: ablations in memory at once; by default what fits. Neither changes the results beyond
        rounding.

    Returns:
      The utilities and the accuracies, in the order of `ablations`.

    Raises:
      ValueError: no ablations, or one that is no tree of booleans like `variables` (the message
        names the leaf); no examples, or ones that the model does not take; fewer than two logits,
        or ones of the whole network that are not finite; a masked leaf that is no float; a chunk or
        size that is no integer or below 1.
      FloatingPointError: the logits of an ablated network are not finite; the message names the
        ablation.

    Source: An Empirical Study of a Pruning Mechanism (ICLR 2021 submission), definition 1.
    """
    ablations = _checked(ablations, variables)
    first = next(ablations)
    if not isinstance(batch, Batch):
        raise ValueError(f"batch must be a Batch(inputs, labels), not {type(batch).__name__}")
    [batch] = averaging.checked(apply_fn, variables, batch, losses.cross_entropy)
    size = None if size is None else choices.whole("size", size, "ablation")
    chunks, right, counted = [], 0.0, losses.count(batch)
    for part in blocks.split(batch, chunk):
        logits, part_right = _whole(apply_fn)(variables, part)
        chunks.append(_Examples(part, np.asarray(logits)))
        right += float(part_right)
    _check_logits([part.reference for part in chunks])
    points = itertools.chain([first], ablations)
    totals = []
    for total in blocks.sums(_ablated(apply_fn), points, variables, chunks, size=size):
        if not np.isfinite(total[0]):
            raise FloatingPointError(
                f"ablation {len(totals)} leaves a network whose logits, or their divergence, are "
                "not finite; check how the model scales what its layers put out"
            )
        totals.append(total)
    divergence, accuracy = np.asarray(totals).T / counted
    return Utilities(divergence, accuracy, right / counted)


def _check_logits(chunks: list[np.ndarray]) -> None:
    if chunks[0].shape[-1] < 2:
        raise ValueError("the model has one output, whose softmax is always 1; utility needs two")
    if not all(np.isfinite(logits.astype(np.float64)).all() for logits in chunks):
        raise ValueError("the logits of the whole network are not all finite")


def _checked(ablations: Iterable[Masks], variables: Params) -> Iterator[Masks]:
    """The ablations, each checked as it is drawn; leaf by leaf only where it is unlike the last."""
    try:
        ablations = iter(ablations)
    except TypeError as error:
        kind = type(ablations).__name__
        raise ValueError(f"ablations must be an iterable of mask trees, not {kind}") from error
    accepted = None
    for number, kept in enumerate(ablations):
        leaves, structure = jax.tree.flatten(kept)
        found = structure, [(getattr(leaf, "dtype", None), np.shape(leaf)) for leaf in leaves]
        if found != accepted:
            check_masks(f"ablation {number}", kept, variables, "variables")
            if accepted is not None:
                raise ValueError(
                    f"ablation {number} has None in other places than ablation 0; give all of "
                    "them masks of the same leaves, True where they remove nothing"
                )
            accepted = found
        yield kept
    if accepted is None:
        raise ValueError("ablations is empty; give at least one tree of masks")


def summary(values: ArrayLike, bins: int = 40) -> Summary:
    """The mean, imbalance, range and histogram of a sample of utilities.

        imbalance = sqrt(mean_s (U(W_s) - mean U)^2)

    Args:
      values: the utilities, shape (n,), n >= 1.
      bins: of the histogram, from the smallest utility to the largest.

    Returns:
      The summary, in Python numbers.

    Raises:
      ValueError: values that are no finite numbers in one row, or none; bins below 1.

    Source: An Empirical Study of a Pruning Mechanism (ICLR 2021 submission), definition 3.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values has shape {values.shape}; it must be (n,), n >= 1")
    if not np.isfinite(values).all():
        place = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"values[{place}] is {values[place]}; a summary needs finite numbers")
    if not isinstance(bins, int | np.integer) or bins < 1:
        raise ValueError(f"bins is {bins!r}; it must be an integer, 1 or more")
    low, high = float(values.min()), float(values.max())
    equal = high - low <= 4 * bins * np.spacing(max(abs(low), abs(high)))
    margin = 0.5 * max(1.0, abs(low)) if equal else 0.0
    counts, edges = np.histogram(values, int(bins), (low - margin, high + margin))
    return Summary(
        float(values.mean()), float(values.std()), low, high, counts.tolist(), edges.tolist()
    )

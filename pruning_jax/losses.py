"""Losses of one position, square roots of their Hessians in the logits, and sums of positions."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import trees
from pruning_jax.types import Array, Batch, LossFn

__all__ = ["LOSSES", "Loss", "cross_entropy", "squared_error"]


class Loss(NamedTuple):
    """A loss of one position, and the root of its Hessian.

    An example has as many positions as its logits have rows; (examples, outputs) has one. The mean
    loss is that over the positions of all examples together, each by its weight,

        L = sum_np w_np l_np / sum_np w_np,

    so that exp(L) is a language model's perplexity, and neither the batch's size nor its padding
    changes it. Gradients, curvature and statistics of units are of this L.

    Attributes:
      value: (logits, labels) -> l of every row, shape (rows,).
      hessian_root: (logits, labels) -> S, shape (rows, outputs, columns), with S S^T the Hessian of
        the loss in the logits.
      sampled_root: (key, logits, labels) -> s, shape (rows, outputs), with E[s] = 0 and
        E[s s^T] = S S^T.
    """

    value: LossFn
    hessian_root: Callable[[Array, Array], Array]
    sampled_root: Callable[[Array, Array, Array], Array]


class Rows(NamedTuple):
    """Every position of every example, one after another: what the functions of a `Loss` take.

    Attributes:
      logits: shape (rows, outputs), in at least single precision.
      labels: integers, shape (rows,), or floats, shape (rows, outputs).
      weights: shape (rows,).
    """

    logits: Array
    labels: Array
    weights: Array


def positions(logits: tuple[int, ...]) -> tuple[int, ...]:
    """The shape (examples, ...) of the positions that logits of a shape have."""
    return tuple(logits[:-1] if len(logits) > 1 else logits)


def positions_of(batch: Batch) -> tuple[int, ...]:
    """The shape (examples, ...) of a batch's positions."""
    integer = jnp.issubdtype(batch.labels.dtype, jnp.integer)
    return batch.labels.shape if integer else positions(batch.labels.shape)


def rows(logits: Array, batch: Batch) -> Rows:
    """The positions of a batch as rows. What counts nothing may have any label.

    Raises:
      ValueError: as `check_labels`.
    """
    labels, weights = batch.labels, batch.weights
    check_labels(logits.shape, labels, weights)
    integer = jnp.issubdtype(labels.dtype, jnp.integer)
    count = math.prod(positions(logits.shape))
    logits = trees.at_least_single(logits).reshape(count, -1)
    labels = labels.reshape(count) if integer else labels.reshape(count, -1)
    if weights is None:
        return Rows(logits, labels, jnp.ones(count, logits.dtype))
    weights = weights.reshape(count).astype(logits.dtype)
    counted = weights if integer else weights[:, None]
    return Rows(logits, jnp.where(counted > 0, labels, 0), weights)


def total(loss: Loss, logits: Array, batch: Batch) -> Array:
    """The loss of every position, by its weight, summed over a batch."""
    row = rows(logits, batch)
    return jnp.sum(row.weights * loss.value(row.logits, row.labels))


def count(batch: Batch) -> float | Array:
    """The sum of a batch's weights: by how much a sum over it is divided."""
    if batch.weights is None:
        return math.prod(positions_of(batch))
    if isinstance(batch.weights, jax.core.Tracer):
        return jnp.sum(batch.weights, dtype=jnp.float32)
    return float(np.asarray(batch.weights).sum(dtype=np.float64))


def check_labels(logits: tuple[int, ...], labels: Array, weights: Array | None = None) -> None:
    """Checks that labels, and weights of them, fit logits of a shape.

    Raises:
      ValueError: integer labels, or weights, are not one for every position; float labels are not
        of the shape of the logits.
    """
    logits = tuple(logits)
    integer = jnp.issubdtype(labels.dtype, jnp.integer)
    if integer and len(logits) < 2:
        raise ValueError(
            f"labels are integers and the logits {logits}; a label of outputs needs logits "
            "(examples, ..., outputs), and a number as output needs float labels (examples,)"
        )
    given = {
        "integer labels" if integer else "float labels": (labels, logits[: len(logits) - integer])
    }
    if weights is not None:
        given["weights"] = (weights, positions(logits))
    for what, (array, needed) in given.items():
        if array.shape != needed:
            raise ValueError(
                f"{what} have shape {array.shape} and the logits {logits}; "
                f"they must have shape {needed}"
            )


def check_loss(loss: object) -> None:
    """Checks that `loss` is a `Loss`.

    Raises:
      ValueError: it is not; the message names the rows of `LOSSES`.
    """
    if not isinstance(loss, Loss):
        rows = ", ".join(f"losses.{name}" for name in LOSSES)
        raise ValueError(f"loss must be a losses.Loss, not {loss!r}; pass one of {rows}")


def _check_softmax(logits: Array) -> None:
    if logits.shape[-1] < 2 or logits.ndim < 2:
        raise ValueError(
            f"cross-entropy of logits {logits.shape} has one output, whose softmax is always 1; "
            "give two outputs or more, or loss=losses.squared_error for a regression"
        )


def _cross_entropy(logits: Array, labels: Array) -> Array:
    check_labels(logits.shape, labels)
    _check_softmax(logits)
    log_p = jax.nn.log_softmax(logits)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    return -jnp.sum(labels * log_p, axis=-1)


def _softmax_root(logits: Array, labels: Array) -> Array:
    """The Cholesky factor of diag(p) - p p^T, whose last column is zero and is left out.

        S_jj = sqrt(p_j q_j / q_{j-1}),  S_ij = -p_i sqrt(p_j / (q_{j-1} q_j)),  q_j = sum_{i>j} p_i

    Nothing cancels, where p - p^2 would.

    Source: Tanabe and Sagae 1992, *An Exact Cholesky Decomposition of the Covariance Matrix of the
      Multinomial Distribution*.
    """
    del labels
    _check_softmax(logits)
    p = jax.nn.softmax(logits)
    least = jnp.finfo(p.dtype).tiny
    from_here = jax.lax.cumsum(p, axis=p.ndim - 1, reverse=True)
    after = from_here[..., 1:]
    scale = jnp.sqrt(p[..., :-1] / jnp.maximum(from_here[..., :-1], least))
    diagonal = scale * jnp.sqrt(after)
    below = -p[..., :, None] * (scale / jnp.sqrt(jnp.maximum(after, least)))[..., None, :]
    outputs = p.shape[-1]
    rows, columns = np.ogrid[:outputs, : outputs - 1]
    return jnp.where(rows == columns, diagonal[..., None, :], jnp.where(rows > columns, below, 0))


def _softmax_sample(key: Array, logits: Array, labels: Array) -> Array:
    del labels
    drawn = jax.random.categorical(key, logits)
    return jax.nn.softmax(logits) - jax.nn.one_hot(drawn, logits.shape[-1], dtype=logits.dtype)


cross_entropy = Loss(_cross_entropy, _softmax_root, _softmax_sample)
"""Softmax cross-entropy; H = diag(p) - p p^T. Labels are integers, or probabilities of outputs."""


def _targets(logits: Array, labels: Array) -> Array:
    check_labels(logits.shape, labels)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return labels


def _squared_error(logits: Array, labels: Array) -> Array:
    squares = 0.5 * (logits - _targets(logits, labels)) ** 2
    return squares if logits.ndim == 1 else jnp.sum(squares, axis=-1)


def _identity_root(logits: Array, labels: Array) -> Array:
    del labels
    outputs = logits.shape[-1]
    return jnp.broadcast_to(jnp.eye(outputs, dtype=logits.dtype), (*logits.shape, outputs))


def _signs(key: Array, logits: Array, labels: Array) -> Array:
    del labels
    return jax.random.rademacher(key, logits.shape, dtype=logits.dtype)


squared_error = Loss(_squared_error, _identity_root, _signs)
"""Half the squared distance, 1/2 ||f - y||^2; H = I. Integer labels are one-hot targets."""

LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "squared_error": squared_error}

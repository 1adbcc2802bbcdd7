"""Losses of one example, and square roots of their Hessians in the logits."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax.types import Array, LossFn

__all__ = ["LOSSES", "Loss", "cross_entropy", "squared_error"]


class Loss(NamedTuple):
    """A loss and the root of its Hessian.

    Attributes:
      value: (logits, labels) -> the loss of every example, shape (examples,).
      hessian_root: (logits, labels) -> S, shape (examples, outputs, columns), with S S^T the
        Hessian of the loss in the logits.
      sampled_root: (key, logits, labels) -> s, shape (examples, outputs), with E[s s^T] = S S^T.
    """

    value: LossFn
    hessian_root: Callable[[Array, Array], Array]
    sampled_root: Callable[[Array, Array, Array], Array]


def check_labels(logits: tuple[int, ...], labels: Array) -> None:
    """Checks that labels fit logits of a shape.

    Raises:
      ValueError: integer labels are not (examples,), or others not of the shape of the logits.
    """
    integer = jnp.issubdtype(labels.dtype, jnp.integer)
    needed = tuple(logits[:1]) if integer else tuple(logits)
    if labels.shape != needed:
        kind = "integer labels" if integer else "float labels"
        raise ValueError(
            f"{kind} have shape {labels.shape} and the logits {tuple(logits)}; "
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


def _cross_entropy(logits: Array, labels: Array) -> Array:
    check_labels(logits.shape, labels)
    log_p = jax.nn.log_softmax(logits)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
    return -jnp.sum(labels * log_p, axis=1)


def _softmax_root(logits: Array, labels: Array) -> Array:
    del labels
    p = jax.nn.softmax(logits)
    root = jnp.sqrt(p)
    return root[:, :, None] * (
        jnp.eye(p.shape[1], dtype=p.dtype) - root[:, :, None] * root[:, None]
    )


def _softmax_sample(key: Array, logits: Array, labels: Array) -> Array:
    del labels
    drawn = jax.random.categorical(key, logits)
    return jax.nn.softmax(logits) - jax.nn.one_hot(drawn, logits.shape[1], dtype=logits.dtype)


cross_entropy = Loss(_cross_entropy, _softmax_root, _softmax_sample)
"""Softmax cross-entropy; H = diag(p) - p p^T. Labels are integers, or probabilities per output."""


def _targets(logits: Array, labels: Array) -> Array:
    check_labels(logits.shape, labels)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return labels


def _squared_error(logits: Array, labels: Array) -> Array:
    return 0.5 * jnp.sum((logits - _targets(logits, labels)) ** 2, axis=1)


def _identity_root(logits: Array, labels: Array) -> Array:
    del labels
    examples, outputs = logits.shape
    return jnp.broadcast_to(jnp.eye(outputs, dtype=logits.dtype), (examples, outputs, outputs))


def _signs(key: Array, logits: Array, labels: Array) -> Array:
    del labels
    return jax.random.rademacher(key, logits.shape, dtype=logits.dtype)


squared_error = Loss(_squared_error, _identity_root, _signs)
"""Half the squared distance, 1/2 ||f - y||^2; H = I. Integer labels are one-hot targets."""

LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "squared_error": squared_error}

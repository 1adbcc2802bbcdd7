"""The Kullback-Leibler divergence between the outputs of two networks, from their logits."""

import jax
import jax.numpy as jnp

from pruning_jax.types import Array

# Moves of logits that lose less to rounding than the logits themselves do.
_NEAR = 4.0


def divergences(reference: Array, logits: Array) -> Array:
    """The Kullback-Leibler divergence of every example, between the softmax of two logits.

        KL(p || q) = sum_c p_c (log p_c - log q_c) = sum_c p_c (exp(d_c) - 1 - d_c)

    with d = log q - log p. No term of the second sum is negative, so none cancel. Where no logit
    moves by more than 4, the divergence is taken from the moves x = logits - reference,

        KL(p || q) = log E_p exp(y) - E_p y,  y = x - E_p x,

    whose small values keep their digits; the difference of two rounded logarithms loses them.

    Args:
      reference: the logits of p, finite, shape (examples, outputs).
      logits: those of q.

    Returns:
      The divergences, shape (examples,), in single precision or better; finite, never negative.
    """
    dtype = jnp.result_type(reference, logits, jnp.float32)
    reference, logits = reference.astype(dtype), logits.astype(dtype)
    moves = logits - reference
    near = jnp.abs(moves).max(-1) <= _NEAR
    moves = jnp.where(near[..., None], moves, 0)
    return jnp.where(near, _near(reference, moves), _far(reference, logits))


def _near(reference: Array, moves: Array) -> Array:
    """The divergence from the moves of the logits; first order in them cancels exactly."""
    p = jax.nn.softmax(reference)
    x = moves - jnp.take_along_axis(moves, reference.argmax(-1, keepdims=True), -1)
    y = x - (p * x).sum(-1, keepdims=True)
    left = (p * y).sum(-1)  # rounding
    series = jnp.ones_like(y)
    for order in range(10, 2, -1):
        series = 1 + y / order * series
    small = jnp.abs(y) < 0.5
    excess = (p * jnp.where(small, y**2 / 2 * series, jnp.expm1(y) - y)).sum(-1)
    return jnp.maximum(jnp.log1p(excess + left) - left, 0)


def _far(reference: Array, logits: Array) -> Array:
    """The divergence from the log-softmax of both logits."""
    least = jnp.finfo(logits.dtype).min / 2
    log_p, log_q = (jnp.maximum(jax.nn.log_softmax(x), least) for x in (reference, logits))
    d, p = log_q - log_p, jnp.exp(log_p)
    near = p * (jnp.expm1(jnp.minimum(d, 1)) - d)
    far = jnp.exp(log_q) - p - p * d
    return jnp.maximum(jnp.where(d < 1, near, far), 0).sum(-1)

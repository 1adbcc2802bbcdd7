"""The mean gradient and Hessian-vector products, of any model."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from pruning_jax import losses
from pruning_jax.curvature import averaging
from pruning_jax.losses import Loss
from pruning_jax.types import ApplyFn, Batch, Params, PyTree


def _is_none(leaf: object) -> bool:
    return leaf is None


def _differentiable(variables: Params) -> PyTree:
    """The floating leaves; ``None`` for the others (counters, random keys)."""
    return jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating) else None,
        variables,
    )


def _merge(floating: PyTree, variables: Params) -> Params:
    return jax.tree.map(
        lambda leaf, whole: whole if leaf is None else leaf, floating, variables, is_leaf=_is_none
    )


def _loss_sum(floating: PyTree, apply_fn: ApplyFn, loss: Loss, variables: Params, batch: Batch):
    logits = apply_fn(_merge(floating, variables), batch.inputs)
    return jnp.sum(loss.value(logits, batch.labels))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient_sum(apply_fn: ApplyFn, loss: Loss, variables: Params, batch: Batch) -> PyTree:
    return jax.grad(_loss_sum)(_differentiable(variables), apply_fn, loss, variables, batch)


def gradient(
    apply_fn: ApplyFn,
    variables: Params,
    batches: Batch | Iterable[Batch],
    *,
    loss: Loss = losses.cross_entropy,
) -> PyTree:
    """The gradient of the mean loss.

        g = E_x dL(f(x), y) / d theta

    Args:
      apply_fn: the model, in evaluation mode.
      variables: its variables.
      batches: one batch or an iterable of them; the mean is over all examples.
      loss: one of `losses.LOSSES`.

    Returns:
      A pytree like `variables`; ``None`` for leaves that are not floating. Half-precision
      leaves have single-precision values.

    Raises:
      ValueError: no batches, no `Loss`, labels that do not match the inputs or the outputs, inputs
        or labels that are not finite.
    """
    return averaging.mean(
        (batch.labels.shape[0], _gradient_sum(apply_fn, loss, variables, batch))
        for batch in averaging.checked(apply_fn, variables, batches, loss)
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _hvp_sum(apply_fn: ApplyFn, loss: Loss, variables: Params, vector: PyTree, batch: Batch):
    floating = _differentiable(variables)
    tangents = jax.tree.map(
        lambda leaf, v: None if leaf is None else jnp.zeros_like(leaf) if v is None else v,
        floating,
        vector,
        is_leaf=_is_none,
    )
    grad = functools.partial(
        jax.grad(_loss_sum), apply_fn=apply_fn, loss=loss, variables=variables, batch=batch
    )
    return jax.jvp(grad, (floating,), (tangents,))[1]


def hessian_vector_product(
    apply_fn: ApplyFn,
    variables: Params,
    vector: PyTree,
    batches: Batch | Iterable[Batch],
    *,
    loss: Loss = losses.cross_entropy,
) -> PyTree:
    """The Hessian of the mean loss times a vector, forward over reverse.

        H v,  H = E_x d^2 L(f(x), y) / d theta^2

    Args:
      apply_fn, variables, batches, loss: as in `gradient`.
      vector: a pytree like `variables`; ``None`` stands for zeros.

    Returns:
      A pytree like `variables`; ``None`` for leaves that are not floating. Half-precision
      leaves have single-precision values.

    Raises:
      ValueError: no batches, no `Loss`, labels that do not match the inputs or the outputs, inputs
        or labels that are not finite.
    """
    return averaging.mean(
        (batch.labels.shape[0], _hvp_sum(apply_fn, loss, variables, vector, batch))
        for batch in averaging.checked(apply_fn, variables, batches, loss)
    )

"""The diagonal of the generalised Gauss-Newton matrix, layer by layer."""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import losses, trees
from pruning_jax.curvature import averaging, derivatives, layer_gradients
from pruning_jax.losses import Loss
from pruning_jax.tracing import Trace, Use
from pruning_jax.types import Array, Batch, Params, PyTree

_PIECE_BYTES = {"cpu": 12 * 2**20}
"""Bytes of cotangents handled at once; on CPU, what stays in its caches."""

_PIECE_BYTES_ELSEWHERE = 2**30
_SMALLEST_PIECE = 4


def _roots(
    loss: Loss, samples: int | None, key: Array | None, first: Array, logits: Array, labels: Array
) -> Array:
    """Columns of the Hessian's root, shape (columns, examples, outputs)."""
    if samples is None:
        return jnp.moveaxis(loss.hessian_root(logits, labels), 2, 0)

    def sample(number: Array, example: Array, logit: Array, label: Array) -> Array:
        folded = jax.random.fold_in(jax.random.fold_in(key, number), example)
        return loss.sampled_root(folded, logit[None], label[None])[0]

    over_examples = jax.vmap(sample, in_axes=(None, 0, 0, 0))
    numbers, rows = jnp.arange(samples), first + jnp.arange(logits.shape[0])
    drawn = jax.vmap(over_examples, in_axes=(0, None, None, None))(numbers, rows, logits, labels)
    return drawn / np.sqrt(samples)


def _uses(trace: Trace) -> dict[str, tuple[Use, ...]]:
    biases = {layer.bias: layer.bias_uses for layer in trace.layers if layer.bias is not None}
    return {layer.kernel: layer.uses for layer in trace.layers} | biases


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _ggn_sum(
    trace: Trace,
    loss: Loss,
    samples: int | None,
    variables: Params,
    batch: Batch,
    weights: Array,
    key: Array | None,
    first: Array,
) -> PyTree:
    model, uses = trace.model, _uses(trace)
    every = [use for group in uses.values() for use in group]
    data = {layer_gradients.data(model, use) for use in every if use.kind != "bias"}
    outputs = {layer_gradients.output(model, use) for use in every}
    logits, arrays, pull_back = derivatives.backward(model, outputs, data, variables, batch.inputs)
    roots = _roots(loss, samples, key, first, logits, batch.labels) * weights[:, None]
    cotangents = jax.vmap(pull_back)(roots.astype(logits.dtype))
    sums = {
        leaf: layer_gradients.squared_sum(model, group, variables, arrays, cotangents)
        for leaf, group in uses.items()
    }
    return jax.tree_util.tree_map_with_path(
        lambda path, _: sums.get(trees.path_name(path)), variables
    )


def _pieces(
    trace: Trace, batch: Batch, samples: int | None
) -> Iterator[tuple[int, Batch, np.ndarray]]:
    """Splits a batch so that its cotangents fit: (first example, examples, their weights)."""
    model = trace.model
    values = {layer_gradients.output(model, use) for layer in trace.layers for use in layer.uses}
    entries = sum(math.prod(model.shape(value)) for value in values)
    columns = samples or model.shape(model.logits)[1]
    budget = _PIECE_BYTES.get(jax.default_backend(), _PIECE_BYTES_ELSEWHERE)
    limit = max(budget // (4 * entries * columns), _SMALLEST_PIECE)
    examples = batch.labels.shape[0]
    size = math.ceil(examples / math.ceil(examples / limit))
    for first in range(0, examples, size):
        rows = np.arange(first, first + size)
        weights = (rows < examples).astype(np.float32)
        if size == examples:
            yield first, batch, weights
        elif rows[-1] < examples:
            yield first, jax.tree.map(lambda x, at=first: x[at : at + size], batch), weights
        else:
            rows = np.minimum(rows, examples - 1)
            yield first, jax.tree.map(lambda x, at=rows: x[at], batch), weights


def ggn_diagonal(
    model: Any,
    variables: Params,
    batches: Batch | Iterable[Batch],
    *,
    loss: Loss = losses.cross_entropy,
    key: Array | None = None,
    samples: int | None = None,
) -> PyTree:
    """The diagonal of the generalised Gauss-Newton matrix of the mean loss.

        G_kk = E_x sum_c (sum_o df_o / d theta_k  S_oc)^2,   S S^T = d^2 L / df^2

    For cross-entropy this is E_x sum_c p_c (d log p_c / d theta_k)^2.

    Args:
      model: a function in evaluation mode, which is traced, or its `Trace` or `UnitGraph`.
      variables, batches, loss: as in `gradient`.
      key: ``None`` for the exact diagonal; a random key for its Monte Carlo estimate.
      samples: draws for each example of the estimate; 1 when ``None``.

    Returns:
      A pytree like `variables`, with an array for the kernel and the bias of every layer that
      `tracing.trace` finds, and ``None`` for every other leaf. Half-precision leaves have
      single-precision values.

    Raises:
      ValueError: no batches, no `Loss`, labels that do not match, inputs or labels that are not
        finite, a model that cannot be traced, that mixes examples or that depends on Python-side
        state, `samples` without `key`, or a key that is none.

    Source: Laurent et al. 2020, *Revisiting Loss Modelling for Unstructured Pruning*, section 3.
    """
    if key is None and samples is not None:
        raise ValueError("samples is for the Monte Carlo estimate: give a key, or samples=None")
    if samples is not None and samples < 1:
        raise ValueError(f"samples is {samples}; it must be 1 or more")
    averaging.check_key(key)
    draws = None if key is None else samples or 1

    def sums() -> Iterator[tuple[int, PyTree]]:
        start = 0
        for trace, batch in averaging.traced(model, variables, batches, loss):
            for first, piece, weights in _pieces(trace, batch, draws):
                part = _ggn_sum(trace, loss, draws, variables, piece, weights, key, start + first)
                yield int(weights.sum()), part
            start += batch.labels.shape[0]

    return averaging.mean(sums())

"""The diagonal of the generalised Gauss-Newton matrix, layer by layer."""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import losses, tracing, trees
from pruning_jax.curvature import averaging, layer_gradients
from pruning_jax.losses import Loss
from pruning_jax.tracing import equations, provenance
from pruning_jax.types import ApplyFn, Array, Batch, Params, PyTree

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
        own = jax.random.fold_in(jax.random.fold_in(key, number), example)
        return loss.sampled_root(own, logit[None], label[None])[0]

    over_examples = jax.vmap(sample, in_axes=(None, 0, 0, 0))
    numbers, rows = jnp.arange(samples), first + jnp.arange(logits.shape[0])
    drawn = jax.vmap(over_examples, in_axes=(0, None, None, None))(numbers, rows, logits, labels)
    return drawn / np.sqrt(samples)


def _uses(trace: tracing.Trace) -> dict[str, tuple[provenance.Use, ...]]:
    biases = {layer.bias: layer.bias_uses for layer in trace.layers if layer.bias is not None}
    return {layer.kernel: layer.uses for layer in trace.layers} | biases


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _ggn_sum(
    apply_fn: ApplyFn,
    loss: Loss,
    samples: int | None,
    variables: Params,
    batch: Batch,
    weights: Array,
    key: Array | None,
    first: Array,
) -> PyTree:
    trace = tracing.trace(apply_fn, variables, batch.inputs, examples=batch.labels.shape[0])
    model, uses = trace.model, _uses(trace)
    every = [use for group in uses.values() for use in group]
    kept = layer_gradients.needed(model, every)
    taps = {
        value: jnp.zeros(model.avals[value].shape, model.avals[value].dtype)
        for value in {layer_gradients.output(model, use) for use in every}
    }
    logits, pull_back, arrays = jax.vjp(
        lambda t: equations.evaluate(model, variables, batch.inputs, t, kept.__contains__),
        taps,
        has_aux=True,
    )
    roots = _roots(loss, samples, key, first, logits, batch.labels) * weights[:, None]
    (cotangents,) = jax.vmap(pull_back)(roots.astype(logits.dtype))
    leaves = trees.named_leaves(variables)
    sums = {
        leaf: layer_gradients.squared_sum(model, group, leaves[leaf], arrays, cotangents)
        for leaf, group in uses.items()
    }
    return jax.tree_util.tree_map_with_path(
        lambda path, _: sums.get(trees.path_name(path)), variables
    )


@functools.lru_cache(maxsize=64)
def _entries_a_column(apply_fn: ApplyFn, structure: Any, arrays: tuple) -> tuple[int, int]:
    """Entries of the cotangents of one example and one column; the number of outputs."""
    shapes = [jax.ShapeDtypeStruct(*array) for array in arrays]
    trace = tracing.trace(apply_fn, *jax.tree.unflatten(structure, shapes))
    model = trace.model
    values = {layer_gradients.output(model, use) for layer in trace.layers for use in layer.uses}
    entries = sum(math.prod(model.avals[value].shape) for value in values) // model.examples
    return entries, model.avals[model.output].shape[1]


def _pieces(
    apply_fn: ApplyFn, variables: Params, batch: Batch, samples: int | None
) -> Iterator[tuple[int, Batch, np.ndarray]]:
    """Splits a batch so that its cotangents fit: (first example, examples, their weights)."""
    specification = averaging.specification(variables, batch.inputs)
    entries, outputs = _entries_a_column(apply_fn, *specification)
    budget = _PIECE_BYTES.get(jax.default_backend(), _PIECE_BYTES_ELSEWHERE)
    limit = max(budget // (4 * entries * (samples or outputs)), _SMALLEST_PIECE)
    examples = batch.labels.shape[0]
    size = max(math.ceil(examples / math.ceil(examples / limit)), 2)
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
    apply_fn: ApplyFn,
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
      apply_fn, variables, batches, loss: as in `gradient`.
      key: ``None`` for the exact diagonal; a random key for its Monte Carlo estimate.
      samples: draws for each example of the estimate; 1 when ``None``.

    Returns:
      A pytree like `variables`, with an array for the kernel and the bias of every layer that
      `tracing.trace` finds, and ``None`` for every other leaf. Half-precision leaves have
      single-precision values.

    Raises:
      ValueError: no batches, no `Loss`, labels that do not match, inputs or labels that are not
        finite, a model that cannot be traced, `samples` without `key`, or a key that is none.

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
        for batch in averaging.checked(apply_fn, variables, batches, loss):
            for first, piece, weights in _pieces(apply_fn, variables, batch, draws):
                part = _ggn_sum(
                    apply_fn, loss, draws, variables, piece, weights, key, start + first
                )
                yield int(weights.sum()), part
            start += batch.labels.shape[0]

    return averaging.mean(sums())

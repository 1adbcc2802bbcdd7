"""Exact means over a dataset."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pruning_jax import losses
from pruning_jax.lab import meshes, processes, replicates
from pruning_jax.types import ApplyFn, Array, Batch, Params


class Metrics(NamedTuple):
    """Means over every position that counts: the loss, and the share of right answers in [0, 1].

    The accuracy is NaN where an output is a number, shape (examples,).
    """

    loss: np.ndarray
    accuracy: np.ndarray


def correct(logits: Array, labels: Array) -> Array:
    """Whether each position's largest logit is its label's; float targets by their largest.

    Where an output is a number, shape (examples,), no answer is right or wrong: NaN.
    """
    if logits.ndim < 2:
        return jnp.full(logits.shape, jnp.nan)
    wanted = labels if jnp.issubdtype(labels.dtype, jnp.integer) else labels.argmax(-1)
    return logits.argmax(-1) == wanted


def totals(loss: losses.Loss, logits: Array, batch: Batch) -> tuple[Array, Array]:
    """The losses and the right answers of a batch's positions, by their weights, summed.

    Both are divided by `losses.count` of the examples.
    """
    right = correct(logits, batch.labels)
    if batch.weights is not None:
        right = right * batch.weights
    return losses.total(loss, logits, batch), right.sum()


@functools.lru_cache(maxsize=64)
def _sums(apply_fn: ApplyFn, loss: losses.Loss, count: int = 0, mesh: Mesh | None = None):
    def sums(variables, batch):
        batch = meshes.share(batch, mesh)
        found = totals(loss, apply_fn(variables, batch.inputs), batch)
        return (*found, jnp.asarray(losses.count(batch), jnp.float32))

    return jax.jit(replicates.lift(sums, count, mesh) if count else sums)


def evaluate(
    apply_fn: ApplyFn,
    variables: Params,
    batch: Batch,
    *,
    loss: losses.Loss = losses.cross_entropy,
    chunk: int = 2_000,
    replicated: bool = False,
    mesh: Mesh | None = None,
) -> Metrics:
    """The mean loss and accuracy over all of `batch`.

    Args:
      apply_fn: the model, in evaluation mode.
      variables: what it is applied to.
      batch: the examples.
      loss: of a position.
      chunk: examples of all replicates that a device has in memory at once; the means do not depend
        on it beyond rounding.
      replicated: whether the leaves of `variables` and `batch` have a leading replicate axis, and
        so the metrics.
      mesh: whose devices share replicates and their examples; by default the one in use.
    """
    axis = int(replicated)
    examples = batch.labels.shape[axis]
    if examples == 0:
        raise ValueError("the batch has 0 examples; a mean needs at least 1")
    sums, count = _sums(apply_fn, loss), batch.labels.shape[0]
    if replicated:
        mesh = meshes.current() if mesh is None else mesh
        variables, batch = replicates.place((variables, batch), mesh)
        placed = batch.labels.shape[0]
        sums = _sums(apply_fn, loss, placed, mesh)
        chunk = max(1, chunk * replicates.slots(mesh) // placed)
    sum_of_parts = 0.0
    for first in range(0, examples, chunk):
        place = (slice(None),) * axis + (slice(first, first + chunk),)
        part = jax.tree.map(lambda x, at=place: x[at], batch) if chunk < examples else batch
        parts = sums(variables, part)
        sum_of_parts += np.asarray([processes.fetch(part) for part in parts], np.float64)
    loss_sum, right, counted = sum_of_parts
    if not np.all(counted):
        raise ValueError("the weights are 0 at every position; a mean needs one that counts")
    metrics = Metrics(loss_sum / counted, right / counted)
    return replicates.trim(metrics, count) if replicated else metrics

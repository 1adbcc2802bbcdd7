"""Batches of examples: checked, and sums over them made into means."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax.types import ApplyFn, Array, Batch, Params, PyTree


def specification(variables: Params, inputs: PyTree) -> tuple[Any, tuple]:
    """The structure and the shapes of a model's arguments, as keys of a cache."""
    leaves, structure = jax.tree.flatten((variables, inputs))
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in map(jnp.asarray, leaves))


@functools.lru_cache(maxsize=64)
def output_width(apply_fn: ApplyFn, structure: Any, arrays: tuple) -> int:
    """The width of the logits of a model of that `specification`."""
    shapes = [jax.ShapeDtypeStruct(*array) for array in arrays]
    logits = jax.eval_shape(apply_fn, *jax.tree.unflatten(structure, shapes))
    if len(getattr(logits, "shape", ())) != 2:
        raise ValueError(f"apply_fn returned {logits}; it must return logits (examples, outputs)")
    return logits.shape[1]


def checked(
    apply_fn: ApplyFn, variables: Params, batches: Batch | Iterable[Batch]
) -> Iterator[Batch]:
    """The batches, each checked.

    Raises:
      ValueError: there are none; one is no Batch; labels do not match the inputs or the outputs.
    """
    empty = True
    for batch in [batches] if isinstance(batches, Batch) else batches:
        empty = False
        if not isinstance(batch, Batch):
            raise ValueError(f"batches must be a Batch or an iterable of Batch, not {type(batch)}")
        examples = jax.tree.leaves(batch.inputs)[0].shape[0]
        if examples == 0 or batch.labels.shape[:1] != (examples,):
            raise ValueError(
                f"a batch has inputs of {examples} examples and labels of shape "
                f"{batch.labels.shape}; it needs at least one example, and a label for each"
            )
        if jnp.issubdtype(batch.labels.dtype, jnp.integer) and not isinstance(
            batch.labels, jax.core.Tracer
        ):
            outputs = output_width(apply_fn, *specification(variables, batch.inputs))
            low, high = int(np.min(batch.labels)), int(np.max(batch.labels))
            if low < 0 or high >= outputs:
                raise ValueError(
                    f"labels go from {low} to {high}; for {outputs} outputs they must be in "
                    f"[0, {outputs - 1}]"
                )
        yield batch
    if empty:
        raise ValueError("batches is empty; give at least one Batch")


@jax.jit
def _add(total: PyTree, part: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, total, part)


@jax.jit
def _divide(total: PyTree, count: Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf / count.astype(leaf.dtype), total)


def mean(sums: Iterable[tuple[int, PyTree]]) -> PyTree:
    """The sums' total over all examples, divided by their number; each is (examples, sum)."""
    total, count = None, 0
    for examples, part in sums:
        total = part if total is None else _add(total, part)
        count += examples
    return _divide(total, np.float64(count))

"""Batches of examples: checked, and sums over them made into means."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import losses
from pruning_jax.losses import Loss
from pruning_jax.types import ApplyFn, Array, Batch, Params, PyTree


def specification(variables: Params, inputs: PyTree) -> tuple[Any, tuple]:
    """The structure and the shapes of a model's arguments, as keys of a cache."""
    leaves, structure = jax.tree.flatten((variables, inputs))
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in map(jnp.asarray, leaves))


@functools.lru_cache(maxsize=64)
def output_width(apply_fn: ApplyFn, structure: Any, arrays: tuple) -> int:
    """The width of the logits of a model of that `specification`."""
    shapes = [jax.ShapeDtypeStruct(*array) for array in arrays]
    variables, inputs = jax.tree.unflatten(structure, shapes)
    try:
        logits = jax.eval_shape(apply_fn, variables, inputs)
    except TypeError as error:
        found = [leaf.shape for leaf in jax.tree.leaves(inputs)]
        raise ValueError(f"apply_fn failed for inputs of shape {found}: {error}") from error
    if len(getattr(logits, "shape", ())) != 2:
        raise ValueError(f"apply_fn returned {logits}; it must return logits (examples, outputs)")
    return logits.shape[1]


def check_key(key: object) -> None:
    """Checks that `key` is ``None`` or a random key.

    Raises:
      ValueError: it is neither.
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    raw = dtype == np.uint32 and len(key.shape) == 1
    if not (key is None or (typed and not key.shape) or raw):
        raise ValueError(f"key must be one random key, as jax.random.key(0), not {key!r}")


def _check_batch(apply_fn: ApplyFn, variables: Params, batch: Batch) -> None:
    leaves = jax.tree.leaves(batch.inputs)
    arrays = all(len(getattr(leaf, "shape", ())) and hasattr(leaf, "dtype") for leaf in leaves)
    if not (leaves and arrays and hasattr(batch.labels, "shape")):
        raise ValueError(
            "the inputs and labels of a Batch must be arrays (examples, ...), not "
            f"{type(batch.inputs).__name__} and {type(batch.labels).__name__} of Python numbers"
        )
    examples = leaves[0].shape[0]
    if examples == 0 or batch.labels.shape[:1] != (examples,):
        raise ValueError(
            f"a batch has inputs of {examples} examples and labels of shape "
            f"{batch.labels.shape}; it needs at least one example, and a label for each"
        )
    outputs = output_width(apply_fn, *specification(variables, batch.inputs))
    losses.check_labels((examples, outputs), batch.labels)
    integer = jnp.issubdtype(batch.labels.dtype, jnp.integer)
    if integer and not isinstance(batch.labels, jax.core.Tracer):
        labels = np.asarray(batch.labels)
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= outputs:
            raise ValueError(
                f"labels go from {low} to {high}; for {outputs} outputs they must be in "
                f"[0, {outputs - 1}]"
            )


@jax.jit
def _all_finite(batch: Batch) -> Batch:
    """Whether the floats of the inputs, and those of the labels, are all finite."""

    def finite(tree: PyTree) -> Array:
        floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
        return jnp.all(jnp.array([jnp.isfinite(x).all() for x in floats]))

    return Batch(finite(batch.inputs), finite(batch.labels))


def _check_finite(flags: list[Batch]) -> None:
    for number, batch in enumerate(flags):
        for what, flag in batch._asdict().items():
            if not isinstance(flag, jax.core.Tracer) and not flag:
                raise ValueError(f"the {what} of batch {number} are not all finite")


def checked(
    apply_fn: ApplyFn, variables: Params, batches: Batch | Iterable[Batch], loss: Loss
) -> Iterator[Batch]:
    """The batches, each checked; whether they are finite is asked after the last, not to wait.

    Raises:
      ValueError: there are none; one is no Batch; labels do not match the inputs or the outputs;
        inputs or labels are not finite; `loss` is no Loss.
    """
    losses.check_loss(loss)
    flags = []
    for batch in [batches] if isinstance(batches, Batch) else batches:
        if not isinstance(batch, Batch):
            raise ValueError(
                f"batches must be a Batch or an iterable of Batch, not of {type(batch).__name__}; "
                "wrap it as Batch(inputs, labels)"
            )
        _check_batch(apply_fn, variables, batch)
        flags.append(_all_finite(batch))
        yield batch
    if not flags:
        raise ValueError("batches is empty; give at least one Batch")
    _check_finite(flags)


def _at_least_single(leaf: Array) -> Array:
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


@jax.jit
def _add(total: PyTree, part: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: _at_least_single(a) + _at_least_single(b), total, part)


@jax.jit
def _divide(total: PyTree, count: Array) -> PyTree:
    total = jax.tree.map(_at_least_single, total)
    return jax.tree.map(lambda leaf: leaf / count.astype(leaf.dtype), total)


def mean(sums: Iterable[tuple[int, PyTree]]) -> PyTree:
    """The sums' total over all examples, divided by their number; each is (examples, sum)."""
    total, count = None, 0
    for examples, part in sums:
        total = part if total is None else _add(total, part)
        count += examples
    return _divide(total, np.float64(count))

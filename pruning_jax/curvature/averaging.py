"""Batches of examples: checked, and sums over them made into means."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import losses, tracing
from pruning_jax.losses import Loss
from pruning_jax.tracing import Trace
from pruning_jax.types import ApplyFn, Array, Batch, Params, PyTree


@functools.lru_cache(maxsize=64)
def _outputs(apply_fn: ApplyFn, structure: Any, arrays: tuple) -> int:
    """The width of the logits of a model for arguments of that structure and these shapes."""
    shapes = [jax.ShapeDtypeStruct(*array) for array in arrays]
    variables, inputs = jax.tree.unflatten(structure, shapes)
    try:
        logits = jax.eval_shape(apply_fn, variables, inputs)
    except TypeError as error:
        sizes = [leaf.shape for leaf in jax.tree.leaves(inputs)]
        raise ValueError(f"apply_fn failed for inputs of shape {sizes}: {error}") from error
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


def _check_arrays(batch: Batch) -> None:
    if not isinstance(batch, Batch):
        raise ValueError(
            f"batches must be a Batch or an iterable of Batch, not of {type(batch).__name__}; "
            "wrap it as Batch(inputs, labels)"
        )
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


def _check_labels(labels: Array, outputs: int) -> None:
    losses.check_labels((labels.shape[0], outputs), labels)
    integer = jnp.issubdtype(labels.dtype, jnp.integer)
    if integer and not isinstance(labels, jax.core.Tracer):
        low, high = int(np.asarray(labels).min()), int(np.asarray(labels).max())
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


def _checked(
    batches: Batch | Iterable[Batch], loss: Loss, outputs: Callable[[PyTree], int]
) -> Iterator[Batch]:
    """The batches, each checked; `outputs` says how wide the logits of some inputs are."""
    losses.check_loss(loss)
    flags = []
    for batch in [batches] if isinstance(batches, Batch) else batches:
        _check_arrays(batch)
        _check_labels(batch.labels, outputs(batch.inputs))
        flags.append(_all_finite(batch))
        yield batch
    if not flags:
        raise ValueError("batches is empty; give at least one Batch")
    _check_finite(flags)


def checked(
    apply_fn: ApplyFn, variables: Params, batches: Batch | Iterable[Batch], loss: Loss
) -> Iterator[Batch]:
    """The batches, each checked; whether they are finite is asked after the last, not to wait.

    Raises:
      ValueError: there are none; one is no Batch; labels do not match the inputs or the outputs;
        inputs or labels are not finite; `loss` is no Loss.
    """

    def outputs(inputs: PyTree) -> int:
        leaves, structure = jax.tree.flatten((variables, inputs))
        arrays = tuple((leaf.shape, leaf.dtype) for leaf in map(jnp.asarray, leaves))
        return _outputs(apply_fn, structure, arrays)

    return _checked(batches, loss, outputs)


def traced(
    model: Any, variables: Params, batches: Batch | Iterable[Batch], loss: Loss
) -> Iterator[tuple[Trace, Batch]]:
    """The batches as `checked` gives them, each with the model's trace, checked on the first.

    Args:
      model: a function, a `Trace` or a `UnitGraph`.
      variables, batches, loss: the model's variables, its data and its loss.

    Raises:
      ValueError: as `checked`, `tracing.traced` and `tracing.check`.
    """

    def trace(inputs: PyTree) -> Trace:
        return tracing.traced(model, variables, inputs)

    def outputs(inputs: PyTree) -> int:
        equations = trace(inputs).model
        return equations.shape(equations.logits)[1]

    for batch in _checked(batches, loss, outputs):
        tracing.check(trace(batch.inputs), variables, batch.inputs)
        yield trace(batch.inputs), batch


@jax.jit
def _average(parts: tuple[PyTree, ...], count: Array) -> PyTree:
    """The sum of one or two parts, divided by a count."""
    parts = jax.tree.map(at_least_single, parts)
    return jax.tree.map(lambda *leaves: sum(leaves) / count.astype(leaves[0].dtype), *parts)


def mean(sums: Iterable[tuple[int, PyTree]]) -> PyTree:
    """The sums' total over all examples, divided by their number; each is (examples, sum).

    The last sum is added and divided in one program: one to compile, not two.
    """
    parts, count = (), 0
    for examples, part in sums:
        parts = (_average(parts, np.float64(1)), part) if len(parts) == 2 else (*parts, part)
        count += examples
    return _average(parts, np.float64(count))


def at_least_single(array: Array) -> Array:
    """The array in at least 32 bits."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))

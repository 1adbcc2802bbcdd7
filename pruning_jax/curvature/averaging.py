"""Batches of examples: checked, and sums over them made into means."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import losses, tracing, trees
from pruning_jax.losses import Loss
from pruning_jax.tracing import Trace
from pruning_jax.types import ApplyFn, Array, Batch, Params, PyTree


@functools.lru_cache(maxsize=64)
def _logits(apply_fn: ApplyFn, structure: Any, arrays: tuple) -> tuple[int, ...]:
    """The shape of the logits of a model for arguments of that structure and these shapes."""
    shapes = [jax.ShapeDtypeStruct(*array) for array in arrays]
    variables, inputs = jax.tree.unflatten(structure, shapes)
    sizes = [leaf.shape for leaf in jax.tree.leaves(inputs)]
    try:
        logits = jax.eval_shape(apply_fn, variables, inputs)
    except TypeError as error:
        raise ValueError(f"apply_fn failed for inputs of shape {sizes}: {error}") from error
    if getattr(logits, "shape", ())[:1] != sizes[0][:1]:
        raise ValueError(
            f"apply_fn returned {logits} for inputs of shape {sizes}; it must return logits "
            "(examples, outputs) or (examples, ..., outputs), or numbers (examples,)"
        )
    _check_logits(logits.dtype)
    return logits.shape


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
    labels = [batch.labels] if batch.weights is None else [batch.labels, batch.weights]
    if not (leaves and arrays and all(hasattr(leaf, "shape") for leaf in labels)):
        raise ValueError(
            "the inputs, labels and weights of a Batch must be arrays (examples, ...), not "
            f"{type(batch.inputs).__name__}, {type(batch.labels).__name__} and "
            f"{type(batch.weights).__name__} of Python numbers"
        )
    examples = sorted({leaf.shape[0] for leaf in leaves})
    if examples[0] == 0 or batch.labels.shape[:1] != (examples[0],) or len(examples) > 1:
        found = " and ".join(map(str, examples))
        raise ValueError(
            f"a batch has inputs of {found} examples and labels of shape {batch.labels.shape}; it "
            "needs at least one example, as many in every input, and a label for each"
        )


def _check_logits(dtype: Any) -> None:
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"the model's outputs are {dtype}, and logits, by which a loss is differentiated, are "
            "floats; return those, or select= them"
        )


def _check_labels(batch: Batch, logits: tuple[int, ...]) -> None:
    losses.check_labels(logits, batch.labels, batch.weights)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in batch[1:]):
        return
    labels, weights = np.asarray(batch.labels), batch.weights
    if weights is not None:
        weights = np.asarray(weights, np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(
                f"weights go from {weights.min()} to {weights.max()}; they must be finite and 0 or "
                "more"
            )
    if jnp.issubdtype(labels.dtype, jnp.integer):
        counted = labels if weights is None else labels[weights > 0]
        low, high = (int(counted.min()), int(counted.max())) if counted.size else (0, 0)
        if low < 0 or high >= logits[-1]:
            raise ValueError(
                f"labels go from {low} to {high}; for {logits[-1]} outputs they must be in "
                f"[0, {logits[-1] - 1}]"
                + " wherever they count: give weights of 0 to those that mean nothing"
                * (low < 0)
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
        for what, flag in zip(("inputs", "labels"), batch, strict=False):
            if not isinstance(flag, jax.core.Tracer) and not flag:
                raise ValueError(f"the {what} of batch {number} are not all finite")


def _checked(
    batches: Batch | Iterable[Batch],
    loss: Loss,
    read: Callable[[Batch], tuple[Any, tuple[int, ...]]],
) -> Iterator[tuple[Any, Batch]]:
    """The batches, each checked, with what `read` finds beside the shape of its logits."""
    losses.check_loss(loss)
    flags, counted = [], 0.0
    for batch in [batches] if isinstance(batches, Batch) else batches:
        _check_arrays(batch)
        found, logits = read(batch)
        _check_labels(batch, logits)
        flags.append(_all_finite(batch))
        counted += losses.count(batch)
        yield found, batch
    if not flags:
        raise ValueError("batches is empty; give at least one Batch")
    if not isinstance(counted, jax.core.Tracer) and not counted:
        raise ValueError(
            "the weights are 0 at every position of every example; a mean needs one that counts"
        )
    _check_finite(flags)


def checked(
    apply_fn: ApplyFn, variables: Params, batches: Batch | Iterable[Batch], loss: Loss
) -> Iterator[Batch]:
    """The batches, each checked; whether they are finite is asked after the last, not to wait.

    Raises:
      ValueError: there are none; one is no Batch; labels or weights do not match the inputs or the
        outputs; nothing counts; inputs or labels are not finite; `loss` is no Loss.
    """

    def read(batch: Batch) -> tuple[None, tuple[int, ...]]:
        leaves, structure = jax.tree.flatten((variables, batch.inputs))
        arrays = tuple((leaf.shape, leaf.dtype) for leaf in map(jnp.asarray, leaves))
        return None, _logits(apply_fn, structure, arrays)

    return (batch for _, batch in _checked(batches, loss, read))


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

    def read(batch: Batch) -> tuple[Trace, tuple[int, ...]]:
        trace = tracing.traced(model, variables, batch.inputs)
        tracing.check(trace, variables, batch.inputs)
        shape = trace.model.shape(trace.model.logits)
        _check_logits(trace.model.avals[trace.model.logits].dtype)
        return trace, (batch.labels.shape[0], *shape[1:])

    return _checked(batches, loss, read)


@jax.jit
def _average(parts: tuple[PyTree, ...], count: Array) -> PyTree:
    """The sum of one or two parts, divided by a count."""
    parts = jax.tree.map(trees.at_least_single, parts)
    return jax.tree.map(lambda *leaves: sum(leaves) / count.astype(leaves[0].dtype), *parts)


def mean(sums: Iterable[tuple[float | Array, PyTree]]) -> PyTree:
    """The sums' total, divided by what they count together; each is (count, sum).

    Sums may have ``None`` where others have arrays. The last one is added and divided in one
    program: one to compile, not two.
    """
    totals: dict[Any, tuple[PyTree, ...]] = {}
    count = 0
    for counted, part in sums:
        parts = totals.get(structure := jax.tree.structure(part), ())
        parts = (_average(parts, np.float64(1)), part) if len(parts) == 2 else (*parts, part)
        totals[structure] = parts
        count += counted
    count = jnp.asarray(count, jnp.result_type(float))
    return jax.tree.map(
        lambda *leaves: next((leaf for leaf in leaves if leaf is not None), None),
        *(_average(parts, count) for parts in totals.values()),
        is_leaf=lambda leaf: leaf is None,
    )


def spread(weights: Array, shape: tuple[int, ...], axis: int) -> Array:
    """The weights of a batch's positions for the entries of an array of its examples.

    They are those of the labels' positions where the array has these on its first axes. Of an array
    with other positions, all those of an example have its mean weight.

    Args:
      weights: shape (examples, ...).
      shape: (examples, *shape of one example's) of the array.
      axis: of one example's, along which its units are.

    Returns:
      An array that broadcasts with the other.
    """
    places = weights.shape[1:]
    if axis < 1 + len(places) or shape[2 : 2 + len(places)] != places:
        weights, places = weights.reshape(len(weights), -1).mean(1), ()
    return weights.reshape(len(weights), 1, *places, *[1] * (len(shape) - 2 - len(places)))


def count_of_examples(batch: Batch) -> float | Array:
    """By how much a sum over a batch is divided that has each example's mean over positions."""
    return losses.count(batch) / math.prod(losses.positions_of(batch)[1:])

"""Variants of a network that differ in unit masks: the loss of many of them, measured at once."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import evaluation, losses, replacement, tracing, units
from pruning_jax.evaluation import Metrics
from pruning_jax.lab import blocks
from pruning_jax.types import Array, Batch, Params
from pruning_jax.units import UnitGraph, UnitMasks
from pruning_jax.units import masks as unit_masking


class Measured(NamedTuple):
    """A network without some of its units.

    Attributes:
      zero: with the units removed.
      mean: with the units replaced by their means; ``None`` where no means were given.
    """

    zero: Metrics
    mean: Metrics | None


def measure(
    graph: UnitGraph,
    variables: Params,
    batch: Batch,
    variants: Iterable[UnitMasks],
    *,
    means: Mapping[int, Array] | None = None,
    loss: losses.Loss = losses.cross_entropy,
    chunk: int | None = None,
) -> tuple[Metrics, list[Measured]]:
    """The mean loss and accuracy of a network, and of its variants without some units.

    A variant's penalty is its loss less the network's. Equal variants are measured once. What lies
    before the first pruned activation is computed once for all variants that share it, and what the
    removed and the replaced network have in common is computed once for both.

    Args:
      graph: of the model.
      variables: what it is applied to.
      batch: the examples.
      variants: unit masks, True = kept; a space that is absent is untouched.
      means: of the units, as `curvature.unit_means` gives them, or ``None``.
      loss: of an example.
      chunk: the most examples in memory at once, by default as in `blocks.split`; the means do not
        depend on it beyond rounding.

    Returns:
      The metrics of the whole network, and those of every variant, in order.

    Raises:
      ValueError: unit masks that the graph refuses; means that cannot be folded; no examples; a
        model that gives a batch something else than each of its examples.
    """
    variants = list(variants)
    for unit_masks in variants:
        units.check_masks(graph, unit_masks)
    for value, mean in (means or {}).items():
        if not np.isfinite(np.asarray(mean)).all():
            raise ValueError(f"the means at value {value} are not all finite")
    chunks = blocks.split(batch, chunk)
    tracing.check(graph.trace, variables, batch.inputs)
    size, counted = max(len(part.labels) for part in chunks), losses.count(batch)
    dense = evaluation.evaluate(graph.trace.apply_fn, variables, batch, loss=loss, chunk=size)
    keys = [_key(unit_masks) for unit_masks in variants]
    distinct = dict(zip(keys, variants, strict=True))
    keys_of: dict[tuple[str, ...], list[tuple]] = {}
    for key, unit_masks in distinct.items():
        if key:
            keys_of.setdefault(_pruned(graph, unit_masks), []).append(key)
    measured: dict[tuple, Measured] = {(): Measured(dense, None if means is None else dense)}
    for names, of_names in keys_of.items():
        several = [{name: distinct[key][name] for name in names} for key in of_names]
        sums = _sums(graph, loss, variables, chunks, several, means)
        for key, totals in zip(of_names, sums, strict=True):
            zero, *mean = (Metrics(*pair) for pair in totals / counted)
            measured[key] = Measured(zero, mean[0] if mean else None)
    return dense, [measured[key] for key in keys]


def _key(unit_masks: UnitMasks) -> tuple:
    """What tells one variant from another: the masks of the spaces that lose a unit."""
    arrays = {name: np.asarray(mask) for name, mask in unit_masks.items()}
    return tuple(
        (name, arrays[name].tobytes()) for name in sorted(arrays) if not arrays[name].all()
    )


def _pruned(graph: UnitGraph, unit_masks: UnitMasks) -> tuple[str, ...]:
    """The spaces with masks, from the first that loses a unit on: few different ones."""
    names = [space.name for space in graph.spaces if space.name in unit_masks]
    first = next(i for i, name in enumerate(names) if not np.asarray(unit_masks[name]).all())
    return tuple(names[first:])


def _sums(
    graph: UnitGraph,
    loss: losses.Loss,
    variables: Params,
    chunks: list[Batch],
    variants: list[UnitMasks],
    means: Mapping[int, Array] | None,
) -> np.ndarray:
    """Losses and right answers over all examples, shape (variants, 1 or 2, 2), on every device."""
    shifts: list[Any] = [None] * len(variants)
    if means is not None:
        shifts = [_bias_shifts(graph)(variables, means, unit_masks) for unit_masks in variants]
    before, after = _programs(graph, loss, tuple(variants[0]))
    totals: Any = 0.0
    for chunk in chunks:
        points = zip(shifts, variants, strict=True)
        cached = [chunk._replace(inputs=before(variables, chunk.inputs))]
        totals += np.stack(list(blocks.sums(after, points, variables, cached)))
    return totals


@functools.lru_cache(maxsize=64)
def _bias_shifts(graph: UnitGraph) -> Callable:
    """(variables, means, unit masks) -> what is added to which leaf."""
    return jax.jit(functools.partial(replacement.bias_shifts, graph))


@functools.lru_cache(maxsize=64)
def _programs(
    graph: UnitGraph, loss: losses.Loss, names: tuple[str, ...]
) -> tuple[Callable, Callable]:
    """The part of a network that masks of some spaces leave as it is, and the part after it."""
    model = graph.trace.model
    masked: dict[int, list[tuple[str, units.Reading]]] = {}
    for name in names:
        for reading in graph[name].readings:
            masked.setdefault(reading.value, []).append((name, reading))
    cut = _cut(graph, masked)

    def before(variables: Params, inputs: Any) -> dict[int, Array]:
        def one(inputs: Any) -> dict[int, Array]:
            return tracing.evaluate(model, model.known(variables, inputs), cut)

        return tracing.over_examples(one, inputs)

    def after(variant: tuple, variables: Params, chunk: Batch) -> Array:
        shifts, unit_masks = variant

        def edit(value: int, array: Array) -> Array:
            for name, reading in masked.get(value, ()):
                shape = [-1 if axis == reading.axis else 1 for axis in range(array.ndim)]
                kept = unit_masking.entries(reading, jnp.asarray(unit_masks[name]))
                array = jnp.where(kept.reshape(shape), array, jnp.zeros_like(array))
            return array

        sums = []
        for added in ({},) if shifts is None else ({}, shifts):
            pruned = units.apply_masks(graph, replacement.shifted(variables, added), unit_masks)

            def one(cached: dict[int, Array], pruned: Params = pruned) -> Array:
                edited = {value: edit(value, array) for value, array in cached.items()}
                known = model.known(pruned) | edited
                return tracing.evaluate(model, known, [model.logits], edit)[model.logits][0]

            sums.append(evaluation.totals(loss, jax.vmap(one)(chunk.inputs), chunk))
        return jnp.asarray(sums, jnp.float32)

    return jax.jit(before), after


def _cut(graph: UnitGraph, readings: Iterable[int]) -> list[int]:
    """The values that no reading changes, but that equations take which a reading changes."""
    model = graph.trace.model
    changed, cut = set(readings), set()
    computed: set[int] = set()
    for equation in model.equations:
        if not changed.isdisjoint(equation.inputs):
            cut |= model.from_inputs.intersection(equation.inputs) - computed
            computed.update(equation.outputs)
            changed.update(equation.outputs)
    return sorted(cut)

"""What removing units costs: the loss of many variants of one network that differ in unit masks."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import blocks, evaluation, losses, replacement, tracing, trees, units
from pruning_jax.evaluation import Metrics
from pruning_jax.tracing import equations
from pruning_jax.tracing.equations import Equations
from pruning_jax.types import ApplyFn, Array, Batch, Params

UnitMasks = Mapping[str, Array]
_CHUNK = {"cpu": 100}
_CHUNK_ELSEWHERE = 1_000


class Measured(NamedTuple):
    """A network without some of its units.

    Attributes:
      zero: with the units removed.
      mean: with the units replaced by their means; ``None`` where no means were given.
    """

    zero: Metrics
    mean: Metrics | None


def measure(
    apply_fn: ApplyFn,
    graph: units.UnitGraph,
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
      apply_fn: the model, in evaluation mode.
      graph: its units.
      variables: what it is applied to.
      batch: the examples.
      variants: unit masks, True = kept; a space that is absent is untouched.
      means: of the units, as `curvature.unit_statistics` gives them, or ``None``.
      loss: of an example.
      chunk: examples in memory at once; the means do not depend on it beyond rounding.

    Returns:
      The metrics of the whole network, and those of every variant, in order.

    Raises:
      ValueError: unit masks that the graph refuses; means that cannot be folded; no examples.
    """
    variants = list(variants)
    chunk = _CHUNK.get(jax.default_backend(), _CHUNK_ELSEWHERE) if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be 1 example or more")
    for value, mean in (means or {}).items():
        if not np.isfinite(np.asarray(mean)).all():
            raise ValueError(f"the means at value {value} are not all finite")
    if len(batch.labels) == 1:
        batch = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), batch)
    dense = evaluation.evaluate(apply_fn, variables, batch, loss=loss, chunk=chunk)
    distinct: dict[tuple, UnitMasks] = {}
    for unit_masks in variants:
        units.check_masks(graph, unit_masks)
        distinct.setdefault(_key(unit_masks), unit_masks)
    groups: dict[tuple[str, ...], list[tuple]] = {}
    for key, unit_masks in distinct.items():
        if key:
            groups.setdefault(_pruned(graph, unit_masks), []).append(key)
    found: dict[tuple, Measured] = {(): Measured(dense, None if means is None else dense)}
    for names, keys in groups.items():
        several = [{name: distinct[key][name] for name in names} for key in keys]
        sums = _sums(apply_fn, loss, variables, batch, several, means, chunk)
        for key, totals in zip(keys, sums, strict=True):
            metrics = [Metrics(*pair) for pair in totals / len(batch.labels)]
            found[key] = Measured(metrics[0], None if means is None else metrics[1])
    return dense, [found[_key(unit_masks)] for unit_masks in variants]


def _key(unit_masks: UnitMasks) -> tuple:
    """What tells one variant from another: the masks of the spaces that lose a unit."""
    arrays = {name: np.asarray(mask) for name, mask in unit_masks.items()}
    return tuple(
        (name, arrays[name].tobytes()) for name in sorted(arrays) if not arrays[name].all()
    )


def _pruned(graph: units.UnitGraph, unit_masks: UnitMasks) -> tuple[str, ...]:
    """The spaces with masks, from the first that loses a unit on: few different ones."""
    names = [space.name for space in graph.spaces if space.name in unit_masks]
    first = next(i for i, name in enumerate(names) if not np.asarray(unit_masks[name]).all())
    return tuple(names[first:])


def _sums(
    apply_fn: ApplyFn,
    loss: losses.Loss,
    variables: Params,
    batch: Batch,
    variants: list[UnitMasks],
    means: Mapping[int, Array] | None,
    chunk: int,
) -> np.ndarray:
    """Losses and right answers over all examples, shape (variants, 1 or 2, 2), on every device."""
    names = tuple(variants[0])
    shifts = [None] * len(variants)
    if means is not None:
        first = jax.tree.map(lambda x: x[:2], batch.inputs)
        shift = _shift(apply_fn, *_specification(variables, first))
        shifts = [shift(variables, means, unit_masks) for unit_masks in variants]
    totals: Any = 0.0
    for piece in _pieces(batch, chunk):
        programs = _programs(apply_fn, loss, names, *_specification(variables, piece.inputs))
        cached = programs.before(variables, piece.inputs)
        points = zip(shifts, variants, strict=True)
        chunks = [(cached, piece.labels)]
        totals += np.stack(list(blocks.sums(programs.after, points, variables, chunks)))
    return totals


def _pieces(batch: Batch, chunk: int) -> Iterator[Batch]:
    """Parts of nearly one size, of 2 examples or more: models are read at no fewer."""
    examples = len(batch.labels)
    stops = np.linspace(0, examples, max(round(examples / max(chunk, 2)), 1) + 1).astype(int)
    for first, last in itertools.pairwise(stops):
        yield jax.tree.map(lambda x, at=slice(first, last): x[at], batch)


def _specification(variables: Params, inputs: Any) -> tuple[Any, tuple]:
    leaves, structure = jax.tree.flatten((variables, inputs))
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in map(jnp.asarray, leaves))


def _shapes(structure: Any, arrays: tuple) -> tuple[Params, Any]:
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*array) for array in arrays])


@functools.lru_cache(maxsize=64)
def _shift(apply_fn: ApplyFn, structure: Any, arrays: tuple) -> Callable:
    """(variables, means, unit masks) -> what is added to which leaf."""
    graph = units.graph(tracing.trace(apply_fn, *_shapes(structure, arrays)))
    return jax.jit(functools.partial(replacement.bias_shifts, graph))


class _Programs(NamedTuple):
    before: Callable
    after: Callable


@functools.lru_cache(maxsize=64)
def _programs(
    apply_fn: ApplyFn, loss: losses.Loss, names: tuple[str, ...], structure: Any, arrays: tuple
) -> _Programs:
    """The part of a network that masks of some spaces leave as it is, and the part after it."""
    variables, inputs = _shapes(structure, arrays)
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    examples = jax.tree.leaves(inputs)[0].shape[0]
    model = equations.read(apply_fn, variables, inputs, examples)
    masked = {reading.value: (name, reading) for name in names for reading in graph[name].readings}
    cut = _cut(model, masked)

    def before(variables: Params, inputs: Any) -> dict[int, Array]:
        return _run(model, cut, {}, variables, jax.tree.leaves(inputs))

    def after(variant, variables, chunk):
        (shifts, unit_masks), (cached, labels) = variant, chunk

        def kept(value, array):
            if value not in masked:
                return array
            name, reading = masked[value]
            return _where(reading, unit_masks[name], array)

        cached = {value: kept(value, array) for value, array in cached.items()}
        sums = []
        for shift in [{}] if shifts is None else [{}, shifts]:
            pruned = units.apply_masks(graph, _shifted(variables, shift), unit_masks)
            logits = _run(model, {model.output}, cached, pruned, kept=kept)[model.output]
            right = evaluation.correct(logits, labels).sum()
            sums.append((loss.value(logits, labels).sum(), right))
        return jnp.asarray(sums, jnp.float32)

    return _Programs(jax.jit(before), after)


def _cut(model: Equations, readings: Iterable[int]) -> set[int]:
    """The values that no reading changes, but that equations take which a reading changes."""
    changed, computed, cut = set(readings), set(), set()
    sources = set(model.inputs) | model.from_inputs
    for equation in model.equations:
        if changed.intersection(equation.inputs):
            cut.update(sources.intersection(equation.inputs) - computed)
            computed.update(equation.outputs)
            changed.update(equation.outputs)
    return cut


def _run(
    model: Equations,
    wanted: set[int],
    given: Mapping[int, Array],
    variables: Params,
    inputs: Iterable[Array] = (),
    kept: Callable[[int, Array], Array] = lambda value, array: array,
) -> dict[int, Array]:
    """The values `wanted`, by the equations that they need beyond the values `given`."""
    arrays = dict(model.constants) | dict(given)
    arrays |= enumerate(jax.tree.leaves(variables))
    arrays |= zip(model.inputs, inputs, strict=False)
    for equation in _needed(model, wanted, set(arrays)):
        operands = [arrays[value] for value in equation.inputs]
        for value, result in zip(equation.outputs, equations.bind(equation, operands), strict=True):
            arrays[value] = kept(value, result)
    return {value: arrays[value] for value in wanted}


def _needed(model: Equations, wanted: set[int], given: set[int]) -> Iterator[Any]:
    missing, needed = wanted - given, []
    for equation in reversed(model.equations):
        if missing.intersection(equation.outputs):
            missing.update(set(equation.inputs) - given)
            needed.append(equation)
    return reversed(needed)


def _where(reading: units.Reading, unit_mask: Array, array: Array) -> Array:
    """An activation, zero where its unit is removed."""
    number = np.maximum(reading.units, 0)
    keep = jnp.where(reading.units < 0, True, jnp.asarray(unit_mask)[number])
    shape = [1] * array.ndim
    shape[reading.axis] = -1
    return jnp.where(keep.reshape(shape), array, jnp.zeros_like(array))


def _shifted(variables: Params, shifts: Mapping[str, Array]) -> Params:
    def moved(path, leaf):
        name = trees.path_name(path)
        return leaf + shifts[name].astype(leaf.dtype) if name in shifts else leaf

    return jax.tree.map_with_path(moved, variables)

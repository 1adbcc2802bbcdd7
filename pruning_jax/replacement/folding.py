"""Means carried as constants from where units are read into the layers they enter."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import choices, trees
from pruning_jax.replacement import paths, sinks
from pruning_jax.replacement.means import axes_read
from pruning_jax.replacement.paths import Wiring
from pruning_jax.tracing import equations
from pruning_jax.types import Array, Params
from pruning_jax.units import Consumer, UnitGraph, UnitMasks, UnitSpace
from pruning_jax.units import masks as unit_masking

UnitMeans = Mapping[int, Array]
"""Value of a reading -> means, shape (size of its axis of units,)."""


class _Entry(NamedTuple):
    """Units that enter a layer: the space, how they enter, and which of them stay."""

    space: UnitSpace
    consumer: Consumer
    kept: Array


def fold_means(
    graph: UnitGraph, variables: Params, means: UnitMeans, unit_masks: UnitMasks
) -> Params:
    """Removes units and puts their means in their place.

    The biases of the layers that the units enter take up what the layers make of the means, and
    the units' own parameters become zero. In evaluation mode the network is then the one whose
    removed units are clamped to their means: exactly for dense layers and convolutions without
    padding; with padding, each bias has the response's mean over the positions. Works under
    ``jit``, where masks and means may be traced; there means are not checked to be finite.

    A batch norm's running mean takes up what a layer without a bias would. In training mode a
    batch norm subtracts the batch's mean instead, and a shift before it cancels.

    Args:
      graph: of the model.
      variables: of the shapes that were traced.
      means: as `unit_means` returns them.
      unit_masks: space -> booleans, shape (size,), True = kept.

    Returns:
      The variables of the network without the units.

    Raises:
      ValueError: as `bias_shifts`.

    Source: Evci et al. 2018, *Mean Replacement Pruning*, section 3: b <- b + w abar.
    """
    shifts = bias_shifts(graph, variables, means, unit_masks)

    def shifted(path: tuple, leaf: Array) -> Array:
        name = trees.path_name(path)
        return leaf + shifts[name] if name in shifts else leaf

    shifted_variables = jax.tree_util.tree_map_with_path(shifted, variables)
    return unit_masking.apply_masks(graph, shifted_variables, unit_masks)


def bias_shifts(
    graph: UnitGraph, variables: Params, means: UnitMeans, unit_masks: UnitMasks
) -> dict[str, Array]:
    """What the means of removed units add to the biases of the layers that they enter.

        shift = mean over examples and positions of (W f(abar) - W f(0))

    with f all that lies between where the units are read and the layer W: pooling, a norm after
    it, a flatten, padding, a concatenation. f(0) is with the removed units' parameters at zero;
    it is left out where W's entries for the units are removed too.

    Args:
      graph, variables, means, unit_masks: as in `fold_means`.

    Returns:
      Leaf -> what to add to it, of its shape and dtype. For a mean that is subtracted the sign is
      turned.

    Raises:
      ValueError: masks or variables that do not fit the graph; means that are missing, of another
        shape or not finite; a layer without a leaf to fold into, or one whose leaf is used
        elsewhere too; a mean that is no constant on its way to a layer.

    Source: Evci et al. 2018, *Mean Replacement Pruning*, section 3.
    """
    unit_masking.check_masks(graph, unit_masks)
    unit_masks = {name: mask for name, mask in unit_masks.items() if not _keeps_all(mask)}
    _check_means(graph, means, unit_masks)
    wired = paths.wiring(graph.trace)
    removed = unit_masking.apply_masks(graph, variables, unit_masks)
    both = _arrays(wired, variables), _arrays(wired, removed)
    shifts: dict[str, Array] = {}
    for entries in _entries(graph, unit_masks):
        found = sinks.sink(graph, wired, entries[0].consumer)
        response = _response(graph, wired, entries, means, both)
        extra = sinks.shift(wired, found, both[0], response)
        shifts[found.leaf] = shifts[found.leaf] + extra if found.leaf in shifts else extra
    return shifts


def _arrays(wired: Wiring, variables: Params) -> dict[int, Array]:
    """The values that are known without inputs."""
    leaves, model = trees.named_leaves(variables), wired.model
    for name, value in model.leaves.items():
        choices.check("leaf", name, leaves)
        if leaves[name].shape != model.avals[value].shape:
            raise ValueError(
                f"{name!r} has shape {leaves[name].shape}; it was traced with "
                f"{model.avals[value].shape}"
            )
    return model.constants | {value: leaves[name] for name, value in model.leaves.items()}


def _keeps_all(mask: Array) -> bool:
    return not isinstance(mask, jax.core.Tracer) and bool(np.asarray(mask).all())


def _entries(graph: UnitGraph, unit_masks: Mapping[str, Array]) -> list[list[_Entry]]:
    """What enters the layers that removed units enter, layer by layer."""
    found: dict[int, list[_Entry]] = {}
    for name, kept in unit_masks.items():
        for consumer in graph[name].consumers:
            found.setdefault(consumer.equation, []).append(_Entry(graph[name], consumer, kept))
    return [entries for _, entries in sorted(found.items())]


def _response(
    graph: UnitGraph, wired: Wiring, entries: list[_Entry], means: UnitMeans, both: tuple
) -> Array:
    """What a layer makes of the means of the removed units that enter it."""
    model = wired.model
    equation = model.equations[entries[0].consumer.equation]
    side = 0 if equation.inputs[0] in model.from_inputs else 1
    data, kernel = equation.inputs[side], equation.inputs[1 - side]
    constants = _constants(wired, entries, means)
    every = (c for space in graph.spaces for c in space.consumers)
    stops = {v for c in every if c.equation == entries[0].consumer.equation for v in c.readings}
    try:
        path = paths.between(wired, data, frozenset(constants), frozenset(stops))
    except ValueError as error:
        names = " and ".join(repr(entry.space.name) for entry in entries)
        raise ValueError(f"the means of {names} cannot be folded: {error}") from error
    with_means = path.run(model, both[0] | constants)[data]
    zeros = jax.lax.optimization_barrier({v: jnp.zeros_like(a) for v, a in constants.items()})
    without = path.run(model, both[1] | zeros)[data]
    view = paths.between(wired, kernel, frozenset(), frozenset())
    result = model.avals[equation.outputs[0]]
    total = jnp.zeros(result.shape, result.dtype)
    for masked, array in ((False, with_means - without), (True, with_means)):
        ours = [entry for entry in entries if entry.consumer.slice.masked == masked]
        if ours:
            operands = [array, view.run(model, both[0] | _restricted(wired, ours, both[0]))[kernel]]
            total += equations.bind(equation, operands if side == 0 else operands[::-1])[0]
    return total


def _constants(wired: Wiring, entries: list[_Entry], means: UnitMeans) -> dict[int, Array]:
    """The arrays that are read, with the mean of every removed unit and zero elsewhere."""
    found: dict[int, Array] = {}
    for entry in entries:
        for reading in entry.space.readings:
            if reading.value in entry.consumer.readings:
                aval = wired.model.avals[reading.value]
                shape = [1] * len(aval.shape)
                shape[reading.axis] = -1
                kept = unit_masking.entries(reading, entry.kept)
                row = jnp.where(kept, 0, means[reading.value]).astype(aval.dtype).reshape(shape)
                array = jnp.broadcast_to(row, aval.shape)
                found[reading.value] = found.get(reading.value, 0) + array
    return found


def _restricted(wired: Wiring, entries: list[_Entry], arrays: dict[int, Array]) -> dict[int, Array]:
    """The kernel with only those entries that multiply removed units."""
    value = wired.model.leaves[entries[0].consumer.slice.leaf]
    kept = True
    for entry in entries:
        kept &= unit_masking.entries(entry.consumer.slice, entry.kept)
    return {value: jnp.where(kept, 0, arrays[value])}


def _check_means(graph: UnitGraph, means: UnitMeans, unit_masks: Mapping[str, Array]) -> None:
    axes = axes_read(graph)
    pairs = [(name, reading) for name in unit_masks for reading in graph[name].readings]
    for name, reading in pairs:
        value, size, given = reading.value, len(reading.units), means.get(reading.value)
        if len(axes[value]) > 1:
            raise ValueError(
                f"the units of {name!r} share the array that is read at value {value} with others "
                "along another axis; a mean for each of both cannot be folded: keep these units"
            )
        if given is None or np.shape(given) != (size,):
            what = "are missing" if given is None else f"have shape {np.shape(given)}"
            raise ValueError(
                f"the means of {name!r} at value {value} {what}; they must be one for each of "
                f"{size} positions, as unit_means returns them"
            )
        if not isinstance(given, jax.core.Tracer) and not np.isfinite(np.asarray(given)).all():
            raise ValueError(f"the means of {name!r} at value {value} are not all finite")

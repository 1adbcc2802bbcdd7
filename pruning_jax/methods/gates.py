"""Numbers that multiply units or blocks of a model: which entries of which leaves they reach."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import layouts, trees
from pruning_jax.types import Array, Masks, Params, PyTree
from pruning_jax.units import UnitGraph
from pruning_jax.units import masks as unit_masks_

Reached = Mapping[str, list[tuple[str, np.ndarray]]]
"""Leaf -> the gates that multiply it, each by its name and the number of its entry, -1 for none,
of every entry of the leaf, in an array that broadcasts with it."""


def times(weights: Array, gate: Array) -> Array:
    """The product, +0.0 where the gate is closed."""
    return jnp.where(gate == 0, jnp.zeros((), weights.dtype), weights * gate.astype(weights.dtype))


def inside(name: str, leaves: Mapping) -> str:
    """The name that a leaf of a graph has among the parameters."""
    return name if name in leaves else name.removeprefix(f"{layouts.PARAMS}/")


def variables_of(graph: UnitGraph, params: Params) -> PyTree:
    """The parameters as the graph's leaves name them; other collections are not there."""
    own = trees.named_leaves(params).keys() <= graph.trace.model.leaves.keys()
    return params if own else {layouts.PARAMS: params}


def readers(graph: UnitGraph, params: Params) -> Reached:
    """The entries of kernels that multiply units of a graph, of the spaces that may be pruned.

    Units that are multiplied with other data, as the channels of attention, enter no kernel there
    and have no gate.

    Raises:
      ValueError: there is no such space.
    """
    leaves, found = trees.named_leaves(params), {}
    for space in graph.prunable:
        for consumer in () if space.products else space.consumers:
            entry = (space.name, consumer.slice.units)
            there = found.setdefault(inside(consumer.slice.leaf, leaves), [])
            if not any(n == entry[0] and np.array_equal(u, entry[1]) for n, u in there):
                there.append(entry)
    if not found:
        raise ValueError("no unit of the graph that may be pruned enters a layer: none has a gate")
    return found


def blocks(named: Mapping[str, Iterable[str]], params: Params) -> Reached:
    """One gate for all entries of the leaves of each block.

    Raises:
      ValueError: a block without leaves, or a name that is no leaf.
    """
    leaves, found = trees.named_leaves(params), {}
    for name, names in named.items():
        if isinstance(names, str) or not tuple(names):
            raise ValueError(f"the block {name!r} has leaves {names!r}; give a tuple of names")
        trees.select(params, names)
        for leaf in names:
            found.setdefault(leaf, []).append((name, np.zeros((1,) * leaves[leaf].ndim, int)))
    return found


def sizes(reached: Reached) -> dict[str, int]:
    """How many numbers each gate has."""
    found: dict[str, int] = {}
    for entries in reached.values():
        for name, units in entries:
            found[name] = max(found.get(name, 0), int(units.max()) + 1)
    return found


def counts(reached: Reached, params: Params) -> dict[str, np.ndarray]:
    """How many entries each number of each gate multiplies."""
    leaves = trees.named_leaves(params)
    found = {name: np.zeros(size) for name, size in sizes(reached).items()}
    for leaf, entries in reached.items():
        for name, units in entries:
            every = np.broadcast_to(units, leaves[leaf].shape)
            found[name] += np.bincount(every[every >= 0], minlength=len(found[name]))
    return found


def scaled(params: Params, reached: Reached, numbers: Mapping[str, Array]) -> Params:
    """The parameters, each entry multiplied by the gates that reach it."""

    def one(path: tuple, leaf: Array) -> Array:
        for name, units in reached.get(trees.path_name(path), ()):
            gate = jnp.concatenate([numbers[name], jnp.ones(1, numbers[name].dtype)])[units]
            leaf = times(leaf, gate)
        return leaf

    return jax.tree_util.tree_map_with_path(one, params)


def leaf_masks(graph: UnitGraph, params: Params, unit_masks: Mapping[str, Array]) -> Masks:
    """`units.parameter_masks` of the parameters alone, without running moments."""
    leaves, kept = trees.named_leaves(params), {}
    for name, mask in unit_masks.items():
        for part in unit_masks_.slices(graph[name], readers=False):
            leaf = inside(part.leaf, leaves)
            if leaf not in leaves:
                continue
            stays = jnp.broadcast_to(unit_masks_.entries(part, mask), leaves[leaf].shape)
            kept[leaf] = kept[leaf] & stays if leaf in kept else stays
    return jax.tree_util.tree_map_with_path(lambda path, _: kept.get(trees.path_name(path)), params)


def without(graph: UnitGraph, params: Params, numbers: Mapping[str, Array]) -> Params:
    """The parameters with zeros in what makes the units whose gates are closed, too."""
    from pruning_jax import masks

    kept = {name: gate != 0 for name, gate in numbers.items()}
    return masks.apply(params, leaf_masks(graph, params, kept))

"""What the criteria of units are given, for one space of units."""

import difflib

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import trees
from pruning_jax.curvature import UnitStatistics
from pruning_jax.types import Array, Params
from pruning_jax.units import Slice, UnitGraph, UnitSpace

KERNELS = ("kernel", "embedding")
"""Roles of the slices that are incoming weights."""

PER_EXAMPLE = ("removal", "replacement")
PER_UNIT = ("mean_square", "zeros")

UNIT_OPERANDS = ("kernel", "scale", *PER_EXAMPLE, *PER_UNIT, "key")
"""The names of what a criterion of units may ask for."""


def operand(
    name: str,
    graph: UnitGraph,
    space: UnitSpace,
    variables: Params,
    statistics: UnitStatistics | None = None,
    key: Array | None = None,
) -> Array:
    """One of `UNIT_OPERANDS`, of one space.

    Raises:
      ValueError: it needs statistics, a key or a scale that is not there, or has that of another
        graph; the message names the space.
    """
    if name == "key":
        if key is None:
            raise ValueError(f"the scores of {space.name!r} are random: give key=jax.random.key(0)")
        names = [other.name for other in graph.spaces]
        return jax.random.fold_in(key, names.index(space.name))
    if name == "kernel":
        weights = [_by_unit(s, space, variables) for s in space.producers if s.role in KERNELS]
        return jnp.concatenate(weights, axis=1)
    if name == "scale":
        return _scale(graph, space, variables)
    if statistics is None:
        raise ValueError(
            f"the scores of {space.name!r} need its {name}: give statistics="
            "curvature.unit_statistics(graph, variables, batches)"
        )
    if not isinstance(statistics, UnitStatistics):
        raise ValueError(
            f"statistics is a {type(statistics).__name__}; give curvature.unit_statistics(...)"
        )
    found = getattr(statistics, name).get(space.name)
    rank = 2 if name in PER_EXAMPLE else 1
    if found is None or found.ndim != rank or found.shape[-1] != space.size:
        what = "no array" if found is None else f"an array of shape {found.shape}"
        raise ValueError(
            f"the statistics have {what} as the {name} of {space.name!r} ({space.size} units); "
            "give curvature.unit_statistics of the same graph"
        )
    return found


def _scale(graph: UnitGraph, space: UnitSpace, variables: Params) -> Array:
    """Shape (size,): of several norms the mean of the absolute values.

    A mean, so that units of a space with many norms, such as a residual stream, are on one scale
    with those of a space with one.
    """
    scales = [each for each in space.producers if each.role == "scale"]
    numbers = np.arange(space.size)
    if not all(any(number in each.units for each in scales) for number in numbers):
        having = [s.name for s in graph.prunable if any(p.role == "scale" for p in s.producers)]
        near = difflib.get_close_matches(space.name, having, 1, 0.0)
        hint = (
            f"score those that do with only=, as only={near}" if near else "no space here has one"
        )
        raise ValueError(f"the units of {space.name!r} have no norm with a scale; {hint}")
    found = [_by_unit(each, space, variables) for each in scales]
    if len(found) == 1 and found[0].shape[1] == 1:
        return found[0][:, 0]
    ones = jax.tree.map(jnp.ones_like, variables)
    entries = [_by_unit(each, space, ones) for each in scales]
    total, count = (sum(jnp.abs(each).sum(axis=1) for each in rows) for rows in (found, entries))
    return total / count


def _by_unit(each: Slice, space: UnitSpace, variables: Params) -> Array:
    """The entries of a leaf that each unit has, shape (size, most); zeros where one has fewer."""
    leaf = jnp.asarray(trees.named_leaves(variables)[each.leaf])
    leaf = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
    units = each.units.reshape((1,) * (leaf.ndim - each.units.ndim) + each.units.shape)
    first = [axis for axis, length in enumerate(units.shape) if length > 1]
    rows = jnp.moveaxis(leaf, first, range(len(first)))
    numbers = np.moveaxis(units, first, range(len(first))).ravel()
    rows = rows.reshape(len(numbers), -1)
    order = np.argsort(numbers, kind="stable")[np.sum(numbers < 0) :]
    numbers = numbers[order]
    place = np.arange(len(order)) - np.searchsorted(numbers, numbers)
    table = np.full((space.size, place.max(initial=-1) + 1), len(rows))
    table[numbers, place] = order
    found = jnp.take(rows, table, axis=0, mode="fill", fill_value=0)
    return found.reshape(space.size, -1)


def check_variables(graph: UnitGraph, space: UnitSpace, variables: Params) -> None:
    """Checks that the variables have the leaves of a space, of the shapes that were traced.

    Raises:
      ValueError: they do not; names the leaf.
    """
    leaves, model = trees.named_leaves(variables), graph.trace.model
    for each in space.producers:
        traced = model.avals[model.leaves[each.leaf]].shape
        found = getattr(leaves.get(each.leaf), "shape", "nothing")
        if found != traced:
            raise ValueError(
                f"the variables have {found} at {each.leaf!r}; they were traced with {traced}: "
                "give the variables that the graph was taken of"
            )

"""Which positions of every array stay when units are cut out."""

import dataclasses
import fractions
import math

import numpy as np

from pruning_jax.tracing import Equations
from pruning_jax.units.labels import NONE, Field, Fields
from pruning_jax.units.masks import UnitMasks
from pruning_jax.units.spaces import UnitGraph
from pruning_jax.units.walk import NORM, Walk


@dataclasses.dataclass(frozen=True, eq=False)
class Narrowing:
    """The positions that stay, of the arrays that lose some.

    Attributes:
      model: the equations.
      kept: value -> axis -> the positions that stay, in order.
    """

    model: Equations
    kept: dict[int, dict[int, np.ndarray]]

    def of(self, value: int) -> dict[int, np.ndarray]:
        """Axis -> the positions that stay, of the axes of a value that lose some."""
        return self.kept.get(value, {})

    def shape(self, value: int) -> tuple[int, ...]:
        """The shape of what stays of a value."""
        kept = self.of(value)
        whole = self.model.shape(value)
        return tuple(len(kept[axis]) if axis in kept else n for axis, n in enumerate(whole))


def removed_atoms(graph: UnitGraph, unit_masks: UnitMasks) -> np.ndarray:
    """Whether each atom of a graph is of a removed unit."""
    labels, names = graph.labels, [space.name for space in graph.spaces]
    removed = np.zeros(len(labels.space_of), bool)
    for name, mask in unit_masks.items():
        inside = labels.space_of == names.index(name)
        removed[inside] = ~np.asarray(mask)[labels.unit_of[inside]]
    return removed


def narrowing(graph: UnitGraph, unit_masks: UnitMasks) -> Narrowing:
    """The positions that stay of every array of a graph's model.

    Raises:
      ValueError: an axis of units that is split keeps other numbers in its parts.
    """
    removed = removed_atoms(graph, unit_masks)
    return _narrowing(graph.trace.model, graph.labels.fields, removed)


def narrowing_elsewhere(
    graph: UnitGraph, unit_masks: UnitMasks, walk: Walk, components: np.ndarray
) -> Narrowing:
    """The same of another function of the same variables, as the one that trains them.

    Args:
      graph, unit_masks: of the model in evaluation mode.
      walk: along the other function's equations.
      components: the number of the unit of each of its atoms.
    """
    removed, sizes = removed_atoms(graph, unit_masks), {}
    for source in graph.labels.sources:
        shape = graph.trace.model.shape(graph.trace.model.leaves[source.leaf])
        sizes[source] = math.prod(shape[axis] for axis in source.axes)
    places = {source.part: (source.start, size) for source, size in sizes.items()}
    there = np.zeros(walk.notes.atoms, bool)
    for key, source in walk.notes.sources.items():
        if key in places:
            start, size = places[key]
            there[source.start : source.start + size] = removed[start : start + size]
    whole = np.zeros(components.max(initial=0) + 1, bool)
    np.logical_or.at(whole, components, there)
    return _narrowing(walk.model, walk.fields, whole[components])


def share(field: Field, removed: np.ndarray) -> fractions.Fraction:
    """The share of a field's positions that stay."""
    if field.zero == NORM or not field.atoms.size:
        return fractions.Fraction(1)
    return fractions.Fraction(int(_stays(field, removed).sum()), field.atoms.size)


def _stays(field: Field, removed: np.ndarray) -> np.ndarray:
    return (field.atoms == NONE) | ~removed[field.atoms]


def _narrowing(model: Equations, fields: dict[int, Fields], removed: np.ndarray) -> Narrowing:
    kept: dict[int, dict[int, np.ndarray]] = {}
    for value, labelled in fields.items():
        for field in labelled:
            if field.zero != NORM and removed.any():
                kept.setdefault(value, {}).update(_positions(field, removed, model.shape(value)))
    return Narrowing(model, {value: axes for value, axes in kept.items() if axes})


def _positions(field: Field, removed: np.ndarray, shape: tuple) -> dict[int, np.ndarray]:
    """Axis -> the positions that stay; the entries that stay are the product of these."""
    stays = _stays(field, removed)
    if stays.all():
        return {}
    places = range(stays.ndim)
    along = [stays.any(axis=tuple(p for p in places if p != place)) for place in places]
    if stays.sum() != math.prod(int(line.sum()) for line in along):
        raise ValueError(
            f"units cannot be cut out of an array of shape {shape}: its axes {field.axes} hold "
            "parts of one axis of units, and other units of each part are kept; keep the same "
            "ones in every part"
        )
    pairs = zip(field.axes, along, strict=True)
    return {axis: np.flatnonzero(line) for axis, line in pairs if not line.all()}

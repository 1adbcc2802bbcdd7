"""Which positions of every array stay when units are cut out."""

import dataclasses
import fractions
import math
from collections.abc import Iterable

import numpy as np

from pruning_jax.tracing import Equations
from pruning_jax.units.labels import NONE, Source, Zeros
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


def labelled(walked: Walk, zeros: Zeros) -> dict[int, list[tuple[tuple[int, ...], np.ndarray]]]:
    """(axes, atoms) of the fields of every value; not where a norm still needs removed units."""
    return {
        value: [
            (field.axes, field.atoms)
            for field, (zero, _) in zip(fields, zeros[value], strict=True)
            if zero != NORM
        ]
        for value, fields in walked.fields.items()
    }


def removed_atoms(graph: UnitGraph, unit_masks: UnitMasks) -> np.ndarray:
    """Whether each atom of a graph is of a removed unit."""
    labels, names = graph.labels, [space.name for space in graph.spaces]
    removed = np.zeros(len(labels.space_of), bool)
    for name, mask in unit_masks.items():
        inside = labels.space_of == names.index(name)
        removed[inside] = ~np.asarray(mask)[labels.unit_of[inside]]
    return _with_wholes(removed, labels.digits, labels.sources, labels.unmasked)


def _with_wholes(
    removed: np.ndarray, digits: np.ndarray, sources: Iterable[Source], unmasked: frozenset[tuple]
) -> np.ndarray:
    """The same with the atoms that have a removed digit, as the channels of a removed head.

    A digit that stays for a norm takes no atom with it.
    """
    taking = removed.copy()
    for source in sources:
        if source.digits and source.key in unmasked:
            atoms = source.atoms(0)
            taking[atoms[atoms != NONE]] = False
    for row in digits:
        removed = removed | ((row != NONE) & taking[row])
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
    removed, there = removed_atoms(graph, unit_masks), np.zeros(walk.atoms, bool)
    known = {source.key: source for source in graph.labels.sources}
    for source in walk.sources.values():
        if source.key in known:
            size = walk.size(source)
            start = known[source.key].start
            there[source.start : source.start + size] = removed[start : start + size]
    whole = np.zeros(components.max(initial=0) + 1, bool)
    np.logical_or.at(whole, components, there)
    digits, unmasked = walk.digits(components), graph.labels.unmasked
    removed = _with_wholes(whole[components], digits, walk.sources.values(), unmasked)
    return _narrowing(walk.model, labelled(walk, walk.zeros(unmasked)), removed)


def share(atoms: np.ndarray, removed: np.ndarray) -> fractions.Fraction:
    """The share of labelled positions that stay."""
    return fractions.Fraction(int(_stays(atoms, removed).sum()), atoms.size or 1)


def _stays(atoms: np.ndarray, removed: np.ndarray) -> np.ndarray:
    return (atoms == NONE) | ~removed[atoms]


def _narrowing(model: Equations, fields: dict, removed: np.ndarray) -> Narrowing:
    kept: dict[int, dict[int, np.ndarray]] = {}
    for value, several in fields.items() if removed.any() else ():
        for axes, atoms in several:
            here = kept.setdefault(value, {})
            for axis, places in _positions(axes, atoms, removed, model.shape(value)).items():
                here[axis] = np.intersect1d(here[axis], places) if axis in here else places
    return Narrowing(model, {value: axes for value, axes in kept.items() if axes})


def _positions(axes: tuple, atoms: np.ndarray, removed: np.ndarray, shape: tuple) -> dict:
    """Axis -> the positions that stay; the entries that stay are the product of these."""
    stays = _stays(atoms, removed)
    if stays.all():
        return {}
    places = range(stays.ndim)
    along = [stays.any(axis=tuple(p for p in places if p != place)) for place in places]
    if stays.sum() != math.prod(int(line.sum()) for line in along):
        raise ValueError(
            f"units cannot be cut out of an array of shape {shape}: its axes {axes} hold "
            "parts of one axis of units, and other units of each part are kept; keep the same "
            "ones in every part"
        )
    pairs = zip(axes, along, strict=True)
    return {axis: np.flatnonzero(line) for axis, line in pairs if not line.all()}

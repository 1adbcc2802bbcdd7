"""Labels of array axes: which atom, a position of a leaf's axis, each position belongs to."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

NONE = -1
"""The label of a position that is no unit's."""

CHANGED, PLAIN, ROOT = range(3)
"""What was done to a leaf: anything; no more than rearranging and scaling; a square root."""

Number = float | str | None
"""What all entries are; the primitive after which that is not known, or ``None``."""

Zeros = Mapping[int, Sequence[tuple[Number, Number]]]
"""Value -> of each of its fields, what the entries of a unit are when its masked slices are zero,
and what those are that belong to no unit."""


class Source(NamedTuple):
    """Axes of a leaf whose positions, or digits of them, are atoms in one block of numbers.

    Attributes:
      leaf: the path of the leaf.
      axes: its axes; several where a reshape merges them.
      digits: of every position the atom that it is, as bytes, where several are one: the head of a
        column, say. Empty where each position is an atom of its own.
      start: the number of the first atom.
    """

    leaf: str
    axes: tuple[int, ...]
    digits: bytes
    start: int

    @property
    def key(self) -> tuple[str, tuple[int, ...], bytes]:
        """What it is in any walk."""
        return self[:3]

    def atoms(self, size: int) -> np.ndarray:
        """The atom of each of the axes' positions, of which there are `size`."""
        if not self.digits:
            return np.arange(self.start, self.start + size)
        digits = np.frombuffer(self.digits, np.int64)
        return np.where(digits == NONE, NONE, digits + self.start)


class Field(NamedTuple):
    """Labels over some axes of an array; of one axis there may be several, as of merged heads.

    Attributes:
      axes: the axes, several where one was split.
      atoms: integers of those axes' shape.
      sources: the leaves that have a part in the entries, each with what was done to it on its way
        there: `PLAIN`, `ROOT` or `CHANGED`.
      at_zero: gives what the entries are, from what those of earlier arrays are.
    """

    axes: tuple[int, ...]
    atoms: np.ndarray
    sources: frozenset[tuple[Source, int]]
    at_zero: Callable[[Zeros], tuple[Number, Number]]


Fields = tuple[Field, ...]
Places = Mapping[int, tuple[int, np.ndarray | None]]
"""Axis -> the axis of the result that it becomes, and which of its positions are there: all of
them where that is ``None``; `NONE` stands for what is added."""


def same(value: int, index: int) -> Callable[[Zeros], tuple[Number, Number]]:
    """What the entries of an earlier array's field are."""
    return lambda zeros: zeros[value][index]


def moved(field: Field, places: Places) -> Field:
    """A field of an array whose axes were moved."""
    axes = [places[axis][0] for axis in field.axes]
    atoms = field.atoms
    for dimension, axis in enumerate(field.axes):
        positions = places[axis][1]
        if positions is not None:
            there = np.take(atoms, positions, axis=dimension)
            added = (positions == NONE).reshape([-1] + [1] * (atoms.ndim - dimension - 1))
            atoms = np.where(added, NONE, there) if added.any() else there
    if sorted(axes) != axes:
        atoms = atoms.transpose(np.argsort(axes))
    axes = sorted(axes)
    while len(axes) > 1 and 1 in atoms.shape:
        single = atoms.shape.index(1)
        atoms = atoms.squeeze(single)
        del axes[single]
    return field._replace(axes=tuple(axes), atoms=atoms)


def on(fields: Fields, axis: int) -> list[int]:
    """Which fields have an axis."""
    return [index for index, field in enumerate(fields) if axis in field.axes]


def groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest groups of axes, before and after a reshape, that hold the same entries."""
    result, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        before, after = [], []
        sizes = [1, 1]
        while not (before or after) or sizes[0] != sizes[1]:
            if j == len(new) or (i < len(old) and sizes[0] <= sizes[1]):
                sizes[0] *= old[i]
                before.append(i)
                i += 1
            else:
                sizes[1] *= new[j]
                after.append(j)
                j += 1
        while i < len(old) and old[i] == 1:
            before.append(i)
            i += 1
        while j < len(new) and new[j] == 1:
            after.append(j)
            j += 1
        result.append((before, after))
    return result


def spread(
    field: Field, group: tuple[list[int], list[int]], old: Sequence[int], new: Sequence[int]
) -> Field:
    """A field whose axes are among a reshape's group of axes, over those that the group becomes."""
    before, after = group
    shape = [old[axis] if axis in field.axes else 1 for axis in before]
    full = np.broadcast_to(field.atoms.reshape(shape), [old[axis] for axis in before])
    atoms, axes = full.reshape([new[axis] for axis in after]), list(after)
    for place in reversed(range(len(axes))):
        first = atoms.take([0], axis=place)
        if len(axes) > 1 and (atoms.shape[place] == 1 or (atoms == first).all()):
            atoms = atoms.take(0, axis=place)
            del axes[place]
    return field._replace(axes=tuple(axes), atoms=atoms)

"""Labels of array axes: which atom, a position of a leaf's axis, each position belongs to."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

NONE = -1
"""The label of a position that is no unit's."""


Part = tuple[str, tuple[int, ...]]
"""A leaf and some of its axes."""


class Source(NamedTuple):
    """Axes of a leaf whose positions are atoms, in one block of numbers.

    Attributes:
      leaf: the path of the leaf.
      axes: its axes; several where a reshape merges them.
      start: the number of the first atom.
    """

    leaf: str
    axes: tuple[int, ...]
    start: int

    @property
    def part(self) -> Part:
        return self.leaf, self.axes


class Field(NamedTuple):
    """Labels over some axes of an array.

    Attributes:
      axes: the axes, several where one was split.
      atoms: integers of those axes' shape.
      zero: the entries' value when every masked slice of their unit is zero; the name of the
        primitive after which it is not known.
      sources: the leaves that have a part in the entries, each with whether it was only
        rearranged on its way there.
      rest: as `zero`, of the entries that are no unit's, where there are any.
    """

    axes: tuple[int, ...]
    atoms: np.ndarray
    zero: float | str
    sources: frozenset[tuple[Source, bool]] = frozenset()
    rest: float | str = 0.0


Fields = tuple[Field, ...]


def moved(fields: Fields, place: Callable[[int], int]) -> Fields:
    """The fields of an array whose axes were renumbered; the axes of a field are kept in order."""
    result = []
    for field in fields:
        axes = [place(axis) for axis in field.axes]
        order = np.argsort(axes)
        atoms = field.atoms.transpose(order) if len(axes) > 1 else field.atoms
        result.append(field._replace(axes=tuple(sorted(axes)), atoms=atoms))
    return tuple(result)


def on(fields: Fields, axis: int) -> Field | None:
    """The field that has an axis."""
    return next((field for field in fields if axis in field.axes), None)


def taken(fields: Fields, parts: Sequence[slice]) -> Fields:
    """The fields of a slice of the array."""
    return tuple(
        field._replace(atoms=field.atoms[tuple(parts[axis] for axis in field.axes)])
        for field in fields
    )


def padded(fields: Fields, config: Sequence[tuple[int, int, int]]) -> Fields:
    """The fields of the array after `lax.pad`; what is added belongs to no unit."""
    result = []
    for field in fields:
        atoms = field.atoms
        for place, axis in enumerate(field.axes):
            low, high, interior = config[axis]
            size = atoms.shape[place]
            wide = np.full_like(
                atoms, NONE, shape=_with(atoms.shape, place, _spread(size, interior))
            )
            wide[_at(place, slice(None, None, interior + 1))] = atoms
            grown = [(0, 0)] * atoms.ndim
            grown[place] = (max(low, 0), max(high, 0))
            wide = np.pad(wide, grown, constant_values=NONE)
            end = wide.shape[place] + min(high, 0)
            atoms = wide[_at(place, slice(max(-low, 0), end))]
        result.append(field._replace(atoms=atoms))
    return tuple(result)


def _spread(size: int, interior: int) -> int:
    return size + max(size - 1, 0) * interior


def _with(shape: tuple[int, ...], place: int, size: int) -> tuple[int, ...]:
    return (*shape[:place], size, *shape[place + 1 :])


def _at(place: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * place, part)


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


def reshaped(
    fields: Fields, old: Sequence[int], new: Sequence[int]
) -> tuple[list[Field], list[tuple[list[Field], list[int], list[int]]]]:
    """The fields after a reshape, and the groups where several would share an axis.

    Returns:
      The fields, and (fields, axes before, axes after) of each group that merges several, or an
      axis of one unit with others.
    """
    if math.prod(old) == 0:
        return [], []
    found, merged = [], []
    for before, after in groups(old, new):
        inside = [field for field in fields if set(field.axes) & set(before)]
        if [old[axis] for axis in before] == [new[axis] for axis in after]:
            whole = tuple(field for field in inside if set(field.axes) <= set(before))
            found.extend(moved(whole, dict(zip(before, after, strict=True)).__getitem__))
            merged.extend(([field], before, after) for field in inside if field not in whole)
            continue
        single = [field for field in inside if field.atoms.size == 1]
        inside = [field for field in inside if field.atoms.size > 1]
        merged.extend(([field], before, after) for field in single)
        if len(inside) == 1 and set(inside[0].axes) <= set(before):
            found.append(_spread_over(inside[0], before, after, old, new))
        elif inside:
            merged.append((inside, before, after))
    return found, merged


def _spread_over(
    field: Field, before: list[int], after: list[int], old: Sequence[int], new: Sequence[int]
) -> Field:
    shape = [old[axis] if axis in field.axes else 1 for axis in before]
    full = np.broadcast_to(field.atoms.reshape(shape), [old[axis] for axis in before])
    atoms, axes = full.reshape([new[axis] for axis in after]), list(after)
    for place in reversed(range(len(axes))):
        first = atoms[_at(place, slice(0, 1))]
        if len(axes) > 1 and (atoms.shape[place] == 1 or (atoms == first).all()):
            atoms = atoms.take(0, axis=place)
            del axes[place]
    return field._replace(axes=tuple(axes), atoms=atoms)

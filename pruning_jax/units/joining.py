"""How labels go through a concatenation."""

from collections.abc import Iterable

import numpy as np

from pruning_jax.tracing.equations import Equation
from pruning_jax.units import fields as labels
from pruning_jax.units.fields import NONE, Field
from pruning_jax.units.notes import Link
from pruning_jax.units.walk import Walk


def common(numbers: Iterable[float | str | None], name: str) -> float | str:
    """The number that all are; `name` where they differ or one is not known."""
    different = {number if isinstance(number, float) else name for number in numbers}
    return different.pop() if len(different) == 1 else name


def concatenate(walk: Walk, number: int, equation: Equation) -> None:
    """Follows pieces that are put one after another along an axis."""
    axis, result = equation.params["dimension"], equation.outputs[0]
    every = {value: walk.fields.get(value, ()) for value in equation.inputs}
    if walk.is_data(result):
        for value in equation.inputs:
            if not walk.is_data(value):
                sources = {source for f in every[value] for source, _ in f.sources}
                links = [Link(number, source, "bias") for source in sorted(sources)]
                walk.notes.links.extend(links)
    split = [f for fields in every.values() for f in fields if axis in f.axes and len(f.axes) > 1]
    walk.notes.block(split, "they are concatenated along a part of their axis")
    found = [_beside(walk, equation, axes) for axes in _axes_beside(every.values(), axis)]
    if any((axis,) == f.axes for fields in every.values() for f in fields):
        found.append(_along(walk, equation, axis))
    walk.fields[result] = tuple(found)
    read = [walk.readings[value] for value in equation.inputs if value in walk.readings]
    if read:
        walk.readings[result] = frozenset().union(*read)
    if walk.pooled.intersection(equation.inputs):
        walk.pooled.add(result)


def _axes_beside(every: Iterable[labels.Fields], axis: int) -> list[tuple[int, ...]]:
    return list(dict.fromkeys(f.axes for fields in every for f in fields if axis not in f.axes))


def _beside(walk: Walk, equation: Equation, axes: tuple[int, ...]) -> Field:
    """The labels of an axis that pieces have in common; they hold the same units."""
    every = [walk.fields.get(value, ()) for value in equation.inputs]
    own = [next((f for f in fields if f.axes == axes), None) for fields in every]
    pieces = [field for field in own if field is not None]
    atoms = pieces[0].atoms
    for field in pieces[1:]:
        walk.unite(atoms, field.atoms)
        atoms = np.where(atoms == NONE, field.atoms, atoms)
    numbers = [
        walk.numbers.get(value) if field is None else field.zero
        for value, field in zip(equation.inputs, own, strict=True)
    ]
    rests = [field.rest for field in pieces if (field.atoms == NONE).any()]
    zero = common([*numbers, *rests], equation.name)
    sources = frozenset().union(*(field.sources for field in pieces))
    return Field(axes, atoms, zero, sources, zero)


def _along(walk: Walk, equation: Equation, axis: int) -> Field:
    """The labels of pieces one after another."""
    atoms, zero, rest, sources = [], [], [], frozenset()
    for value in equation.inputs:
        field = next((f for f in walk.fields.get(value, ()) if f.axes == (axis,)), None)
        if field is None:
            atoms.append(np.full(walk.shape(value)[axis], NONE))
            rest.append(walk.numbers.get(value))
            continue
        atoms.append(field.atoms)
        zero.append(field.zero)
        sources |= field.sources
        if (field.atoms == NONE).any():
            rest.append(field.rest)
    name = equation.name
    rest = common(rest, name) if rest else 0.0
    return Field((axis,), np.concatenate(atoms), common(zero, name), sources, rest)

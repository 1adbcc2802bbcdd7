"""A walk along a model's equations that labels axes and notes where leaves and units meet."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from pruning_jax import tracing
from pruning_jax.tracing import LINEAR, Equation, Trace
from pruning_jax.units import elementwise
from pruning_jax.units.labels import NONE, Field, Fields, Part, Source

NORM = "a norm of the units"
"""Why a value is not known to be zero: a leaf stays as it is, for its units are mixed."""


class Link(NamedTuple):
    """A leaf that makes a unit's output, or part of it.

    Attributes:
      equation: where it enters.
      source: its axes.
      role: as in `Slice`.
      layer: the name of the layer whose outputs these are; ``None`` for other leaves.
    """

    equation: int
    source: Source
    role: str
    layer: str | None = None


class Entry(NamedTuple):
    """A kernel's input axis, and the labels of what it multiplies.

    Attributes:
      equation: where.
      layer: the name of the layer.
      source: the kernel's input axis.
      atoms: the labels of the data along its axis; ``None`` where it has none.
      zero: as in `Field`.
      value: the data.
      lost: where a product has a part in the data, the kernel of one that is no layer, or nothing.
      groups: of a convolution whose kernel's input axis stands for several parts of the data.
      outputs: the kernel's output axis, where `groups` is more than 1.
    """

    equation: int
    layer: str
    source: Source
    atoms: np.ndarray | None
    zero: float | str
    value: int
    lost: str | None = None
    groups: int = 1
    outputs: Source | None = None


class Notes:
    """What was met: atoms that are one, links, entries, mixed units, and what is not understood."""

    def __init__(self) -> None:
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []
        self.links: list[Link] = []
        self.entries: list[Entry] = []
        self.mixed: list[tuple[str, Field]] = []
        self.blocked: list[tuple[str, np.ndarray]] = []
        self.sources: dict[tuple[str, tuple[int, ...]], Source] = {}
        self.atoms = 0

    def source(self, leaf: str, axes: tuple[int, ...], size: int) -> Source:
        """The block of atoms of a leaf's axes."""
        key = (leaf, axes)
        if key not in self.sources:
            self.sources[key] = Source(leaf, axes, self.atoms)
            self.atoms += size
        return self.sources[key]

    def same(self, a: np.ndarray, b: np.ndarray) -> None:
        """Notes that labels stand for the same units."""
        if a is not b:
            self.edges.append((a.ravel(), b.ravel()))

    def block(self, fields: Iterable[Field], reason: str) -> None:
        """Notes that units may not be pruned."""
        self.blocked.extend((reason, field.atoms) for field in fields)


class Walk:
    """What is known of every value.

    Attributes:
      notes: what was met.
      fields: value -> the labels of its axes.
      numbers: value -> the number that all its entries are.
      readings: value -> the values of the readings that it carries.
      pooled: the values that are pooled since they were read.
      made: the values that a product of data with variables has a part in -> a kernel of one that
        is no layer, or nothing.
      parametric: the values that depend on variables -> the largest leaf among these.
      mixed: value -> the primitive that reduced units with one another into it, and their labels.
    """

    def __init__(self, trace: Trace, unmasked: frozenset[Part] = frozenset()) -> None:
        self.trace, self.model, self.unmasked = trace, trace.model, unmasked
        self.layers = {use.equation: layer for layer in trace.layers for use in layer.uses}
        self.notes = Notes()
        self.fields: dict[int, Fields] = {}
        self.numbers: dict[int, float] = {}
        self.readings: dict[int, frozenset[int]] = {}
        self.pooled: set[int] = set()
        self.made: dict[int, str] = {}
        self.parametric = {value: leaf for leaf, value in self.model.leaves.items()}
        self.mixed: dict[int, tuple[tuple[str, np.ndarray], ...]] = {}
        for name, value in self.model.leaves.items():
            self.fields[value] = tuple(
                self._whole(name, (axis,), (size,), NORM if (name, (axis,)) in unmasked else 0.0)
                for axis, size in enumerate(self.shape(value))
            )
        for value, array in self.model.constants.items():
            aval = self.model.avals[value]
            known = not isinstance(array, jax.core.Tracer) and math.prod(aval.shape) == 1
            if known and not jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
                number = np.asarray(array)
                if number.dtype.kind in "fiub":
                    self.numbers[value] = float(number.reshape(()))

    def _whole(self, leaf: str, axes: tuple, shape: tuple, zero: float | str) -> Field:
        size = int(np.prod(shape))
        source = self.notes.source(leaf, axes, size)
        atoms = np.arange(source.start, source.start + size).reshape(shape)
        return Field(axes, atoms, zero, frozenset([(source, True)]))

    def shape(self, value: int) -> tuple[int, ...]:
        return self.model.shape(value)

    def is_data(self, value: int) -> bool:
        return value in self.model.from_inputs

    def known(self, value: int) -> np.ndarray | None:
        """An array that depends on neither variables nor inputs; ``None`` for any other."""
        if value in self.model.from_inputs or value in self.parametric:
            return None
        with jax.ensure_compile_time_eval():
            return np.asarray(tracing.evaluate(self.model, {}, [value])[value])

    def note_maker(self, number: int, equation: Equation) -> None:
        """Notes what depends on variables, and what a product of data with them made."""
        leaves = [self.parametric[value] for value in equation.inputs if value in self.parametric]
        before = [self.made[value] for value in equation.inputs if value in self.made]
        others = [value for value in equation.inputs if not self.is_data(value)]
        kernels = [self.parametric[value] for value in others if value in self.parametric]
        data = len(others) < len(equation.inputs)
        if leaves:
            self.parametric |= dict.fromkeys(equation.outputs, self._largest(leaves))
        if number in self.layers:
            self.made |= dict.fromkeys(equation.outputs, "")
        elif data and kernels and equation.name in LINEAR:
            self.made |= dict.fromkeys(equation.outputs, self._largest(kernels))
        elif before:
            self.made |= dict.fromkeys(equation.outputs, max(before))

    def _largest(self, leaves: list[str]) -> str:
        return max(leaves, key=lambda leaf: math.prod(self.shape(self.model.leaves[leaf])))

    def refuse(self, equation: Equation, reason: str) -> None:
        """Blocks the units that enter an equation; its results have no labels."""
        for value in equation.inputs:
            self.notes.block(self.fields.get(value, ()), reason)

    def carry(self, source: int, result: int, fields: Iterable[Field]) -> None:
        """Labels a result whose entries are a value's own, moved."""
        self.fields[result] = tuple(field for field in fields if field.axes)
        if source in self.readings:
            self.readings[result] = self.readings[source]
        if source in self.pooled:
            self.pooled.add(result)
        if source in self.numbers:
            self.numbers[result] = self.numbers[source]

    def read(self, value: int) -> None:
        """Notes a value as the place where its units are read, from here on."""
        self.readings[value] = frozenset([value])

    def elementwise(self, number: int, equation: Equation, function: Any) -> None:
        """Follows an elementwise primitive, or a call whose body is one."""
        inputs, result = equation.inputs, equation.outputs[0]
        labelled = [value for value in inputs if self.fields.get(value)]
        data = [value for value in labelled if self.is_data(value)]
        if not labelled:
            numbers = [self.numbers.get(value) for value in inputs]
            if None not in numbers:
                found = self._zero(function, equation, numbers)
                if isinstance(found, float):
                    self.numbers[result] = found
            return
        merged = self._merged(data or labelled, self.shape(result))
        if any(map(self.is_data, inputs)):
            merged = [
                field._replace(sources=frozenset()) if not data else field for field in merged
            ]
            for value in labelled:
                if value not in data:
                    merged = self._linked(number, equation, function, value, merged)
        else:
            merged = [self._sources(labelled, field, function) for field in merged]
        found = []
        for field in merged:
            zero = self._zero(function, equation, [self._number(v, field) for v in inputs])
            rest = self._zero(function, equation, [self._rest(v, field) for v in inputs])
            found.append(field._replace(zero=zero, rest=rest))
        self.fields[result] = tuple(found)
        if data:
            self._read_after(equation, data, result)

    def _read_after(self, equation: Equation, data: list[int], result: int) -> None:
        carried = {self.readings.get(value) for value in data}
        alone = self.mixed.keys().isdisjoint(equation.inputs) and self.pooled.issuperset(data)
        if len(carried) == 1 and alone and None not in carried:
            self.readings[result] = carried.pop()
            self.pooled.add(result)
        else:
            self.read(result)

    def _merged(self, values: list[int], shape: tuple[int, ...]) -> list[Field]:
        """The fields of several values as those of a result; one unit beside several is no unit."""
        merged: dict[tuple[int, ...], Field] = {}
        for value in values:
            for field in self.fields[value]:
                if field.atoms.shape != tuple(shape[axis] for axis in field.axes):
                    continue
                other = merged.get(field.axes)
                if other is None:
                    clash = [f for f in merged.values() if set(f.axes) & set(field.axes)]
                    if clash:
                        self.notes.block([field, *clash], "their axis is split in two ways")
                    else:
                        merged[field.axes] = field
                else:
                    atoms, sources = other.atoms, other.sources | field.sources
                    if atoms is not field.atoms:
                        self.unite(field.atoms, atoms)
                        atoms = np.where(atoms == NONE, field.atoms, atoms)
                    merged[field.axes] = other._replace(atoms=atoms, sources=sources)
        return list(merged.values())

    def unite(self, a: np.ndarray, b: np.ndarray) -> None:
        """Notes that labels, where both have any, stand for the same units."""
        both = (a != NONE) & (b != NONE)
        self.notes.same(a[both], b[both])

    def _linked(
        self, number: int, equation: Equation, function: Any, value: int, merged: list[Field]
    ) -> list[Field]:
        """Notes a leaf that is added to units, scales them, and so on; returns their labels."""
        result = list(merged)
        for field in self.fields[value]:
            place = next((i for i, f in enumerate(result) if f.axes == field.axes), None)
            if place is not None and result[place].atoms.shape != field.atoms.shape:
                continue
            if place is None:
                clash = [f for f in result if set(f.axes) & set(field.axes)]
                self.notes.block(clash, f"{equation.name} splits their axis in another way")
                shape = self.shape(equation.outputs[0])
                if clash or field.atoms.shape != tuple(shape[axis] for axis in field.axes):
                    continue
                place = len(result)
                result.append(field._replace(sources=frozenset()))
            other = result[place]
            if other.atoms is not field.atoms:
                self.unite(other.atoms, field.atoms)
            result[place] = other._replace(sources=other.sources | field.sources)
            for source, plain in sorted(field.sources):
                role = _role(function, plain, equation.inputs.index(value))
                self.notes.links.append(Link(number, source, role))
        return result

    def _number(self, value: int, field: Field) -> float | str | None:
        """What an operand has where the result has units."""
        for own in self.fields.get(value, ()):
            if own.axes == field.axes and own.atoms.shape == field.atoms.shape:
                beside = (own.atoms == NONE) & (field.atoms != NONE)
                return own.zero if own.zero == own.rest or not beside.any() else "concatenate"
        return self.numbers.get(value)

    def _rest(self, value: int, field: Field) -> float | str | None:
        """What an operand has where the result has none."""
        for own in self.fields.get(value, ()):
            if own.axes == field.axes and own.atoms.shape == field.atoms.shape:
                return own.rest if (own.atoms[field.atoms == NONE] == NONE).all() else None
        return self.numbers.get(value)

    def follow_mixing(self, number: int, equation: Equation, elementwise: bool) -> None:
        """Follows what units were reduced into until it meets the units themselves again.

        That is a norm. Where it meets a layer first, the units may not be pruned.
        """
        entering = [each for value in equation.inputs for each in self.mixed.get(value, ())]
        for name, atoms in {id(atoms): (name, atoms) for name, atoms in entering}.values():
            for result in equation.outputs:
                fields = self.fields.get(result, ())
                if elementwise and any(np.isin(atoms, field.atoms).any() for field in fields):
                    continue
                if number in self.layers:
                    self.notes.blocked.append((f"{name} mixes them into what a layer takes", atoms))
                else:
                    self.mixed[result] = (*self.mixed.get(result, ()), (name, atoms))

    def _zero(self, function: Any, equation: Equation, numbers: list) -> float | str:
        known = [number if isinstance(number, float) else None for number in numbers]
        if isinstance(function, str):
            found = elementwise.apply(function, equation.params, known)
        else:
            found = function(known)
        lost = [number for number in numbers if isinstance(number, str)]
        if found is None and NORM in lost:
            return NORM
        return (*lost, equation.name)[0] if found is None else found

    def _sources(self, values: list[int], field: Field, function: Any) -> Field:
        keeps = function in elementwise.SAME or function in ("mul", "neg")
        every = (f for value in values for f in self.fields[value] if f.axes == field.axes)
        found = {(source, plain and keeps) for f in every for source, plain in f.sources}
        return field._replace(sources=frozenset(found))


def _role(function: Any, plain: bool, position: int) -> str:
    if function in ("mul", "div"):
        return "scale" if plain else "variance"
    if function == "sub" and position == 1:
        return "mean"
    return "bias" if function in ("add", "add_any", "sub") else "scale"

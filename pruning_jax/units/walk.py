"""A walk along a model's equations that labels axes and notes where leaves and units meet."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pruning_jax.tracing import Equation, Trace
from pruning_jax.units import elementwise
from pruning_jax.units.labels import (
    CHANGED,
    NONE,
    PLAIN,
    ROOT,
    Field,
    Fields,
    Number,
    Source,
    Zeros,
)

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
    """A kernel's input axis, and what it multiplies.

    Attributes:
      equation: where.
      layer: the name of the layer.
      source: the kernel's input axis.
      value: the data.
      field: which of the data's fields; ``None`` where its axis has no labels.
      groups: of a convolution whose kernel's input axis stands for several parts of the data.
      outputs: the kernel's output axis, where `groups` is more than 1.
    """

    equation: int
    layer: str
    source: Source
    value: int
    field: int | None
    groups: int = 1
    outputs: Source | None = None


class Meeting(NamedTuple):
    """Axes of data that a product with other data sums over: (value, field) on each side."""

    equation: int
    sides: tuple[tuple[int, int], ...]


class Mixing(NamedTuple):
    """A reduction of units with one another."""

    equation: int
    field: Field


class Walk:
    """What is known of every value, and what was met.

    Attributes:
      fields: value -> the labels of its axes.
      numbers: value -> the number that all its entries are.
      parametric: the values that depend on variables.
      sources: the atoms of leaves' axes, by `Source.key`.
      parts: source -> the sources whose atoms are digits of its positions.
      edges: pairs of arrays of atoms that stand for the same units.
      links, entries, meetings, mixings: in order.
      blocked: (reason, atoms) of what may not be pruned.
      unmasked: the keys of sources that stay as they are when units are removed.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace, self.model = trace, trace.model
        uses = ((use, layer) for layer in trace.layers for use in layer.uses)
        self.layers = {use.equation: layer for use, layer in uses if use.share == 1}
        self.fields: dict[int, Fields] = {}
        self.numbers: dict[int, float] = {}
        self.parametric = set(self.model.leaves.values())
        self.sources: dict[tuple, Source] = {}
        self.parts: dict[Source, list[Source]] = {}
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []
        self.links: list[Link] = []
        self.entries: list[Entry] = []
        self.meetings: list[Meeting] = []
        self.mixings: list[Mixing] = []
        self.blocked: list[tuple[str, np.ndarray]] = []
        self.atoms = 0
        self.unmasked: frozenset[tuple] = frozenset()
        for name, value in self.model.leaves.items():
            shape = self.shape(value)
            self.fields[value] = tuple(
                self.whole(name, (axis,), (size,)) for axis, size in enumerate(shape)
            )
        for value, array in self.model.constants.items():
            aval = self.model.avals[value]
            known = not isinstance(array, jax.core.Tracer) and math.prod(aval.shape) == 1
            if known and not jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
                number = np.asarray(array)
                if number.dtype.kind in "fiub":
                    self.numbers[value] = float(number.reshape(()))

    def source(self, leaf: str, axes: tuple[int, ...], size: int, digits: bytes = b"") -> Source:
        """The block of atoms of a leaf's axes."""
        key = (leaf, axes, digits)
        if key not in self.sources:
            self.sources[key] = Source(*key, self.atoms)
            self.atoms += size
        return self.sources[key]

    def whole(self, leaf: str, axes: tuple[int, ...], shape: tuple[int, ...]) -> Field:
        """The field of a leaf's axes, each of whose positions is an atom."""
        source = self.source(leaf, axes, math.prod(shape))
        atoms = source.atoms(math.prod(shape)).reshape(shape)
        return Field(axes, atoms, frozenset([(source, PLAIN)]), lambda zeros: (0.0, 0.0))

    def shape(self, value: int) -> tuple[int, ...]:
        return self.model.shape(value)

    def is_data(self, value: int) -> bool:
        return value in self.model.from_inputs

    def unite(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Notes that labels stand for the same units; returns those that either has."""
        if a is b:
            return a
        both = (a != NONE) & (b != NONE)
        self.edges.append((a[both], b[both]))
        return a if both.all() else np.where(a == NONE, b, a)

    def block(self, fields: Iterable[Field], reason: str) -> None:
        """Notes that units may not be pruned."""
        self.blocked.extend((reason, field.atoms) for field in fields)

    def refuse(self, equation: Equation, reason: str) -> None:
        """Blocks the units that enter an equation; its results have no labels."""
        for value in equation.inputs:
            self.block(self.fields.get(value, ()), reason)

    def zeros(self, unmasked: frozenset[tuple]) -> Zeros:
        """What the entries of every field are when the masked slices of a unit are zero.

        Args:
          unmasked: the keys of sources that stay as they are when units are removed.
        """
        self.unmasked = unmasked
        found: dict[int, list[tuple[Number, Number]]] = {
            value: [
                (NORM if source.key in unmasked else 0.0, 0.0)
                for field in self.fields[value]
                for source, _ in field.sources
            ]
            for value in self.model.leaves.values()
        }
        for value, fields in self.fields.items():
            if value not in found:
                found[value] = [field.at_zero(found) for field in fields]
        return found

    def elementwise(self, number: int, equation: Equation, function: Any) -> None:
        """Follows an elementwise primitive, or a call whose body is one."""
        inputs, result = equation.inputs, equation.outputs[0]
        held = [value for value in dict.fromkeys(inputs) if self.fields.get(value)]
        if not held:
            numbers = [self.numbers.get(value) for value in inputs]
            if None not in numbers:
                found = _apply(function, equation, numbers)
                if isinstance(found, float):
                    self.numbers[result] = found
            return
        if len(held) > 1:
            self._split_alike(held)
        shape, on_data = self.shape(result), any(map(self.is_data, inputs))
        held.sort(key=lambda value: not self.is_data(value))
        slots: list[_Slot] = []
        for value in held:
            same, added = self.shape(value) == shape, on_data and not self.is_data(value)
            for index, field in enumerate(self.fields[value]):
                if not same and field.atoms.shape != tuple(shape[axis] for axis in field.axes):
                    continue
                slot = self._slot(slots, value, field)
                if slot is None:
                    continue
                slot.fields[value] = index
                atoms = self.unite(slot.atoms, field.atoms)
                slot.atoms = slot.atoms if added else atoms
                if on_data or function in elementwise.SAME or function in ("mul", "neg"):
                    slot.sources |= field.sources
                else:
                    rooted = function in ("sqrt", "rsqrt", "pow")
                    slot.sources |= {
                        (source, ROOT if rooted or way == ROOT else CHANGED)
                        for source, way in field.sources
                    }
                for source, way in sorted(field.sources) if added else ():
                    role = _role(function, way, inputs.index(value))
                    self.links.append(Link(number, source, role))
        self.fields[result] = tuple(
            Field(slot.axes, slot.atoms, slot.sources, self._computed(function, equation, slot))
            for slot in slots
        )

    def _slot(self, slots: list["_Slot"], value: int, field: Field) -> "_Slot | None":
        """Where a result has the labels of an operand; ``None`` where it has others there."""
        others = [slot for slot in slots if value not in slot.fields]
        same = next((slot for slot in others if slot.axes == field.axes), None)
        if same is not None:
            return same
        clash = [slot for slot in others if not set(slot.axes).isdisjoint(field.axes)]
        if clash:
            self.block([field, *clash], "their axis is split in two ways")
            return None
        slots.append(_Slot(field.axes, field.atoms))
        return slots[-1]

    def _computed(self, function: Any, equation: Equation, slot: "_Slot") -> Callable:
        """What a function makes of the entries of its operands."""
        operands, unlabelled = [], None
        for value in equation.inputs:
            index = slot.fields.get(value)
            if index is None:
                number = self.numbers.get(value)
                operands.append((value, None, number, number))
                continue
            beside, covered = False, True
            atoms = self.fields[value][index].atoms
            if atoms is not slot.atoms:
                unlabelled = slot.atoms == NONE if unlabelled is None else unlabelled
                beside = bool(((atoms == NONE) & ~unlabelled).any())
                covered = bool((atoms[unlabelled] == NONE).all())
            operands.append((value, index, beside, covered))

        def at_zero(zeros: Zeros) -> tuple[Number, Number]:
            units, others = [], []
            for value, index, beside, covered in operands:
                if index is None:
                    units.append(beside)
                    others.append(covered)
                else:
                    zero, rest = zeros[value][index]
                    units.append(zero if zero == rest or not beside else "concatenate")
                    others.append(rest if covered else None)
            found = _apply(function, equation, units)
            return found, found if units == others else _apply(function, equation, others)

        return at_zero

    def _split_alike(self, values: Sequence[int]) -> None:
        """Labels the parts of a split axis by themselves, where something else has labels there."""
        axes = {field.axes for value in values for field in self.fields[value]}
        for value in values if max(map(len, axes)) > 1 else ():
            for field in self.fields[value]:
                if len(field.axes) > 1 and any(
                    set(field.axes) & set(other) for other in axes - {field.axes}
                ):
                    self.split(value, field.axes)

    def split(self, value: int, axes: Iterable[int]) -> None:
        """Labels the parts of an array's axes of units, where these were split, by themselves.

        Of a column that is reshaped to heads and their channels, a head is a unit then, and a
        channel, which all heads have.
        """
        fields = list(self.fields.get(value, ()))
        for index, field in enumerate(fields):
            if len(field.axes) > 1 and not set(axes).isdisjoint(field.axes):
                fields[index], *more = self._parts(field)
                fields.extend(more)
        self.fields[value] = tuple(fields)

    def _parts(self, field: Field) -> list[Field]:
        """A field of several axes as one of each; itself where its atoms are not one leaf's."""
        sizes = {source: self.size(source) for source, _ in field.sources}
        low, high = field.atoms.min(), field.atoms.max()
        inside = (s for s, n in sizes.items() if s.start <= low <= high < s.start + n)
        first = next(inside, None)
        alone = first is not None and len(np.unique(field.atoms)) == field.atoms.size
        if not alone or not all(self._aligned(first, source, sizes) for source in sizes):
            return [field]
        found = []
        for dimension, axis in enumerate(field.axes):
            digits = np.full(sizes[first], NONE)
            places = np.arange(field.atoms.shape[dimension])
            shape = [-1 if place == dimension else 1 for place in range(len(field.axes))]
            digits[field.atoms - first.start] = places.reshape(shape)
            parts = [(self.part(source, digits), way) for source, way in sorted(field.sources)]
            blocks = [part.start + places for part, _ in parts]
            keys = frozenset(part.key for part, _ in parts)
            for block in blocks[1:]:
                self.unite(blocks[0], block)
            at_zero = functools.partial(self._at_zero, keys, field.at_zero)
            found.append(Field((axis,), blocks[0], frozenset(parts), at_zero))
        return found

    def _at_zero(self, parts: frozenset[tuple], whole: Callable, zeros: Zeros) -> tuple:
        """What the entries of parts are: those that stay for a norm are not the whole's."""
        return whole(zeros) if parts.isdisjoint(self.unmasked) else (NORM, 0.0)

    def part(self, source: Source, digits: np.ndarray) -> Source:
        """The atoms that are digits of a source's positions."""
        count = int(digits.max()) + 1
        part = self.source(source.leaf, source.axes, count, digits.astype(np.int64).tobytes())
        if part not in self.parts.setdefault(source, []):
            self.parts[source].append(part)
        return part

    def digits(self, unit_of: np.ndarray) -> np.ndarray:
        """Atom -> the atoms that are digits of its unit, `NONE` where there are no more.

        Args:
          unit_of: atom -> its unit.

        Returns:
          Integers, shape (the most digits of a unit, atoms).
        """
        rows: list[np.ndarray] = []
        for source, parts in self.parts.items():
            units = unit_of[source.start : source.start + self.size(source)]
            for part in parts:
                atoms = part.atoms(0)
                free = (row for row in rows if (row[units[atoms != NONE]] == NONE).all())
                row = next(free, None)
                if row is None:
                    rows.append(row := np.full(unit_of.max() + 1, NONE))
                row[units[atoms != NONE]] = atoms[atoms != NONE]
        return np.array([row[unit_of] for row in rows], int).reshape(-1, self.atoms)

    def size(self, source: Source) -> int:
        """How many atoms a source has."""
        if source.digits:
            return int(np.frombuffer(source.digits, np.int64).max()) + 1
        shape = self.shape(self.model.leaves[source.leaf])
        return math.prod(shape[axis] for axis in source.axes)

    def _aligned(self, first: Source, other: Source, sizes: dict[Source, int]) -> bool:
        """Whether two leaves' axes met position by position."""
        if first == other:
            return True
        if first.digits or other.digits or sizes[first] != sizes[other]:
            return False
        whole = np.arange(sizes[first])
        return any(
            pair[i].size == whole.size
            and pair[i][0] == first.start
            and pair[1 - i][0] == other.start
            and np.array_equal(pair[i] - first.start, whole)
            and np.array_equal(pair[1 - i] - other.start, whole)
            for pair in self.edges
            for i in (0, 1)
        )


class _Slot:
    """Labels of a result: its axes and atoms, and operand -> which of its fields they are."""

    def __init__(self, axes: tuple[int, ...], atoms: np.ndarray) -> None:
        self.axes, self.atoms = axes, atoms
        self.sources: frozenset[tuple[Source, int]] = frozenset()
        self.fields: dict[int, int] = {}


def _apply(function: Any, equation: Equation, numbers: list[Number]) -> Number:
    known = [number if isinstance(number, float) else None for number in numbers]
    if isinstance(function, str):
        found = elementwise.apply(function, equation.params, known)
    else:
        found = function(known)
    lost = [number for number in numbers if isinstance(number, str)]
    if found is None and NORM in lost:
        return NORM
    return (*lost, equation.name)[0] if found is None else found


def _role(function: Any, way: int, position: int) -> str:
    if function in ("mul", "div"):
        return "variance" if way == ROOT else "scale"
    if function == "sub" and position == 1:
        return "mean"
    return "bias" if function in ("add", "add_any", "sub") else "scale"

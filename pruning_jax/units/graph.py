"""From what a walk met to the unit spaces of a model."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from pruning_jax.tracing import Trace
from pruning_jax.units import rules
from pruning_jax.units.labels import NONE, Part, Source
from pruning_jax.units.spaces import (
    PRODUCED,
    Consumer,
    Labels,
    Reading,
    Slice,
    UnitGraph,
    UnitSpace,
)
from pruning_jax.units.walk import NORM, Entry, Link, Walk


def graph(trace: Trace) -> UnitGraph:
    """Finds the units of a model: which slices of which leaves live and die together.

    Every axis of every leaf is followed through the model's equations. Axes that meet, in a
    product, a sum or a concatenation, hold the same units; units that one layer produces, or
    several that are added, are one space. What a primitive that is not understood touches may not
    be pruned, and the space says why; nor may the network's inputs and outputs.

    Args:
      trace: of the model.

    Returns:
      Its unit spaces in the model's order.
    """
    if not isinstance(trace, Trace):
        raise ValueError(
            "a unit graph is made of a Trace, as tracing.trace(apply_fn, variables, inputs), not "
            f"of a {type(trace).__name__}"
        )
    plan = _Plan(rules.walk(trace))
    if plan.unmasked:
        plan = _Plan(rules.walk(trace, frozenset(plan.unmasked)))
    spaces = [plan.space(number) for number in range(len(plan.spaces))]
    return UnitGraph(tuple(_named(spaces)), trace, plan.labels)


def _named(spaces: list[UnitSpace]) -> Iterator[UnitSpace]:
    seen: dict[str, int] = {}
    for space in spaces:
        count = seen[space.name] = seen.get(space.name, 0) + 1
        yield space if count == 1 else space._replace(name=f"{space.name}_{count}")


def components(count: int, edges: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    pairs = [*edges]
    if not pairs:
        return np.arange(count)
    rows, columns = (np.concatenate(side) for side in zip(*pairs, strict=True))
    ones = np.ones(len(rows), np.int8)
    matrix = sparse.coo_matrix((ones, (rows, columns)), shape=(count, count))
    return csgraph.connected_components(matrix, directed=False)[1]


class _Plan:
    """The units that a walk found, and which spaces they make.

    Attributes:
      unit_of: atom -> its unit; numbers of no meaning.
      spaces: the units of each space, in order.
      labels: atom -> its space and its unit's number there.
      links, entries, mixed, reasons: of each space.
      unmasked: the axes of leaves whose units are mixed with one another, as a layer norm does.
    """

    def __init__(self, walked: Walk) -> None:
        self.walk, notes = walked, walked.notes
        self.unit_of = components(notes.atoms, notes.edges)
        self.spaces = self._spaces()
        number, space_of = np.full((2, notes.atoms), NONE)
        for i, units in enumerate(self.spaces):
            number[units] = np.arange(len(units))
            space_of[units] = i
        self.labels = Labels(
            fields=walked.fields,
            space_of=space_of[self.unit_of],
            unit_of=number[self.unit_of],
            sources=tuple(notes.sources.values()),
            unmasked=walked.unmasked,
        )
        self.links: dict[int, dict[Source, Link]] = {}
        for link in notes.links:
            for space in self._spaces_of(self.atoms(link.source)):
                self.links.setdefault(space, {}).setdefault(link.source, link)
        self.entries: dict[int, list[Entry]] = {}
        for entry in notes.entries:
            for space in self._spaces_of(_entering(entry, self.atoms(entry.source))):
                self.entries.setdefault(space, []).append(entry)
        self.reasons: dict[int, str] = {}
        for reason, atoms in notes.blocked:
            for space in self._spaces_of(atoms):
                self.reasons.setdefault(space, reason)
        self.mixed: dict[int, str] = {}
        self.unmasked: set[Part] = set()
        for name, field in notes.mixed:
            for space in self._spaces_of(field.atoms):
                self.mixed[space] = name
                if space not in self.reasons:
                    self.unmasked |= {source.part for source, _ in field.sources}

    def shape(self, source: Source) -> list[int]:
        """The shape of a source's leaf, with its other axes of size 1."""
        shape = self.walk.shape(self.walk.model.leaves[source.leaf])
        return [size if axis in source.axes else 1 for axis, size in enumerate(shape)]

    def atoms(self, source: Source) -> np.ndarray:
        """The atoms of a source."""
        return np.arange(source.start, source.start + math.prod(self.shape(source)))

    def _spaces(self) -> list[np.ndarray]:
        """Units that share a producing layer, in the order of the equations."""
        notes = self.walk.notes
        produced = [
            (link.equation, 1, self.unit_of[self.atoms(link.source)])
            for link in notes.links
            if link.role in PRODUCED
        ]
        made = np.zeros(notes.atoms, bool)
        for *_, units in produced:
            made[units] = True
        entered = [
            (entry.equation, 0, self.unit_of[self.atoms(entry.source)])
            for entry in notes.entries
            if entry.groups == 1
        ]
        inputs = [event for event in entered if not made[event[-1]].any()]
        events = sorted([*produced, *inputs], key=lambda event: event[:2])
        joined = components(
            notes.atoms, ((np.full_like(units, units[0]), units) for *_, units in events)
        )
        orders: dict[int, list[np.ndarray]] = {}
        for *_, units in events:
            orders.setdefault(joined[units[0]], []).append(units)
        return [_in_order(parts) for parts in orders.values()]

    def _spaces_of(self, atoms: np.ndarray) -> list[int]:
        """The spaces that atoms belong to."""
        if not len(atoms):
            return []
        found = self.labels.space_of[atoms]
        first = found.flat[0]
        if (found == first).all() and atoms.min() != NONE:
            return [int(first)] if first != NONE else []
        found = found[atoms != NONE]
        return np.unique(found[found != NONE]).tolist()

    def space(self, number: int) -> UnitSpace:
        """Describes a space."""
        links = list(self.links.get(number, {}).values())
        consumers = tuple(self._consumer(number, e) for e in self.entries.get(number, ()))
        readings = self._readings(number, consumers)
        makers = [link.layer for link in links if link.role in PRODUCED]
        return UnitSpace(
            name=self._name(number, makers),
            size=len(self.spaces[number]),
            layers=tuple(dict.fromkeys(link.layer for link in links if link.layer is not None)),
            producers=tuple(self._producer(number, link) for link in links),
            consumers=consumers,
            readings=tuple(reading for reading in readings if reading is not None),
            reason=self._reason(number, makers, readings),
        )

    def _name(self, number: int, makers: list[str]) -> str:
        if makers:
            return makers[0]
        entry = self.entries[number][0]
        return "inputs" if entry.lost is None else f"into {entry.layer}"

    def _producer(self, number: int, link: Link) -> Slice:
        units = self.labels.unit(number, self.atoms(link.source)).reshape(self.shape(link.source))
        role = "kernel" if link.role == "depthwise" else link.role
        return Slice(link.source.leaf, role, units, link.source.part not in self.unmasked)

    def _consumer(self, number: int, entry: Entry) -> Consumer:
        units = self.labels.unit(number, _entering(entry, self.atoms(entry.source)))
        places = np.flatnonzero(units != NONE)
        readings = [
            value
            for value in sorted(self.walk.readings.get(entry.value, ()))
            if any(number in self._spaces_of(f.atoms) for f in self.walk.fields[value])
        ]
        return Consumer(
            layer=entry.layer,
            slice=Slice(
                entry.source.leaf, "kernel", self._entries(number, entry, units), entry.zero != 0.0
            ),
            equation=entry.equation,
            readings=tuple(readings),
            offset=int(places[0]),
            repeats=len(places) // len(np.unique(units[places])),
        )

    def _entries(self, number: int, entry: Entry, units: np.ndarray) -> np.ndarray:
        """The units that the entries of a consuming kernel multiply."""
        atoms = self.atoms(entry.source)
        if entry.groups == 1:
            return self.labels.unit(number, atoms).reshape(self.shape(entry.source))
        outputs = self.atoms(entry.outputs)
        group = np.arange(outputs.size) // (outputs.size // entry.groups)
        place = group[None, :] * atoms.size + np.arange(atoms.size)[:, None]
        table = units[place] if entry.source.axes < entry.outputs.axes else units[place].T
        return table.reshape(np.maximum(self.shape(entry.source), self.shape(entry.outputs)))

    def _readings(self, number: int, consumers: tuple[Consumer, ...]) -> list[Reading | None]:
        """The readings of a space; ``None`` for one whose axis of units is split."""
        values = sorted({value for consumer in consumers for value in consumer.readings})
        found = []
        for value in values:
            for field in self.walk.fields[value]:
                if number in self._spaces_of(field.atoms):
                    numbers = self.labels.unit(number, field.atoms)
                    single = len(field.axes) == 1
                    found.append(Reading(value, field.axes[0], numbers) if single else None)
        return found

    def _reason(self, number: int, makers: list[str], readings: list) -> str | None:
        entries = self.entries.get(number, ())
        unlabelled = [entry for entry in entries if entry.atoms is None]
        zeros = [entry.zero for entry in entries]
        lost = [zero for zero in zeros if isinstance(zero, str)]
        if not makers:
            return self._source((*unlabelled, *entries)[0])
        if unlabelled:
            leaf = unlabelled[0].source.leaf
            return f"{leaf!r} is the kernel of several layers, one of which has other inputs"
        if number in self.reasons:
            return self.reasons[number]
        if not entries or not readings:
            return "no layer reads them"
        if None in readings:
            return "their axis is split where it is read"
        if NORM in lost:
            reader = next(entry.layer for entry in entries if entry.zero == NORM)
            mixer = self.mixed[number]
            return f"{mixer} mixes them, and {reader} reads them with no scale of theirs between"
        if any(zero != zero for zero in zeros):
            return "their slices at zero give no finite number"
        kept = [e for e in entries if e.zero != 0.0 and e.source.part in self.unmasked]
        if kept:
            return (
                f"{kept[0].source.leaf!r} would have to be zero where {kept[0].layer} reads them, "
                f"and as it is where {self.mixed[number]} mixes them"
            )
        if lost:
            return f"{lost[0]} makes them something else than zero where their slices are zero"
        return None

    def _source(self, entry: Entry) -> str:
        """What enters a layer without labels."""
        if entry.lost is None:
            return "they are the network's inputs"
        if entry.lost:
            reasons = dict(self.walk.trace.unsupported)
            why = reasons.get(entry.lost, "its use is not understood")
            return f"{entry.lost!r} makes them, a kernel that cannot be read: {why}"
        return f"they come into {entry.layer} from a layer by a way that is not understood"


def _in_order(parts: list[np.ndarray]) -> np.ndarray:
    """The different numbers of several arrays, in the order in which they come."""
    joined = np.concatenate(parts)
    _, first = np.unique(joined, return_index=True)
    return joined[np.sort(first)]


def _entering(entry: Entry, own: np.ndarray) -> np.ndarray:
    """The labels of what enters a kernel: the data's, or where it has none the kernel's own."""
    return own if entry.atoms is None else entry.atoms

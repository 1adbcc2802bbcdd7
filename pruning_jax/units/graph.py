"""From what a walk met to the unit spaces of a model."""

import contextlib
import dataclasses
import gc
import math
from collections.abc import Iterable, Iterator

import numpy as np

from pruning_jax.tracing import Trace
from pruning_jax.units import elementwise, moves, rules
from pruning_jax.units.labels import NONE, Number, Source
from pruning_jax.units.narrowing import labelled
from pruning_jax.units.origins import Origins
from pruning_jax.units.spaces import (
    PRODUCED,
    Consumer,
    Labels,
    Reading,
    Slice,
    UnitGraph,
    UnitSpace,
)
from pruning_jax.units.walk import NORM, Entry, Link, Meeting, Walk


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

    Raises:
      ValueError: it is no trace.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.ones((3, 2))}
    >>> graph = pj.units.graph(pj.trace(model, variables, jnp.ones((4, 1))))
    >>> [(space.name, space.size, space.prunable) for space in graph.spaces]
    [('inputs', 1, False), ('w', 3, True), ('out', 2, False)]
    """
    if not isinstance(trace, Trace):
        raise ValueError(
            "a unit graph is made of a Trace, as tracing.trace(apply_fn, variables, inputs), not "
            f"of a {type(trace).__name__}"
        )
    with _without_collecting():
        plan = _Plan(rules.walk(trace))
        spaces = [plan.space(number) for number in range(len(plan.spaces))]
        return UnitGraph(tuple(_named(spaces)), trace, plan.labels)


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Has Python look for no garbage: a walk keeps tens of thousands of small objects to its end,
    and looking at them, and at all that JAX holds, again and again takes a third of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _named(spaces: list[UnitSpace]) -> Iterator[UnitSpace]:
    seen: dict[str, int] = {}
    for space in spaces:
        count = seen[space.name] = seen.get(space.name, 0) + 1
        yield space if count == 1 else space._replace(name=f"{space.name}_{count}")


def components(count: int, edges: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    pairs = [*edges]
    if not pairs:
        return np.arange(count)
    from scipy import sparse  # here, for importing it takes a fifth of what jax takes
    from scipy.sparse import csgraph

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
      links, entries, meetings, reasons: of each space.
      mixed: space -> what mixes its units with one another, as a layer norm does.
      unmasked: the keys of the sources of these.
      zeros: what the entries of removed units are.
    """

    def __init__(self, walked: Walk) -> None:
        self.walk = walked
        self.origins = Origins(walked)
        self.known: dict[int, tuple[np.ndarray, list[int]]] = {}
        self.unit_of = components(walked.atoms, walked.edges)
        self.spaces = self._spaces()
        number, space_of = np.full((2, walked.atoms), NONE)
        for i, units in enumerate(self.spaces):
            number[units] = np.arange(len(units))
            space_of[units] = i
        self.labels = Labels(
            fields={},
            space_of=space_of[self.unit_of],
            unit_of=number[self.unit_of],
            sources=tuple(walked.sources.values()),
            digits=walked.digits(self.unit_of),
            unmasked=frozenset(),
        )
        self.links: dict[int, dict[Source, Link]] = {}
        for link in walked.links:
            for source in walked.parts.get(link.source, [link.source]):
                for space in self.spaces_of(self.atoms(source)):
                    self.links.setdefault(space, {}).setdefault(
                        source, link._replace(source=source)
                    )
        self.entries: dict[int, list[Entry]] = {}
        for entry in walked.entries:
            for space in self.spaces_of(self._entering(entry)):
                self.entries.setdefault(space, []).append(entry)
        self.meetings: dict[int, list] = {}
        for meeting in walked.meetings:
            for value, index in meeting.sides:
                for space in self.spaces_of(walked.fields[value][index].atoms):
                    self.meetings.setdefault(space, []).append(meeting)
        self.reasons = self._blocked()
        self.mixed: dict[int, str] = {}
        self._follow_mixing()
        self.unmasked = frozenset(
            source.key
            for mixing in walked.mixings
            if any(space not in self.reasons for space in self.spaces_of(mixing.field.atoms))
            for source, _ in mixing.field.sources
        )
        self.zeros = walked.zeros(self.unmasked)
        fields = labelled(walked, self.zeros)
        self.labels = dataclasses.replace(self.labels, fields=fields, unmasked=self.unmasked)

    def _blocked(self) -> dict[int, str]:
        """Space -> why its units may not be pruned, of those that something stands against."""
        reasons: dict[int, str] = {}
        blocked = list(self.walk.blocked)
        for mixing in self.walk.mixings:
            if any(source in self.walk.parts for source, _ in mixing.field.sources):
                name = self.walk.model.equations[mixing.equation].name
                why = f"{name} mixes positions of an axis that is heads and channels elsewhere; "
                why += "give its kernel an axis for each, (inputs, heads, channels)"
                blocked.append((why, mixing.field.atoms))
        for reason, atoms in blocked:
            for space in self.spaces_of(atoms):
                reasons.setdefault(space, reason)
        return reasons

    def _follow_mixing(self) -> None:
        """Follows what units were reduced into until it meets the units themselves again.

        That is a norm. Where it meets a layer first, the units may not be pruned.
        """
        begun: dict[int, set[int]] = {}
        for mixing in self.walk.mixings:
            spaces = self.spaces_of(mixing.field.atoms)
            begun.setdefault(mixing.equation, set()).update(spaces)
        carried: dict[int, set[int]] = {}
        for number, equation in enumerate(self.walk.model.equations if begun else ()):
            entering = set().union(*(carried.get(value, ()) for value in equation.inputs))
            leaving = set(entering)
            if entering and number in self.walk.layers:
                self._mix_into(entering, "what a layer takes")
                leaving = set()
            elif entering and self._is_elementwise(number):
                for field in self.walk.fields.get(equation.outputs[0], ()):
                    leaving.difference_update(self.spaces_of(field.atoms))
            if number in begun:
                self.mixed |= dict.fromkeys(begun[number], equation.name)
                leaving.update(begun[number])
            if leaving:
                carried |= {value: leaving for value in equation.outputs}
        for output in self.walk.model.outputs:
            self._mix_into(carried.get(output, set()), "the network's outputs")

    def _mix_into(self, spaces: set[int], what: str) -> None:
        for space in spaces:
            self.reasons.setdefault(space, f"{self.mixed[space]} mixes them into {what}")

    def _is_elementwise(self, number: int) -> bool:
        equation = self.walk.model.equations[number]
        known = equation.name in rules.RULES or equation.name in moves.MOVES
        return equation.name in elementwise.ELEMENTWISE or (
            not known and elementwise.body_of(equation) is not None
        )

    def shape(self, source: Source) -> list[int]:
        """The shape of a source's leaf, with its other axes of size 1."""
        shape = self.walk.shape(self.walk.model.leaves[source.leaf])
        return [size if axis in source.axes else 1 for axis, size in enumerate(shape)]

    def atoms(self, source: Source) -> np.ndarray:
        """The atom of each position of a source's axes."""
        return source.atoms(math.prod(self.shape(source)))

    def _spaces(self) -> list[np.ndarray]:
        """Units that share a producing layer, in the order of the equations."""
        walked = self.walk
        produced = [
            (link.equation, 1, self._units(source))
            for link in walked.links
            if link.role in PRODUCED
            for source in walked.parts.get(link.source, [link.source])
        ]
        made = np.zeros(walked.atoms, bool)
        for link in walked.links:
            if link.role in PRODUCED:
                made[self._units(link.source)] = True
        entered = [
            (entry.equation, 0, self._units(entry.source))
            for entry in walked.entries
            if entry.groups == 1
        ]
        inputs = [event for event in entered if not made[event[-1]].any()]
        events = sorted([*produced, *inputs], key=lambda event: event[:2])
        joined = components(
            walked.atoms, ((np.full_like(units, units[0]), units) for *_, units in events)
        )
        orders: dict[int, list[np.ndarray]] = {}
        for *_, units in events:
            orders.setdefault(joined[units[0]], []).append(units)
        return [_in_order(parts) for parts in orders.values()]

    def _units(self, source: Source) -> np.ndarray:
        """The units of a source's positions, but of those that are of none."""
        atoms = self.atoms(source)
        return self.unit_of[atoms[atoms != NONE]]

    def spaces_of(self, atoms: np.ndarray) -> list[int]:
        """The spaces that atoms belong to; many fields share their array of atoms."""
        if id(atoms) not in self.known:
            self.known[id(atoms)] = atoms, self.labels.spaces(atoms)
        return self.known[id(atoms)][1]

    def space(self, number: int) -> UnitSpace:
        """Describes a space."""
        links = list(self.links.get(number, {}).values())
        consumers = tuple(self._consumer(number, e) for e in self.entries.get(number, ()))
        readings = self._readings(number)
        makers = [link.layer for link in links if link.role in PRODUCED]
        return UnitSpace(
            name=self._name(number, makers),
            size=len(self.spaces[number]),
            layers=tuple(dict.fromkeys(link.layer for link in links if link.layer is not None)),
            producers=tuple(self._producer(number, link) for link in links),
            consumers=consumers,
            products=tuple(dict.fromkeys(m.equation for m in self.meetings.get(number, ()))),
            readings=tuple(reading for reading in readings if reading is not None),
            reason=self._reason(number, makers, readings),
        )

    def _name(self, number: int, makers: list[str]) -> str:
        if makers:
            return makers[0]
        entry = self.entries[number][0]
        maker = self.origins.maker(entry.value)
        return "inputs" if maker is None else f"into {entry.layer}"

    def _producer(self, number: int, link: Link) -> Slice:
        units = self.labels.unit(number, self.atoms(link.source)).reshape(self.shape(link.source))
        role = "kernel" if link.role == "depthwise" else link.role
        return Slice(link.source.leaf, role, units, link.source.key not in self.unmasked)

    def _consumer(self, number: int, entry: Entry) -> Consumer:
        units = self.labels.unit(number, self._entering(entry))
        places = np.flatnonzero(units != NONE)
        role, masked = "kernel", self._zero(entry) != 0.0
        return Consumer(
            layer=entry.layer,
            slice=Slice(entry.source.leaf, role, self._entries(number, entry, units), masked),
            equation=entry.equation,
            readings=self._read_at(number, entry.value),
            offset=int(places[0]),
            repeats=len(places) // int(np.count_nonzero(np.bincount(units[places]))),
        )

    def _entering(self, entry: Entry) -> np.ndarray:
        """The labels of what enters a kernel: the data's, or where it has none the kernel's own."""
        if entry.field is None:
            return self.atoms(entry.source)
        return self.walk.fields[entry.value][entry.field].atoms

    def _zero(self, entry: Entry) -> Number:
        """What enters a kernel for a removed unit."""
        return 0.0 if entry.field is None else self.zeros[entry.value][entry.field][0]

    def _read_at(self, number: int, value: int) -> tuple[int, ...]:
        """The readings of a space's units that come to a value."""
        return tuple(
            value
            for value in sorted(self.origins.readings(value)[0])
            if any(number in self.spaces_of(f.atoms) for f in self.walk.fields.get(value, ()))
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

    def _readings(self, number: int) -> list[Reading | None]:
        """The readings of a space; ``None`` for one whose axis of units is split."""
        ends = [entry.value for entry in self.entries.get(number, ())]
        ends += [v for m in self.meetings.get(number, ()) for v, _ in m.sides]
        found = []
        for value in sorted({v for end in ends for v in self._read_at(number, end)}):
            for field in self.walk.fields[value]:
                if number in self.spaces_of(field.atoms):
                    numbers = self.labels.unit(number, field.atoms)
                    single = len(field.axes) == 1
                    found.append(Reading(value, field.axes[0], numbers) if single else None)
        return found

    def _reason(self, number: int, makers: list[str], readings: list) -> str | None:
        entries, meetings = self.entries.get(number, ()), self.meetings.get(number, ())
        unlabelled = [entry for entry in entries if entry.field is None]
        zeros = [self._zero(entry) for entry in entries]
        zeros += [self._at_meeting(meeting) for meeting in meetings]
        lost = [zero for zero in zeros if isinstance(zero, str)]
        if not makers:
            return self._source((*unlabelled, *entries)[0])
        if unlabelled:
            leaf = unlabelled[0].source.leaf
            return f"{leaf!r} is the kernel of several layers, one of which has other inputs"
        if number in self.reasons:
            return self.reasons[number]
        if not (entries or meetings) or not readings:
            return "no layer reads them"
        if None in readings:
            return "their axis is split where it is read"
        if NORM in lost:
            reader = next((e.layer for e in entries if self._zero(e) == NORM), "a product")
            mixer = self.mixed.get(number, NORM)
            return f"{mixer} mixes them, and {reader} reads them with no scale of theirs between"
        if any(zero != zero for zero in zeros):
            return "their slices at zero give no finite number"
        kept = [e for e in entries if self._zero(e) != 0.0 and e.source.key in self.unmasked]
        if kept:
            return (
                f"{kept[0].source.leaf!r} would have to be zero where {kept[0].layer} reads them, "
                f"and as it is where {self.mixed[number]} mixes them"
            )
        if lost:
            return f"{lost[0]} makes them something else than zero where their slices are zero"
        return None

    def _at_meeting(self, meeting: Meeting) -> Number:
        """What removed units come to in a sum over them with other data."""
        zeros = [self.zeros[value][index][0] for value, index in meeting.sides]
        return next((n for n in zeros if n != n), 0.0 if 0.0 in zeros else zeros[0])

    def _source(self, entry: Entry) -> str:
        """What enters a layer without labels."""
        maker = self.origins.maker(entry.value)
        if maker is None:
            return "they are the network's inputs"
        if maker:
            reasons = dict(self.walk.trace.unsupported)
            why = reasons.get(maker, "it is one part of a kernel that several leaves make")
            return f"{maker!r} makes them, a kernel that cannot be read: {why}"
        return f"they come into {entry.layer} from a layer by a way that is not understood"


def _in_order(parts: list[np.ndarray]) -> np.ndarray:
    """The different numbers of several arrays, in the order in which they come."""
    joined = np.concatenate(parts)
    _, first = np.unique(joined, return_index=True)
    return joined[np.sort(first)]

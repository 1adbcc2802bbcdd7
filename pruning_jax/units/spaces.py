"""What a unit graph is made of: unit spaces, the slices, readings and consumers of their units."""

import dataclasses
from typing import NamedTuple

import numpy as np

from pruning_jax import choices, tables
from pruning_jax.tracing import Equations, Trace
from pruning_jax.units.labels import NONE, Source

PRODUCED = ("kernel", "embedding")
"""Roles of slices that give a layer its outputs."""

STATISTICS = ("mean", "variance")
"""Roles of running moments, which are no parameters."""


_HEAD = (
    "space",
    "size",
    "produced by",
    "enters (x positions, + offset)",
    "read at",
    "prunable",
)


class Slice(NamedTuple):
    """Which unit each entry of a leaf belongs to.

    Attributes:
      leaf: the path of the leaf.
      role: what it is to the units: `kernel`, `embedding`, `bias`, `scale`, `mean`, `variance`.
      units: integers, broadcastable against the leaf: the number of the unit, -1 where none.
      masked: whether parameter masks cover it.
    """

    leaf: str
    role: str
    units: np.ndarray
    masked: bool


class Reading(NamedTuple):
    """Where activations are read: after layer, norm and function, before pooling.

    Attributes:
      value: the number of the array in the model's equations.
      axis: the array's axis of units.
      units: integers, one a position of that axis: the number of the unit, -1 where none.
    """

    value: int
    axis: int
    units: np.ndarray


class Consumer(NamedTuple):
    """A layer that units enter.

    Attributes:
      layer: its name in the trace.
      slice: its kernel's entries that multiply the units; `masked` where the removal of a unit
        leaves something else than zero for it to multiply.
      equation: the number of its `dot_general` or `conv_general_dilated`.
      readings: the values of the readings that reach it.
      offset: the first position of the space along its inputs: a concatenation's.
      repeats: positions a unit: a flatten's.
    """

    layer: str
    slice: Slice
    equation: int
    readings: tuple[int, ...]
    offset: int
    repeats: int


class UnitSpace(NamedTuple):
    """Units (neurons, channels, filters) that live and die together in several leaves.

    Attributes:
      name: of the first layer that produces them, or `inputs`.
      size: how many there are.
      layers: the names of the producing layers.
      producers: the slices that make a unit's output.
      consumers: the layers that they enter.
      products: the equations that sum over them with other data, as over the channels of queries.
      readings: where their activations are read.
      reason: why they may not be pruned; ``None`` where they may.
    """

    name: str
    size: int
    layers: tuple[str, ...]
    producers: tuple[Slice, ...]
    consumers: tuple[Consumer, ...]
    products: tuple[int, ...]
    readings: tuple[Reading, ...]
    reason: str | None

    @property
    def prunable(self) -> bool:
        return self.reason is None


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """Which unit every position of every array is, where it is any.

    Attributes:
      fields: value -> (axes, atoms) of those that lose the removed units.
      space_of: atom -> the number of its unit's space, -1 where it has none.
      unit_of: atom -> its unit's number in that space.
      sources: the atoms of the leaves' axes.
      digits: atom -> the atoms that are digits of it, shape (most of any atom, atoms).
      unmasked: the keys of the sources that stay as they are when units are removed.
    """

    fields: dict[int, list[tuple[tuple[int, ...], np.ndarray]]]
    space_of: np.ndarray
    unit_of: np.ndarray
    sources: tuple[Source, ...]
    digits: np.ndarray
    unmasked: frozenset[tuple]

    def unit(self, space: int, atoms: np.ndarray) -> np.ndarray:
        """The units of a space that atoms are, -1 where they are none of it."""
        found = self.space_of[atoms]
        if (found == space).all() and (atoms != NONE).all():
            return self.unit_of[atoms]
        units = np.full(atoms.shape, NONE)
        for same in (atoms, *(np.where(atoms == NONE, NONE, row[atoms]) for row in self.digits)):
            inside = (same != NONE) & (self.space_of[same] == space)
            units = np.where(inside, self.unit_of[same], units)
        return units

    def spaces(self, atoms: np.ndarray) -> list[int]:
        """The spaces that atoms, or digits of them, belong to."""
        if not atoms.size:
            return []
        found = self.space_of[atoms]
        first = found.flat[0]
        if first != NONE and (found == first).all() and atoms.min() != NONE:
            return [int(first)]
        atoms = atoms[atoms != NONE]
        every = np.concatenate([atoms, *(row[atoms] for row in self.digits)])
        found = self.space_of[every[every != NONE]]
        return np.flatnonzero(np.bincount(found[found != NONE])).tolist()


@dataclasses.dataclass(frozen=True, eq=False)
class UnitGraph:
    """The unit spaces of a model, in its order, and the trace that they were read from.

    Equal only to itself, so that it can be the key of a cache and a static argument of ``jit``.
    """

    spaces: tuple[UnitSpace, ...]
    trace: Trace
    labels: Labels

    @property
    def prunable(self) -> tuple[UnitSpace, ...]:
        """The spaces that may be pruned."""
        return tuple(space for space in self.spaces if space.prunable)

    def __getitem__(self, name: str) -> UnitSpace:
        """The space of a name, or the one whose units the layer of that name produces.

        Raises:
          ValueError: there is none; names the nearest.
        """
        spaces = {space.name: space for space in self.spaces}
        layers = {layer: space for space in self.spaces for layer in space.layers}
        named = layers | spaces
        choices.check("unit space", name, named)
        return named[name]

    def __str__(self) -> str:
        return _text(self)


class Edge(NamedTuple):
    """Units that go from one layer to another.

    Attributes:
      producer: the layer that they come from, or ``inputs``.
      space: the name of their space.
      size: how many there are.
      consumer: the layer that they enter, or ``outputs``.
      prunable: whether they may be pruned.
    """

    producer: str
    space: str
    size: int
    consumer: str
    prunable: bool


def _text(graph: UnitGraph) -> str:
    """The spaces of a graph as a table, then why some may not be pruned or were not understood.

    Args:
      graph: a `units.UnitGraph`.

    Returns:
      For every space its name, its size, the layers that produce it, the layers that it enters
      with the positions that each unit has there and the first of them, the shapes of the arrays
      where it is read (n for the examples), and whether it may be pruned; below, why not. Lines
      have at most 100 columns; what is longer goes on below, after two spaces.
    """
    lines = tables.table(
        [_HEAD, *(_cells(space, graph.trace.model) for space in graph.spaces)], right=(1,)
    )
    notes = [f"not prunable: {s.name}: {s.reason}" for s in graph.spaces if not s.prunable]
    notes += [f"not supported: {leaf}: {why}" for leaf, why in graph.trace.unsupported]
    lines += [line for note in notes for line in tables.wrap(note)]
    return "\n".join(lines)


def edges(graph: UnitGraph) -> list[Edge]:
    """Which units go from which layer to which, in the order in which the model runs them.

    A producer's units enter the consumers that run after it; those that enter no layer go to
    ``outputs``.

    Args:
      graph: a `units.UnitGraph`.

    Returns:
      One row for each producer, space and consumer.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.ones((3, 2))}
    >>> graph = pj.units.graph(pj.trace(model, variables, jnp.ones((4, 1))))
    >>> [(edge.producer, edge.size, edge.consumer) for edge in pj.units.edges(graph)]
    [('inputs', 1, 'w'), ('w', 3, 'out'), ('out', 2, 'outputs')]
    """
    order = {layer.name: place for place, layer in enumerate(graph.trace.layers)}
    rows = []
    for space in graph.spaces:
        consumers = list(dict.fromkeys(consumer.layer for consumer in space.consumers))
        for producer in space.layers or ("inputs",):
            later = [c for c in consumers if order.get(c, -1) > order.get(producer, -1)]
            for consumer in later or ["outputs"]:
                rows.append(Edge(producer, space.name, space.size, consumer, space.prunable))
    return rows


def _cells(space: UnitSpace, model: Equations) -> list[list[str]]:
    consumers = [
        consumer.layer
        + f" x{consumer.repeats}" * (consumer.repeats != 1)
        + f" +{consumer.offset}" * (consumer.offset != 0)
        for consumer in space.consumers
    ]
    shapes = [_shape(model, reading.value) for reading in space.readings]
    return [
        [space.name],
        [f"{space.size:,}"],
        list(space.layers),
        list(dict.fromkeys(consumers)),
        list(dict.fromkeys(shapes)),
        ["yes" if space.prunable else "no"],
    ]


def _shape(model: Equations, value: int) -> str:
    """The shape of a value, n for the examples where they come first."""
    first, *rest = model.shape(value)
    return f"({', '.join(map(str, ['n' if first == 1 else first, *rest]))})"

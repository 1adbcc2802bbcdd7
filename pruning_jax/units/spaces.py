"""What a unit graph is made of: unit spaces, the slices, readings and consumers of their units."""

from typing import NamedTuple

import numpy as np

from pruning_jax import choices
from pruning_jax.tracing import Trace
from pruning_jax.units import table

PRODUCED = ("kernel", "embedding")
"""Roles of slices that give a layer its outputs."""

STATISTICS = ("mean", "variance")
"""Roles of running moments, which are no parameters."""


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
      readings: where their activations are read.
      reason: why they may not be pruned; ``None`` where they may.
    """

    name: str
    size: int
    layers: tuple[str, ...]
    producers: tuple[Slice, ...]
    consumers: tuple[Consumer, ...]
    readings: tuple[Reading, ...]
    reason: str | None

    @property
    def prunable(self) -> bool:
        return self.reason is None


class UnitGraph(NamedTuple):
    """The unit spaces of a model, in its order, and the trace that they were read from."""

    spaces: tuple[UnitSpace, ...]
    trace: Trace

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
        found = layers | spaces
        choices.check("unit space", name, found)
        return found[name]

    def __str__(self) -> str:
        return table.text(self)

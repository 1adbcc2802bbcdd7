"""What a walk along a model's equations notes: where leaves and units meet."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pruning_jax.units.fields import Field, Source

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
      lost: whether a layer has a part in the data, where it has no labels.
      groups: of a convolution whose kernel's input axis stands for several parts of the data.
      outputs: the kernel's output axis, where `groups` is more than 1.
    """

    equation: int
    layer: str
    source: Source
    atoms: np.ndarray | None
    zero: float | str
    value: int
    lost: bool = False
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

"""The vocabulary: what the package's functions take and return."""

from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
PyTree = Any

Params = PyTree
"""The leaves of a model, nested as its library nests them."""

Scores = PyTree
"""Estimated harm of removing each weight, the lowest first; ``None`` where not prunable."""

Masks = PyTree
"""Booleans, True = kept. ``None`` where a leaf is not prunable."""


class Extended(NamedTuple):
    """The parameters of a model, and what a method trains beside them.

    Attributes:
      params: of the model.
      added: such as variances or gates; no recipe decays them.
    """

    params: Params
    added: PyTree


class Batch(NamedTuple):
    """Examples on the device.

    Attributes:
      inputs: what the model takes: an array (examples, ...) or a pytree of them, such as token ids
        beside a mask of attention.
      labels: integers, shape (examples, ...), one for every position that the logits
        (examples, ..., outputs) have; or float targets of the logits' shape.
      weights: how much each position counts, 0 or more: booleans or numbers, of the shape of
        integer labels. ``None`` where all count alike.
    """

    inputs: PyTree
    labels: Array
    weights: Array | None = None


class ApplyFn(Protocol):
    """A model as a pure function, in evaluation mode."""

    def __call__(self, variables: Params, inputs: PyTree, /) -> Array:
        """Returns the logits, shape (examples, outputs), or (examples, ..., outputs) with positions
        between; of a regression (examples,) too."""


class LossFn(Protocol):
    """A loss of one example, over a batch."""

    def __call__(self, logits: Array, labels: Array, /) -> Array:
        """Returns the loss of every example, or of every position, shape (examples, ...)."""

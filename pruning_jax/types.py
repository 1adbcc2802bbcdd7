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


class Batch(NamedTuple):
    """Examples on the device.

    Attributes:
      inputs: floats, shape (examples, ...).
      labels: integers, shape (examples,), or float targets, shape (examples, outputs).
    """

    inputs: Array
    labels: Array


class ApplyFn(Protocol):
    """A model as a pure function, in evaluation mode."""

    def __call__(self, variables: Params, inputs: Array, /) -> Array:
        """Returns the logits, shape (examples, outputs)."""


class LossFn(Protocol):
    """A loss of one example, over a batch."""

    def __call__(self, logits: Array, labels: Array, /) -> Array:
        """Returns the loss of every example, shape (examples,)."""

"""What the axes of kernels are: a trace knows it, the shape of a leaf does not.

A kernel (inputs, outputs) of Flax is (outputs, inputs) in Equinox, and one of attention has two
axes of outputs, or of inputs. What depends on which they are is given a trace, or told by the user.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from pruning_jax import choices
from pruning_jax.tracing import Axes, Layer, Trace, layers
from pruning_jax.types import Array

PARAMS = "params"
"""The collection that trained leaves are in, of variables that have several."""


def leaf_of(trace: Trace, name: str, shape: tuple[int, ...]) -> str:
    """The path in a trace of a leaf of the variables, or of their collection ``params`` alone.

    Args:
      trace: of the model.
      name: the leaf's path, with or without ``params/`` where the trace has it.
      shape: of the leaf.

    Raises:
      ValueError: the trace has no such leaf, or one of another shape.
    """
    leaves = trace.model.leaves
    inside = f"{PARAMS}/{name}"
    path = inside if name not in leaves and inside in leaves else name
    choices.check("leaf of the trace", path, leaves)
    traced = trace.model.shape(leaves[path])
    if traced != tuple(shape):
        raise ValueError(f"{name!r} has shape {tuple(shape)}; it was traced with {traced}")
    return path


def layer_of(trace: Trace, name: str, shape: tuple[int, ...]) -> Layer | None:
    """The layer that has a leaf as its kernel; ``None`` for a bias, a scale and the like.

    Args:
      trace: of the model.
      name: the leaf's path, as in `leaf_of`.
      shape: of the leaf.

    Raises:
      ValueError: as `leaf_of`; a kernel that the trace could not read, with the reason.

    >>> from jax import numpy as jnp
    >>> from pruning_jax import tracing
    >>> variables = {"kernel": jnp.ones((3, 8)), "bias": jnp.ones(3)}
    >>> trace = tracing.trace(
    ...     lambda v, x: x @ v["kernel"].T + v["bias"], variables, jnp.ones((5, 8))
    ... )
    >>> layer_of(trace, "kernel", (3, 8)).axes
    Axes(inputs=(1,), outputs=(0,))
    >>> layer_of(trace, "bias", (3,))
    """
    path = leaf_of(trace, name, shape)
    for unread, reason in trace.unsupported:
        if unread == path:
            raise ValueError(f"what the axes of {name!r} are is not known: {reason}")
    return next((layer for layer in trace.layers if layer.kernel == path), None)


def axes(layer: Layer) -> Axes:
    """Which axes of a layer's kernel are inputs and which are outputs.

    Raises:
      ValueError: a view of the kernel merges or splits them, or its uses differ; names the leaf.
    """
    if layer.axes is None:
        several = len(layer.uses) > 1
        why = "its uses differ, or" if several else "before its use"
        raise ValueError(
            f"which axes of {layer.kernel!r} of shape {layer.kernel_shape} are inputs is not "
            f"known: {why} a reshape or the like merges, splits or repeats them; leave the leaf "
            "out, or do it alone and name the axis"
        )
    return layer.axes


def dimensions(trace: Trace, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A kernel's dimensions: its inputs, its outputs, and every other axis by itself.

        (inputs, heads, width) -> (inputs, heads width)
        (height, width, inputs, outputs) -> (inputs, outputs, height, width)

    Args:
      trace: of the model.
      name: the leaf's path, as in `leaf_of`.
      shape: of the leaf.

    Returns:
      Sizes whose product is the leaf's, or that of each layer in a `stack`; the shape itself for a
      leaf that is no kernel, and where there are two axes, whichever of them are inputs.

    Raises:
      ValueError: as `layer_of` and `axes`.

    >>> from jax import numpy as jnp
    >>> from pruning_jax import tracing
    >>> trace = tracing.trace(
    ...     lambda w, x: jnp.einsum("ni,ihw->nhw", x, w).mean(1), jnp.ones((8, 2, 4)),
    ...     jnp.ones((5, 8)),
    ... )
    >>> dimensions(trace, "", (8, 2, 4))
    (8, 8)
    """
    layer = layer_of(trace, name, shape)
    if layer is None or (layer.axes is None and len(shape) <= 2):
        return tuple(shape)
    if layer.axes is None:
        return _merged(trace, layer) or axes(layer)
    inputs, outputs = layer.axes
    rest = [n for axis, n in enumerate(shape) if axis not in (*inputs, *outputs, layer.stack)]
    return (*(math.prod(shape[axis] for axis in side) for side in (inputs, outputs)), *rest)


def stack(trace: Trace, name: str, shape: tuple[int, ...]) -> int | None:
    """The axis along which a leaf holds layers, as a scan takes them; ``None`` for one layer.

    A bias of stacked layers is stacked as they are.

    Args:
      trace: of the model.
      name: the leaf's path, as in `leaf_of`.
      shape: of the leaf.

    Raises:
      ValueError: as `leaf_of`.
    """
    path = leaf_of(trace, name, shape)
    found = (layer.stack for layer in trace.layers if path == layer.kernel)
    return next(found, None)


class LeafLayer(NamedTuple):
    """A layer: a leaf by its number, or where it stacks several, the one at a place of it."""

    name: str
    leaf: int
    place: tuple = ()

    def of(self, leaves: list) -> Array | None:
        leaf = leaves[self.leaf]
        return leaf[self.place] if self.place and leaf is not None else leaf


def leaf_layers(trace: Trace | None, leaves: Mapping[str, Array]) -> list[LeafLayer]:
    """The layers of leaves by their names; a leaf is one, but where a scan stacks several."""
    found = []
    for number, (name, leaf) in enumerate(leaves.items()):
        axis = None if trace is None else stack(trace, name, leaf.shape)
        if axis is None:
            found.append(LeafLayer(name, number))
        else:
            first = (slice(None),) * axis
            found += [
                LeafLayer(f"{name}[{i}]", number, (*first, i)) for i in range(leaf.shape[axis])
            ]
    return found


def ranked(
    scope: str, trace: Trace | None, leaves: Mapping[str, Array]
) -> tuple[list[LeafLayer], list[tuple[int, ...]]]:
    """The layers of leaves as a scope of `selection` ranks them, and the dimensions of each.

    Args:
      scope: a row of `selection.SCOPES`: of "global" a leaf is a layer, whatever it stacks.
      trace: of the model, or ``None``.
      leaves: the leaf's path, as in `leaf_of` -> an array.

    Raises:
      ValueError: for "erk", a leaf that the trace does not have, or whose features it cannot tell
        apart.
    """
    layers, arrays = leaf_layers(None if scope == "global" else trace, leaves), [*leaves.values()]
    shapes = [layer.of(arrays).shape for layer in layers]
    if scope == "erk" and trace is not None:
        wholes = [[*leaves.items()][layer.leaf] for layer in layers]
        shapes = [dimensions(trace, name, leaf.shape) for name, leaf in wholes]
    return layers, shapes


def together(parts_of: list[LeafLayer], masks: list[Array]) -> list[Array]:
    """The masks of leaves, of those of their layers."""
    found: dict[int, list[Array]] = {}
    for layer, mask in zip(parts_of, masks, strict=True):
        found.setdefault(layer.leaf, []).append(mask)
    places = {layer.leaf: layer.place for layer in parts_of}
    return [
        jnp.stack(parts, len(places[leaf]) - 1) if places[leaf] else parts[0]
        for leaf, parts in found.items()
    ]


def _merged(trace: Trace, layer: Layer) -> tuple[int, int] | None:
    """Inputs and outputs of a dense kernel that is reshaped, the same at every use."""
    size, model, sides = math.prod(layer.kernel_shape), trace.model, set()
    for use in layer.uses:
        operand = model.shape(model.equations[use.equation].inputs[use.operand])
        if use.kind != "dense" or math.prod(operand) != size:
            return None
        outputs = layers.units(model, use)
        sides.add((size // max(outputs, 1), outputs))
    return sides.pop() if len(sides) == 1 else None


def in_order(trace: Trace, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The names of leaves in the order in which the model uses them.

    Args:
      trace: of the model.
      shapes: the leaf's path, as in `leaf_of` -> its shape.

    Returns:
      The names: kernels where their layers run, other leaves where they are first read; those that
      the model does not use come last, as they come.

    Raises:
      ValueError: as `leaf_of`.
    """
    first: dict[int, int] = {}
    for number, equation in enumerate(trace.model.equations):
        for value in equation.inputs:
            first.setdefault(value, number)
    place = {leaf: first.get(value, math.inf) for leaf, value in trace.model.leaves.items()}
    place |= {layer.kernel: layer.uses[0].equation for layer in trace.layers}
    paths = {name: leaf_of(trace, name, shape) for name, shape in shapes.items()}
    return sorted(shapes, key=lambda name: place[paths[name]])

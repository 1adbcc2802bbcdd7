"""Parameters and multiply-accumulates, of the network and of what its unit masks leave."""

import math
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax.units import masks
from pruning_jax.units.masks import UnitMasks
from pruning_jax.units.spaces import STATISTICS, UnitGraph


class Count(NamedTuple):
    """What a layer has, and what is left of it.

    Attributes:
      name: the layer's in the trace; the path of a leaf that is of no layer, as a norm's.
      parameters: dense.
      macs: multiply-accumulates an example, dense.
      kept_parameters: without the removed units.
      kept_macs: without the removed units.
    """

    name: str
    parameters: int
    macs: int
    kept_parameters: int
    kept_macs: int


class Counts(NamedTuple):
    """The counts of a network; printed as a table.

    Attributes:
      layers: in the order in which the model runs them, then the other parameters by leaf.
    """

    layers: tuple[Count, ...]

    @property
    def total(self) -> Count:
        """The sums."""
        columns = zip(*(count[1:] for count in self.layers), strict=True)
        return Count("total", *map(sum, columns))

    @property
    def compression(self) -> float:
        """All parameters over the remaining ones."""
        return _ratio(self.total.parameters, self.total.kept_parameters)

    @property
    def speed_up(self) -> float:
        """Multiply-accumulates over the remaining ones."""
        return _ratio(self.total.macs, self.total.kept_macs)

    def __str__(self) -> str:
        width = max(len(count.name) for count in (*self.layers, self.total))
        head = ("parameters", "pruned", "MACs", "pruned")
        rows = [f"{'layer':<{width}}" + "".join(f"  {column:>14}" for column in head)]
        for name, parameters, macs, kept_parameters, kept_macs in (*self.layers, self.total):
            cells = (parameters, kept_parameters, macs, kept_macs)
            rows.append(f"{name:<{width}}" + "".join(f"  {cell:>14,}" for cell in cells))
        rows.append(f"compression {self.compression:.3g}, speed-up {self.speed_up:.3g}")
        rows.append("MACs: multiply-accumulates of one example (one multiplication and addition)")
        return "\n".join(rows)


def counts(graph: UnitGraph, unit_masks: UnitMasks = types.MappingProxyType({})) -> Counts:
    """Counts what a network has, and what it would have with the removed units cut out.

        macs_kept = macs (kernel entries kept) / (kernel entries)

    An entry is kept unless the unit that it makes or a unit that it reads is removed, so that
    removal in one layer also narrows the kernels that read it, through residual additions,
    concatenations and flattening. MACs are multiply-accumulates: one multiplication and one
    addition are one, not two. Those of layers are counted, as in `tracing.trace`: norms, pooling,
    elementwise functions and products of activations have none.

    Args:
      graph: of the model.
      unit_masks: space -> booleans, shape (size,), True = kept.

    Returns:
      The counts of each layer, kernel and bias, and of each leaf that is of no layer: the scale
      and shift of a norm count as parameters, running means and variances do not, and a leaf of no
      unit space counts as parameters that stay. Leaves that the output does not need are left out.

    Raises:
      ValueError: masks that do not fit the graph, or whose values are not known (under ``jit``).
    """
    masks.check_masks(graph, unit_masks)
    if any(isinstance(mask, jax.core.Tracer) for mask in unit_masks.values()):
        raise ValueError("counts needs unit masks whose values are known: call it outside jit")
    sizes = {leaf: math.prod(_shape(graph, leaf)) for leaf in _parameters(graph)}
    left = sizes | _kept(graph, unit_masks)
    layers, others = [], dict(sizes)
    for layer in graph.trace.layers:
        own = [leaf for leaf in (layer.kernel, layer.bias) if leaf in others]
        macs = layer.macs * left[layer.kernel] // max(sizes[layer.kernel], 1)
        dense = sum(others.pop(leaf) for leaf in own)
        kept = sum(left[leaf] for leaf in own)
        layers.append(Count(layer.name, dense, layer.macs, kept, macs))
    layers += [Count(leaf, size, 0, left[leaf], 0) for leaf, size in others.items()]
    return Counts(tuple(layers))


def _shape(graph: UnitGraph, leaf: str) -> tuple[int, ...]:
    model = graph.trace.model
    return model.avals[model.leaves[leaf]].shape


def _parameters(graph: UnitGraph) -> list[str]:
    """The leaves that the output needs, but for integers and running moments."""
    model = graph.trace.model
    used = {value for equation in model.equations for value in equation.inputs}
    moments = {
        each.leaf for space in graph.spaces for each in space.producers if each.role in STATISTICS
    }
    return [
        leaf
        for leaf, value in model.leaves.items()
        if leaf not in moments
        and value in used
        and jnp.issubdtype(model.avals[value].dtype, jnp.inexact)
    ]


def _kept(graph: UnitGraph, unit_masks: UnitMasks) -> dict[str, int]:
    """Leaf -> how many of its entries are of no removed unit, of the leaves of the spaces."""
    found: dict[str, np.ndarray] = {}
    for name, mask in unit_masks.items():
        for each in masks.slices(graph[name]):
            kept = masks.entries(each, np.asarray(mask))
            so_far = found.get(each.leaf, np.ones(_shape(graph, each.leaf), bool))
            found[each.leaf] = so_far & kept
    return {leaf: int(kept.sum()) for leaf, kept in found.items()}


def _ratio(dense: int, kept: int) -> float:
    return dense / kept if kept else math.inf

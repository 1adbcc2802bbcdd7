"""Parameters and multiply-accumulates, of the network and of what its unit masks leave."""

import fractions
import math
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import tables, tracing
from pruning_jax.units import masks, narrowing
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
      layers: in the order in which the model runs them, then the products of no layer together,
        then the other parameters by leaf.
      uncounted: the primitives whose work could not be counted, as a while loop's.
    """

    layers: tuple[Count, ...]
    uncounted: tuple[str, ...] = ()

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
    def mac_ratio(self) -> float:
        """Multiply-accumulates over the remaining ones: what is saved of the work, not of time."""
        return _ratio(self.total.macs, self.total.kept_macs)

    def __str__(self) -> str:
        rows = [("layer", "parameters", "pruned", "MACs", "pruned")]
        for name, parameters, macs, kept_parameters, kept_macs in (*self.layers, self.total):
            cells = (parameters, kept_parameters, macs, kept_macs)
            rows.append((name, *(f"{cell:,}" for cell in cells)))
        ratios = f"{self.compression:.3g} times fewer parameters, {self.mac_ratio:.3g} times fewer"
        lines = [
            *tables.table(rows, right=range(1, 5)),
            f"{ratios} MACs once the units are cut out: units.compact",
            "MACs: multiply-accumulates of one example (one multiplication and addition)",
            *(f"not counted: the work of {name}" for name in self.uncounted),
        ]
        return "\n".join(lines)


def counts(graph: UnitGraph, unit_masks: UnitMasks = types.MappingProxyType({})) -> Counts:
    """Counts what a network has, and what it has with the removed units cut out.

        macs_kept = macs (kernel entries kept) / (kernel entries)

    It is the network of `apply_masks` and `compact`: an entry is kept unless it makes a removed
    unit's output, or reads it; entries that a norm of the units still needs are kept. So removal
    in one layer also narrows the kernels that read it, through residual additions, concatenations
    and flattening. MACs are multiply-accumulates: one multiplication and one addition are one, not
    two. Those of products are counted, in loops and branches too: norms, pooling and elementwise
    functions have none.

    Args:
      graph: of the model.
      unit_masks: space -> booleans, shape (size,), True = kept.

    Returns:
      The counts of each layer, kernel and bias, of the products of no layer, and of each leaf that
      is of no layer: the scale and shift of a norm count as parameters, running means and variances
      do not, and a leaf of no unit space counts as parameters that stay. Leaves that the output
      does not need are left out.

    Raises:
      ValueError: masks that do not fit the graph, or whose values are not known (under ``jit``).

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.ones((3, 2))}
    >>> graph = pj.units.graph(pj.trace(model, variables, jnp.ones((4, 1))))
    >>> total = pj.units.counts(graph, {"w": jnp.array([True, False, True])}).total
    >>> total.parameters, total.kept_parameters, total.macs, total.kept_macs
    (9, 6, 9, 6)
    """
    masks.check_masks(graph, unit_masks)
    if any(isinstance(mask, jax.core.Tracer) for mask in unit_masks.values()):
        raise ValueError("counts needs unit masks whose values are known: call it outside jit")
    trace = graph.trace
    sizes = {leaf: math.prod(_shape(graph, leaf)) for leaf in _parameters(graph)}
    stay = _kept(graph, unit_masks)
    left = sizes | {leaf: int(kept.sum()) for leaf, kept in stay.items()}
    layers, others = [], dict(sizes)
    for layer in trace.layers:
        leaves = [leaf for leaf in (layer.kernel, layer.bias) if leaf in others]
        uses = (
            (use, _macs(graph, unit_masks, use.equation, layer.kernel, stay)) for use in layer.uses
        )
        macs = sum(int(macs * use.share) for use, macs in uses)
        dense = sum(others.pop(leaf) for leaf in leaves)
        kept = sum(left[leaf] for leaf in leaves)
        layers.append(Count(layer.name, dense, layer.macs, kept, macs))
    if trace.other_macs:
        macs, kept = _other_products(graph, unit_masks)
        layers.append(Count("other products", 0, macs, 0, kept))
    layers += [Count(leaf, size, 0, left[leaf], 0) for leaf, size in others.items()]
    return Counts(tuple(layers), trace.uncounted)


def _other_products(graph: UnitGraph, unit_masks: UnitMasks) -> tuple[int, int]:
    """The work outside of layers, and what is left of it."""
    model, removed = graph.trace.model, narrowing.removed_atoms(graph, unit_masks)
    dense, kept = 0, fractions.Fraction()
    for number, macs in graph.trace.other_macs.items():
        equation, share = model.equations[number], fractions.Fraction(1)
        if equation.name == "dot_general":
            (_, contracted), (_, batched) = equation.params["dimension_numbers"]
            met = {*contracted, *batched}  # these axes of the second operand are the first's too
            for side, value in enumerate(equation.inputs):
                for axes, atoms in graph.labels.fields.get(value, ()):
                    if side == 0 or not met.intersection(axes):
                        share *= narrowing.share(atoms, removed)
        dense, kept = dense + macs, kept + macs * share
    return dense, round(kept)


def _shape(graph: UnitGraph, leaf: str) -> tuple[int, ...]:
    model = graph.trace.model
    return model.avals[model.leaves[leaf]].shape


def _parameters(graph: UnitGraph) -> list[str]:
    """The leaves that the output needs, but for integers and running moments."""
    model = graph.trace.model
    used = {value for equation in model.equations for value in equation.inputs}
    moments = {
        part.leaf
        for space in graph.spaces
        if "variance" in {part.role for part in space.producers}
        for part in space.producers
        if part.role in STATISTICS
    }
    return [
        leaf
        for leaf, value in model.leaves.items()
        if leaf not in moments
        and value in used
        and jnp.issubdtype(model.avals[value].dtype, jnp.inexact)
    ]


def _macs(
    graph: UnitGraph, unit_masks: UnitMasks, number: int, leaf: str, stay: dict[str, np.ndarray]
) -> int:
    """The work of one use of a kernel, without the entries that read removed units there."""
    model = graph.trace.model
    equation, kept = model.equations[number], stay.get(leaf, np.ones(_shape(graph, leaf), bool))
    for name, mask in unit_masks.items():
        for consumer in graph[name].consumers:
            if consumer.equation == number:
                kept = kept & masks.entries(consumer.slice, np.asarray(mask))
    shapes = [model.shape(value) for value in equation.inputs]
    shape = model.shape(equation.outputs[0])
    macs = tracing.macs(equation.name, equation.params, shapes, shape)
    return macs * int(kept.sum()) // max(kept.size, 1)


def _kept(graph: UnitGraph, unit_masks: UnitMasks) -> dict[str, np.ndarray]:
    """Leaf -> which of its entries are of no removed unit, of the leaves of the spaces."""
    entries: dict[str, np.ndarray] = {}
    for name, mask in unit_masks.items():
        for part in masks.slices(graph[name], readers=True):
            kept = masks.entries(part, np.asarray(mask))
            before = entries.get(part.leaf, np.ones(_shape(graph, part.leaf), bool))
            entries[part.leaf] = before & kept
    return entries


def _ratio(dense: int, kept: int) -> float:
    return dense / kept if kept else math.inf

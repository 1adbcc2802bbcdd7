"""Responses to the means of removed units, taken up by the biases of the layers they enter."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax import choices, tracing, trees, units
from pruning_jax.replacement import responses
from pruning_jax.replacement.responses import ADDING, MERGING, Removal, Unfoldable, UnitMeans
from pruning_jax.tracing import REARRANGING, SCALING, Equation
from pruning_jax.types import Array, Params
from pruning_jax.units import Consumer, UnitGraph, UnitMasks

MISSING = ("refuse", "skip")

_CASTING = frozenset(["convert_element_type", "reduce_precision"])


class Folded(NamedTuple):
    """A network without some units, whose means were folded.

    Attributes:
      variables: of the network without the units.
      left_out: layer -> why it could not take up the means of units that enter it; for the layer
        they are zero. Space -> why, where other data multiply its units.
      distances: layer -> how far what was folded is from the exact response, where the two meet:
        the largest |response - what the bias adds| over positions and outputs, over the largest
        |response|. 0 but for rounding where the response is the same at all positions of an output.
    """

    variables: Params
    left_out: dict[str, str]
    distances: dict[str, Array]


# The reasons are no arrays, which is all that a function under jit may return.
jax.tree_util.register_pytree_node(
    Folded,
    lambda folded: ((folded.variables, folded.distances), tuple(folded.left_out.items())),
    lambda reasons, parts: Folded(parts[0], dict(reasons), parts[1]),
)


def fold_means(
    graph: UnitGraph,
    variables: Params,
    means: UnitMeans,
    unit_masks: UnitMasks,
    *,
    missing: str = "refuse",
) -> Folded:
    """Removes units and puts their means in their place.

    The biases of the layers that the units enter take up the layers' `responses`, each entry the
    mean over its positions, and the units' own parameters become zero. In evaluation mode the
    network is then the one whose removed units are clamped to their means: exactly for dense layers
    and convolutions without padding. Works under ``jit``, where masks and means may be traced.

    A batch norm's running mean takes up what a layer without a bias would. In training mode a
    batch norm subtracts the batch's mean instead, and a shift before it cancels.

    Args:
      graph, variables, means, unit_masks: as in `responses`.
      missing: what to do with a layer that cannot take up the means, as one without a bias:
        `refuse` it, or `skip` it and say so. The units are removed all the same.

    Returns:
      The variables of the network without the units, and what was folded how well.

    Raises:
      ValueError: as `responses`; an unknown word for `missing`. Where `missing` is `refuse`, a
        layer without a leaf to fold into, or whose leaf is used elsewhere too.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"] + variables["b"]
    >>> w, out = jnp.array([[1.0, -2.0, 0.5]]), jnp.ones((3, 2))
    >>> variables, inputs = {"w": w, "out": out, "b": jnp.zeros(2)}, jnp.array([[1.0], [3.0]])
    >>> graph = pj.units.graph(pj.trace(model, variables, inputs))
    >>> means = pj.curvature.unit_means(graph, variables, pj.Batch(inputs, jnp.array([0, 1])))
    >>> masks = {"w": jnp.array([False, True, True])}
    >>> folded = pj.replacement.fold_means(graph, variables, means, masks)
    >>> folded.variables["w"].tolist(), folded.variables["b"].tolist()
    ([[0.0, -2.0, 0.5]], [2.0, 2.0])

    Source: Evci et al. 2018, *Mean Replacement Pruning*, section 3: b <- b + w abar.
    """
    shifts, left_out, distances = _shifts(graph, variables, means, unit_masks, missing)
    removed = units.apply_masks(graph, shifted(variables, shifts), unit_masks)
    return Folded(removed, left_out, distances)


def bias_shifts(
    graph: UnitGraph, variables: Params, means: UnitMeans, unit_masks: UnitMasks
) -> dict[str, Array]:
    """What `fold_means` adds to which leaves, of their shapes and dtypes; raises as it does.

    For a mean that is subtracted the sign is turned.
    """
    return _shifts(graph, variables, means, unit_masks, "refuse")[0]


def shifted(variables: Params, shifts: Mapping[str, Array]) -> Params:
    """The variables, with what is to be added to some of the leaves added."""

    def leaf(path: tuple, array: Array) -> Array:
        name = trees.path_name(path)
        return array + shifts[name] if name in shifts else array

    return jax.tree_util.tree_map_with_path(leaf, variables)


def _shifts(
    graph: UnitGraph, variables: Params, means: UnitMeans, unit_masks: UnitMasks, missing: str
) -> tuple[dict[str, Array], dict[str, str], dict[str, Array]]:
    """What is added to which leaves, what was left out, and the distances."""
    choices.check("word for missing", missing, MISSING)
    removal = responses.prepare(graph, variables, means, unit_masks)
    if removal.multiplied and missing == "refuse":
        raise Unfoldable(next(iter(removal.multiplied.values())))
    shifts: dict[str, Array] = {}
    left_out = dict(removal.multiplied)
    distances: dict[str, Array] = {}
    for number, (entering, *_) in removal.entering.items():
        layer = entering.consumer.layer
        try:
            sink = _sink(graph, entering.consumer)
            response = responses.response(removal, number)
        except Unfoldable as error:
            if missing == "refuse":
                raise
            left_out.setdefault(layer, str(error))
            continue
        shift, distance = _shift(removal, sink, response)
        shifts[sink.leaf] = shifts[sink.leaf] + shift if sink.leaf in shifts else shift
        distances[layer] = jnp.maximum(distances.get(layer, 0.0), distance)
    return shifts, left_out, distances


class _Way(NamedTuple):
    """Equations from one value to another, each linear in what comes from the first.

    Attributes:
      start: the first value.
      results: the equations' results, the last value among them as the last.
      added: the values that they only add to it or put beside it.
    """

    start: int
    results: tuple[int, ...]
    added: frozenset[int]


class _Sink(NamedTuple):
    """A leaf that is added to a layer's output or subtracted from it.

    Attributes:
      leaf: its path.
      view: from the leaf to the sum.
      way: from the layer's output to the sum.
    """

    leaf: str
    view: _Way
    way: _Way


def _sink(graph: UnitGraph, consumer: Consumer) -> _Sink:
    """The first leaf, with a number for each unit, that meets a layer's output in a sum.

    Between the two the output may only be rearranged, scaled and added to.

    Raises:
      Unfoldable: there is none; or it is used elsewhere too.
    """
    model = graph.trace.model
    spaces = (space for space in graph.spaces if consumer.layer in space.layers)
    leaves = {model.leaves[slice_.leaf]: slice_.leaf for s in spaces for slice_ in s.producers}
    (start,) = model.equations[consumer.equation].outputs
    value, results, added = start, [], set()
    while value not in model.outputs:
        users = [equation for equation in model.equations if value in equation.inputs]
        if len(users) != 1 or not _passes(graph, users[0], value):
            break
        others = {other for other in users[0].inputs if other != value}
        results += users[0].outputs
        if users[0].name in MERGING:
            added |= others
        for other in others if users[0].name in ADDING else ():
            origin, moved = _origin(graph, other)
            if origin in leaves:
                leaf = leaves[origin]
                _check_alone(graph, consumer, leaf, users[0])
                view = _Way(origin, (*moved, results[-1]), frozenset([value]))
                return _Sink(leaf, view, _Way(start, tuple(results), frozenset(added)))
        value = results[-1]
    raise Unfoldable(
        f"there is nothing to fold means into behind {consumer.layer!r}: no bias is added to its "
        "output, and no running mean subtracted, before it goes elsewhere; keep the units that "
        "enter this layer, or give it a bias"
    )


def _origin(graph: UnitGraph, value: int) -> tuple[int, list[int]]:
    """The value whose entries another one rearranges, and the results on the way from it."""
    results: list[int] = []
    for equation in reversed(graph.trace.model.equations):
        if value in equation.outputs:
            if equation.name not in REARRANGING:
                break
            results.append(value)
            place = equation.outputs.index(value) if len(equation.inputs) > 1 else 0
            value = equation.inputs[place]
    return value, results[::-1]


def _passes(graph: UnitGraph, equation: Equation, value: int) -> bool:
    """Whether an equation is linear in a value, apart from what is added to it."""
    if len(equation.outputs) > 1:
        return False
    if equation.name in SCALING:
        others = [other for other in equation.inputs if other != value]
        divides = equation.name == "div" and equation.inputs[0] != value
        known = graph.trace.model.from_inputs.isdisjoint(others)
        return len(others) == 1 and known and not divides
    return equation.name in REARRANGING | MERGING


def _check_alone(graph: UnitGraph, consumer: Consumer, leaf: str, place: Equation) -> None:
    """Checks that a leaf meets data in one equation."""
    model = graph.trace.model
    values = {model.leaves[leaf]}
    for equation in model.equations:
        if values.isdisjoint(equation.inputs):
            continue
        if model.from_inputs.isdisjoint(equation.outputs):
            values.update(equation.outputs)
        elif equation is not place:
            raise Unfoldable(
                f"means cannot be folded into {leaf!r}, which is added to the output of "
                f"{consumer.layer!r}: it is used elsewhere too, by {equation.name}; give each "
                "layer a bias of its own"
            )


def _shift(removal: Removal, sink: _Sink, response: Array) -> tuple[Array, Array]:
    """What to add to a leaf for a response: its mean over each entry's positions; the distance.

    With V the linear map from the leaf to the sum, and d the response as it arrives there,

        shift = V^T d / V^T V 1        distance = max |d - V shift| / max |d|

    and V shift = d wherever d is the same at all positions of an entry. In single precision at
    least, whatever the model's.
    """
    leaf = removal.whole[removal.model.leaves[sink.leaf]]
    dtype = jnp.promote_types(leaf.dtype, jnp.float32)
    arrived = _carried(removal, sink.way, response.astype(dtype))
    ones = jax.lax.optimization_barrier(jnp.ones(leaf.shape, dtype))
    positions, transposed = jax.vjp(lambda entries: _carried(removal, sink.view, entries), ones)
    (total,), (count,) = transposed(arrived), transposed(positions)
    shift = _ratio(total, count)
    rest = jnp.abs(arrived - _carried(removal, sink.view, shift)).max()
    return shift.astype(leaf.dtype), _ratio(rest, jnp.abs(arrived).max())


def _ratio(one: Array, other: Array) -> Array:
    """One over another, which is 0 or more; 0 where that is 0."""
    return jnp.where(other > 0, one / jnp.where(other > 0, other, 1), 0)


def _carried(removal: Removal, way: _Way, array: Array) -> Array:
    """An array at the end of a way, without what is added there and without casts."""

    def linear(equation: Equation, operands: Iterable[Array]) -> list[Array]:
        operands = [jnp.asarray(operand, array.dtype) for operand in operands]
        return operands if equation.name in _CASTING else tracing.bind(equation, operands)

    zeros = {value: jnp.zeros(removal.model.shape(value), array.dtype) for value in way.added}
    known = removal.whole | zeros | {way.start: array}
    at = dict.fromkeys(way.results, linear)
    return tracing.evaluate(removal.model, known, way.results[-1:], at=at)[way.results[-1]]

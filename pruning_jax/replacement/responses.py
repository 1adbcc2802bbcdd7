"""What the means of removed units add to the outputs of the layers that the units enter."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import tracing, units
from pruning_jax.curvature.unit_statistics import axes_read
from pruning_jax.tracing import Equation, Equations
from pruning_jax.types import Array, Params
from pruning_jax.units import Consumer, UnitGraph, UnitMasks, UnitSpace
from pruning_jax.units import masks as unit_masking

UnitMeans = Mapping[int, Array]
"""Value of a reading -> means, of the shape of its axes of units."""

ADDING = frozenset(["add", "add_any", "sub"])
MERGING = ADDING | {"concatenate"}
"""Primitives that keep a constant apart from the other data that they put beside it."""


class Unfoldable(ValueError):
    """The means of units that enter a layer are no constant there, or nothing takes it up."""


class Entering(NamedTuple):
    """Units that enter a layer: the space, how they enter, and which of them stay."""

    space: UnitSpace
    consumer: Consumer
    kept: Array


class Removal(NamedTuple):
    """Units to remove from a network.

    Attributes:
      graph: of the model.
      means: of its units.
      entering: number of a layer's equation -> the removed units that enter it.
      multiplied: space -> why a mean of its removed units is no constant: other data multiply them.
      whole, without: value -> array, of the variables with and without the units.
    """

    graph: UnitGraph
    means: UnitMeans
    entering: dict[int, list[Entering]]
    multiplied: dict[str, str]
    whole: dict[int, Array]
    without: dict[int, Array]

    @property
    def model(self) -> Equations:
        return self.graph.trace.model


def responses(
    graph: UnitGraph, variables: Params, means: UnitMeans, unit_masks: UnitMasks
) -> dict[int, Array]:
    """What the means of removed units add to the outputs of the layers that the units enter.

        response = W f(abar) - W f(0)

    with f all that lies between where the units are read and the layer W: pooling, a norm after
    it, a flatten, padding, a concatenation. f(0) is with the removed units' parameters at zero;
    it is left out where W's entries for the units are removed too. A network that lacks the units,
    and has the responses added to its layers' outputs, is in evaluation mode exactly the one whose
    removed units are clamped to their means. Where a layer's output is itself a removed unit's, its
    response is what the unit would have; a network in which it is masked adds nothing there. Works
    under ``jit``, where masks and means may be traced; there means are not checked to be finite.

    Args:
      graph: of the model.
      variables: of the shapes that were traced.
      means: as `curvature.unit_means` returns them.
      unit_masks: space -> booleans, shape (size,), True = kept.

    Returns:
      Value of a layer's output -> the constant, of the output's shape for one example. Of the
      layers that units enter which a mask removes.

    Raises:
      ValueError: masks or variables that do not fit the graph; means that are missing, of another
        graph, of another shape or not finite; a mean that is no constant on its way to a layer.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"] + variables["b"]
    >>> w, out = jnp.array([[1.0, -2.0, 0.5]]), jnp.ones((3, 2))
    >>> variables, inputs = {"w": w, "out": out, "b": jnp.zeros(2)}, jnp.array([[1.0], [3.0]])
    >>> graph = pj.units.graph(pj.trace(model, variables, inputs))
    >>> means = pj.curvature.unit_means(graph, variables, pj.Batch(inputs, jnp.array([0, 1])))
    >>> masks = {"w": jnp.array([False, True, True])}
    >>> list(pj.replacement.responses(graph, variables, means, masks).values())
    [Array([[2., 2.]], dtype=float32)]

    Source: Evci et al. 2018, *Mean Replacement Pruning*, section 3.
    """
    removal = prepare(graph, variables, means, unit_masks)
    for why in removal.multiplied.values():
        raise Unfoldable(why)
    products = {number: removal.model.equations[number] for number in removal.entering}
    return {product.outputs[0]: response(removal, number) for number, product in products.items()}


def prepare(
    graph: UnitGraph, variables: Params, means: UnitMeans, unit_masks: UnitMasks
) -> Removal:
    """Checks masks, variables and means, and finds the layers that removed units enter."""
    model = graph.trace.model
    tracing.check_shapes(model, variables, [model.avals[value] for value in model.inputs])
    units.check_masks(graph, unit_masks)
    unit_masks = {name: mask for name, mask in unit_masks.items() if not _keeps_all(mask)}
    entering: dict[int, list[Entering]] = {}
    multiplied = {
        name: f"the units of {name!r} are multiplied with other data, by "
        f"{model.equations[graph[name].products[0]].name}, where a mean is no constant; remove "
        "them by themselves, without means"
        for name in unit_masks
        if graph[name].products
    }
    for name, kept in unit_masks.items():
        for consumer in graph[name].consumers:
            here = Entering(graph[name], consumer, kept)
            entering.setdefault(consumer.equation, []).append(here)
    _check_means(graph, means, unit_masks)
    without = units.apply_masks(graph, variables, unit_masks)
    arrays = model.known(variables), model.known(without)
    return Removal(graph, means, dict(sorted(entering.items())), multiplied, *arrays)


def response(removal: Removal, number: int) -> Array:
    """The response of the layer of an equation.

    Raises:
      Unfoldable: a mean is no constant on its way to the layer.
    """
    model, entering = removal.model, removal.entering[number]
    product = model.equations[number]
    side = 0 if product.inputs[0] in model.from_inputs else 1
    data, kernel = product.inputs[side], product.inputs[1 - side]
    try:
        constants = _constants(removal, entering)
        beside = _beside(removal.graph, product, data, frozenset(constants))
    except Unfoldable as error:
        names = " and ".join(repr(here.space.name) for here in entering)
        raise Unfoldable(f"the means of {names} cannot be folded: {error}") from error
    # Behind the barrier, or XLA would compute what follows from zeros while it compiles.
    empty = {value: _zeros(model, value) for value in (*constants, *beside)}
    empty = jax.lax.optimization_barrier(empty)
    with_means, at_zero = (
        tracing.evaluate(model, known, [data])[data]
        for known in (removal.whole | empty | constants, removal.without | empty)
    )
    total = _zeros(model, product.outputs[0])
    for masked, array in ((False, with_means - at_zero), (True, with_means)):
        alike = [here for here in entering if here.consumer.slice.masked == masked]
        if alike:
            known = removal.whole | _of_removed(removal, alike)
            operands = [array, tracing.evaluate(model, known, [kernel])[kernel]]
            total += tracing.bind(product, operands if side == 0 else operands[::-1])[0]
    return total


def _zeros(model: Equations, value: int) -> Array:
    return jnp.zeros(model.avals[value].shape, model.avals[value].dtype)


def _keeps_all(mask: Array) -> bool:
    return not isinstance(mask, jax.core.Tracer) and bool(np.asarray(mask).all())


def _constants(removal: Removal, entering: list[Entering]) -> dict[int, Array]:
    """The arrays that are read, with the means where a unit is removed and zero elsewhere."""
    stays: dict[int, Array] = {}
    for here in entering:
        for reading in here.space.readings:
            if reading.value in here.consumer.readings:
                shape = [1] * len(removal.model.shape(reading.value))
                shape[reading.axis] = -1
                kept = unit_masking.entries(reading, here.kept).reshape(shape)
                stays[reading.value] = stays.get(reading.value, True) & kept
    constants = {}
    for value, axes in axes_read(removal.graph):
        if value in stays:
            zeros = _zeros(removal.model, value)
            shape = [n if axis in axes else 1 for axis, n in enumerate(zeros.shape)]
            means = jnp.reshape(removal.means[value], shape).astype(zeros.dtype)
            constants[value] = jnp.where(stays[value], zeros, means)
    return constants


def _beside(
    graph: UnitGraph, product: Equation, data: int, constants: frozenset[int]
) -> frozenset[int]:
    """The other data that is added to constants, or lies beside them, on their way to a layer.

    Raises:
      Unfoldable: other data does more than that.
    """
    model = graph.trace.model
    layers = {use.equation for layer in graph.trace.layers for use in layer.uses}
    ends = {value for number in layers for value in model.equations[number].outputs}
    for consumer in (consumer for space in graph.spaces for consumer in space.consumers):
        if model.equations[consumer.equation] is product:
            ends.update(consumer.readings)
    wanted, needed = {data}, []
    for equation in reversed(model.equations):
        if not (wanted - ends).isdisjoint(equation.outputs):
            wanted.update(equation.inputs)
            needed.append(equation)
    constant, beside = set(constants), set()
    for equation in reversed(needed):
        operands = model.from_inputs.intersection(equation.inputs)
        if operands.isdisjoint(constant):
            continue
        others = operands - constant
        if others and equation.name not in MERGING:
            raise Unfoldable(
                f"{equation.name} combines them with other data on the way from where they are "
                "read, so that a mean is no constant behind it"
            )
        beside |= others
        constant.update(equation.outputs)
    return frozenset(beside)


def _of_removed(removal: Removal, entering: list[Entering]) -> dict[int, Array]:
    """The kernel with only those entries that multiply removed units."""
    value = removal.model.leaves[entering[0].consumer.slice.leaf]
    kept = True
    for here in entering:
        kept = kept & unit_masking.entries(here.consumer.slice, here.kept)
    return {value: jnp.where(kept, 0, removal.whole[value])}


def _check_means(graph: UnitGraph, means: UnitMeans, unit_masks: UnitMasks) -> None:
    axes = dict(axes_read(graph))
    unread = sorted(means.keys() - axes.keys())
    if unread:
        raise ValueError(
            f"the means at value {unread[0]} are of no units of this graph, which are read at "
            f"{', '.join(map(str, sorted(axes)))}; take them of its own model"
        )
    pairs = [(name, reading.value) for name in unit_masks for reading in graph[name].readings]
    for name, value in pairs:
        given = means.get(value)
        shape = tuple(graph.trace.model.shape(value)[axis] for axis in axes[value])
        if given is None or np.shape(given) != shape:
            what = "are missing" if given is None else f"have shape {np.shape(given)}"
            raise ValueError(
                f"the means of {name!r} at value {value} {what}; they must have shape {shape}, one "
                "mean for each position, as unit_means returns them"
            )
        if not isinstance(given, jax.core.Tracer) and not np.isfinite(np.asarray(given)).all():
            raise ValueError(f"the means of {name!r} at value {value} are not all finite")

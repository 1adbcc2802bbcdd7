"""The leaf that takes up a constant in a layer's output: a bias, or a running mean."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax.replacement import paths
from pruning_jax.replacement.paths import ADDING, MERGING, Wiring
from pruning_jax.tracing import equations
from pruning_jax.tracing.provenance import REARRANGING, SCALING
from pruning_jax.types import Array
from pruning_jax.units import Consumer, UnitGraph

_CASTING = frozenset(["convert_element_type", "reduce_precision"])


class Step(NamedTuple):
    """An equation on the way from one value to another, linear in the first."""

    equation: int
    before: int
    after: int


class Sink(NamedTuple):
    """A leaf that is added to a layer's output or subtracted from it.

    Attributes:
      leaf: its path.
      view: from the leaf to the sum.
      path: from the layer's output to the sum.
    """

    leaf: str
    view: tuple[Step, ...]
    path: tuple[Step, ...]


def sink(graph: UnitGraph, wired: Wiring, consumer: Consumer) -> Sink:
    """Finds the first leaf, with a number for each unit, that meets a layer's output in a sum.

    Between the two the output may only be rearranged, scaled and added to.

    Raises:
      ValueError: there is none; or it is used elsewhere too.
    """
    model, path = wired.model, []
    spaces = (space for space in graph.spaces if consumer.layer in space.layers)
    own = {each.leaf for space in spaces for each in space.producers}
    (value,) = model.equations[consumer.equation].outputs
    while value != model.output and len(wired.users[value]) == 1:
        (number,) = wired.users[value]
        if not _passes(wired, number, value):
            break
        equation = model.equations[number]
        (result,) = equation.outputs
        path.append(Step(number, value, result))
        for other in equation.inputs if equation.name in ADDING else ():
            leaf, view = _origin(wired, other)
            if leaf in own:
                _check_alone(wired, consumer, leaf, number)
                return Sink(leaf, (*view, Step(number, other, result)), tuple(path))
        value = result
    raise ValueError(
        f"there is nothing to fold means into behind {consumer.layer!r}: no bias is added to its "
        "output, and no running mean subtracted, before it goes elsewhere; keep the units that "
        "enter this layer, or give it a bias"
    )


def _origin(wired: Wiring, value: int) -> tuple[str | None, tuple[Step, ...]]:
    """The leaf whose entries a value rearranges, and the steps that do."""
    names = {number: name for name, number in wired.model.leaves.items()}
    steps: list[Step] = []
    while value not in names:
        number = wired.makers.get(value)
        if number is None or wired.model.equations[number].name not in REARRANGING:
            return None, ()
        before = wired.model.equations[number].inputs[0]
        steps.append(Step(number, before, value))
        value = before
    return names[value], tuple(reversed(steps))


def _passes(wired: Wiring, number: int, value: int) -> bool:
    """Whether an equation is linear in a value, apart from what is added to it."""
    equation, data = wired.model.equations[number], wired.model.from_inputs
    if len(equation.outputs) > 1:
        return False
    if equation.name in SCALING:
        others = [other for other in equation.inputs if other != value]
        divides = equation.name == "div" and equation.inputs[0] != value
        return len(others) == 1 and data.isdisjoint(others) and not divides
    return equation.name in REARRANGING | MERGING


def _check_alone(wired: Wiring, consumer: Consumer, leaf: str, number: int) -> None:
    """Checks that a leaf meets data in one equation."""
    model, front, seen = wired.model, [wired.model.leaves[leaf]], set()
    while front:
        for user in wired.users.get(front.pop(), set()) - seen:
            seen.add(user)
            results = model.equations[user].outputs
            if model.from_inputs.isdisjoint(results):
                front.extend(results)
            elif user != number:
                raise ValueError(
                    f"means cannot be folded into {leaf!r}, which is added to the output of "
                    f"{consumer.layer!r}: it is used elsewhere too, by "
                    f"{model.equations[user].name}; give each layer a bias of its own"
                )


def shift(wired: Wiring, found: Sink, arrays: dict[int, Array], response: Array) -> Array:
    """What to add to a leaf for a constant in a layer's output: its mean over each entry's places.

    With V the linear map from the leaf to the sum, and d the constant as it arrives there,

        shift = V^T d / V^T V 1

    which has V shift = d wherever d is the same at all places of an entry. In single precision at
    least, whatever the model's.

    Args:
      wired: the model.
      found: where the leaf is.
      arrays: value -> array, of the constants and the variables.
      response: the constant, of the shape of the layer's output.

    Returns:
      An array of the leaf's shape and dtype.
    """
    leaf = arrays[wired.model.leaves[found.leaf]]
    dtype = jnp.promote_types(leaf.dtype, jnp.float32)
    arrived = _carried(wired, found.path, arrays, response.astype(dtype))
    ones = jax.lax.optimization_barrier(jnp.ones(leaf.shape, dtype))
    places, transposed = jax.vjp(lambda entries: _carried(wired, found.view, arrays, entries), ones)
    (total,), (count,) = transposed(arrived), transposed(places)
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1), 0).astype(leaf.dtype)


def _carried(
    wired: Wiring, steps: tuple[Step, ...], arrays: dict[int, Array], array: Array
) -> Array:
    """An array after steps that are linear in it, without what they add and without casts."""
    model = wired.model
    for number, before, after in steps:
        equation = model.equations[number]
        if equation.name in _CASTING:
            continue
        operands = []
        for value in equation.inputs:
            if value == before:
                operands.append(array)
            elif equation.name in SCALING:
                way = paths.between(wired, value, frozenset(), frozenset())
                operands.append(jnp.asarray(way.run(model, arrays)[value], array.dtype))
            else:
                operands.append(jnp.zeros(model.avals[value].shape, array.dtype))
        array = equations.bind(equation, operands)[equation.outputs.index(after)]
    return array

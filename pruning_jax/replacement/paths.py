"""The equations that a constant passes on its way into a layer."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from pruning_jax.tracing import Trace, equations
from pruning_jax.tracing.equations import Equations
from pruning_jax.types import Array

ADDING = frozenset(["add", "add_any", "sub"])
MERGING = ADDING | {"concatenate"}
"""Primitives that keep a constant apart from the other data that they put beside it."""


class Wiring(NamedTuple):
    """How a model's equations hang together.

    Attributes:
      model: the equations.
      makers: value -> the number of the equation that it is a result of.
      users: value -> the numbers of the equations that it is an operand of.
      layers: the numbers of the equations that are layers.
    """

    model: Equations
    makers: dict[int, int]
    users: dict[int, set[int]]
    layers: frozenset[int]


def wiring(trace: Trace) -> Wiring:
    """Reads which equation makes every value and which use it."""
    makers: dict[int, int] = {}
    users: dict[int, set[int]] = {}
    for number, equation in enumerate(trace.model.equations):
        makers |= dict.fromkeys(equation.outputs, number)
        for value in equation.inputs:
            users.setdefault(value, set()).add(number)
    layers = frozenset(use.equation for layer in trace.layers for use in layer.uses)
    return Wiring(trace.model, makers, users, layers)


class Path(NamedTuple):
    """Equations to run in order, and the values that are zero there."""

    equations: tuple[int, ...]
    zeros: frozenset[int]

    def run(self, model: Equations, arrays: Mapping[int, Array]) -> dict[int, Array]:
        """Returns `arrays` and the results."""
        arrays = dict(arrays)
        for value in self.zeros:
            arrays[value] = jnp.zeros(model.avals[value].shape, model.avals[value].dtype)
        for number in self.equations:
            equation = model.equations[number]
            results = equations.bind(equation, [arrays[value] for value in equation.inputs])
            arrays |= zip(equation.outputs, results, strict=True)
        return arrays


def between(wired: Wiring, value: int, given: frozenset[int], stops: frozenset[int]) -> Path:
    """The way to a value from the variables and from given values.

    Args:
      wired: the model.
      value: the last.
      given: the values that are constants.
      stops: values that are not looked behind, the given ones among them.

    Returns:
      The path; data that does not come from the given values is zero on it.

    Raises:
      ValueError: such data does more than lie beside the constants or add to them.
    """
    model, front, needed = wired.model, [value], set()
    while front:
        here = front.pop()
        number = wired.makers.get(here)
        if here not in stops and number is not None and number not in wired.layers | needed:
            needed.add(number)
            front.extend(model.equations[number].inputs)
    moved, zeros, steps = set(given), set(), []
    for number in sorted(needed):
        equation = model.equations[number]
        data = model.from_inputs.intersection(equation.inputs)
        if data and not data & moved:
            continue
        if data - moved and equation.name not in MERGING:
            raise ValueError(
                f"{equation.name} combines them with other data on the way from where they are "
                "read, so that a mean is no constant behind it"
            )
        zeros |= data - moved
        if data:
            moved.update(equation.outputs)
        steps.append(number)
    return Path(tuple(steps), frozenset(zeros))

"""A jaxpr as one flat list of equations over numbered values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.extend import core

from pruning_jax.types import ApplyFn, Params, PyTree

INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
}
"""Primitives replaced by their body, and the parameter that holds it.

Calls with a derivative rule of their own (``custom_jvp_call``) stay whole, to keep the rule.
"""


class Equation(NamedTuple):
    """One primitive applied; `inputs` and `outputs` are numbers of values."""

    primitive: Any
    params: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.primitive.name


class Flattening:
    """The values and equations met so far."""

    def __init__(self) -> None:
        self.avals: list[Any] = []
        self.equations: list[Equation] = []
        self.constants: dict[int, Any] = {}

    def value(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def constant(self, aval: Any, array: Any) -> int:
        number = self.value(aval)
        self.constants[number] = array
        return number

    def read(self, jaxpr: Any, consts: list, arguments: list[int]) -> list[int]:
        """Appends the equations of `jaxpr`; returns the numbers of its results."""
        numbers = dict(zip(jaxpr.invars, arguments, strict=True))
        for variable, array in zip(jaxpr.constvars, consts, strict=True):
            numbers[variable] = self.constant(variable.aval, array)

        def look_up(atom: Any) -> int:
            if isinstance(atom, core.Literal):
                return self.constant(atom.aval, atom.val)
            return numbers[atom]

        for equation in jaxpr.eqns:
            inputs = [look_up(atom) for atom in equation.invars]
            body = equation.params.get(INLINED.get(equation.primitive.name, ""))
            if body is None:
                outputs = [self.value(variable.aval) for variable in equation.outvars]
                self.equations.append(
                    Equation(equation.primitive, equation.params, tuple(inputs), tuple(outputs))
                )
            else:
                outputs = self.read(
                    getattr(body, "jaxpr", body), getattr(body, "consts", []), inputs
                )
            numbers.update(zip(equation.outvars, outputs, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]


def flatten(apply_fn: ApplyFn, variables: Params, inputs: PyTree) -> tuple[Flattening, int]:
    """Flattens the jaxpr of a model; returns what it met, and the value of the logits.

    Raises:
      ValueError: the model does not accept these inputs, or does not return logits of rank two.
    """
    try:
        closed = jax.make_jaxpr(apply_fn)(variables, inputs)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        shapes = [leaf.shape for leaf in jax.tree.leaves(inputs)]
        raise ValueError(
            f"apply_fn(variables, inputs) failed for inputs of shape {shapes}; it must accept any "
            f"number of examples on axis 0 of its inputs: {type(error).__name__}: {error}"
        ) from error
    flat = Flattening()
    arguments = [flat.value(variable.aval) for variable in closed.jaxpr.invars]
    results = flat.read(closed.jaxpr, closed.consts, arguments)
    if len(results) != 1 or len(flat.avals[results[0]].shape) != 2:
        shapes = [flat.avals[result].shape for result in results]
        raise ValueError(f"apply_fn returned {shapes}; it must return logits (examples, outputs)")
    return flat, results[0]


def live(equations: list[Equation], output: int) -> tuple[Equation, ...]:
    """The equations that the output needs."""
    needed, kept = {output}, []
    for equation in reversed(equations):
        if needed.intersection(equation.outputs):
            needed.update(equation.inputs)
            kept.append(equation)
    return tuple(reversed(kept))

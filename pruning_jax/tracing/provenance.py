"""From which leaf of the variables every array comes, and where the leaves meet data."""

import math
from typing import Any, NamedTuple

from jax import numpy as jnp
from jax.extend import core

from pruning_jax.tracing.equations import Equation, Equations

REARRANGING = frozenset(
    [
        *("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "rev", "slice"),
        *("split", "convert_element_type", "reduce_precision", "neg", "copy", "copy_p"),
        *("sharding_constraint", "optimization_barrier"),
    ]
)
"""Primitives that only move, repeat, select, cast or negate the entries of their one operand."""

SCALING = frozenset(["mul", "div"])
LINEAR = {"dot_general": "dense", "conv_general_dilated": "conv", "gather": "embedding"}


class View(NamedTuple):
    """An array that holds the entries of one leaf; `steps` are the equations that lead to it."""

    leaf: str
    steps: tuple[int, ...] = ()


class Use(NamedTuple):
    """One equation that a leaf enters linearly, together with data.

    Attributes:
      kind: `dense`, `conv`, `embedding` or `bias`.
      equation: its number.
      operand: which operand holds the leaf: 0 or 1.
      view: from the leaf to that operand.
    """

    kind: str
    equation: int
    operand: int
    view: View


class Reading:
    """What is known of every value while the equations are followed."""

    def __init__(self, model: Equations) -> None:
        self.model = model
        self.views = {value: View(leaf) for leaf, value in model.leaves.items()}
        self.leaves = {value: frozenset([leaf]) for leaf, value in model.leaves.items()}
        self.outputs_of: dict[int, str] = {}
        self.uses: dict[str, list[Use]] = {}
        self.bias_uses: dict[str, list[Use]] = {}
        self.bias_of: dict[str, set[str]] = {}
        self.elsewhere: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.stopped: dict[int, str] = {}
        for value in model.leaves.values():
            if not jnp.issubdtype(model.avals[value].dtype, jnp.inexact):
                del self.views[value], self.leaves[value]

    def shape(self, value: int) -> tuple[int, ...]:
        return self.model.avals[value].shape

    def follow(self, number: int) -> None:
        equation = self.model.equations[number]
        inputs, outputs, name = equation.inputs, equation.outputs, equation.name
        held = [value for value in inputs if self.leaves.get(value)]
        data = [value for value in inputs if value in self.model.from_inputs]
        if not held:
            if name in REARRANGING and inputs[0] in self.outputs_of:
                self.outputs_of[outputs[0]] = self.outputs_of[inputs[0]]
            return
        if not data:
            self._variables_only(number, held)
        elif name in LINEAR and len(held) == 1:
            self._layer(number, held[0])
        elif name == "add" and len(held) == 1 and data[0] in self.outputs_of:
            self._bias(number, held[0], data[0])
        else:
            inside = _kernels_inside(equation)
            for position, value in enumerate(inputs):
                for leaf in self.leaves.get(value, ()):
                    self.elsewhere.setdefault(leaf, f"it is also used by {name}")
                    if position in inside:
                        self.reasons.setdefault(leaf, f"its layer is inside {name}")

    def _variables_only(self, number: int, held: list[int]) -> None:
        equation = self.model.equations[number]
        for value in equation.outputs:
            self.leaves[value] = frozenset().union(*(self.leaves[h] for h in held))
        view = self.views.get(held[0])
        stopped = next((self.stopped[h] for h in held if h in self.stopped), equation.name)
        self.stopped |= dict.fromkeys(equation.outputs, stopped)
        if len(held) > 1 or view is None:
            return
        scales = equation.name in SCALING and (
            equation.name == "mul" or held[0] == equation.inputs[0]
        )
        if equation.name in REARRANGING or scales:
            for value in equation.outputs:
                self.views[value] = View(view.leaf, (*view.steps, number))
                del self.stopped[value]

    def _layer(self, number: int, value: int) -> None:
        equation = self.model.equations[number]
        operand = equation.inputs.index(value)
        view = self.views.get(value)
        why = None
        if view is None:
            stopped = self.stopped.get(value, "operations")
            why = f"it reaches {equation.name} through {stopped}, which does not only rearrange it"
        elif value in self.model.batch and not self._repeats_examples(view, value):
            why = f"it reaches {equation.name} with a value for every example"
        else:
            why = _UNREADABLE[equation.name](self.model, equation, operand)
        if why:
            for leaf in self.leaves[value]:
                self.reasons.setdefault(leaf, why)
            return
        use = Use(LINEAR[equation.name], number, operand, view)
        self.uses.setdefault(view.leaf, []).append(use)
        self.outputs_of[equation.outputs[0]] = view.leaf

    def _repeats_examples(self, view: View, value: int) -> bool:
        last = self.model.equations[view.steps[-1]] if view.steps else None
        return (
            last is not None
            and last.name == "broadcast_in_dim"
            and last.inputs[0] not in self.model.batch
            and self.model.batch[value].axis not in last.params["broadcast_dimensions"]
        )

    def _bias(self, number: int, value: int, data: int) -> None:
        view, kernel = self.views.get(value), self.outputs_of[data]
        readable = view is not None and (
            value not in self.model.batch or self._repeats_examples(view, value)
        )
        outputs = units(self.model, self.uses[kernel][-1])
        if readable and math.prod(self.shape(self.model.leaves[view.leaf])) == outputs:
            operand = self.model.equations[number].inputs.index(value)
            self.bias_uses.setdefault(view.leaf, []).append(Use("bias", number, operand, view))
            self.bias_of.setdefault(kernel, set()).add(view.leaf)
        else:
            for leaf in self.leaves[value]:
                self.elsewhere.setdefault(leaf, "it is also used by add")


def _kernels_inside(equation: Equation) -> frozenset[int]:
    """The operands of a loop, branch or call that its body uses as kernels."""
    found: set[int] = set()
    for parameter in equation.params.values():
        for body in parameter if isinstance(parameter, (tuple, list)) else [parameter]:
            body = getattr(body, "jaxpr", body)
            if hasattr(body, "eqns"):
                shift = len(equation.inputs) - len(body.invars)
                found |= {position + max(shift, 0) for position in _kernel_arguments(body)}
    return frozenset(found)


def _kernel_arguments(body: Any) -> set[int]:
    source = {variable: position for position, variable in enumerate(body.invars)}
    found: set[int] = set()
    for step in body.eqns:
        known = [None if isinstance(v, core.Literal) else source.get(v) for v in step.invars]
        if step.primitive.name in LINEAR:
            found.update(position for position in known if position is not None)
        elif step.primitive.name in REARRANGING and known[0] is not None:
            source.update(dict.fromkeys(step.outvars, known[0]))
        else:
            call = Equation(step.primitive, step.params, tuple(range(len(known))), ())
            found.update(known[i] for i in _kernels_inside(call) if known[i] is not None)
    return found


def _unreadable_dense(model: Equations, equation: Equation, operand: int) -> str | None:
    kernel, data = equation.inputs[operand], equation.inputs[1 - operand]
    if kernel not in model.batch:
        return None
    batch_dims = equation.params["dimension_numbers"][1]
    paired = (model.batch[kernel].axis, model.batch[data].axis) in zip(
        batch_dims[operand], batch_dims[1 - operand], strict=True
    )
    if not paired or model.batch[kernel][1:] != (1, 1):
        return "it is repeated for every example in a way that is not understood"
    return None


def _unreadable_conv(model: Equations, equation: Equation, operand: int) -> str | None:
    kernel, data = equation.inputs[operand], equation.inputs[1 - operand]
    if operand != 1:
        return "it is the left operand of its convolution"
    if equation.params["batch_group_count"] != 1:
        return "its convolution has a batch_group_count"
    if kernel in model.batch or (
        model.batch[data].axis != equation.params["dimension_numbers"].lhs_spec[0]
    ):
        return "the examples are not on the batch axis of its convolution"
    return None


def _unreadable_gather(model: Equations, equation: Equation, operand: int) -> str | None:
    kernel = equation.inputs[operand]
    dimensions, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    rows = (
        operand == 0
        and kernel not in model.batch
        and tuple(dimensions.start_index_map) == (0,)
        and tuple(dimensions.collapsed_slice_dims) == (0,)
        and not dimensions.operand_batching_dims
        and tuple(sizes) == (1, *model.avals[kernel].shape[1:])
    )
    return None if rows else "its gather does not take whole rows"


_UNREADABLE = {
    "dot_general": _unreadable_dense,
    "conv_general_dilated": _unreadable_conv,
    "gather": _unreadable_gather,
}


def units(model: Equations, use: Use) -> int:
    """How many units the layer has: the entries of its output that a position holds."""
    equation = model.equations[use.equation]
    shape = model.avals[equation.inputs[use.operand]].shape
    if use.kind == "conv":
        return shape[equation.params["dimension_numbers"].rhs_spec[0]]
    if use.kind == "embedding":
        return math.prod(shape[1:])
    contracted = equation.params["dimension_numbers"][0][use.operand]
    examples = model.batch.get(equation.inputs[use.operand])
    shape = [1 if examples and examples.axis == i else d for i, d in enumerate(shape)]
    return math.prod(d for axis, d in enumerate(shape) if axis not in contracted)


def read_leaves(model: Equations) -> Reading:
    """Follows every leaf of the variables to the equations that use it."""
    reading = Reading(model)
    for number in range(len(model.equations)):
        reading.follow(number)
    return reading

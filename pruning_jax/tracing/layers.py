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

_IN_PLACE = frozenset(
    [
        *("convert_element_type", "reduce_precision", "neg", "copy", "copy_p", "slice", "rev"),
        *("sharding_constraint", "optimization_barrier", *SCALING),
    ]
)
"""Primitives of a view that leave every axis where it is."""


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


class Axes(NamedTuple):
    """What the axes of a kernel are; those of a convolution's window are neither.

    Attributes:
      inputs: those that an output sums over: features, or the rows of an embedding.
      outputs: those of its units.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Uses:
    """Where every leaf is used, known while the equations are followed.

    Attributes:
      uses: kernel -> where it enters.
      bias_uses: bias -> where it enters.
      bias_of: kernel -> the leaves that are added to its layer's output.
      reasons: kernel -> why it cannot be read.
    """

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
        for number in range(len(model.equations)):
            self._follow(number)
        for leaf in self.uses:
            if leaf in self.elsewhere:
                self.reasons.setdefault(leaf, self.elsewhere[leaf])
            if leaf in self.bias_uses:
                self.reasons.setdefault(leaf, "it is also added as a bias")

    def bias(self, kernel: str) -> str | None:
        """The one leaf that is a bias of a kernel's layer and nothing else."""
        others = self.elsewhere.keys() | self.reasons.keys() | self.uses.keys()
        biases = self.bias_of.get(kernel, set()) - others
        return biases.pop() if len(biases) == 1 else None

    def _follow(self, number: int) -> None:
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
                for leaf in sorted(self.leaves.get(value, ())):
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
        if view is None:
            stopped = self.stopped.get(value, "operations")
            why = f"it reaches {equation.name} through {stopped}, which does not only rearrange it"
        else:
            why = _UNREADABLE[equation.name](self.model, equation, operand)
        if why:
            for leaf in sorted(self.leaves[value]):
                self.reasons.setdefault(leaf, why)
            return
        use = Use(LINEAR[equation.name], number, operand, view)
        self.uses.setdefault(view.leaf, []).append(use)
        self.outputs_of[equation.outputs[0]] = view.leaf

    def _bias(self, number: int, value: int, data: int) -> None:
        view, kernel = self.views.get(value), self.outputs_of[data]
        outputs = units(self.model, self.uses[kernel][-1])
        if view is not None and _size(self.model, self.model.leaves[view.leaf]) == outputs:
            operand = self.model.equations[number].inputs.index(value)
            self.bias_uses.setdefault(view.leaf, []).append(Use("bias", number, operand, view))
            self.bias_of.setdefault(kernel, set()).add(view.leaf)
        else:
            for leaf in sorted(self.leaves[value]):
                self.elsewhere.setdefault(leaf, "it is also used by add")


def _size(model: Equations, value: int) -> int:
    return math.prod(model.shape(value))


def _kernels_inside(equation: Equation) -> frozenset[int]:
    """The operands of a loop, branch or call that its body uses as kernels."""
    positions: set[int] = set()
    for parameter in equation.params.values():
        for body in parameter if isinstance(parameter, (tuple, list)) else [parameter]:
            body = getattr(body, "jaxpr", body)
            if hasattr(body, "eqns"):
                shift = len(equation.inputs) - len(body.invars)
                positions |= {p + max(shift, 0) for p in _kernel_arguments(body)}
    return frozenset(positions)


def _kernel_arguments(body: Any) -> set[int]:
    source = {variable: position for position, variable in enumerate(body.invars)}
    positions: set[int] = set()
    for step in body.eqns:
        known = [None if isinstance(v, core.Literal) else source.get(v) for v in step.invars]
        if step.primitive.name in LINEAR:
            positions.update(position for position in known if position is not None)
        elif step.primitive.name in REARRANGING and known[0] is not None:
            source.update(dict.fromkeys(step.outvars, known[0]))
        else:
            call = Equation(step.primitive, step.params, tuple(range(len(known))), ())
            positions.update(known[i] for i in _kernels_inside(call) if known[i] is not None)
    return positions


def _unreadable_conv(model: Equations, equation: Equation, operand: int) -> str | None:
    if operand != 1:
        return "it is the left operand of its convolution"
    if equation.params["batch_group_count"] != 1:
        return "its convolution has a batch_group_count"
    return None


def _unreadable_gather(model: Equations, equation: Equation, operand: int) -> str | None:
    dimensions, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    rows = (
        operand == 0
        and dimensions.start_index_map[0] == 0
        and tuple(dimensions.collapsed_slice_dims) in ((0,), ())
        and not dimensions.operand_batching_dims
        and tuple(sizes) == (1, *model.shape(equation.inputs[operand])[1:])
    )
    return None if rows else "its gather does not take whole rows"


_UNREADABLE = {
    "dot_general": lambda model, equation, operand: None,
    "conv_general_dilated": _unreadable_conv,
    "gather": _unreadable_gather,
}


def units(model: Equations, use: Use) -> int:
    """How many units the layer has: the entries of its output that a position holds."""
    equation = model.equations[use.equation]
    shape = model.shape(equation.inputs[use.operand])
    if use.kind == "conv":
        return shape[equation.params["dimension_numbers"].rhs_spec[0]]
    if use.kind == "embedding":
        return math.prod(shape[1:])
    contracted = equation.params["dimension_numbers"][0][use.operand]
    return math.prod(size for axis, size in enumerate(shape) if axis not in contracted)


def axes(model: Equations, use: Use) -> Axes | None:
    """What the axes of a kernel's leaf are; ``None`` where its view merges or splits them."""
    equation = model.equations[use.equation]
    places = _axes_of_leaf(model, use.view)
    if places is None:
        return None
    rank = len(model.shape(equation.inputs[use.operand]))
    if use.kind == "conv":
        spec = equation.params["dimension_numbers"].rhs_spec
        inputs, outputs = [spec[1]], [spec[0]]
    elif use.kind == "embedding":
        inputs, outputs = [0], list(range(1, rank))
    else:
        contracted, batched = (side[use.operand] for side in equation.params["dimension_numbers"])
        inputs = list(contracted)
        outputs = [axis for axis in range(rank) if axis not in (*contracted, *batched)]
    named = ({places[axis] for axis in side} - {None} for side in (inputs, outputs))
    return Axes(*(tuple(sorted(side)) for side in named))


def _axes_of_leaf(model: Equations, view: View) -> list[int | None] | None:
    """Of each axis of an array, the leaf's axis that it is; ``None`` for one that a view adds."""
    value = model.leaves[view.leaf]
    places: list[int | None] = list(range(len(model.shape(value))))
    for number in view.steps:
        equation = model.equations[number]
        alike = (v for v in equation.inputs if model.shape(v) == model.shape(value))
        source = next(alike, equation.inputs[0])
        name, params, result = equation.name, equation.params, model.shape(equation.outputs[0])
        if name == "transpose":
            places = [places[axis] for axis in params["permutation"]]
        elif name == "broadcast_in_dim":
            moved: list[int | None] = [None] * len(result)
            for axis, place in enumerate(params["broadcast_dimensions"]):
                moved[place] = places[axis]
            places = moved
        elif name in ("squeeze", "expand_dims", "reshape"):
            before = [p for p, n in zip(places, model.shape(source), strict=True) if n != 1]
            if [n for n in model.shape(source) if n != 1] != [n for n in result if n != 1]:
                return None
            rest = iter(before)
            places = [None if n == 1 else next(rest) for n in result]
        elif name not in _IN_PLACE and name != "split":
            return None
        value = equation.outputs[0]
    return places

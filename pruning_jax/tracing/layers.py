"""From which leaves of the variables every array comes, and where the leaves meet data."""

import fractions
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jax import numpy as jnp

from pruning_jax.tracing.equations import UNROLLED, Equation, Equations

_MOVING = frozenset(
    [
        *("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "rev", "slice"),
        *("split", "pad", "concatenate", "dynamic_slice"),
    ]
)
"""Primitives that move entries, select them, or put others beside them."""

_KEEPING = frozenset(
    ["convert_element_type", "reduce_precision", "copy", "copy_p", "sharding_constraint", "neg"]
)

REARRANGING = _MOVING - {"pad", "concatenate", "dynamic_slice"} | _KEEPING
"""Primitives that only move, repeat, select, cast or negate the entries of their one operand."""

SCALING = frozenset(["mul", "div"])
LINEAR = {"dot_general": "dense", "conv_general_dilated": "conv", "gather": "embedding"}

_ENTRYWISE = _KEEPING.union(
    SCALING,
    ("sign", "abs", "round", "floor", "ceil", "clamp", "max", "min", "select_n", "add", "sub"),
    ("exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "erf", "sin", "cos"),
    ("pow", "integer_pow", "square", "sqrt", "rsqrt"),
)
"""Primitives whose results have at each place a function of their operands' entries there.

One that is missing costs speed and no more: its derivative is taken as that of any function.
"""

_NOT_READ = {
    "while": "whose number of steps is known only when it runs: use lax.scan, or lax.fori_loop "
    "between Python integers",
    "cond": "whose branch is chosen when it runs: choose it in Python",
    "scan": f"which is too long to be read step by step (to {UNROLLED:,} equations at most): trace "
    "it on shorter inputs",
    "custom_vjp_call": "which has a derivative of its own: trace the function without it",
}


Shape = tuple[int, ...]
Places = tuple[int | None, ...]
"""Of each axis of an array, the leaf's axis that it is, or ``None`` for none of them."""


class View(NamedTuple):
    """An array that is made of a leaf.

    Attributes:
      leaf: its path.
      moves: the values on the way from the leaf, each of which holds entries of the one before,
        moved, selected, or beside others; the leaf's own is the first.
      entrywise: whether each entry of the array is a function of one entry of the last of them,
        at the same place. If not, it may be any function of that.
      axes: of the array; ``None`` where axes of the leaf are merged, split or mixed.
    """

    leaf: str
    moves: tuple[int, ...]
    entrywise: bool
    axes: Places | None


class Use(NamedTuple):
    """One equation that an array made of a leaf enters linearly, together with data.

    Attributes:
      kind: `dense`, `conv`, `embedding` or `bias`.
      equation: its number.
      operand: which operand is made of the leaf: 0 or 1.
      view: from the leaf to that operand.
      share: of the operand's entries, those that this leaf holds, where several make it together.
    """

    kind: str
    equation: int
    operand: int
    view: View
    share: fractions.Fraction = fractions.Fraction(1)


class Axes(NamedTuple):
    """What the axes of a kernel are; those of a window or of a stack of layers are neither.

    Attributes:
      inputs: those that an output sums over: features, or the rows of an embedding.
      outputs: those of its units.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Uses:
    """Where every leaf is used, known while the equations are followed.

    A kernel may be any function of leaves. Of several the largest is pruned: a weight, and not the
    scale of its norm. Leaves that are put beside one another are kernels of their own.

    Attributes:
      leaves: value made of variables alone -> the leaves that it depends on.
      views: the same value -> how the leaves enter it that it may be a kernel of.
      torn: leaf -> why it is no kernel of what it makes together with others.
      uses: kernel -> where it enters.
      bias_uses: bias -> where it enters.
      bias_of: kernel -> the leaves that are added to its layer's output.
      reasons: kernel -> why it cannot be read.
    """

    def __init__(self, model: Equations) -> None:
        self.model = model
        self.leaves: dict[int, frozenset[str]] = {}
        self.views: dict[int, dict[str, View]] = {}
        self.torn: dict[str, str] = {}
        self.met: list[tuple[str, int]] = []
        self.outputs_of: dict[int, tuple[str, ...]] = {}
        self.uses: dict[str, list[Use]] = {}
        self.bias_uses: dict[str, list[Use]] = {}
        self.bias_of: dict[str, set[str]] = {}
        self.elsewhere: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        for leaf, value in model.leaves.items():
            if self._has_derivative(value):
                axes = tuple(range(len(model.shape(value))))
                self.leaves[value] = frozenset([leaf])
                self.views[value] = {leaf: View(leaf, (value,), True, axes)}
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

    def states(self) -> frozenset[int]:
        """What meets a kernel in place of the data that it meets elsewhere, and has its shape."""

        def shape(value: int) -> list[int]:
            return [size for size in self.model.shape(value) if size != 1]

        data = {leaf: [shape(self._data(use)) for use in uses] for leaf, uses in self.uses.items()}
        return frozenset(v for leaf, v in self.met if shape(v) in data.get(leaf, ()))

    def _data(self, use: Use) -> int:
        return self.model.equations[use.equation].inputs[1 - use.operand]

    def _has_derivative(self, value: int) -> bool:
        return jnp.issubdtype(self.model.avals[value].dtype, jnp.inexact)

    def _follow(self, number: int) -> None:
        equation = self.model.equations[number]
        inputs, outputs, name = equation.inputs, equation.outputs, equation.name
        data = [value for value in inputs if value in self.model.from_inputs]
        held = [value for value in inputs if value in self.leaves and value not in data]
        if not held:
            if name in REARRANGING and inputs[0] in self.outputs_of:
                self.outputs_of[outputs[0]] = self.outputs_of[inputs[0]]
        elif not data:
            self._make(equation, held)
        elif name in LINEAR and len(held) == 1:
            self._layer(number, held[0])
        elif name == "add" and len(held) == 1 and data[0] in self.outputs_of:
            self._bias(number, held[0], data[0])
        else:
            self._elsewhere(equation, held)

    def _elsewhere(self, equation: Equation, held: Sequence[int]) -> None:
        products = not LINEAR.keys().isdisjoint(_inside(equation.params))
        for leaf in sorted(frozenset().union(*(self.leaves[value] for value in held))):
            why = self.torn.get(leaf, f"it is also used by {equation.name}")
            self.elsewhere.setdefault(leaf, why)
            if products and len(self.model.shape(self.model.leaves[leaf])) > 1:
                why = _NOT_READ.get(equation.name, "which is not read: trace it without")
                self.reasons.setdefault(leaf, f"it enters {equation.name}, {why}")

    def _make(self, equation: Equation, held: Sequence[int]) -> None:
        """Follows an equation of variables alone."""
        if equation.name in LINEAR:
            pairs = zip(equation.inputs, equation.inputs[::-1], strict=True)
            self.met += [(leaf, other) for v, other in pairs for leaf in self.views.get(v, ())]
        leaves = frozenset().union(*(self.leaves[value] for value in held))
        kept = dict.fromkeys(leaf for v in self._chosen(equation, held) for leaf in self.views[v])
        for result in equation.outputs:
            if equation.name != "stop_gradient" and self._has_derivative(result):
                self.leaves[result] = leaves
                self.views[result] = {
                    leaf: self._made(equation, held, result, leaf) for leaf in kept
                }

    def _chosen(self, equation: Equation, held: Sequence[int]) -> list[int]:
        """The operands whose leaves a result may be a kernel of."""
        having = [value for value in held if self.views[value]]
        every = list(dict.fromkeys(leaf for value in having for leaf in self.views[value]))
        if equation.name == "concatenate":
            return having
        if equation.name in LINEAR and len(held) > 1:
            why = f"{equation.name} multiplies {' and '.join(map(repr, every))} with each other"
            self.torn |= dict.fromkeys(every, f"{why} before the data meets them")
            return []
        sizes = [sum(map(self._size, self.views[value].values())) for value in having]
        kept = [value for value, size in zip(having, sizes, strict=True) if size == max(sizes)]
        rivals = list(dict.fromkeys(leaf for value in kept for leaf in self.views[value]))
        if any(len(self.views[value]) < len(rivals) for value in kept):
            trained = {leaf for leaf in rivals if leaf.split("/")[0] == "params"}
            kept = [value for value in kept if self.views[value].keys() == trained]
        if not kept:
            why = (
                f"{' and '.join(map(repr, rivals))} make a kernel together, each of as many "
                "entries: which is to be pruned? Hold a mask as booleans or integers, pass it "
                "through jax.lax.stop_gradient, or close over it"
            )
            self.torn |= dict.fromkeys(rivals, why)
        return kept

    def _made(self, equation: Equation, held: Sequence[int], result: int, leaf: str) -> View:
        """The view of a leaf that an equation makes of its operands."""
        model, name = self.model, equation.name
        whole = View(leaf, (model.leaves[leaf],), False, None)
        parents = [value for value in held if leaf in self.leaves[value]]
        views = [self.views[value].get(leaf, whole) for value in parents]
        shapes, shape = [model.shape(value) for value in parents], model.shape(result)
        steps = zip(*(view.moves for view in views), strict=False)
        common = tuple(step[0] for step in steps if len(set(step)) == 1)
        alike = all(view.entrywise and view.moves == common for view in views)
        if name in _ENTRYWISE:
            axes = _axes_met([view.axes for view in views], shapes, shape)
            return View(leaf, common, alike and set(shapes) == {shape}, axes)
        if len(parents) > 1:
            return View(leaf, common, False, None)
        axes = views[0].axes and _axes_after(equation, views[0].axes, shapes[0], shape)
        repeats = name == "broadcast_in_dim" and math.prod(shape) > math.prod(shapes[0])
        if name not in _MOVING or repeats or not alike:
            return View(leaf, common, False, axes)
        return View(leaf, (*common, result), True, axes)

    def _size(self, view: View) -> int:
        """How many entries of its leaf a view holds."""
        return min(math.prod(self.model.shape(value)) for value in view.moves)

    def _layer(self, number: int, value: int) -> None:
        equation = self.model.equations[number]
        operand, views = equation.inputs.index(value), self.views[value]
        why = _UNREADABLE[equation.name](self.model, equation, operand)
        for leaf in sorted(self.leaves[value]):
            if why or (leaf not in views and leaf in self.torn):
                self.reasons.setdefault(leaf, why or self.torn[leaf])
        if why or not views:
            return
        whole = sum(map(self._size, views.values()))
        for leaf, view in views.items():
            share = fractions.Fraction(self._size(view), whole or 1)
            use = Use(LINEAR[equation.name], number, operand, view, share)
            self.uses.setdefault(leaf, []).append(use)
        self.outputs_of[equation.outputs[0]] = tuple(views)
        for leaf in self.leaves[value] - views.keys():
            self.elsewhere.setdefault(leaf, f"it also makes the kernel of {next(iter(views))!r}")

    def _bias(self, number: int, value: int, data: int) -> None:
        kernels, views = self.outputs_of[data], self.views[value].values()
        outputs = units(self.model, self.uses[kernels[0]][-1])
        if sum(map(self._size, views)) != outputs or len(views) not in (1, len(kernels)):
            self._elsewhere(self.model.equations[number], [value])
            return
        operand = self.model.equations[number].inputs.index(value)
        for kernel, view in zip(kernels, views, strict=False):
            self.bias_uses.setdefault(view.leaf, []).append(Use("bias", number, operand, view))
            self.bias_of.setdefault(kernel, set()).add(view.leaf)


def _axes_met(
    every: Sequence[Places | None], shapes: Sequence[Shape], shape: Shape
) -> Places | None:
    """The axes of arrays that meet place by place; one of size 1 is repeated, and says nothing."""
    if None in every or any(len(each) != len(shape) for each in shapes):
        return None
    pairs = list(zip(every, shapes, strict=True))
    named = [{p[i] for p, each in pairs if each[i] == n} - {None} for i, n in enumerate(shape)]
    return None if any(len(axis) > 1 for axis in named) else tuple(map(_only, named))


def _only(found: set[int]) -> int | None:
    return next(iter(found), None)


def _axes_after(equation: Equation, axes: Places, before: Shape, after: Shape) -> Places | None:
    """The axes of a result, of those of its one operand; ``None`` where they are mixed."""
    name, params = equation.name, equation.params
    if name == "transpose":
        return tuple(axes[axis] for axis in params["permutation"])
    if name == "broadcast_in_dim":
        places = dict(zip(params["broadcast_dimensions"], axes, strict=True))
        return tuple(places.get(axis) for axis in range(len(after)))
    if name in ("squeeze", "expand_dims", "reshape"):
        if [n for n in before if n != 1] != [n for n in after if n != 1]:
            return None
        rest = iter([place for place, n in zip(axes, before, strict=True) if n != 1])
        return tuple(None if n == 1 else next(rest) for n in after)
    if name.startswith("reduce_") and "axes" in params:
        return tuple(place for axis, place in enumerate(axes) if axis not in params["axes"])
    return axes if name in _MOVING else None


def _inside(params: Mapping[str, Any]) -> Iterator[str]:
    """The primitives in the body of a loop, a branch or a call."""
    for parameter in params.values():
        for body in parameter if isinstance(parameter, (tuple, list)) else [parameter]:
            for step in getattr(getattr(body, "jaxpr", body), "eqns", ()):
                yield step.primitive.name
                yield from _inside(step.params)


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
    return None if rows else "its gather does not take whole rows, as table[ids] does"


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
    """What the axes of a kernel's leaf are; ``None`` where they are merged, split or mixed."""
    equation, places = model.equations[use.equation], use.view.axes
    if places is None:
        return None
    if use.kind == "conv":
        spec = equation.params["dimension_numbers"].rhs_spec
        inputs, outputs = [spec[1]], [spec[0]]
    elif use.kind == "embedding":
        inputs, outputs = [0], list(range(1, len(places)))
    else:
        contracted, batched = (side[use.operand] for side in equation.params["dimension_numbers"])
        inputs = list(contracted)
        outputs = [axis for axis in range(len(places)) if axis not in (*contracted, *batched)]
    named = ({places[axis] for axis in side} - {None} for side in (inputs, outputs))
    return Axes(*(tuple(sorted(side)) for side in named))


class Part(NamedTuple):
    """What a slice or a split takes of an array: positions along one axis, from first to last."""

    axis: int
    first: int
    last: int


def _part(model: Equations, value: int) -> Part | None:
    """The part of its operand that a value is; ``None`` where it is no part along one axis."""
    equation = model.maker[value]
    (whole, *_), params = map(model.shape, equation.inputs), equation.params
    if equation.name == "split":
        ends = list(itertools.accumulate(params["sizes"]))
        last = ends[equation.outputs.index(value)]
        return Part(params["axis"], last - model.shape(value)[params["axis"]], last)
    if equation.name == "slice":
        ranges = enumerate(zip(params["start_indices"], params["limit_indices"], strict=True))
        cut = [Part(axis, *ends) for axis, ends in ranges if ends != (0, whole[axis])]
        return cut[0] if len(cut) == 1 else None
    return None


def apart(
    model: Equations, uses: Sequence[Use], depth: int = 0
) -> list[tuple[int, tuple[Use, ...]]]:
    """Groups of uses of one leaf that share no entries.

    Returns:
      For each group the last value that holds all the entries it uses, and its uses.
    """
    last = [use.view.moves[depth] for use in uses]
    if len(uses) == 1:
        return [(uses[0].view.moves[-1], tuple(uses))]
    following = [(*use.view.moves, None)[depth + 1] for use in uses]
    if len(set(following)) == 1 and None not in following:
        return apart(model, uses, depth + 1)
    parts = [None if value is None else _part(model, value) for value in following]
    bounds = sorted({part for part in parts if part is not None})
    overlap = any(a.axis != b.axis or a.last > b.first for a, b in itertools.pairwise(bounds))
    if None in parts or overlap or len(bounds) == 1:
        return [(last[0], tuple(uses))]
    groups = [
        [use for use, part in zip(uses, parts, strict=True) if part == bound] for bound in bounds
    ]
    return [pair for group in groups for pair in apart(model, group, depth)]


def stack(model: Equations, uses: Sequence[Use]) -> int | None:
    """The axis of a leaf along which it holds layers, one at each position; ``None`` for none."""
    firsts = {_part(model, use.view.moves[1]) if use.view.moves[1:] else None for use in uses}
    single = {part and part.last == part.first + 1 and part.axis for part in firsts}
    used = set().union(*(use.view.axes or [*single] for use in uses))
    return single.pop() if len(single) == 1 < len(firsts) and single.isdisjoint(used) else None

"""How the examples lie on their axis, in the result of one equation."""

import math
from typing import NamedTuple

from pruning_jax.tracing.flattening import Equation


class BatchAxis(NamedTuple):
    """Where the examples are in an array: `axis` has the size before x examples x after."""

    axis: int
    before: int = 1
    after: int = 1


class Step(NamedTuple):
    """One equation, and what is known of its arrays when one of its results is settled.

    Attributes:
      equation: the equation.
      value: the result.
      found: the axis that grew, its repeats as `after`; ``None`` before it is known.
      operands: the operands that depend on the inputs.
      batch: value -> where the examples are, of all values before.
      avals: the shape and dtype of every value.
    """

    equation: Equation
    value: int
    found: BatchAxis | None
    operands: list[int]
    batch: dict[int, BatchAxis]
    avals: list

    @property
    def source(self) -> BatchAxis:
        return self.batch[self.operands[0]]

    @property
    def repeats(self) -> int:
        return self.found.after

    def shape(self, value: int) -> tuple[int, ...]:
        return self.avals[value].shape


def _reshape(step: Step) -> BatchAxis | None:
    shape, (axis, _, repeats) = step.shape(step.operands[0]), step.found
    stride = step.source.after * math.prod(shape[step.source.axis + 1 :])
    tail = math.prod(step.shape(step.value)[axis + 1 :])
    if not tail:
        return step.found
    after, rest = divmod(stride, tail)
    if rest or not after or repeats % after:
        return None
    return BatchAxis(axis, repeats // after, after)


def _alike(step: Step) -> BatchAxis | None:
    """The layout of the operands that have as many rows of every example."""
    layouts = {step.batch[value][1:] for value in step.operands}
    alike = [(before, after) for before, after in layouts if before * after == step.repeats]
    if len(alike) != 1:
        return None
    return BatchAxis(step.found.axis, *alike[0])


def _concatenate(step: Step) -> BatchAxis | None:
    axis = step.found.axis
    if step.equation.params["dimension"] != axis:
        return _alike(step)
    afters = {step.batch[value].after for value in step.operands}
    layouts = [step.batch.get(value) for value in step.equation.inputs]
    if len(afters) > 1 or None in layouts or any(layout.axis != axis for layout in layouts):
        return None
    after = afters.pop()
    befores = [layout.before * layout.after / after for layout in layouts]
    return BatchAxis(axis, int(sum(befores)), after) if sum(befores) % 1 == 0 else None


def _tile(step: Step) -> BatchAxis:
    axis, before, after = step.source
    return BatchAxis(axis, before * step.equation.params["reps"][axis], after)


def _part(step: Step, start: int, limit: int, stride: int) -> BatchAxis | None:
    """Where the examples are in a slice along their axis: whole blocks, or a part of each."""
    axis, before, after = step.source
    size = step.shape(step.operands[0])[axis]
    block = size // before
    if stride == 1 and start % block == 0 and limit % block == 0:
        return BatchAxis(axis, (limit - start) // block, after)
    if after % stride == 0 and start < stride and limit > size - stride + start:
        return BatchAxis(axis, before, after // stride)
    return None


def _slice(step: Step) -> BatchAxis | None:
    params, axis = step.equation.params, step.source.axis
    strides = params["strides"] or [1] * len(params["start_indices"])
    return _part(step, params["start_indices"][axis], params["limit_indices"][axis], strides[axis])


def _split(step: Step) -> BatchAxis | None:
    params = step.equation.params
    if params["axis"] != step.source.axis:
        return _alike(step)
    position = step.equation.outputs.index(step.value)
    start = sum(params["sizes"][:position])
    return _part(step, start, start + params["sizes"][position], 1)


LAYOUTS = {
    "reshape": _reshape,
    "concatenate": _concatenate,
    "tile": _tile,
    "slice": _slice,
    "split": _split,
}
"""Primitives that can change how many rows an example has, and the layout of their result."""


def settle(step: Step) -> BatchAxis:
    """The layout of a result. Raises ValueError where the primitive gives none."""
    name = step.equation.name
    layout = LAYOUTS.get(name, _alike)(step)
    opaque = name in ("scan", "while", "cond") and step.repeats > 1
    if layout is not None and not opaque and layout.before * layout.after == step.repeats:
        return layout
    rows = max(math.prod(step.batch[value][1:]) for value in step.operands)
    raise ValueError(
        f"{name} mixes examples or repeats them in a way that is not understood: from {rows} to "
        f"{step.repeats} rows of an example on one axis, with a result of shape "
        f"{step.shape(step.value)}; keep the repeats on an axis of their own"
    )


def settle_constant(step: Step) -> BatchAxis:
    """The same for an array that does not depend on the inputs; its layout matters less."""
    operands = [value for value in step.equation.inputs if value in step.batch]
    if step.repeats > 1 and step.equation.name == "reshape" and operands:
        return _reshape(step._replace(operands=operands)) or step.found
    return _alike(step._replace(operands=operands)) or step.found

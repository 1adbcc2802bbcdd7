"""The layers of a model, read off the equations of its function."""

import math
from typing import NamedTuple

from pruning_jax.tracing import equations, provenance
from pruning_jax.tracing.equations import Equations
from pruning_jax.tracing.provenance import Reading, Use
from pruning_jax.types import ApplyFn, Params, PyTree


class Layer(NamedTuple):
    """A parametrised linear layer; several uses of one kernel are one layer.

    Attributes:
      name: the kernel's path without its last part where that is unique, else the path.
      kind: `dense`, `conv` or `embedding`.
      kernel: the kernel's path.
      bias: the path of the leaf added to the layer's output, if any.
      kernel_shape: of the leaf.
      parameters: entries of the kernel and the bias.
      macs: multiply-accumulates an example, dense.
      uses: where the kernel enters.
      bias_uses: where the bias enters.
    """

    name: str
    kind: str
    kernel: str
    bias: str | None
    kernel_shape: tuple[int, ...]
    parameters: int
    macs: int
    uses: tuple[Use, ...]
    bias_uses: tuple[Use, ...]


class Trace(NamedTuple):
    """The layers of a model.

    Attributes:
      layers: in the order in which the model runs them.
      unsupported: (leaf, reason) of every kernel that could not be read.
      model: the equations they were read from.
    """

    layers: tuple[Layer, ...]
    unsupported: tuple[tuple[str, str], ...]
    model: Equations

    @property
    def kernels(self) -> tuple[str, ...]:
        """The paths of the prunable leaves."""
        return tuple(layer.kernel for layer in self.layers)

    def __str__(self) -> str:
        head = ("layer", "kind", "kernel", "parameters", "MACs")
        rows = [
            (layer.name, layer.kind, "x".join(map(str, layer.kernel_shape)),
             f"{layer.parameters:,}", f"{layer.macs:,}")
            for layer in self.layers
        ]  # fmt: skip
        totals = [sum(getattr(layer, of) for layer in self.layers) for of in ("parameters", "macs")]
        rows = [head, *rows, ("total of these layers", "", "", *(f"{total:,}" for total in totals))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = [
            "  ".join(
                cell.rjust(width) if column > 2 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join(
            lines + [f"not supported: {leaf}: {why}" for leaf, why in self.unsupported]
        )


def _macs(model: Equations, use: Use) -> int:
    """Multiply-accumulates of one use, for one example: output entries x entries each sums.

    A transposed convolution is counted from its inputs: each is multiplied with the whole kernel.
    """
    equation = model.equations[use.equation]
    shape = model.avals[equation.inputs[use.operand]].shape
    outputs = math.prod(model.avals[equation.outputs[0]].shape) // model.examples
    if use.kind == "embedding":
        return 0
    if use.kind == "conv":
        lhs = equation.params["dimension_numbers"].lhs_spec
        if max(equation.params["lhs_dilation"]) > 1:
            data = model.avals[equation.inputs[0]].shape
            written = math.prod(data) // data[lhs[1]] // model.examples
            return written * math.prod(shape)
        return outputs * math.prod(shape) // provenance.units(model, use)
    contracted = equation.params["dimension_numbers"][0][use.operand]
    return outputs * math.prod(shape[axis] for axis in contracted)


def _layer_name(kernel: str) -> str:
    parts = kernel.split("/")
    if parts[-1] == "value" and len(parts) > 1:
        parts.pop()
    return "/".join(parts[:-1]) or kernel or "kernel"


def _reasons(reading: Reading) -> dict[str, str]:
    """Why each kernel that cannot be read cannot."""
    reasons = dict(reading.reasons)
    for leaf in reading.uses:
        if leaf in reading.elsewhere:
            reasons.setdefault(leaf, reading.elsewhere[leaf])
        if leaf in reading.bias_uses:
            reasons.setdefault(leaf, "it is also added as a bias")
    return reasons


def _bias(reading: Reading, kernel: str, reasons: dict[str, str]) -> str | None:
    found = reading.bias_of.get(kernel, set()) - reading.elsewhere.keys() - reasons.keys()
    found -= reading.uses.keys()
    return found.pop() if len(found) == 1 else None


def trace(
    apply_fn: ApplyFn, variables: Params, inputs: PyTree, *, examples: int | None = None
) -> Trace:
    """Finds the parametrised linear layers of a model from its jaxpr.

    A layer is a `dot_general`, `conv_general_dilated` or `gather` of data with a kernel that
    comes from one leaf of the variables by reshaping, transposing, casting, repeating, slicing or
    scaling; its bias is the leaf added to its output.

    Args:
      apply_fn: the model, in evaluation mode.
      variables: its variables: arrays or their shapes.
      inputs: arrays or their shapes, (examples, ...).
      examples: the number of them to read the equations at, to evaluate these; when ``None``, a
        small number that is neither theirs nor divides any size of the model's. The layers are
        the same for every number.

    Returns:
      The layers, and by name the kernels that could not be read.

    Raises:
      ValueError: the model has no layers, mixes examples, does not have its examples on axis 0, or
        does not return logits of shape (examples, outputs).
    """
    examples = equations.telling(variables, inputs) if examples is None else examples
    model = equations.read(apply_fn, variables, inputs, examples)
    reading = provenance.read_leaves(model)
    reasons = _reasons(reading)
    kernels = [leaf for leaf in reading.uses if leaf not in reasons]
    names = [_layer_name(kernel) for kernel in kernels]
    layers = []
    for kernel, name in zip(kernels, names, strict=True):
        uses, bias = tuple(reading.uses[kernel]), _bias(reading, kernel, reasons)
        shape = model.avals[model.leaves[kernel]].shape
        extra = math.prod(model.avals[model.leaves[bias]].shape) if bias is not None else 0
        layers.append(
            Layer(
                name=name if names.count(name) == 1 else kernel,
                kind=uses[0].kind,
                kernel=kernel,
                bias=bias,
                kernel_shape=shape,
                parameters=math.prod(shape) + extra,
                macs=sum(_macs(model, use) for use in uses),
                uses=uses,
                bias_uses=tuple(reading.bias_uses[bias]) if bias is not None else (),
            )
        )
    if not layers:
        listed = "; ".join(f"{leaf}: {why}" for leaf, why in reasons.items())
        raise ValueError(
            "apply_fn has no layers: no leaf of the variables is the kernel of a dot_general, "
            f"conv_general_dilated or gather with the inputs{'; not supported: ' * bool(listed)}"
            f"{listed}"
        )
    return Trace(tuple(layers), tuple(reasons.items()), model)

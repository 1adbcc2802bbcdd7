"""The layers of a model, read off the equations of its function."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax import tables, trees
from pruning_jax.tracing import equations, layers, products
from pruning_jax.tracing.equations import Equations
from pruning_jax.tracing.layers import Axes, Use, Uses
from pruning_jax.types import ApplyFn, Params, PyTree


class Layer(NamedTuple):
    """A parametrised linear layer; several uses of one kernel are one layer.

    Attributes:
      name: the kernel's path without its last part where that is unique, else the path.
      kind: `dense`, `conv` or `embedding`.
      kernel: the kernel's path.
      bias: the path of the leaf added to the layer's output, if any.
      kernel_shape: of the leaf.
      axes: which axes of the leaf are inputs and which are outputs; ``None`` where that cannot be
        said, or differs from use to use.
      stack: the axis along which the leaf holds layers of its own, as a scan over layers takes
        them one by one; ``None`` where it is one layer.
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
    axes: Axes | None
    stack: int | None
    parameters: int
    macs: int
    uses: tuple[Use, ...]
    bias_uses: tuple[Use, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """The layers of a model, and the equations that they were read from.

    Equal only to itself, so that it can be the key of a cache and a static argument of ``jit``.

    Attributes:
      layers: in the order in which the model runs them.
      unsupported: (leaf, reason) of every kernel that could not be read.
      other_macs: number of an equation -> its multiply-accumulates an example, of those that are
        of no layer: products of activations with one another, with constants, with kernels that
        could not be read; loops and branches.
      uncounted: the primitives whose work could not be counted, as a while loop's.
      model: the equations.
      apply_fn: the function that was traced.
    """

    layers: tuple[Layer, ...]
    unsupported: tuple[tuple[str, str], ...]
    other_macs: dict[int, int]
    uncounted: tuple[str, ...]
    model: Equations
    apply_fn: ApplyFn

    @property
    def kernels(self) -> tuple[str, ...]:
        """The paths of the prunable leaves."""
        return tuple(layer.kernel for layer in self.layers)

    def __str__(self) -> str:
        head = ("layer", "kind", "kernel", "parameters", "MACs")
        rows = [
            (layer.name, layer.kind, _shape(layer), f"{layer.parameters:,}", f"{layer.macs:,}")
            for layer in self.layers
        ]
        parameters = sum(layer.parameters for layer in self.layers)
        macs = sum(layer.macs for layer in self.layers)
        rows = [head, *rows, ("total of these layers", "", "", f"{parameters:,}", f"{macs:,}")]
        if self.other_macs:
            rows.append(("other products", "", "", "", f"{sum(self.other_macs.values()):,}"))
        notes = [f"not counted: the work of {name}" for name in self.uncounted]
        notes += [f"not supported: {leaf}: {why}" for leaf, why in self.unsupported]
        lines = tables.table(rows, right=(3, 4))
        return "\n".join([*lines, *(line for note in notes for line in tables.wrap(note))])


def trace(
    apply_fn: ApplyFn,
    variables: Params,
    inputs: PyTree,
    *,
    select: Callable[[PyTree], PyTree] | None = None,
) -> Trace:
    """Finds the parametrised linear layers of a model from the equations of one example.

    A layer is a `dot_general`, `conv_general_dilated` or `gather` of data with a kernel, which may
    be any function of leaves of the variables; its bias is the leaf added to its output. A scan
    is read step by step: layers that it takes from one leaf are one layer, with uses at each step.
    That a batch's examples do not mix is for `check` to see, on the first batch that the trace is
    used with.

    Args:
      apply_fn: the model, in evaluation mode.
      variables: its variables: arrays or their shapes.
      inputs: any tree of arrays or their shapes, (examples, ...); only one example is read.
      select: from what the model returns to what is meant, as the logits of several outputs.

    Returns:
      The layers, and by name the kernels that could not be read.

    Raises:
      ValueError: the model has no layers, does not accept one example on axis 0 of its inputs, has
        variables that are no arrays, or makes an array without entries; inputs without examples or
        with different numbers of them; `select` is no function or finds nothing.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.ones((3, 2))}
    >>> layers = pj.trace(model, variables, jnp.ones((4, 1)))
    >>> [(layer.name, layer.kernel_shape, layer.macs) for layer in layers.layers]
    [('w', (1, 3), 3), ('out', (3, 2), 6)]
    """
    _check_arrays(variables)
    if not (select is None or callable(select)):
        raise ValueError(
            f"select is {select!r}; it must be a function of what the model returns, as "
            "lambda outputs: outputs['logits']"
        )
    function = apply_fn if select is None else _selected(apply_fn, select)
    return trace_of(equations.read_one(function, variables, inputs), function)


def _selected(apply_fn: ApplyFn, select: Callable[[PyTree], PyTree]) -> ApplyFn:
    def function(variables: Params, inputs: PyTree) -> PyTree:
        outputs = apply_fn(variables, inputs)
        shapes = jax.tree.map(jnp.shape, outputs)
        try:
            selected = select(outputs)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise ValueError(
                f"select failed for outputs of shapes {shapes}: {type(error).__name__}: {error}"
            ) from error
        leaves = jax.tree.leaves(selected)
        if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
            raise ValueError(
                f"select returned {selected!r} and no arrays; the model's outputs have shapes "
                f"{shapes}"
            )
        return selected

    return function


def trace_of(model: Equations, function: Callable) -> Trace:
    """Finds the layers in equations that were read of a function; raises as `trace`."""
    uses = Uses(model)
    if states := uses.states():
        model = dataclasses.replace(model, states=states)
        uses = Uses(model)
    kernels = [leaf for leaf in uses.uses if leaf not in uses.reasons]
    if not kernels:
        listed = "; ".join(f"{leaf}: {why}" for leaf, why in uses.reasons.items())
        raise ValueError(
            "the model has no layers: no leaf of the variables is the kernel of a dot_general, "
            f"conv_general_dilated or gather with the inputs{'; not supported: ' * bool(listed)}"
            f"{listed}"
        )
    names = [_layer_name(kernel) for kernel in kernels]
    every = tuple(
        _layer(model, uses, kernel, name if names.count(name) == 1 else kernel)
        for kernel, name in zip(kernels, names, strict=True)
    )
    other, uncounted = _other_macs(model, {use.equation for layer in every for use in layer.uses})
    return Trace(every, tuple(uses.reasons.items()), other, uncounted, model, function)


def trace_in(model: Any) -> Trace | None:
    """The trace that a model is or has; ``None`` of a function.

    Raises:
      ValueError: it is neither.
    """
    trace = getattr(model, "trace", model)
    if isinstance(trace, Trace):
        return trace
    if not callable(model):
        raise ValueError(
            f"a model is a function, a Trace or a UnitGraph, not {type(model).__name__}"
        )
    return None


def traced(model: Any, variables: Params, inputs: PyTree) -> Trace:
    """The trace of a model: its own, that of its graph, or a bare function's, read now.

    Args:
      model: a `Trace`, what has one as its `trace` (a `units.UnitGraph`), or a function, which is
        read once for all calls with the same shapes.
      variables, inputs: as in `trace`.

    Raises:
      ValueError: as `trace`.
    """
    known = trace_in(model)
    if known is not None:
        return known
    _check_arrays(variables)
    leaves, structure = jax.tree.flatten((variables, equations.one_example(inputs)))
    avals = tuple(jax.api_util.shaped_abstractify(leaf) for leaf in leaves)
    return _traced(model, structure, avals)


@functools.lru_cache(maxsize=64)
def _traced(apply_fn: ApplyFn, structure: Any, avals: tuple) -> Trace:
    return trace(apply_fn, *jax.tree.unflatten(structure, avals))


def _check_arrays(variables: Params) -> None:
    for name, leaf in trees.named_leaves(variables).items():
        if not hasattr(leaf, "dtype") and not isinstance(leaf, (bool, int, float, complex)):
            raise ValueError(
                f"the variables have a {type(leaf).__name__} at {name!r}; they must be arrays. "
                "Those of an Equinox module are eqx.partition(module, eqx.is_array)[0], to be "
                "combined with the rest inside the function"
            )


def _shape(layer: Layer) -> str:
    shape = [str(n) for axis, n in enumerate(layer.kernel_shape) if axis != layer.stack]
    times = "" if layer.stack is None else f"{layer.kernel_shape[layer.stack]} of "
    return times + "x".join(shape)


def _layer_name(kernel: str) -> str:
    parts = kernel.split("/")
    if parts[-1] == "value" and len(parts) > 1:
        parts.pop()
    return "/".join(parts[:-1]) or kernel or "kernel"


def _layer(model: Equations, uses: Uses, kernel: str, name: str) -> Layer:
    shape = model.shape(model.leaves[kernel])
    for use in uses.uses[kernel]:
        _check_entries(model, use, name)
    bias = uses.bias(kernel)
    entries = math.prod(model.shape(model.leaves[bias])) if bias is not None else 0
    axes = {layers.axes(model, use) for use in uses.uses[kernel]}
    return Layer(
        name=name,
        kind=uses.uses[kernel][0].kind,
        kernel=kernel,
        bias=bias,
        kernel_shape=shape,
        axes=axes.pop() if len(axes) == 1 else None,
        stack=layers.stack(model, uses.uses[kernel]),
        parameters=math.prod(shape) + entries,
        macs=sum(int(_macs(model, use.equation) * use.share) for use in uses.uses[kernel]),
        uses=tuple(uses.uses[kernel]),
        bias_uses=tuple(uses.bias_uses[bias]) if bias is not None else (),
    )


def _check_entries(model: Equations, use: Use, name: str) -> None:
    equation = model.equations[use.equation]
    shapes = [model.shape(value) for value in equation.inputs]
    if any(0 in shape for shape in shapes):
        raise ValueError(
            f"layer {name!r} meets an array without entries, in {equation.name} of {shapes[0]} and "
            f"{shapes[1]}; inputs of {[model.shape(v) for v in model.inputs]} are too small for a "
            "window or a pool before it"
        )


def _macs(model: Equations, number: int) -> int:
    equation = model.equations[number]
    shapes = [model.shape(value) for value in equation.inputs]
    return products.macs(equation.name, equation.params, shapes, model.shape(equation.outputs[0]))


def _other_macs(model: Equations, layered: set[int]) -> tuple[dict[int, int], tuple[str, ...]]:
    """The work outside of layers by equation, and the primitives whose work is not known."""
    work, uncounted = {}, []
    for number, equation in enumerate(model.equations):
        if number not in layered and not model.from_inputs.isdisjoint(equation.inputs):
            inside = products.inside(equation.name, equation.params)
            if inside is None:
                uncounted.append(equation.name)
            work[number] = _macs(model, number) + (inside or 0)
    return {number: macs for number, macs in work.items() if macs}, tuple(dict.fromkeys(uncounted))

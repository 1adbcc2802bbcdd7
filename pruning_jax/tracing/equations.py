"""A model function as one flat list of equations, and where its examples are in every array."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from pruning_jax import trees
from pruning_jax.tracing import flattening
from pruning_jax.tracing.flattening import Equation
from pruning_jax.types import ApplyFn, Array, Params, PyTree


class BatchAxis(NamedTuple):
    """Where the examples are in an array: `axis` has the size before x examples x after."""

    axis: int
    before: int = 1
    after: int = 1


class Equations(NamedTuple):
    """A model as a flat list of equations over numbered values.

    Attributes:
      equations: in order; those that the output does not need are left out.
      avals: the shape and dtype of every value.
      constants: the values known without variables and inputs.
      leaves: the name of every leaf of the variables -> its value.
      inputs: the values of the model's inputs.
      output: the value of the logits.
      from_inputs: the values that depend on the inputs.
      batch: value -> where the examples are in it; absent where it has none.
      examples: the number of examples of the inputs that were read.
    """

    equations: tuple[Equation, ...]
    avals: tuple[Any, ...]
    constants: dict[int, Any]
    leaves: dict[str, int]
    inputs: tuple[int, ...]
    output: int
    from_inputs: frozenset[int]
    batch: dict[int, BatchAxis]
    examples: int


def _scaled_axis(shape: tuple, doubled: tuple, examples: int) -> BatchAxis | None:
    """The axis that grew with the examples. Raises ValueError when more than one did."""
    axes = [axis for axis, (a, b) in enumerate(zip(shape, doubled, strict=True)) if a != b]
    if not axes:
        return None
    axis = axes[0]
    if len(axes) > 1 or doubled[axis] != 2 * shape[axis] or shape[axis] % examples:
        raise ValueError(f"an array of shape {shape} does not keep the examples on one axis")
    return BatchAxis(axis, 1, shape[axis] // examples)


def _batch_axes(
    equations: tuple[Equation, ...], found: dict[int, BatchAxis], avals: list
) -> dict[int, BatchAxis]:
    """Settles the order of examples and positions where a reshape merged them into one axis."""
    batch: dict[int, BatchAxis] = {}
    for equation in equations:
        for value in equation.inputs:
            if value in found and value not in batch:
                batch[value] = found[value]
        operands = [value for value in equation.inputs if value in batch]
        for value in equation.outputs:
            if value not in found:
                continue
            axis, _, repeats = found[value]
            if repeats > 1 and equation.name == "reshape" and operands:
                source, shape = batch[operands[0]], avals[operands[0]].shape
                stride = source.after * math.prod(shape[source.axis + 1 :])
                after = max(stride // math.prod(avals[value].shape[axis + 1 :]), 1)
                batch[value] = BatchAxis(axis, repeats // after, after)
            else:
                alike = [batch[o] for o in operands if batch[o].before * batch[o].after == repeats]
                source = alike[0] if alike else found[value]
                batch[value] = BatchAxis(axis, source.before, source.after)
    return batch


def _resized(inputs: PyTree, examples: int) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((examples, *x.shape[1:]), x.dtype), inputs)


def _follow_inputs(
    equations: tuple[Equation, ...], sources: tuple[int, ...], output: int, sizes: tuple
) -> tuple[frozenset[int], dict[int, BatchAxis]]:
    """The values that depend on the inputs, and the axis of the examples of every value."""
    once, twice, examples = sizes
    needed = {output}.union(*(equation.inputs for equation in equations))
    from_inputs, found = set(sources), dict.fromkeys(sources, BatchAxis(0))
    for equation in equations:
        is_data = not from_inputs.isdisjoint(equation.inputs)
        for value in needed.intersection(equation.outputs):
            axis = _scaled_axis(once[value].shape, twice[value].shape, examples)
            if axis is not None:
                found[value] = axis
            elif is_data:
                raise ValueError(
                    f"{equation.name} mixes examples: its result of shape {once[value].shape} "
                    "depends on all of them; apply_fn must be in evaluation mode, with the "
                    "examples on axis 0 of its inputs"
                )
            if is_data:
                from_inputs.add(value)
    return frozenset(from_inputs), found


def read(apply_fn: ApplyFn, variables: Params, inputs: PyTree) -> Equations:
    """Reads the model's equations from its jaxpr.

    The model is traced at two numbers of examples; the axis that grows holds the examples.

    Args:
      apply_fn: the model, in evaluation mode.
      variables: its variables: arrays or their shapes.
      inputs: arrays or their shapes (examples, ...). One example is read as two.

    Raises:
      ValueError: the model does not accept another number of examples, mixes examples, or does
        not return logits of shape (examples, outputs).
    """
    variables = jax.tree.map(jax.api_util.shaped_abstractify, variables)
    examples = max(jax.tree.leaves(inputs)[0].shape[0], 2)
    flat, output = flattening.flatten(apply_fn, variables, _resized(inputs, examples))
    twice, _ = flattening.flatten(apply_fn, variables, _resized(inputs, 2 * examples))
    if [e[2:] for e in flat.equations] != [e[2:] for e in twice.equations]:
        raise ValueError("apply_fn runs other operations for another number of examples")
    equations = flattening.live(flat.equations, output)
    leaves = {name: number for number, name in enumerate(trees.named_leaves(variables))}
    sources = tuple(range(len(leaves), len(leaves) + len(jax.tree.leaves(inputs))))
    from_inputs, found = _follow_inputs(
        equations, sources, output, (flat.avals, twice.avals, examples)
    )
    if found.get(output) != BatchAxis(0):
        raise ValueError(
            f"apply_fn returned {flat.avals[output].shape} for {examples} examples; "
            "it must return logits (examples, outputs)"
        )
    batch = {value: BatchAxis(0) for value in sources}
    batch |= _batch_axes(equations, found, flat.avals)
    return Equations(
        equations,
        tuple(flat.avals),
        flat.constants,
        leaves,
        sources,
        output,
        from_inputs,
        batch,
        examples,
    )


def bind(equation: Equation, operands: list, **changed: Any) -> list:
    """Applies one equation to arrays; returns its results."""
    params = equation.primitive.get_bind_params({**equation.params, **changed})
    results = equation.primitive.bind(*operands, **params)
    return list(results) if equation.primitive.multiple_results else [results]


def evaluate(
    model: Equations,
    variables: Params,
    inputs: PyTree,
    taps: Mapping[int, Array] | None = None,
    keep: Callable[[int], bool] = lambda value: False,
) -> tuple[Array, dict[int, Array]]:
    """Runs the equations.

    Args:
      model: what `read` returned.
      variables, inputs: of the shapes that were read.
      taps: value -> an array added to it: zeros, to differentiate with respect to.
      keep: which values to return.

    Returns:
      The logits (examples, outputs), and the kept values by number.
    """
    taps = taps or {}
    arrays = dict(model.constants)
    arrays |= enumerate([*jax.tree.leaves(variables), *jax.tree.leaves(inputs)])
    for equation in model.equations:
        results = bind(equation, [arrays[value] for value in equation.inputs])
        for value, result in zip(equation.outputs, results, strict=True):
            arrays[value] = result + taps[value] if value in taps else result
    return arrays[model.output], {value: arrays[value] for value in arrays if keep(value)}

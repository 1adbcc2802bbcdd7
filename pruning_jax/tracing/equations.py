"""A model function as one flat list of equations, and where its examples are in every array."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from pruning_jax import trees
from pruning_jax.tracing import batching, flattening, growth
from pruning_jax.tracing.flattening import Equation
from pruning_jax.tracing.layouts import BatchAxis
from pruning_jax.types import ApplyFn, Array, Params, PyTree


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


def _resized(inputs: PyTree, examples: int) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((examples, *x.shape[1:]), x.dtype), inputs)


def telling(variables: Params, inputs: PyTree) -> int:
    """A number of examples at which one reading tells their axis; it divides no size here."""
    shapes = [getattr(leaf, "shape", ()) for leaf in jax.tree.leaves((variables, inputs))]
    return growth.telling({size for shape in shapes for size in shape})


def read(
    apply_fn: ApplyFn, variables: Params, inputs: PyTree, examples: int | None = None
) -> Equations:
    """Reads the model's equations from its jaxpr.

    Where the examples are follows from the rules of the primitives. Where these leave it open, the
    model is traced again at twice as many examples, and the axis that grows holds them.

    Args:
      apply_fn: the model, in evaluation mode.
      variables: its variables: arrays or their shapes.
      inputs: arrays or their shapes (examples, ...).
      examples: how many to read at, 2 or more; as many as the inputs have when ``None``, and two
        for one.

    Raises:
      ValueError: the model does not accept another number of examples, mixes examples, or does
        not return logits of shape (examples, outputs).
    """
    variables = jax.tree.map(jax.api_util.shaped_abstractify, variables)
    examples = max(jax.tree.leaves(inputs)[0].shape[0], 2) if examples is None else examples
    if examples < 2:
        raise ValueError(f"examples is {examples}; a model is read at 2 examples or more")
    flat, output = flattening.flatten(apply_fn, variables, _resized(inputs, examples))
    equations = flattening.live(flat.equations, output)
    leaves = {name: number for number, name in enumerate(trees.named_leaves(variables))}
    sources = tuple(range(len(leaves), len(leaves) + len(jax.tree.leaves(inputs))))
    start = dict.fromkeys(sources, BatchAxis(0))
    try:
        from_inputs, batch = batching.Graph(flat, examples).follow(equations, start, (output,))
    except ValueError:
        twice, _ = flattening.flatten(apply_fn, variables, _resized(inputs, 2 * examples))
        if [e[2:] for e in flat.equations] != [e[2:] for e in twice.equations]:
            raise ValueError(
                "apply_fn runs other operations for another number of examples"
            ) from None
        graph = batching.Graph(flat, examples, twice)
        from_inputs, batch = graph.follow(equations, start, (output,))
    if batch.get(output) != BatchAxis(0):
        raise ValueError(
            f"apply_fn returned {flat.avals[output].shape} for {examples} examples; "
            "it must return logits (examples, outputs)"
        )
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

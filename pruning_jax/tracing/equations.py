"""One example's equations of a model: read once from its jaxpr, run by one interpreter."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from pruning_jax import trees
from pruning_jax.types import ApplyFn, Array, Params, PyTree

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


def _tiled(array: Array, *, reps: Sequence[int]) -> Array:
    shape = array.shape
    apart = array.reshape([size for n in shape for size in (1, n)])
    wide = [size for pair in zip(reps, shape, strict=True) for size in pair]
    whole = [n * times for n, times in zip(shape, reps, strict=True)]
    return jax.lax.broadcast_in_dim(apart, wide, range(len(wide))).reshape(whole)


def _stacked(*arrays: Array, axis: int) -> Array:
    return jax.lax.concatenate([jax.lax.expand_dims(array, [axis]) for array in arrays], axis)


_IN_OTHERS = {"tile": _tiled, "stack": _stacked}
"""Primitives read as others that do the same, so that rules are needed for those alone."""

Handler = Callable[["Equation", list[Array]], list[Array]]
"""(equation, its operands) -> its results."""


class Equation(NamedTuple):
    """One primitive applied; `inputs` and `outputs` are numbers of values."""

    primitive: Any
    params: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.primitive.name


@dataclasses.dataclass(frozen=True, eq=False)
class Equations:
    """A model on one example, as a flat list of equations over numbered values.

    Equal only to itself, so that it can be the key of a cache and a static argument of ``jit``.

    Attributes:
      equations: in order; those that the outputs do not need are left out.
      avals: the shape and dtype of every value, of one example: an input is (1, ...).
      constants: the values known without variables and inputs.
      leaves: the name of every leaf of the variables -> its value.
      inputs: the values of the model's inputs.
      input_structure: the tree that they are the leaves of.
      outputs: the values of what it returns.
      structure: the tree that they are the leaves of.
      from_inputs: the values that depend on the inputs.
    """

    equations: tuple[Equation, ...]
    avals: tuple[Any, ...]
    constants: dict[int, Any]
    leaves: dict[str, int]
    inputs: tuple[int, ...]
    input_structure: Any
    outputs: tuple[int, ...]
    structure: Any
    from_inputs: frozenset[int]

    def shape(self, value: int) -> tuple[int, ...]:
        """The shape of a value, of one example."""
        return self.avals[value].shape

    @property
    def logits(self) -> int:
        """The value of the logits, shape (1, outputs) or (1, ..., outputs), or (1,).

        Raises:
          ValueError: the model returns something else.
        """
        shapes = [self.shape(value) for value in self.outputs]
        if len(shapes) != 1 or shapes[0][:1] != (1,):
            raise ValueError(
                f"the model returns {shapes} for one example; it must return logits "
                "(examples, outputs) or (examples, ..., outputs), or numbers (examples,)"
            )
        return self.outputs[0]

    def known(self, variables: Params, inputs: PyTree | None = None) -> dict[int, Array]:
        """The values of the variables, and of one example of the inputs, each (1, ...)."""
        arrays = enumerate([*jax.tree.leaves(variables), *jax.tree.leaves(inputs)])
        return dict(arrays)


class _Flattening:
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
            if equation.primitive.name in _IN_OTHERS:
                same = functools.partial(_IN_OTHERS[equation.primitive.name], **equation.params)
                body = jax.make_jaxpr(same)(*(atom.aval for atom in equation.invars))
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


def read(function: Callable, *arguments: PyTree) -> Equations:
    """Reads the equations of a function from its jaxpr, at the shapes of its arguments.

    Args:
      function: of the variables and the inputs, and possibly more.
      arguments: arrays or their shapes: the variables, then what else it takes.

    Raises:
      ValueError: the function does not accept these arguments.
    """
    variables, *inputs = jax.tree.map(jax.api_util.shaped_abstractify, arguments)
    try:
        closed, results = jax.make_jaxpr(function, return_shape=True)(variables, *inputs)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        shapes = [leaf.shape for leaf in jax.tree.leaves(inputs)]
        raise ValueError(
            f"the model failed for inputs of shape {shapes}; it must accept any number of "
            f"examples on axis 0 of its inputs: {type(error).__name__}: {error}"
        ) from error
    flat = _Flattening()
    numbers = [flat.value(variable.aval) for variable in closed.jaxpr.invars]
    outputs = flat.read(closed.jaxpr, closed.consts, numbers)
    leaves = {name: number for number, name in enumerate(trees.named_leaves(variables))}
    needed = _needed(flat.equations, set(outputs), set())
    sources = tuple(numbers[len(leaves) :])
    from_inputs = set(sources)
    for equation in needed:
        if from_inputs.intersection(equation.inputs):
            from_inputs.update(equation.outputs)
    return Equations(
        equations=tuple(needed),
        avals=tuple(flat.avals),
        constants=flat.constants,
        leaves=leaves,
        inputs=sources,
        input_structure=jax.tree.structure(inputs[0] if len(inputs) == 1 else tuple(inputs)),
        outputs=tuple(outputs),
        structure=jax.tree.structure(results),
        from_inputs=frozenset(from_inputs),
    )


def read_one(apply_fn: ApplyFn, variables: Params, inputs: PyTree) -> Equations:
    """Reads the equations of a model on one example of its inputs.

    Raises:
      ValueError: inputs without an axis of examples; the model does not accept one example.
    """
    return read(apply_fn, variables, jax.tree.map(one_example, inputs))


def one_example(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape of one example of an input."""
    aval = jax.api_util.shaped_abstractify(leaf)
    if not aval.shape or not aval.shape[0]:
        raise ValueError(
            f"an input has shape {aval.shape}; every input has its examples on axis 0, one or more"
        )
    return jax.ShapeDtypeStruct((1, *aval.shape[1:]), aval.dtype)


def _needed(equations: Iterable[Equation], wanted: set[int], known: set[int]) -> list[Equation]:
    """The equations that lead from known values to wanted ones, in order."""
    missing, kept = wanted - known, []
    for equation in reversed(equations):
        if missing.intersection(equation.outputs):
            missing.update(set(equation.inputs) - known)
            kept.append(equation)
    return kept[::-1]


def bind(equation: Equation, operands: list, **changed: Any) -> list:
    """Applies one equation to arrays; returns its results."""
    params = equation.primitive.get_bind_params({**equation.params, **changed})
    results = equation.primitive.bind(*operands, **params)
    return list(results) if equation.primitive.multiple_results else [results]


def evaluate(
    model: Equations,
    known: Mapping[int, Array],
    wanted: Iterable[int],
    edit: Callable[[int, Array], Array] = lambda value, array: array,
    at: Mapping[int, Handler] | None = None,
) -> dict[int, Array]:
    """Runs the equations that lead from known values to wanted ones.

    Args:
      model: the equations.
      known: value -> its array: variables and inputs, or a cut in the middle; the constants are
        known without.
      wanted: the values to return.
      edit: (value, array) -> what stands in its place, of every result: taps, gates, clamps.
      at: result of an equation -> what is called with the equation and its operands, and returns
        its results, in place of the primitive.

    Returns:
      value -> its array, of those wanted.
    """
    wanted, at = set(wanted), at or {}
    arrays = {**model.constants, **known}
    for equation in _needed(model.equations, wanted, set(arrays)):
        operands = [arrays[value] for value in equation.inputs]
        handler = at.get(equation.outputs[0], bind)
        for value, result in zip(equation.outputs, handler(equation, operands), strict=True):
            arrays[value] = edit(value, result)
    return {value: arrays[value] for value in wanted}


def run(model: Equations, variables: Params, inputs: PyTree, **options: Any) -> PyTree:
    """What a model returns for arrays of the shapes that were read.

    Args:
      model: the equations.
      variables, inputs: of the shapes that were read.
      options: as in `evaluate`.
    """
    arrays = evaluate(model, model.known(variables, inputs), model.outputs, **options)
    return jax.tree.unflatten(model.structure, [arrays[value] for value in model.outputs])


def merged(stacked: PyTree) -> PyTree:
    """Arrays (examples, 1, ...), as `over_examples` stacks them, as (examples, ...)."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), stacked)


def over_examples(function: Callable[..., PyTree], *batched: PyTree) -> PyTree:
    """Maps a function of one example, whose arrays are (1, ...), over arrays (examples, ...)."""
    return jax.vmap(lambda *one: function(*jax.tree.map(lambda x: x[None], one)))(*batched)

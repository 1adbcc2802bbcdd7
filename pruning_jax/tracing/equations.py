"""One example's equations of a model: read once from its jaxpr, run by one interpreter."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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

UNROLLED = 10_000
"""The most equations that a scan is unrolled to; a longer one stays whole."""


def is_literal(atom: Any) -> bool:
    """Whether an operand in a jaxpr is a number written there; importing its class takes long."""
    return hasattr(atom, "val")


def _tiled(array: Array, *, reps: Sequence[int]) -> Array:
    shape = array.shape
    apart = array.reshape([size for n in shape for size in (1, n)])
    wide = [size for pair in zip(reps, shape, strict=True) for size in pair]
    whole = [n * times for n, times in zip(shape, reps, strict=True)]
    return jax.lax.broadcast_in_dim(apart, wide, range(len(wide))).reshape(whole)


def _stacked(*arrays: Array, axis: int) -> Array:
    return jax.lax.concatenate([jax.lax.expand_dims(array, [axis]) for array in arrays], axis)


def _unstacked(array: Array, *, axis: int) -> list[Array]:
    parts = jax.lax.split(array, (1,) * array.shape[axis], axis)
    return [jax.lax.squeeze(part, [axis]) for part in parts]


_IN_OTHERS = {"tile": _tiled, "stack": _stacked, "unstack": _unstacked}
"""Primitives read as others that do the same, so that rules are needed for those alone."""


@functools.lru_cache(maxsize=256)
def _in_others(function: Callable, avals: tuple, **params: Any) -> Any:
    return jax.make_jaxpr(functools.partial(function, **params))(*avals)


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
      states: values that stand for data though they do not depend on the inputs, as the first
        state of a recurrent layer.
    """

    equations: tuple[Equation, ...]
    avals: tuple[Any, ...]
    constants: dict[int, Any]
    leaves: dict[str, int]
    inputs: tuple[int, ...]
    input_structure: Any
    outputs: tuple[int, ...]
    structure: Any
    states: frozenset[int]

    @functools.cached_property
    def from_inputs(self) -> frozenset[int]:
        """The values that depend on the inputs, or on states."""
        found = {*self.inputs, *self.states}
        for equation in self.equations:
            if found.intersection(equation.inputs):
                found.update(equation.outputs)
        return frozenset(found)

    def shape(self, value: int) -> tuple[int, ...]:
        """The shape of a value, of one example."""
        return self.avals[value].shape

    @functools.cached_property
    def maker(self) -> dict[int, Equation]:
        """The equation of every result."""
        return {value: equation for equation in self.equations for value in equation.outputs}

    @property
    def logits(self) -> int:
        """The value of the logits, shape (1, outputs) or (1, ..., outputs), or (1,).

        Raises:
          ValueError: the model returns something else.
        """
        shapes = [self.shape(value) for value in self.outputs]
        if len(shapes) != 1 or shapes[0][:1] != (1,):
            tree = jax.tree.unflatten(self.structure, shapes)
            raise ValueError(
                f"the model returns {tree} for one example; it must return logits (examples, "
                "outputs) or (examples, ..., outputs), or numbers (examples,). Of several outputs, "
                "choose them: tracing.trace(apply_fn, variables, inputs, select=lambda outputs: "
                "outputs[...])"
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
        self.makers: dict[int, int] = {}

    def value(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def constant(self, aval: Any, array: Any) -> int:
        number = self.value(aval)
        self.constants[number] = array
        return number

    def read(self, jaxpr: Any, consts: Sequence, arguments: Sequence[int]) -> list[int]:
        """Appends the equations of `jaxpr`; returns the numbers of its results."""
        numbers = dict(zip(jaxpr.invars, arguments, strict=True))
        for variable, array in zip(jaxpr.constvars, consts, strict=True):
            numbers[variable] = self.constant(variable.aval, array)

        def look_up(atom: Any) -> int:
            if is_literal(atom):
                return self.constant(atom.aval, atom.val)
            return numbers[atom]

        for equation in jaxpr.eqns:
            inputs = [look_up(atom) for atom in equation.invars]
            outputs = self._in_others(equation, inputs)
            if outputs is None:
                avals = [variable.aval for variable in equation.outvars]
                outputs = self._append(equation.primitive, equation.params, inputs, avals)
            numbers.update(zip(equation.outvars, outputs, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

    def _append(self, primitive: Any, params: Mapping, inputs: list, avals: list) -> list[int]:
        outputs = [self.value(aval) for aval in avals]
        self.makers.update(dict.fromkeys(outputs, len(self.equations)))
        self.equations.append(Equation(primitive, params, tuple(inputs), tuple(outputs)))
        return outputs

    def _in_others(self, equation: Any, inputs: list[int]) -> list[int] | None:
        """Reads an equation as others that do the same; ``None`` where it stays as it is."""
        name, params = equation.primitive.name, equation.params
        if name == "optimization_barrier":
            return inputs
        if name in INLINED:
            return self._read_body(params[INLINED[name]], inputs)
        if name in _IN_OTHERS:
            return self._read_as(_IN_OTHERS[name], inputs, **params)
        if name == "scan" and 0 < _equations(equation) <= UNROLLED:
            return self._unroll(equation, inputs)
        if name == "cond" and (index := self.known(inputs[0])) is not None:
            branch = params["branches"][np.clip(index, 0, len(params["branches"]) - 1)]
            return self._read_body(branch, inputs[1:])
        if name == "dynamic_slice":
            starts = [self.known(value) for value in inputs[1:]]
            if None not in starts:
                whole, sizes = self.avals[inputs[0]].shape, params["slice_sizes"]
                ends = np.clip(starts, 0, np.subtract(whole, sizes))
                return self._read_as(_sliced, inputs[:1], starts=tuple(ends.tolist()), sizes=sizes)
        return None

    def _read_body(self, body: Any, inputs: Sequence[int]) -> list[int]:
        return self.read(getattr(body, "jaxpr", body), getattr(body, "consts", []), inputs)

    def _read_as(self, function: Callable, inputs: Sequence[int], **params: Any) -> list[int]:
        avals = tuple(self.avals[value] for value in inputs)
        return self._read_body(_in_others(function, avals, **params), inputs)

    def _unroll(self, equation: Any, inputs: list[int]) -> list[int]:
        """Reads a scan step by step: what it goes over is unstacked, what it collects stacked."""
        body, length = equation.params["jaxpr"], equation.params["length"]
        stacked = [
            len(self.avals[value].shape) > len(inner.shape)
            for value, inner in zip(inputs, body.in_avals, strict=True)
        ]
        over = sum(stacked)
        collected = sum(
            len(variable.aval.shape) > len(inner.shape)
            for variable, inner in zip(equation.outvars, body.out_avals, strict=True)
        )
        carried = len(equation.outvars) - collected
        first = len(inputs) - over - carried
        constants, carry = inputs[:first], inputs[first : len(inputs) - over]
        parts = [self._read_as(_unstacked, [v], axis=0) for v in inputs[len(inputs) - over :]]
        results: list[list[int]] = [[] for _ in range(length)]
        steps = range(length)
        for step in reversed(steps) if equation.params["reverse"] else steps:
            found = self._read_body(body, [*constants, *carry, *(part[step] for part in parts)])
            carry, results[step] = found[:carried], found[carried:]
        return [
            *carry,
            *(self._read_as(_stacked, each, axis=0)[0] for each in zip(*results, strict=True)),
        ]

    def known(self, value: int) -> Any:
        """A value that follows from constants alone, which it becomes; ``None`` for another."""
        needed: set[int] = set()
        missing = [value]
        while missing:
            number = missing.pop()
            if number not in self.constants:
                if number not in self.makers:
                    return None
                if self.makers[number] not in needed:
                    needed.add(self.makers[number])
                    missing += self.equations[self.makers[number]].inputs
            elif isinstance(self.constants[number], jax.core.Tracer):
                return None
        with jax.ensure_compile_time_eval():
            for each in map(self.equations.__getitem__, sorted(needed)):
                operands = [
                    jnp.asarray(self.constants[v], self.avals[v].dtype) for v in each.inputs
                ]
                self.constants.update(zip(each.outputs, bind(each, operands), strict=True))
        return self.constants[value]


def _sliced(array: Array, *, starts: Sequence[int], sizes: Sequence[int]) -> list[Array]:
    return [jax.lax.slice(array, starts, np.add(starts, sizes))]


def _equations(equation: Any) -> int:
    """How many equations one is read as."""
    name, params = equation.primitive.name, equation.params
    body = params.get("jaxpr" if name == "scan" else INLINED.get(name))
    if body is None:
        return 1
    inside = sum(map(_equations, getattr(body, "jaxpr", body).eqns))
    return inside * params["length"] if name == "scan" else inside


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
            f"the model failed for inputs of shape {shapes}: {type(error).__name__}: {error} (it "
            "must accept any number of examples, on axis 0 of its inputs)"
        ) from error
    flat = _Flattening()
    numbers = [flat.value(variable.aval) for variable in closed.jaxpr.invars]
    outputs = flat.read(closed.jaxpr, closed.consts, numbers)
    leaves = {name: number for number, name in enumerate(trees.named_leaves(variables))}
    needed = _needed(flat.equations, set(outputs), set(flat.constants))
    sources = tuple(numbers[len(leaves) :])
    return Equations(
        equations=tuple(needed),
        avals=tuple(flat.avals),
        constants=flat.constants,
        leaves=leaves,
        inputs=sources,
        input_structure=jax.tree.structure(inputs[0] if len(inputs) == 1 else tuple(inputs)),
        outputs=tuple(outputs),
        structure=jax.tree.structure(results),
        states=frozenset(),
    )


def read_one(apply_fn: ApplyFn, variables: Params, inputs: PyTree) -> Equations:
    """Reads the equations of a model on one example of its inputs.

    Raises:
      ValueError: as `one_example`; the model does not accept one example.
    """
    return read(apply_fn, variables, one_example(inputs))


def one_example(inputs: PyTree) -> PyTree:
    """The shapes of one example of a model's inputs.

    Raises:
      ValueError: an input without an axis of examples, or with other numbers of them than the
        first; names it.
    """
    avals = jax.tree.map(jax.api_util.shaped_abstractify, inputs)
    named = trees.named_leaves(avals)
    for name, aval in named.items():
        if not aval.shape or not aval.shape[0]:
            raise ValueError(
                f"the input{name and f' {name!r}'} has shape {aval.shape}; every input has its "
                "examples on axis 0, one or more"
            )
        first, other = next(iter(named.items()))
        if aval.shape[0] != other.shape[0]:
            raise ValueError(
                f"the input {name!r} has {aval.shape[0]} examples and {first!r} has "
                f"{other.shape[0]}; give each example its own, by jnp.broadcast_to, or close over "
                "what all examples share"
            )
    return jax.tree.map(lambda aval: jax.ShapeDtypeStruct((1, *aval.shape[1:]), aval.dtype), avals)


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

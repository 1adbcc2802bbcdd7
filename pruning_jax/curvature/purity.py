"""Whether a model is a pure function, and still the one that was traced."""

import enum
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pruning_jax import trees
from pruning_jax.tracing import flattening
from pruning_jax.tracing.equations import Equations
from pruning_jax.tracing.flattening import Equation, Flattening
from pruning_jax.types import ApplyFn, Params, PyTree

_ADVICE = "take the graph again: units.graph(tracing.trace(apply_fn, variables, inputs))"


def check(apply_fn: ApplyFn, model: Equations, variables: Params, inputs: PyTree) -> None:
    """Checks that a model still is what was traced, and depends on nothing but its arguments.

    It is traced twice, at the shapes it was first traced at, each time as a new function, which no
    cache knows. A model that changes with every call, as one does that draws with NumPy or counts
    its calls, then differs from itself.

    Args:
      apply_fn: the model.
      model: its equations, read before.
      variables, inputs: what it is to be run on, any number of examples.

    Raises:
      ValueError: variables or inputs of other shapes; a model that depends on Python-side state,
        or that is another one now.
    """
    _check_shapes(model, variables, inputs)
    leaves, rest = model.avals[: len(model.leaves)], [model.avals[v] for v in model.inputs]
    arguments = [
        jax.tree.unflatten(jax.tree.structure(tree), avals)
        for tree, avals in ((variables, leaves), (inputs, rest))
    ]
    jitted = isinstance(apply_fn, jax.stages.Wrapped) and hasattr(apply_fn, "__wrapped__")
    function = apply_fn.__wrapped__ if jitted else apply_fn
    first, second = (_fresh(function, *arguments) for _ in range(2))
    where = _difference(first, second)
    if where is not None:
        raise ValueError(
            f"apply_fn depends on Python-side state: two traces of it differ in {where}. It must "
            "be a pure function: draw random numbers from a key, and keep what counts or changes "
            "among its variables"
        )
    where = None if jitted else _difference(first, (model.equations, model.constants))
    if where is not None:
        raise ValueError(
            f"apply_fn is not what its graph was taken of: they differ in {where}. It depends on "
            f"Python-side state that has changed, or is another function; if it is right now, "
            f"{_ADVICE}"
        )


def _check_shapes(model: Equations, variables: Params, inputs: PyTree) -> None:
    named = {name: np.shape(leaf) for name, leaf in trees.named_leaves(variables).items()}
    traced = {name: model.avals[value].shape for name, value in model.leaves.items()}
    wrong = next((name for name in named | traced if named.get(name) != traced.get(name)), None)
    if wrong is not None:
        raise ValueError(
            f"the variables have {named.get(wrong, 'nothing')} at {wrong!r}, and those of the "
            f"graph {traced.get(wrong, 'nothing')}; {_ADVICE}"
        )
    found = [np.shape(leaf)[1:] for leaf in jax.tree.leaves(inputs)]
    expected = [model.avals[value].shape[1:] for value in model.inputs]
    if found != expected:
        raise ValueError(
            f"an example of the inputs has shape {found}, and one of the graph's {expected}; "
            f"{_ADVICE}"
        )


def _fresh(
    apply_fn: ApplyFn, variables: Params, inputs: PyTree
) -> tuple[tuple[Equation, ...], dict]:
    flat, output = flattening.flatten(lambda v, x: apply_fn(v, x), variables, inputs)
    return flattening.live(flat.equations, output), flat.constants


def _difference(
    first: tuple[tuple[Equation, ...], Mapping], second: tuple[tuple[Equation, ...], Mapping]
) -> str | None:
    """Where two flat jaxprs differ, if they do; each is (equations, constants)."""
    (ours, constants), (theirs, others) = first, second
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        where = f"equation {number}, {a.name}"
        if (a.name, a.inputs, a.outputs) != (b.name, b.inputs, b.outputs):
            return f"{where} or {b.name}"
        if not _same(dict(a.params), dict(b.params)):
            return where
        for value in a.inputs:
            if not _same(constants.get(value), others.get(value)):
                return f"a constant of {where}"
    if len(ours) != len(theirs):
        return f"the number of their equations, {len(ours)} or {len(theirs)}"
    return None


def _same(a: Any, b: Any) -> bool:
    """Whether two parameters or constants are equal; of what is no value, functions say, True."""
    if a is b or isinstance(a, jax.core.Tracer) or isinstance(b, jax.core.Tracer):
        return True
    if hasattr(a, "eqns") or hasattr(getattr(a, "jaxpr", None), "eqns"):
        return type(a) is type(b) and _difference(_inside(a), _inside(b)) is None
    if isinstance(a, (str, bytes, enum.Enum, np.dtype)) or a is None or b is None:
        return a == b
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)):
        alike = isinstance(b, (tuple, list)) and len(a) == len(b)
        return alike and all(_same(*pair) for pair in zip(a, b, strict=True))
    if isinstance(a, (bool, int, float, complex)) or hasattr(a, "__array__"):
        return _same_array(a, b)
    return True


def _same_array(a: Any, b: Any) -> bool:
    a, b = (
        jax.random.key_data(x)
        if hasattr(x, "dtype") and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        else x
        for x in (a, b)
    )
    a, b = np.asarray(a), np.asarray(b)
    return (
        a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | (a != a) & (b != b)).all())
    )


def _inside(body: Any) -> tuple[tuple[Equation, ...], dict]:
    """The body of a loop, branch or call, as equations and constants."""
    jaxpr = getattr(body, "jaxpr", body)
    flat, unknown = Flattening(), [None] * len(jaxpr.constvars)
    flat.read(
        jaxpr,
        getattr(body, "consts", unknown),
        [flat.value(variable.aval) for variable in jaxpr.invars],
    )
    return tuple(flat.equations), flat.constants

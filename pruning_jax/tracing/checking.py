"""One numeric check: what was read of one example gives what the model gives of several."""

import functools
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import trees
from pruning_jax.tracing import equations
from pruning_jax.tracing.equations import Equations
from pruning_jax.tracing.traces import Trace
from pruning_jax.types import Array, Params, PyTree

_EXAMPLES = 3
_CHECKED: weakref.WeakSet[Trace] = weakref.WeakSet()
_STATE = (
    "it depends on Python-side state. It must be a pure function: draw random numbers from a key, "
    "and keep what counts or changes among its variables"
)
_ADVICE = "take the trace again: tracing.trace(apply_fn, variables, inputs)"


def check(trace: Trace, variables: Params, inputs: PyTree | None = None) -> None:
    """Checks, once for every trace, that the model gives a batch what it gives each example.

        f(x) = (f(x_1), ..., f(x_n)),   to rounding

    A model that mixes examples, that depends on Python-side state or that was read wrongly does
    not. A few examples decide; of a batch of one, that one and its entries in another order do.
    Nothing is computed under ``jit``, where no values are known.

    Args:
      trace: of the model.
      variables, inputs: of the shapes that were traced, any number of examples; some that are made
        up where `inputs` is ``None``.

    Raises:
      ValueError: other shapes; or the results differ: names the first value that does.
    """
    if inputs is None:
        check_variables(trace.model, variables)
    else:
        check_shapes(trace.model, variables, inputs)
    leaves = jax.tree.leaves((variables, inputs))
    if trace in _CHECKED or any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return
    few = _made_up(trace.model) if inputs is None else jax.tree.map(_few, inputs)
    together, alone = jax.jit(_both, static_argnums=0)(trace, variables, few)
    shapes = [[leaf.shape for leaf in leaves] for leaves in (together, alone)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"the model returns {shapes[0]} for {len(jax.tree.leaves(few)[0])} examples, and "
            f"{shapes[1]} for each alone: it treats one example apart, as squeeze() without an "
            "axis does, or does not keep the examples on axis 0"
        )
    if not all(map(_close, together, alone)):
        raise ValueError(_difference(trace, variables, few))
    _CHECKED.add(trace)


def check_shapes(model: Equations, variables: Params, inputs: PyTree) -> None:
    """Checks that variables and inputs have the shapes that were traced.

    Raises:
      ValueError: they do not; names the first leaf.
    """
    check_variables(model, variables)
    shapes = [np.shape(leaf)[1:] for leaf in jax.tree.leaves(inputs)]
    expected = [model.shape(value)[1:] for value in model.inputs]
    if shapes != expected:
        raise ValueError(
            f"an example of the inputs has shape {shapes}, and one that was traced {expected}; "
            f"{_ADVICE}"
        )


def check_variables(model: Equations, variables: Params) -> None:
    """Checks that variables have the shapes that were traced.

    Raises:
      ValueError: they do not; names the first leaf.
    """
    named = {name: np.shape(leaf) for name, leaf in trees.named_leaves(variables).items()}
    traced = {name: model.shape(value) for name, value in model.leaves.items()}
    wrong = next((name for name in named | traced if named.get(name) != traced.get(name)), None)
    if wrong is not None:
        raise ValueError(
            f"the variables have {named.get(wrong, 'nothing')} at {wrong!r}, and those that were "
            f"traced {traced.get(wrong, 'nothing')}; {_ADVICE}"
        )


def _made_up(model: Equations) -> PyTree:
    """Some examples of a model's inputs: normal floats, and integers that are 0 or 1."""
    inputs = []
    for number, value in enumerate(model.inputs):
        key, aval = jax.random.key(number), model.avals[value]
        shape = (_EXAMPLES, *aval.shape[1:])
        if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
            inputs.append(jax.random.split(key, shape))
        elif jnp.issubdtype(aval.dtype, jnp.floating):
            inputs.append(jax.random.normal(key, shape, aval.dtype))
        else:
            inputs.append(jax.random.bernoulli(key, 0.5, shape).astype(aval.dtype))
    return jax.tree.unflatten(model.input_structure, inputs)


def _few(leaf: Any) -> Array:
    """A few different examples, two of one."""
    leaf = jnp.asarray(leaf)
    if leaf.shape[0] > 1:
        return leaf[:_EXAMPLES]
    return jnp.concatenate([leaf, leaf.ravel()[::-1].reshape(leaf.shape)])


def _both(trace: Trace, variables: Params, inputs: PyTree) -> tuple[list[Array], list[Array]]:
    """The outputs of all examples together, and of each alone."""
    alone = equations.over_examples(lambda x: equations.run(trace.model, variables, x), inputs)
    results = [trace.apply_fn(variables, inputs), alone]
    together, stacked = map(jax.tree.leaves, results)
    return together, [equations.merged(leaf) if leaf.ndim > 1 else leaf for leaf in stacked]


def _close(one: Array, other: Array) -> bool:
    """Whether two arrays are equal but for rounding: a network's is some hundred of its units.

    Rounding follows the largest of the values that were summed, so the bound does too.
    """
    if not jnp.issubdtype(one.dtype, jnp.inexact):
        return bool((one == other).all())
    dtype = jnp.promote_types(one.dtype, jnp.float32)
    one, other = np.asarray(one, dtype), np.asarray(other, dtype)
    finite = np.isfinite(one) & np.isfinite(other)
    alike = finite | (np.isnan(one) & np.isnan(other)) | (one == other)
    scale = np.abs(one[finite]).max(initial=0.0)
    bound = max(800 * jnp.finfo(dtype).eps, 16 * jnp.finfo(other.dtype).eps)
    return bool(alike.all() and (np.abs(one - other)[finite] <= bound * scale).all())


def _difference(trace: Trace, variables: Params, inputs: PyTree) -> str:
    """What differs between the examples together and each alone, equation by equation."""
    model, examples = trace.model, len(jax.tree.leaves(inputs)[0])
    anew = functools.partial(trace.apply_fn)  # JAX keeps what it has traced of a function
    again = equations.read_one(anew, variables, inputs)
    batched = equations.read(trace.apply_fn, variables, inputs)
    names = [[equation.name for equation in m.equations] for m in (model, batched)]
    if names[0] != names[1]:
        pairs = zip(*names, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(map(len, names)))
        one, several = (run[place] if place < len(run) else "nothing" for run in names)
        return (
            f"the model runs other operations for {examples} examples than for one, {several} and "
            f"{one} at equation {place}; or {_STATE}"
        )
    wanted = [value for equation in model.equations for value in equation.outputs]
    alone = equations.over_examples(
        lambda x: equations.evaluate(model, model.known(variables, x), wanted), inputs
    )
    wanted = [value for equation in batched.equations for value in equation.outputs]
    together = equations.evaluate(batched, batched.known(variables, inputs), wanted)
    for number, (one, several) in enumerate(zip(model.equations, batched.equations, strict=True)):
        place = f"equation {number} of the model, with a result of shape"
        constants = (model.constants.get(value) for value in one.inputs)
        if not all(map(same_constant, constants, map(again.constants.get, one.inputs))):
            return (
                f"a constant of {one.name} changes, {place} {model.shape(one.outputs[0])}: {_STATE}"
            )
        for a, b in zip(one.outputs, several.outputs, strict=True):
            if a in model.from_inputs and not _aligned(alone[a], together[b]):
                what = "mixes examples, or is not the same for several as for one"
                where = f"{place} {model.shape(a)} for one example"
                return f"{one.name} {what}: {where}; or {_STATE}"
    return f"the model's outputs are not those of its equations: {_STATE}"


def same_constant(one: Any, other: Any, *, shapes: bool = False) -> bool:
    """Whether two constants of a jaxpr are equal; of other shapes, only where those may differ."""
    alike = np.shape(one) == np.shape(other)
    if not alike or getattr(one, "dtype", None) != getattr(other, "dtype", None):
        return not shapes
    if isinstance(one, jax.core.Tracer) or isinstance(other, jax.core.Tracer):
        return one is other or not shapes
    if hasattr(one, "dtype") and jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    return np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind in "fc")


def _aligned(alone: Array, together: Array) -> bool:
    """Whether an array holds those of each example along one of its axes."""
    if not hasattr(together, "ndim") or alone.size != together.size:
        return False
    examples, *shape = alone.shape
    sized = [
        axis
        for axis, size in enumerate(together.shape)
        if [*together.shape[:axis], size // examples, *together.shape[axis + 1 :]] == shape
    ]
    for axis in sized:
        for at in (axis, axis + 1):
            split = [*together.shape[:axis], shape[axis], *together.shape[axis + 1 :]]
            split.insert(at, examples)
            if _close(alone, jnp.moveaxis(together.reshape(split), at, 0)):
                return True
    return not sized and _close(jnp.sort(alone, axis=None), jnp.sort(together, axis=None))

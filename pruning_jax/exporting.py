"""A network as a program that runs without this package, and without the code of its model."""

import importlib.util
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from pruning_jax import choices, saving, tensorfiles, tracing, trees
from pruning_jax.tracing import Handler
from pruning_jax.types import ApplyFn, Array, Params, PyTree

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""What a program can be compiled for."""

PROGRAM = "program"
"""The name of a program's bytes among the arrays of its file."""


def export(
    model: Any,
    variables: Params,
    inputs: PyTree,
    path: str | os.PathLike,
    *,
    examples: int | None = None,
    platforms: Iterable[str] | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Writes a network to a file, as a program of `jax.export` with its weights beside it.

    Whoever has the file runs it with JAX and safetensors alone, as below, on any number of examples
    and with any weights of these shapes. What is pruned stays so: export masked or folded variables
    with the model, or those of a compact network with its function. The file is one of `save` too,
    which `load` reads without the program. Later versions of JAX run the program for at least half
    a year.

    A model that needs to know how many examples there are, as one that calls NumPy with their
    number, is exported as what it does to one example, which `trace` reads.

    Args:
      model: a function in evaluation mode, (variables, inputs) -> a tree of arrays, or its `Trace`
        or `UnitGraph`.
      variables: a tree of arrays.
      inputs: arrays or their shapes, (examples, ...), in dicts, lists or tuples. A model that is
        exported by one example needs arrays, with which that is compared.
      path: of the file, which appears whole or not at all; one that is there is replaced.
      examples: how many examples the program takes; any number when ``None``.
      platforms: those of `PLATFORMS` that it can run on; this process's when ``None``.
      metadata: what JSON can hold.

    Raises:
      ValueError: what `save` refuses; a model that fails on these inputs, or whose program cannot
        take any number of examples; inputs or outputs in other nodes than dicts, lists and tuples;
        an unknown platform. Nothing is written then.
      ImportError: flatbuffers is not installed, which `jax.export` writes with.
      OSError: as `save`.

    >>> model = lambda variables, inputs: inputs @ variables["w"]
    >>> pj.export(model, {"w": jnp.ones((4, 3))}, jnp.ones((1, 4)), "network.safetensors")
    >>> from safetensors.numpy import load_file  # from here on, in another process
    >>> from jax.export import deserialize
    >>> arrays = load_file("network.safetensors")
    >>> deserialize(arrays.pop("program")).call(arrays, jnp.ones((2, 4)))
    Array([[4., 4., 4.],
           [4., 4., 4.]], dtype=float32)
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError(
            "jax.export writes with flatbuffers, which is not installed: "
            "pip install 'pruning_jax[export]'"
        )
    if platforms is not None:
        platforms = [platforms] if isinstance(platforms, str) else list(platforms)
        for platform in platforms:
            choices.check("platform", platform, PLATFORMS)
    shapes = shapes_of(inputs, examples)
    arrays: dict[str, np.ndarray] = {}
    note = {"variables": saving.described("variables", variables, arrays)}
    note["metadata"] = saving.checked_metadata(metadata or {})
    function = checked_function(model, variables, inputs)
    try:
        exported = _exported(function, variables, arrays, shapes, platforms)
    except Exception as error:  # a model's own errors are of any kind
        if examples is not None:
            raise ValueError(f"the model cannot be exported: {_told(error)}") from error
        try:
            one = by_one_example(model, variables, inputs)
            exported = _exported(one, variables, arrays, shapes, platforms)
        except Exception as again:
            raise ValueError(
                "the model cannot be exported for any number of examples; examples=1, or another "
                f"number, makes a program for so many. As it is: {_told(error)}. As what it does "
                f"to one example: {_told(again)}"
            ) from again
    arrays[PROGRAM] = np.frombuffer(_serialized(exported), np.uint8)
    tensorfiles.write(path, arrays, note)


def shapes_of(inputs: PyTree, examples: int | None) -> PyTree:
    """The shapes of so many examples, or of a number that is not known.

    Raises:
      ValueError: an input has no axis of examples; `examples` is no whole number of them.
    """
    if examples is None:
        (count,) = jax_export.symbolic_shape("examples")
    else:
        count = choices.whole("examples", examples, "example")
    for leaf in jax.tree.leaves(inputs):
        if not np.shape(leaf):
            raise ValueError(
                "every input has its examples on axis 0; one has the shape (), as a number has"
            )
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), inputs)


def checked_function(model: Any, variables: Params, inputs: PyTree) -> ApplyFn:
    """The function of a model, which accepts these inputs.

    Raises:
      ValueError: it is none, or does not.
    """
    trace = tracing.trace_in(model)
    function = model if trace is None else trace.apply_fn
    try:
        jax.eval_shape(function, variables, inputs)
    except Exception as error:  # a model's own errors are of any kind
        shapes = [leaf.shape for leaf in jax.tree.leaves(inputs)]
        raise ValueError(
            f"the model failed for inputs of shape {shapes}: {_told(error)}"
        ) from error
    return function


def by_one_example(
    model: Any,
    variables: Params,
    inputs: PyTree,
    handlers: Mapping[str, Handler] = MappingProxyType({}),
) -> ApplyFn:
    """A function that does to every example what a model does to one.

    Args:
      model, variables: as in `export`.
      inputs: arrays, with which the two are compared.
      handlers: primitive -> what is called in its place.

    Raises:
      ValueError: inputs that are no arrays; a model that mixes examples, or has no layers.
    """
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(inputs)):
        raise ValueError("give arrays as inputs, not their shapes, to compare the two with")
    trace = tracing.traced(model, variables, inputs)
    tracing.check(trace, variables, inputs)
    equations = [each for each in trace.model.equations if each.name in handlers]
    at = {each.outputs[0]: handlers[each.name] for each in equations}

    def one(variables: Params, inputs: PyTree) -> PyTree:
        return tracing.run(trace.model, variables, inputs, at=at)

    return lambda variables, inputs: tracing.merged(
        tracing.over_examples(lambda example: one(variables, example), inputs)
    )


def _exported(
    function: ApplyFn,
    variables: Params,
    arrays: dict[str, np.ndarray],
    shapes: PyTree,
    platforms: list[str] | None,
) -> jax_export.Exported:
    """The program of named arrays and inputs."""
    leaves, structure = trees.named_leaves(variables), jax.tree.structure(variables)

    def run(arrays: dict[str, Array], inputs: PyTree) -> PyTree:
        given = [_like(arrays[f"variables/{name}"], leaf) for name, leaf in leaves.items()]
        return function(jax.tree.unflatten(structure, given), inputs)

    return jax_export.export(jax.jit(run), platforms=platforms)(arrays, shapes)


def _like(array: Array, leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
    return array


def _serialized(exported: jax_export.Exported) -> bytearray:
    try:
        return exported.serialize()
    except ValueError as error:
        raise ValueError(
            f"the inputs and outputs of a program are dicts, lists and tuples of arrays: {error}"
        ) from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

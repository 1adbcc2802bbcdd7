"""A network as a program that runs without this package, and without the code of its model."""

import importlib.util
import os
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from pruning_jax import choices, saving, tensorfiles, tracing, trees
from pruning_jax.types import Array, Params, PyTree

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

    Args:
      model: a function in evaluation mode, (variables, inputs) -> a tree of arrays, or its `Trace`
        or `UnitGraph`.
      variables: a tree of arrays.
      inputs: arrays or their shapes, (examples, ...), in dicts, lists or tuples.
      path: of the file, which appears whole or not at all; one that is there is replaced.
      examples: how many examples the program takes; any number when ``None``.
      platforms: those of `PLATFORMS` that it can run on; this process's when ``None``.
      metadata: what JSON can hold.

    Raises:
      ValueError: what `save` refuses; a model that fails on these inputs, or that is another for
        other numbers of examples; inputs or outputs in other nodes than dicts, lists and tuples; an
        unknown platform. Nothing is written then.
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
    if examples is not None:
        examples = choices.whole("examples", examples, "example")
    arrays: dict[str, np.ndarray] = {}
    note = {"variables": saving.described("variables", variables, arrays)}
    note["metadata"] = saving.checked_metadata(metadata or {})
    trace = tracing.trace_in(model)
    function = model if trace is None else trace.apply_fn
    _check_runs(function, variables, inputs)
    program = _program(function, variables, arrays, inputs, examples, platforms)
    arrays[PROGRAM] = np.frombuffer(program, np.uint8)
    tensorfiles.write(path, arrays, note)


def _check_runs(function: Any, variables: Params, inputs: PyTree) -> None:
    for leaf in jax.tree.leaves(inputs):
        if not np.shape(leaf):
            raise ValueError(
                "every input has its examples on axis 0; one has the shape (), as a number has"
            )
    try:
        jax.eval_shape(function, variables, inputs)
    except Exception as error:  # a model's own errors are of any kind
        shapes = [leaf.shape for leaf in jax.tree.leaves(inputs)]
        raise ValueError(
            f"the model failed for inputs of shape {shapes}: {type(error).__name__}: {error}"
        ) from error


def _program(
    function: Any,
    variables: Params,
    arrays: dict[str, np.ndarray],
    inputs: PyTree,
    examples: int | None,
    platforms: list[str] | None,
) -> bytearray:
    """The function of named arrays and inputs, as bytes."""
    leaves, structure = trees.named_leaves(variables), jax.tree.structure(variables)

    def run(arrays: dict[str, Array], inputs: PyTree) -> PyTree:
        given = [_like(arrays[f"variables/{name}"], leaf) for name, leaf in leaves.items()]
        return function(jax.tree.unflatten(structure, given), inputs)

    count = jax_export.symbolic_shape("examples")[0] if examples is None else examples
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), inputs)
    try:
        exported = jax_export.export(jax.jit(run), platforms=platforms)(arrays, shapes)
    except Exception as error:
        number = "any number of" if examples is None else examples
        hint = "; examples=1, or another number, makes a program for so many" * (examples is None)
        raise ValueError(
            f"the model cannot be exported for {number} examples{hint}: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        return exported.serialize()
    except ValueError as error:
        raise ValueError(
            f"the inputs and outputs of a program are dicts, lists and tuples of arrays: {error}"
        ) from error


def _like(array: Array, leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
    return array

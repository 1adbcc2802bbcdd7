"""A network as an ONNX file, by jax2onnx: the extra ``onnx``."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pruning_jax import exporting, tensorfiles, trees
from pruning_jax.tracing import Equation
from pruning_jax.types import Array, Params, PyTree

_POOLS: dict[str, tuple[Callable, float]] = {
    "reduce_window_max": (lax.max, -np.inf),
    "reduce_window_min": (lax.min, np.inf),
    "reduce_window_sum": (lax.add, 0.0),
}
"""Primitive of a pool -> what it does to two numbers, and what changes nothing there."""

_BOUND = 1e-4
"""How far ONNX Runtime's results may be off, over the largest of them, in single precision."""


def export(
    model: Any,
    variables: Params,
    inputs: PyTree,
    path: str | os.PathLike,
    *,
    examples: int | None = None,
) -> None:
    """Writes a network to an ONNX file, and sees that ONNX Runtime gives what it gives.

    The file holds what the model does to one example, for any number of them, with the variables as
    its initialisers. What is pruned stays so, as in `exporting.export`. Its inputs and outputs are
    called ``inputs`` and ``outputs``, and in trees by their leaves too, as ``inputs/ids``.

    Args:
      model: a function in evaluation mode, (variables, inputs) -> a tree of arrays, or its `Trace`
        or `UnitGraph`.
      variables: a tree of arrays.
      inputs: a tree of arrays, (examples, ...), with which the two are compared.
      path: of the file, which appears whole or not at all; one that is there is replaced.
      examples: how many examples the file's network takes, at most those of `inputs`; any number
        when ``None``.

    Raises:
      ValueError: a model that fails on these inputs, that mixes examples or has no layers; one that
        jax2onnx cannot convert, or that gives something else in ONNX Runtime. Nothing is written
        then.
      ImportError: jax2onnx is not installed.
      OSError: as `saving.save`.

    >>> pruning_jax.onnx.export(model, variables, inputs, "network.onnx")  # doctest: +SKIP
    """
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"ONNX files are written by jax2onnx: pip install 'pruning_jax[onnx]' ({error})"
        ) from error
    shapes = exporting.shapes_of(inputs, examples)
    function = exporting.checked_function(model, variables, inputs)
    converted = exporting.by_one_example(model, variables, inputs, dict.fromkeys(_POOLS, _pooled))
    given = jax.tree.map(lambda leaf: leaf[:examples], inputs)
    outputs = jax.jit(function)(variables, given)
    names = [_names(tree, word) for tree, word in ((given, "inputs"), (outputs, "outputs"))]
    structure = jax.tree.structure(inputs)
    try:
        file = jax2onnx.to_onnx(
            lambda *leaves: tuple(
                jax.tree.leaves(converted(variables, jax.tree.unflatten(structure, leaves)))
            ),
            jax.tree.leaves(shapes),
            input_names=names[0],
            output_names=names[1],
        ).SerializeToString()
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(given)]
        found = session.run(names[1], dict(zip(names[0], arrays, strict=True)))
    except Exception as error:  # those of jax2onnx and of ONNX Runtime are of any kind
        hint = "; examples=1, or another number, may do" * (examples is None)
        raise ValueError(
            f"the model cannot be made an ONNX file{hint}: {type(error).__name__}: {error}"
        ) from error
    for name, ours, theirs in zip(names[1], jax.tree.leaves(outputs), found, strict=True):
        _check_same(name, np.asarray(ours), theirs)
    tensorfiles.write_whole(path, [file])


def _names(tree: PyTree, word: str) -> list[str]:
    return [f"{word}/{name}" if name else word for name in trees.named_leaves(tree)]


def _pooled(equation: Equation, operands: list[Array]) -> list[Array]:
    """A pool, axis by axis, from slices: ONNX Runtime has none over more than three axes."""
    (array,), params = operands, equation.params
    combine, neutral = _POOLS[equation.name]
    for axis, size in enumerate(params["window_dimensions"]):
        array = _padded(array, axis, params["padding"][axis], neutral)
        apart, stride = params["window_dilation"][axis], params["window_strides"][axis]
        span = array.shape[axis] - (size - 1) * apart
        starts = range(0, size * apart, apart)
        parts = (lax.slice_in_dim(array, at, at + span, stride, axis) for at in starts)
        array = functools.reduce(combine, parts)
    return [array]


def _padded(array: Array, axis: int, padding: tuple[int, int], neutral: float) -> Array:
    """By concatenation: jax2onnx pads no array of any number of examples."""
    shapes = [(*array.shape[:axis], size, *array.shape[axis + 1 :]) for size in padding]
    before, after = (jnp.full(shape, neutral, array.dtype) for shape in shapes)
    parts = [part for part in (before, array, after) if part.shape[axis]]
    return lax.concatenate(parts, axis)


def _check_same(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        raise ValueError(
            f"ONNX Runtime gives {theirs.dtype} of shape {theirs.shape} for {name!r}, and the "
            f"model {ours.dtype} of shape {ours.shape}; nothing was written"
        )
    if not jnp.issubdtype(ours.dtype, jnp.inexact):
        same = np.array_equal(ours, theirs)
    else:
        bound = max(_BOUND, 16 * float(jnp.finfo(ours.dtype).eps))
        ours, theirs = (np.asarray(array, np.float64) for array in (ours, theirs))
        same = np.allclose(theirs, ours, rtol=0, atol=bound * np.abs(ours).max(initial=0))
    if not same:
        raise ValueError(
            f"ONNX Runtime gives other values than the model for {name!r}; nothing was written"
        )

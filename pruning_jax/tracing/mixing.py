"""Primitives that combine or move examples along their axis, which a model must not do."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pruning_jax.tracing.flattening import Equation


def refusal(equation: Equation, shape: tuple[int, ...]) -> ValueError:
    """The error for a primitive whose result depends on several examples."""
    return ValueError(
        f"{equation.name} mixes examples: its result of shape {shape} depends on several of them; "
        "apply_fn must be in evaluation mode, with the examples on axis 0 of its inputs"
    )


class Known:
    """The values that are known without variables and inputs, computed when asked for."""

    def __init__(self, constants: Mapping[int, Any], equations: Sequence[Equation]) -> None:
        self.arrays = dict(constants)
        self.makers = {value: e for e in equations for value in e.outputs}

    def __call__(self, value: int) -> np.ndarray | None:
        """The value as an array; ``None`` where it is not known."""
        if value not in self.arrays:
            maker = self.makers.get(value)
            operands = [self(v) for v in maker.inputs] if maker else [None]
            if any(operand is None for operand in operands):
                return None
            with jax.ensure_compile_time_eval():
                params = maker.primitive.get_bind_params(maker.params)
                results = maker.primitive.bind(*operands, **params)
            results = results if maker.primitive.multiple_results else [results]
            self.arrays |= zip(maker.outputs, results, strict=True)
        return None if isinstance(self.arrays[value], jax.core.Tracer) else self.arrays[value]


def _own_rows(equation: Equation, layouts: Mapping, avals: Sequence, known: Known) -> bool:
    """Whether a gather along the examples takes for every example its own row."""
    operand, indices = equation.inputs
    axis = layouts[operand].axis
    map_ = tuple(equation.params["dimension_numbers"].start_index_map)
    if math.prod(layouts[operand][1:]) > 1 or axis not in map_ or indices not in layouts:
        return False
    column, maker, array = map_.index(axis), known.makers.get(indices), known(indices)
    if array is None and maker is not None and maker.name == "concatenate":
        for piece in maker.inputs:
            width = avals[piece].shape[-1]
            if column < width:
                array = known(piece)
                break
            column -= width
    if array is None or layouts[indices].axis == len(avals[indices].shape) - 1:
        return False
    rows = np.moveaxis(np.asarray(array)[..., column], layouts[indices].axis, -1)
    examples = avals[operand].shape[axis]
    return rows.shape[-1] == examples and bool((rows == np.arange(examples)).all())


def _gathers(equation: Equation, axis: int, shape: tuple) -> bool:
    numbers = equation.params["dimension_numbers"]
    if axis in numbers.operand_batching_dims:
        return False
    return axis in numbers.start_index_map or equation.params["slice_sizes"][axis] != shape[axis]


def _scatters(equation: Equation, axis: int, shape: tuple) -> bool:
    numbers = equation.params["dimension_numbers"]
    return axis in (*numbers.scatter_dims_to_operand_dims, *numbers.inserted_window_dims)


def _scans(equation: Equation, data: Sequence[int], layouts: Mapping, avals: Sequence) -> bool:
    """Whether a scan goes from example to example with a carry.

    What is scanned or stacked has one axis less in the body, on every version of JAX.
    """
    body = equation.params["jaxpr"]
    body = getattr(body, "jaxpr", body)

    def whole(value: int, inside: Any) -> bool:
        return len(avals[value].shape) == len(inside.aval.shape)

    carries = any(whole(*pair) for pair in zip(equation.outputs, body.outvars, strict=True))
    return carries and any(
        value in data and layouts[value].axis == 0 and not whole(value, inside)
        for value, inside in zip(equation.inputs, body.invars, strict=True)
    )


def _along(parameter: str) -> Callable:
    return lambda equation, axis, shape: equation.params[parameter] == axis


def _window(equation: Equation, axis: int, shape: tuple) -> bool:
    params = equation.params
    return params["window_dimensions"][axis] != 1 or any(params["padding"][axis])


MIXING: dict[str, Callable[[Equation, int, tuple], bool]] = {
    "rev": lambda equation, axis, shape: axis in equation.params["dimensions"],
    "sort": _along("dimension"),
    **dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"], _along("axis")),
    "top_k": lambda equation, axis, shape: axis == equation.params.get("axis", len(shape) - 1),
    "pad": lambda equation, axis, shape: any(equation.params["padding_config"][axis]),
    "fft": lambda equation, axis, shape: axis >= len(shape) - len(equation.params["fft_lengths"]),
    **dict.fromkeys(
        ["reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"], _window
    ),
    "conv_general_dilated": lambda equation, axis, shape: (
        axis in equation.params["dimension_numbers"].lhs_spec[2:]
    ),
    "dynamic_slice": lambda equation, axis, shape: (
        equation.params["slice_sizes"][axis] != shape[axis]
    ),
    "gather": _gathers,
}
"""Primitive -> whether it mixes along an axis of its data operand, of that shape."""


def check(
    equation: Equation, data: Sequence[int], layouts: Mapping, avals: Sequence, known: Known
) -> None:
    """Refuses an equation that mixes examples.

    Args:
      equation: the equation.
      data: its operands that depend on the inputs.
      layouts: value -> where the examples are in it.
      avals: the shape and dtype of every value.
      known: the constants.

    Raises:
      ValueError: it combines or moves examples along their axis; the message names it.
    """
    name, inputs, result = equation.name, equation.inputs, avals[equation.outputs[0]].shape
    first = inputs[0]
    mixes = False
    if name.startswith("scatter") and first in layouts:
        mixes = _scatters(equation, layouts[first].axis, result)
    elif name == "dynamic_update_slice" and first in layouts:
        axis = layouts[first].axis
        mixes = avals[inputs[1]].shape[axis] != result[axis]
    elif name == "scan":
        mixes = _scans(equation, data, layouts, avals)
    elif name == "sort":
        mixes = MIXING[name](equation, layouts[data[0]].axis, ())
    elif name in MIXING and first in data:
        mixes = MIXING[name](equation, layouts[first].axis, avals[first].shape)
        if mixes and name == "gather":
            mixes = not _own_rows(equation, layouts, avals, known)
    if mixes:
        raise refusal(equation, result)

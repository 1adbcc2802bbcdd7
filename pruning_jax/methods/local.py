"""Noise on weights, where they are used: local reparameterisation of any training function."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax import tracing
from pruning_jax.tracing import Equation
from pruning_jax.types import Array, Params, PyTree

_LEAST = 1e-8
"""Added to a variance under a root, whose derivative at 0 is infinite."""


class Gaussian(NamedTuple):
    """Independent weights, by their means and variances, of one shape."""

    mean: Array
    variance: Array


def is_gaussian(node: object) -> bool:
    return isinstance(node, Gaussian)


def reparameterised(train_fn: Callable) -> Callable:
    """A training function of variables whose leaves may be `Gaussian`.

        y = a theta + sqrt(a^2 sigma^2 + 1e-8) e,   e ~ N(0, 1) for every entry of y

    for each dense layer or convolution y of data a with a kernel of mean theta and variance
    sigma^2, which may be transposed, cut or reshaped before: its equation is bound twice. A kernel
    that enters something else is drawn itself, once. What the function does besides is as it was.

    Args:
      train_fn: (variables, inputs, key) -> what it returns, of any tree.

    Returns:
      The function; without a `Gaussian` among the variables it is `train_fn`.

    Source: Kingma et al., arXiv 1506.02557; of convolutions, Molchanov et al., arXiv 1701.05369.
    """

    def apply(variables: Params, inputs: PyTree, key: Array) -> PyTree:
        leaves, structure = jax.tree.flatten(variables, is_leaf=is_gaussian)
        if not any(map(is_gaussian, leaves)):
            return train_fn(variables, inputs, key)
        plain = [leaf.mean if is_gaussian(leaf) else leaf for leaf in leaves]
        means = jax.tree.unflatten(structure, plain)
        model = tracing.read(train_fn, means, inputs, key)
        noise = jax.random.fold_in(key, 2**31)
        handler = functools.partial(_handled, noise)
        known = dict(enumerate([*leaves, *jax.tree.leaves((inputs, key))]))
        at = {equation.outputs[0]: handler for equation in model.equations}
        found = tracing.evaluate(model, known, model.outputs, at=at)
        outputs = [_drawn(noise, value, found[value]) for value in model.outputs]
        return jax.tree.unflatten(model.structure, outputs)

    return apply


def _handled(noise: Array, equation: Equation, operands: list) -> list:
    """The results of an equation, some of whose operands may be Gaussian."""
    uncertain = [place for place, operand in enumerate(operands) if is_gaussian(operand)]
    if not uncertain:
        return tracing.bind(equation, operands)
    linear = equation.name in ("dot_general", "conv_general_dilated") and len(uncertain) == 1
    if not linear and not _moves(equation, operands):
        drawn = [_drawn(noise, *pair) for pair in zip(equation.inputs, operands, strict=True)]
        return tracing.bind(equation, drawn)
    means = [operand.mean if is_gaussian(operand) else operand for operand in operands]
    squares = [operand.variance if is_gaussian(operand) else operand**2 for operand in operands]
    results = tracing.bind(equation, means)
    if equation.name == "neg":
        return [Gaussian(results[0], operands[0].variance)]
    variances = tracing.bind(equation, squares)
    if not linear:
        return [Gaussian(*pair) for pair in zip(results, variances, strict=True)]
    key = jax.random.fold_in(noise, equation.outputs[0])
    drawn = jax.random.normal(key, results[0].shape, results[0].dtype)
    return [results[0] + jnp.sqrt(variances[0] + _LEAST) * drawn]


def _moves(equation: Equation, operands: list) -> bool:
    """Whether an equation only moves a kernel's entries, each to one place at most."""
    if equation.name not in tracing.REARRANGING or len(operands) != 1:
        return False
    params = equation.params
    shape = params.get("shape", params.get("new_sizes", ()))
    repeats = equation.name == "broadcast_in_dim" and _size(shape) > operands[0].mean.size
    return not repeats and equation.name != "sharding_constraint"


def _size(shape: Any) -> int:
    return functools.reduce(lambda total, length: total * length, shape, 1)


def _drawn(noise: Array, value: int, array: Any) -> Array:
    """A value, drawn where it is Gaussian; the same wherever it is used."""
    if not is_gaussian(array):
        return array
    draw = jax.random.normal(jax.random.fold_in(noise, value), array.mean.shape, array.mean.dtype)
    return array.mean + jnp.sqrt(array.variance + _LEAST) * draw

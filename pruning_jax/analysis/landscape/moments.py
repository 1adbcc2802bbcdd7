"""A model's running state, such as batch-norm moments, estimated anew from examples."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import trees
from pruning_jax.analysis.landscape.checking import is_floating
from pruning_jax.training import TrainFn
from pruning_jax.types import Array, Params, PyTree

_ROUNDINGS = 64


class _Probed(NamedTuple):
    """What is known of a leaf's update: m, c, some state updated, and what m and c say of that."""

    m: Array
    c: Array
    updated: Array
    expected: Array


def increments(train_fn: TrainFn, params: Params, state: PyTree, inputs: PyTree) -> PyTree:
    """c of the model's own running update, state' = m state + c: the update of a state of zeros.

    Returns:
      A tree like `state`; ``None`` for leaves that are not floating.
    """
    zeros = jax.tree.map(jnp.zeros_like, floating(state))
    return _update(train_fn, params, state, inputs)(zeros)


def momenta(train_fn: TrainFn, params: Params, state: PyTree, inputs: PyTree) -> PyTree:
    """m of the model's own running update, which depends on neither parameters nor examples.

    Returns:
      A tree like `state` of NumPy arrays; ``None`` for leaves that are not floating.

    Raises:
      ValueError: the update is no running average, or not finite.
    """
    found = jax.tree.map(np.asarray, _probe(train_fn)(params, state, inputs))
    for path, probed in jax.tree_util.tree_leaves_with_path(found, is_leaf=_is_probed):
        eps = _ROUNDINGS * float(jnp.finfo(probed.m.dtype).eps)
        m, c, updated, expected = (x.astype(np.float64) for x in probed)
        if not (np.isfinite(c).all() and np.isfinite(updated).all()):
            raise ValueError(
                f"train_fn makes {trees.path_name(path)!r} of the state not finite at the plane's "
                "origin; it cannot be re-estimated there"
            )
        linear = np.abs(updated - expected) <= eps * (1 + np.abs(expected))
        if not (linear & (m >= 0) & ((m < 1) | ((m == 1) & (c == 0)))).all():
            raise ValueError(
                f"train_fn does not update {trees.path_name(path)!r} of the state as a "
                "running average, m state + c with m from 0 to 1; it cannot be re-estimated"
            )
    return jax.tree.map(lambda probed: probed.m, found, is_leaf=_is_probed)


def fixed_point(momenta: PyTree, increment: PyTree, state: PyTree) -> PyTree:
    """Where the update leads with the same increment over and over, c / (1 - m).

    Args:
      momenta: of the update; where m is 1 the state is never updated, and keeps its value.
      increment: the mean c, in double precision.
      state: what the floating leaves are like.
    """

    def leaf(s, m, c):
        m = np.asarray(m, np.float64)
        never = m == 1
        return np.where(never, s, c / np.where(never, 1, 1 - m)).astype(s.dtype)

    return jax.tree.map(leaf, floating(state), momenta, increment)


def floating(state: PyTree) -> PyTree:
    """The floating leaves; ``None`` for the others."""
    return jax.tree.map(lambda leaf: leaf if is_floating(leaf) else None, state)


def merged(moments: PyTree, state: PyTree) -> PyTree:
    """`state` with the floating leaves of `moments`."""
    return jax.tree.map(lambda s, leaf: s if leaf is None else leaf, state, moments)


def _is_probed(node: object) -> bool:
    return isinstance(node, _Probed)


def _update(train_fn: TrainFn, params: Params, state: PyTree, inputs: PyTree) -> Callable:
    """One update as a function of the floating leaves of the state.

    Noise, as of dropout, is the same in every update, so that a point's estimate is a function of
    the point.
    """

    def update(values):
        variables = {"params": params, **merged(values, state)}
        updated = train_fn(variables, inputs, jax.random.key(0))[1]
        if jax.tree.structure(updated) != jax.tree.structure(state):
            raise ValueError(
                f"train_fn returned a state of structure {jax.tree.structure(updated)}; it must "
                f"be that of state, {jax.tree.structure(state)}"
            )
        return jax.tree.map(lambda s, new: new if is_floating(s) else None, state, updated)

    return update


@functools.lru_cache(maxsize=64)
def _probe(train_fn: TrainFn) -> Callable:
    """(params, state, inputs) -> what is known of every floating leaf's update."""

    def probe(params, state, inputs):
        update = _update(train_fn, params, state, inputs)
        zeros = jax.tree.map(jnp.zeros_like, floating(state))
        c, m = jax.jvp(update, (zeros,), (jax.tree.map(jnp.ones_like, zeros),))

        def uneven(leaf):
            return (1 + jnp.arange(leaf.size) / leaf.size).reshape(leaf.shape).astype(leaf.dtype)

        some = jax.tree.map(uneven, zeros)
        return jax.tree.map(
            lambda m, c, updated, s: _Probed(m, c, updated, m * s + c), m, c, update(some), some
        )

    return jax.jit(probe)

"""Replicates of an experiment: one after another on CPU, together on an accelerator."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pruning_jax.types import PyTree


def lift(function: Callable, count: int) -> Callable:
    """Lifts `function` to arguments whose leaves have a leading replicate axis.

    One replicate runs as it is, many run together under `jax.vmap`.
    """
    if count > 1:
        return jax.vmap(function)

    def one(*arguments):
        result = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], result)

    return one


def groups(items: list, backend: str | None = None) -> list[list]:
    """Which replicates run together: one at a time on CPU, all of them on an accelerator."""
    together = (backend or jax.default_backend()) != "cpu"
    return [list(items)] if together and items else [[item] for item in items]


def stack(items: list[PyTree]) -> PyTree:
    """Replicates -> one tree whose leaves have a leading replicate axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)


def unstack(tree: PyTree) -> list[PyTree]:
    """The inverse of `stack`."""
    count = jax.tree.leaves(tree)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]

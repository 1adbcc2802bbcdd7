"""Replicates of an experiment: side by side on the devices of the mesh, and together on each.

On a CPU device replicates take turns; an accelerator runs several at once, by `jax.vmap`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from pruning_jax.lab import meshes, processes
from pruning_jax.types import PyTree


def lift(function: Callable, count: int, mesh: Mesh | None = None, shared: int = 0) -> Callable:
    """Lifts `function` to arguments whose leaves have a leading replicate axis.

    One replicate on a device runs as it is, many run together under `jax.vmap`.

    Args:
      function: of one replicate.
      count: of replicates; on several devices a multiple of `slots`.
      mesh: whose devices share the replicates; by default one device has them all.
      shared: how many of the last arguments are the same for all, without that axis.
    """
    if mesh is None:
        return _together(function, count, shared)
    together, side_by_side = _together(function, count // slots(mesh), shared), meshes.REPLICATES

    def lifted(*arguments):
        own = len(arguments) - shared
        return jax.shard_map(
            together,
            mesh=mesh,
            in_specs=(*[PartitionSpec(side_by_side)] * own, *[PartitionSpec()] * shared),
            out_specs=PartitionSpec(side_by_side),
            axis_names={side_by_side},
            check_vma=False,
        )(*arguments)

    return lifted


def _together(function: Callable, count: int, shared: int) -> Callable:
    def lifted(*arguments):
        own = len(arguments) - shared
        if count > 1:
            return jax.vmap(function, (*[0] * own, *[None] * shared))(*arguments)
        first = jax.tree.map(lambda leaf: leaf[0], arguments[:own])
        result = function(*first, *arguments[own:])
        return jax.tree.map(lambda leaf: leaf[None], result)

    return lifted


def slots(mesh: Mesh) -> int:
    """How many replicates lie side by side on a mesh."""
    return mesh.shape[meshes.REPLICATES]


def groups(items: list, need: Callable[[Any], int | None] | None = None) -> list[list]:
    """Which replicates run together: in each slot of the mesh one on CPU, elsewhere what it holds.

    Args:
      items: one a replicate.
      need: an item -> the bytes of a device's memory that its replicate takes, or ``None`` where
        that is not known. It is asked of the first, and not on CPU. Without it all run together.
    """
    mesh = meshes.current()
    if not items:
        return []
    if jax.default_backend() == "cpu":
        most = slots(mesh)
    else:
        most = len(items) if need is None else slots(mesh) * meshes.fitting(need(items[0]), mesh)
    rounds = -(-len(items) // most)
    size = slots(mesh) * -(-len(items) // (rounds * slots(mesh)))  # of about one size
    return [list(items[first : first + size]) for first in range(0, len(items), size)]


def place(tree: PyTree, mesh: Mesh) -> PyTree:
    """Replicates on the devices of a mesh, the last repeated to fill every slot."""
    count = jax.tree.leaves(tree)[0].shape[0]
    missing = -count % slots(mesh)
    if missing:
        filled = np.minimum(np.arange(count + missing), count - 1)
        tree = jax.tree.map(lambda leaf: leaf[filled], tree)
    return meshes.put(tree, mesh, meshes.REPLICATES)


def trim(tree: PyTree, count: int) -> PyTree:
    """The first `count` replicates, without the repeated ones of `place`."""

    def first(leaf):
        if leaf.shape[0] == count:
            return leaf
        here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        return (leaf if here else _home(leaf))[:count]

    return jax.tree.map(first, tree)


def stack(items: list[PyTree]) -> PyTree:
    """Replicates -> one tree whose leaves have a leading replicate axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)


def stack_on_host(items: list[PyTree]) -> PyTree:
    """The same in the host's memory, from where `place` gives each device its own alone.

    For what is large and holds no keys, such as splits of examples.
    """
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *items)


def unstack(tree: PyTree) -> list[PyTree]:
    """The inverse of `stack`, on this process's own first device."""
    tree = jax.tree.map(_home, tree)
    count = jax.tree.leaves(tree)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]


def _home(leaf: jax.Array) -> jax.Array:
    """An array that lies on several devices, on this process's own first one."""
    if not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1:
        return leaf
    data = jnp.asarray(processes.fetch(leaf))
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return data

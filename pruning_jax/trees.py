"""Named paths into parameter pytrees, and counting."""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from pruning_jax.types import Array, PyTree


def _is_none(leaf: object) -> bool:
    return leaf is None


def path_name(path: tuple) -> str:
    """The name of a leaf's path: its keys, joined by ``/``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: PyTree) -> dict[str, object]:
    """Every leaf of `tree` by its path's name, in the tree's order; ``None`` is no leaf.

    Raises:
      ValueError: two leaves have the same name.
    """
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    named = {path_name(path): leaf for path, leaf in pairs}
    if len(named) != len(pairs):
        names = [path_name(path) for path, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two leaves are named {twice!r}; rename one of their keys")
    return named


def select(tree: PyTree, names: Iterable[str]) -> PyTree:
    """Keeps the leaves of `tree` that are named, and puts ``None`` in the place of the others.

    Raises:
      ValueError: a name that is no leaf of `tree`.
    """
    wanted = frozenset(names)
    leaves = named_leaves(tree)
    unknown = sorted(wanted - leaves.keys())
    if unknown:
        raise ValueError(f"no leaf is named {unknown[0]!r}; the leaves are {', '.join(leaves)}")
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path_name(path) in wanted else None, tree
    )


def map_selected(function: Callable, selected: PyTree, *trees: PyTree) -> PyTree:
    """Maps `function` over the leaves that `selected` keeps; ``None`` stays ``None``.

    Each of `trees` has the structure of `selected` before selection, or of a selection of it.
    """
    return jax.tree.map(
        lambda leaf, *others: None if leaf is None else function(leaf, *others),
        selected,
        *trees,
        is_leaf=_is_none,
    )


def size(tree: PyTree) -> int:
    """How many numbers the leaves of `tree` hold together."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def check_selection(what: str, selected: PyTree, tree: PyTree) -> None:
    """Checks that every leaf of `selected` is at the place of a leaf of `tree`, and of its shape.

    Args:
      what: the selection's name, for the message.
      selected: arrays, ``None`` where nothing is selected.
      tree: what they were selected from.

    Raises:
      ValueError: a leaf that `tree` does not have, or one of another shape.
    """
    leaves = named_leaves(tree)
    for name, leaf in named_leaves(selected).items():
        if name not in leaves:
            raise ValueError(f"{what} has a leaf {name!r}; the leaves are {', '.join(leaves)}")
        if jax.numpy.shape(leaf) != leaves[name].shape:
            raise ValueError(
                f"{what} has shape {jax.numpy.shape(leaf)} at {name!r}, where the leaf has "
                f"{leaves[name].shape}"
            )


def at_least_single(array: Array) -> Array:
    """The array in at least 32 bits."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))

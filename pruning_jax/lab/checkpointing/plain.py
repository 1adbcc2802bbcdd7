"""Any pytree as nested dicts and lists of numpy arrays, and back."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax.lab import processes
from pruning_jax.trees import path_name
from pruning_jax.types import PyTree

_NUMBER = bool | int | float | complex


def to_plain(tree: PyTree) -> PyTree:
    """Writes a pytree as nested dicts and lists of numpy arrays.

    Named tuples and other nodes with names become dicts, tuples lists, typed keys their data;
    ``None`` stays.

    Raises:
      ValueError: a leaf that is no number, boolean or key, or that has no elements.
    """
    return _plain(tree, ())


def from_plain(plain: PyTree, like: PyTree, source: str) -> PyTree:
    """Puts the arrays of `plain` into the structure of `like`.

    Args:
      plain: what `to_plain` returned.
      like: a tree of arrays, ``jax.ShapeDtypeStruct``, numbers and typed keys; its shapes, dtypes,
        key implementations and shardings are those of the result.
      source: what an error calls `plain`, such as "the checkpoint runs/a".

    Raises:
      ValueError: a leaf is missing, left over or of another shape or dtype.
    """
    wanted = _by_names(like)
    found = _by_names(plain)
    for names, problem in [
        (wanted.keys() - found.keys(), "misses the leaf"),
        (found.keys() - wanted.keys(), "has a leaf that is not asked for:"),
    ]:
        if names:
            raise ValueError(f"{source} {problem} {'/'.join(min(names))!r}")
    for names, leaf in wanted.items():
        _require_same(found[names], _described(leaf), f"the leaf {'/'.join(names)!r} of {source}")
    leaves = [_like(found[names], leaf) for names, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _plain(node: PyTree, path: tuple) -> PyTree:
    if node is None:
        return None
    children, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=_other_than(node))
    if children and not children[0][0]:
        return _as_numpy(node, path)
    pairs = [(keys[0], _plain(child, (*path, *keys))) for keys, child in children]
    if isinstance(node, list | tuple) and not hasattr(node, "_fields"):
        return [child for _, child in pairs]
    return {path_name((key,)): child for key, child in pairs}


def _other_than(node: PyTree) -> Callable[[PyTree], bool]:
    return lambda other: other is not node


def _as_numpy(leaf: object, path: tuple) -> np.ndarray:
    array = processes.fetch(leaf)
    if array.dtype.kind in "OSUMmT" or array.size == 0:
        raise ValueError(
            f"the leaf {path_name(path)!r} is a {type(leaf).__name__} of dtype {array.dtype} and "
            f"shape {array.shape}; it must hold numbers or booleans, at least one"
        )
    return array


def _by_names(tree: PyTree) -> dict[tuple[str, ...], object]:
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(path_name((key,)) for key in keys): leaf for keys, leaf in pairs}


def _described(leaf: object) -> np.ndarray | jax.ShapeDtypeStruct:
    if isinstance(leaf, _NUMBER):
        return np.asarray(leaf)
    if _is_key(leaf):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _require_same(value: np.ndarray, wanted: np.ndarray | jax.ShapeDtypeStruct, name: str) -> None:
    if value.shape != wanted.shape or value.dtype != wanted.dtype:
        raise ValueError(
            f"{name} is {value.dtype}{list(value.shape)}, and {wanted.dtype}{list(wanted.shape)} "
            "is asked for"
        )


def _like(value: np.ndarray, leaf: object) -> object:
    if isinstance(leaf, np.generic):
        return value[()]
    if isinstance(leaf, np.ndarray):
        return value
    if isinstance(leaf, _NUMBER):
        return value.item()
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.array(value), impl=_key_implementation(leaf))
    if getattr(leaf, "weak_type", False) and value.ndim == 0:
        return jnp.asarray(value.item())
    if isinstance(leaf, jax.Array) and leaf.committed:
        return jax.device_put(value, leaf.sharding)
    return jnp.array(value)


def _is_key(leaf: object) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_implementation(leaf: jax.Array) -> object:
    return jax.random.key_impl(leaf)

"""A network in one file: its variables and masks, nested as they were, and what the user noted.

The file is a safetensors file, whose arrays other programs read too, by names as
``variables/params/Dense_0/kernel``. Nothing that is read is executed.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import tensorfiles, trees
from pruning_jax.trees import path_name
from pruning_jax.types import Array, Masks, Params, PyTree


class Saved(NamedTuple):
    """What a file holds.

    Attributes:
      variables: the network's.
      masks: of its weights: booleans, True = kept, ``None`` where a leaf has none; ``None`` where
        none were saved.
      unit_masks: space -> booleans, shape (size,), True = kept; ``None`` where none were saved.
      metadata: what the user noted.
    """

    variables: Params
    masks: Masks | None
    unit_masks: dict[str, Array] | None
    metadata: dict[str, Any]


def save(
    path: str | os.PathLike,
    variables: Params,
    *,
    masks: Masks | None = None,
    unit_masks: Mapping[str, Array] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network to a file, which appears whole or not at all; one that is there is replaced.

    Dicts, lists, tuples and ``None`` are kept as they are. Named tuples, modules and other nodes
    are kept by the names of their children: `load` gives them back as dicts, or as what they were
    where it is told by `like`. Arrays keep their type, bfloat16 too, and typed random keys are kept
    as their data. The file is a safetensors file, and masks are bytes in it.

    Args:
      path: of the file, as ``network.safetensors``.
      variables: a tree of arrays.
      masks: of weights, as `prune` returns them: booleans, ``None`` where a leaf has no mask.
      unit_masks: space -> booleans, shape (size,), as `compact` returns them.
      metadata: what JSON can hold.

    Raises:
      ValueError: a leaf that is no array, or of a type that safetensors lacks; two leaves of one
        name; masks that do not fit the variables or are no booleans; metadata that JSON cannot
        hold. Nothing is written then.
      OSError: there is no such folder; the disk is full or read-only. The file is as it was.

    >>> variables = {"kernel": jnp.array([[2.0, 0.0]]), "bias": None}
    >>> masks = {"kernel": variables["kernel"] != 0, "bias": None}
    >>> pj.save("network.safetensors", variables, masks=masks)
    >>> pj.load("network.safetensors").masks["kernel"].tolist()
    [[True, False]]
    """
    arrays: dict[str, np.ndarray] = {}
    note = {"variables": described("variables", variables, arrays)}
    if masks is not None:
        trees.check_selection("masks", masks, variables)
        note["masks"] = described("masks", masks, arrays, _mask)
    if unit_masks is not None:
        note["unit_masks"] = described("unit_masks", _checked_units(unit_masks), arrays, _mask)
    tensorfiles.write(path, arrays, note | {"metadata": checked_metadata(metadata or {})})


def load(path: str | os.PathLike, like: PyTree = None) -> Saved:
    """Reads a network from a file that `save` or `export` wrote; runs none of what is in it.

    Args:
      path: of the file.
      like: the variables that are expected: arrays, or their shapes as of `jax.eval_shape`. The
        variables and masks come in its structure, with its named tuples and modules. For a compact
        network, those are the variables of `compact` with the same unit masks.

    Returns:
      The variables, the masks where some were saved, and the metadata. Arrays are JAX's; those of
      64 bits are NumPy's unless ``jax_enable_x64`` is set.

    Raises:
      FileNotFoundError: there is no such file; names those beside it.
      ValueError: it is no safetensors file, or a damaged or truncated one; it was written by
        another program; its variables are not those of `like`: names the first leaf that differs.

    >>> variables = [{"kernel": jnp.ones(2, jnp.bfloat16)}, None]
    >>> pj.save("network.safetensors", variables, metadata={"accuracy": 0.9})
    >>> saved = pj.load("network.safetensors")
    >>> saved.variables, saved.metadata
    ([{'kernel': Array([1, 1], dtype=bfloat16)}, None], {'accuracy': 0.9})
    """
    path = Path(path)
    arrays, note = tensorfiles.read(path)
    if note is None:
        raise ValueError(
            f"{path} was written by another program, so that how its arrays are nested is not "
            f"known: {', '.join(arrays)}; read them by safetensors.numpy.load_file"
        )
    variables = _rebuilt(note["variables"], arrays)
    masks, unit_masks = (_rebuilt(note.get(n), arrays, bool) for n in ("masks", "unit_masks"))
    if like is not None:
        variables, masks = _like(path, like, variables, masks)
    return Saved(variables, masks, unit_masks, note["metadata"])


def described(
    name: str,
    tree: PyTree,
    arrays: dict[str, np.ndarray],
    as_array: Callable[[str, Any], np.ndarray] | None = None,
) -> Any:
    """How a tree is nested, as JSON holds it; its leaves are put into `arrays`.

    Args:
      name: of the tree, with which the names of its leaves begin in `arrays`.
      tree: any pytree of arrays and typed random keys.
      arrays: name -> array, which grows.
      as_array: (name, leaf) -> the array to keep, where it is not the leaf's own.

    Raises:
      ValueError: as `save`.
    """
    trees.named_leaves(tree)  # refuses two leaves of one name

    def node(here: Any, path: tuple) -> Any:
        if here is None:
            return None
        children = jax.tree_util.tree_flatten_with_path(here, lambda other: other is not here)[0]
        if children and not children[0][0]:
            return leaf(here, path)
        inside = [(keys[0], node(child, (*path, *keys))) for keys, child in children]
        if type(here) in (list, tuple):
            return {type(here).__name__: [child for _, child in inside]}
        if type(here) is not dict:
            return {"dict": [[path_name((key,)), child] for key, child in inside]}
        for key, _ in inside:
            if not isinstance(key.key, str) and type(key.key) is not int:
                raise ValueError(
                    f"the {name} have a dict with the key {key.key!r}; texts and whole numbers "
                    "can be kept"
                )
        return {"dict": [[key.key, child] for key, child in inside]}

    def leaf(value: Any, path: tuple) -> Any:
        place = f"{name}/{path_name(path)}"
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            arrays[place] = _array(place, jax.random.key_data(value))
            return {"key": place, "implementation": str(jax.random.key_impl(value))}
        arrays[place] = (as_array or _array)(place, value)
        return {"array": place}

    return node(tree, ())


def _rebuilt(spec: Any, arrays: dict[str, np.ndarray], dtype: type | None = None) -> PyTree:
    """The tree that `described` described."""
    if spec is None:
        return None
    ((kind, value), *implementation) = spec.items()
    if kind == "array":
        return _placed(arrays[value] if dtype is None else arrays[value].astype(dtype))
    if kind == "key":
        return jax.random.wrap_key_data(jnp.asarray(arrays[value]), impl=implementation[0][1])
    if kind == "dict":
        return {key: _rebuilt(child, arrays, dtype) for key, child in value}
    children = [_rebuilt(child, arrays, dtype) for child in value]
    return tuple(children) if kind == "tuple" else children


def _placed(array: np.ndarray) -> Array | np.ndarray:
    """The array as JAX's, if JAX has its type."""
    return (
        jnp.asarray(array) if jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype else array
    )


def _array(name: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.core.Tracer):
        raise ValueError(f"{name!r} has no values under jit; save outside of it")
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
        raise ValueError(
            f"{name!r} is a {type(leaf).__name__}, {leaf!r}; what is saved must be arrays: "
            "jnp.asarray makes one of a number, eqx.partition(module, eqx.is_array) takes those of "
            "an Equinox module"
        )
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        raise ValueError(
            f"{name!r} lies on devices of other processes too; gather it first, by "
            "jax.experimental.multihost_utils.process_allgather, and save on one process"
        )
    array = np.asarray(leaf)
    if array.dtype.name not in tensorfiles.CODES:
        raise ValueError(
            f"{name!r} is of {array.dtype}, and can be of {', '.join(tensorfiles.CODES)}"
        )
    return array.astype(array.dtype.name, copy=False)  # in the byte order of this machine


def _mask(name: str, leaf: Any) -> np.ndarray:
    array = _array(name, leaf)
    if array.dtype != bool:
        raise ValueError(f"{name!r} is of {array.dtype}; a mask is of booleans, True = kept")
    return array.astype(np.uint8)


def _checked_units(unit_masks: Any) -> dict[str, Array]:
    if not isinstance(unit_masks, Mapping):
        raise ValueError(
            f"unit_masks map unit spaces to booleans; they are a {type(unit_masks).__name__}"
        )
    for name, mask in unit_masks.items():
        if not isinstance(name, str) or len(np.shape(mask)) != 1:
            raise ValueError(f"the unit mask {name!r} has shape {np.shape(mask)}, not (size,)")
    return dict(unit_masks)


def checked_metadata(metadata: Any) -> dict[str, Any]:
    try:
        same = json.loads(json.dumps(metadata, allow_nan=False)) == metadata
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata is {metadata!r}; JSON cannot hold it: {error}") from error
    if not same or not isinstance(metadata, dict):
        raise ValueError(
            f"metadata is {metadata!r}, which does not come back from JSON as it is; it must be a "
            "dict with texts for keys, and lists in place of tuples"
        )
    return metadata


def _like(path: Path, like: PyTree, variables: Params, masks: Masks) -> tuple[Params, Masks]:
    """Variables and masks in another tree of the same leaves.

    Raises:
      ValueError: a leaf differs; names the first.
    """
    found, wanted = trees.named_leaves(variables), trees.named_leaves(like)
    for name in [*wanted, *found]:
        sides = [_kind(tree[name]) if name in tree else "nothing" for tree in (found, wanted)]
        if sides[0] != sides[1]:
            raise ValueError(f"{path} has {sides[0]} at {name!r}, and like has {sides[1]}")
    tree = jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in wanted])
    if masks is None:
        return tree, None
    kept = trees.named_leaves(masks)
    return tree, jax.tree_util.tree_map_with_path(lambda at, _: kept.get(path_name(at)), like)


def _kind(leaf: Any) -> str:
    if not hasattr(leaf, "dtype"):
        return f"a {type(leaf).__name__}"
    return f"{leaf.dtype} of shape {tuple(leaf.shape)}"

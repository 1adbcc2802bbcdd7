"""Checkpoints: trees of arrays on disk, written whole or not at all. The only user of Orbax.

A checkpoint is a folder that plain Orbax opens too, with one file more, ``CHECKSUMS.json``: the
SHA-256 of every other file. It is written under a temporary name and renamed when complete.
Nothing that is read back is executed. Where several processes run, one of them calls.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from pruning_jax.trees import path_name
from pruning_jax.types import PyTree

CHECKSUMS = "CHECKSUMS.json"
_TEMPORARY = ".writing"
_REPLACED = ".replaced"
_SPARE_BYTES = 1 << 20


class DamagedCheckpoint(UserWarning):
    """A checkpoint could not be used, and the one before it is used."""


class _Damage(ValueError):
    """The files of a checkpoint are not those that were written."""


def save(
    path: str | os.PathLike, tree: PyTree, *, metadata: dict | None = None, overwrite: bool = False
) -> None:
    """Writes `tree` to the folder `path`, which appears whole or not at all.

    Args:
      path: the folder to make; the folders above it are made too.
      tree: any pytree of arrays, numbers, booleans and typed keys; ``None`` is kept.
      metadata: what JSON can say about it.
      overwrite: whether an existing `path` is replaced.

    Raises:
      ValueError: `path` exists and `overwrite` is false; a leaf is no array or has no elements;
        `metadata` is not JSON.
      OSError: the disk is full, read-only or fails. `path` is as it was before.
    """
    path = Path(path).absolute()
    plain = _plain(tree)
    leaves = jax.tree.leaves(plain)
    if not leaves:
        raise ValueError(f"nothing to save to {path}: the tree has no leaves")
    note = _as_json(metadata)
    if not overwrite and _located(path) is not None:
        raise ValueError(f"the checkpoint {path} exists; choose another path or overwrite=True")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean(path)
        _require_space(path.parent, sum(leaf.nbytes for leaf in leaves))
        temporary = _sibling(path, _TEMPORARY)
        _quietly(lambda: ocp.save(temporary, plain, custom_metadata=note))
        _seal(temporary)
        _put_in_place(temporary, path)
    except Exception as error:
        _discard(path)
        raise OSError(
            getattr(error, "errno", None) or errno.EIO,
            f"the checkpoint was not written ({_first_line(error)}); free some space or choose a "
            "folder that can be written, and run again",
            str(path),
        ) from error


def load(path: str | os.PathLike) -> PyTree:
    """Reads a checkpoint with nothing but its path.

    Returns:
      Nested dicts and lists of numpy arrays; named tuples come back as dicts, tuples as lists,
      typed keys as their data.

    Raises:
      OSError: there is no checkpoint at `path`.
      ValueError: it is damaged.
    """
    source = _verified(Path(path).absolute())
    return _read(source, lambda: ocp.load(source))


def metadata(path: str | os.PathLike) -> dict:
    """The metadata a checkpoint was saved with.

    Raises:
      OSError: there is no checkpoint at `path`.
      ValueError: it is damaged.
    """
    source = _verified(Path(path).absolute())
    return _read(source, lambda: dict(ocp.metadata(source).custom_metadata or {}))


def restore(path: str | os.PathLike, like: PyTree) -> PyTree:
    """Reads a checkpoint into the structure of `like`.

    Args:
      path: the checkpoint.
      like: a tree of arrays, ``jax.ShapeDtypeStruct``, numbers and typed keys; its shapes, dtypes
        and shardings are those of the result.

    Raises:
      OSError: there is no checkpoint at `path`.
      ValueError: it is damaged, or a leaf is missing, left over or of another shape or dtype.
    """
    return _fill(like, load(path), Path(path))


def save_step(
    folder: str | os.PathLike, step: int, tree: PyTree, *, keep: int = 2, metadata=None
) -> Path:
    """Saves `tree` as the checkpoint of `step` in `folder`, and keeps the last `keep`.

    A checkpoint of the same step is replaced; those of later steps, from which the run was not
    continued, are removed.

    Returns:
      The checkpoint's path.

    Raises:
      ValueError: as `save`; `step` negative; `keep` less than 1.
      OSError: as `save`.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step is {step} and keep is {keep}; they must be at least 0 and 1")
    path = Path(folder).absolute() / f"{int(step):08d}"
    save(path, tree, metadata=metadata, overwrite=True)
    earlier = [other for other in _steps(path.parent) if other < step]
    later = [other for other in _steps(path.parent) if other > step]
    for other in later + earlier[: len(earlier) - keep + 1]:
        _remove(path.parent / f"{other:08d}")
    return path


def latest(folder: str | os.PathLike, like: PyTree) -> tuple[int, PyTree] | None:
    """The last checkpoint of `folder` that is whole, restored into the structure of `like`.

    Each damaged one is named in a `DamagedCheckpoint` warning, and the one before it is tried.

    Returns:
      (step, tree), or ``None`` where there is none.

    Raises:
      ValueError: a whole checkpoint does not match `like`.
    """
    folder = Path(folder).absolute()
    for step in reversed(_steps(folder)):
        path = folder / f"{step:08d}"
        try:
            loaded = load(path)
        except (_Damage, OSError) as error:
            message = f"{error}; the checkpoint before it is used"
            warnings.warn(message, DamagedCheckpoint, stacklevel=2)
            continue
        return step, _fill(like, loaded, path)
    return None


def _plain(node: PyTree, path: tuple = ()) -> PyTree:
    if node is None:
        return None
    children, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    if children and not children[0][0]:
        return _as_numpy(node, path)
    pairs = [(keys[0], _plain(child, (*path, *keys))) for keys, child in children]
    if isinstance(node, list | tuple) and not hasattr(node, "_fields"):
        return [child for _, child in pairs]
    return {path_name((key,)): child for key, child in pairs}


def _as_numpy(leaf: object, path: tuple) -> np.ndarray:
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    if array.dtype.kind in "OSUMmT" or array.size == 0:
        raise ValueError(
            f"the leaf {path_name(path)!r} is {type(leaf).__name__} of dtype {array.dtype} and "
            f"shape {array.shape}; a checkpoint holds numbers and booleans, at least one in a leaf"
        )
    return array


def _fill(like: PyTree, loaded: PyTree, path: Path) -> PyTree:
    pairs, structure = jax.tree_util.tree_flatten_with_path(like)
    found = {
        tuple(path_name((key,)) for key in keys): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(loaded)
    }
    wanted = {tuple(path_name((key,)) for key in keys): leaf for keys, leaf in pairs}
    for names, problem in [
        (wanted.keys() - found.keys(), "misses the leaf"),
        (found.keys() - wanted.keys(), "has a leaf that is not asked for:"),
    ]:
        if names:
            raise ValueError(f"the checkpoint {path} {problem} {'/'.join(min(names))!r}")
    leaves = [_like(found[name], leaf, "/".join(name), path) for name, leaf in wanted.items()]
    return jax.tree.unflatten(structure, leaves)


def _like(value: np.ndarray, leaf: object, name: str, path: Path) -> object:
    data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    if isinstance(leaf, bool | int | float | complex):
        data = np.asarray(leaf)
    if value.shape != data.shape or value.dtype != data.dtype:
        raise ValueError(
            f"the leaf {name!r} of the checkpoint {path} is {value.dtype}{list(value.shape)}, "
            f"and {data.dtype}{list(data.shape)} is asked for"
        )
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.array(value), impl=str(jax.random.key_impl(leaf)))
    if isinstance(leaf, np.ndarray | np.generic):
        return value if isinstance(leaf, np.ndarray) else leaf.dtype.type(value)
    if isinstance(leaf, bool | int | float | complex):
        return value.item()
    if getattr(leaf, "weak_type", False) and value.ndim == 0:
        return jnp.asarray(value.item())
    if isinstance(leaf, jax.Array) and leaf.committed:
        return jax.device_put(value, leaf.sharding)
    return jnp.array(value)


def _is_key(leaf: object) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_json(metadata: dict | None) -> dict:
    try:
        return json.loads(json.dumps(metadata or {}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the metadata {metadata!r} is not JSON: {error}") from error


def _quietly(action: Callable):
    """Runs `action` in a thread of its own, where no event loop runs (a notebook has one)."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(action).result()
    finally:
        logger.setLevel(level)


def _read(path: Path, action: Callable):
    try:
        return _quietly(action)
    except Exception as error:
        raise _Damage(f"the checkpoint {path} cannot be read: {_first_line(error)}") from error


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}{suffix}")


def _located(path: Path) -> Path | None:
    """Where the checkpoint lies: at `path`, or beside it if a replacement was cut short."""
    places = (path, _sibling(path, _REPLACED))
    return next((place for place in places if place.exists()), None)


def _require_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"{free} bytes are free, and {size + _SPARE_BYTES} are needed")


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != CHECKSUMS:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            digests[file.relative_to(folder).as_posix()] = digest
    return digests


def _seal(folder: Path) -> None:
    """Writes the checksums and waits until all of `folder` is on the disk."""
    (folder / CHECKSUMS).write_text(json.dumps(_digests(folder), indent=1) + "\n")
    for entry in [folder, *folder.rglob("*")]:
        _sync(entry)


def _sync(entry: Path) -> None:
    descriptor = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(temporary: Path, path: Path) -> None:
    replaced = _sibling(path, _REPLACED)
    if path.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(path, replaced)
    os.rename(temporary, path)
    _sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _verified(path: Path) -> Path:
    source = _located(path)
    if source is None:
        raise FileNotFoundError(errno.ENOENT, "there is no checkpoint here", str(path))
    try:
        expected = json.loads((source / CHECKSUMS).read_text())
        found = _digests(source)
    except (OSError, ValueError) as error:
        raise _Damage(
            f"the checkpoint {path} is damaged: its {CHECKSUMS} cannot be read "
            f"({_first_line(error)}); delete it, or use another checkpoint"
        ) from error
    if expected != found:
        names = expected.keys() | found.keys()
        wrong = min(name for name in names if expected.get(name) != found.get(name))
        raise _Damage(
            f"the checkpoint {path} is damaged: its file {wrong} is not the one that was written; "
            "delete it, or use another checkpoint"
        )
    return source


def _steps(folder: Path) -> list[int]:
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    for name in names:
        if name.startswith(".") and name.endswith(_REPLACED):
            names.append(name[1 : -len(_REPLACED)])
    return sorted({int(name) for name in names if name.isdecimal()})


def _clean(path: Path) -> None:
    """Removes what an interrupted save of `path` left, and finishes an interrupted removal."""
    for entry in path.parent.iterdir():
        if entry.name.startswith(f".{path.name}{_TEMPORARY}"):
            shutil.rmtree(entry)
    if path.exists():
        shutil.rmtree(_sibling(path, _REPLACED), ignore_errors=True)


def _discard(path: Path) -> None:
    try:
        _clean(path)
        if not path.exists() and _located(path):
            os.rename(_located(path), path)
    except OSError:
        return


def _remove(path: Path) -> None:
    """Renames first, so that half a removal is no checkpoint."""
    trash = _sibling(path, _TEMPORARY)
    shutil.rmtree(trash, ignore_errors=True)
    if path.exists():
        os.rename(path, trash)
    shutil.rmtree(trash, ignore_errors=True)
    shutil.rmtree(_sibling(path, _REPLACED), ignore_errors=True)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__

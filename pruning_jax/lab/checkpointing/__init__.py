"""Checkpoints: trees of arrays on disk, written whole or not at all. The only user of Orbax.

A checkpoint is a folder that plain Orbax opens too, with one file more, ``CHECKSUMS.json``: the
SHA-256 of every other file. It is written beside its place and renamed when it is complete.
Nothing that is read back is executed. In a job of several processes all save and load at the same
points, on a file system that they share.
"""

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from pruning_jax.lab import processes, records
from pruning_jax.lab.checkpointing import folders, plain
from pruning_jax.types import PyTree

_NOTE = "_CHECKPOINT_METADATA"
_FILES = {folders.CHECKSUMS, _NOTE, "orbax.checkpoint", "state"}


class DamagedCheckpoint(UserWarning):
    """A checkpoint is damaged, and the one before it is used."""


def save(
    path: str | os.PathLike, tree: PyTree, *, metadata: dict | None = None, overwrite: bool = False
) -> None:
    """Writes `tree` to the folder `path`, which appears whole or not at all.

    Args:
      path: the folder to make; the folders above it are made too.
      tree: any pytree of arrays, numbers, booleans and typed keys; ``None`` is kept.
      metadata: what JSON can hold.
      overwrite: whether a checkpoint at `path` is replaced.

    Raises:
      ValueError: `path` exists and `overwrite` is false, or is no checkpoint; a leaf is no array
        or has no elements; `metadata` is not JSON.
      OSError: the disk is full, read-only or fails. `path` is as it was.
    """
    path = Path(path).absolute()
    arrays = plain.to_plain(tree)
    if not jax.tree.leaves(arrays):
        raise ValueError(f"the tree to be saved to {path} has no leaves")
    note = records.encode(metadata or {})
    if not overwrite and folders.located(path):
        raise ValueError(f"the checkpoint {path} exists; choose another path or overwrite=True")
    if path.exists() and not _is_checkpoint(path):
        raise ValueError(f"{path} exists and is no checkpoint; choose another path or delete it")
    folders.write_folder(
        path,
        lambda folder: _quietly(lambda: ocp.save(folder, arrays, custom_metadata=note)),
        size=sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)),
    )


def load(path: str | os.PathLike, *, whose: Mapping[str, Any] | None = None) -> PyTree:
    """Reads a checkpoint with nothing but its path.

    Args:
      path: the checkpoint.
      whose: what its metadata must hold, such as the job that it belongs to.

    Returns:
      Nested dicts and lists of numpy arrays; named tuples come back as dicts, tuples as lists,
      typed keys as their data.

    Raises:
      OSError: there is no checkpoint at `path`.
      ValueError: it is damaged (`folders.DamagedFolderError`), or another's.
    """
    source = folders.verified(Path(path).absolute())
    if whose:
        _require_own(Path(path), _note(source), records.decode(records.encode(whose)))
    return _read(source, lambda: ocp.load(source))


def metadata(path: str | os.PathLike) -> dict[str, Any]:
    """The metadata that a checkpoint was saved with.

    Raises:
      OSError: there is no checkpoint at `path`.
      ValueError: it is damaged (`folders.DamagedFolderError`).
    """
    return _note(folders.verified(Path(path).absolute()))


def _note(source: Path) -> dict[str, Any]:
    """What Orbax wrote of the metadata, read without it, which takes 20 times as long."""
    return _read(source, lambda: records.read_json(source / _NOTE, {})["custom_metadata"])


def _require_own(path: Path, note: dict[str, Any], whose: dict[str, Any]) -> None:
    found, wanted = records.dotted(note, ""), records.dotted(whose, "")
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ValueError(
                f"the checkpoint {path} is another's: its {name.lstrip('.')} is "
                f"{found.get(name, 'absent')}, and {value} is asked for; delete it, or put its own "
                "back"
            )


def remove(path: str | os.PathLike) -> None:
    """Removes a folder of checkpoints, all at once; in a job of several processes one may."""
    folders.remove(Path(path).absolute())


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
    return plain.from_plain(load(path), like, f"the checkpoint {path}")


def save_step(
    folder: str | os.PathLike,
    step: int,
    tree: PyTree,
    *,
    keep: int = 2,
    metadata: dict | None = None,
) -> Path:
    """Saves `tree` as the checkpoint of `step` in `folder`, and keeps the last `keep`.

    A checkpoint of the same step is replaced. Those of later steps are removed: the run went on
    from before them.

    Returns:
      The checkpoint's path.

    Raises:
      ValueError: as `save`; a negative `step`; `keep` less than 1.
      OSError: as `save`.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step is {step} and keep is {keep}; step is at least 0 and keep 1")
    path = _step_path(Path(folder).absolute(), step)
    save(path, tree, metadata=metadata, overwrite=True)
    processes.together(lambda: _remove_others(path, step, keep))
    return path


def steps(folder: str | os.PathLike) -> list[int]:
    """The steps of which `folder` has a checkpoint, whole or damaged, in order."""
    folder = Path(folder).absolute()
    found = [int(name) for name in folders.names(folder) if name.isdecimal()]
    return sorted(step for step in found if folders.located(_step_path(folder, step)))


def latest(
    folder: str | os.PathLike,
    like: PyTree,
    *,
    most: int | None = None,
    whose: Mapping[str, Any] | None = None,
) -> tuple[int, PyTree] | None:
    """The last checkpoint of `folder` that is whole, restored into the structure of `like`.

    Each damaged one is named in a `DamagedCheckpoint` warning, and the one before it is used.

    Args:
      folder: of `save_step`.
      like: as in `restore`.
      most: the last step that serves, if not any.
      whose: as in `load`.

    Returns:
      (step, tree), or ``None`` where there is none.

    Raises:
      ValueError: a whole checkpoint does not match `like`, or is another's.
    """
    folder = Path(folder).absolute()
    for step in reversed(steps(folder)):
        if most is not None and step > most:
            continue
        path = _step_path(folder, step)
        try:
            arrays = load(path, whose=whose)
        except (folders.DamagedFolderError, OSError) as error:
            warnings.warn(f"{error}; the one before it is used", DamagedCheckpoint, stacklevel=2)
            continue
        return step, plain.from_plain(arrays, like, f"the checkpoint {path}")
    return None


def _remove_others(path: Path, step: int, keep: int) -> None:
    """Removes the checkpoints beside that of `step` that are not kept."""
    others = steps(path.parent)
    earlier = [other for other in others if other < step]
    for other in earlier[: max(0, len(earlier) + 1 - keep)] + others[others.index(step) + 1 :]:
        folders.remove(_step_path(path.parent, other))
    folders.remove_leftovers(path.parent)


def _quietly(action: Callable[[], Any]) -> Any:
    """Runs an action of Orbax in a thread without an event loop; a notebook's thread has one."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(action).result()
    finally:
        logger.setLevel(level)


def _read(path: Path, action: Callable[[], Any]) -> Any:
    try:
        return _quietly(action)
    except Exception as error:
        raise folders.DamagedFolderError(
            f"the checkpoint {path} cannot be read: {error}"
        ) from error


def _is_checkpoint(path: Path) -> bool:
    """Whether a checkpoint is or was at `path`; an empty folder is what is left of one."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    return not names or bool(names & _FILES)


def _step_path(folder: Path, step: int) -> Path:
    return folder / f"{step:08d}"

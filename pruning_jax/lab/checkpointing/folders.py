"""Folders that are written whole or not at all, and that tell when they were damaged.

A folder is filled beside its place, sealed with ``CHECKSUMS.json``, the SHA-256 of its every other
file, and renamed. What it replaces is renamed first, and found there if the process dies between
the two: readers go through `verified`.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pruning_jax.lab import processes, records

CHECKSUMS = "CHECKSUMS.json"
_WRITING, _REPLACED = "writing", "replaced"
_SPARE_BYTES = 1 << 20


class DamagedFolderError(ValueError):
    """The files of a folder are not those that were written."""


def write_folder(path: Path, fill: Callable[[Path], object], size: int) -> None:
    """Writes the folder `path`, replacing what is there.

    Args:
      path: an absolute path.
      fill: called with the path of a folder, which it makes and fills; on every process of a job.
      size: about how many bytes that takes.

    Raises:
      OSError: the disk is full, read-only or fails. `path` is as it was.
    """
    temporary = _beside(path, _WRITING)
    try:
        processes.together(lambda: _prepare(path, temporary, size))
        fill(temporary)
        processes.together(lambda: _complete(path, temporary))
    except Exception as error:
        if processes.is_first():
            _undo(path)
        if processes.is_lost(error):
            raise
        raise records.unwritten(path, error) from error


def _prepare(path: Path, temporary: Path, size: int) -> None:
    """Makes sure that a folder of so many bytes can be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clean(path)
    if shutil.disk_usage(path.parent).free < size + _SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    temporary.mkdir()
    temporary.rmdir()


def _complete(path: Path, temporary: Path) -> None:
    """Puts a folder that has been filled in its place."""
    _seal(temporary)
    if path.exists():
        os.rename(path, _beside(path, _REPLACED))
    os.rename(temporary, path)
    _sync(path.parent)
    _delete(_beside(path, _REPLACED))


def located(path: Path) -> Path | None:
    """Where the folder lies: in its place, or beside it if its replacement was cut short."""
    places = (path, _beside(path, _REPLACED))
    return next((place for place in places if place.exists()), None)


def verified(path: Path) -> Path:
    """Where the folder lies, its files compared with their checksums.

    Raises:
      FileNotFoundError: there is none.
      DamagedFolderError: a file is missing, left over, or has changed.
    """
    source = located(path)
    if source is None:
        raise FileNotFoundError(errno.ENOENT, "there is no checkpoint here", str(path))
    try:
        written = json.loads((source / CHECKSUMS).read_bytes())
        found = _digests(source)
        wrong = [name for name in written | found if written.get(name) != found.get(name)]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        wrong = [CHECKSUMS]
    if wrong:
        raise DamagedFolderError(
            f"the checkpoint {path} is damaged: its file {min(wrong)} is not as it was written; "
            "delete the folder and run again, or use another checkpoint"
        )
    return source


def remove(path: Path) -> None:
    """Removes a folder, renaming it first, so that half of it is never found."""
    _delete(_beside(path, _REPLACED))
    if path.exists():
        trash = _beside(path, _WRITING)
        _delete(trash)
        os.rename(path, trash)
        _delete(trash)


def names(parent: Path) -> set[str]:
    """The names of the folders in `parent` that `located` finds."""
    entries = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    whole = {entry for entry in entries if not entry.startswith(".")}
    return whole | {entry[1 : -len(_REPLACED) - 1] for entry in entries if _is_replaced(entry)}


def remove_leftovers(parent: Path) -> None:
    """Removes what killed processes left of folders that they were writing in `parent`."""
    for entry in parent.iterdir():
        if entry.name.startswith(".") and f".{_WRITING}" in entry.name:
            _delete(entry)


def _is_replaced(name: str) -> bool:
    return name.startswith(".") and name.endswith(f".{_REPLACED}")


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file != folder / CHECKSUMS:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
            digests[file.relative_to(folder).as_posix()] = digest.hexdigest()
    return digests


def _seal(folder: Path) -> None:
    """Writes the checksums and waits until the whole folder is on the disk."""
    (folder / CHECKSUMS).write_text(json.dumps(_digests(folder), indent=1) + "\n")
    for entry in [*folder.rglob("*"), folder]:
        _sync(entry)


def _sync(entry: Path) -> None:
    descriptor = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clean(path: Path) -> None:
    """Removes what a write of `path` left when it was cut short."""
    for entry in path.parent.iterdir():
        if entry.name.startswith(_beside(path, _WRITING).name):
            _delete(entry)
    if path.exists():
        _delete(_beside(path, _REPLACED))


def _undo(path: Path) -> None:
    try:
        if not path.exists() and located(path):
            os.rename(_beside(path, _REPLACED), path)
        _clean(path)
    except OSError:
        return


def _delete(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)

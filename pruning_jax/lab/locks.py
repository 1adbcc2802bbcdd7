"""Who works in a folder: locks that the system gives back when the process that holds one ends."""

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

from pruning_jax.lab import records

NAME = ".lock"
_SECONDS = 0.5


def take(folder: Path, message: str) -> int:
    """Takes a folder, made where it is missing, for this process.

    Args:
      folder: which.
      message: what the error says where another process has it.

    Returns:
      The lock; to close it is to give the folder back.

    Raises:
      OSError: another process has it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise records.unwritten(folder, error) from error
    last = time.monotonic() + _SECONDS
    while not _try(descriptor, fcntl.LOCK_EX):
        # One who only looks, in `is_taken`, holds it for a moment.
        if time.monotonic() > last:
            os.close(descriptor)
            raise BlockingIOError(errno.EAGAIN, message, str(folder))
        time.sleep(_SECONDS / 50)
    return descriptor


def is_taken(folder: Path) -> bool:
    """Whether a process has the folder now."""
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY)
    except FileNotFoundError:
        return False
    with contextlib.closing(os.fdopen(descriptor)):
        return not _try(descriptor, fcntl.LOCK_SH)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

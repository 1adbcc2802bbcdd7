"""The processes of one job: which is the first, what they decide, and what one does for all.

A job has several processes where `jax.distributed` was initialised. All of them run the same
program and call everything here at the same points; in a job of one process nothing waits.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from pruning_jax.types import PyTree

_MESSAGE_BYTES = 2_000
_LOST = ("UNKNOWN: Gloo", "UNAVAILABLE", "INTERNAL: Gloo")
"""How a ValueError of jaxlib begins where a collective has lost a peer."""
_OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED", "FAILED_PRECONDITION")


class OtherProcessError(RuntimeError):
    """The first process of the job failed at what it did for all."""


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def is_lost(error: Exception) -> bool:
    """Whether an error says that another process of the job does not answer: it may have died.

    Other errors of JAX, such as memory that is exhausted, are this process's own.
    """
    if jax.process_count() == 1:
        return False
    if isinstance(error, jax.errors.JaxRuntimeError):
        return not str(error).startswith(_OWN)
    return isinstance(error, ValueError) and str(error).startswith(_LOST)


def agree(value: bool) -> bool:
    """Whether `value` is true on any process: the same answer on all of them."""
    if jax.process_count() == 1:
        return bool(value)
    return bool(np.any(multihost_utils.process_allgather(np.asarray(bool(value)))))


def least(value: int) -> int:
    """The smallest `value` of any process: the same answer on all of them."""
    if jax.process_count() == 1:
        return value
    return int(np.min(multihost_utils.process_allgather(np.asarray(value))))


def require_same(**values: Any) -> None:
    """Checks that all processes of the job have come here with the same values.

    Raises:
      ValueError: on all of them, if not; names those that differ.
    """
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(repr(value).encode()).digest() for value in values.values()]
    own = np.frombuffer(b"".join(digests), np.uint8).reshape(len(values), -1)
    equal = (multihost_utils.process_allgather(own) == own).all(axis=(0, 2))
    differing = [name for name, same in zip(values, equal, strict=True) if not same]
    if differing:
        raise ValueError(
            f"the processes of the job differ in {', '.join(differing)}; start all of them with "
            "the same command and packages, on a disk that they share"
        )


def together(action: Callable[[], Any]) -> Any:
    """Has the first process run `action`, after all have come here, and lets none go on before.

    So what the others have read before is not changed under them, and what they read after is all
    there, on a file system that they share.

    Returns:
      What `action` returned, on the first process; ``None`` on the others.

    Raises:
      OtherProcessError: on the other processes, where `action` raised; the first raises its error.
    """
    if jax.process_count() == 1:
        return action()
    agree(False)
    result = error = None
    if is_first():
        try:
            result = action()
        except Exception as raised:
            error = raised
    message = _broadcast("" if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    if message:
        raise OtherProcessError(f"the first process of the job failed: {message}")
    return result


def first_alone(function: Callable) -> Callable:
    """Decorates a function that the first process runs for all, as `together` says."""

    @functools.wraps(function)
    def run(*arguments, **options):
        return together(lambda: function(*arguments, **options))

    return run


def fetch(array: Any) -> np.ndarray:
    """An array, or a typed key's data, as a NumPy array on every process."""
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def _broadcast(text: str) -> str:
    """The first process's `text` on every process."""
    line = text.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0")
    sent: PyTree = multihost_utils.broadcast_one_to_all(np.frombuffer(line, np.uint8))
    return bytes(np.asarray(sent, np.uint8)).rstrip(b"\0").decode(errors="replace")

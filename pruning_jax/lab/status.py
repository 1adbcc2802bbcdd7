"""How a run stands: what it wrote in its directory's status.json, and whether it is alive."""

import datetime
import os
from pathlib import Path
from typing import NamedTuple

from pruning_jax import choices
from pruning_jax.lab import locks, records

FILE = "status.json"

_TEXTS = ("error", "time")

WRITTEN = ("running", "stopped", "failed", "finished")
"""What a run says of itself: "stopped" is one that kept its state when it was asked to end."""


class Status(NamedTuple):
    """How a run stands.

    Attributes:
      state: one of `WRITTEN`; "dead" where a run ended without a word; "absent" where none began.
      error: what a failed run ended with, in a line.
      time: when that was written, in ISO format.
    """

    state: str
    error: str | None = None
    time: str | None = None


def write(path: str | os.PathLike, state: str, error: str | None = None) -> None:
    """Writes status.json in a run directory; in a job of several processes only one may.

    Raises:
      ValueError: no state that is written.
      OSError: the disk is full, read-only or fails.
    """
    choices.check("state", state, WRITTEN)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = None if error is None else " ".join(error.split())
    content = records.to_json({"state": state, "error": line, "time": now})
    records.write_whole(Path(path) / FILE, content)


def read(workdir: str | os.PathLike) -> Status:
    """How the run of a directory stands, now: failed where status.json is damaged."""
    path = Path(workdir)
    status = _written(path)
    if status.state != "running" or locks.is_taken(path):
        return status
    # It may have ended between the two looks.
    status = _written(path)
    if status.state != "running":
        return status
    began = status.time is not None or (path / "config.json").exists()
    return status._replace(state="dead" if began else "absent")


def _written(path: Path) -> Status:
    try:
        found = records.read_json(path / FILE, {})
    except ValueError as error:
        return Status("failed", str(error))
    state = found.get("state", "running")
    if state not in WRITTEN:
        return Status("failed", f"{FILE} says {state!r}, which is no state")
    return Status(state, *(None if found.get(of) is None else str(found[of]) for of in _TEXTS))

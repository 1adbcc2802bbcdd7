"""A sweep's folder: what it holds, whose it is, and how its runs stand.

sweep.json    {"config": file, "base": its config, "sweep": name, "runs": [{name, overrides}]}
configs/      what every run runs, fixed when the sweep is written
runs/NAME/    a run directory each
logs/NAME.log what each run printed
submitit/     on Slurm: submitit's files, and the job of each run
gathered/     a run directory of the base config: all rows, the claims and figures they give
"""

import contextlib
import errno
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from launch import written
from pruning_jax.lab import locks, records, status, sweeps

_FILE = "sweep.json"
_SHOWN = 5
_TAIL_BYTES = 20_000

STATES = ("finished", "running", "queued", "stopped", "dead", "failed", "absent")
"""How a run may stand: as `status.read` says, or queued, where Slurm is to start it."""

Record = dict[str, Any]


class Standing(NamedTuple):
    """How one run of a sweep stands."""

    name: str
    overrides: str
    state: str
    error: str | None
    progress: str


def record(file: str, sweep: str, base: Any, runs: list[sweeps.Run]) -> Record:
    """What sweep.json holds."""
    content = {
        "config": file,
        "base": base.to_dict(),
        "sweep": sweep,
        "runs": [{"name": run.name, "overrides": run.overrides} for run in runs],
    }
    return records.decode(json.loads(records.to_json(content)))


def read(folder: Path) -> Record:
    """What sweep.json holds.

    Raises:
      OSError: there is no sweep in the folder.
      ValueError: the file is damaged.
    """
    if not (folder / _FILE).exists():
        raise FileNotFoundError(errno.ENOENT, "there is no sweep in this folder", str(folder))
    return records.read_json(folder / _FILE, {})


def is_there(folder: Path) -> bool:
    """Whether a sweep was written into a folder."""
    return (folder / _FILE).exists()


@contextlib.contextmanager
def held(folder: Path, content: Record) -> Iterator[None]:
    """Holds a new or empty folder, or one of the same sweep, for this process alone.

    Raises:
      ValueError: it holds another sweep, or something else.
      OSError: it cannot be written, or another sweep process works in it.
    """
    _check(folder, content)
    lock = locks.take(folder, "another sweep process works in this folder; wait for it to end")
    try:
        _check(folder, content)
        if not (folder / _FILE).exists():
            records.write_whole(folder / _FILE, records.to_json(content, indent=1))
        yield
    finally:
        os.close(lock)


def _check(folder: Path, content: Record) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "the sweep's folder is a file", str(folder))
    if not folder.exists():
        return
    if not (folder / _FILE).exists():
        ours = {folder / locks.NAME, *records.leftovers(folder)}
        others = sorted(entry.name for entry in folder.iterdir() if entry not in ours)
        if others:
            raise ValueError(
                f"the folder {folder} holds {others[0]!r} and no {_FILE}, so it is no sweep's; "
                "choose an empty or a new one"
            )
        return
    differing = _differences(read(folder), content)
    if differing:
        more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise ValueError(
            f"the folder {folder} holds another sweep; choose another folder, or give the same "
            f"config and sweep: {'; '.join(differing[:_SHOWN])}{more}"
        )


def _differences(there: Record, now: Record) -> list[str]:
    before, after = _fields(there), _fields(now)
    return [
        f"{field} is {before.get(field, 'absent')} there, {after.get(field, 'absent')} now"
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
    ]


def _fields(content: Record) -> dict[str, str]:
    """The base config's fields and the runs by their names; a file may have moved."""
    fields = {f"the run {run['name']}": _shown(run["overrides"]) for run in content["runs"]}
    return fields | records.dotted(content["base"], "config")


def standings(folder: Path, content: Record, queued: Collection[str] = ()) -> list[Standing]:
    """How every run stands, in the sweep's order; `queued` are those that Slurm is to start."""
    found = []
    for run in content["runs"]:
        path = folder / "runs" / run["name"]
        state, error, _ = status.read(path)
        if run["name"] in queued and state not in ("running", "finished"):
            state, error = "queued", None
        found.append(Standing(run["name"], _shown(run["overrides"]), state, error, _progress(path)))
    return found


def _shown(overrides: Record) -> str:
    return sweeps.describe(written.tupled(overrides))


def _progress(path: Path) -> str:
    """How many rows a run has, and what it last logged."""
    try:
        rows = (path / "results.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        rows = 0
    try:
        with open(path / "metrics.jsonl", "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
            last = json.loads(stream.read().splitlines()[-1])["job"]
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        last = {}
    at = [f"{key}={last[key]}" for key in ("workload", "seed", "step") if key in last]
    phase = [str(last["phase"])] if "phase" in last else []
    return ", ".join([f"{rows} rows", *([" ".join(phase + at)] if last else [])])


def table(found: list[Standing]) -> str:
    """The counts of each state, and a line for every run."""
    counts = Counter(standing.state for standing in found)
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines = [[run.name, run.state, run.overrides, run.progress, run.error or ""] for run in found]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([f"{len(found)} runs: {told}", *rows])

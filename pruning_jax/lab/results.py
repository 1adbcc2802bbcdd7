"""The run directory: what a study writes, and how it is read back.

    config.json     {"config", "study", "versions", "devices", "git": [...], "started": [...]}
    metrics.jsonl   a row an epoch of every training
    results.jsonl   the study's long table, a row a job
    claims.json     the list of claims
    status.json     how the run stands, written by `status`
    figures/        .svg and .png
    checkpoints/    written by `checkpointing`

Every file is strict JSON; `records` says how it holds floats that are not finite, and `tables` what
a row is.
"""

import datetime
import errno
import hashlib
import io
import os
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pruning_jax.lab import environment, locks, processes, records, status, tables
from pruning_jax.lab.records import Record, write_whole
from pruning_jax.lab.tables import Job, Row

_TAKEN = "a run is going on in this work directory; wait for it or choose another"


class Results(NamedTuple):
    """What a run directory holds.

    Attributes:
      config: the resolved config.
      metrics: the rows of metrics.jsonl, the job and what it found in one record each.
      results: those of results.jsonl.
      claims: the list of claims.json.
      provenance: the rest of config.json: study, versions, devices, git, started.
    """

    config: Record
    metrics: list[Record]
    results: list[Record]
    claims: list[Record]
    provenance: Record

    @property
    def table(self) -> Any:
        """The rows of results.jsonl as a `pandas.DataFrame`."""
        return tables.frame(self.results)


class Run:
    """A run directory that this process holds, from `open_run` until `close`.

    In a job of several processes all call every method at the same points; the first one writes.

    Attributes:
      path: the directory.
      identity: a digest of the config, the same wherever the directory lies.
      checkpoints: where `checkpointing` writes.
      table: results.jsonl.
      metrics: metrics.jsonl.
    """

    def __init__(self, path: Path, config: Record, lock: int | None) -> None:
        self.path = path
        self.identity = hashlib.sha256(tables.key(config).encode()).hexdigest()[:12]
        self.checkpoints = path / "checkpoints"
        self.table = tables.Table(path / "results.jsonl")
        self.metrics = tables.Table(path / "metrics.jsonl")
        self._release = (lambda: None) if lock is None else weakref.finalize(self, os.close, lock)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process open the directory."""
        self._release()

    def log(self, job: Job, found: Record) -> None:
        """Appends one row to metrics.jsonl; no process waits for another.

        Raises:
          ValueError, OSError: as `tables.Table.add`.
        """
        self.metrics.add([Row(job, found)])

    def forget(self, jobs: Iterable[Job]) -> None:
        """Drops the metrics of jobs, all at once."""
        jobs = list(jobs)
        processes.together(lambda: self.metrics.forget(jobs))
        self.metrics.forget(jobs)

    def rows(self) -> list[Record]:
        """The rows of results.jsonl, the job and what it found in one record each."""
        return self.table.rows()

    def add(self, rows: Iterable[Row]) -> None:
        """Appends `rows` to results.jsonl.

        Raises:
          ValueError, OSError: as `tables.Table.add`.
        """
        rows = list(rows)
        processes.together(lambda: self.table.add(rows))
        if not processes.is_first():
            self.table.add(rows)

    @processes.first_alone
    def write_claims(self, claims: Iterable[Record]) -> None:
        """Writes claims.json."""
        write_whole(self.path / "claims.json", records.to_json(list(claims), indent=1))

    def figure_path(self, name: str, ext: str) -> Path:
        """Where the figure `name` is written, with the extension `ext`.

        Raises:
          ValueError: `name` is no file name.
        """
        if not name or Path(name).name != name:
            raise ValueError(f"the figure name {name!r} must be a file name without a folder")
        return self.path / "figures" / f"{name}.{ext.lstrip('.')}"

    @processes.first_alone
    def save_figure(self, figure: Any, name: str) -> None:
        """Writes a matplotlib figure as figures/`name`.svg and .png, each whole or not at all."""
        for ext, metadata in [("svg", {"Date": None}), ("png", None)]:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ext, metadata=metadata)
            write_whole(self.figure_path(name, ext), buffer.getvalue())


def open_run(workdir: str | os.PathLike, config: Mapping, *, study: str) -> Run:
    """Opens a run directory, new or of the same study and config, for this process or job alone.

    Args:
      workdir: the folder; it is made where it is missing.
      config: the resolved config, of values that JSON can hold.
      study: the study's name.

    Returns:
      The run. A record that a kill cut short is gone from its files.

    Raises:
      ValueError: the folder holds a run of another config, or something that is no run; the
        processes of a job do not share it.
      OSError: the folder cannot be written, or another process runs in it.
    """
    path = Path(workdir).absolute()
    config = records.decode(records.encode(config))
    lock = processes.together(lambda: _open(path, config, study))
    # The first process has just written when it started.
    written = path / "config.json"
    processes.require_same(workdir=written.read_text("utf-8") if written.exists() else None)
    return Run(path, config, lock)


def _open(path: Path, config: Record, study: str) -> int:
    """Checks, locks and mends a run directory; returns the lock."""
    _require_run_or_empty(path)
    lock = locks.take(path, _TAKEN)
    try:
        _write_config(path / "config.json", config, study)
        for folder in (path, path / "figures"):
            records.remove_leftovers(folder)
        for name in ("metrics.jsonl", "results.jsonl"):
            records.drop_torn_line(path / name)
    except BaseException:
        os.close(lock)
        raise
    return lock


def read(workdir: str | os.PathLike) -> Results:
    """Reads a run directory, running or finished; what is not written yet comes back empty.

    Raises:
      OSError: there is no such folder.
      ValueError: a file is damaged.
    """
    path = Path(workdir)
    if not path.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no run directory here", str(path))
    provenance = records.read_json(path / "config.json", {})
    return Results(
        config=provenance.pop("config", {}),
        metrics=[row.flat() for row in tables.read(path / "metrics.jsonl")],
        results=[row.flat() for row in tables.read(path / "results.jsonl")],
        claims=records.read_json(path / "claims.json", []),
        provenance=provenance,
    )


def _require_run_or_empty(path: Path) -> None:
    if path.exists() and not path.is_dir():
        message = "the work directory is a file; choose another"
        raise NotADirectoryError(errno.ENOTDIR, message, str(path))
    if not path.exists() or (path / "config.json").exists():
        return
    ours = {path / locks.NAME, path / status.FILE, *records.leftovers(path)}
    others = sorted(entry.name for entry in path.iterdir() if entry not in ours)
    if others:
        raise ValueError(
            f"the work directory {path} holds {others[0]!r} and no config.json, so it is no run "
            "directory; choose an empty or a new one"
        )


def _write_config(path: Path, config: Record, study: str) -> None:
    versions = environment.versions()
    start = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    record = records.read_json(path, {})
    if not record:
        record = {"config": config, "study": study, "versions": versions}
        record["devices"] = environment.devices()
    else:
        _require_same(path.parent, record, {"config": config, "study": study})
    if versions != record.get("versions"):
        start["versions"] = versions
    record["git"] = [*record.get("git", []), environment.revision()]
    record["started"] = [*record.get("started", []), start]
    write_whole(path, records.to_json(record, indent=1))


def _require_same(workdir: Path, old: Record, new: Record) -> None:
    before = records.dotted(old.get("config"), "config") | {"study": repr(old.get("study"))}
    now = records.dotted(new["config"], "config") | {"study": repr(new["study"])}
    lines = [
        f"  {name}: {before.get(name, 'absent')} there, {now.get(name, 'absent')} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if lines:
        raise ValueError(
            f"the work directory {workdir} holds a run of another config; choose another "
            "directory, or give the same config:\n" + "\n".join(lines)
        )

"""The run directory: what a study writes, and how it is read back.

    config.json     {"config", "study", "surroundings", "versions", "devices", "git", "started"}
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
      provenance: the rest of config.json: study, surroundings, versions, devices, git, started.
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
      notes: what differs from the start before, to be said before anything is computed.
    """

    def __init__(self, path: Path, config: Record, opened: "_Opened") -> None:
        self.path = path
        self.notes = opened.notes
        self._start, self._closed = opened.start, False
        lock = opened.lock
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
        """Lets another process open the directory; nothing is added any more."""
        self._closed = True
        self._release()

    @property
    def is_unchanged(self) -> bool:
        """Whether the run was finished before, and nothing was added since it was opened."""
        return self._start is not None

    def _begin(self) -> None:
        """Notes the start of what was finished before, once there is something to add."""
        if self._closed:
            raise ValueError(f"the run in {self.path} is closed; open it again to add to it")
        if self._start is not None and processes.is_first():
            write_whole(self.path / "config.json", self._start)
        self._start = None

    def log(self, job: Job, found: Record) -> None:
        """Appends one row to metrics.jsonl; no process waits for another.

        Raises:
          ValueError, OSError: as `tables.Table.add`.
        """
        self._begin()
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
        if rows:
            self._begin()
        processes.together(lambda: self.table.add(rows))
        if not processes.is_first():
            self.table.add(rows)

    @processes.first_alone
    def write_claims(self, claims: Iterable[Record]) -> None:
        """Writes claims.json."""
        _write_new(self.path / "claims.json", records.to_json(list(claims), indent=1).encode())

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
            _write_new(self.figure_path(name, ext), buffer.getvalue())


def _write_new(path: Path, content: bytes) -> None:
    """Writes a file whose content is another than it was."""
    if not path.exists() or path.read_bytes() != content:
        write_whole(path, content)


class _Opened(NamedTuple):
    """What the first process of a job knows of a run directory once it has opened it.

    Attributes:
      lock: on it.
      start: what config.json will hold once something is added, where the run was finished.
      notes: of `Run`.
    """

    lock: int | None = None
    start: str | None = None
    notes: tuple[str, ...] = ()


def open_run(
    workdir: str | os.PathLike,
    config: Mapping,
    *,
    study: str,
    surroundings: Mapping | None = None,
) -> Run:
    """Opens a run directory, new or of the same study and config, for this process or job alone.

    Args:
      workdir: the folder; it is made where it is missing.
      config: the resolved config, of values that JSON can hold.
      study: the study's name.
      surroundings: what else its rows depend on, such as a digest of the data.

    Returns:
      The run. A record that a kill cut short is gone from its files.

    Raises:
      ValueError: the folder holds a run of another config or other surroundings, or something that
        is no run; the processes of a job do not share it.
      OSError: the folder cannot be written, or another process runs in it.
    """
    path = _located(workdir)
    wanted = {"config": config, "study": study, "surroundings": surroundings or {}}
    wanted = records.decode(records.encode(wanted))
    opened = processes.together(lambda: _open(path, wanted)) or _Opened()
    # The first process has just written when it started.
    written = path / "config.json"
    processes.require_same(workdir=written.read_text("utf-8") if written.exists() else None)
    return Run(path, wanted["config"], opened)


def _located(workdir: str | os.PathLike) -> Path:
    """The folder that is meant."""
    given = os.fspath(workdir)
    if "://" in given:
        raise ValueError(
            f"the work directory {given} is an address; choose a folder of this machine"
        )
    return Path(given).expanduser().absolute()


def _open(path: Path, wanted: Record) -> _Opened:
    """Checks, locks and mends a run directory."""
    _require_run_or_empty(path)
    lock = locks.take(path, _TAKEN)
    try:
        start, notes = _write_config(path, wanted)
        for folder in (path, path / "figures"):
            records.remove_leftovers(folder)
        for name in ("metrics.jsonl", "results.jsonl"):
            records.drop_torn_line(path / name)
    except BaseException:
        os.close(lock)
        raise
    return _Opened(lock, start, notes)


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


def _write_config(path: Path, wanted: Record) -> tuple[str | None, tuple[str, ...]]:
    """Checks what config.json holds, and adds this start to it, or leaves that for later."""
    file, versions = path / "config.json", environment.versions()
    start = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    record, git = records.read_json(file, {}), environment.revision()
    notes = _changes(record, git, versions)
    if not record:
        tables_there = [path / name for name in ("results.jsonl", "metrics.jsonl")]
        if any(table.exists() and table.stat().st_size for table in tables_there):
            raise ValueError(
                f"the work directory {path} holds rows, and its config.json does not say of what; "
                "restore it, or choose another directory"
            )
        record = wanted | {"versions": versions, "devices": environment.devices()}
    else:
        _require_same(path, record, wanted)
        record["surroundings"] = record.get("surroundings") or wanted["surroundings"]
    if versions != record.get("versions"):
        start["versions"] = versions
    record["git"] = [*record.get("git", []), git]
    record["started"] = [*record.get("started", []), start]
    content = records.to_json(record, indent=1)
    if status.read(path).state == "finished":
        return content, notes
    write_whole(file, content)
    return None, notes


def _changes(record: Record, git: Record, versions: Record) -> tuple[str, ...]:
    """What of the source and the packages is not as it was at the last start, in words."""
    if not record.get("git"):
        return ()
    notes, before = [], record["git"][-1]
    if {name: before.get(name) for name in git} != git:
        notes.append(f"the source was at {_revision(before)}, and is at {_revision(git)} now")
    starts = [start["versions"] for start in record.get("started", []) if "versions" in start]
    last = [record.get("versions", {}), *starts][-1]
    notes += [
        f"{package} was {last.get(package)}, and is {version} now"
        for package, version in versions.items()
        if last.get(package) != version
    ]
    return tuple(notes)


def _revision(git: Record) -> str:
    name = (git.get("revision") or "no known revision")[:12]
    return f"{name} with changes ({git.get('changes') or 'unknown'})" if git.get("dirty") else name


def _require_same(workdir: Path, old: Record, new: Record) -> None:
    before, now = _fields(old), _fields(new)
    differing = [
        name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)
    ]
    if not (old.get("surroundings") and new["surroundings"]):
        differing = [name for name in differing if not name.startswith("surroundings")]
    if differing:
        lines = [
            f"  {name}: {before.get(name, 'absent')} there, {now.get(name, 'absent')} now"
            for name in differing
        ]
        raise ValueError(
            f"the work directory {workdir} holds a run of another config, or of other data or "
            "settings of JAX; choose another directory, or give the same:\n" + "\n".join(lines)
        )


def _fields(record: Record) -> dict[str, str]:
    """What must stay the same from start to start, by dotted names."""
    found = records.dotted(record.get("config"), "config")
    found |= records.dotted(record.get("surroundings") or {}, "surroundings")
    return found | {"study": repr(record.get("study"))}

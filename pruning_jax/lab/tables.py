"""The tables of a run: files of one row a line, which grow by whole rows and are not read again.

A row is a job and what it found, ``{"job": {...}, "found": {...}}``. A job is its own name: the
values that say which piece of work it is, such as a phase, a seed and a sparsity.
"""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pruning_jax.lab import processes, records
from pruning_jax.lab.records import Record

Job = Record

_PLACES = ("phase", "workload")
_START = '{"job": '

SECONDS_BETWEEN_SYNCS = 1.0
"""A power failure may cost the rows of so long; what they say is then found again."""


class Row(NamedTuple):
    """What a job found."""

    job: Job
    found: Record

    def flat(self) -> Record:
        """Both in one record."""
        return self.job | self.found


def key(job: Job) -> str:
    """A text of its own for every job, whatever the order of its values; 1.0 is 1."""
    return json.dumps(_plain(job), sort_keys=True)


def name(job: Job) -> str:
    """A job in a line."""
    return " ".join([*_places(job), *_values(job)])


def folder(job: Job) -> str:
    """The place of what a job keeps: ``phase/workload/...``, every value in its name."""
    return "/".join([*_places(job), ",".join(_values(job))])


class Table:
    """A file of rows that this process writes, with the jobs that have a row in memory.

    In a job of several processes the first one writes, and all know what is there.

    Args:
      path: the file; where it is missing, it appears with the first row.

    Raises:
      ValueError: a line is no row, or a job has two.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced = 0.0
        self._known = {key(row.job) for row in read(path)}

    def __contains__(self, job: Job) -> bool:
        return key(job) in self._known

    def __len__(self) -> int:
        return len(self._known)

    def add(self, rows: Iterable[Row]) -> None:
        """Appends rows at once; a kill leaves the first of them, each whole.

        Raises:
          ValueError: a job has a row already, or shares a name with what it found; a value that
            JSON cannot hold. Nothing is written.
          OSError: the disk is full or fails; the file is as it was.
        """
        rows = list(rows)
        new = {key(row.job): row for row in rows}
        for row in rows:
            if key(row.job) in self._known or new[key(row.job)] is not row:
                raise ValueError(f"the job {name(row.job)} has a row already; add each job once")
            _check(row)
        lines = records.to_lines(row._asdict() for row in rows)
        if rows and processes.is_first():
            late = time.monotonic() - self._synced > SECONDS_BETWEEN_SYNCS
            records.append(self.path, lines, synced=late)
            self._synced = time.monotonic() if late else self._synced
        self._known.update(new)

    def forget(self, jobs: Iterable[Job]) -> int:
        """Drops the rows of jobs, all at once, and returns how many there were."""
        gone = self._known.intersection(map(key, jobs))
        if gone and processes.is_first():
            kept = [row for row in read(self.path) if key(row.job) not in gone]
            records.write_whole(self.path, records.to_lines(row._asdict() for row in kept))
        self._known -= gone
        return len(gone)

    def replace(self, lines: Iterable[str]) -> None:
        """Writes other rows, whole or not at all, in place of those there are."""
        if processes.is_first():
            records.write_whole(self.path, "".join(lines))
        self._known = {key(row.job) for row in read(self.path)}

    def rows(self) -> list[Record]:
        """Every row, job and what it found in one record."""
        return [row.flat() for row in read(self.path)]


def read(path: Path) -> list[Row]:
    """The rows of a file, none where there is no file; a line that is being written is left out.

    Raises:
      ValueError: a line is no row, or a job has two.
    """
    found: dict[str, Row] = {}
    for number, record in enumerate(records.read_lines(path), 1):
        if record.keys() != {"job", "found"} or not all(map(_is_record, record.values())):
            raise ValueError(
                f"line {number} of the file {path} is damaged (it is no row, which has a job and "
                "what it found); restore it or delete the line"
            )
        row = Row(**record)
        before = found.setdefault(key(row.job), row)
        if before is not row:
            same = key(before.found) == key(row.found)
            raise ValueError(
                f"line {number} of the file {path} is a second row of the job {name(row.job)}, "
                f"{'the same as' if same else 'and differs from'} the first; delete one of them"
            )
        _check(row)
    return list(found.values())


def union(paths: Mapping[str, Path]) -> list[str]:
    """The lines of several tables in their order, each job's once.

    Args:
      paths: what each table is called, and its file.

    Raises:
      ValueError: a line has no job, or two tables have a job and differ in what it found.
    """
    found: dict[str, tuple[str, str]] = {}
    for table, path in paths.items():
        for number, line in enumerate(_lines(path), 1):
            try:
                job, _ = json.JSONDecoder().raw_decode(line, len(_START))
                before, first = found.setdefault(key(job), (table, line))
            except (ValueError, RecursionError, AttributeError) as error:
                place = f"line {number} of the file {path}"
                raise ValueError(f"{place} is no row; restore it or delete the line") from error
            if first != line:
                _require_equal(job, before, first, table, line)
    return [line for _, line in found.values()]


def _lines(path: Path) -> list[str]:
    """The whole lines of a file with their ends, none where there is no file."""
    text = path.read_text("utf-8") if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _require_equal(job: Job, before: str, first: str, table: str, line: str) -> None:
    one, other = (json.loads(text)["found"] for text in (first, line))
    columns = [column for column in one | other if one.get(column) != other.get(column)]
    if columns:
        raise ValueError(
            f"the runs {before} and {table} differ in {', '.join(columns)} of {name(job)}; remove "
            "the directory of one of them and run it again"
        )


def frame(rows: Iterable[Record]) -> Any:
    """Rows as a `pandas.DataFrame`: a column for every name, in the order of their appearance."""
    import pandas  # a second to import, and no run needs it

    return pandas.DataFrame.from_records(list(rows))


def _check(row: Row) -> None:
    if not row.job:
        raise ValueError(f"a row that found {', '.join(row.found)} has no job; name it")
    both = row.job.keys() & row.found.keys()
    if both:
        raise ValueError(
            f"the job {name(row.job)} has found {min(both)!r}, one of its own values; give it "
            "another name"
        )


def _is_record(value: Any) -> bool:
    return isinstance(value, dict)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, str | int | float | None) else records.encode(value)


def _places(job: Job) -> list[str]:
    return [str(job[place]) for place in _PLACES if place in job]


def _values(job: Job) -> list[str]:
    return [
        f"{column}={value:.15g}" if isinstance(value, float) else f"{column}={value}"
        for column, value in job.items()
        if column not in _PLACES
    ]

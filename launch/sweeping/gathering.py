"""Puts the rows of a sweep's runs into one run directory, and lets the study conclude."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from launch.sweeping.folders import Record, tupled
from pruning_jax import studies
from pruning_jax.lab import records, results, status
from pruning_jax.studies.phases import Session, describe
from pruning_jax.studies.rows import Row, identity

FOLDER = "gathered"


def union(tables: Iterable[tuple[str, list[Row]]]) -> list[Row]:
    """The rows of several runs in their order, each once.

    Args:
      tables: each run's name and rows.

    Raises:
      ValueError: two runs have measured one unit of work and found different values.
    """
    found: dict[tuple, tuple[str, Row]] = {}
    for name, rows in tables:
        for row in rows:
            unit = identity(row)
            key = tuple(sorted((column, repr(value)) for column, value in unit.items()))
            before, first = found.setdefault(key, (name, row))
            if repr(first) != repr(row):
                columns = [column for column in row if repr(row[column]) != repr(first.get(column))]
                raise ValueError(
                    f"the runs {before} and {name} differ in {', '.join(columns)} of "
                    f"{describe(unit)}; remove the directory of one of them and run it again"
                )
    return [row for _, row in found.values()]


def gather(
    folder: Path,
    content: Record,
    report: Callable[[str, int, int, Mapping[str, float]], None],
) -> list[str]:
    """Gathers the rows of all finished runs in the folder's `FOLDER`, and concludes from them.

    Args:
      folder: the sweep's.
      content: of its sweep.json.
      report: the study's, while it concludes.

    Returns:
      The names of the runs that are not finished.

    Raises:
      ValueError: no run is finished, or `union` refuses their rows.
      OSError: the folder cannot be written, or another process gathers.
    """
    finished, rows = _finished(folder, content)
    if not finished:
        raise ValueError(f"no run of the sweep in {folder} is finished")
    config = tupled(content["base"])
    study = studies.find(config["study"])
    plan = study.build(config)
    missing = [run["name"] for run in content["runs"] if run["name"] not in finished]
    with results.open_run(folder / FOLDER, config, study=config["study"]) as run:
        status.write(run.path, "running")
        run.write_rows(rows)
        study.conclude(plan, Session(run, report))
        status.write(run.path, "stopped" if missing else "finished")
    return missing


def is_current(folder: Path, content: Record) -> bool:
    """Whether what was gathered is what `gather` would gather now, with no run missing."""
    _, rows = _finished(folder, content)
    there = records.read_lines(folder / FOLDER / "results.jsonl")
    return status.read(folder / FOLDER).state == "finished" and repr(there) == repr(rows)


def _finished(folder: Path, content: Record) -> tuple[list[str], list[Row]]:
    """The names of the finished runs, and their rows."""
    paths = {run["name"]: folder / "runs" / run["name"] for run in content["runs"]}
    finished = [name for name, path in paths.items() if status.read(path).state == "finished"]
    tables = ((name, records.read_lines(paths[name] / "results.jsonl")) for name in finished)
    return finished, union(tables)

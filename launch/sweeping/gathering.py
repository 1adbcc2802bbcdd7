"""Puts the rows of a sweep's runs into one run directory, and lets the study conclude."""

from collections.abc import Callable, Mapping
from pathlib import Path

from launch.sweeping.folders import Record
from launch.written import tupled
from pruning_jax import studies
from pruning_jax.lab import results, status, tables
from pruning_jax.lab.jobs import Lab

FOLDER = "gathered"


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
      ValueError: no run is finished, or two differ in what a job found.
      OSError: the folder cannot be written, or another process gathers.
    """
    finished, lines = _finished(folder, content)
    if not finished:
        raise ValueError(f"no run of the sweep in {folder} is finished")
    config = tupled(content["base"])
    study = studies.find(config["study"])
    plan = study.build(config)
    missing = [run["name"] for run in content["runs"] if run["name"] not in finished]
    with results.open_run(folder / FOLDER, config, study=config["study"]) as run:
        status.write(run.path, "running")
        run.table.replace(lines)
        study.conclude(plan, Lab(run, report))
        status.write(run.path, "stopped" if missing else "finished")
    return missing


def is_current(folder: Path, content: Record) -> bool:
    """Whether what was gathered is what `gather` would gather now, with no run missing."""
    if status.read(folder / FOLDER).state != "finished":
        return False
    _, lines = _finished(folder, content)
    return (folder / FOLDER / "results.jsonl").read_text("utf-8") == "".join(lines)


def _finished(folder: Path, content: Record) -> tuple[list[str], list[str]]:
    """The names of the finished runs, and their rows as lines."""
    paths = {run["name"]: folder / "runs" / run["name"] for run in content["runs"]}
    finished = [name for name, path in paths.items() if status.read(path).state == "finished"]
    return finished, tables.union({name: paths[name] / "results.jsonl" for name in finished})

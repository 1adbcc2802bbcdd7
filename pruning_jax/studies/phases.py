"""What the phases of a study share: units of work, their rows and their networks.

A phase writes its checkpoint first and its rows last: what has a row is finished, and what has none
is continued from the checkpoint of its middle, or begun again, to the same bits.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from pruning_jax import data, evaluation
from pruning_jax.lab import checkpointing, processes, results, tables
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Params

SECONDS_BETWEEN_CHECKPOINTS = 30.0

describe, folder_name = tables.name, tables.folder

Row = dict[str, Any]
Item = TypeVar("Item")


class Stopped(Exception):
    """A study was asked to stop and has kept what it can; the message says where it was."""


def never() -> bool:
    """Asks for no stop."""
    return False


class Session(NamedTuple):
    """Where a study writes, how it tells what it does, and how it is stopped.

    Attributes:
      run: the run directory.
      report: called with what is being done, how much of it is, how much there is, and figures.
      stopping: whether the study is asked to stop, at the next place where nothing is lost.
    """

    run: results.Run
    report: Callable[[str, int, int, Mapping[str, float]], None]
    stopping: Callable[[], bool] = never

    def tell(self, label: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Reports, and raises `Stopped` where the study is asked to stop."""
        self.report(label, done, total, figures)
        self.check(f"{label}: {done}/{total}")

    def check(self, label: str) -> None:
        """Raises `Stopped` where the study is asked to stop; all processes come here together."""
        if processes.agree(self.stopping()):
            raise Stopped(label)

    def checked(self, label: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items, with a `check` after each, before the next is drawn."""
        for item in items:
            yield item
            self.check(label)

    def due(self, since: float) -> bool:
        """Whether to keep what is under way: a stop is asked for, or the last time is long ago."""
        late = time.monotonic() - since > SECONDS_BETWEEN_CHECKPOINTS
        return processes.agree(late or self.stopping())


def matches(row: Row, unit: Row) -> bool:
    """Whether a row or record carries every value of `unit`."""
    return all(row.get(key) == value for key, value in unit.items())


def pending(run: results.Run, units: Iterable[Row], kept: Iterable[Row] = ()) -> list[Row]:
    """The units of work to do: those without a row, or among `kept` without a whole checkpoint."""
    kept = list(kept)
    found = [
        unit for unit in units if unit not in run.table or (unit in kept and not _whole(run, unit))
    ]
    processes.require_same(pending=found)
    return found


def _whole(run: results.Run, unit: Row) -> bool:
    try:
        checkpointing.metadata(run.checkpoints / folder_name(unit))
    except OSError:
        return False
    except ValueError:
        message = f"{run.checkpoints / folder_name(unit)} is damaged; it is made again"
        warnings.warn(message, checkpointing.DamagedCheckpoint, stacklevel=3)
        return False
    return True


def record(run: results.Run, rows: Iterable[Row], units: Iterable[Row]) -> None:
    """Adds the rows of units, but for those that are there."""
    new = [
        tables.Row(unit, {name: value for name, value in row.items() if name not in unit})
        for row, unit in zip(rows, units, strict=True)
        if unit not in run.table
    ]
    run.add(new)


def rows_of(rows: Iterable[Row], units: Iterable[Row]) -> list[Row]:
    """The one row of each unit.

    Raises:
      LookupError: a unit has no row.
    """
    rows = list(rows)
    found = []
    for unit in units:
        row = next((row for row in rows if matches(row, unit)), None)
        if row is None:
            raise LookupError(f"no row for {describe(unit)}")
        found.append(row)
    return found


def measure(workload: Workload, variables: Params, dataset: data.Dataset) -> Row:
    """Loss and accuracy on the three splits, in evaluation mode."""
    found = {}
    for split in ("train", "validation", "test"):
        metrics = evaluation.evaluate(
            workload.pretraining.apply_fn, variables, getattr(dataset, split)
        )
        found |= {
            f"{split}_loss": float(metrics.loss),
            f"{split}_accuracy": float(metrics.accuracy),
        }
    return found


def save(run: results.Run, unit: Row, variables: Params, columns: Row | None = None) -> None:
    """Keeps the network of a unit of work."""
    checkpointing.save(
        run.checkpoints / folder_name(unit),
        variables,
        metadata=unit | (columns or {}),
        overwrite=True,
    )

"""Jobs of a study: which are left, and the one loop that does them, records and tells.

A job keeps its network first and adds its row last: what has a row is finished, and what has none
is continued from the checkpoint of its middle, or begun again, to the same bits.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from pruning_jax.lab import checkpointing, processes, results, tables
from pruning_jax.lab.records import Record
from pruning_jax.lab.tables import Job, Row
from pruning_jax.types import PyTree

SECONDS_BETWEEN_CHECKPOINTS = 30.0
FIGURES = 2
"""How many of a job's figures are told."""

Item = TypeVar("Item")
Found = Record | list[Record]


class Stopped(Exception):
    """A study was asked to stop and has kept what it can; the message says where it was."""


def never() -> bool:
    """Asks for no stop."""
    return False


class Lab(NamedTuple):
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

    def keep(self, job: Job, tree: PyTree, found: Record | None = None) -> None:
        """Keeps the network of a job, with whose it is and what is known of it."""
        note = self._whose(job) | {"found": found or {}}
        path = self.run.checkpoints / tables.folder(job)
        checkpointing.save(path, tree, metadata=note, overwrite=True)

    def kept(self, job: Job) -> Any:
        """The network that a job kept: nested dicts and lists of arrays.

        Raises:
          OSError: there is none.
          ValueError: it is damaged, or another job's or run's.
        """
        path = self.run.checkpoints / tables.folder(job)
        return jax.tree.map(jnp.asarray, checkpointing.load(path, whose=self._whose(job)))

    def _whose(self, job: Job) -> Record:
        return {"job": job, "run": self.run.identity}


def fill(
    lab: Lab,
    jobs: Iterable[Job],
    measure: Callable[[list[Job]], Iterable[Found]],
    *,
    keeps: Iterable[Job] = (),
) -> None:
    """Does the jobs that are left: measures, records and tells them one after another.

    Args:
      lab: where to.
      jobs: all of them, in their order.
      measure: the jobs that are left -> what each found, in their order, drawn one at a time; a
        list is what several of them found, to be recorded at once.
      keeps: those whose networks `measure` keeps; what is lost of them is made again.

    Raises:
      Stopped: the study was asked to stop; what was drawn is recorded.
      ValueError: `measure` gives more or fewer than there are jobs.
    """
    jobs = list(jobs)
    left = pending(lab, jobs, keeps)
    done = 0
    for found in measure(left) if left else ():
        several = found if isinstance(found, list) else [found]
        group = left[done : done + len(several)]
        record(lab, group, several)
        done += len(several)
        finished = len(jobs) - len(left) + done
        lab.tell(tables.name(group[-1]), finished, len(jobs), _figures(several[-1]))
    if done < len(left):
        raise ValueError(f"{tables.name(left[done])} and those after it were not measured")


def pending(lab: Lab, jobs: Iterable[Job], keeps: Iterable[Job] = ()) -> list[Job]:
    """The jobs without a row, or among `keeps` without a whole network; on every process alike."""
    networks = {tables.key(job) for job in keeps}
    found = [
        job
        for job in jobs
        if job not in lab.run.table or (tables.key(job) in networks and not _whole(lab.run, job))
    ]
    processes.require_same(pending=found)
    return found


def record(lab: Lab, jobs: Iterable[Job], found: Iterable[Record]) -> None:
    """Adds what jobs found, but for those that have a row."""
    rows = [Row(*pair) for pair in zip(jobs, found, strict=True)]
    lab.run.add([row for row in rows if row.job not in lab.run.table])


def _whole(run: results.Run, job: Job) -> bool:
    path = run.checkpoints / tables.folder(job)
    try:
        checkpointing.metadata(path)
    except OSError:
        return False
    except ValueError:
        message = f"{path} is damaged; it is made again"
        warnings.warn(message, checkpointing.DamagedCheckpoint, stacklevel=4)
        return False
    return True


def _figures(found: Record) -> dict[str, float]:
    """The last numbers of a row."""
    numbers = [(name, value) for name, value in found.items() if isinstance(value, float)]
    return dict(numbers[-FIGURES:])

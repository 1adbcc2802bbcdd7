"""Runs the jobs of a sweep on this machine, some at a time, each in a process of its own."""

import concurrent.futures
import threading
from collections.abc import Callable, Mapping

from launch.sweeping import commands
from launch.sweeping.commands import Job
from pruning_jax.lab import status

_SECONDS_BETWEEN_LOOKS = 1.0


def run(
    jobs: list[Job],
    processes: int,
    stopping: threading.Event,
    report: Callable[[str, int, int, Mapping[str, float]], None],
) -> None:
    """Runs jobs until all have ended, or until `stopping` is set and those that run have stopped.

    Args:
      jobs: what to run, in this order.
      processes: how many at a time.
      stopping: set from elsewhere.
      report: called with what is done, how much of it is, how much there is, and figures.
    """
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        running = [pool.submit(_one, job, stopping) for job in jobs]
        try:
            for done, ended in enumerate(concurrent.futures.as_completed(running), 1):
                failed += ended.result() != "finished"
                report("sweep", done, len(jobs), {"unfinished": failed})
        except BaseException:
            stopping.set()
            raise


def _one(job: Job, stopping: threading.Event) -> str:
    """Runs one job, unless another process does; returns how it stands."""
    while status.read(job.workdir).state == "running":
        if stopping.wait(_SECONDS_BETWEEN_LOOKS):
            break
    if not stopping.is_set() and status.read(job.workdir).state != "finished":
        commands.execute(job, stopping)
    return status.read(job.workdir).state

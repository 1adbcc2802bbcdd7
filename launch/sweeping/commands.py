"""One run of a sweep as a command of its own: what it is called with, and how it is watched."""

import datetime
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from launch import written
from launch.stopping import STOPPED
from pruning_jax.lab import records, status, sweeps

ROOT = Path(__file__).resolve().parents[2]

FINISHED = 0

SECONDS_TO_STOP = 60.0
"""How long a run that was asked to end has for it before it is killed."""

_SECONDS_BETWEEN_LOOKS = 0.2


class Job(NamedTuple):
    """One run's command.

    Attributes:
      name: the run's.
      workdir: its run directory.
      log: where it prints to.
      arguments: of ``launch.main``.
    """

    name: str
    workdir: Path
    log: Path
    arguments: tuple[str, ...]

    def command(self) -> list[str]:
        """The whole command, to be run in `ROOT`."""
        own = f"--workdir={self.workdir}"
        return [sys.executable, "-m", "launch.main", self.arguments[0], own, *self.arguments[1:]]


def jobs(folder: Path, runs: list[sweeps.Run]) -> list[Job]:
    """The command of every run of a sweep, whose configs `write` has put into its folder."""
    return [
        Job(
            run.name,
            folder / "runs" / run.name,
            folder / "logs" / f"{run.name}.log",
            (f"--config={written.__file__}:{_config(folder, run)}",),
        )
        for run in runs
    ]


def write(folder: Path, runs: list[sweeps.Run]) -> None:
    """Writes the config of every run, from which it is read whenever the run starts.

    Raises:
      OSError: the disk is full, read-only or fails.
    """
    for run in runs:
        if not _config(folder, run).exists():
            records.write_whole(
                _config(folder, run), records.to_json(run.config.to_dict(), indent=1)
            )


def _config(folder: Path, run: sweeps.Run) -> Path:
    return folder / "configs" / f"{run.name}.json"


def execute(job: Job, stopping: threading.Event) -> int:
    """Runs a job to its end, and asks it to end when `stopping` is set.

    Where it fails without saying so in its run directory, this says so there.

    Returns:
      Its exit status; negative is the signal that killed it.
    """
    task = os.environ.get("SLURM_PROCID", "0")
    log = job.log if task == "0" else job.log.with_suffix(f".{task}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as stream:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        stream.write(f"== {now} {shlex.join(job.command())}\n".encode())
        stream.flush()
        start = stream.tell()
        code = _wait(_start(job, stream), stopping)
    failed = code not in (FINISHED, STOPPED) and code > 0
    if failed and task == "0" and status.read(job.workdir).state not in ("running", "failed"):
        status.write(job.workdir, "failed", _last_words(log, start) or f"exit status {code}")
    return code


def _start(job: Job, stream) -> subprocess.Popen:
    # Slurm may send its warning to every process of a task; it is meant for this one alone.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        return subprocess.Popen(
            job.command(),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(child: subprocess.Popen, stopping: threading.Event) -> int:
    asked = None
    while child.poll() is None:
        if not stopping.wait(_SECONDS_BETWEEN_LOOKS):
            continue
        if asked is None:
            child.terminate()
            asked = time.monotonic()
        elif time.monotonic() - asked > SECONDS_TO_STOP:
            child.kill()
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return child.returncode


def _last_words(log: Path, start: int) -> str | None:
    """The last error that a log holds after `start`, or else its last line."""
    with open(log, "rb") as stream:
        stream.seek(start)
        lines = stream.read().decode(errors="replace").split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [None])[-1]

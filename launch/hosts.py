"""Joins the processes of one job, which may run on several hosts, through `jax.distributed`."""

import contextlib
import io
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax

from pruning_jax.lab import processes

JOIN_SECONDS = 300
DEAD_AFTER_SECONDS = 30

OWN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = ("SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
FIRST_PORT, PORTS = 61_440, 4_096


class Job(NamedTuple):
    """A job of several processes, and which of them this is.

    Attributes:
      address: ``host:port`` at which process 0 waits for the others.
      processes: how many.
      process: the index of this one.
    """

    address: str
    processes: int
    process: int


def find(environment: Mapping[str, str]) -> Job | None:
    """The job that the environment describes, or ``None`` where this process is alone.

    It is described by ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``, or
    by the variables that Slurm's ``srun`` sets for a step of several tasks.

    Raises:
      ValueError: one of the three is missing, or has a value that it cannot have.
    """
    if set(OWN) & environment.keys():
        missing = [name for name in OWN if not environment.get(name)]
        if missing:
            raise ValueError(
                f"{missing[0]} is not set; a job of several processes needs {', '.join(OWN)}"
            )
        address = environment[OWN[0]]
        names = OWN
    elif set(SLURM) <= environment.keys() and "SLURM_JOB_ID" in environment:
        address = f"{_first_host(environment[SLURM[0]])}:{_port(environment['SLURM_JOB_ID'])}"
        names = SLURM
    else:
        return None
    count, own = (_number(name, environment[name]) for name in names[1:])
    if not re.fullmatch(r"\S+:\d+", address) or not 0 < int(address.rpartition(":")[2]) < 2**16:
        raise ValueError(f"{names[0]} is {address!r}; it must be HOST:PORT, a port below 65536")
    if not own < count:
        raise ValueError(
            f"{names[2]} is {own}; it must be 0 to {count - 1}, as {names[1]} is {count}"
        )
    return Job(address, count, own) if count > 1 else None


@contextlib.contextmanager
def joined(environment: Mapping[str, str], seconds: float = JOIN_SECONDS) -> Iterator[None]:
    """Joins the job that the environment describes, if it does, before JAX has started.

    A process that dies ends the job: others that wait for it end at once, all after
    `DEAD_AFTER_SECONDS`. So an error within ends this process without waiting for the others. Only
    the first process prints.

    Raises:
      ValueError: as `find`.
    """
    job = find(environment)
    if job is None:
        yield
        return
    _join(job, seconds)
    try:
        with contextlib.redirect_stdout(io.StringIO() if job.process else sys.stdout):
            yield
    except SystemExit as error:
        if isinstance(error.code, str):
            _leave(error.code)
        raise
    except jax.errors.JaxRuntimeError as error:
        if processes.is_lost(error):
            _leave(f"error: process {job.process}: another process of the job has ended: {error}")
        _leave(traceback.format_exc())
    except BaseException:
        _leave(traceback.format_exc())


def _join(job: Job, seconds: float) -> None:
    late = threading.Timer(seconds, _give_up, [job, seconds])
    late.daemon = True
    late.start()
    # Signals are for `stopping`, which asks all processes.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        job.address,
        job.processes,
        job.process,
        initialization_timeout=int(seconds) + 60,
        # Of the address alone: otherwise every interface of the host listens.
        coordinator_bind_address=job.address if job.process == 0 else None,
        heartbeat_timeout_seconds=DEAD_AFTER_SECONDS,
        shutdown_timeout_seconds=DEAD_AFTER_SECONDS,
    )
    late.cancel()
    # Programs that run at once on a CPU would take each other's messages.
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def _give_up(job: Job, seconds: float) -> None:
    what = "did not answer" if job.process else f"waited for {job.processes} processes in vain"
    _leave(
        f"error: process {job.process}: the coordinator, {job.address}, {what} for {seconds:g} s; "
        f"check that all {job.processes} processes run, and that they reach this address"
    )


def _leave(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise ValueError(f"{name} is {value!r}; it must be an integer, 0 or more")
    return int(value)


def _first_host(nodes: str) -> str:
    """The first host of a list of Slurm's, such as ``node[003-007,9],other``."""
    name, number = re.match(r"([^,\[]*)(?:\[(\d+))?", nodes).groups()
    return name + (number or "")


def _port(job: str) -> int:
    """A port of the job's own, the same on every host."""
    return FIRST_PORT + _number("SLURM_JOB_ID", job) % PORTS

"""What can be done with a sweep: run it, show how it stands, gather its rows."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from launch import display, overrides
from launch.sweeping import commands, folders, gathering, local, slurm
from pruning_jax import choices, studies
from pruning_jax.lab import sweeps

PLACES = ("local", "slurm")

STARTED = ("absent", "dead", "stopped")
"""The states of runs that `run` starts."""


class Options(NamedTuple):
    """What is asked for.

    Attributes:
      folder: the sweep's.
      file: the config file, as in ``--config``.
      config: what it gives, with the overrides of the command line.
      sweep: one of the file's SWEEPS.
      on: one of `PLACES`.
      processes: how many runs go on at a time on this machine.
      slurm: what submitit asks Slurm for, as ``name=value,...``.
      retry: whether failed runs are run again.
    """

    folder: Path
    file: str | None = None
    config: ConfigDict | None = None
    sweep: str | None = None
    on: str = "local"
    processes: int = 2
    slurm: str = ""
    retry: bool = False


def run(options: Options, stopping: threading.Event) -> int:
    """Starts what is not finished, and gathers once everything is.

    Args:
      options: what is asked for.
      stopping: set from elsewhere, to end the runs of this machine and this one.

    Returns:
      The exit status: 0 where all runs are finished, 1 where some have failed, and otherwise that
      of what continues with the same command.

    Raises:
      ValueError: nothing can be run so.
      OSError: the folder cannot be written, or another sweep process works in it.
    """
    _check(options)
    folder, runs = options.folder, _planned(options)
    content = folders.record(options.file, options.sweep, options.config, runs)
    executor = None
    if options.on == "slurm":
        executor = slurm.executor(folder, slurm.parameters(options.slurm))
    with folders.held(folder, content):
        commands.write(folder, runs)
        found = folders.standings(folder, content, slurm.queued(folder))
        wanted = STARTED + ("failed",) * options.retry + ("running",) * (executor is None)
        names = {standing.name for standing in found if standing.state in wanted}
        left = [job for job in commands.jobs(folder, runs) if job.name in names]
        if executor is not None:
            slurm.submit(executor, folder, left)
        else:
            local.run(left, options.processes, stopping, display.reporter())
        return _ended(options, stopping)


def _check(options: Options) -> None:
    choices.check("place to run on", options.on, PLACES)
    if options.processes < 1:
        raise ValueError(f"processes is {options.processes}; it must be 1 or more")
    if options.slurm and options.on != "slurm":
        raise ValueError("--slurm needs --on=slurm")
    if options.config is None or options.sweep is None:
        raise ValueError("run needs --config and --sweep")


def _planned(options: Options) -> list[sweeps.Run]:
    """The sweep's runs; of a new one on this machine the first can be built, before any starts."""
    module, _ = overrides.load(options.file)
    known = getattr(module, "SWEEPS", {})
    if not known:
        raise ValueError(f"{options.file} has no SWEEPS")
    choices.check("sweep", options.sweep, known)
    try:
        sets = list(known[options.sweep](options.config))
    except Exception as error:
        raise ValueError(f"the sweep {options.sweep} of {options.file} fails: {error}") from error
    runs = sweeps.resolve(options.config, sets)
    if options.on == "local" and not folders.is_there(options.folder):
        jax.config.update("jax_platforms", "cpu")  # the runs need the other devices
        config = runs[0].config.to_dict()
        studies.find(config["study"]).build(config)
    return runs


def _ended(options: Options, stopping: threading.Event) -> int:
    """Shows how the runs stand, and gathers if all are finished."""
    folder = options.folder
    found = folders.standings(folder, folders.read(folder), _queued(folder))
    print(folders.table(found))
    states = {standing.state for standing in found}
    if stopping.is_set():
        return commands.STOPPED
    if states != {"finished"}:
        return 1 if "failed" in states else commands.STOPPED
    if not gathering.is_current(folder, folders.read(folder)):
        gather(options, stopping)
    return 0


def show(options: Options, _: threading.Event) -> int:
    """Prints how every run stands."""
    content = folders.read(options.folder)
    print(f"sweep {content['sweep']} of {content['config']}")
    print(folders.table(folders.standings(options.folder, content, _queued(options.folder))))
    return 0


def _queued(folder: Path) -> set[str]:
    try:
        return slurm.queued(folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        return set()


def gather(options: Options, _: threading.Event) -> int:
    """Gathers what is finished, and says what is not."""
    folder = options.folder
    missing = gathering.gather(folder, folders.read(folder), display.reporter())
    if missing:
        print(f"gathered without {len(missing)} unfinished runs: {' '.join(missing)}")
    print(f"gathered in {folder / gathering.FOLDER}")
    return 0


Action = Callable[[Options, threading.Event], int]

ACTIONS: dict[str, Action] = {"run": run, "status": show, "gather": gather}


def find(arguments: list[str]) -> Action:
    """The action that a command line's words name: `run` without any.

    Raises:
      ValueError: there is no such action, or more than one word.
    """
    name, *others = arguments or ["run"]
    if others:
        raise ValueError(f"unknown argument {others[0]!r}; give one action")
    choices.check("action", name, ACTIONS)
    return ACTIONS[name]

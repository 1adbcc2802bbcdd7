"""Submits the jobs of a sweep to Slurm as an array, through submitit; a task each."""

import ast
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from launch.sweeping import commands
from launch.sweeping.commands import Job
from launch.sweeping.tasks import Task
from pruning_jax.lab import records

ARRAY = 1000
"""How many jobs an array may have; Slurm's own limit is as many unless it is configured."""

TIMEOUTS = 1000
"""How often a job may be put back into the queue when its time is up."""

DEFAULTS = {
    "timeout_min": 60,
    "name": "pruning_jax",
    "stderr_to_stdout": True,
    "slurm_signal_delay_s": 60,
}

_FOLDER = "submitit"
_IDS = "jobs.json"


def parameters(text: str) -> dict[str, Any]:
    """Reads ``name=value,name=value``; values are Python's literals, or else strings.

    Raises:
      ValueError: a part without a name or a value, or a name twice.
    """
    found: dict[str, Any] = {}
    for part in re.split(r",(?=\s*\w+\s*=)", text) if text.strip() else []:
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not (name and sign and value) or name in found:
            raise ValueError(f"--slurm has {part!r}; give NAME=VALUE,..., each name once")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def executor(folder: Path, given: dict[str, Any]) -> Any:
    """submitit's executor for Slurm; nothing is written.

    Args:
      folder: the sweep's.
      given: what submitit's executor takes, such as ``partition`` and ``timeout_min``.

    Raises:
      ValueError: submitit or Slurm is absent, or a parameter is not one.
    """
    try:
        import submitit
    except ImportError as error:
        raise ValueError("Slurm needs submitit: install pruning_jax[slurm]") from error
    common = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node")
    common += ("tasks_per_node", "stderr_to_stdout")
    named = DEFAULTS | {
        key if key in common or key.startswith("slurm_") else f"slurm_{key}": value
        for key, value in given.items()
    }
    always = {"requeue": True, "chdir": str(commands.ROOT)}
    always |= named.pop("slurm_additional_parameters", {})
    try:
        made = submitit.AutoExecutor(
            folder / _FOLDER, cluster="slurm", slurm_max_num_timeout=TIMEOUTS
        )
        made.update_parameters(**named, slurm_additional_parameters=always)
    except (NameError, AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Slurm cannot be used so: {str(error).splitlines()[0]}") from error
    return made


def submit(made: Any, folder: Path, jobs: list[Job]) -> None:
    """Submits jobs, and remembers which of Slurm's each is.

    Raises:
      ValueError: Slurm refuses them.
    """
    for first in range(0, len(jobs), ARRAY):
        part = jobs[first : first + ARRAY]
        try:
            with made.batch():
                submitted = [made.submit(Task(tuple(job))) for job in part]
        except (RuntimeError, subprocess.SubprocessError) as error:
            raise ValueError(f"Slurm refuses the jobs: {' '.join(str(error).split())}") from error
        new = {job.name: own.job_id for job, own in zip(part, submitted, strict=True)}
        path = folder / _FOLDER / _IDS
        records.write_whole(path, records.to_json(records.read_json(path, {}) | new, indent=1))


def queued(folder: Path) -> set[str]:
    """The runs of a folder that wait or run on Slurm now.

    Raises:
      ValueError: runs were submitted, and Slurm does not answer.
    """
    ids = records.read_json(folder / _FOLDER / _IDS, {})
    if not ids:
        return set()
    own = f"--user={os.getuid()}"
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--array", own, "--format=%i"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", None) or str(error)
        raise ValueError(
            f"runs were submitted to Slurm, which does not answer: {' '.join(words.split())}"
        ) from error
    there = set(answer.stdout.split())
    return {name for name, job in ids.items() if job in there}

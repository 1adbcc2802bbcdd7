"""Runs a sweep of a study, on this machine or on Slurm:

python -m launch.sweep --config=configs/NAME.py[:VARIANT] --sweep=SWEEP --folder=DIR [ACTION]

ACTION is `run` (the default), which starts what is not finished, and gathers once everything is;
`status`, which shows how every run stands; or `gather`. The last two need the folder alone.
"""

import functools
import signal
import sys
import threading
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from launch.overrides import parse
from launch.sweeping import actions

CONFIG = config_flags.DEFINE_config_file("config", help_string="The study's config.")
SWEEP = flags.DEFINE_string("sweep", None, "One of the config file's SWEEPS.")
FOLDER = flags.DEFINE_string("folder", None, "The sweep's folder.", required=True)
ON = flags.DEFINE_string("on", "local", "Where runs go: local or slurm.")
PROCESSES = flags.DEFINE_integer("processes", 2, "How many runs go on at a time, with --on=local.")
SLURM = flags.DEFINE_string(
    "slurm", "", "What submitit asks Slurm for: partition=gpu,timeout_min=60,gpus_per_node=1,..."
)
RETRY = flags.DEFINE_boolean("retry", False, "Whether to run failed runs again.")


def main(arguments: list[str]) -> int:
    """Does what the command line says; returns the exit status."""
    logging.set_verbosity(logging.WARNING)
    stopping = threading.Event()
    try:
        action = actions.find(arguments[1:])
        if action is actions.run:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, functools.partial(_stop, stopping))
        options = actions.Options(
            folder=Path(FOLDER.value).absolute(),
            file=_absolute(flags.FLAGS["config"].config_filename) if CONFIG.value else None,
            config=CONFIG.value,
            sweep=SWEEP.value,
            on=ON.value,
            processes=PROCESSES.value,
            slurm=SLURM.value,
            retry=RETRY.value,
        )
        return action(options, stopping)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error
        sys.exit(f"error: {what}")
    except ValueError as error:
        sys.exit(f"error: {error}")


def _stop(stopping: threading.Event, *_: object) -> None:
    """Asks the runs to end; they do so within a minute, however often this is asked."""
    stopping.set()


def _absolute(file: str) -> str:
    """A config file as every run finds it, wherever it runs: ``PATH[:VARIANT]``."""
    path, *variant = file.split(":", 1)
    return ":".join([str(Path(path).absolute()), *variant])


if __name__ == "__main__":
    flags.FLAGS.set_gnu_getopt(True)
    app.run(main, flags_parser=parse)

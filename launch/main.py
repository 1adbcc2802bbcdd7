"""Runs a study: `python -m launch.main --config=configs/NAME.py[:variant] --workdir=DIR`."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from launch import stopping, usage

if __name__ == "__main__":
    usage.answer(sys.argv)
    stopping.leave_at_once()  # what follows takes seconds to import

from absl import app, flags, logging
from ml_collections import config_flags

from launch import display, hosts
from launch.overrides import parse
from pruning_jax import studies
from pruning_jax.lab import meshes, processes, results, status
from pruning_jax.lab.jobs import Lab, Stopped
from pruning_jax.studies import workloads

CONFIG = config_flags.DEFINE_config_file("config", help_string="The study's config.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
DEVICES = flags.DEFINE_integer("devices", None, "How many devices to use; all by default.")
REPLICATES = flags.DEFINE_integer(
    "replicates", None, "How many replicates run side by side; one a device by default."
)
PROFILE = flags.DEFINE_boolean("profile", False, "Whether to say how long every part took.")
flags.mark_flag_as_required("config")


def main(arguments: list[str]) -> None:
    """Checks the config, opens the run directory, runs or continues the study."""
    logging.set_verbosity(logging.WARNING)
    if len(arguments) > 1:
        sys.exit(f"error: unknown argument {arguments[1]!r}; use --config.FIELD=VALUE")
    try:
        with stopping.requested() as asked, hosts.joined(os.environ):
            _run(asked)
    except ValueError as error:
        sys.exit(f"error: {error}")


def _run(asked: Callable[[], bool]) -> None:
    try:
        config = CONFIG.value.to_dict()
        if "study" not in config:
            raise ValueError(
                f"the config has no field 'study'; it is one of {list(studies.STUDIES)}"
            )
        mesh = {"devices": DEVICES.value, "replicates": REPLICATES.value}
        versions = results.environment.versions()
        processes.require_same(config=config, workdir=WORKDIR.value, mesh=mesh, versions=versions)
        study = studies.find(config["study"])
        clock = display.Clock()
        report = clock.timed(display.reporter(sys.stderr if processes.is_first() else None))
        with meshes.use(meshes.make(**mesh)):
            plan = study.build(config)
            clock.part("checks and data")
            opened = results.open_run(
                WORKDIR.value,
                config,
                study=config["study"],
                surroundings=workloads.surroundings(config)
                | {"jax": results.environment.settings()},
            )
            with opened as run, _told(run):
                for note in run.notes:
                    print(f"note: {note}", file=sys.stderr, flush=True)
                study.run(plan, Lab(run, report, asked))
                clock.part("claims and figures")
            file = flags.FLAGS["config"].config_filename
            print(display.summary(run.path, file, len(run.table)))
            if PROFILE.value:
                print(clock.table())
    except Stopped as stop:
        if processes.is_first():
            print(f"stopped after {stop}; the same command continues", file=sys.stderr)
        sys.exit(stopping.STOPPED)
    except OSError as error:
        sys.exit(
            f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}"
        )
    except (ValueError, FloatingPointError, processes.OtherProcessError) as error:
        sys.exit(f"error: {error}")


@contextlib.contextmanager
def _told(run: results.Run) -> Iterator[None]:
    """Keeps status.json while the run goes on, and writes how it ended.

    A job that another process's death has ended says nothing: it is one to be continued.
    """
    first = processes.is_first()

    def write(*state: str) -> None:
        if first and not run.is_unchanged:
            status.write(run.path, *state)

    write("running")
    try:
        yield
    except Stopped:
        write("stopped")
        raise
    except Exception as error:
        if not processes.is_lost(error):
            with contextlib.suppress(OSError):
                write("failed", str(error) or type(error).__name__)
        raise
    write("finished")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)

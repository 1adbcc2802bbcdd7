"""Runs a study: `python -m launch.main --config=configs/NAME.py[:variant] --workdir=DIR`."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from launch import display, overrides
from pruning_jax import results, studies
from pruning_jax.studies.phases import Session

CONFIG = config_flags.DEFINE_config_file("config", help_string="The study's config.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
flags.mark_flag_as_required("config")


def parse(arguments: list[str]) -> list[str]:
    """Parses the command line; an override of an unknown field ends with the fields there are."""
    try:
        return flags.FLAGS(arguments)
    except (flags.Error, ValueError, OSError, AttributeError, KeyError) as error:
        reason = overrides.explain(arguments) or error
        sys.exit(f"error: {str(reason).strip().splitlines()[-1]}")


def main(arguments: list[str]) -> None:
    """Checks the config, opens the run directory, runs or continues the study."""
    logging.set_verbosity(logging.WARNING)
    if len(arguments) > 1:
        sys.exit(f"error: unknown argument {arguments[1]!r}; use --config.FIELD=VALUE")
    try:
        config = CONFIG.value.to_dict()
        study = studies.find(config["study"])
        plan = study.build(config)
        with results.open_run(WORKDIR.value, config, study=config["study"]) as run:
            study.run(plan, Session(run, display.reporter()))
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else str(error))
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)

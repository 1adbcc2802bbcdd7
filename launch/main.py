"""Runs a study: `python -m launch.main --config=configs/NAME.py[:variant] --workdir=DIR`."""

import sys

from absl import app, flags
from ml_collections import config_flags

from launch import display
from pruning_jax import results, studies
from pruning_jax.studies.phases import Session

CONFIG = config_flags.DEFINE_config_file("config", help_string="The study's config.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)


def main(argv: list[str]) -> None:
    """Checks the config, opens the run directory, runs or continues the study."""
    if len(argv) > 1:
        raise app.UsageError(
            f"unknown argument {argv[1]!r}; values are set by --config.FIELD=VALUE"
        )
    config = CONFIG.value.to_dict()
    try:
        study = studies.find(config["study"])
        plan = study.build(config)
        run = results.open_run(WORKDIR.value, config, study=config["study"])
        study.run(plan, Session(run, display.reporter()))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)

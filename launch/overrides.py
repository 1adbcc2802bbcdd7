"""Explains a command line that sets a field the config does not have."""

import sys
from collections.abc import Iterable

from absl import flags
from ml_collections import ConfigDict, config_flags

from pruning_jax import choices

PREFIX = "--config."


def explain(arguments: list[str]) -> Exception | None:
    """What is wrong with the config or an override's field; ``None`` where it is something else."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    # The config flag reads the overrides from sys.argv itself.
    sys.argv = [argument for argument in arguments if not argument.startswith(PREFIX)]
    try:
        values(sys.argv, known_only=True)
        check(arguments, values.config)
    except (flags.Error, ValueError, OSError) as error:
        return error
    return None


def check(arguments: Iterable[str], config: ConfigDict) -> None:
    """Raises `ValueError` for the first override of an unknown field, with the fields there are."""
    for argument in arguments:
        if not argument.startswith(PREFIX):
            continue
        section, path = config, "config"
        for field in argument[len(PREFIX) :].split("=")[0].split("."):
            if not isinstance(section, ConfigDict):
                raise ValueError(f"{path} is a value and has no field {field!r}")
            choices.check(f"field of {path}", field, section)
            section, path = section[field], f"{path}.{field}"

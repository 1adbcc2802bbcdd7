"""Configs and command lines: what overrides say, what is wrong with them, and the way back."""

import copy
import importlib.util
import sys
from collections.abc import Iterable
from types import ModuleType

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


def arguments(before: ConfigDict, after: ConfigDict, place: str = "") -> list[str]:
    """The overrides on a command line that turn one config of a file into another."""
    found = []
    for field in after:
        old, new = before.get(field), after[field]
        sections = isinstance(old, ConfigDict) and isinstance(new, ConfigDict)
        if sections and set(old) == set(new):
            found += arguments(old, new, f"{place}{field}.")
        elif repr(old) != repr(new):
            value = new.to_dict() if isinstance(new, ConfigDict) else new
            found.append(f"{PREFIX}{place}{field}={value}")
    return found


def load(file: str) -> tuple[ModuleType, ConfigDict]:
    """A config file's module, and the config of the variant that ``PATH[:VARIANT]`` names."""
    path, *variant = file.split(":", 1)
    spec = importlib.util.spec_from_file_location("swept_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.get_config(*variant)


def parsed(before: ConfigDict, changes: list[str]) -> ConfigDict:
    """What a program makes of a config file's config and of the overrides of its command line."""
    values, line = flags.FlagValues(), ["program", *changes]
    own = copy.deepcopy(before)
    config_flags.DEFINE_config_dict("config", own, flag_values=values, sys_argv=line)
    values(line)
    return values.config


def parse(arguments: list[str]) -> list[str]:
    """Parses the command line; an override of an unknown field ends with the fields there are."""
    try:
        return flags.FLAGS(arguments)
    except (flags.Error, ValueError, OSError, AttributeError, KeyError) as error:
        reason = explain(arguments) or error
        sys.exit(f"error: {str(reason).strip().splitlines()[-1]}")

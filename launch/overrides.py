"""Configs and command lines: what overrides say, what is wrong with them, and the way back."""

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
        if not isinstance(values.config, ConfigDict):
            raise ValueError(
                f"get_config returns a {type(values.config).__name__}, not a ConfigDict"
            )
        check(arguments, values.config)
    except Exception as error:  # a config file is code, and may raise anything
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


def load(file: str) -> tuple[ModuleType, ConfigDict]:
    """A config file's module, and the config of the variant that ``PATH[:VARIANT]`` names."""
    path, *variant = file.split(":", 1)
    spec = importlib.util.spec_from_file_location("swept_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.get_config(*variant)


def parse(arguments: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line; what is wrong with it or its config ends the process with a line."""
    try:
        left = values(arguments)
        if values["config"].value is not None and not isinstance(values.config, ConfigDict):
            kind = type(values.config).__name__
            raise ValueError(f"get_config returns a {kind}, not a ConfigDict")
        return left
    except Exception as error:
        reason = explain(arguments) or error
        words = str(reason).strip().splitlines() or [""]
        kind = (
            "" if isinstance(reason, flags.Error | ValueError | OSError) else type(reason).__name__
        )
        sys.exit(f"error: {': '.join(filter(None, [_file(arguments), kind, words[-1]]))}")


def _file(arguments: list[str]) -> str:
    """The config file that a command line names, if it does."""
    found = [a.partition("=")[2] for a in arguments if a.startswith("--config=")]
    return f"the config {found[-1]}" if found else ""

"""What `python -m launch.main --help` says, at once: nothing is imported for it but a config."""

import ast
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ASKED = ("--help", "-h", "--helpshort", "--helpfull")
USAGE = """\
usage: python -m launch.main --config=FILE[:VARIANT] --workdir=DIR [--config.FIELD=VALUE ...]
                             [--devices=N] [--replicates=N] [--profile]

Runs a study, or continues it where it stopped. Fields and their values, of one config:
  python -m launch.main --config=FILE[:VARIANT] --help

Configs:"""


def answer(arguments: list[str]) -> None:
    """Ends the process with help where that is asked for, or where nothing is asked for at all."""
    if set(ASKED).isdisjoint(arguments) and arguments[1:]:
        return
    files = [argument.partition("=")[2] for argument in arguments if argument[:9] == "--config="]
    if files:
        lines = _fields(files[-1])
    else:
        lines = [
            USAGE,
            *(
                textwrap.fill(f"  {name}: {words}", 98, subsequent_indent="    ")
                for name, words in listed()
            ),
        ]
    print("\n".join(lines), file=sys.stdout if arguments[1:] else sys.stderr)
    sys.exit(0 if arguments[1:] else 2)


def listed() -> Iterator[tuple[str, str]]:
    """The configs that come with the project, each with what its docstring begins with."""
    for path in sorted(CONFIGS.glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "get_config" for node in tree.body
        ):
            yield (
                f"{CONFIGS.name}/{path.name}",
                " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split()),
            )


def _fields(file: str) -> list[str]:
    """What a config is, and its fields with their values."""
    from launch import overrides
    from pruning_jax.lab import records

    try:
        module, config = overrides.load(file)
    except Exception as error:  # a config file is code, and may raise anything
        sys.exit(f"error: the config {file}: {type(error).__name__}: {error}")
    fields = records.dotted(config.to_dict(), "--config")
    return [
        (module.__doc__ or "").strip(),
        "",
        *(f"{name}={value}" for name, value in fields.items()),
    ]

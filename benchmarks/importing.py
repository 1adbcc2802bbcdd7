"""What `import pruning_jax` takes, against `import jax` alone.

    python -m benchmarks.importing

Both sides take turns, each in a process of its own, its start included. Bytecode is written before,
as pip does when it installs.
"""

import functools
import os
import subprocess
import sys
import tempfile

from benchmarks import timing

RUNS = 15


def start(module: str, environment: dict[str, str]) -> None:
    """Imports a module in a process of its own."""
    subprocess.run([sys.executable, "-c", f"import {module}"], env=environment, check=True)


def main() -> None:
    """Times both imports."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        sides = {
            module: functools.partial(start, module, environment)
            for module in ("jax", "pruning_jax")
        }
        timing.in_turns(sides, 1, settle=False)
        timing.report("import", timing.in_turns(sides, RUNS, settle=False), "jax")


if __name__ == "__main__":
    main()

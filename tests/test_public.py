"""`import pruning_jax as pj`: what it has, what it brings along, what it installs with."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pruning_jax as pj

ROOT = Path(__file__).parents[1]
CORE = {"jax", "numpy", "optax", "scipy"}
WITH_THEM = {"absl", "jaxlib", "ml_dtypes", "opt_einsum"}
FOR_EXPORT = {"flatbuffers", "safetensors"}
ALONE = """
import sys

class Some:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package in {*%r, *sys.stdlib_module_names} or package[0] == "_":
            return self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Some, sys.meta_path)
"""


def run(code, **environment):
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def names(requirements):
    return {line.split()[0] for line in requirements.strip().splitlines()}


def packages(module):
    """The packages that importing a module brings along, but for Python's own."""
    loaded = run(f"import sys, {module}; print(*sys.modules)").split()
    return {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names


def test_importing_it_brings_no_other_package_than_jax_does():
    assert packages("pruning_jax") - packages("jax") == {"pruning_jax"}


def test_the_readme_prunes_cuts_saves_and_exports_with_the_core_alone(tmp_path):
    text = (ROOT / "README.md").read_text("utf-8")
    own = text[text.index("## On your own model") : text.index("## How it uses its weights")]
    snippets = re.findall(r"```python\n(.*?)```", own, flags=re.DOTALL)
    alone = ALONE % ({"pruning_jax", *CORE, *WITH_THEM, *FOR_EXPORT},)
    printed = run("\n".join([alone, f"import os; os.chdir({str(tmp_path)!r})", *snippets]))
    assert len(snippets) == 6 and "1.33 times fewer MACs" in printed
    with pytest.raises(AssertionError, match="No module named 'flax'"):
        run(alone + "import flax")


def test_importing_it_starts_no_device():
    run("import pruning_jax", JAX_PLATFORMS="none_such")
    with pytest.raises(AssertionError, match="none_such"):
        run("import pruning_jax, jax; jax.devices()", JAX_PLATFORMS="none_such")


def test_the_core_installs_with_four_packages_and_every_extra_but_the_devices_with_the_lab(setup):
    assert names(setup["options"]["install_requires"]) == CORE
    extras = {extra: names(text) for extra, text in setup["options.extras_require"].items()}
    assert "flax" in extras["lab"]
    for extra in ("test", "notebooks", "prepare", "slurm"):
        assert any(name.startswith("pruning_jax[lab") for name in extras[extra])


def test_what_is_offered_is_there():
    assert pj.__all__ == sorted(pj.__all__) and all(hasattr(pj, name) for name in pj.__all__)


def test_the_version_has_one_source_and_types_are_for_users_too(setup):
    assert setup["metadata"]["version"] == "attr: pruning_jax.__version__"
    (line,) = [x for x in (ROOT / "pruning_jax/__init__.py").read_text().splitlines()
               if x.startswith("__version__")]  # fmt: skip
    assert line == f'__version__ = "{pj.__version__}"'
    assert names(setup["options.package_data"]["pruning_jax"]) == {"py.typed"}
    assert (ROOT / "pruning_jax/py.typed").exists()

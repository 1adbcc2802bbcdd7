"""What several test modules share, and how their programs are compiled.

Tests compile thousands of small programs and run each a few times, so that most of their time would
be XLA's optimisation. They do without it, but for those whose bits depend on it: `optimised`.
``JAX_DISABLE_MOST_OPTIMIZATIONS=0`` gives every test the programs of a user's run.
"""

import os
import pathlib

import jax
import pytest
from jaxlib import version

QUICK, FLAGS = "JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"
OWN = " --xla_cpu_use_fusion_emitters=false"

# How programs are compiled is no part of what JAX knows them by; this is.
COMPILED = jax.make_user_context("quick")

# The environment is for the processes that tests start, too; those of xdist have it already.
quick = os.environ.setdefault(QUICK, "1") not in ("0", "false")
given = os.environ.get(FLAGS, "").replace(OWN, "")
jax.config.update(QUICK.lower(), quick)
if quick and version.__version_info__ < (0, 11):  # later ones have no such flag
    os.environ[FLAGS] = given + OWN


@pytest.fixture(scope="module")
def optimised():
    """Has programs compiled as a user's are, in started processes and, but for `OWN`, here."""
    with pytest.MonkeyPatch.context() as patch, COMPILED("optimised"):
        patch.setenv(QUICK, "0")
        patch.setenv(FLAGS, given)
        jax.config.update(QUICK.lower(), False)
        yield
    jax.config.update(QUICK.lower(), quick)


MOST_MAPS = 30_000
"""Of memory, in a test process: Linux allows some 65,000, each program takes several, and XLA dies
by a signal where it gets no more."""


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Lets go of what was compiled before, where it is much: that takes half a minute."""
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """Has the processes that a module's tests start share what they compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.fixture(scope="session")
def tfds_dir() -> str:
    """Where prepared TensorFlow Datasets are; skips the test where they are absent."""
    beside = pathlib.Path(__file__).parents[2] / "shared" / "tfds"
    folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or beside)
    for name in ("mnist", "cifar10"):
        if not list(folder.glob(f"{name}/*/dataset_info.json")):
            pytest.skip(f"{name} is not prepared in {folder}; set TFDS_DATA_DIR to where it is")
    return str(folder)

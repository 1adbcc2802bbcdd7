"""What a run ran with: versions, devices and the revision of the source."""

import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import jax

_SETTINGS = (
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_default_matmul_precision",
)
_PACKAGES = ("pruning_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages that decide results; ``None`` if not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = None
        found[package.removesuffix("-checkpoint")] = version
    return found


def devices() -> list[str]:
    """Every device as ``platform: kind``."""
    return [f"{device.platform}: {device.device_kind}" for device in jax.devices()]


def settings() -> dict[str, str]:
    """The settings of JAX that change the bits of results, as they are shown."""
    return {name: repr(getattr(jax.config, name)) for name in _SETTINGS}


def revision() -> dict[str, str | bool | None]:
    """The revision of the source tree, whether tracked files differ from it, and a digest of how.

    All are ``None`` where this package is not tracked in one.
    """
    here = Path(__file__)
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return {"revision": None, "dirty": None, "changes": None}
    changes = _git(here.parent, "diff", "HEAD")
    digest = hashlib.sha256(changes.encode()).hexdigest()[:12] if changes else None
    found = {"revision": _git(here.parent, "rev-parse", "HEAD"), "dirty": changes != ""}
    return found | {"changes": digest}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None

"""Kills the runs of a sweep at random moments, and the sweep too, until everything is finished.

    python -m tests.soak --kills=50

compares what is left with the same sweep uninterrupted: every file and network, bit for bit. It
takes some ten minutes on two cores. `tests/test_soak.py` does the same with a few kills.
"""

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from configs import digits
from pruning_jax.lab import checkpointing, records, status

ROOT = Path(__file__).resolve().parents[1]
FILES = ("results.jsonl", "metrics.jsonl", "claims.json")
SWEEPS = digits.SWEEPS

VARIANTS = {
    "few": {
        "model": {"name": "mlp", "widths": (40, 20)},
        "training": {"epochs": 12, "batch_size": 4},
        "retraining": {"epochs": 8},
        "seeds": (1, 2),
        "criteria": ("linear",),
        "stages": 5,
    },
    "mlp": {
        "model": {"name": "mlp", "widths": (100, 50)},
        "training": {"epochs": 50, "batch_size": 4},
        "retraining": {"epochs": 20},
        "seeds": (1, 2, 3, 4),
        "criteria": ("magnitude", "linear"),
        "stages": 400,
    },
    "conv": {
        "model": {"name": "small_conv", "padding": "SAME", "widths": (3, 4, 5, 6, 7)},
        "training": {"epochs": 20, "batch_size": 16},
        "retraining": {"epochs": 8},
        "seeds": (1, 2, 3, 4),
        "criteria": ("magnitude", "linear"),
        "stages": 100,
    },
}
"""Epochs of many steps, scanned in pieces and dispatched one at a time."""


def get_config(variant: str) -> ConfigDict:
    """A comparison on digits whose every phase takes long enough to be killed in."""
    config = digits.get_config("smoke").to_dict()
    workload, changes = config["workload"], dict(VARIANTS[variant])
    for section in ("training", "retraining"):
        workload[section] |= changes.pop(section)
    workload |= {"sparsities": (0.8,), "statistics_examples": 200}
    return ConfigDict(config | {"variant": variant, "workload": workload | changes})


# Checkpoints so often that a kill finds one to continue from.
RUN = """
from absl import app
from launch import main
from pruning_jax.lab import jobs
jobs.SECONDS_BETWEEN_CHECKPOINTS = 0.2
app.run(main.main, flags_parser=main.parse)
"""

SWEEP = f"""
import sys
from absl import app, flags
from launch import sweep
from launch.sweeping import commands
real = commands.Job.command
commands.Job.command = lambda job: [sys.executable, "-c", {RUN!r}, *real(job)[3:]]
flags.FLAGS.set_gnu_getopt(True)
app.run(sweep.main, flags_parser=sweep.parse)
"""


class Kill(NamedTuple):
    """A kill that landed: by which signal, of what, in which phase, and how long it took to end."""

    signal: str
    victim: str
    phase: str
    seconds: float


def start(folder: Path, variant: str, processes: int) -> subprocess.Popen:
    """Starts the sweep, or starts it again."""
    options = [f"--config={Path(__file__).resolve()}:{variant}", "--sweep=seeds"]
    options += [f"--folder={folder}", f"--processes={processes}"]
    with open(folder.with_suffix(".log"), "ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-c", SWEEP, *options],
            cwd=ROOT,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def whole(folder: Path, variant: str, processes: int = 2) -> float:
    """Runs the sweep uninterrupted; returns how many seconds one of its runs took."""
    began = time.monotonic()
    code = start(folder, variant, processes).wait()
    if code:
        raise RuntimeError(f"exit status {code}: {folder.with_suffix('.log').read_text()}")
    return (time.monotonic() - began) * processes / len(VARIANTS[variant]["seeds"])


def killed(
    folder: Path,
    variant: str,
    kills: int,
    pace: float,
    chance: random.Random,
    *,
    processes: int = 2,
    begun: bool = False,
) -> tuple[list[Kill], int]:
    """Runs the sweep to its end through so many kills, or as many as it lasts for.

    Args:
      folder: the sweep's.
      variant: of the config.
      kills: how many at most.
      pace: the most seconds between two.
      chance: decides everything.
      processes: how many runs go on at a time.
      begun: whether to wait for a run that works.

    Returns:
      The kills, and how often the sweep was started.

    Raises:
      RuntimeError: the sweep failed.
    """
    landed, starts, code = [], 0, None
    while code != 0:
        process, starts = start(folder, variant, processes), starts + 1
        while process.poll() is None:
            if len(landed) == kills:
                process.wait()
                break
            wait = time.monotonic() + chance.uniform(0, pace)
            while process.poll() is None and time.monotonic() < wait:
                time.sleep(0.01)
            kill = strike(folder, process, chance, begun)
            if kill is not None:
                landed.append(kill)
                print(f"{len(landed):4} {kill}", flush=True)
        code = process.returncode
        if code not in (0, os.EX_TEMPFAIL, -signal.SIGKILL, -signal.SIGTERM):
            raise RuntimeError(f"exit status {code}: {folder.with_suffix('.log').read_text()}")
    return landed, starts


def strike(
    folder: Path, sweep: subprocess.Popen, chance: random.Random, begun: bool
) -> Kill | None:
    """Kills one run that goes on, or the sweep; `None` where there was none or it was too late."""
    number = chance.choice([signal.SIGKILL, signal.SIGTERM])
    runs = sorted(
        (pid, workdir)
        for pid, workdir in running(folder).items()
        if not begun or phase_of(workdir) != "starting"
    )
    if begun and not runs:
        return None
    if sweep.poll() is None and chance.random() < 0.1:
        victim, pid, phase = "sweep", sweep.pid, f"{len(runs)} runs"
    elif runs:
        pid, workdir = chance.choice(runs)
        victim, phase = "run", phase_of(workdir)
    else:
        return None
    began = time.monotonic()
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return None
    while (sweep.poll() is None) if victim == "sweep" else alive(pid):
        time.sleep(0.01)
    return Kill(number.name, victim, phase, round(time.monotonic() - began, 1))


def running(folder: Path) -> dict[int, Path]:
    """The processes of the sweep's runs, whoever started them, and their run directories."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and alive(int(entry.name)):
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            for word in words:
                if word.startswith(f"--workdir={folder}/runs/"):
                    found[int(entry.name)] = Path(word.partition("=")[2])
    return found


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def phase_of(workdir: Path) -> str:
    """What a run is at, by the rows that it has."""
    opened = records.read_json(workdir / "config.json", {})  # a run takes its directory before
    if not opened or status.read(workdir).state != "running":
        return "starting"
    rows = collections.Counter(
        row["job"]["phase"] for row in records.read_lines(workdir / FILES[0])
    )
    units = len(opened["config"]["workload"]["criteria"])
    for phase, count in (("pretrained", 1), ("pruned", units), ("retrained", units)):
        if rows[phase] < count:
            return phase
    return "concluding"


def compare(one: Path, other: Path) -> int:
    """Compares two finished sweeps; returns how many networks they have.

    Raises:
      AssertionError: a run is missing, left over or not finished, or anything differs.
    """
    runs = [sorted(path.name for path in (folder / "runs").iterdir()) for folder in (one, other)]
    assert runs[0] == runs[1], runs
    networks = 0
    for place in [*(f"runs/{name}" for name in runs[0]), "gathered"]:
        paths = one / place, other / place
        assert [status.read(path).state for path in paths] == ["finished"] * 2, place
        for name in FILES:
            contents = [path / name for path in paths if (path / name).exists()]
            assert place == "gathered" or len(contents) == 2, (place, name)
            assert len({path.read_bytes() for path in contents}) < 2, (place, name)
        kept = [networks_of(path / "checkpoints") for path in paths]
        np.testing.assert_equal(*kept)
        networks += len(kept[0])
    return networks


def networks_of(folder: Path) -> dict[str, dict]:
    """Every kept network of a run, by its place."""
    paths = [path for path in sorted(folder.glob("*/*/*")) if path.parts[-3] != "training"]
    return {str(path.relative_to(folder)): checkpointing.load(path) for path in paths}


def main() -> None:
    """Kills until so many kills have landed, in sweeps of both kinds, and tells what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="an empty one; a temporary one by default")
    given = parser.parse_args()
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="soak"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    chance, landed, paces = random.Random(given.seed), [], {}
    while len(landed) < given.kills:
        for variant in ("mlp", "conv"):
            reference = folder / f"{variant}-whole"
            if variant not in paces:
                paces[variant] = whole(reference, variant, given.processes)
                print(f"{variant}: a run takes {paces[variant]:.1f} s", flush=True)
            left = given.kills - len(landed)
            most = left if variant == "conv" else -(-left // 2)
            own = folder / f"{variant}-{len(landed)}"
            pace = 0.4 * paces[variant]
            found, starts = killed(own, variant, most, pace, chance, processes=given.processes)
            networks = compare(reference, own)
            landed += found
            print(
                f"{variant}: {len(found)} kills, {starts} starts of the sweep; all files and "
                f"{networks} networks are those of the uninterrupted sweep",
                flush=True,
            )
    for field in ("signal", "victim", "phase"):
        counts = collections.Counter(getattr(kill, field) for kill in landed)
        print(f"{field}: {dict(counts)}")
    slowest = max((kill.seconds for kill in landed if kill.victim == "run"), default=0)
    print(f"{len(landed)} kills; a run was gone after {slowest} s at most; {folder}")


if __name__ == "__main__":
    main()

"""The loss surface on CPU against plain forward passes: a plane, utilities, and peak memory.

    python -m benchmarks.landscape [--points N] [--runs N]

The plane is 51 x 51 points of a ResNet-8, 1,000 examples each; a turn takes `--points` of its
points (25 by default; 2601 is all of it) and as many plain forward passes of the same examples: in
the chunks that the plane uses, and in one. The utilities are of as many random subsets of the
network's weights; one more forward pass, of the whole network, is part of their time. Peak memory
is of a process of its own for each side, above what it holds after one untimed run.
"""

import argparse
import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np

from benchmarks import timing
from pruning_jax import models, trees
from pruning_jax.analysis import landscape, utility
from pruning_jax.lab import blocks
from pruning_jax.types import Batch

SIDE, EXAMPLES, CLASSES, RATIO = 51, 1_000, 10, 0.1
POINTS, RUNS = 25, 3
MEMORY_POINTS = 4


class Network:
    """A ResNet-8, random examples, and a plane through it."""

    def __init__(self, examples: int = EXAMPLES) -> None:
        module = models.build("resnet", CLASSES, depth=8)
        keys = jax.random.split(jax.random.key(0), 4)
        self.batch = Batch(
            jax.random.normal(keys[0], (examples, 32, 32, 3)),
            jax.random.randint(keys[1], (examples,), 0, CLASSES),
        )
        self.apply_fn = models.apply_fn(module)
        self.variables = models.init(module, keys[2], self.batch.inputs)
        params = self.variables["params"]
        directions = landscape.random_directions(keys[3], params)
        self.plane = landscape.Plane(params, directions)
        x, y = landscape.grid([[-1.0, -1.0], [1.0, 1.0]], (SIDE, SIDE), margin=0.0)
        self.positions = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        self.passes = jax.jit(self.apply_fn)

    def surface(self, points: int) -> list:
        state = {"batch_stats": self.variables["batch_stats"]}
        positions = self.positions[:points]
        found = landscape.evaluate(self.apply_fn, self.plane, positions, self.batch, state=state)
        return list(found)

    def utilities(self, points: int) -> utility.Utilities:
        names = [n for n in trees.named_leaves(self.variables) if n.endswith("kernel")]
        weights = trees.select(self.variables, names)
        subsets = utility.random_subsets(jax.random.key(4), weights, points, ratio=RATIO)
        return utility.measure(self.apply_fn, self.variables, subsets, self.batch)

    def forward(self, points: int, chunk: int | None = None) -> None:
        for _ in range(points):
            for piece in blocks.split(self.batch.inputs, chunk):
                jax.block_until_ready(self.passes(self.variables, piece))


def throughput(title: str, ours: Callable, network: Network, points: int, runs: int) -> None:
    """Prints how `ours` compares with as many plain forward passes."""
    plain = "plain forward passes"
    sides = {
        "ours": lambda: ours(points),
        plain: lambda: network.forward(points),
        f"{plain} in one chunk": lambda: network.forward(points, EXAMPLES),
    }
    timing.report(f"{title}, {EXAMPLES:,} examples", timing.in_turns(sides, runs), plain)


def status(field: str) -> int:
    """A line of Linux's account of this process, in kilobytes."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def peak_above(run: Callable) -> float:
    """The most that a run holds beyond what the process held before it, in megabytes.

    What it holds before includes all that an untimed run has compiled.
    """
    run()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    run()
    return (status("VmHWM") - before) / 1024


def memory_of(sides: Iterable[str]) -> dict[str, float]:
    """The peak of every side, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.landscape", "--memory"]
    given_back = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16)}  # what is freed, at once
    return {
        side: float(
            subprocess.run(
                [*command, side], stdout=subprocess.PIPE, check=True, env=given_back
            ).stdout
        )
        for side in sides
    }


SIDES = {
    "plane": lambda network: network.surface(MEMORY_POINTS),
    "plain": lambda network: network.forward(MEMORY_POINTS),
    "plain, one chunk": lambda network: network.forward(MEMORY_POINTS, EXAMPLES),
}


def memory() -> None:
    """Prints the peak memory of the plane beside that of plain forward passes."""
    if not Path("/proc/self/clear_refs").exists():
        print("\npeak memory: skipped, it is read from Linux's /proc")
        return
    print("\npeak memory above that of the process")
    found = memory_of(SIDES)
    for side, peak in found.items():
        print(f"  {side:<26} {peak:9.1f} MB; {peak / found['plain']:.2f} x plain")


def main(points: int = POINTS, runs: int = RUNS) -> None:
    """Prints the three comparisons."""
    print(f"jax {jax.__version__} on {jax.default_backend()}")
    network = Network()
    title = f"{points} points of a {SIDE} x {SIDE} plane of ResNet-8"
    throughput(title, network.surface, network, points, runs)
    throughput(f"{points} utilities of ResNet-8", network.utilities, network, points, runs)
    memory()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        own = Network()
        print(peak_above(lambda: SIDES[given.memory](own)))
    else:
        main(given.points, given.runs)

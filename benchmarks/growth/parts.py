"""What runs in the processes of `benchmarks.growth`: each prints its figures as JSON.

python -m benchmarks.growth.parts alone [--quick]
python -m benchmarks.growth.parts peak --case JSON
python -m benchmarks.growth.parts devices --devices N [--quick]
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from benchmarks.growth import operations, sizes
from benchmarks.growth.operations import Case
from benchmarks.growth.sizes import Series
from benchmarks.landscape import peak_above
from pruning_jax.lab import environment, meshes

RUNS, QUICK_RUNS = 5, 2
MEGABYTE = 2**20
MOST_VALUES = 1_000
PLACING = "jit__multi_slice"
"""JAX's program that cuts an array on one device up for several."""

Figures = dict[str, Any]


def rounded(values: Sequence[float]) -> list[float]:
    """Four digits of each."""
    return [float(f"{value:.4g}") for value in values]


def runs_of(quick: bool) -> int:
    """How many turns the sizes take."""
    return QUICK_RUNS if quick else RUNS


class Tally:
    """The programs that a process has compiled, and what they hold on a device.

    Attributes:
      seen: their fingerprints.
      known: the most bytes that a program held of a case, whatever its count.
    """

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.known: dict[Case, int] = {}

    def new(self) -> tuple[int, int]:
        """The most bytes of one program that is new; and of one that splits what it places."""
        most = {False: 0, True: 0}
        for program in jax.devices()[0].client.live_executables():
            (module,) = program.hlo_modules()
            identity = program.fingerprint or module.to_string().encode()
            if identity in self.seen:
                continue
            self.seen.add(identity)
            own = program.get_compiled_memory_stats()
            held = own.argument_size_in_bytes + own.output_size_in_bytes
            held += own.temp_size_in_bytes - own.alias_size_in_bytes
            places = module.name == PLACING
            most[places] = max(most[places], held)
        return most[False], most[True]

    def of(self, case: Case) -> dict[str, int]:
        """The figures of a case that has run once.

        A larger count, or more examples in equal chunks, may need no large program of its own: on
        CPU replicates and points take turns. Then it is that of the same network with no more
        examples, which has run before.
        """
        own, (computing, placing) = case._replace(count=0), self.new()
        before = [
            held
            for other, held in self.known.items()
            if other._replace(examples=own.examples) == own and other.examples <= own.examples
        ]
        self.known[own] = max([computing, *before])
        return {"bytes": self.known[own], "placing_bytes": placing}


def begin(case: Case, tally: Tally) -> tuple[Callable, Figures]:
    """An operation that has run once, and the figures of that run."""
    run = operations.prepare(case)
    tally.new()
    start = time.perf_counter()
    leaves = jax.tree.leaves(run())
    figures: Figures = {"first_ms": 1e3 * (time.perf_counter() - start)} | tally.of(case)
    values = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in leaves])
    return run, figures | {"values": values[:MOST_VALUES].tolist()}


def measure(series: Series, runs: int, tally: Tally) -> Figures:
    """The figures of a series."""
    begun = [begin(case, tally) for case in series.cases]
    sides = {str(number): run for number, (run, _) in enumerate(begun)}
    times = timing.in_turns(sides, runs, settle=False)
    return {
        "operation": series.cases[0].operation,
        "axis": series.axis,
        "family": series.cases[0].family,
        "sizes": list(series.sizes),
        "cases": [case._asdict() for case in series.cases],
        "macs": [operations.macs(case) for case in series.cases],
        "ms": [rounded(times[side]) for side in sides],
        "first_ms": rounded([figures["first_ms"] for _, figures in begun]),
        "bytes": [figures["bytes"] for _, figures in begun],
    }


def hardware() -> Figures:
    """The processor, the cores that this process may use, its memory, and JAX's devices."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": names[0] if names else "unknown",
        "cores": cores,
        "memory_gb": round(memory / 1e9, 1),
        "devices": environment.devices(),
    }


def alone(quick: bool) -> None:
    """Prints the figures of every series on one device, and where they were taken."""
    tally = Tally()
    with meshes.use(meshes.make(1)):
        found = [measure(series, runs_of(quick), tally) for series in sizes.chosen(quick)]
    print(json.dumps({"growth": found, "hardware": hardware(), "versions": environment.versions()}))


def peak(case: Case) -> None:
    """Prints the peak memory of an operation in this process, in bytes; null where none is told."""
    if not Path("/proc/self/clear_refs").exists():
        print("null")
    else:
        print(int(MEGABYTE * peak_above(operations.prepare(case))))


def devices(quick: bool, count: int) -> None:
    """Runs the case of every number that is read; prints the first run's figures, else ``{}``.

    Of a case of one replicate the devices share the batches, of others the replicates or points.
    """
    there = jax.devices()
    print(json.dumps({"devices": len(there), "platform": there[0].platform}), flush=True)
    runs: dict[int, Callable] = {}
    cases, tally = sizes.sharded(sizes.grid(quick)), Tally()
    for line in sys.stdin:
        number, answer = int(line), {}
        with meshes.use(meshes.make(count, 1 if cases[number].count == 1 else None)):
            if number in runs:
                runs[number]()
            else:
                runs[number], answer = begin(cases[number], tally)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["alone", "peak", "devices"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", type=json.loads)
    parser.add_argument("--devices", type=int, default=1)
    given = parser.parse_args()
    if given.part == "alone":
        alone(given.quick)
    elif given.part == "peak":
        peak(Case(*given.case))
    else:
        devices(given.quick, given.devices)

"""How time and memory grow: with parameters, examples, replicates, points, and devices.

    python -m benchmarks.growth [--quick]

Every operation of `operations` runs at growing sizes, in one process, on one device. The sizes of a
series take turns, and exponents are fitted to what the turns took (see `exponents`). For the
comparison of devices, 1, 2, 4 and 8 of them are as many processes: their results are compared with
those of one device, and then the processes take turns. On CPU the devices are virtual. They share
the machine's cores, so that no time can fall; what is shown is what sharding costs, and the memory
of each device.

Memory is XLA's `memory_analysis`, the largest of the programs that an operation compiles: what it
reads, writes and holds at once on a device. On CPU masks are selected by the host, so theirs is the
peak RSS of a fresh process, above what it held before.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benchmarks import timing
from benchmarks.growth import sizes, tables
from benchmarks.growth.operations import Case
from benchmarks.growth.parts import Figures, rounded, runs_of

DEVICES, QUICK_DEVICES = (1, 2, 4, 8), (1, 2)
TOLERANCE = 1e-4
ON_HOST = "scores and masks"


def command(part: str, quick: bool, *more: str) -> list[str]:
    """The command line of a part's process."""
    line = [sys.executable, "-m", "benchmarks.growth.parts", part, *more]
    return [*line, "--quick"] if quick else line


def surroundings(devices: int = 1, **more: str) -> dict[str, str]:
    """The environment of a part's process."""
    own = {"JAX_NUM_CPU_DEVICES": str(devices), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return os.environ | own | more


def answer(line: Sequence[str], env: Mapping[str, str]) -> Figures:
    """What a part prints."""
    ended = subprocess.run(line, stdout=subprocess.PIPE, check=True, env=env)
    return json.loads(ended.stdout)


def alone(quick: bool) -> Figures:
    """The figures of every series on one device, with the memory of what the host does."""
    found = answer(command("alone", quick), surroundings())
    given_back = surroundings(MALLOC_MMAP_THRESHOLD_=str(2**16))  # what is freed, at once
    on_cpu = found["hardware"]["devices"][0].startswith("cpu")
    for series in found["growth"]:
        if series["operation"] == ON_HOST and on_cpu:
            cases = [json.dumps(list(case.values())) for case in series["cases"]]
            lines = [command("peak", quick, "--case", case) for case in cases]
            series["bytes"] = [answer(line, given_back) for line in lines]
            series["memory"] = "peak RSS"
    return found


class Worker:
    """A process with its own number of devices."""

    def __init__(self, devices: int, quick: bool) -> None:
        self.process = subprocess.Popen(
            command("devices", quick, "--devices", str(devices)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=surroundings(devices),
            text=True,
        )
        hello = self._read()
        self.there, self.platform = hello["devices"], hello["platform"]

    def _read(self) -> Figures:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the benchmark ended with {self.process.wait()}")
        return json.loads(line)

    def run(self, number: int) -> Figures:
        """Runs a case; the first time, its figures."""
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def largest_difference(case: Case, values: Mapping[int, list[float]], platform: str) -> float:
    """The largest difference from the values of the fewest devices, of the largest of them.

    On CPU what lies on one device of several is the same on each, to the bit; a batch that is
    split is summed in another order.

    Raises:
      SystemExit: it is more than that.
    """
    fewest, most = min(values), 0.0
    allowed = TOLERANCE if case.count == 1 or platform != "cpu" else 0.0
    reference = np.asarray(values[fewest])
    scale = np.abs(reference).max()
    for devices, own in values.items():
        difference = np.abs(np.asarray(own) - reference)
        if not difference.max() <= allowed * scale:
            raise SystemExit(
                f"{case.operation}: the values of {devices} devices differ from those of {fewest} "
                f"by {difference.max() / scale:.1e} of the largest, over {allowed}"
            )
        most = max(most, float(difference.max() / scale))
    return most


def by_devices(quick: bool) -> list[Figures]:
    """The figures of what is spread over devices, one process for each number of them."""
    workers, found = {}, []
    for count in QUICK_DEVICES if quick else DEVICES:
        worker = Worker(count, quick)
        if worker.there < count:
            print(f"{count} devices: skipped, there are {worker.there}")
            worker.close()
        else:
            workers[count] = worker
    for number, case in enumerate(sizes.sharded(sizes.grid(quick))):
        first = {count: worker.run(number) for count, worker in workers.items()}
        values = {count: figures["values"] for count, figures in first.items()}
        difference = largest_difference(case, values, workers[min(workers)].platform)
        sides: dict[str, Callable] = {
            str(count): lambda worker=worker, number=number: worker.run(number)
            for count, worker in workers.items()
        }
        times = timing.in_turns(sides, runs_of(quick))
        found.append(
            {
                "operation": case.operation,
                "case": case._asdict(),
                "devices": list(workers),
                "difference": difference,
                "ms": [rounded(times[side]) for side in sides],
                "bytes": [figures["bytes"] for figures in first.values()],
                "placing_bytes": [figures["placing_bytes"] for figures in first.values()],
            }
        )
    for worker in workers.values():
        worker.close()
    return found


def main(argv: Sequence[str] = ()) -> None:
    """Measures, prints the tables, and writes the figures where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument(
        "--quick", action="store_true", help="a few small sizes, to see that it runs"
    )
    given = parser.parse_args(argv)
    start = time.monotonic()
    found = alone(given.quick)
    found["devices"] = by_devices(given.quick)
    found["command"] = " ".join(["python -m benchmarks.growth", *argv])
    found["seconds"] = round(time.monotonic() - start)
    for text in (tables.where(found), tables.growth(found), tables.devices(found)):
        print(text, end="\n\n")

"""How long counted work takes: at measured rates, or at assumed ones, on one device or on many."""

import heapq
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.growth import operations, tables
from benchmarks.projection import work
from benchmarks.projection.work import Task

Figures = dict[str, Any]

KINDS = {"training epoch": "training", "diagonal GGN": "ggn", "landscape": "forward"}
"""The operation whose measured rate stands for a kind of task."""


class Machine(NamedTuple):
    """What one device does.

    Attributes:
      name: of it.
      rates: (kind, family) -> multiply-accumulates a second.
      latency: family -> seconds that a training step takes beyond its multiply-accumulates for
        every layer of the network.
      selection: weights scored and selected from a second.
      first: seconds that a process takes longer the first time, for compiling; 0 if not known.
    """

    name: str
    rates: Mapping[tuple[str, str], float]
    latency: Mapping[str, float]
    selection: float
    first: float = 0.0

    def seconds(self, task: Task) -> float:
        """The time of one job of a task."""
        family = task.network.family
        products = task.passes * task.network.macs / self.rates[task.kind, family]
        return products + self.waiting(task) + task.weights / self.selection

    def waiting(self, task: Task) -> float:
        """The part of a job's time that is its steps' latency."""
        return task.steps * task.network.layers * self.latency[task.network.family]

    def total(self, tasks: Iterable[Task]) -> float:
        """The time of tasks on one device."""
        return math.fsum(task.jobs * self.seconds(task) for task in tasks)


def assumed(name: str, rate: float, latency: float, selection: float) -> Machine:
    """A machine of one rate for everything."""
    pairs = [(kind, family) for kind in KINDS.values() for family in operations.FAMILIES]
    return Machine(
        name, dict.fromkeys(pairs, rate), dict.fromkeys(operations.FAMILIES, latency), selection
    )


def measured(figures: Figures) -> Machine:
    """The machine of a run of `benchmarks.growth`.

    Rates are those of the largest networks measured. The latency is what a step of the smallest
    one takes beyond its multiply-accumulates at that rate, shared by its layers.
    """
    rates, latency, selection, first = {}, {}, 0.0, {}
    for series in figures["growth"]:
        operation, family = series["operation"], series["family"]
        if series["axis"] != "parameters":
            continue
        smallest, *_, largest = map(statistics.median, series["ms"])
        extra = (series["first_ms"][-1] - largest) / 1e3
        first[operation] = max(first.get(operation, 0.0), extra)
        if operation == "scores and masks":
            selection = series["sizes"][-1] / (largest / 1e3)
        if operation not in KINDS:
            continue
        kind = KINDS[operation]
        rates[kind, family] = _macs(series, -1) / (largest / 1e3)
        if kind == "training":
            steps = series["cases"][0]["examples"] // operations.FAMILIES[family].batch_size
            left = smallest / 1e3 - _macs(series, 0) / rates[kind, family]
            latency[family] = max(left, 0.0) / steps / operations.FAMILIES[family].layers
    name = tables.device(figures)
    return Machine(name, rates, latency, selection, sum(first.values()))


def _macs(series: Figures, place: int) -> float:
    """The multiply-accumulates of a case."""
    case, macs = series["cases"][place], series["macs"][place]
    passes = {
        "training": work.TRAINING * case["examples"] + operations.HELD_OUT,
        "ggn": work.ggn(operations.CLASSES) * case["examples"],
        "forward": case["examples"] * case["count"],
    }
    return float(macs * passes[KINDS[series["operation"]]])


def shared_out(durations: Iterable[float], devices: int) -> float:
    """When the last of some jobs ends: the longest goes first, each to the device that is free."""
    free = [0.0] * devices
    for duration in sorted(durations, reverse=True):
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def by_run(runs: Sequence[Sequence[Task]], machine: Machine, devices: int) -> float:
    """The time of a sweep, every run of it on one device from its first task to its last."""
    return shared_out([machine.total(tasks) for tasks in runs], devices)


def by_mesh(workloads: Sequence[Sequence[Task]], machine: Machine, devices: int) -> float:
    """The time of one run on a mesh of devices.

    Its tasks follow each other; what a task does not spread is on one device, one after another.
    """
    whole = 0.0
    for task in (task for tasks in workloads for task in tasks):
        rounds = {
            "points": task.jobs / devices,
            "replicates": math.ceil(task.jobs / devices),
            "nothing": task.jobs,
        }
        whole += rounds[task.spread] * machine.seconds(task)
    return whole


def by_training(tasks: Sequence[Task], machine: Machine, devices: int) -> float:
    """The time of tasks where every job goes to whatever device is free, phase after phase.

    What is made of points fills what the other jobs leave.
    """
    whole = 0.0
    for phase in sorted({task.phase for task in tasks}):
        own = [task for task in tasks if task.phase == phase]
        jobs = [[machine.seconds(task)] * task.jobs for task in own if task.spread != "points"]
        longest = shared_out([duration for many in jobs for duration in many], devices)
        whole += max(longest, machine.total(own) / devices)
    return whole


def chain(tasks: Sequence[Task], machine: Machine) -> float:
    """The time of the longest jobs of every phase: what no number of devices makes shorter."""
    return math.fsum(
        max(
            (machine.seconds(t) for t in tasks if t.phase == phase and t.spread != "points"),
            default=0.0,
        )
        for phase in {task.phase for task in tasks}
    )


def steps(tasks: Sequence[Task]) -> int:
    """The training steps of the longest jobs of every phase."""
    return sum(
        max(task.steps for task in tasks if task.phase == phase)
        for phase in {task.phase for task in tasks}
    )

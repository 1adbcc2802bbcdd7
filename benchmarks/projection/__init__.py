"""The papers' grids on many devices, from counted work and measured growth: docs/scaling.md.

    python -m benchmarks.projection [--check]

Writes the tables of docs/scaling.md between their markers: from docs/scaling.json, which
``python -m benchmarks.growth --json docs/scaling.json`` measured, from the ``paper`` configs and
their sweeps, and from the assumptions below. Every docs/scaling*.json, such as one measured on a
GPU, has a column of its own. With ``--check`` it only says whether the page is up to date, and
exits with 1 where it is not.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.growth import tables
from benchmarks.projection import machines, papers, work
from benchmarks.projection.machines import Figures, Machine
from benchmarks.projection.papers import Grid
from benchmarks.projection.work import Task

ROOT = Path(__file__).resolve().parents[2]
PAGE, FIGURES = "docs/scaling.md", "docs/scaling*.json"
FEW, POD = 8, 256
BEGIN, END = "<!-- {}:begin -->", "<!-- {}:end -->"

ASSUMED = (
    machines.assumed("favourable", rate=1e13, latency=1e-5, selection=1e9),
    machines.assumed("unfavourable", rate=1e12, latency=1e-4, selection=1e8),
)
"""One accelerator, ASSUMED and not measured: a favourable value and an unfavourable one."""

MIXED = tuple(
    one._replace(rates=other.rates) for one, other in zip(ASSUMED, reversed(ASSUMED), strict=True)
)
"""The favourable latency with the unfavourable rate, which hides it, and the other way round."""


class Link(NamedTuple):
    """What joins devices, ASSUMED: bytes a second, and seconds of a sum over them beyond that."""

    rate: float
    latency: float


LINKS = (Link(2e11, 2e-5), Link(1e10, 1e-4))
FLOAT_BYTES = 4


def duration(seconds: float) -> str:
    """A time in its own unit."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{tables.number(seconds / size)} {unit}"
    return f"{seconds:.2g} s"


def span(values: Sequence[float]) -> str:
    """The times of the favourable and the unfavourable machine."""
    return " to ".join(map(duration, values))


def counted(asked: Sequence[Grid]) -> str:
    """What each grid asks for."""
    rows = []
    for grid in asked:
        trainings = sum(task.trainings for task in grid.tasks)
        prunings = sum(t.jobs for t in grid.tasks if t.kind == "ggn")
        rows.append(
            [
                grid.name,
                str(len(grid.runs) or "-"),
                f"{trainings:,}",
                f"{machines.steps(grid.tasks):,}",
                f"{prunings:,}" if prunings else "-",
                *(f"{work.macs(grid.tasks, k):.2g}" for k in ("training", "ggn", "forward")),
                f"{sum(task.jobs * task.saved for task in grid.tasks):,}",
                f"{_saved(grid.tasks) / 1e9:,.1f}",
            ]
        )
    columns = ("grid", "runs of its sweep", "trainings", "longest chain, steps", "prunings")
    macs = ("MACs of training", "of statistics", "of measuring")
    return tables.table((*columns, *macs, "networks kept", "GB of them"), rows)


def _saved(tasks: Sequence[Task]) -> float:
    return sum(t.jobs * t.saved * FLOAT_BYTES * t.network.parameters for t in tasks)


def projected(asked: Sequence[Grid], measured: Sequence[Machine]) -> str:
    """How long each grid takes on one measured device, and on many assumed ones."""
    rows = []
    for grid in asked:
        cells = [grid.name, *(duration(each.total(grid.tasks)) for each in measured)]
        cells.append(span([each.total(grid.tasks) for each in ASSUMED]))
        mesh = [machines.by_mesh(grid.workloads, each, FEW) for each in ASSUMED]
        few, pod = (
            [machines.by_run(grid.runs, each, devices) for each in ASSUMED]
            for devices in (FEW, POD)
        )
        cells.append(span(mesh) if grid.workloads else "-")
        cells += [span(own) if grid.runs else "-" for own in (few, pod)]
        cells.append(span([machines.by_training(grid.tasks, each, POD) for each in ASSUMED]))
        rows.append(cells)
    columns = [
        "grid",
        *(f"at the rates measured on {each.name}" for each in measured),
        "assumed: 1 device",
    ]
    columns += [f"{FEW}: one run on a mesh", f"{FEW}: its sweep, a device a run"]
    columns += [f"{POD}: its sweep, a device a run", f"{POD}: a device a training"]
    return tables.table(columns, rows)


def bounds(asked: Sequence[Grid], measured: Sequence[Machine]) -> str:
    """What each grid's time is made of."""
    rows = []
    for grid in asked:
        shares = []
        for machine in reversed(MIXED):
            latency = sum(task.jobs * machine.waiting(task) for task in grid.tasks)
            shares.append(f"{100 * latency / machine.total(grid.tasks):.0f} %")
        weights = sum(task.jobs * task.weights for task in grid.tasks)
        runs = len(grid.runs) or sum(task.trainings for task in grid.tasks)
        rows.append(
            [
                grid.name,
                span([machines.chain(grid.tasks, each) for each in ASSUMED]),
                " to ".join(shares),
                f"{weights:.2g}" if weights else "-",
                *(duration(weights / each.selection) if weights else "-" for each in measured),
                *(duration(runs * each.first) for each in measured),
            ]
        )
    columns = [
        "grid",
        "longest chain, assumed",
        "latency's share, assumed",
        "weights selected from",
    ]
    columns += [f"selecting, {each.name}" for each in measured]
    columns += [f"compiling in every run, {each.name}" for each in measured]
    return tables.table(columns, rows)


def split(asked: Sequence[Grid], devices: int = FEW) -> str:
    """What splitting a network's batches over devices gains and costs, a step."""
    networks = {
        task.network: task.batch for grid in asked for task in grid.tasks if task.kind == "training"
    }
    rows = []
    for network, batch in networks.items():
        sent = 2 * (devices - 1) / devices * FLOAT_BYTES * network.parameters
        gains = []
        for machine, link in zip(MIXED, LINKS, strict=True):
            products = work.TRAINING * batch * network.macs / machine.rates["training", "conv"]
            waiting = network.layers * machine.latency["conv"]
            reduced = sent / link.rate + link.latency
            gains.append((products + waiting) / (products / devices + waiting + reduced))
        shown = [network.name, f"{network.parameters:,}", f"{network.macs:,}"]
        rows.append([*shown, str(batch), f"{sent / 1e6:.3g}", "{1:.2g} to {0:.2g}".format(*gains)])
    columns = ("network", "parameters", "MACs an example", "batch")
    sums = f"summed over {devices} devices a step, MB"
    return tables.table((*columns, sums, f"at most so many times faster on {devices}"), rows)


def assumptions() -> str:
    """What is assumed of an accelerator."""
    rows = [
        (
            "multiply-accumulates a second, on these networks",
            *(f"{a.rates['training', 'conv']:.0e}" for a in ASSUMED),
        ),
        (
            "a training step beyond them, ms a layer",
            *(f"{1e3 * a.latency['conv']:g}" for a in ASSUMED),
        ),
        ("weights selected from a second", *(f"{a.selection:.0e}" for a in ASSUMED)),
        ("a sum over devices, bytes a second", *(f"{link.rate:.0e}" for link in LINKS)),
        ("and beyond that, ms", *(f"{1e3 * link.latency:g}" for link in LINKS)),
    ]
    return tables.table(("ASSUMED, not measured", "favourable", "unfavourable"), rows)


def rates(measured: Sequence[Machine]) -> str:
    """What was measured of the machines, as the projection uses it."""
    rows = []
    for machine in measured:
        for family, latency in machine.latency.items():
            own = [f"{machine.rates[kind, family]:.2g}" for kind in machines.KINDS.values()]
            shown = [machine.name, tables.NETWORKS[family], *own, f"{1e3 * latency:.2g}"]
            rows.append([*shown, f"{machine.selection:.2g}"])
    columns = ("measured", "networks", "MAC/s in training", "in diagonal GGNs", "forward")
    return tables.table(
        (*columns, "a step beyond them, ms a layer", "weights selected from a second"), rows
    )


def sections(figures: Sequence[Figures]) -> dict[str, str]:
    """The tables of the page by name, from the figures of one run or more, the page's own first."""
    measured, asked = [machines.measured(own) for own in figures], papers.papers()
    return {
        "where": "\n\n".join(tables.where(own) for own in figures),
        "growth": tables.growth(figures[0]),
        "devices": tables.devices(figures[0]),
        "grids": counted(asked),
        "rates": rates(measured),
        "assumptions": assumptions(),
        "projection": projected(asked, measured),
        "bounds": bounds(asked, measured),
        "split": split(asked),
    }


def updated(page: str, contents: dict[str, str]) -> str:
    """`page` with each of `contents` between the markers of its name.

    Raises:
      ValueError: markers that do not stand once each and in order.
    """
    for name, content in contents.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed) or begin in rest or end in before + after:
            raise ValueError(f"{PAGE} needs one line {begin} and after it one line {end}")
        page = f"{before}{begin}\n{content}\n{end}{after}"
    return page


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Writes or checks the page in `root`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.projection")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    check = parser.parse_args(argv).check
    page = root / PAGE
    figures = [json.loads(path.read_text("utf-8")) for path in sorted(root.glob(FIGURES))]
    if not figures:
        print(f"There is no {FIGURES}: run python -m benchmarks.growth --json docs/scaling.json")
        return 1
    old = page.read_text("utf-8")
    new = updated(old, sections(figures))
    if old == new:
        print(f"The tables of {PAGE} are up to date.")
        return 0
    if check:
        print(f"The tables of {PAGE} are out of date: run python -m benchmarks.projection")
        return 1
    page.write_text(new, "utf-8")
    print(f"The tables of {PAGE} have been written.")
    return 0

"""The figures of `benchmarks.growth` as Markdown tables."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.growth import exponents
from benchmarks.growth.exponents import Exponent

Figures = dict[str, Any]
NETWORKS = {"mlp": "MLP", "conv": "Small Conv"}
MEGABYTE = 2**20


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells as a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float) -> str:
    """Three digits, with a unit of thousands or millions where that is shorter."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            scaled = value / (1e3 if unit == "k" else size)
            return f"{scaled:.3g}{unit}" if scaled < 1e3 else f"{scaled:,.0f}{unit}"
    return f"{value:.3g}" if value < 1e3 else f"{value:,.0f}"


def spread(values: Sequence[float]) -> str:
    """A median with its range."""
    shown = [number(value) for value in (statistics.median(values), min(values), max(values))]
    return "{} ({} to {})".format(*shown)


def _shown(exponent: Exponent) -> str:
    interval = "" if math.isnan(exponent.low) else f" ({exponent.low:.2f} to {exponent.high:.2f})"
    return f"{exponent.value:.2f}{interval}"


def device(figures: Figures) -> str:
    """What one device of a run was: an accelerator, or the cores that a CPU's has."""
    own = figures["hardware"]
    platform, _, kind = own["devices"][0].partition(": ")
    return f"{own['cores']} cores of {own['processor']}" if platform == "cpu" else f"one {kind}"


def where(figures: Figures) -> str:
    """The hardware, versions and command of a run, in a sentence."""
    versions, memory = figures["versions"], figures["hardware"]["memory_gb"]
    return (
        f"`{figures['command']}` took {figures['seconds']} s on {device(figures)}, with "
        f"{memory:g} GB of memory: Python {versions['python']}, jax {versions['jax']}, jaxlib "
        f"{versions['jaxlib']}."
    )


def growth(figures: Figures) -> str:
    """How each operation grows along each axis."""
    columns = (
        "operation",
        "network",
        "grows with",
        "from - to",
        "time of the largest, ms",
        "exponent of time",
        "at the upper end",
        "memory of the largest, MB",
        "exponent of memory",
        "first run less the next, s",
    )
    return table(columns, (_growth_row(series) for series in figures["growth"]))


def _growth_row(series: Figures) -> list[str]:
    sizes, turns = series["sizes"], series["ms"]
    medians = [statistics.median(each) for each in turns]
    memory, weighed = series["bytes"], "-"
    if all(memory):
        weighed = _shown(exponents.fit(sizes, memory))
    held = f"{memory[-1] / MEGABYTE:.3g}" if memory[-1] is not None else "-"
    extra = (series["first_ms"][-1] - medians[-1]) / 1e3
    return [
        series["operation"],
        NETWORKS[series["family"]],
        series["axis"],
        f"{number(sizes[0])} - {number(sizes[-1])}",
        spread(turns[-1]),
        _shown(exponents.fit(sizes, medians)),
        _shown(exponents.at_upper_end(sizes, turns)),
        held + " (RSS)" * (series.get("memory") == "peak RSS"),
        weighed,
        f"{extra:.2g}",
    ]


def devices(figures: Figures) -> str:
    """What is spread over devices: times over one device's, turn by turn, and memory of each."""
    rows = []
    for own in figures["devices"]:
        base, count = own["ms"][0], own["case"]["count"]
        what = "one replicate, its batches split" if count == 1 else f"{count} side by side"
        each = zip(
            *(own[name] for name in ("devices", "ms", "bytes", "placing_bytes")), strict=True
        )
        for number_of, turns, held, placing in each:
            ratios = [mine / first for mine, first in zip(turns, base, strict=True)]
            ratio = "1" if number_of == own["devices"][0] else spread(ratios)
            cells = [own["operation"], what, str(number_of), spread(turns), ratio]
            weighed = [f"{size / MEGABYTE:.3g}" for size in (held, placing)]
            rows.append([*cells, *weighed, f"{own['difference']:.0e}"])
    columns = ("operation", "spread", "devices", "time, ms", "times one device")
    memory = ("memory of a device, MB", "of the first while placing, MB")
    return table((*columns, *memory, "largest difference"), rows)

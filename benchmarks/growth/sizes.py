"""At which sizes `benchmarks.growth` measures which operation."""

from typing import NamedTuple

from benchmarks.growth import operations
from benchmarks.growth.operations import Case


class Series(NamedTuple):
    """An operation at growing sizes.

    Attributes:
      axis: what grows.
      cases: the smallest first.
      sizes: of each.
    """

    axis: str
    cases: tuple[Case, ...]
    sizes: tuple[int, ...]


class Grid(NamedTuple):
    """The sizes of the axes.

    Attributes:
      mlp, conv, wide: widths, the last of the MLP whose masks are selected.
      few, many: examples, for convolutions and for the MLP.
      counts: replicates, stages, points, subsets and variants.
      fixed: the examples of what grows with something else: of an MLP, of a convolutional network,
        and of a diagonal GGN.
      sharded: width, examples and count of what is spread over devices.
    """

    mlp: tuple[int, ...]
    conv: tuple[int, ...]
    wide: tuple[int, ...]
    few: tuple[int, ...]
    many: tuple[int, ...]
    counts: tuple[int, ...]
    fixed: tuple[int, int, int]
    sharded: tuple[int, int, int]


FULL = Grid(
    mlp=(64, 128, 256, 512, 1024, 2048),
    conv=(4, 8, 16, 32, 64),
    wide=(256, 512, 1024, 2048, 4096),
    few=(64, 128, 256, 512, 1024),
    many=(1000, 2000, 4000, 8000, 16000),
    counts=(2, 4, 8, 16, 32),
    fixed=(1000, 128, 64),
    sharded=(16, 512, 8),
)
QUICK = Grid(
    mlp=(8, 16),
    conv=(1, 2),
    wide=(8, 16),
    few=(64, 128),
    many=(100, 200),
    counts=(1, 2),
    fixed=(100, 64, 16),
    sharded=(1, 64, 2),
)
POINTS = {"landscape": "points", "utilities": "subsets", "penalties": "variants"}
"""What evaluates a network at many points, and what it calls them."""


def _along(axis: str, base: Case, field: str, values: tuple[int, ...]) -> Series:
    return Series(axis, tuple(base._replace(**{field: value}) for value in values), values)


def _by_width(base: Case, widths: tuple[int, ...]) -> Series:
    cases = tuple(base._replace(width=width) for width in widths)
    return Series("parameters", cases, tuple(map(operations.parameters, cases)))


def series(grid: Grid) -> list[Series]:
    """Every operation along every axis that its cost grows with."""
    mlp, conv, of_ggn = grid.fixed
    dense = Case("training epoch", "mlp", grid.mlp[1], mlp)
    found = [
        _by_width(Case("scores and masks", "mlp", 0, of_ggn), grid.wide),
        _along("stages", Case("pruning in stages", "mlp", grid.mlp[1], conv), "count", grid.counts),
        _along("examples", dense, "examples", grid.many),
        _along("replicates", dense, "count", grid.counts),
    ]
    for name in ("training epoch", "diagonal GGN", *POINTS):
        count = grid.counts[1] if name in POINTS else 1
        own = of_ggn if name == "diagonal GGN" else conv
        small = Case(name, "conv", grid.conv[1], own, count)
        found.append(_along("examples", small, "examples", grid.few))
        found.append(_by_width(Case(name, "mlp", 0, mlp, count), grid.mlp))
        found.append(_by_width(small, grid.conv))
        if name in POINTS:
            found.append(_along(POINTS[name], small, "count", grid.counts))
    return sorted(
        found, key=lambda each: list(operations.OPERATIONS).index(each.cases[0].operation)
    )


def sharded(grid: Grid) -> list[Case]:
    """What is spread over devices: the batches of one replicate, then replicates and points."""
    width, examples, count = grid.sharded
    epoch, *points = (
        Case(name, "conv", width, examples, count) for name in ("training epoch", *POINTS)
    )
    return [epoch._replace(count=1), epoch, *points]


def grid(quick: bool) -> Grid:
    """The sizes of a run."""
    return QUICK if quick else FULL


def chosen(quick: bool) -> list[Series]:
    """What a run measures: everything, or one series of each operation."""
    found = series(grid(quick))
    return list({each.cases[0].operation: each for each in found}.values()) if quick else found

"""A unit graph as text, and as the rows that `figures.unit_graph` draws.

The graph is a `units.UnitGraph`; nothing is imported from the modules that build it.
"""

import itertools
from typing import Any, NamedTuple

HEAD = (
    "space",
    "size",
    "produced by",
    "enters (x positions, + offset)",
    "read at",
    "prunable",
)


class Edge(NamedTuple):
    """Units that go from one layer to another.

    Attributes:
      producer: the layer that they come from, or ``inputs``.
      space: the name of their space.
      size: how many there are.
      consumer: the layer that they enter, or ``outputs``.
      prunable: whether they may be pruned.
    """

    producer: str
    space: str
    size: int
    consumer: str
    prunable: bool


def text(graph: Any) -> str:
    """The spaces of a graph as a table, then the leaves that were not understood.

    Args:
      graph: a `units.UnitGraph`.

    Returns:
      For every space its name, its size, the layers that produce it, the layers that it enters
      with the positions that each unit has there and the first of them, the shapes of the arrays
      where it is read (n for the examples), and whether it may be pruned, or why not.
    """
    rows = [[[cell] for cell in HEAD]]
    rows += [_cells(space, graph.trace.model) for space in graph.spaces]
    widths = [max(len(line) for row in rows for line in row[column]) for column in range(len(HEAD))]
    lines = []
    for row in rows:
        for cells in itertools.zip_longest(*row, fillvalue=""):
            padded = [
                cell.rjust(width) if column == 1 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ]
            lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += [f"not supported: {leaf}: {why}" for leaf, why in graph.trace.unsupported]
    return "\n".join(lines)


def edges(graph: Any) -> list[Edge]:
    """Which units go from which layer to which, in the order in which the model runs them.

    A producer's units enter the consumers that run after it; those that enter no layer go to
    ``outputs``.

    Args:
      graph: a `units.UnitGraph`.

    Returns:
      One row for each producer, space and consumer.
    """
    order = {layer.name: place for place, layer in enumerate(graph.trace.layers)}
    found = []
    for space in graph.spaces:
        consumers = list(dict.fromkeys(consumer.layer for consumer in space.consumers))
        for producer in space.layers or ("inputs",):
            later = [c for c in consumers if order.get(c, -1) > order.get(producer, -1)]
            for consumer in later or ["outputs"]:
                found.append(Edge(producer, space.name, space.size, consumer, space.prunable))
    return found


def _cells(space: Any, model: Any) -> list[list[str]]:
    consumers = [
        consumer.layer
        + f" x{consumer.repeats}" * (consumer.repeats != 1)
        + f" +{consumer.offset}" * (consumer.offset != 0)
        for consumer in space.consumers
    ]
    shapes = [_shape(model, reading.value) for reading in space.readings]
    return [
        [space.name],
        [f"{space.size:,}"],
        list(space.layers),
        list(dict.fromkeys(consumers)),
        list(dict.fromkeys(shapes)),
        ["yes" if space.prunable else f"no: {space.reason}"],
    ]


def _shape(model: Any, value: int) -> str:
    sizes = [str(size) for size in model.avals[value].shape]
    if value in model.batch:
        axis, before, after = model.batch[value]
        sizes[axis] = "n" if before * after == 1 else f"{before * after} n"
    return f"({', '.join(sizes)})"

"""Which columns of a study's rows name what was measured."""

from typing import Any

Row = dict[str, Any]

IDENTITY = frozenset(
    (
        "phase",
        "workload",
        "seed",
        "epoch",
        "step",
        "split",
        "layers",
        "fraction",
        "criterion",
        "replacement",
        "sparsity",
        "stages",
        "schedule",
        "scope",
        "step_penalty",
        "network",
        "density",
        "schedules",
        "arm",
        "regime",
        "cycle",
        "among",
        "ratio",
        "moments",
        "block",
    )
)
"""The columns of rows that say which unit of work was measured; the others hold what was found."""


def identity(row: Row) -> Row:
    """The unit of work that a row measures."""
    return {key: value for key, value in row.items() if key in IDENTITY}

"""Tables of text that fit a terminal: what is too long goes on below, and nothing is cut off."""

import itertools
import re
from collections.abc import Collection, Sequence

WIDTH = 100
LEAST = 12
INDENT = "  "
"""Begins a line that goes on."""

_INSIDE = re.compile("(?<=[/_])|(?<=[a-z])(?=[A-Z])")
"""Where a word may be broken that is longer than a line."""

Cell = str | Sequence[str]
"""What is in one place of a table: a line, or several."""


def wrap(text: str, width: int = WIDTH) -> list[str]:
    """A text in lines of at most `width`, broken at spaces, and words that are longer inside.

    >>> wrap("layers/0/attention/query", 16)
    ['layers/0/', '  attention/', '  query']
    """
    lines = [""]
    for word in re.split("(?<= )", text):
        fits = len(INDENT + word.rstrip()) <= width
        for piece in [word] if fits else _INSIDE.split(word):
            while len((lines[-1] + piece).rstrip()) > width:
                if lines[-1].strip():
                    lines.append(INDENT)
                else:
                    room = width - len(lines[-1])
                    lines[-1] += piece[:room]
                    piece = piece[room:]
            lines[-1] += piece
    return [line.rstrip() for line in lines]


def table(
    rows: Sequence[Sequence[Cell]], *, right: Collection[int] = (), width: int = WIDTH
) -> list[str]:
    """Rows as lines, the first row ruled off.

    Args:
      rows: of cells, as many in each row.
      right: the numbers of the columns that are aligned to the right; these are not wrapped.
      width: of the longest line, if the columns can be made to fit: the widest are wrapped first,
        to no less than 12.

    Returns:
      The lines; those of cells that are wrapped begin with two spaces where they go on.
    """
    cells = [[[cell] if isinstance(cell, str) else list(cell) for cell in row] for row in rows]
    widths = _fit(_widths(cells), right, width)
    cells = [
        [
            cell if column in right else [part for line in cell for part in wrap(line, limit)]
            for column, (cell, limit) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    widths = _widths(cells)
    lines = [_lines(row, widths, right) for row in cells]
    rule = "  ".join("-" * size for size in widths)
    return [*lines[0], rule, *itertools.chain.from_iterable(lines[1:])]


def _widths(cells: list[list[list[str]]]) -> list[int]:
    columns = zip(*cells, strict=True)
    return [max((len(line) for cell in column for line in cell), default=0) for column in columns]


def _fit(widths: list[int], right: Collection[int], width: int) -> list[int]:
    widths, space = list(widths), 2 * (len(widths) - 1)
    while sum(widths) + space > width:
        columns = [c for c, size in enumerate(widths) if c not in right and size > LEAST]
        if not columns:
            break
        widths[max(columns, key=lambda column: widths[column])] -= 1
    return widths


def _lines(row: list[list[str]], widths: list[int], right: Collection[int]) -> list[str]:
    return [
        "  ".join(
            line.rjust(width) if column in right else line.ljust(width)
            for column, (line, width) in enumerate(zip(lines, widths, strict=True))
        ).rstrip()
        for lines in itertools.zip_longest(*row, fillvalue="")
    ]

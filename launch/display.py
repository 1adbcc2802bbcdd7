"""What a run tells its user: a progress bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


def reporter(stream: TextIO | None = sys.stderr) -> Callable:
    """A function of what is being done, how much of it is done, of how much, and figures.

    Without a stream it tells nothing.
    """
    if stream is None:
        return lambda label, done, total, figures: None
    tell = _bars(stream) if stream.isatty() else _lines(stream)

    def report(label: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        # A pipe that is closed or a disk that is full ends the telling, not the run.
        with contextlib.suppress(OSError, ValueError):
            tell(label, done, total, figures)

    return report


def _figures(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in figures.items())


def _bars(stream: TextIO) -> Callable:
    bar = tqdm(file=stream, dynamic_ncols=True, leave=False)

    def report(label: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if (bar.desc, bar.total) != (label + ": ", total) or done < bar.n:
            bar.reset(total)
            bar.set_description(label, refresh=False)
        bar.set_postfix_str(_figures(figures), refresh=False)
        bar.update(done - bar.n)
        if done == total:
            bar.clear()

    return report


def _lines(stream: TextIO) -> Callable:
    last = -SECONDS_BETWEEN_LINES

    def report(label: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        nonlocal last
        if done < total and time.monotonic() - last < SECONDS_BETWEEN_LINES:
            return
        last = time.monotonic()
        print(f"{label}: {done}/{total} {_figures(figures)}", file=stream, flush=True)

    return report

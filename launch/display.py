"""What a run tells its user: a progress bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from pruning_jax.analysis import claims
from pruning_jax.lab import records

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


class Clock:
    """How long each part of a run takes: the time from one report to the next is the next's."""

    def __init__(self) -> None:
        self._last, self._seconds = time.monotonic(), {}

    def part(self, name: str) -> None:
        """Counts the time since the last call as of a part."""
        now = time.monotonic()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    def timed(self, report: Callable) -> Callable:
        """A reporter that counts the time of every phase as well."""

        def timed(label: str, *rest) -> None:
            self.part(label.split()[0])
            report(label, *rest)

        return timed

    def table(self) -> str:
        """A line a part, and the whole."""
        parts = [*self._seconds.items(), ("in all", sum(self._seconds.values()))]
        return "\n".join(f"{name:<20} {seconds:8.1f} s" for name, seconds in parts)


def summary(path: Path, config: str, rows: int) -> str:
    """What a finished run leaves, and what may be done next."""
    figures = sorted((path / "figures").glob("*.png"))
    lines = [f"{rows} rows and {len(figures)} figures in {path}", *map(str, figures[:1])]
    found = records.read_json(path / "claims.json", [])
    if found:
        counts = Counter(claims.from_dict(claim).standing for claim in found)
        lines.append("claims: " + ", ".join(f"{n} {standing}" for standing, n in counts.items()))
    read = f"from pruning_jax.lab import results; print(results.read({str(path)!r}).table)"
    sweep = f"--config={config} --sweep=NAME --folder={path}-sweep"
    return "\n".join([*lines, f'next: python -c "{read}"', f"  or: python -m launch.sweep {sweep}"])


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

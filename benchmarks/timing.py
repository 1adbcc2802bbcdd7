"""Paired timings: the sides take turns, and the ratio is taken turn by turn."""

import statistics
import time
from collections.abc import Callable, Mapping

import jax


def in_turns(
    sides: Mapping[str, Callable], runs: int = 9, *, settle: bool = True
) -> dict[str, list[float]]:
    """Milliseconds of every run of every side.

    In each turn a side waits until the threads of the side before have stopped spinning, runs once
    untimed, and is timed; without `settle` it is only timed, as will do where all sides run the
    same code.
    """
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(runs):
        for side, run in sides.items():
            if settle:
                time.sleep(0.3)
                jax.block_until_ready(run())
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[side].append(1e3 * (time.perf_counter() - start))
    return times


def report(title: str, times: Mapping[str, list[float]], baseline: str) -> None:
    """Prints each side's times, and its speed over the baseline's with the spread over turns."""
    print(f"\n{title}")
    for side, own in times.items():
        ratios = [other / mine for other, mine in zip(times[baseline], own, strict=True)]
        print(
            f"  {side:<26} {min(own):9.1f} ms best {statistics.median(own):9.1f} median; "
            f"{statistics.median(ratios):.2f} x {baseline}, {min(ratios):.2f} to {max(ratios):.2f}"
        )

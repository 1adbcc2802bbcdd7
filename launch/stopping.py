"""Ends a run that is asked to end: at a place where nothing is lost, and in any case soon.

Whatever is cut short was written whole or not at all, so the same command continues it.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
"""What asks a run to end: Slurm and `kill`, the keyboard, Slurm's warning of the time limit, and a
terminal that is closed."""

STOPPED = os.EX_TEMPFAIL
"""The exit status of a run that was asked to end and continues with the same command."""

SECONDS = 7.0
"""How long a run has for it."""


def leave_at_once() -> None:
    """Has `SIGNALS` end this process wherever it is: before a run has begun, and after it."""

    def leave(number: int, _: object) -> None:
        name = signal.Signals(number).name
        os.write(2, f"ended by {name} while nothing ran; the same command continues\n".encode())
        os._exit(STOPPED)

    for number in SIGNALS:
        signal.signal(number, leave)


@contextlib.contextmanager
def requested(seconds: float = SECONDS) -> Iterator[Callable[[], bool]]:
    """Turns `SIGNALS` into a request to stop, and ends the process where nothing answers it.

    A thread watches, which runs while the main thread compiles or computes.

    Args:
      seconds: after the first signal at which the process ends by itself, if it is still within.

    Yields:
      A function that says whether a stop was asked for.

    Raises:
      ValueError: this is not the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("signals are handled by the main thread alone; run this there")
    asked = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, asked, seconds), daemon=True)
    watcher.start()
    try:
        yield asked.is_set
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in handlers.items():
            # What was not set from Python cannot be set back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        os.close(writer)
        watcher.join()
        os.close(reader)


def _watch(reader: int, asked: threading.Event, seconds: float) -> None:
    """Reads the numbers of signals until the other end is closed, or the time is up."""
    name, end = "", None
    while end is None or end > time.monotonic():
        left = None if end is None else max(end - time.monotonic(), 0)
        if not select.select([reader], [], [], left)[0]:
            continue
        numbers = os.read(reader, 64)
        if not numbers:
            return
        ours = [number for number in numbers if number in SIGNALS]
        if ours and end is None:
            name, end = signal.Signals(ours[0]).name, time.monotonic() + seconds
            asked.set()
    message = f"ended {seconds:g} s after {name}, within one operation; the same command continues"
    os.write(2, f"{message}\n".encode())
    os._exit(STOPPED)

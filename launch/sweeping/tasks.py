"""What a job on Slurm does; it imports little at first, so that it soon heeds Slurm's signals."""

import os
import signal
import threading
import time
from typing import Any, NamedTuple

SECONDS_TO_BE_ENDED = 300.0


class Task(NamedTuple):
    """One run as a job of Slurm's, which submitit starts.

    Slurm's warning that time is up ends the run cleanly and puts the job back into the queue. So
    does SIGTERM, but for the queue: it precedes a preemption, after which Slurm itself puts the job
    back, and a cancellation, after which nobody does.

    Attributes:
      job: a `commands.Job`, as a plain tuple.
    """

    job: tuple

    def __call__(self) -> int:
        """Runs the command; returns its exit status."""
        warning = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
        put_back = signal.getsignal(warning)
        stopping, asked = threading.Event(), set()

        def stop(number: int, _: Any) -> None:
            asked.add(number)
            stopping.set()

        for number in (warning, signal.SIGTERM):
            signal.signal(number, stop)
        from launch.sweeping import commands

        code = commands.execute(commands.Job(*self.job), stopping)
        ended = code == commands.FINISHED or 0 < code != commands.STOPPED
        last = time.monotonic() + SECONDS_TO_BE_ENDED
        while asked and not ended and warning not in asked and time.monotonic() < last:
            time.sleep(1.0)
        if warning in asked and not ended:
            put_back(warning, None)
        return code

    def checkpoint(self) -> Any:
        """What submitit starts when the job comes to its turn again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

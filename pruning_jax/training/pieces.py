"""The steps of an epoch, a piece at a time: scanned or dispatched, with pauses between or without.

Where pieces end depends on the epoch and the pauses alone, not on where a run begins, so that one
that was stopped between two of them continues through the same programs, to the same bits.
"""

import functools
import itertools
from collections.abc import Iterator

import numpy as np

from pruning_jax.lab import processes
from pruning_jax.training.steps import Pause, Programs, TrainState
from pruning_jax.types import Array, Batch

SCANNED, DISPATCHED = 50, 1
"""The most steps of a piece: a run can be stopped between two."""


def take(
    programs: Programs,
    scanned: bool,
    state: TrainState,
    train: Batch,
    order: Array,
    *,
    taken: int,
    last: int | None = None,
    pause: Pause | None = None,
) -> Iterator[tuple[int, TrainState, np.ndarray, np.ndarray]]:
    """Takes the steps of one epoch that are left.

    Args:
      programs: of the run.
      scanned: whether the steps of a piece are one scan, or dispatched one at a time.
      state: its leaves have a leading replicate axis; it is consumed.
      train: the same.
      order: the whole epoch's indices, shape (replicates, steps, batch).
      taken: how many steps of the schedule are behind `state`.
      last: the step to end at, if not the epoch's last.
      pause: what is done between steps.

    Yields:
      After each piece the steps behind it, the state, which the next piece consumes, and the loss
      and the accuracy of each of its steps, shape (replicates, steps).

    Raises:
      FloatingPointError: a loss is not finite; names the step.
    """
    whole, begin = order.shape[1], taken - taken % order.shape[1]
    every = pause.every if pause else whole
    lengths = {*_cut(whole, SCANNED), *_cut(every, SCANNED)}
    ends = _ends(begin, whole, every, SCANNED if scanned else DISPATCHED)
    last = begin + whole if last is None else last
    order = order if scanned else processes.fetch(order)
    for first, end in itertools.pairwise([taken, *(e for e in ends if taken < e < last), last]):
        # A piece of a length of its own would be compiled on its own.
        once = scanned and end - first in lengths
        run = programs.scan if once else functools.partial(dispatch, programs)
        state, record = run(state, train, order[:, first - begin : end - begin], np.int32(first))
        loss, accuracy = map(processes.fetch, record)
        _check_finite(loss, first, whole)
        if pause and end % every == 0:
            pause.call(end, state)
        yield end, state, loss, accuracy


def dispatch(programs: Programs, state: TrainState, train: Batch, order: Array, first: int):
    """Steps, one at a time from Python; what `Programs.scan` returns."""
    records = []
    for number, index in enumerate(processes.fetch(order).swapaxes(0, 1), first):
        state, record = programs.step(state, train, index, np.int32(number))
        records.append(record)
    stacked = (
        np.stack([processes.fetch(x) for x in leaves], 1) for leaves in zip(*records, strict=True)
    )
    return state, tuple(stacked)


def _ends(begin: int, whole: int, every: int, most: int) -> list[int]:
    """The ends of all pieces of the epoch that begins at a step, counted in the schedule.

    A piece ends at every pause, and what lies between two has as few pieces as hold it.
    """
    pauses = range(begin + every - begin % every, begin + whole, every)
    spans = itertools.pairwise([begin, *pauses, begin + whole])
    lengths = [length for first, last in spans for length in _cut(last - first, most)]
    return list(itertools.accumulate(lengths, initial=begin))[1:]


def _cut(length: int, most: int) -> list[int]:
    """The lengths of as few pieces as hold so many steps: one length, or two that differ by 1."""
    pieces = -(-length // most)
    stops = [length * number // pieces for number in range(pieces + 1)]
    return [last - first for first, last in itertools.pairwise(stops)]


def _check_finite(loss: np.ndarray, taken: int, epoch: int) -> None:
    bad = np.argwhere(~np.isfinite(loss))
    if len(bad):
        replicate, step = bad[bad[:, 1].argmin()]
        raise FloatingPointError(
            f"the training loss is {loss[replicate, step]} at step {taken + step} "
            f"(epoch {(taken + step) // epoch + 1}, replicate {replicate} of this group); lower "
            "the learning rate. The last checkpoint is kept."
        )

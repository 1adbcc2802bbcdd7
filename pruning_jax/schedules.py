"""Sparsity as a function of progress, over the stages of pruning or the steps of training.

Every schedule is ``schedule(progress, final, initial=0.0) -> sparsity``, with `progress` in
[0, 1] a number or an array, `initial` the sparsity at progress 0 and `final` that at progress 1.
"""

import operator
from collections.abc import Callable

from pruning_jax import choices
from pruning_jax.types import Array


def one_shot(progress: float | Array, final: float, initial: float = 0.0) -> float | Array:
    """All at once.

    kappa(p) = initial if p = 0 else final

    Args:
      progress: in [0, 1], a number or an array of any shape.
      final: the sparsity at progress 1.
      initial: the sparsity at progress 0.

    Returns:
      The sparsity, a number or of the shape of `progress`.

    >>> [pj.schedules.one_shot(progress, 0.9) for progress in (0, 0.5, 1)]
    [0.0, 0.9, 0.9]

    Source: the one stage of arXiv 2006.12279, Algorithm 1.
    """
    return initial + (final - initial) * (progress > 0)


def linear(progress: float | Array, final: float, initial: float = 0.0) -> float | Array:
    """The same number of weights at every stage.

    kappa(p) = initial + (final - initial) p

    Args:
      progress, final, initial: as in `one_shot`.

    Returns:
      The sparsity, a number or of the shape of `progress`.

    >>> [round(pj.schedules.linear(progress, 0.9), 3) for progress in (0, 0.5, 1)]
    [0.0, 0.45, 0.9]

    Source: arXiv 2006.12279, Algorithm 1.
    """
    return initial + (final - initial) * progress


def exponential(progress: float | Array, final: float, initial: float = 0.0) -> float | Array:
    """The same share of the remaining weights at every stage.

    kappa(p) = 1 - (1 - initial)^(1 - p) (1 - final)^p

    Args:
      progress, final, initial: as in `one_shot`.

    Returns:
      The sparsity, a number or of the shape of `progress`.

    >>> [round(pj.schedules.exponential(progress, 0.9), 3) for progress in (0, 0.5, 1)]
    [0.0, 0.684, 0.9]

    Source: arXiv 2006.12279, its authors' code, where initial = 0.
    """
    return 1.0 - (1.0 - initial) ** (1.0 - progress) * (1.0 - final) ** progress


def cubic(progress: float | Array, final: float, initial: float = 0.0) -> float | Array:
    """Many weights at first, few at last.

    kappa(p) = final + (initial - final) (1 - p)^3

    Args:
      progress, final, initial: as in `one_shot`.

    Returns:
      The sparsity, a number or of the shape of `progress`.

    >>> [round(pj.schedules.cubic(progress, 0.8), 3) for progress in (0, 0.5, 1)]
    [0.0, 0.7, 0.8]

    Source: Zhu and Gupta, To prune, or not to prune (arXiv 1710.01878), equation 1.
    """
    return final + (initial - final) * (1.0 - progress) ** 3


SCHEDULES: dict[str, Callable] = {
    "one_shot": one_shot,
    "linear": linear,
    "exponential": exponential,
    "cubic": cubic,
}


def sparsities(name: str, final: float, stages: int) -> list[float]:
    """The sparsity to reach at each of a number of stages.

    kappa_i = schedule(i / stages), for i = 1, ..., stages

    Args:
      name: a row of `SCHEDULES`.
      final: the sparsity after the last stage.
      stages: how many stages.

    Returns:
      `stages` sparsities that never fall; the last is exactly `final`.

    Raises:
      ValueError: an unknown schedule, a `final` outside [0, 1], `stages` no integer or below 1.

    >>> pj.schedules.sparsities("linear", 0.5, 2)
    [0.25, 0.5]
    """
    choices.check("schedule", name, SCHEDULES)
    final = choices.check_sparsity(final)
    try:
        count = operator.index(stages)
    except TypeError as error:
        raise ValueError(f"stages must be an integer, not {stages!r}") from error
    if count < 1 or isinstance(stages, bool):
        raise ValueError(f"stages must be an integer of at least 1, not {stages!r}")
    schedule = SCHEDULES[name]
    return [min(schedule(i / count, final), final) for i in range(1, count)] + [final]


def compounded(share: float, cycles: int) -> list[float]:
    """The sparsities of iterative pruning, where every cycle removes a share of what remains.

    kappa_i = 1 - (1 - share)^i, for i = 1, ..., cycles

    Args:
      share: of the remaining weights, in (0, 1).
      cycles: how many.

    Returns:
      A sparsity for each cycle.

    Raises:
      ValueError: a share outside (0, 1), `cycles` no integer or below 1.

    >>> pj.schedules.compounded(0.5, 3)
    [0.5, 0.75, 0.875]
    """
    if not 0 < choices.check_sparsity(share) < 1:
        raise ValueError(f"share is {share}; a cycle removes a share of what remains, in (0, 1)")
    count = choices.whole("cycles", cycles, "cycle")
    return [1 - (1 - share) ** cycle for cycle in range(1, count + 1)]

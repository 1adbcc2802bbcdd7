"""Pruning criteria: pure functions from weights, and statistics of the loss, to scores.

A criterion asks for its statistics by the names of its parameters: `gradient`, `ggn`, `key`.
One that takes a step-size penalty has a keyword `step_penalty`.
"""

import functools
import inspect
from collections.abc import Callable

from pruning_jax.criteria import weights

STATISTICS = ("gradient", "ggn", "key")

WEIGHT_CRITERIA: dict[str, Callable] = {
    "magnitude": weights.magnitude,
    "obd": weights.obd,
    "linear": weights.linear,
    "quadratic": weights.quadratic,
    "gradient_magnitude": weights.gradient_magnitude,
    "random": weights.random,
}


def name(criterion: Callable) -> str:
    """The name of a criterion's function, through `functools.partial`."""
    function = criterion.func if isinstance(criterion, functools.partial) else criterion
    return getattr(function, "__name__", type(function).__name__)


def required(criterion: Callable) -> frozenset[str]:
    """The names of the statistics that a criterion takes, among `STATISTICS`.

    Raises:
      ValueError: a parameter without a default, after the first, that is no statistic.
    """
    _, *others = inspect.signature(criterion).parameters.values()
    names = frozenset(p.name for p in others if p.default is inspect.Parameter.empty)
    unknown = sorted(names.difference(STATISTICS))
    if unknown:
        raise ValueError(
            f"criterion {name(criterion)!r} asks for {unknown[0]!r}; "
            f"the statistics there are {', '.join(STATISTICS)}"
        )
    return names


def takes_step_penalty(criterion: Callable) -> bool:
    """Whether a criterion has a step-size penalty that no `functools.partial` has fixed."""
    if "step_penalty" in getattr(criterion, "keywords", {}):
        return False
    return "step_penalty" in inspect.signature(criterion).parameters

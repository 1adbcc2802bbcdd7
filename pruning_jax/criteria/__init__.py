"""Pruning criteria: pure functions from weights, and statistics of the loss, to scores.

A criterion asks for its statistics by the names of its parameters: `gradient`, `ggn`, `key`.
One that takes a step-size penalty has a keyword `step_penalty`.
"""

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
            f"criterion {criterion.__name__!r} asks for {unknown[0]!r}; "
            f"the statistics there are {', '.join(STATISTICS)}"
        )
    return names


def takes_step_penalty(criterion: Callable) -> bool:
    """Whether a criterion has a step-size penalty."""
    return "step_penalty" in inspect.signature(criterion).parameters

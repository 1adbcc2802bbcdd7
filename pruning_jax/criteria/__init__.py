"""Pruning criteria: pure functions from weights, and statistics of the loss, to scores.

A criterion asks for its statistics by the names of its parameters: `gradient`, `ggn`, `key`.
One that takes a step-size penalty has a keyword `step_penalty`. A criterion of units asks in the
same way for what `criteria.units` lists, and scores one space of units at a time.
"""

import functools
import inspect
from collections.abc import Callable, Iterable

import jax.numpy as jnp

from pruning_jax import choices
from pruning_jax.criteria import operands, units, weights
from pruning_jax.criteria.operands import UNIT_OPERANDS as UNIT_OPERANDS
from pruning_jax.criteria.weights import gradient_magnitude as gradient_magnitude
from pruning_jax.criteria.weights import linear as linear
from pruning_jax.criteria.weights import magnitude as magnitude
from pruning_jax.criteria.weights import obd as obd
from pruning_jax.criteria.weights import quadratic as quadratic
from pruning_jax.criteria.weights import random as random
from pruning_jax.curvature import UnitStatistics
from pruning_jax.curvature.averaging import check_key
from pruning_jax.types import Array, Params
from pruning_jax.units import UnitGraph, UnitSpace

__all__ = [
    "UNIT_CRITERIA",
    "UNIT_OPERANDS",
    "WEIGHT_CRITERIA",
    "gradient_magnitude",
    "linear",
    "magnitude",
    "obd",
    "quadratic",
    "random",
    "unit_scores",
    "units",
    "weights",
]

STATISTICS = ("gradient", "ggn", "key")

WEIGHT_CRITERIA: dict[str, Callable] = {
    "magnitude": weights.magnitude,
    "obd": weights.obd,
    "linear": weights.linear,
    "quadratic": weights.quadratic,
    "gradient_magnitude": weights.gradient_magnitude,
    "random": weights.random,
}

UNIT_CRITERIA: dict[str, Callable] = {
    "random": units.random,
    "weight_norm": units.weight_norm,
    "weight_norm_l1": units.weight_norm_l1,
    "rs": units.rs,
    "mrs": units.mrs,
    "abs_rs": units.abs_rs,
    "abs_mrs": units.abs_mrs,
    "activation_norm": units.activation_norm,
    "average_percentage_of_zeros": units.average_percentage_of_zeros,
    "batch_norm_scale": units.batch_norm_scale,
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
    return _asked(criterion, STATISTICS, first=1)


def unit_required(criterion: Callable) -> frozenset[str]:
    """The names of what a criterion of units takes, among `UNIT_OPERANDS`.

    Raises:
      ValueError: a parameter without a default that is none of them.
    """
    return _asked(criterion, UNIT_OPERANDS)


def _asked(criterion: Callable, valid: tuple[str, ...], first: int = 0) -> frozenset[str]:
    parameters = list(inspect.signature(criterion).parameters.values())[first:]
    names = frozenset(p.name for p in parameters if p.default is inspect.Parameter.empty)
    unknown = sorted(names.difference(valid))
    if unknown:
        raise ValueError(
            f"criterion {name(criterion)!r} asks for {unknown[0]!r}; "
            f"the statistics there are {', '.join(valid)}"
        )
    return names


def takes_step_penalty(criterion: Callable) -> bool:
    """Whether a criterion has a step-size penalty that no `functools.partial` has fixed."""
    if "step_penalty" in getattr(criterion, "keywords", {}):
        return False
    return "step_penalty" in inspect.signature(criterion).parameters


def unit_scores(
    criterion: str | Callable,
    graph: UnitGraph,
    variables: Params,
    *,
    statistics: UnitStatistics | None = None,
    key: Array | None = None,
    only: str | Iterable[str] | None = None,
) -> dict[str, Array]:
    """Scores every unit that may be pruned by a criterion, for `units.from_scores`.

    Args:
      criterion: a row of `UNIT_CRITERIA`, by its name, or a function like one.
      graph: the model's unit graph.
      variables: its variables.
      statistics: of the units, where the criterion needs them.
      key: a random key, where it needs one; each space has one of its own, folded from it.
      only: the spaces to score, by their names or those of the layers that produce them; all that
        may be pruned when ``None``.

    Returns:
      Space -> the estimated harm of removing each unit, shape (size,); the lowest go first.

    Raises:
      ValueError: an unknown criterion or space, or one that may not be pruned; statistics, a key
        or a scale that the criterion needs and that are not there; scores of another shape.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> w, out = jnp.array([[1.0, -2.0, 0.5]]), jnp.ones((3, 2))
    >>> variables, inputs = {"w": w, "out": out}, jnp.array([[1.0], [3.0]])
    >>> graph = pj.units.graph(pj.trace(model, variables, inputs))
    >>> pj.criteria.unit_scores("weight_norm", graph, variables)["w"].tolist()
    [1.0, 2.0, 0.5]
    """
    if not callable(criterion):
        choices.check("unit criterion", criterion, UNIT_CRITERIA)
        criterion = UNIT_CRITERIA[criterion]
    if not isinstance(graph, UnitGraph):
        raise ValueError(f"graph must be a UnitGraph, of units.graph, not {type(graph).__name__}")
    check_key(key)
    needed, scores = unit_required(criterion), {}
    for space in _chosen(graph, only):
        operands.check_variables(graph, space, variables)
        given = {
            of: operands.operand(of, graph, space, variables, statistics, key) for of in needed
        }
        found = criterion(**given)
        if jnp.shape(found) != (space.size,):
            raise ValueError(
                f"criterion {name(criterion)!r} gave scores of shape {jnp.shape(found)} for "
                f"{space.name!r}; they must have shape ({space.size},)"
            )
        scores[space.name] = jnp.asarray(found)
    return scores


def _chosen(graph: UnitGraph, only: str | Iterable[str] | None) -> list[UnitSpace]:
    """The spaces that are asked for, in the graph's order.

    Raises:
      ValueError: one is unknown, or may not be pruned.
    """
    if only is None:
        return list(graph.prunable)
    wanted = [graph[each].name for each in ([only] if isinstance(only, str) else only)]
    refused = next((s for s in graph.spaces if s.name in wanted and not s.prunable), None)
    if refused is not None:
        valid = ", ".join(space.name for space in graph.prunable) or "none"
        raise ValueError(f"{refused.name!r} is not prunable: {refused.reason}; prunable: {valid}")
    return [space for space in graph.prunable if space.name in wanted]

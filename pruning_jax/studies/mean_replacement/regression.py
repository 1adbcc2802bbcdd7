"""The constant that replaces a feature of a linear regression at the least cost (M7)."""

import functools

import jax
import numpy as np
import scipy

from pruning_jax import tracing
from pruning_jax.tracing import Trace
from pruning_jax.types import Array, Batch, Params
from pruning_jax.units import UnitGraph

LEAST_SHARE = 1e-3
"""Features whose largest weight is a smaller share of the largest of all are left out."""


def relative_error(graph: UnitGraph, variables: Params, batch: Batch) -> float:
    """How far the best constant of any feature lies from its mean, relative to the mean.

    The features are what enters the network's last layer; the regression predicts the labels.
    """
    features = _features(graph.trace, variables, batch.inputs)
    classes = int(batch.labels.max()) + 1
    targets = np.eye(classes)[np.asarray(batch.labels)]
    return float(relative_errors(np.asarray(features, np.float64), targets).max())


def relative_errors(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Each feature's |c - mean| / |mean|, c the constant that replaces it at the least cost.

    Least squares with intercept, in double precision; its weights stay as they are, and the
    minimum over c of its loss less that of the regression is found numerically.

    Args:
      features: floats, shape (examples, features).
      targets: floats, shape (examples, outputs).

    Returns:
      Of the features that vary and have a weight, shape (features used,).

    Raises:
      ValueError: no feature varies.
    """
    ones = np.ones((len(features), 1))
    weights = np.linalg.lstsq(np.hstack([features, ones]), targets, rcond=None)[0]
    residual = targets - np.hstack([features, ones]) @ weights
    sizes = np.abs(weights[:-1]).max(axis=1) * (features.std(axis=0) > 0)
    used = np.flatnonzero(sizes > LEAST_SHARE * sizes.max(initial=0.0))
    if not len(used):
        raise ValueError("no feature of the regression varies; train the network further")
    errors = []
    for feature in used:
        column = features[:, feature]

        def penalty(constant: float, column=column, weight=weights[feature]) -> float:
            change = np.outer(column - constant, weight)
            return np.mean(np.sum(change * (2 * residual + change), axis=1))

        found = scipy.optimize.minimize_scalar(penalty, bracket=(column.min(), column.max())).x
        errors.append(abs(found - column.mean()) / abs(column.mean()))
    return np.array(errors)


@functools.partial(jax.jit, static_argnums=0)
def _features(trace: Trace, variables: Params, inputs: Array) -> Array:
    """What enters the last layer of a network, shape (examples, features)."""
    model, use = trace.model, trace.layers[-1].uses[-1]
    value = model.equations[use.equation].inputs[1 - use.operand]

    def one(inputs: Array) -> Array:
        return tracing.evaluate(model, model.known(variables, inputs), [value])[value]

    return tracing.over_examples(one, inputs).reshape(inputs.shape[0], -1)

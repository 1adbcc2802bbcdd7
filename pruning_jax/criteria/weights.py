"""Criteria for single weights: how much harm the removal of each is expected to do.

All but the controls are one expression, of a weight theta, its gradient g and its curvature G:

    s = |-g theta + 1/2 G theta^2| + 1/2 lambda theta^2

(Revisiting Loss Modelling for Unstructured Pruning, arXiv 2006.12279, and its authors' code).
The step-size penalty lambda keeps a stage's step short, where the quadratic model holds; it is
added outside the absolute value.

In every function `params` is the tree of the weights to score, ``None`` where a leaf is not
prunable; the statistics are trees of the same structure, or of the whole model's, and scores have
the shapes of `params`, in single precision or better.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pruning_jax import trees
from pruning_jax.types import Array, Params, PyTree, Scores


def magnitude(params: Params, *, step_penalty: float = 0.0) -> Scores:
    """Scores by magnitude, the quadratic model with g = 0 and G = 1.

    s = 1/2 theta^2 + 1/2 lambda theta^2

    Args:
      params: the weights.
      step_penalty: lambda; it scales all scores alike.

    Returns:
      The scores, a tree like `params`.

    >>> pj.criteria.magnitude({"kernel": jnp.array([1.0, -2.0]), "bias": None})["kernel"].tolist()
    [0.5, 2.0]

    Source: arXiv 2006.12279, MP in its authors' code.
    """
    return _map(lambda theta: _penalty(theta, 1.0) + _penalty(theta, step_penalty), params)


def obd(params: Params, ggn: PyTree, *, step_penalty: float = 0.0) -> Scores:
    """Scores by the diagonal second-order term: optimal brain damage.

    s = |1/2 G theta^2| + 1/2 lambda theta^2

    Args:
      params: the weights.
      ggn: the diagonal G of the generalised Gauss-Newton matrix of the mean loss.
      step_penalty: lambda.

    Returns:
      The scores, a tree like `params`.

    Raises:
      ValueError: a weight has no curvature.

    >>> weights, ggn = {"kernel": jnp.array([1.0, -2.0])}, {"kernel": jnp.array([4.0, 0.5])}
    >>> pj.criteria.obd(weights, ggn)["kernel"].tolist()
    [2.0, 1.0]

    Source: arXiv 2006.12279, OBD.
    """
    return _map(
        lambda theta, curvature: (
            jnp.abs(0.5 * curvature * theta**2) + _penalty(theta, step_penalty)
        ),
        params,
        ggn=ggn,
    )


def linear(params: Params, gradient: PyTree, *, step_penalty: float = 0.0) -> Scores:
    """Scores by the first-order model of the change in loss (LM).

    s = |-g theta| + 1/2 lambda theta^2

    Args:
      params: the weights.
      gradient: the gradient g of the mean loss.
      step_penalty: lambda.

    Returns:
      The scores, a tree like `params`.

    Raises:
      ValueError: a weight has no gradient.

    >>> weights, gradient = {"kernel": jnp.array([1.0, -2.0])}, {"kernel": jnp.array([-3.0, 0.5])}
    >>> pj.criteria.linear(weights, gradient)["kernel"].tolist()
    [3.0, 1.0]

    Source: arXiv 2006.12279, LM.
    """
    return _map(
        lambda theta, slope: jnp.abs(slope * theta) + _penalty(theta, step_penalty),
        params,
        gradient=gradient,
    )


def quadratic(
    params: Params, gradient: PyTree, ggn: PyTree, *, step_penalty: float = 0.0
) -> Scores:
    """Scores by the second-order model of the change in loss, with a diagonal curvature (QM).

    s = |-g theta + 1/2 G theta^2| + 1/2 lambda theta^2

    Args:
      params: the weights.
      gradient: the gradient g of the mean loss.
      ggn: the diagonal G of the generalised Gauss-Newton matrix of the mean loss.
      step_penalty: lambda.

    Returns:
      The scores, a tree like `params`.

    Raises:
      ValueError: a weight has no gradient, or no curvature.

    >>> weights, gradient = {"kernel": jnp.array([1.0, -2.0])}, {"kernel": jnp.array([-3.0, 0.5])}
    >>> ggn = {"kernel": jnp.array([4.0, 0.5])}
    >>> pj.criteria.quadratic(weights, gradient, ggn)["kernel"].tolist()
    [5.0, 2.0]

    Source: arXiv 2006.12279, QM.
    """
    return _map(
        lambda theta, slope, curvature: (
            jnp.abs(-slope * theta + 0.5 * curvature * theta**2) + _penalty(theta, step_penalty)
        ),
        params,
        gradient=gradient,
        ggn=ggn,
    )


def gradient_magnitude(params: Params, gradient: PyTree) -> Scores:
    """Scores by the magnitude of the gradient alone, a control.

    s = |g|

    Args:
      params: the weights.
      gradient: the gradient g of the mean loss.

    Returns:
      The scores, a tree like `params`.

    Raises:
      ValueError: a weight has no gradient.

    >>> weights, gradient = {"kernel": jnp.array([1.0, -2.0])}, {"kernel": jnp.array([-3.0, 0.5])}
    >>> pj.criteria.gradient_magnitude(weights, gradient)["kernel"].tolist()
    [3.0, 0.5]

    Source: the gradient baselines of ShrinkBench, without their factor theta.
    """
    return _map(lambda theta, slope: jnp.abs(slope), params, gradient=gradient)


def random(params: Params, key: Array) -> Scores:
    """Scores uniformly at random, a control.

    s ~ U[0, 1)

    Args:
      params: the weights.
      key: a random key.

    Returns:
      The scores, a tree like `params`.

    >>> scores = pj.criteria.random({"kernel": jnp.ones((2, 3))}, jax.random.key(0))["kernel"]
    >>> scores.shape, bool((scores >= 0).all() and (scores < 1).all())
    ((2, 3), True)

    Source: the random baseline of ShrinkBench, arXiv 2003.03033.
    """
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        treedef, [jax.random.uniform(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    )


def _penalty(theta: Array, step_penalty: float) -> Array:
    return 0.5 * step_penalty * theta**2


def _map(score: Callable, params: Params, **statistics: PyTree) -> Scores:
    """Maps `score` over the weights and their statistics, all in single precision or better."""
    for name, statistic in statistics.items():
        _check_covers(params, name, statistic)
    return trees.map_selected(
        lambda *leaves: score(*(_widen(leaf) for leaf in leaves)), params, *statistics.values()
    )


def _widen(leaf: Array) -> Array:
    """The leaf in at least 32 bits: squares of small half-precision weights would be zero."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def _check_covers(params: Params, name: str, statistic: PyTree) -> None:
    named = trees.named_leaves(statistic)
    for leaf, weights in trees.named_leaves(params).items():
        if leaf not in named:
            raise ValueError(
                f"{name} has no values for the weights {leaf!r}, which are to be scored"
            )
        if named[leaf].shape != weights.shape:
            raise ValueError(
                f"{name} of {leaf!r} has shape {named[leaf].shape}, "
                f"and the weights have {weights.shape}"
            )

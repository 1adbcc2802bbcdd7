"""Directions of a plane that no points give: random ones, and leading Hessian eigenvectors."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import linalg

from pruning_jax import choices, curvature, losses, trees
from pruning_jax.analysis.landscape import checking, planes
from pruning_jax.types import ApplyFn, Array, Batch, Params, PyTree

NORMALISATIONS = ("filter", "layer")
_TOLERANCE = 1e-6


def random_directions(
    key: Array,
    params: Params,
    count: int = 2,
    *,
    normalisation: str | None = "filter",
    filter_axis: int = -1,
) -> tuple[Params, ...]:
    """Gaussian directions in the scale of the parameters.

        d_f <- d_f ||w_f|| / ||d_f||   for every filter f, or for every leaf

    Args:
      key: the only source of randomness.
      params: the weights w; leaves that are not floating have no direction.
      count: how many directions.
      normalisation: "filter" gives every filter of a direction the norm of the weights' filter, and
        leaves with fewer than 2 axes (biases, scales and shifts) a direction of zero; "layer" gives
        every leaf the norm of the weights' leaf; ``None`` leaves standard normal noise.
      filter_axis: the axis along which a leaf's filters are counted, such as the last, of the
        outputs of a Flax kernel.

    Raises:
      ValueError: no key, a count that is no integer or below 1, an unknown normalisation, an axis
        that a leaf does not have, leaves that are no arrays, or none that is floating.

    Source: Li et al., arXiv 1712.09913, section 4.
    """
    checking.check_key(key)
    count = choices.whole("count", count, "direction")
    if normalisation is not None:
        choices.check("normalisation", normalisation, NORMALISATIONS)
    checking.check_leaves(params, "params")
    leaves = {n: w for n, w in trees.named_leaves(params).items() if checking.is_floating(w)}
    for name, leaf in leaves.items():
        axes = range(-leaf.ndim, leaf.ndim)
        if normalisation == "filter" and leaf.ndim > 1 and filter_axis not in axes:
            raise ValueError(f"filter_axis is {filter_axis}; leaf {name!r} has {leaf.ndim} axes")
    found = []
    for number in range(count):
        own = jax.random.fold_in(key, number)
        noise = iter(_noise(own, list(leaves.values()), normalisation, filter_axis))
        found.append(
            jax.tree.map(lambda w, n=noise: next(n) if checking.is_floating(w) else None, params)
        )
    return tuple(found)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _noise(
    key: Array, leaves: list[Array], normalisation: str | None, filter_axis: int
) -> list[Array]:
    def norm(x, axes):
        return jnp.sqrt(jnp.sum(x**2, axes, keepdims=True))

    def noise(key, w):
        w = w.astype(jnp.promote_types(w.dtype, jnp.float32))
        drawn = jax.random.normal(key, w.shape, w.dtype)
        if normalisation is None:
            return drawn
        by_filter = normalisation == "filter"
        if by_filter and w.ndim < 2:
            return jnp.zeros_like(w)
        axes = tuple(a for a in range(w.ndim) if not by_filter or a != filter_axis % w.ndim)
        return drawn * (norm(w, axes) / norm(drawn, axes))

    return [noise(*pair) for pair in zip(jax.random.split(key, len(leaves)), leaves, strict=True)]


def eigenvectors(
    apply_fn: ApplyFn,
    params: Params,
    batches: Batch | Iterable[Batch],
    count: int = 2,
    *,
    key: Array,
    state: dict[str, PyTree] | None = None,
    loss: losses.Loss = losses.cross_entropy,
) -> tuple[np.ndarray, tuple[Params, ...]]:
    """The largest eigenvalues of the Hessian of the mean loss, and their eigenvectors, by Lanczos.

        H v = lambda v,  H = E_x d^2 L(f(x), y) / d theta^2

    Args:
      apply_fn: the model, in evaluation mode.
      params: theta.
      batches: one batch or several; the mean is over all examples.
      count: how many eigenpairs, fewer than there are parameters.
      key: draws the start vector.
      state: collections that are not differentiated: the model is applied to
        ``{"params": params, **state}``, or to `params` itself where it is ``None``.
      loss: of an example.

    Returns:
      The eigenvalues, the largest first, and vectors like `params`, of unit norm and orthogonal,
      the entry of largest magnitude positive; ``None`` for leaves that are not floating.

    Raises:
      ValueError: no key; a count that cannot be had; leaves that are no arrays; batches that
        `curvature.hessian_vector_product` refuses; a Hessian that is zero or not finite, or whose
        eigenvectors Lanczos does not find.
    """
    checking.check_key(key)
    checking.check_leaves(params, "params")
    count = choices.whole("count", count, "eigenpair")
    batches = [batches] if isinstance(batches, Batch) else list(batches)
    sizes = [leaf.size for leaf in jax.tree.leaves(params) if checking.is_floating(leaf)]
    dimension = sum(sizes)
    if count >= dimension:
        raise ValueError(
            f"count is {count}; of {dimension} parameters it must be from 1 to {dimension - 1}"
        )
    variables = params if state is None else {"params": params, **state}
    frozen = {} if state is None else trees.select(state, ())

    def tree(vector: np.ndarray) -> PyTree:
        return planes.direction(params, np.split(vector, np.cumsum(sizes)[:-1]))

    def product(vector: np.ndarray) -> np.ndarray:
        v = jax.tree.map(_as_like, params, tree(np.ravel(vector)))
        v = v if state is None else {"params": v, **frozen}
        hv = curvature.hessian_vector_product(apply_fn, variables, v, batches, loss=loss)
        hv = np.concatenate(checking.flat(hv if state is None else hv["params"]))
        if not np.isfinite(hv).all():
            raise ValueError("the Hessian is not finite at params; give a point where it is")
        return hv

    hessian = linalg.LinearOperator((dimension, dimension), matvec=product, dtype=np.float64)
    start = np.asarray(jax.random.normal(key, (dimension,)), np.float64)
    if not product(start).any():
        raise ValueError(
            "the Hessian is zero at params, and any direction an eigenvector; give a point, a loss "
            "and examples at which the loss is curved, or draw random_directions"
        )
    values, vectors = _lanczos(hessian, count, start)
    order = np.argsort(-values)
    vectors = vectors.T[order]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], axis=1)
    return values[order], tuple(map(tree, vectors * np.sign(largest)))


def _as_like(leaf: Array, step: Array | None) -> Array | None:
    """A step in the precision that JAX computes a leaf in."""
    return None if step is None else step.astype(jax.dtypes.canonicalize_dtype(leaf.dtype))


def _lanczos(
    hessian: linalg.LinearOperator, count: int, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    try:
        return linalg.eigsh(hessian, k=count, which="LA", v0=start, tol=_TOLERANCE)
    except linalg.ArpackError as error:
        raise ValueError(
            f"Lanczos found no {count} leading eigenvectors of the Hessian ({error}); ask for "
            "fewer, give more examples, or another key for the start vector"
        ) from error

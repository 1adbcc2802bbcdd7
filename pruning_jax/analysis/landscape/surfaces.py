"""What a model does at the points of a plane or along a path, and the barrier on a path."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import choices, evaluation, losses
from pruning_jax.analysis.landscape import checking, planes
from pruning_jax.analysis.landscape import moments as running
from pruning_jax.curvature import averaging
from pruning_jax.evaluation import Metrics
from pruning_jax.lab import blocks
from pruning_jax.training import TrainFn
from pruning_jax.types import ApplyFn, Array, Batch, PyTree

BETTER = ("lower", "higher")


def evaluate(
    apply_fn: ApplyFn,
    plane: planes.Plane,
    coordinates: Array,
    batch: Batch,
    *,
    state: dict[str, PyTree] | None = None,
    train_fn: TrainFn | None = None,
    moments: Batch | None = None,
    loss: losses.Loss = losses.cross_entropy,
    chunk: int | None = None,
    size: int | None = None,
) -> Iterator[Metrics]:
    """The mean loss and accuracy at points of a plane, in blocks over all devices, lazily.

    With `train_fn` and `moments` the state, such as batch-norm moments, is first estimated anew at
    every point: it is what the model's own running update, state' = m state + c, leads to,

        state = mean of c over the examples / (1 - m),

    with c of one chunk of `moments` at a time, as for averaged weights in SWA.

    Args:
      apply_fn: the model, in evaluation mode. It is compiled once for an identity, like `train_fn`
        and `loss`: a global that it reads and that is bound anew later keeps its old value here.
      plane: of `plane` or `path`, or of any directions.
      coordinates: of the points, shape (points, directions).
      batch: the examples of the means.
      state: collections that do not move: the model is applied to ``{"params": point, **state}``,
        or to the point itself where it is ``None``.
      train_fn: the model in training mode, where the state is estimated anew.
      moments: the examples that the state is estimated from.
      loss: of an example.
      chunk: the most examples in memory at once; by default about 100 on CPU and 1,000 elsewhere.
        The means do not depend on it beyond rounding, but an estimated state does: a batch norm
        takes the variance within chunks.
      size: points of a block, as in `blocks.sums`.

    Returns:
      The metrics of the points, in order, computed a block at a time as they are drawn.

    Raises:
      ValueError: directions unlike the plane's origin, coordinates that do not fit the plane, a
        batch that does not fit the model, only one of `train_fn` and `moments`, moments that are no
        `Batch` of finite examples, no state to estimate, a state that is no running average.

    Source: Izmailov et al., arXiv 1803.05407, section 3.2.
    """
    checking.check_leaves(plane.origin, "the plane's origin")
    checking.check_directions(plane.origin, plane.directions)
    positions = checking.check_positions(len(plane.directions), coordinates)
    variables = plane.origin if state is None else {"params": plane.origin, **state}
    for _ in averaging.checked(apply_fn, variables, batch, loss):
        pass
    if (train_fn is None) != (moments is None):
        given, missing = ("moments", "train_fn") if train_fn is None else ("train_fn", "moments")
        raise ValueError(f"{given} without {missing}; give both to estimate the state, or neither")
    if train_fn is not None and state is None:
        raise ValueError("state is None; to estimate it anew, give the collections it consists of")
    if moments is not None:
        _check_moments(moments)
    points = ({"position": c, "moments": None} for c in positions)
    if train_fn is not None and jax.tree.leaves(running.floating(state)):
        points = _with_moments(train_fn, plane, positions, state, moments.inputs, chunk, size)
    chunks = blocks.split(batch, chunk)
    sums = blocks.sums(_metrics(apply_fn, loss), points, (plane, state), chunks, size=size)
    counted = losses.count(batch)
    return (Metrics(total / counted, right / counted) for total, right in sums)


def _check_moments(moments: object) -> None:
    if not isinstance(moments, Batch):
        raise ValueError(
            f"moments must be one Batch(inputs, labels), not {type(moments).__name__}; a chunk "
            "splits it"
        )
    for leaf in jax.tree.leaves(moments.inputs):
        if not jnp.isfinite(leaf).all():
            raise ValueError("the inputs of moments are not all finite")


def _with_moments(
    train_fn: TrainFn,
    plane: planes.Plane,
    positions: np.ndarray,
    state: dict[str, PyTree],
    inputs: PyTree,
    chunk: int | None,
    size: int | None,
) -> Iterator[PyTree]:
    """The points, each with its own moments."""
    chunks = blocks.split(inputs, chunk)
    momenta = running.momenta(train_fn, plane.origin, state, chunks[0])
    like = jax.tree.map(np.asarray, running.floating(state))
    sums = blocks.sums(_increments(train_fn), positions, (plane, state), chunks, size=size)
    examples = sum(_examples(piece) for piece in chunks)

    def point(position, total):
        increment = jax.tree.map(lambda leaf: leaf / examples, total)
        return {"position": position, "moments": running.fixed_point(momenta, increment, like)}

    return map(point, positions, sums)


def _examples(inputs: PyTree) -> int:
    return jax.tree.leaves(inputs)[0].shape[0]


@functools.lru_cache(maxsize=64)
def _increments(train_fn: TrainFn) -> Callable:
    def sums(position, shared, inputs):
        plane, state = shared
        c = running.increments(train_fn, planes.moved(plane, position), state, inputs)
        return jax.tree.map(lambda leaf: leaf * _examples(inputs), c)

    return sums


@functools.lru_cache(maxsize=64)
def _metrics(apply_fn: ApplyFn, loss: losses.Loss) -> Callable:
    def sums(point, shared, batch):
        plane, state = shared
        variables = planes.moved(plane, point["position"])
        if state is not None:
            moments = point["moments"]
            own = state if moments is None else running.merged(moments, state)
            variables = {"params": variables, **own}
        return evaluation.totals(loss, apply_fn(variables, batch.inputs), batch)

    return sums


def barrier(values: Array, positions: Array, *, better: str = "lower") -> float:
    """How far a path's values are, at worst, on the wrong side of the line between its ends.

        max_t (f(t) - (f(a) + (t - a) / (b - a) (f(b) - f(a)))),  a <= t <= b

    Args:
      values: of a loss or an accuracy along the path.
      positions: t, ascending, from a to b.
      better: "lower", as for a loss, or "higher", as for an accuracy, whose excess is below the
        line.

    Returns:
      The largest excess; 0 where no value is worse than the line.

    Raises:
      ValueError: fewer than 2 values, not as many positions, positions that do not ascend, values
        that are no numbers, an unknown `better`.

    Source: Frankle et al., arXiv 1912.05671, section 2, with the line in place of the mean of the
      ends.
    """
    choices.check("better", better, BETTER)
    f, t = np.asarray(values, np.float64), np.asarray(positions, np.float64)
    if f.ndim != 1 or f.shape != t.shape or len(f) < 2:
        raise ValueError(
            f"values have shape {f.shape} and positions {t.shape}; give 2 or more, as many of each"
        )
    if not np.isfinite(t).all() or not (np.diff(t) > 0).all():
        raise ValueError(f"positions are {t.tolist()}; they must be finite and ascend")
    if np.isnan(f).any() or not np.isfinite(f[[0, -1]]).all():
        raise ValueError(f"values are {f.tolist()}; they must be numbers, finite at both ends")
    excess = f - np.interp(t, t[[0, -1]], f[[0, -1]])
    return float(max(0.0, (excess if better == "lower" else -excess).max()))

"""What the unit criteria need to know of the data, from one pass over it."""

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import losses
from pruning_jax.curvature import averaging, purity
from pruning_jax.losses import Loss
from pruning_jax.tracing import equations
from pruning_jax.tracing.layouts import BatchAxis
from pruning_jax.types import ApplyFn, Array, Batch, Params
from pruning_jax.units import Reading, UnitGraph, UnitSpace

Place = tuple[int, int]
"""The number of an array and its axis of units."""


class UnitStatistics(NamedTuple):
    """Statistics of the units that may be pruned, over examples x and positions p.

    With a the activation at a reading, l the loss of one example and abar the mean of a over all
    examples and positions. A space that is read at several arrays has the sum over them of
    `removal` and of `replacement`, with the total derivative dl/da at each: the derivative of the
    loss by a gate that closes on all of them together.

    Attributes:
      means: value of a reading -> abar, shape (size of its axis of units,). An array that is read
        along several axes has none.
      removal: space -> mean_p(-a dl/da), shape (examples, size).
      replacement: space -> mean_p((abar - a) dl/da), shape (examples, size).
      mean_square: space -> E_x mean_p(a^2), shape (size,); the mean over its readings.
      zeros: space -> the share of a <= 0, which are zeros of its positive part, shape (size,); the
        mean over its readings.
    """

    means: dict[int, Array]
    removal: dict[str, Array]
    replacement: dict[str, Array]
    mean_square: dict[str, Array]
    zeros: dict[str, Array]


class _PerExample(NamedTuple):
    """Means over positions, shape (examples, size of the axis of units)."""

    gradient: Array
    product: Array


class _Averaged(NamedTuple):
    """Means over examples and positions, or sums over examples, shape (size of the axis,)."""

    activation: Array
    square: Array
    zeros: Array


def _add(left: tuple, right: tuple) -> tuple:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _over_positions(
    array: Array, gradient: Array, axis: int, batch: BatchAxis, examples: int
) -> list[Array]:
    """Means over positions of g, a g, a, a^2 and [a <= 0], each (examples, size of the axis)."""
    at = batch.axis
    shape = (*array.shape[:at], batch.before, examples, batch.after, *array.shape[at + 1 :])
    wide = jnp.promote_types(array.dtype, jnp.float32)
    a, g = (each.astype(wide).reshape(shape) for each in (array, gradient))
    kept = at + 1, axis if axis < at else axis + 2
    terms = (g, a * g, a, a * a, (a <= 0).astype(wide))
    others = [other for other in range(len(shape)) if other not in kept]
    sums = jax.lax.reduce(terms, (np.zeros((), wide),) * len(terms), _add, others)
    positions = math.prod(shape[other] for other in others)
    return [(each if kept[0] < kept[1] else each.T) / positions for each in sums]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _read(
    apply_fn: ApplyFn,
    loss: Loss,
    places: tuple[Place, ...],
    names: tuple[str, ...],
    variables: Params,
    batch: Batch,
) -> tuple[dict[Place, _PerExample], dict[Place, _Averaged]]:
    """One forward and one backward pass: what each example says, and sums over them."""
    examples = batch.labels.shape[0]
    if examples == 1:
        batch = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), batch)
    model = equations.read(apply_fn, variables, batch.inputs)
    if tuple(equation.name for equation in model.equations) != names:
        raise ValueError(
            f"apply_fn runs other operations for {examples} examples than those of the graph; it "
            "must be the same for any number of examples, and for inputs of the graph's dtype"
        )
    values = dict(places)
    taps = {v: jnp.zeros(model.avals[v].shape, model.avals[v].dtype) for v in values}
    logits, pull_back, arrays = jax.vjp(
        lambda t: equations.evaluate(model, variables, batch.inputs, t, values.__contains__),
        taps,
        has_aux=True,
    )
    slopes = jax.grad(lambda f: jnp.sum(loss.value(f, batch.labels)))(logits)
    (gradients,) = pull_back(slopes)
    rows, sums = {}, {}
    for value, axis in places:
        found = _over_positions(
            arrays[value], gradients[value], axis, model.batch[value], model.examples
        )
        found = [each[:examples] for each in found]
        rows[value, axis] = _PerExample(*found[:2])
        sums[value, axis] = _Averaged(*(each.sum(0) for each in found[2:]))
    return rows, sums


def _of_units(reading: Reading, size: int, array: Array) -> Array:
    """The mean over the places of each unit on the last axis; 0 for a unit that has none."""
    if np.array_equal(reading.units, np.arange(size)):
        return array
    places = np.flatnonzero(reading.units >= 0)
    units = reading.units[places]
    sums = jnp.zeros((*array.shape[:-1], size), array.dtype).at[..., units].add(array[..., places])
    return sums / np.maximum(np.bincount(units, minlength=size), 1).astype(array.dtype)


def _mean_over_readings(space: UnitSpace, found: dict[Place, Array]) -> Array:
    """The mean over those readings of a space that hold the unit."""
    total = sum(_of_units(r, space.size, found[r.value, r.axis]) for r in space.readings)
    holding = sum(np.isin(np.arange(space.size), r.units) for r in space.readings)
    return total / holding.astype(total.dtype)


def unit_statistics(
    apply_fn: ApplyFn,
    graph: UnitGraph,
    variables: Params,
    batches: Batch | Iterable[Batch],
    *,
    loss: Loss = losses.cross_entropy,
) -> UnitStatistics:
    """What removing or replacing every unit does to the loss, to first order, and its activation.

        removal_xj     = mean_p -a_j(x, p) dl(x)/da_j(x, p)
        replacement_xj = mean_p (abar_j - a_j(x, p)) dl(x)/da_j(x, p)

    One forward and one backward pass a batch. l is the loss of one example and abar the mean over
    all the batches, so the batch size changes nothing. (In the authors' code l is divided by the
    examples of a chunk and abar is the mean over a chunk.)

    Args:
      apply_fn: the model, in evaluation mode.
      graph: its unit graph.
      variables: its variables.
      batches: one batch or an iterable of them, any number of examples in each.
      loss: one of `losses.LOSSES`.

    Returns:
      The statistics of `graph.prunable`.

    Raises:
      ValueError: no batches, no `Loss` or no graph, labels that do not match the inputs or the
        outputs, inputs or labels that are not finite, variables or inputs of other shapes than the
        graph's, a model that depends on Python-side state, or another one than the graph's.

    Source: Evci et al. 2018, *Mean Replacement Pruning*, section 3.
    """
    if not isinstance(graph, UnitGraph):
        raise ValueError(
            f"graph is a {type(graph).__name__}; it must be a UnitGraph, as "
            "units.graph(tracing.trace(apply_fn, variables, inputs))"
        )
    spaces, model = graph.prunable, graph.trace.model
    places = tuple(dict.fromkeys((r.value, r.axis) for s in spaces for r in s.readings))
    values = [value for value, _ in places]
    names = tuple(equation.name for equation in model.equations)
    parts, sums = [], []
    for batch in averaging.checked(apply_fn, variables, batches, loss):
        if not parts:
            purity.check(apply_fn, model, variables, batch.inputs)
        rows, total = _read(apply_fn, loss, places, names, variables, batch)
        parts.append(rows)
        sums.append((batch.labels.shape[0], total))
    averages = averaging.mean(sums)
    rows = jax.tree.map(lambda *each: jnp.concatenate(each), *parts)
    removal = {place: -row.product for place, row in rows.items()}
    replacement = {
        place: averages[place].activation * row.gradient - row.product
        for place, row in rows.items()
    }
    squares = {place: average.square for place, average in averages.items()}
    zeros = {place: average.zeros for place, average in averages.items()}

    def summed(space: UnitSpace, found: dict[Place, Array]) -> Array:
        return sum(_of_units(r, space.size, found[r.value, r.axis]) for r in space.readings)

    return UnitStatistics(
        means={v: averages[v, axis].activation for v, axis in places if values.count(v) == 1},
        removal={space.name: summed(space, removal) for space in spaces},
        replacement={space.name: summed(space, replacement) for space in spaces},
        mean_square={space.name: _mean_over_readings(space, squares) for space in spaces},
        zeros={space.name: _mean_over_readings(space, zeros) for space in spaces},
    )

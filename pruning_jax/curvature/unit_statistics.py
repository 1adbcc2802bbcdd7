"""What unit criteria and the folding of means need to know of the data, from one pass over it."""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import losses, trees
from pruning_jax.curvature import averaging, derivatives
from pruning_jax.losses import Loss
from pruning_jax.tracing import Trace
from pruning_jax.types import Array, Batch, Params, PyTree
from pruning_jax.units import Reading, UnitGraph, UnitSpace

Axes = tuple[tuple[int, tuple[int, ...]], ...]
"""The numbers of arrays, each with its axes of units."""


class UnitStatistics(NamedTuple):
    """Statistics of the units that may be pruned, over examples x and positions p.

    With a the activation at a reading, and abar the mean of a over all examples and positions, by
    their weights where a batch has some. l is the loss of one example, summed over its positions so
    that its mean over examples is the mean loss. A space that is read at several arrays has the sum
    over them of `removal` and of `replacement`, with the total derivative dl/da at each: the
    derivative of the loss by a gate that closes on all of them together.

    Attributes:
      means: value of a reading -> abar, of the shape of its axes of units: (size,), or of heads
        and their channels (heads, channels).
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
    """Means over positions of derivatives of the summed loss, (examples, *sizes of the axes)."""

    gradient: Array
    product: Array


class _Averaged(NamedTuple):
    """Weighed means over examples and positions, or sums over examples, (*sizes of the axes,)."""

    activation: Array
    square: Array
    zeros: Array


def _add(left: tuple, right: tuple) -> tuple:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _over_positions(terms: Sequence[Array], axes: tuple[int, ...]) -> list[Array]:
    """Means over positions of arrays (examples, *shape), each (examples, *sizes of the axes)."""
    shape, dtype = terms[0].shape, terms[0].dtype
    others = [other for other in range(1, len(shape)) if other - 1 not in axes]
    sums = jax.lax.reduce(tuple(terms), (np.zeros((), dtype),) * len(terms), _add, others)
    return [total / math.prod(shape[other] for other in others) for total in sums]


def _weighed(terms: Sequence[Array], axes: tuple[int, ...], weights: Array | None) -> list[Array]:
    """Means over positions, as `_over_positions`, by the weights that a batch's positions have."""
    if weights is not None:
        spread = averaging.spread(weights, terms[0].shape, min(axes))
        terms = [term * spread.astype(term.dtype) for term in terms]
    return _over_positions(terms, axes)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _read(
    trace: Trace, loss: Loss, read: Axes, variables: Params, batch: Batch
) -> tuple[dict[int, _PerExample], dict[int, _Averaged]]:
    """One forward and one backward pass: what each example says, and sums over them."""
    values = {value for value, _ in read}
    model, logits = trace.model, trace.model.logits
    arrays, pull_back = derivatives.backward(
        model, logits, values, values, variables, derivatives.inputs_of(model, batch.inputs)
    )
    slopes = jax.grad(lambda f: losses.total(loss, f[:, 0], batch))(arrays[logits])
    gradients = pull_back(slopes)[1]
    rows, sums = {}, {}
    for value, axes in read:
        a, g = map(trees.at_least_single, (arrays[value], gradients[value]))
        rows[value] = _PerExample(*_over_positions((g, a * g), axes))
        terms = (a, a * a, (a <= 0).astype(a.dtype))
        means = _weighed(terms, axes, batch.weights)
        sums[value] = _Averaged(*(mean.sum(0) for mean in means))
    return rows, sums


@functools.partial(jax.jit, static_argnums=(0, 1))
def _activation_sums(trace: Trace, read: Axes, variables: Params, batch: Batch) -> dict[int, Array]:
    """One forward pass: the means over positions, summed over examples."""
    values = {value for value, _ in read}
    known = derivatives.inputs_of(trace.model, batch.inputs)
    arrays = derivatives.forward(trace.model, values, variables, known, {})
    arrays = {value: trees.at_least_single(array) for value, array in arrays.items()}
    return {v: _weighed([arrays[v]], axes, batch.weights)[0].sum(0) for v, axes in read}


def _of_units(reading: Reading, size: int, array: Array, axes: tuple[int, ...]) -> Array:
    """The mean over the places of each unit on the last axis; 0 for a unit that has none."""
    others = [axis - len(axes) for axis, place in enumerate(axes) if place != reading.axis]
    array = array.mean(others) if others else array
    if np.array_equal(reading.units, np.arange(size)):
        return array
    places = np.flatnonzero(reading.units >= 0)
    units = reading.units[places]
    sums = jnp.zeros((*array.shape[:-1], size), array.dtype).at[..., units].add(array[..., places])
    return sums / np.maximum(np.bincount(units, minlength=size), 1).astype(array.dtype)


def _sum_over_readings(space: UnitSpace, arrays: dict[int, Array], read: Axes) -> Array:
    axes = dict(read)
    return sum(_of_units(r, space.size, arrays[r.value], axes[r.value]) for r in space.readings)


def _mean_over_readings(space: UnitSpace, arrays: dict[int, Array], read: Axes) -> Array:
    """The mean over those readings of a space that hold the unit."""
    total = _sum_over_readings(space, arrays, read)
    holding = sum(np.isin(np.arange(space.size), r.units) for r in space.readings)
    return total / holding.astype(total.dtype)


def unit_statistics(
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
      graph: the unit graph of a model.
      variables: the model's variables.
      batches: one batch or an iterable of them, any number of examples in each.
      loss: one of `losses.LOSSES`.

    Returns:
      The statistics of `graph.prunable`.

    Raises:
      ValueError: no batches, no `Loss` or no graph, labels that do not match the inputs or the
        outputs, inputs or labels that are not finite, variables or inputs of other shapes than the
        graph's, a model that mixes examples or that depends on Python-side state.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.ones((3, 2))}
    >>> graph = pj.units.graph(pj.trace(model, variables, jnp.ones((4, 1))))
    >>> batch = pj.Batch(inputs=jnp.array([[1.0], [3.0]]), labels=jnp.array([0, 1]))
    >>> statistics = pj.curvature.unit_statistics(graph, variables, batch)
    >>> statistics.mean_square["w"].tolist(), statistics.zeros["w"].tolist()
    ([5.0, 0.0, 1.25], [0.0, 1.0, 0.0])

    Source: Evci et al. 2018, *Mean Replacement Pruning*, section 3.
    """
    spaces, read = _check_graph(graph).prunable, axes_read(graph)
    parts, sums, examples, counted = [], [], 0, 0.0
    for trace, batch in averaging.traced(graph, variables, batches, loss):
        rows, total = _read(trace, loss, read, variables, batch)
        parts.append(rows)
        sums.append((averaging.count_of_examples(batch), total))
        examples, counted = examples + len(batch.labels), counted + losses.count(batch)
    averages = averaging.mean(sums)
    rows = jax.tree.map(lambda *chunks: jnp.concatenate(chunks) * (examples / counted), *parts)
    removal = {value: -row.product for value, row in rows.items()}
    replacement = {
        value: averages[value].activation * row.gradient - row.product
        for value, row in rows.items()
    }
    squares = {value: average.square for value, average in averages.items()}
    zeros = {value: average.zeros for value, average in averages.items()}
    return UnitStatistics(
        means={value: average.activation for value, average in averages.items()},
        removal={s.name: _sum_over_readings(s, removal, read) for s in spaces},
        replacement={s.name: _sum_over_readings(s, replacement, read) for s in spaces},
        mean_square={s.name: _mean_over_readings(s, squares, read) for s in spaces},
        zeros={s.name: _mean_over_readings(s, zeros, read) for s in spaces},
    )


def unit_means(
    graph: UnitGraph, variables: Params, batches: Batch | Iterable[Batch]
) -> dict[int, Array]:
    """The mean activation of every unit that may be pruned.

        abar_j = E_x mean_p a_j(x, p)

    over examples x and positions p, after layer, norm and function, before pooling. It is the
    `means` of `unit_statistics`, from forward passes alone.

    Args:
      graph, variables, batches: as in `unit_statistics`.

    Returns:
      Value of a reading -> means, of the shape of its axes of units: (size,), or of heads and
      their channels (heads, channels).

    Raises:
      ValueError: as `unit_statistics`.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.ones((3, 2))}
    >>> graph = pj.units.graph(pj.trace(model, variables, jnp.ones((4, 1))))
    >>> batch = pj.Batch(inputs=jnp.array([[1.0], [3.0]]), labels=jnp.array([0, 1]))
    >>> [means.tolist() for means in pj.curvature.unit_means(graph, variables, batch).values()]
    [[2.0, 0.0, 1.0]]

    Source: Evci et al. 2018, *Mean Replacement Pruning*, section 3.
    """
    read = axes_read(_check_graph(graph))

    def sums() -> Iterator[tuple[int, PyTree]]:
        for trace, batch in averaging.traced(graph, variables, batches, losses.cross_entropy):
            total = _activation_sums(trace, read, variables, batch)
            yield averaging.count_of_examples(batch), total

    return averaging.mean(sums())


def axes_read(graph: UnitGraph) -> Axes:
    """The values at which units that may be pruned are read, and along which axes each."""
    axes: dict[int, set[int]] = {}
    for reading in (reading for space in graph.prunable for reading in space.readings):
        axes.setdefault(reading.value, set()).add(reading.axis)
    return tuple((value, tuple(sorted(several))) for value, several in axes.items())


def _check_graph(graph: UnitGraph) -> UnitGraph:
    if not isinstance(graph, UnitGraph):
        raise ValueError(
            f"graph is a {type(graph).__name__}; it must be a UnitGraph, as "
            "units.graph(tracing.trace(apply_fn, variables, inputs))"
        )
    return graph

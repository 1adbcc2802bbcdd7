"""The diagonal of the generalised Gauss-Newton matrix, layer by layer."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import losses, trees
from pruning_jax.curvature import averaging, by_position, derivatives, layer_gradients
from pruning_jax.losses import Loss
from pruning_jax.tracing import Trace, Use
from pruning_jax.types import Array, Batch, Params, PyTree

_PIECE_BYTES = {"cpu": 12 * 2**20}
"""Bytes of cotangents handled at once; on CPU, what stays in its caches."""

_PIECE_BYTES_ELSEWHERE = 2**30
_SMALLEST_PIECE = 4
_FEWEST_COLUMNS = 16
"""So many at least are followed at once, for each group of them computes the arrays anew."""


class _Plan(NamedTuple):
    """How the columns of the Hessian's root are followed through a model.

    Attributes:
      samples: columns drawn for an example, at all its positions; ``None`` for those of the exact
        root, each of one position.
      tail: the part in which the columns of all positions are followed at once.
      examples: in a piece.
      columns: of each position before the tail.
      group: how many of these columns, and of how many positions, are followed at once.
    """

    samples: int | None
    tail: by_position.Tail
    examples: int
    columns: int
    group: tuple[int, int]


@functools.lru_cache(maxsize=64)
def _plan(trace: Trace, loss: Loss, samples: int | None) -> _Plan:
    """A plan in which the cotangents that are handled at once fit."""
    model, uses = trace.model, _uses(trace)
    logits = model.shape(model.logits)
    positions = math.prod(losses.positions(logits))
    row = jax.ShapeDtypeStruct((1, math.prod(logits) // positions), jnp.float32)
    columns = samples or jax.eval_shape(loss.hessian_root, row, row).shape[2]
    budget = _PIECE_BYTES.get(jax.default_backend(), _PIECE_BYTES_ELSEWHERE) // 4
    entries = {
        leaf: sum(math.prod(model.shape(layer_gradients.output(model, use))) for use in group)
        for leaf, group in uses.items()
        if group[0].kind != "bias"
    }
    tail = by_position.tail(trace, uses, columns)
    whole = _SMALLEST_PIECE * sum(entries.values()) * columns
    if tail.start is None and columns > _FEWEST_COLUMNS and whole > budget:
        tail = by_position.Tail(model.logits, frozenset())

    def fitting(entries: int, least: int) -> int:
        return max(budget // max(entries, 1), least)

    after = sum(count for leaf, count in entries.items() if leaf in tail.leaves)
    before = sum(entries.values()) - after
    examples = fitting(after * columns, _SMALLEST_PIECE)
    if tail.start is None:
        return _Plan(samples, tail, examples, columns, (columns, 1))
    if samples is not None:
        examples = min(examples, fitting(before * samples, _SMALLEST_PIECE))
        return _Plan(samples, tail, examples, samples, (samples, positions))
    columns = min(columns, math.prod(model.shape(tail.start)) // positions)
    examples = min(examples, fitting(before * _FEWEST_COLUMNS, _SMALLEST_PIECE))
    at_once = fitting(before * examples, _FEWEST_COLUMNS)
    group = _even(columns, at_once), _even(positions, max(at_once // columns, 1))
    return _Plan(samples, tail, examples, columns, group)


def _even(count: int, most: int) -> int:
    """The size of equal parts of at most so many."""
    return math.ceil(count / math.ceil(count / most))


def _uses(trace: Trace) -> dict[str, tuple[Use, ...]]:
    biases = {layer.bias: layer.bias_uses for layer in trace.layers if layer.bias is not None}
    return {layer.kernel: layer.uses for layer in trace.layers} | biases


def _roots(
    loss: Loss, samples: int | None, key: Array | None, first: Array, logits: Array, batch: Batch
) -> Array:
    """Columns of the Hessian's root at every position, shape (columns, *logits)."""
    rows = losses.rows(logits, batch)
    if samples is None:
        columns = jnp.moveaxis(loss.hessian_root(rows.logits, rows.labels), 2, 0)
    else:

        def sample(number: Array, example: Array, logits: Array, labels: Array) -> Array:
            folded = jax.random.fold_in(jax.random.fold_in(key, number), example)
            return loss.sampled_root(folded, logits, labels)

        examples = logits.shape[0]
        positions = (x.reshape(examples, -1, *x.shape[1:]) for x in rows[:2])
        over_examples = jax.vmap(sample, in_axes=(None, 0, 0, 0))
        numbers, indices = jnp.arange(samples), first + jnp.arange(examples)
        drawn = jax.vmap(over_examples, in_axes=(0, None, None, None))(numbers, indices, *positions)
        columns = drawn.reshape(samples, *rows.logits.shape) / np.sqrt(samples)
    return (columns * jnp.sqrt(rows.weights)[:, None]).reshape(-1, *logits.shape)


def _follow(
    trace: Trace,
    variables: Params,
    known: dict[int, Array],
    end: int,
    leaves: frozenset[str],
    start: int | None,
    positions: int,
    columns: Callable[[Array], Array],
    loss_at: Callable[[Array], Array] | None = None,
) -> tuple[PyTree, Array | None, PyTree]:
    """Follows columns at the end of a part of a model back to its leaves.

    Returns:
      A tree like `variables` with the sums of squared gradients; the columns at the part's start;
      the gradient of `loss_at` the array at its end, where that is given.
    """
    model = trace.model
    uses = {leaf: group for leaf, group in _uses(trace).items() if leaf in leaves}
    every = [use for group in uses.values() for use in group]
    data = {layer_gradients.data(model, use) for use in every if use.kind != "bias"}
    outputs = {layer_gradients.output(model, use) for use in every}
    tapped = outputs if start is None else outputs | {start}
    arrays, pull_back = derivatives.backward(model, end, tapped, data, variables, known)
    roots = columns(arrays[end]).astype(model.avals[end].dtype)
    cotangents = jax.vmap(lambda root: pull_back(root)[1])(roots)
    sums = {
        leaf: layer_gradients.squared_sum(model, group, variables, arrays, cotangents, positions)
        for leaf, group in uses.items()
    }
    tree = jax.tree_util.tree_map_with_path(
        lambda path, _: sums.get(trees.path_name(path)), variables
    )
    gradient = jax.tree.map(lambda _: None, variables)
    if loss_at is not None:
        gradient = pull_back(jax.grad(loss_at)(arrays[end]))[0]
    return tree, cotangents.get(start), gradient


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _tail(
    trace: Trace,
    loss: Loss,
    plan: _Plan,
    with_gradient: bool,
    variables: Params,
    batch: Batch,
    key: Array | None,
    first: Array,
) -> tuple[PyTree, PyTree, Array | None]:
    """The sums over the leaves of the tail; the gradient; the columns at the tail's start."""
    model, start = trace.model, plan.tail.start
    known = derivatives.inputs_of(model, batch.inputs)
    if start is not None:
        known = derivatives.forward(model, {start}, variables, known, {})

    def roots(logits: Array) -> Array:
        return _roots(loss, plan.samples, key, first, logits[:, 0], batch)[:, :, None]

    def loss_at(logits: Array) -> Array:
        return losses.total(loss, logits[:, 0], batch)

    positions = math.prod(losses.positions(model.shape(model.logits)))
    sums, columns, gradient = _follow(
        trace,
        variables,
        known,
        model.logits,
        plan.tail.leaves,
        start,
        positions,
        roots,
        loss_at if with_gradient else None,
    )
    if start is not None and plan.samples is None:
        columns = _fewer(columns.reshape(*columns.shape[:2], positions, -1), plan)
    return sums, gradient, columns


def _fewer(columns: Array, plan: _Plan) -> Array:
    """Columns of each position as no more than have the same sum of squares.

    Args:
      columns: shape (columns, examples, positions, entries).

    Returns:
      Shape (columns, positions, examples, entries), filled up with zeros to groups of a plan.
    """
    if plan.columns < len(columns):
        apart = trees.at_least_single(jnp.moveaxis(columns, 0, 2))
        columns = jnp.moveaxis(jnp.linalg.qr(apart, mode="r"), 2, 0).astype(columns.dtype)
    columns = columns.swapaxes(1, 2)
    missing = [-size % whole for size, whole in zip(columns.shape, plan.group, strict=False)]
    return jnp.pad(columns, [(0, missing[0]), (0, missing[1]), (0, 0), (0, 0)])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _before_tail(
    trace: Trace, plan: _Plan, variables: Params, inputs: PyTree, columns: Array, at: tuple
) -> PyTree:
    """The sums over the leaves before the tail, of a group of its columns."""
    model, start = trace.model, plan.tail.start

    def group(array: Array) -> Array:
        if plan.samples is not None:
            return columns
        sizes = (*plan.group, *columns.shape[2:])
        part = jax.lax.dynamic_slice(columns, (*at, 0, 0), sizes)
        count = losses.positions(model.shape(model.logits))
        here = at[1] + jnp.arange(plan.group[1])[:, None] == jnp.arange(math.prod(count))
        apart = jnp.where(here[:, None, :, None], part[:, :, :, None], 0)
        return apart.reshape(-1, *array.shape)

    known = derivatives.inputs_of(model, inputs)
    leaves = frozenset(_uses(trace)) - plan.tail.leaves
    return _follow(trace, variables, known, start, leaves, None, 1, group)[0]


def _pieces(examples: int, batch: Batch) -> Iterator[tuple[int, Batch]]:
    """Splits a batch in equal parts of at most so many: (first example, examples with weights)."""
    count = batch.labels.shape[0]
    size = _even(count, examples)
    if batch.weights is None:
        batch = batch._replace(weights=np.ones(losses.positions_of(batch), np.float32))
    for first in range(0, count, size):
        rows = np.arange(first, first + size)
        if size == count:
            yield first, batch
        elif rows[-1] < count:
            yield first, jax.tree.map(lambda x, at=first: x[at : at + size], batch)
        else:
            within = np.minimum(rows, count - 1)
            piece = jax.tree.map(lambda x, at=within: x[at], batch)
            counted = (rows < count).reshape(-1, *[1] * (piece.weights.ndim - 1))
            yield first, piece._replace(weights=piece.weights * counted)


def _statistics(
    model: Any,
    variables: Params,
    batches: Batch | Iterable[Batch],
    loss: Loss,
    key: Array | None,
    samples: int | None,
    with_gradient: bool,
) -> dict[str, PyTree]:
    """The mean of the diagonal, and of the gradient where it is asked for."""
    if key is None and samples is not None:
        raise ValueError("samples is for the Monte Carlo estimate: give a key, or samples=None")
    if samples is not None and samples < 1:
        raise ValueError(f"samples is {samples}; it must be 1 or more")
    averaging.check_key(key)
    draws = None if key is None else samples or 1
    nothing = jax.tree.map(lambda _: None, variables)

    def sums() -> Iterator[tuple[float | Array, PyTree]]:
        start = 0
        for trace, batch in averaging.traced(model, variables, batches, loss):
            plan = _plan(trace, loss, draws)
            together = with_gradient and plan.tail.start is None
            if with_gradient and not together:
                gradient = derivatives.gradient_sum(trace.apply_fn, loss, variables, batch)
                yield 0, {"ggn": nothing, "gradient": gradient}
            for first, piece in _pieces(plan.examples, batch):
                ggn, gradient, columns = _tail(
                    trace, loss, plan, together, variables, piece, key, start + first
                )
                yield losses.count(piece), {"ggn": ggn, "gradient": gradient}
                if columns is not None:
                    for ggn in _groups(trace, plan, variables, piece.inputs, columns):
                        yield 0, {"ggn": ggn, "gradient": nothing}
            start += batch.labels.shape[0]

    return averaging.mean(sums())


def _groups(
    trace: Trace, plan: _Plan, variables: Params, inputs: PyTree, columns: Array
) -> Iterator[PyTree]:
    """The sums over the leaves before the tail, of every group of its columns."""
    starts: Iterable[tuple[int, int]] = [(0, 0)]
    if plan.samples is None:
        starts = itertools.product(*map(range, (0, 0), columns.shape, plan.group))
    for at in starts:
        yield _before_tail(trace, plan, variables, inputs, columns, at)


def ggn_diagonal(
    model: Any,
    variables: Params,
    batches: Batch | Iterable[Batch],
    *,
    loss: Loss = losses.cross_entropy,
    key: Array | None = None,
    samples: int | None = None,
) -> PyTree:
    """The diagonal of the generalised Gauss-Newton matrix of the mean loss.

        G_kk = E_x sum_c (sum_o df_o / d theta_k  S_oc)^2,   S S^T = d^2 L / df^2

    For cross-entropy this is E_x sum_c p_c (d log p_c / d theta_k)^2. Of logits with positions, the
    columns c are those of every position: the exact diagonal takes as many backward passes as
    positions have outputs together, or inputs of the last layer where those are fewer. The estimate
    takes `samples`, whatever the positions.

    Args:
      model: a function in evaluation mode, which is traced, or its `Trace` or `UnitGraph`.
      variables, batches, loss: as in `gradient`.
      key: ``None`` for the exact diagonal; a random key for its Monte Carlo estimate.
      samples: draws for each example of the estimate, at each of its positions; 1 when ``None``.

    Returns:
      A pytree like `variables`, with an array for the kernel and the bias of every layer that
      `tracing.trace` finds, and ``None`` for every other leaf. Half-precision leaves have
      single-precision values.

    Raises:
      ValueError: no batches, no `Loss`, labels that do not match, inputs or labels that are not
        finite, a model that cannot be traced, that mixes examples or that depends on Python-side
        state, `samples` without `key`, or a key that is none.

    >>> model = lambda variables, inputs: inputs @ variables["w"]
    >>> variables = {"w": jnp.zeros((1, 2))}
    >>> batch = pj.Batch(inputs=jnp.array([[1.0], [3.0]]), labels=jnp.array([0, 1]))
    >>> pj.curvature.ggn_diagonal(model, variables, batch)["w"].round(5).tolist()
    [[1.25, 1.25]]

    Source: Laurent et al. 2020, *Revisiting Loss Modelling for Unstructured Pruning*, section 3.
    """
    return _statistics(model, variables, batches, loss, key, samples, False)["ggn"]


def gradient_and_ggn(
    model: Any,
    variables: Params,
    batches: Batch | Iterable[Batch],
    *,
    loss: Loss = losses.cross_entropy,
    key: Array | None = None,
    samples: int | None = None,
) -> tuple[PyTree, PyTree]:
    """What `gradient` and `ggn_diagonal` return, from one pass where that is possible.

    Args:
      model, variables, batches, loss, key, samples: as in `ggn_diagonal`.

    Returns:
      Two trees like the variables.

    Raises:
      ValueError: as `ggn_diagonal`.

    Source: arXiv 2006.12279, section 3, whose quadratic model takes both.

    >>> model = lambda variables, inputs: inputs @ variables["w"]
    >>> batch = pj.Batch(jnp.array([[2.0]]), labels=jnp.array([0]))
    >>> variables = {"w": jnp.zeros((1, 2))}
    >>> gradient, ggn = pj.curvature.gradient_and_ggn(model, variables, batch)
    >>> gradient["w"].tolist(), ggn["w"].round(3).tolist()
    ([[-1.0, 1.0]], [[1.0, 1.0]])
    """
    found = _statistics(model, variables, batches, loss, key, samples, True)
    return found["gradient"], found["ggn"]

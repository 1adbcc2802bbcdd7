"""Methods that keep masks of weights: which are zero, and when that changes."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import choices, losses, trees
from pruning_jax import masks as masks_
from pruning_jax.losses import Loss
from pruning_jax.methods import slots
from pruning_jax.methods.choosing import Scoring, Where, magnitude, spread
from pruning_jax.methods.protocol import Method, Taken, acting, number, timetable
from pruning_jax.schedules import SCHEDULES
from pruning_jax.types import Array, Masks, Params, Scores


@jax.custom_jvp
def _held(params: Params, masks: Masks) -> Params:
    """Parameters that are zero where masks say so already; so is their gradient, then."""
    del masks
    return params


@_held.defjvp
def _held_jvp(primals: tuple, tangents: tuple) -> tuple[Params, Params]:
    params, masks = primals
    return params, masks_.apply(tangents[0], masks)


def _held_view(trained: Params, masks: Masks, step: Array, key: Array | None) -> Params:
    del step
    return trained if key is None else _held(trained, masks)


def _masked_view(trained: Params, masks: Masks, step: Array, key: Array | None) -> Params:
    del step, key
    return masks_.apply(trained, masks)


def _straight_view(trained: Params, masks: Masks, step: Array, key: Array | None) -> Params:
    pruned = _masked_view(trained, masks, step, key)
    if key is None:
        return pruned
    return jax.tree.map(lambda dense, p: dense + jax.lax.stop_gradient(p - dense), trained, pruned)


def _zero_again(trained: Params, masks: Masks, taken: Taken) -> tuple[Params, Masks, None]:
    del taken
    return masks_.apply(trained, masks), masks, None


def static(sparsity: float | None = 0.0, **where) -> Method:
    """Masks that stay as they are from the first step on.

        theta_t = m theta_t,   m of the lowest random scores at initialisation, or given

    Args:
      sparsity: the share of the prunable weights that is removed at random; 0, the default, keeps
        all of them, but for those that masks given to `start` remove, which may be any.
      **where: which weights are prunable and which of them are ranked together: `scope`, which is
        "layer" (uniform), "erk" or "global", `kernels`, a tuple of names, by default those of the
        `trace` of the model, or else all leaves of two axes and more; and in place of the sparsity
        a `pattern` (n, m), which keeps n of m neighbours along the inputs, on `axis`, -2 in Flax,
        where there is no trace.

    Returns:
      The method; its state are the masks.

    Raises:
      ValueError: a sparsity that is no number in [0, 1), or with a pattern; an unknown scope.

    >>> method = pj.methods.static(0.75)
    >>> params, masks = method.init({"kernel": jnp.ones((2, 4))}, jax.random.key(0), None)
    >>> int(params["kernel"].sum()), int(masks["kernel"].sum())
    (2, 2)

    Source: the random and Scratch-E baselines of Gale et al., arXiv 1902.09574.
    """
    where = Where(sparsity, **where)

    def init(params: Params, key: Array, masks: Masks | None = None) -> tuple[Params, Masks]:
        if masks is None and where.final:
            masks = _at_random(where, params, key)
        masks = trees.select(params, ()) if masks is None else masks
        return masks_.apply(params, masks), masks

    return Method(init, _held_view, update=_zero_again)


def _at_random(where: Where, params: Params, key: Array) -> Masks:
    weights = where.weights(params)
    return where.keep(_random(weights, key), where.removed(weights, [where.final])[0])


def _random(weights: Params, key: Array) -> Scores:
    numbers = iter(range(len(jax.tree.leaves(weights))))
    return jax.tree.map(
        lambda leaf: jax.random.uniform(jax.random.fold_in(key, next(numbers)), leaf.shape), weights
    )


def gradual(
    sparsity: float | None,
    *,
    first: int,
    last: int,
    every: int = 1,
    schedule: str | Callable = "cubic",
    initial: float = 0.0,
    criterion: str | Callable = "magnitude",
    loss: Loss = losses.cross_entropy,
    **where,
) -> Method:
    """Gradual pruning: more and more weights are masked while the others train.

        s_i = schedule(i / (acts - 1)),  i = 0, 1, ...: the lowest scores are masked, s_i of them

    Masked weights take no gradient and are not deleted: one whose score is among the others' at a
    later act comes back as it was.

    Args:
      sparsity: the share of the prunable weights that is masked from the last act on.
      first, last, every: the steps after which the masks change, `last` the last one at most.
      schedule: a row of `schedules.SCHEDULES`, or a function like one.
      initial: the sparsity at the first of them.
      criterion: a row of `criteria.WEIGHT_CRITERIA`, or a function like one; its gradient and its
        curvature are those of the batch of the step, at the weights that the model was applied to.
      loss: whose curvature that is.
      **where: as in `static`; with "ggn" in a criterion, the `trace` is needed.

    Returns:
      The method; its state are the masks.

    Raises:
      ValueError: a sparsity outside [0, 1); steps at which it would never act; an unknown schedule
        or criterion; a criterion that takes the curvature, without a trace.

    >>> method = pj.methods.gradual(0.5, first=1, last=3)
    >>> [len(method.acts), method.acts[-1]]
    [3, 3]

    Source: Zhu and Gupta, To prune, or not to prune (arXiv 1710.01878).
    """
    where, acts = Where(sparsity, **where), timetable(first, last, every)
    scores = Scoring(criterion, where.trace, loss)
    initial = choices.check_sparsity(initial)
    if not callable(schedule):
        choices.check("schedule", schedule, SCHEDULES)
    follow = schedule if callable(schedule) else SCHEDULES[schedule]
    progress = np.linspace(0, 1, len(acts)) if len(acts) > 1 else np.ones(1)
    path = [float(follow(float(at), where.final, initial)) for at in progress[:-1]] + [where.final]

    def init(params: Params, key: Array, masks: Masks | None = None) -> tuple[Params, Masks]:
        weights = where.weights(params)
        if masks is None:
            return params, jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), weights)
        return masks_.apply(params, masks), spread(weights, masks)

    def update(trained: Params, masks: Masks, taken: Taken) -> tuple[Params, Masks, None]:
        def again() -> Masks:
            weights = trees.map_selected(lambda _, leaf: leaf, masks, trained)
            counts = jnp.asarray(where.removed(weights, path))[number(acts, taken.step)]
            return where.keep(scores(weights, taken), counts)

        return trained, jax.lax.cond(acting(acts, taken.step), again, lambda: masks), None

    return Method(init, _masked_view, update=update, acts=acts)


Growth = Callable[[Params, Taken], Scores]
"""(weights, what is known after the step) -> which of those that are zero grow, the highest."""


def _by_gradient(weights: Params, taken: Taken) -> Scores:
    return trees.map_selected(lambda _, slope: jnp.abs(slope), weights, taken.gradient)


def _by_chance(weights: Params, taken: Taken) -> Scores:
    return _random(weights, taken.key)


def rigl(
    sparsity: float | None,
    *,
    every: int,
    last: int,
    fraction: float = 0.3,
    annealing: str = "cosine",
    grow: Growth = _by_gradient,
    **where,
) -> Method:
    """Sparse from the first step on: small weights go, and those of large gradient come.

        drop the k lowest |theta| of the n that are kept, grow the k largest |d loss / d theta|
        of all others;   k = floor(alpha n / 2 (1 + cos(pi t / last))), or floor(alpha n)

    A weight that is dropped and grown at once keeps its value and its momentum. One that is new is
    zero, and its optimiser begins anew: `method.optimizer` counts Adam's steps by weight, so that
    its first update is as large as that of any weight's first step.

    Args:
      sparsity: the share of the prunable weights that is zero, at every step.
      every, last: weights change after every so many steps, the last time before step `last`.
      fraction: alpha, the share of the kept weights of a group that is dropped, in (0, 1).
      annealing: "cosine" or "constant".
      grow: (weights, `Taken`) -> scores, the highest of which grow; the gradient's size here.
      **where: as in `static`. A layer that "erk" makes dense stays dense. With "global" all layers
        together are one group.

    Returns:
      The method; its state are the masks. They begin at random, or are given, of that density.

    Raises:
      ValueError: a sparsity outside [0, 1), or that keeps every weight; steps at which it would
        never act; a fraction outside (0, 1); an unknown annealing; masks of another density, as
        one with a layer that is dense.

    >>> method = pj.methods.rigl(0.5, every=2, last=8)
    >>> list(method.acts)
    [2, 4, 6]

    Source: Evci et al., Rigging the Lottery (arXiv 1911.11134).
    """
    where, acts = Where(sparsity, **where), timetable(every, last - 1, every)
    choices.check("annealing", annealing, ("cosine", "constant"))
    choices.number("fraction", fraction, 1)
    if not fraction:
        raise ValueError("fraction is 0: no weight would ever change; give one in (0, 1)")
    cosine = annealing == "cosine"
    shares = [
        fraction / 2 * (1 + math.cos(math.pi * step / last)) if cosine else fraction
        for step in acts
    ]

    def init(params: Params, key: Array, masks: Masks | None = None) -> tuple[Params, Masks]:
        weights = where.weights(params)
        if masks is None:
            masks = _at_random(where, params, key)
        where.check(masks, weights)
        if not where.final or not where.removed(weights, [where.final]).any():
            raise ValueError(f"sparsity {where.final:g} keeps every weight: none can be exchanged")
        masks = spread(weights, masks)
        return masks_.apply(params, masks), masks

    def exchanged(trained: Params, masks: Masks, taken: Taken) -> Masks:
        weights = trees.map_selected(lambda _, leaf: leaf, masks, trained)
        removed, sizes = _zeros(where, weights), np.array(where.sizes(weights))
        drops = [[int(share * n) for n in sizes - removed] for share in shares]
        gone = jnp.asarray(removed + np.array(drops, np.int32))[number(acts, taken.step)]
        small = jax.tree.map(lambda m, w: jnp.where(m, jnp.abs(w), -1.0), masks, weights)
        stay = where.lowest(small, gone)
        growth = grow(weights, taken)
        scores = jax.tree.map(lambda m, s: jnp.where(m, jnp.inf, s), stay, growth)
        return where.keep(scores, where.removed(weights, [where.final])[0])

    def update(trained: Params, masks: Masks, taken: Taken) -> tuple[Params, Masks, Masks]:
        after = jax.lax.cond(
            acting(acts, taken.step), lambda: exchanged(trained, masks, taken), lambda: masks
        )
        return masks_.apply(trained, after), after, _new(masks, after)

    return Method(init, _held_view, update=update, optimizer=slots.restartable, acts=acts)


def _zeros(where: Where, weights: Params) -> np.ndarray:
    """How many weights of each group are zero; of a pattern, its share of them."""
    if where.pattern is None:
        return where.removed(weights, [where.final])[0]
    n, m = where.pattern
    return np.array([size // m * (m - n) for size in where.sizes(weights)], np.int32)


def _new(before: Masks, after: Masks) -> Masks:
    return jax.tree.map(lambda old, new: new & ~old, before, after)


def set_(
    sparsity: float | None,
    *,
    every: int,
    last: int,
    fraction: float = 0.3,
    annealing: str = "constant",
    **where,
) -> Method:
    """Sparse evolutionary training: small weights go, and as many come at random.

        drop the k lowest |theta| of the n that are kept, grow k of all others at random

    Args:
      sparsity, every, last, fraction, annealing: as in `rigl`.
      **where: as in `static`.

    Returns:
      The method, as `rigl`.

    Raises:
      ValueError: as `rigl`.

    >>> list(pj.methods.set_(0.5, every=2, last=8).acts)
    [2, 4, 6]

    Source: Mocanu et al. 2018, Scalable training of artificial neural networks with adaptive
      sparse connectivity; as a control in arXiv 1911.11134.
    """
    options = {"every": every, "last": last, "fraction": fraction, "annealing": annealing}
    return rigl(sparsity, **options, grow=_by_chance, **where)


def straight_through(
    sparsity: float | None, *, every: int = 1, last: int | None = None, **where
) -> Method:
    """The model has the largest weights alone, and all weights take its gradient.

        f(m theta),   d loss / d theta := d loss / d (m theta),   m of the lowest |theta|

    Args:
      sparsity: the share of the prunable weights that the model has not.
      every, last: the masks follow the weights after every so many steps, to the end or to `last`.
      **where: as in `static`.

    Returns:
      The method; its state are the masks. Weights that are masked keep their values.

    Raises:
      ValueError: a sparsity outside [0, 1); steps at which it would never act; masks to begin
        with, for they are those of the weights.

    >>> method, params = pj.methods.straight_through(0.5), {"kernel": jnp.array([[1.0, -2.0]])}
    >>> trained, state = method.init(params, jax.random.key(0), None)
    >>> method.view(trained, state, 0, None)["kernel"].tolist(), trained["kernel"].tolist()
    ([[0.0, -2.0]], [[1.0, -2.0]])

    Source: Bengio et al., arXiv 1308.3432; top-k as in Jayakumar et al., arXiv 2106.03517, whose
      backward pass is sparse.
    """
    where, acts = Where(sparsity, **where), timetable(every, last, every)

    def largest(trained: Params) -> Masks:
        weights = where.weights(trained)
        return where.keep(magnitude(weights), where.removed(weights, [where.final])[0])

    def init(params: Params, key: Array, masks: Masks | None = None) -> tuple[Params, Masks]:
        if masks is not None:
            raise ValueError("straight-through masks are those of the weights: give none")
        return params, largest(params)

    def update(trained: Params, masks: Masks, taken: Taken) -> tuple[Params, Masks, None]:
        due = acting(acts, taken.step)
        return trained, jax.lax.cond(due, lambda: largest(trained), lambda: masks), None

    return Method(init, _straight_view, update=update, acts=acts)


def ac_dc(sparsity: float | None, *, first: int, last: int, every: int, **where) -> Method:
    """Alternating compressed and dense training: masks come and go, and stay in the end.

        dense to step `first`; compressed and dense in turn, `every` steps each; compressed from
        step `last` on

    Args:
      sparsity: the share of the prunable weights that is zero while compressed, the smallest.
      first, last, every: the steps after which the phase changes; `last` is an even number of
        phases after `first`.
      **where: as in `static`; its source ranks all layers together, "global".

    Returns:
      The method; its state are the masks. Weights come back as zeros, their optimiser anew.

    Raises:
      ValueError: a sparsity outside [0, 1); steps at which it would never act, or whose last would
        begin a dense phase; masks to begin with, for it begins dense.

    >>> list(pj.methods.ac_dc(0.9, first=10, last=50, every=20).acts)
    [10, 30, 50]

    Source: Peste et al., AC/DC (arXiv 2106.12379).
    """
    where, acts = Where(sparsity, **where), timetable(first, last, every)
    if (last - first) % (2 * every):
        near = last - (last - first) % (2 * every)
        raise ValueError(
            f"last is {last}; phases of {every} steps from {first} on begin a compressed one at "
            f"{near} and {near + 2 * every}: give one of them"
        )

    def init(params: Params, key: Array, masks: Masks | None = None) -> tuple[Params, Masks]:
        if masks is not None:
            raise ValueError("AC/DC begins dense: give no masks")
        return params, _everything(where.weights(params))

    def update(trained: Params, masks: Masks, taken: Taken) -> tuple[Params, Masks, Masks]:
        def changed() -> Masks:
            weights = where.weights(trained)
            counts = where.removed(weights, [where.final])[0]
            compressed = where.keep(magnitude(weights), counts)
            dense = number(acts, taken.step) % 2 == 1
            return jax.tree.map(lambda mask: mask | dense, compressed)

        after = jax.lax.cond(acting(acts, taken.step), changed, lambda: masks)
        return masks_.apply(trained, after), after, _new(masks, after)

    return Method(init, _held_view, update=update, optimizer=slots.restartable, acts=acts)


def _everything(weights: Params) -> Masks:
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), weights)

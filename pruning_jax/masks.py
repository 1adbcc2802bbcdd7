"""Masks: from scores and a sparsity to what is kept, its application and its counts."""

import math
import operator
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import choices, layouts, selection, tables, trees
from pruning_jax.tracing import Trace
from pruning_jax.types import Array, Masks, Params, Scores

if TYPE_CHECKING:
    import optax

SCOPES = tuple(selection.SCOPES)


def from_scores(
    scores: Scores,
    sparsity: float,
    *,
    scope: str = "global",
    masks: Masks | None = None,
    trace: Trace | None = None,
    allow_empty_layers: bool = False,
) -> Masks:
    """Removes the weights with the lowest scores, exactly round(sparsity x prunable) of them.

    What `masks` has removed stays removed and counts first. Ties break by index: by the order of
    the leaves, then row by row. The function works under ``jit`` when `sparsity` is a Python
    number; there scores are not checked to be finite, nor global masks for empty layers
    (`empty_layers` does that afterwards).

    Args:
      scores: floats, ``None`` where a leaf is not prunable.
      sparsity: the share of all prunable weights to remove, in [0, 1].
      scope: "global" ranks all weights together; "layer" gives every layer the same density;
        "erk" gives Erdos-Renyi-kernel densities, with the layers that they fill left dense.
      masks: earlier masks.
      trace: of the model. Layers that one leaf stacks, as a scan takes them, are then layers of
        their own, and "erk" takes the features that several axes of a kernel hold together, as the
        heads and widths of attention, for one dimension. Without it a leaf is a layer, and each of
        its axes a dimension, which is right for (inputs, outputs) and kernels of convolutions.
      allow_empty_layers: whether a layer may lose all its weights.

    Returns:
      Booleans, True = kept, a tree like `scores`.

    Raises:
      ValueError: a sparsity outside [0, 1] or one that `masks` exceeds; an unknown scope; scores
        that are not finite floats; masks unlike the scores; a layer about to be emptied; for
        "erk", a leaf that the trace does not have, or whose features it cannot tell apart.

    >>> scores = {"kernel": jnp.array([[3.0, 1.0], [2.0, 4.0]]), "bias": None}
    >>> pj.masks.from_scores(scores, 0.5)["kernel"].tolist()
    [[True, False], [False, True]]

    Source: ERK from RigL, arXiv 1911.11134.
    """
    sparsity = choices.check_sparsity(sparsity)
    choices.check("scope", scope, SCOPES)
    paths, leaves = _checked_scores(scores)
    before = _checked_masks(scores, masks)
    layers, shapes = layouts.ranked(scope, trace, dict(zip(paths, leaves, strict=True)))
    names = [layer.name for layer in layers]
    parts, earlier = ([layer.of(arrays) for layer in layers] for arrays in (leaves, before))
    masks = [None] * len(layers)
    count = round(sparsity * sum(leaf.size for leaf in leaves))
    for group, number in selection.SCOPES[scope](shapes, count):
        _check_number(number, [names[i] for i in group], [earlier[i] for i in group])
        if not allow_empty_layers and number == sum(parts[i].size for i in group):
            _refuse_empty([names[i] for i in group if parts[i].size], sparsity)
        kept = selection.remove_lowest(
            [parts[i] for i in group], [earlier[i] for i in group], number
        )
        for i, mask in zip(group, kept, strict=True):
            masks[i] = mask
    result = jax.tree.unflatten(jax.tree.structure(scores), layouts.together(layers, masks))
    if not allow_empty_layers and not _is_traced(result):
        _refuse_empty(empty_layers(result, trace), sparsity)
    return result


def n_of_m(
    scores: Scores,
    n: int,
    m: int,
    *,
    trace: Trace | None = None,
    axis: int | None = None,
    masks: Masks | None = None,
) -> Masks:
    """Keeps the n highest scores of every m neighbours along a kernel's inputs (N:M sparsity).

    The neighbours are the inputs of one unit, so that a product with the kernel can skip the same
    share of each group; of a convolution, the input channels at one place of the window. Inputs on
    several axes, as those of attention's output layer, are taken row by row. Ties break by index,
    the first goes first. What `masks` has removed stays removed.

    Args:
      scores: floats, ``None`` where a leaf is not prunable.
      n: how many are kept of each group, from 1 to `m`.
      m: the size of a group; it divides the inputs of every kernel.
      trace: of the model; it knows which axes of each kernel are inputs.
      axis: the axis of the inputs of every kernel, in place of a trace: -2 in Flax's (inputs,
        outputs) and (height, width, inputs, outputs), 1 in the (outputs, inputs) and (outputs,
        inputs, height, width) of Equinox and PyTorch.
      masks: earlier masks.

    Returns:
      Booleans, True = kept, a tree like `scores`.

    Raises:
      ValueError: n or m no integers with 1 <= n <= m; neither or both of `trace` and `axis`; a
        leaf that is no kernel of the trace, or whose inputs it does not know; a kernel without
        `axis`, or with inputs that m does not divide; scores that are not finite floats; masks
        unlike the scores.

    >>> kernel = jnp.array([[4.0], [1.0], [3.0], [2.0]])  # (inputs, outputs)
    >>> pj.masks.n_of_m({"kernel": kernel}, 2, 4, axis=0)["kernel"].ravel().tolist()
    [True, False, True, False]

    Source: Zhou et al., Learning N:M fine-grained structured sparse networks (arXiv 2102.04010).
    """
    try:
        n, m = operator.index(n), operator.index(m)
    except TypeError as error:
        raise ValueError(f"n and m must be integers, not {n!r} and {m!r}") from error
    if not 1 <= n <= m:
        raise ValueError(f"n of m needs 1 <= n <= m, and n is {n}, m is {m}")
    names, leaves = _checked_scores(scores)
    before = _checked_masks(scores, masks)
    if (trace is None) == (axis is None):
        raise ValueError(
            f"give {'either' if axis is None else 'only one of'} trace= of the model, which knows "
            "which axes of a kernel are inputs, or axis=: -2 for Flax's (inputs, outputs), 1 for "
            "the (outputs, inputs) of Equinox and PyTorch"
        )
    axes = [_input_axes(trace, axis, *leaf, m) for leaf in zip(names, leaves, strict=True)]
    kept = [
        _keep_n_of_m(leaf, mask, n, m, along)
        for leaf, mask, along in zip(leaves, before, axes, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(scores), kept)


def _input_axes(
    trace: Trace | None, axis: int | None, name: str, leaf: Array, m: int
) -> tuple[int, ...]:
    """The axes along which groups of m lie."""
    if trace is None:
        if not -leaf.ndim <= axis < leaf.ndim or leaf.shape[axis] % m:
            raise ValueError(
                f"{name!r} of shape {leaf.shape} has no axis {axis} in whole groups of {m}"
            )
        return (axis,)
    layer = layouts.layer_of(trace, name, leaf.shape)
    if layer is None:
        raise ValueError(f"{name!r} is no kernel of the trace: it has no inputs; leave it out")
    inputs = layouts.axes(layer).inputs
    size = math.prod(leaf.shape[place] for place in inputs)
    if size % m:
        raise ValueError(
            f"{name!r} of shape {leaf.shape} has {size} inputs, not whole groups of {m}; leave it "
            "out of the scores"
        )
    return inputs


def _keep_n_of_m(scores: Array, mask: Array | None, n: int, m: int, axes: tuple[int, ...]) -> Array:
    key = selection.order_key(jnp.asarray(scores))
    key = key if mask is None else key * mask
    last = tuple(range(-len(axes), 0))
    moved = jnp.moveaxis(key, axes, last)
    groups = moved.reshape(-1, m)
    rank = jnp.argsort(jnp.argsort(groups, axis=-1, stable=True), axis=-1)
    kept = jnp.moveaxis((rank >= m - n).reshape(moved.shape), last, axes)
    return kept if mask is None else kept & mask


def apply(params: Params, masks: Masks | None) -> Params:
    """Sets the removed weights to zero; leaves without a mask stay as they are.

    Args:
      params: the parameters.
      masks: booleans, True = kept, at leaves of the same names; ``None`` where a leaf is not
        prunable, or in place of all.

    Returns:
      The masked parameters, a tree like `params`.

    Raises:
      ValueError: a mask at no leaf of the parameters, or whose shape is not its leaf's.

    >>> weights = {"kernel": jnp.ones(2), "b": jnp.ones(1)}
    >>> pj.masks.apply(weights, {"kernel": jnp.array([True, False]), "b": None})
    {'b': Array([1.], dtype=float32), 'kernel': Array([1., 0.], dtype=float32)}
    """
    trees.check_selection("masks", masks, params)
    named = trees.named_leaves(masks)

    def keep(path: tuple, leaf: Array) -> Array:
        mask = named.get(trees.path_name(path))
        return leaf if mask is None else jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))

    return jax.tree_util.tree_map_with_path(keep, params) if named else params


class HoldState(NamedTuple):
    """The state of `hold`.

    Attributes:
      masks: leaf -> its mask.
    """

    masks: dict[str, Array]


def hold(masks: Masks | None) -> "optax.GradientTransformation":
    """Holds removed weights at zero in any training loop; the last of an `optax.chain`.

        update <- -theta where removed, as it was where kept;   theta + update = 0 where removed

    Whatever momentum, weight decay or normalisation come before, removed weights are exactly zero
    after `optax.apply_updates`: from the first update on even if they were not zero before, as
    long as they were finite. Kept weights and leaves without a mask are updated as without it. The
    gradient that the optimiser sees has the removed weights' entries: one that mixes weights, as
    clipping by the global norm, needs ``masks.apply(gradient, masks)`` first, to train as a
    network without those weights would.

    The masks are part of the optimiser's state, by leaf, so that a jitted step takes them as an
    argument; `init` copies them, so that the state can be donated.

    Args:
      masks: booleans, True = kept, at leaves of the parameters; ``None`` at the others, or for all
        of them. Of the variables of a Linen model, that is ``masks["params"]``.

    Returns:
      A transformation whose `update` needs the parameters.

    Raises:
      ValueError: a mask is not of booleans; `update` has no parameters, or a mask at no leaf of
        theirs, or of another shape than its leaf.

    >>> import optax
    >>> held = pj.masks.hold({"kernel": jnp.array([True, False])})
    >>> tx, params = optax.chain(optax.adamw(1e-3), held), {"kernel": jnp.array([1.0, 2.0])}
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> optax.apply_updates(params, updates)["kernel"][1].item()
    0.0

    Source: after `optax.keep_params_nonnegative`.
    """
    import optax  # here, for importing it takes a fifth of what jax takes

    named = {_plain_name(name): mask for name, mask in trees.named_leaves(masks).items()}
    for name, mask in named.items():
        if not hasattr(mask, "dtype") or mask.dtype != bool:
            raise ValueError(f"the mask of {name!r} is no array of booleans: {mask!r}")

    def init(params: Params) -> HoldState:
        return HoldState({name: jnp.array(mask) for name, mask in named.items()})

    def update(
        updates: Params, state: HoldState, params: Params | None = None
    ) -> tuple[Params, HoldState]:
        if params is None:
            raise ValueError(
                "masks.hold needs the parameters: tx.update(gradient, opt_state, params)"
            )
        weights = {_plain_name(n): leaf for n, leaf in trees.named_leaves(params).items()}
        _check_held(state.masks, weights)

        def held(path: tuple, step: Array) -> Array:
            name = _plain_name(trees.path_name(path))
            mask = state.masks.get(name)
            return step if mask is None else jnp.where(mask, step, -weights[name])

        return jax.tree_util.tree_map_with_path(held, updates), state

    return optax.GradientTransformation(init, update)


def _plain_name(name: str) -> str:
    """A leaf's name without the ``value`` that NNX puts after it in some of its trees."""
    return name.removesuffix("/value")


def _check_held(masks: dict[str, Array], weights: dict[str, Array]) -> None:
    for name, mask in masks.items():
        if name not in weights:
            inside = name.removeprefix(f"{layouts.PARAMS}/")
            hint = '; give masks["params"]' if inside != name and inside in weights else ""
            raise ValueError(
                f"there is a mask of {name!r}, and the parameters have no such leaf, but "
                f"{', '.join(weights)}{hint}"
            )
        if mask.shape != jnp.shape(weights[name]):
            raise ValueError(
                f"the mask of {name!r} has shape {mask.shape}, and the leaf has "
                f"{jnp.shape(weights[name])}"
            )


class Count(NamedTuple):
    """How many weights of a layer are `prunable`, and how many of them are `removed`."""

    prunable: int
    removed: int


def counts(masks: Masks, trace: Trace | None = None) -> dict[str, Count]:
    """The counts of every layer by its kernel's name.

    Args:
      masks: booleans, ``None`` where a leaf is not prunable.
      trace: of the model, for the order in which it runs the layers, and for those that one leaf
        stacks, by ``name[number]``; without it the tree's order, and one layer a leaf.

    Returns:
      Kernel -> its counts.

    Raises:
      ValueError: a leaf that the trace does not have, or that has another shape there.

    >>> pj.masks.counts({"kernel": jnp.array([[True, False], [True, True]]), "bias": None})
    {'kernel': Count(prunable=4, removed=1)}
    """
    leaves = trees.named_leaves(masks)
    if trace is not None:
        order = layouts.in_order(trace, {name: mask.shape for name, mask in leaves.items()})
        leaves = {name: leaves[name] for name in order}
    layers, arrays = layouts.leaf_layers(trace, leaves), [*leaves.values()]
    masks = {layer.name: layer.of(arrays) for layer in layers}
    return {
        name: Count(mask.size, mask.size - int(_count_true(mask))) for name, mask in masks.items()
    }


def prunable(masks: Masks) -> int:
    """How many weights are prunable.

    Args:
      masks: as in `counts`.

    Returns:
      The number of entries of all masks.

    >>> pj.masks.prunable({"kernel": jnp.array([[True, False], [True, True]]), "bias": None})
    4
    """
    return trees.size(masks)


def removed(masks: Masks) -> int:
    """How many weights are removed.

    Args:
      masks: as in `counts`.

    Returns:
      The number of entries that are False.

    >>> pj.masks.removed({"kernel": jnp.array([[True, False], [True, True]]), "bias": None})
    1
    """
    return sum(count.removed for count in counts(masks).values())


def sparsity(masks: Masks) -> float:
    """Removed over prunable, in [0, 1].

    Args:
      masks: as in `counts`.

    Returns:
      A number in [0, 1]; 0 where there are no masks.

    >>> pj.masks.sparsity({"kernel": jnp.array([[True, False], [True, True]]), "bias": None})
    0.25
    """
    return removed(masks) / max(prunable(masks), 1)


def empty_layers(masks: Masks, trace: Trace | None = None) -> list[str]:
    """The names of the layers that have weights and keep none of them.

    Args:
      masks, trace: as in `counts`.

    Returns:
      The names of their kernels, in the tree's order.

    >>> pj.masks.empty_layers({"a": jnp.array([True, False]), "b": jnp.array([False])})
    ['b']
    """
    return [name for name, (size, gone) in counts(masks, trace).items() if size and gone == size]


def table(masks: Masks, trace: Trace | None = None) -> str:
    """The counts of every layer and of all together, for a terminal.

    Args:
      masks, trace: as in `counts`.

    Returns:
      A line for each layer, of at most 100 columns; a longer name goes on below.

    Raises:
      ValueError: as `counts`.

    >>> print(pj.masks.table({"kernel": jnp.array([[True, False], [True, True]]), "bias": None}))
    layer     prunable     removed  sparsity
    kernel           4           1    0.2500
    total            4           1    0.2500
    """
    rows = [*counts(masks, trace).items(), ("total", Count(prunable(masks), removed(masks)))]
    numbers = [
        f"  {size:>10,}  {gone:>10,}  {gone / max(size, 1):>8.4f}" for _, (size, gone) in rows
    ]
    names = [tables.wrap(name, tables.WIDTH - max(map(len, numbers))) for name, _ in rows]
    width = max(len(line) for name in names for line in name)
    lines = [f"{'layer':<{width}}  {'prunable':>10}  {'removed':>10}  sparsity"]
    for (first, *rest), cells in zip(names, numbers, strict=True):
        lines += [f"{first:<{width}}{cells}", *rest]
    return "\n".join(lines)


def _count_true(mask: Array) -> int:
    return np.count_nonzero(mask) if selection.on_host([mask]) else jnp.count_nonzero(mask)


def _is_traced(tree: Masks | Scores) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _checked_scores(scores: Scores) -> tuple[list[str], list[Array]]:
    named = trees.named_leaves(scores)
    if not named:
        raise ValueError("there are no scores: no leaf is prunable")
    for name, leaf in named.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"the scores of {name!r} are {leaf.dtype}; they must be floats")
        if not _is_traced(leaf) and not _is_finite(leaf):
            raise ValueError(f"the scores of {name!r} are not all finite")
    return list(named), list(named.values())


def _is_finite(leaf: Array) -> bool:
    library = np if selection.on_host([leaf]) else jnp
    return bool(library.isfinite(library.asarray(leaf)).all())


def _checked_masks(scores: Scores, masks: Masks | None) -> list[Array | None]:
    if masks is None:
        return [None] * len(jax.tree.leaves(scores))
    named_masks, named_scores = trees.named_leaves(masks), trees.named_leaves(scores)
    if named_masks.keys() != named_scores.keys():
        odd = sorted(named_masks.keys() ^ named_scores.keys())
        raise ValueError(f"masks and scores cover different leaves: {', '.join(odd)}")
    for name, leaf in named_scores.items():
        mask = named_masks[name]
        if mask.shape != leaf.shape or mask.dtype != bool:
            raise ValueError(
                f"the mask of {name!r} must be booleans of shape {leaf.shape}, "
                f"not {mask.dtype} of shape {mask.shape}"
            )
    return [named_masks[name] for name in named_scores]


def _check_number(number: int, names: list[str], masks: list[Array | None]) -> None:
    if masks[0] is None or _is_traced(masks):
        return
    already = sum(mask.size - int(_count_true(mask)) for mask in masks)
    if already > number:
        raise ValueError(
            f"{already} weights of {', '.join(names)} are removed already, more than the "
            f"{number} of this sparsity; what is pruned stays pruned, so choose a higher one"
        )


def _refuse_empty(names: list[str], sparsity: float) -> None:
    if names:
        raise ValueError(
            f"sparsity {sparsity} would remove every weight of {', '.join(names)}; choose a lower "
            "sparsity or scope='layer', or pass allow_empty_layers=True"
        )

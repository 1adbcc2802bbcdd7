"""Masks: from scores and a sparsity to what is kept, its application and its counts."""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import choices, selection, trees
from pruning_jax.types import Array, Masks, Params, Scores

SCOPES = tuple(selection.SCOPES)


def from_scores(
    scores: Scores,
    sparsity: float,
    *,
    scope: str = "global",
    masks: Masks | None = None,
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
      allow_empty_layers: whether a layer may lose all its weights.

    Returns:
      Booleans, True = kept, a tree like `scores`.

    Raises:
      ValueError: a sparsity outside [0, 1] or one that `masks` exceeds; an unknown scope; scores
        that are not finite floats; masks unlike the scores; a layer about to be emptied.

    Source: ERK from RigL, arXiv 1911.11134.
    """
    sparsity = choices.check_sparsity(sparsity)
    choices.check("scope", scope, SCOPES)
    names, leaves = _checked_scores(scores)
    before = _checked_masks(scores, masks)
    count = round(sparsity * sum(leaf.size for leaf in leaves))
    result = [None] * len(leaves)
    for group, number in selection.SCOPES[scope]([leaf.shape for leaf in leaves], count):
        _check_number(number, [names[i] for i in group], [before[i] for i in group])
        if not allow_empty_layers and number == sum(leaves[i].size for i in group):
            _refuse_empty([names[i] for i in group if leaves[i].size], sparsity)
        kept = selection.remove_lowest(
            [leaves[i] for i in group], [before[i] for i in group], number
        )
        for i, mask in zip(group, kept, strict=True):
            result[i] = mask
    result = jax.tree.unflatten(jax.tree.structure(scores), result)
    if not allow_empty_layers and not _is_traced(result):
        _refuse_empty(empty_layers(result), sparsity)
    return result


def n_of_m(scores: Scores, n: int, m: int, *, axis: int = -2, masks: Masks | None = None) -> Masks:
    """Keeps the n highest scores of every m neighbours along an axis (N:M sparsity).

    Ties break by index, the first goes first. What `masks` has removed stays removed.

    Args:
      scores: floats, ``None`` where a leaf is not prunable.
      n: how many are kept of each group, from 1 to `m`.
      m: the size of a group; it divides every kernel's `axis`.
      axis: the axis of a kernel's inputs; -2 for kernels (inputs, outputs) and
        (height, width, inputs, outputs), as Flax has them.
      masks: earlier masks.

    Returns:
      Booleans, True = kept, a tree like `scores`.

    Raises:
      ValueError: n or m no integers with 1 <= n <= m; a kernel without `axis`, or with one that
        m does not divide; scores that are not finite floats; masks unlike the scores.

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
    for name, leaf in zip(names, leaves, strict=True):
        if not -leaf.ndim <= axis < leaf.ndim or leaf.shape[axis] % m:
            raise ValueError(
                f"{name!r} of shape {leaf.shape} has no axis {axis} in whole groups of {m}"
            )
    kept = [_keep_n_of_m(leaf, mask, n, m, axis) for leaf, mask in zip(leaves, before, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(scores), kept)


def _keep_n_of_m(scores: Array, mask: Array | None, n: int, m: int, axis: int) -> Array:
    key = selection.order_key(jnp.asarray(scores))
    key = key if mask is None else key * mask
    groups = jnp.moveaxis(key, axis, -1)
    shape = groups.shape
    groups = groups.reshape(*shape[:-1], shape[-1] // m, m)
    rank = jnp.argsort(jnp.argsort(groups, axis=-1, stable=True), axis=-1)
    kept = jnp.moveaxis((rank >= m - n).reshape(shape), -1, axis)
    return kept if mask is None else kept & mask


def apply(params: Params, masks: Masks | None) -> Params:
    """Sets the removed weights to zero; leaves without a mask stay as they are.

    Args:
      params: the parameters.
      masks: booleans, True = kept, ``None`` where a leaf is not prunable; or ``None``.

    Returns:
      The masked parameters, a tree like `params`.

    Raises:
      ValueError: a mask whose shape is not its leaf's.
    """
    if masks is None:
        return params

    def keep(path: tuple, mask: Array | None, leaf: Array) -> Array:
        if mask is None:
            return leaf
        if mask.shape != leaf.shape:
            raise ValueError(
                f"the mask of {trees.path_name(path)!r} has shape {mask.shape}, "
                f"and the leaf has {leaf.shape}"
            )
        return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))

    return jax.tree_util.tree_map_with_path(keep, masks, params, is_leaf=lambda leaf: leaf is None)


class Count(NamedTuple):
    """How many weights of a layer are prunable, and how many of them are removed."""

    prunable: int
    removed: int


def counts(masks: Masks) -> dict[str, Count]:
    """The counts of every layer by its kernel's name, in the tree's order."""
    return {
        name: Count(mask.size, mask.size - int(_count_true(mask)))
        for name, mask in trees.named_leaves(masks).items()
    }


def prunable(masks: Masks) -> int:
    """How many weights are prunable."""
    return trees.size(masks)


def removed(masks: Masks) -> int:
    """How many weights are removed."""
    return sum(count.removed for count in counts(masks).values())


def sparsity(masks: Masks) -> float:
    """Removed over prunable, in [0, 1]."""
    return removed(masks) / max(prunable(masks), 1)


def empty_layers(masks: Masks) -> list[str]:
    """The names of the layers that have weights and keep none of them."""
    return [name for name, (size, gone) in counts(masks).items() if size and gone == size]


def table(masks: Masks) -> str:
    """The counts of every layer and of all together, one a line."""
    rows = [*counts(masks).items(), ("total", Count(prunable(masks), removed(masks)))]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'layer':<{width}}  {'prunable':>10}  {'removed':>10}  sparsity"]
    for name, (size, gone) in rows:
        lines.append(f"{name:<{width}}  {size:>10,}  {gone:>10,}  {gone / max(size, 1):>8.4f}")
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

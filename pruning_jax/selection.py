"""Selection: how many weights each layer gives up, and which ones, with exact counts.

The lowest scores go. Ties break by index: by the order of the leaves, then row by row, the first
goes first. Positive and negative zero tie.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax.types import Array

Group = tuple[tuple[int, ...], int]
"""Leaves that are ranked together, by index, and how many of their weights go."""


def globally(shapes: Sequence[tuple[int, ...]], count: int) -> list[Group]:
    """All layers are ranked together."""
    return [(tuple(range(len(shapes))), count)]


def uniformly(shapes: Sequence[tuple[int, ...]], count: int) -> list[Group]:
    """Every layer has the same density.

    removed_l = round(t n_l), with t such that the sum is `count`
    """
    sizes = [math.prod(shape) for shape in shapes]
    removed = apportion(count, sizes, sizes)
    return [((layer,), number) for layer, number in enumerate(removed)]


def erdos_renyi_kernel(shapes: Sequence[tuple[int, ...]], count: int) -> list[Group]:
    """Density in proportion to the sum of a kernel's dimensions over their product.

    kept_l = min(n_l, round(epsilon sum(shape_l))), with epsilon such that the sum is the number
    of weights kept; the layers where the minimum is n_l are dense. A shape has one dimension for
    the inputs, one for the outputs and those of a window, in any order (`layouts.dimensions`).

    Source: Rigging the Lottery (RigL, arXiv 1911.11134), section 3, ERK.
    """
    sizes = [math.prod(shape) for shape in shapes]
    kept = apportion(sum(sizes) - count, [sum(shape) or 1 for shape in shapes], sizes)
    return [((layer,), sizes[layer] - number) for layer, number in enumerate(kept)]


SCOPES: dict[str, Callable[[Sequence[tuple[int, ...]], int], list[Group]]] = {
    "global": globally,
    "layer": uniformly,
    "erk": erdos_renyi_kernel,
}


def apportion(total: int, weights: Sequence[int], caps: Sequence[int]) -> list[int]:
    """Shares out a total in proportion to weights, up to a cap each, in whole numbers.

    share_l = min(cap_l, round(t weight_l)), with t such that the shares sum to `total`

    (Webster's method): no share falls when the total grows, so stages can follow each other.
    """
    caps, weights = np.asarray(caps), np.asarray(weights, np.float64)
    if total == caps.sum():
        return caps.tolist()

    def shares(t: float) -> np.ndarray:
        return np.minimum(caps, np.rint(t * weights)).astype(np.int64)

    low, high = 0.0, float(np.max((caps + 1) / np.maximum(weights, 1.0)))
    while (middle := (low + high) / 2) not in (low, high):
        given = shares(middle).sum()
        if given == total:
            return shares(middle).tolist()
        low, high = (middle, high) if given < total else (low, middle)
    result = shares(low)
    tied = np.flatnonzero(shares(high) > result)
    result[tied[: total - result.sum()]] += 1
    return result.tolist()


def remove_lowest(
    scores: Sequence[Array], masks: Sequence[Array | None], count: int
) -> list[Array]:
    """Masks that remove exactly `count` weights: those removed already, then the lowest scores.

    Args:
      scores: finite floats, one array a layer.
      masks: what is kept so far, one array a layer, or ``None`` for all of it.
      count: how many weights are removed in the end, at least those removed already.

    Returns:
      Booleans, True = kept, in the shapes of `scores`. They are the same on every path: a
      partition by the host where the scores lie in its memory, otherwise a count bit by bit.
    """
    if on_host([*scores, *masks]):
        return _partition(scores, masks, count)
    return count_bitwise(list(scores), list(masks), jnp.uint32(count))


def on_host(arrays: Sequence[Array | None]) -> bool:
    return all(
        not isinstance(array, jax.core.Tracer)
        and array.is_fully_addressable
        and all(device.platform == "cpu" for device in array.sharding.device_set)
        for array in arrays
        if isinstance(array, jax.Array)
    )


def _partition(scores: Sequence[Array], masks: Sequence[Array | None], count: int) -> list[Array]:
    dtype = np.float64 if any(leaf.dtype == np.float64 for leaf in scores) else np.float32
    leaves = [np.asarray(leaf).astype(dtype, copy=False) for leaf in scores]
    before = [True if mask is None else np.asarray(mask) for mask in masks]
    pool = np.concatenate(
        [
            leaf.ravel() if mask is True else leaf[mask]
            for leaf, mask in zip(leaves, before, strict=True)
        ]
    )
    count -= sum(leaf.size for leaf in leaves) - pool.size
    if count <= 0:
        kept = [
            np.broadcast_to(mask, leaf.shape) for leaf, mask in zip(leaves, before, strict=True)
        ]
        return [_like(leaf, mask) for leaf, mask in zip(scores, kept, strict=True)]
    pool.partition(count - 1)
    threshold = pool[count - 1]
    kept = [_within(leaf > threshold, mask) for leaf, mask in zip(leaves, before, strict=True)]
    kept_ties = pool.size - count - sum(np.count_nonzero(mask) for mask in kept)
    for leaf, mask, result in reversed(list(zip(leaves, before, kept, strict=True))):
        if not kept_ties:
            break
        ties = np.flatnonzero(_within(leaf == threshold, mask))[-kept_ties:]
        result.reshape(-1)[ties] = True
        kept_ties -= ties.size
    return [_like(leaf, mask) for leaf, mask in zip(scores, kept, strict=True)]


def _within(chosen: np.ndarray, mask: np.ndarray | bool) -> np.ndarray:
    return np.asarray(chosen if mask is True else chosen & mask)


def _like(leaf: Array, mask: np.ndarray) -> Array:
    """The mask on the leaf's devices, committed to them only where the leaf is."""
    committed = isinstance(leaf, jax.Array) and leaf.committed
    return jax.device_put(mask, leaf.sharding if committed else None)


@jax.jit
def count_bitwise(scores: list[Array], masks: list[Array | None], count: Array) -> list[Array]:
    dtype = jnp.result_type(*scores)
    keys = [
        order_key(leaf.astype(dtype)) if mask is None else order_key(leaf.astype(dtype)) * mask
        for leaf, mask in zip(scores, masks, strict=True)
    ]
    unsigned = keys[0].dtype
    bits = jnp.iinfo(unsigned).bits

    def total(predicate: Callable) -> Array:
        return sum(jnp.sum(predicate(key), dtype=jnp.uint32) for key in keys)

    def set_bit(index: Array, threshold: Array) -> Array:
        candidate = threshold | (jnp.ones((), unsigned) << (bits - 1 - index).astype(unsigned))
        return jnp.where(total(lambda key: key < candidate) < count, candidate, threshold)

    threshold = jax.lax.fori_loop(0, bits, set_bit, jnp.zeros((), unsigned))
    removed_ties = count - total(lambda key: key < threshold)

    def without_ties() -> list[Array]:
        return [key > threshold for key in keys]

    def with_ties() -> list[Array]:
        kept, seen = [], jnp.uint32(0)
        for key in keys:
            rank = seen + jnp.cumsum((key == threshold).ravel(), dtype=jnp.uint32)
            seen += jnp.sum(key == threshold, dtype=jnp.uint32)
            is_kept_tie = (key == threshold) & (rank.reshape(key.shape) > removed_ties)
            kept.append((key > threshold) | is_kept_tie)
        return kept

    is_exact = total(lambda key: key == threshold) == removed_ties
    kept = jax.lax.cond(is_exact, without_ties, with_ties)
    return [keep if mask is None else keep & mask for keep, mask in zip(kept, masks, strict=True)]


def order_key(scores: Array) -> Array:
    """Unsigned integers above 0, in the order of the floats `scores`; zeros of both signs tie.

    Integers are exact where floats are not: some devices take subnormal numbers for zero.
    """
    bits = jnp.finfo(scores.dtype).bits
    unsigned = jnp.dtype(f"uint{bits}")
    pattern = jax.lax.bitcast_convert_type(scores, unsigned)
    sign = jnp.ones((), unsigned) << (bits - 1)
    pattern = jnp.where(pattern == sign, jnp.zeros((), unsigned), pattern)
    return jnp.where(pattern >= sign, ~pattern, pattern | sign)

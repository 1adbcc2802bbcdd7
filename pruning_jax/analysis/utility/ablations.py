"""Which weights are ablated: random subsets, bands of magnitude; and whether masks fit a tree."""

import itertools
import math
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import trees
from pruning_jax.curvature import averaging
from pruning_jax.types import Array, Masks, Params, PyTree


class _Pool(NamedTuple):
    """The weights that may be drawn, by their positions among all weights of a tree in a row."""

    structure: Any
    shapes: list[tuple[int, ...]]
    positions: np.ndarray
    barred: np.ndarray

    def masks(self, kept: np.ndarray) -> Masks:
        """Booleans in a row, as a tree."""
        stops = list(itertools.accumulate(map(math.prod, self.shapes)))
        parts = np.split(kept, stops[:-1])
        leaves = [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)


def random_subsets(
    key: Array,
    weights: Params,
    count: int,
    *,
    ratio: float | None = None,
    number: int | None = None,
    among: Masks | None = None,
) -> Iterator[Masks]:
    """Random subsets of one size, drawn evenly from the weights of all layers together.

    Subset i depends on the key, on i and on how many weights are drawn of how many, not on `count`.
    They are drawn by the host, one at a time as they are asked for. Of one key, a smaller subset
    shares weights with a larger one: give each size its own key where that matters.

    Args:
      key: a random key.
      weights: the weights, ``None`` where a leaf is not prunable, as `trees.select` gives them.
      count: how many subsets.
      ratio: the share of the weights in `among` that a subset has, in (0, 1], rounded to a whole
        number of them; or
      number: how many weights it has.
      among: masks of the weights that may be drawn, such as those that pruning kept; by default
        all of them.

    Returns:
      The subsets' masks, NumPy booleans: False for the weights in the subset, True for all others.

    Raises:
      ValueError: no key; no weights; masks `among` unlike the weights, or all False; a count below
        1; both a ratio and a number, or neither; one that is out of its range.

    Source: An Empirical Study of a Pruning Mechanism (ICLR 2021 submission), section 2.
    """
    averaging.check_key(key)
    if key is None:
        raise ValueError("random subsets need a key: give jax.random.key(0)")
    pool = _pool(weights, among)
    count = _whole("count", count)
    if count < 1:
        raise ValueError(f"count is {count}; draw 1 subset or more")
    number = _size(pool.positions.size, ratio, number)
    words = np.asarray(jax.random.key_data(key)).tolist()

    def drawn(index: int) -> Masks:
        seed = np.random.SeedSequence(words, spawn_key=(index,))
        return pool.masks(_kept(np.random.Generator(np.random.Philox(seed)), pool, number))

    return map(drawn, range(count))


def _kept(generator: np.random.Generator, pool: _Pool, number: int) -> np.ndarray:
    """All but `number` weights of the pool, every subset of that size as likely as any other.

    Positions are drawn with repeats until enough of them differ; of a large subset, it is the
    weights outside it that are drawn.
    """
    fewer = min(number, pool.positions.size - number)
    marked, missing = np.zeros(pool.barred.size, bool), fewer
    while missing:
        drawn = generator.integers(pool.positions.size, size=missing)
        marked[pool.positions[drawn]] = True
        missing = fewer - np.count_nonzero(marked)
    return np.logical_not(marked, out=marked) if fewer == number else marked | pool.barred


def _size(available: int, ratio: float | None, number: int | None) -> int:
    if (ratio is None) == (number is None):
        raise ValueError(f"give either ratio or number: ratio is {ratio!r}, number is {number!r}")
    if ratio is None:
        number = _whole("number", number)
        if not 1 <= number <= available:
            raise ValueError(
                f"number is {number}; it must be from 1 to {available}, the weights that may be "
                "drawn"
            )
        return number
    is_number = isinstance(ratio, int | float | np.number) and not isinstance(ratio, bool)
    if not is_number or not 0 < ratio <= 1:
        raise ValueError(f"ratio is {ratio!r}; it must be a number in (0, 1], for example 0.1")
    if not round(float(ratio) * available):
        raise ValueError(
            f"ratio is {ratio}, less than one of the {available} weights that may be drawn; "
            f"it must be more than {0.5 / available:g}"
        )
    return round(float(ratio) * available)


def _whole(name: str, value: object) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} must be an integer, not {value!r}") from error


def magnitude_bands(weights: Params, bands: int, *, among: Masks | None = None) -> list[Masks]:
    """Ablations of the weights by magnitude, all layers together: equal bands, the smallest first.

    Sizes differ by 1 at most, the earlier bands are the larger ones. Ties break by index: by the
    order of the leaves, then row by row.

    Args:
      weights: the weights, ``None`` where a leaf is not prunable.
      bands: how many.
      among: masks of the weights that are in a band; by default all of them.

    Returns:
      A band's masks each, NumPy booleans: False for the weights in the band, True for all others.

    Raises:
      ValueError: no weights, or ones that are not finite; masks `among` unlike the weights, or all
        False; bands that are not from 1 to the number of weights.

    Source: An Empirical Study of a Pruning Mechanism (ICLR 2021 submission), section 2.
    """
    pool, bands = _pool(weights, among), _whole("bands", bands)
    if not 1 <= bands <= pool.positions.size:
        raise ValueError(
            f"bands is {bands}; it must be from 1 to {pool.positions.size}, one weight a band"
        )
    for name, leaf in trees.named_leaves(weights).items():
        if not np.isfinite(np.asarray(leaf, np.float64)).all():
            raise ValueError(f"the weights of {name!r} are not all finite")
    flat = [np.abs(np.asarray(leaf, np.float64)).ravel() for leaf in jax.tree.leaves(weights)]
    order = np.argsort(np.concatenate(flat)[pool.positions], kind="stable")
    found = []
    for band in np.array_split(order, bands):
        kept = np.ones(pool.barred.size, bool)
        kept[pool.positions[band]] = False
        found.append(pool.masks(kept))
    return found


def _pool(weights: Params, among: Masks | None) -> _Pool:
    for name, leaf in trees.named_leaves(weights).items():
        kind = getattr(leaf, "dtype", None)
        if kind is None or not jnp.issubdtype(kind, jnp.floating):
            what = type(leaf).__name__ if kind is None else kind
            raise ValueError(f"the weights of {name!r} are {what}; they must be floats")
    if not trees.size(weights):
        raise ValueError(
            "the weights have no prunable leaf; give the leaves to draw from, ``None`` in the "
            "place of the others, as trees.select(variables, names) does"
        )
    leaves, structure = jax.tree.flatten(weights)
    kept = np.ones(trees.size(weights), bool)
    if among is not None:
        check_masks("among", among, weights, "weights", complete=True)
        kept = np.concatenate([np.asarray(mask).ravel() for mask in jax.tree.leaves(among)])
    if not kept.any():
        raise ValueError("among is False for every weight; one at least must be free to draw")
    return _Pool(structure, [leaf.shape for leaf in leaves], np.flatnonzero(kept), ~kept)


def _is_none(leaf: object) -> bool:
    return leaf is None


def _with_nones(tree: PyTree) -> tuple[dict[str, Any], Any]:
    """The leaves by name, ``None`` among them, and the structure that has them as leaves."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
    return {trees.path_name(path): leaf for path, leaf in pairs}, structure


def check_masks(
    what: str, masks: Masks, tree: PyTree, whose: str, *, complete: bool = False
) -> None:
    """Checks that masks have the structure of a whole tree, and are booleans of its floats' shapes.

    Args:
      what: the masks' name, for the message.
      masks: booleans, ``None`` in the place of a leaf that they leave as it is.
      tree: the arrays that they mask, ``None`` in any place.
      whose: its name, for the message.
      complete: whether every array must have a mask.

    Raises:
      ValueError: another structure or shape, or no booleans; the message names the first leaf.
    """
    (found, structure), (leaves, wanted) = _with_nones(masks), _with_nones(tree)
    rule = f"masks have the structure of the whole tree of {whose}, None where they mask nothing"
    for name in [*leaves, *found]:
        if name not in found or name not in leaves:
            has = "a leaf" if name in found else "no leaf"
            raise ValueError(f"{what} has {has} {name!r}, unlike the {whose}; {rule}")
    if structure != wanted:
        raise ValueError(f"{what} is nested as {structure}, the {whose} as {wanted}; {rule}")
    for name, mask in found.items():
        if mask is None and not (complete and leaves[name] is not None):
            continue
        shape = getattr(leaves[name], "shape", None)
        kind = getattr(mask, "dtype", type(mask).__name__)
        if shape is None or kind != np.bool_ or mask.shape != shape:
            needed = "None" if shape is None else f"booleans of shape {shape}"
            raise ValueError(
                f"the mask of {name!r} in {what} is {kind} of shape {np.shape(mask)}; "
                f"it must be {needed}"
            )
        if not jnp.issubdtype(leaves[name].dtype, jnp.inexact):
            raise ValueError(
                f"{what} masks {name!r}, which is {leaves[name].dtype}; only floats are weights: "
                "give None in its place"
            )
    if all(mask is None for mask in found.values()):
        raise ValueError(f"{what} masks nothing, all its leaves are None")

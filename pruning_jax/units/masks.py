"""Masks of units: from scores to what is kept, and from there to masks of parameters."""

import fractions
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import choices, masks, selection, trees
from pruning_jax.types import Array, Masks, Params
from pruning_jax.units.spaces import Slice, UnitGraph, UnitSpace

UnitScores = Mapping[str, Array]
"""Space -> estimated harm of removing each of its units, shape (size,), the lowest first."""

UnitMasks = Mapping[str, Array]
"""Space -> booleans, shape (size,), True = kept; a space that is absent keeps all its units."""

SCOPES = ("layer", "global")


def from_scores(
    scores: UnitScores,
    fraction: float | Mapping[str, float] | None = None,
    *,
    count: int | Mapping[str, int] | None = None,
    scope: str = "layer",
    normalise: bool = False,
    graph: UnitGraph | None = None,
) -> dict[str, Array]:
    """Removes the units with the lowest scores.

        layer:   of each space of n units, floor(fraction n) or `count`
        global:  of all N units together, floor(fraction N) or `count`, the last of no space

    A fraction is taken as it is written: 0.29 of 100 units are 29. Ties break by index: by the
    spaces' names, then of the units, the first goes first. Works under ``jit`` when `fraction` and
    `count` are Python numbers; there scores are not checked to be finite.

    Args:
      scores: space -> floats, shape (size,).
      fraction: the share of units to remove, in [0, 1); a mapping from space to share prunes only
        the spaces that it names, and with a `graph` names them by a layer too.
      count: how many units to remove, in place of `fraction`.
      scope: `layer` or `global`.
      normalise: whether to divide each space's scores by their L2 norm first, which matters to
        the global scope alone.
      graph: to check the scores against, and to find the spaces of layers.

    Returns:
      Space -> booleans, shape (size,), True = kept.

    Raises:
      ValueError: neither or both of `fraction` and `count`; one out of range, or that takes a
        whole space; an unknown scope or space, or one that may not be pruned; scores that are not
        finite floats; different requests for two layers of one space.

    >>> pj.units.from_scores({"w": jnp.array([3.0, 1.0, 2.0, 4.0])}, 0.5)["w"].tolist()
    [True, False, False, True]

    Source: Evci et al. 2018, *Mean Replacement Pruning*, section 3: floor of f x n in each layer.
    """
    choices.check("scope", scope, SCOPES)
    if (fraction is None) == (count is None):
        given = "neither" if fraction is None else "both"
        raise ValueError(f"give either fraction or count, not {given}")
    kind, wanted = ("fraction", fraction) if count is None else ("count", count)
    scores = dict(sorted(scores.items()))
    _check_scores(scores, graph)
    if scope == "global":
        return _globally(scores, kind, wanted, normalise)
    kept = {}
    for name, request in _requests(scores, wanted, graph).items():
        size = scores[name].shape[0]
        number = _number(kind, request, size)
        if number >= size and number:
            raise ValueError(
                f"{kind} {request} would remove all {size} units of {name!r}; a space keeps at "
                f"least one: remove {size - 1} or fewer"
            )
        kept |= _without_lowest({name: scores[name]}, number)
    return kept


def check_masks(graph: UnitGraph, unit_masks: UnitMasks) -> None:
    """Checks that unit masks fit a graph; works under ``jit``, where names and shapes are known.

    Args:
      graph: of the model.
      unit_masks: space -> booleans, shape (size,), True = kept.

    Raises:
      ValueError: an unknown space, one that may not be pruned, no booleans of shape (size,), or
        none of them True.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.ones((3, 2))}
    >>> graph = pj.units.graph(pj.trace(model, variables, jnp.ones((4, 1))))
    >>> pj.units.check_masks(graph, {"w": jnp.array([True, False, True])})
    """
    if not isinstance(graph, UnitGraph):
        raise ValueError(
            f"graph is a {type(graph).__name__}; it must be a UnitGraph, as "
            "units.graph(tracing.trace(apply_fn, variables, inputs))"
        )
    if not isinstance(unit_masks, Mapping):
        raise ValueError(
            f"unit masks are a mapping from unit space to booleans, not {type(unit_masks).__name__}"
        )
    for name, mask in unit_masks.items():
        size = _prunable(graph, name).size
        if getattr(mask, "shape", None) != (size,) or mask.dtype != bool:
            what = f"{mask.dtype} of shape {mask.shape}" if hasattr(mask, "dtype") else repr(mask)
            raise ValueError(
                f"the unit mask of {name!r} must be booleans of shape ({size},), not {what}"
            )
        if not isinstance(mask, jax.core.Tracer) and not np.asarray(mask).any():
            raise ValueError(f"the unit mask of {name!r} removes all {size} units; keep some")


def parameter_masks(
    graph: UnitGraph, variables: Params, unit_masks: UnitMasks, *, readers: bool = False
) -> Masks:
    """Masks that remove the parameters which make a removed unit's output, so that it is zero.

    They are its slices of what produces it, and of the kernels that it enters where its activation
    would be another constant than zero. Works under ``jit``.

    Args:
      graph: of the model.
      variables: of the shapes that were traced.
      unit_masks: space -> booleans, shape (size,), True = kept.
      readers: whether the slices that read a removed unit, and so only zeros, are removed too:
        then every weight that a smaller network lacks is zero.

    Returns:
      A tree like `variables`, for `masks.apply`: booleans, True = kept, and ``None`` for a leaf
      that no space of `unit_masks` reaches.

    Raises:
      ValueError: masks that do not fit the graph; variables that are not those of the graph.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.ones((3, 2))}
    >>> graph = pj.units.graph(pj.trace(model, variables, jnp.ones((4, 1))))
    >>> unit_masks = {"w": jnp.array([True, False, True])}
    >>> pj.units.parameter_masks(graph, variables, unit_masks)["w"].tolist()
    [[True, False, True]]
    """
    check_masks(graph, unit_masks)
    leaves, kept = trees.named_leaves(variables), {}
    for name, mask in unit_masks.items():
        for part in slices(graph[name], readers=readers):
            shape = _shape(graph, leaves, part.leaf)
            library = np if isinstance(mask, np.ndarray) else jnp
            stays = library.broadcast_to(entries(part, mask), shape)
            kept[part.leaf] = kept[part.leaf] & stays if part.leaf in kept else stays
    return jax.tree_util.tree_map_with_path(
        lambda path, _: kept.get(trees.path_name(path)), variables
    )


def apply_masks(graph: UnitGraph, variables: Params, unit_masks: UnitMasks) -> Params:
    """Sets the parameters that `parameter_masks` covers to zero; raises as it does.

    The arrays keep their shapes, and the network its cost: `compact` cuts the units out.

    Args:
      graph, variables, unit_masks: as in `parameter_masks`.

    Returns:
      The variables, those parameters zero.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.ones((3, 2))}
    >>> graph = pj.units.graph(pj.trace(model, variables, jnp.ones((4, 1))))
    >>> unit_masks = {"w": jnp.array([True, False, True])}
    >>> pj.units.apply_masks(graph, variables, unit_masks)["w"].tolist()
    [[1.0, 0.0, 0.5]]
    """
    return masks.apply(variables, parameter_masks(graph, variables, unit_masks))


def slices(space: UnitSpace, *, readers: bool) -> list[Slice]:
    """Those that masks cover: of the producers, then of the consumers; `readers` as above.

    A leaf that stays as it is where it makes the units, for a norm mixes them, stays as a reader.
    """
    parts = [part for part in space.producers if part.masked]
    stay = {(p.leaf, p.units.shape) for p in space.producers if not p.masked}
    read = [c.slice for c in space.consumers if (c.slice.leaf, c.slice.units.shape) not in stay]
    return parts + [part for part in read if readers or part.masked]


def entries(part: Slice, mask: Array) -> Array:
    """Whether the unit of each entry of a slice is kept; an entry of no unit is."""
    library = np if isinstance(mask, np.ndarray) else jnp
    return library.concatenate([library.asarray(mask), library.ones(1, bool)])[part.units]


def _shape(graph: UnitGraph, leaves: Mapping[str, Any], name: str) -> tuple[int, ...]:
    choices.check("leaf of the variables", name, leaves)
    model = graph.trace.model
    traced = model.avals[model.leaves[name]].shape
    if leaves[name].shape != traced:
        raise ValueError(f"{name!r} has shape {leaves[name].shape}; it was traced with {traced}")
    return traced


def _prunable(graph: UnitGraph, name: str) -> UnitSpace:
    choices.check("unit space", name, [space.name for space in graph.spaces])
    space = graph[name]
    if not space.prunable:
        names = ", ".join(other.name for other in graph.prunable) or "none"
        raise ValueError(f"{name!r} is not prunable: {space.reason}; prunable: {names}")
    return space


def _check_scores(scores: UnitScores, graph: UnitGraph | None) -> None:
    if not scores:
        raise ValueError("there are no scores: no unit is prunable")
    for name, leaf in scores.items():
        size = "size" if graph is None else _prunable(graph, name).size
        if leaf.ndim != 1 or (graph is not None and leaf.shape != (size,)):
            raise ValueError(f"the scores of {name!r} have shape {leaf.shape}, not ({size},)")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"the scores of {name!r} are {leaf.dtype}; they must be floats")
        if not isinstance(leaf, jax.core.Tracer) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"the scores of {name!r} are not all finite")


def _requests(scores: UnitScores, wanted: Any, graph: UnitGraph | None) -> dict[str, Any]:
    """Space -> what is asked of it."""
    if not isinstance(wanted, Mapping):
        return dict.fromkeys(scores, wanted)
    found, asked = {}, {}
    for key, request in wanted.items():
        name = key if graph is None else _prunable(graph, graph[key].name).name
        if name not in scores:
            known = f"the scores cover {', '.join(scores)}"
            hint = "; to name layers, pass graph=" if graph is None else ""
            raise ValueError(f"there are no scores of {key!r}: {known}{hint}")
        if found.setdefault(name, request) != request:
            raise ValueError(
                f"{asked[name]!r} asks for {found[name]} and {key!r} for {request}, but they share "
                f"the units of {name!r}; ask for the same"
            )
        asked.setdefault(name, key)
    return found


def _number(kind: str, request: Any, size: int) -> int:
    """How many of `size` units a fraction or a count is."""
    try:
        number = fractions.Fraction("a text" if isinstance(request, str) else str(request))
    except ValueError as error:
        what = "a number in [0, 1)" if kind == "fraction" else "a whole number"
        raise ValueError(f"{kind} must be {what}, known outside jit, not {request!r}") from error
    if kind == "fraction":
        if not 0 <= number <= 1:
            nearest = 0.0 if number < 0 else (size - 1) / size
            raise ValueError(
                f"fraction is {request}; it is the share of units to remove, in [0, 1): the "
                f"nearest of {size} units is {nearest:g}"
            )
        return math.floor(number * size)
    if number < 0 or number.denominator != 1:
        raise ValueError(f"count is {request}; it must be a whole number, 0 or more")
    return int(number)


def _globally(scores: UnitScores, kind: str, wanted: Any, normalise: bool) -> dict[str, Array]:
    if isinstance(wanted, Mapping):
        raise ValueError(f"a {kind} for each space needs scope='layer'; 'global' takes one number")
    total = sum(leaf.shape[0] for leaf in scores.values())
    number, most = _number(kind, wanted, total), total - len(scores)
    if number > most:
        raise ValueError(
            f"{kind} {wanted} would remove {number} of {total} units; every one of the "
            f"{len(scores)} spaces keeps at least one: remove {most} or fewer"
        )
    if normalise:
        scores = {name: _normalised(leaf) for name, leaf in scores.items()}
    return _without_lowest({name: _last_protected(leaf) for name, leaf in scores.items()}, number)


def _normalised(scores: Array) -> Array:
    """The scores over their L2 norm; over the largest first, so that no square overflows."""
    scores = jnp.asarray(scores, jnp.promote_types(scores.dtype, jnp.float32))
    for norm in (jnp.inf, 2):
        size = jnp.linalg.norm(scores, norm)
        scores = scores / jnp.where(size > 0, size, 1)
    return scores


def _last_protected(scores: Array) -> Array:
    """The scores, infinite for the unit that would go last."""
    scores = jnp.asarray(scores)
    last = scores.shape[0] - 1 - jnp.argmax(scores[::-1])
    return scores.at[last].set(jnp.inf)


def _without_lowest(scores: UnitScores, number: int) -> dict[str, Array]:
    kept = selection.remove_lowest(list(scores.values()), [None] * len(scores), number)
    return dict(zip(scores, kept, strict=True))

"""What is asked of points, directions and coordinates; their leaves, flat in double precision."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import trees
from pruning_jax.curvature import averaging
from pruning_jax.types import Array, Params, PyTree

# Relative to the norms of the points and to the distance between them: what rounding to single
# precision leaves.
ROUNDING = 2e-7


def is_floating(leaf: object) -> bool:
    """Whether a leaf is an array of floats, which can be moved."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def flat(tree: PyTree) -> list[np.ndarray]:
    """The floating leaves in double precision, flat."""
    leaves = filter(is_floating, jax.tree.leaves(tree))
    return [np.asarray(leaf).astype(np.float64).ravel() for leaf in leaves]


def inner(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """The inner product of two lists of flat leaves."""
    return float(sum(np.dot(x, y) for x, y in zip(a, b, strict=True)))


def norm(leaves: list[np.ndarray]) -> float:
    """The Euclidean norm of a list of flat leaves."""
    return inner(leaves, leaves) ** 0.5


def check_key(key: object) -> None:
    """Checks that `key` is a random key.

    Raises:
      ValueError: it is none, or ``None``.
    """
    averaging.check_key(key)
    if key is None:
        raise ValueError("key is None; give a random key, as jax.random.key(0)")


def check_leaves(params: Params, whose: str) -> None:
    """Checks that leaves are arrays, and that one of them can be moved.

    Raises:
      ValueError: a Python float, or a leaf that is no number, such as a function; no floating leaf.
    """
    leaves = trees.named_leaves(params)
    for name, leaf in leaves.items():
        if isinstance(leaf, (float, complex)) and not hasattr(leaf, "dtype"):
            raise ValueError(f"leaf {name!r} of {whose} is {leaf!r}; make it an array to move it")
        known = hasattr(leaf, "dtype") and hasattr(leaf, "shape") and leaf.dtype != object
        if not known and not isinstance(leaf, int):
            raise ValueError(
                f"leaf {name!r} of {whose} is a {type(leaf).__name__}; leaves must be arrays: "
                "partition a model first, as equinox.partition(model, equinox.is_array), and "
                "combine it in apply_fn"
            )
    if not any(map(is_floating, leaves.values())):
        raise ValueError(f"{whose} has no floating leaf; there is nothing to move")


def check_points(points: dict[str, Params]) -> dict[str, list[np.ndarray]]:
    """The floating leaves of points, checked to be alike and finite.

    Raises:
      ValueError: leaves that `check_leaves` refuses, points of different structure or shapes, a
        leaf that is floating in one point only, values that are not finite.
    """
    for name, params in points.items():
        check_leaves(params, f"the {name} point")
    (name, first), *others = points.items()
    wanted = _described(first)
    for other, params in others:
        found = _described(params)
        for leaf in [*wanted, *found]:
            if wanted.get(leaf) != found.get(leaf):
                own, its = (kind.get(leaf, "absent") for kind in (wanted, found))
                raise ValueError(
                    f"leaf {leaf!r} is {own} in the {name} point and {its} in the {other}; points "
                    "must have one structure, equal shapes, and floats in the same leaves"
                )
        if jax.tree.structure(params) != jax.tree.structure(first):
            raise ValueError(
                f"the {name} point has the structure {jax.tree.structure(first)}, and the {other} "
                f"{jax.tree.structure(params)}; points must have one structure"
            )
    for name, params in points.items():
        for leaf, value in trees.named_leaves(params).items():
            if is_floating(value) and not bool(jnp.isfinite(value).all()):
                raise ValueError(f"leaf {leaf!r} of the {name} point is not all finite")
    return {name: flat(params) for name, params in points.items()}


def _described(params: Params) -> dict[str, str]:
    """The shape of every leaf by its name, and whether it is floating."""
    leaves = trees.named_leaves(params)
    return {
        name: f"{np.shape(leaf)}{'' if is_floating(leaf) else ', not floating,'}"
        for name, leaf in leaves.items()
    }


def check_apart(points: dict[str, list[np.ndarray]]) -> None:
    """Checks that no two points coincide, up to rounding.

    Raises:
      ValueError: two do.
    """
    for (a, first), (b, second) in itertools.combinations(points.items(), 2):
        distance = norm([x - y for x, y in zip(first, second, strict=True)])
        if distance <= ROUNDING * max(norm(first), norm(second)):
            raise ValueError(
                f"the {a} and the {b} point coincide (their distance is {distance:.3g}); give "
                "points that differ"
            )


def check_directions(origin: Params, directions: tuple[Params, ...]) -> None:
    """Checks that directions are like the origin, ``None`` in the place of what does not move.

    Raises:
      ValueError: there are none; another structure; a leaf of another shape, or no floats.
    """
    if not len(directions):
        raise ValueError("the plane has no direction; give one or two")
    leaves, wanted = _with_nones(origin)
    for number, direction in enumerate(directions):
        steps, structure = _with_nones(direction)
        if structure != wanted:
            raise ValueError(
                f"direction {number} has the structure {structure}, and the origin {wanted}; "
                "directions have that of the origin, None in the place of leaves that do not move"
            )
        for name, leaf in leaves.items():
            step, moves = steps[name], is_floating(leaf)
            same = is_floating(step) == moves and not (moves and step.shape != leaf.shape)
            if not same:
                rule = f"floats of shape {leaf.shape}, like the origin" if moves else "None"
                kind = getattr(step, "dtype", type(step).__name__)
                raise ValueError(
                    f"leaf {name!r} of direction {number} is {kind} of shape {np.shape(step)}; "
                    f"it must be {rule}"
                )


def _with_nones(tree: PyTree) -> tuple[dict[str, Any], Any]:
    """The leaves by name, ``None`` among them, and the structure that has them as leaves."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)
    return {trees.path_name(path): leaf for path, leaf in pairs}, structure


def check_positions(count: int, positions: Array) -> np.ndarray:
    """Coordinates on `count` directions as floats of shape (points, directions).

    Raises:
      ValueError: another shape, no points, or values that are not finite in JAX's precision.
    """
    found = np.asarray(positions, np.float64)
    if found.ndim != 2 or found.shape[1] != count or not len(found):
        raise ValueError(
            f"coordinates have shape {found.shape}; for {count} direction(s) of the plane they "
            f"must have shape (points, {count}), with at least one point"
        )
    if not np.isfinite(found).all():
        raise ValueError(f"the coordinates of point {_first(~np.isfinite(found))} are not finite")
    dtype = jnp.result_type(float)
    too_large = np.abs(found) > float(jnp.finfo(dtype).max)
    if too_large.any():
        at = _first(too_large)
        raise ValueError(f"the coordinates of point {at} are {found[at].tolist()}, beyond {dtype}")
    return found


def _first(wrong: np.ndarray) -> int:
    return int(np.argmax(wrong.any(1)))

"""Planes and straight paths through parameters: their points, and the coordinates of points."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import trees
from pruning_jax.types import Array, Params, PyTree

# Relative to the norms of the points and to the distance between them: what rounding to single
# precision leaves.
_ROUNDING = 2e-7
_COLLINEAR = 1e-6


class Plane(NamedTuple):
    """Points origin + sum_i c_i d_i with coordinates c.

    Attributes:
      origin: the point whose coordinates are zero.
      directions: one for a path, two for a plane: trees like `origin`, in single precision or
        better, with ``None`` where a leaf of `origin` is not floating and so does not move.
    """

    origin: Params
    directions: tuple[Params, ...]


def is_floating(leaf: object) -> bool:
    """Whether a leaf is an array of floats, which can be moved."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def plane(first: Params, second: Params, third: Params) -> Plane:
    """The plane through three points, with two directions of unit norm, orthogonal to each other.

        u = second - first,  v = third - first - <third - first, u> u / ||u||^2

    The first point has the coordinates (0, 0), the second (||u||, 0), and the third
    (<third - first, u> / ||u||, ||v||). Inner products are in double precision.

    Args:
      first, second, third: parameters of one structure. Leaves that are not floating do not move
        and are those of `first`.

    Raises:
      ValueError: points of different structure or shapes, or not finite; two points that coincide;
        three that lie on one line.

    Source: Garipov et al., arXiv 1802.10026.
    """
    points = _checked({"first": first, "second": second, "third": third})
    names = ("first", "second", "third")
    _check_apart({name: points[name] for name in names})
    u = [b - a for a, b in zip(points["first"], points["second"], strict=True)]
    w = [b - a for a, b in zip(points["first"], points["third"], strict=True)]
    along = inner(w, u) / inner(u, u)
    v = [b - along * a for a, b in zip(u, w, strict=True)]
    scale = max(norm(leaves) for leaves in points.values())
    if norm(v) <= _COLLINEAR * norm(w) + _ROUNDING * scale:
        raise ValueError(
            f"the three points lie on one line: the third is {norm(v):.3g} away from the line "
            f"through the others, at {along:.6g} of the way; give three that span a plane, or use "
            "`path` for a line"
        )
    directions = tuple(direction(first, [leaf / norm(d) for leaf in d]) for d in (u, v))
    return Plane(first, directions)


def path(first: Params, last: Params) -> Plane:
    """The straight path between two points: coordinate 0 is the first, and 1 the last.

    Args:
      first, last: parameters of one structure, as in `plane`.

    Raises:
      ValueError: points of different structure or shapes, or not finite; points that coincide.
    """
    points = _checked({"first": first, "last": last})
    _check_apart(points)
    between = [b - a for a, b in zip(points["first"], points["last"], strict=True)]
    return Plane(first, (direction(first, between),))


def moved(plane: Plane, position: Array) -> Params:
    """The point at a position whose values are not checked: for use inside ``jit``."""

    def leaf_at(leaf, *directions):
        if directions[0] is None:
            return leaf
        steps = (c * d for c, d in zip(position, directions, strict=True))
        return sum(steps, start=leaf.astype(directions[0].dtype)).astype(leaf.dtype)

    return jax.tree.map(leaf_at, plane.origin, *plane.directions)


def point(plane: Plane, coordinates: Array) -> Params:
    """The parameters at some coordinates, one for every direction of the plane.

    Raises:
      ValueError: another number of coordinates, or one that is not finite.
    """
    position = check_positions(plane, np.asarray(coordinates)[None])[0]
    return _moved(plane, position)


_moved = jax.jit(moved)


def coordinates(plane: Plane, params: Params) -> np.ndarray:
    """The coordinates of a point's projection onto a plane, by least squares in double precision.

        c = G^-1 (<d_i, params - origin>)_i,  G_ij = <d_i, d_j>

    Raises:
      ValueError: parameters unlike the origin, or not finite; directions that are zero or on one
        line.
    """
    points = _checked({"origin": plane.origin, "params": params})
    offset = [b - a for a, b in zip(points["origin"], points["params"], strict=True)]
    directions = [flat(direction) for direction in plane.directions]
    gram = np.array([[inner(a, b) for b in directions] for a in directions])
    norms = np.sqrt(np.diag(gram))
    if not norms.all() or np.linalg.cond(gram / np.outer(norms, norms)) > _COLLINEAR**-2:
        raise ValueError(
            f"the plane's directions have norms {norms.tolist()} and lie on one line or are zero; "
            "coordinates need directions that are independent"
        )
    return np.linalg.solve(gram, [inner(direction, offset) for direction in directions])


def grid(
    plane_points: np.ndarray, shape: tuple[int, int], margin: float = 0.25
) -> tuple[np.ndarray, np.ndarray]:
    """The axes of a grid that covers points of a plane.

    Args:
      plane_points: coordinates, shape (points, 2).
      shape: rows and columns, 2 or more of each.
      margin: what the grid adds on every side, as a share of what the points span on that axis (of
        the other axis where they span nothing).

    Returns:
      x, of the columns, and y, of the rows; both ascend.

    Raises:
      ValueError: no points, or points that coincide or are not pairs of finite numbers; a grid of
        less than 2 by 2; a margin below zero or, on an axis where the points span nothing, of zero.
    """
    found = np.asarray(plane_points, np.float64)
    if found.ndim != 2 or found.shape[1] != 2 or not len(found) or not np.isfinite(found).all():
        raise ValueError(
            f"plane_points has shape {found.shape}; it must be (points, 2), finite, with a point"
        )
    if len(shape) != 2 or any(not isinstance(n, (int, np.integer)) or n < 2 for n in shape):
        raise ValueError(f"shape is {shape}; it is (rows, columns), two integers of 2 or more")
    if not 0 <= margin < np.inf:
        raise ValueError(f"margin is {margin}; it must be a finite number, 0 or more")
    low, high = found.min(0), found.max(0)
    spans = np.where(high > low, high - low, (high - low).max())
    low, high = low - margin * spans, high + margin * spans
    if not (high > low).all():
        raise ValueError(
            f"the grid would have the size {(high - low).tolist()}; give points that span both "
            "axes, or two that do not coincide and a margin above zero"
        )
    rows, columns = shape
    return np.linspace(low[0], high[0], columns), np.linspace(low[1], high[1], rows)


def check_positions(plane: Plane, positions: Array) -> np.ndarray:
    """Coordinates as floats of shape (points, directions).

    Raises:
      ValueError: another shape, no points, or values that are not finite.
    """
    found = np.asarray(positions, np.float64)
    count = len(plane.directions)
    if found.ndim != 2 or found.shape[1] != count or not len(found):
        raise ValueError(
            f"coordinates have shape {found.shape}; for {count} direction(s) of the plane they "
            f"must have shape (points, {count}), with at least one point"
        )
    if not np.isfinite(found).all():
        raise ValueError(f"the coordinates of point {_first_not_finite(found)} are not finite")
    return found


def _first_not_finite(positions: np.ndarray) -> int:
    return int(np.argmin(np.isfinite(positions).all(1)))


def flat(tree: PyTree) -> list[np.ndarray]:
    """The floating leaves in double precision, flat."""
    leaves = filter(is_floating, jax.tree.leaves(tree))
    return [np.asarray(leaf).astype(np.float64).ravel() for leaf in leaves]


def inner(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """The inner product of two lists of flat leaves."""
    return float(sum(np.dot(x, y) for x, y in zip(a, b, strict=True)))


def norm(leaves: list[np.ndarray]) -> float:
    return inner(leaves, leaves) ** 0.5


def direction(like: Params, leaves: list[np.ndarray]) -> PyTree:
    """Flat floating leaves as a direction in the structure of `like`."""
    remaining = iter(leaves)

    def shaped(leaf):
        if not is_floating(leaf):
            return None
        dtype = jnp.promote_types(leaf.dtype, jnp.float32)
        return jnp.asarray(next(remaining).reshape(leaf.shape), dtype)

    return jax.tree.map(shaped, like)


def _checked(points: dict[str, Params]) -> dict[str, list[np.ndarray]]:
    """The floating leaves of points, checked to be alike and finite."""
    (name, first), *others = points.items()
    wanted = {n: np.shape(leaf) for n, leaf in trees.named_leaves(first).items()}
    for other, params in others:
        found = {n: np.shape(leaf) for n, leaf in trees.named_leaves(params).items()}
        for leaf in wanted.keys() | found.keys():
            if wanted.get(leaf) != found.get(leaf):
                shapes = [shape.get(leaf, "absent") for shape in (wanted, found)]
                raise ValueError(
                    f"leaf {leaf!r} is {shapes[0]} in the {name} point and {shapes[1]} in the "
                    f"{other}; points must have one structure and equal shapes"
                )
    for name, params in points.items():
        for leaf, value in trees.named_leaves(params).items():
            if is_floating(value) and not bool(jnp.isfinite(value).all()):
                raise ValueError(f"leaf {leaf!r} of the {name} point is not all finite")
    return {name: flat(params) for name, params in points.items()}


def _check_apart(points: dict[str, list[np.ndarray]]) -> None:
    for (a, first), (b, second) in itertools.combinations(points.items(), 2):
        distance = norm([x - y for x, y in zip(first, second, strict=True)])
        if distance <= _ROUNDING * max(norm(first), norm(second)):
            raise ValueError(
                f"the {a} and the {b} point coincide (their distance is {distance:.3g}); give "
                "points that differ"
            )

"""Planes and straight paths through parameters: their points, and the coordinates of points."""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax.analysis.landscape import checking
from pruning_jax.types import Array, Params, PyTree

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


def plane(first: Params, second: Params, third: Params) -> Plane:
    """The plane through three points, with two directions of unit norm, orthogonal to each other.

        u = second - first,  v = third - first - <third - first, u> u / ||u||^2

    The first point has the coordinates (0, 0), the second (||u||, 0), and the third
    (<third - first, u> / ||u||, ||v||). Inner products are in double precision.

    Args:
      first, second, third: parameters of one structure. Leaves that are not floating do not move
        and are those of `first`.

    Raises:
      ValueError: points of different structure or shapes, or not finite; leaves that are no
        arrays, or none that is floating; two points that coincide; three that lie on one line.

    Source: Garipov et al., arXiv 1802.10026.
    """
    points = checking.check_points({"first": first, "second": second, "third": third})
    names = ("first", "second", "third")
    checking.check_apart({name: points[name] for name in names})
    u = [b - a for a, b in zip(points["first"], points["second"], strict=True)]
    w = [b - a for a, b in zip(points["first"], points["third"], strict=True)]
    along = checking.inner(w, u) / checking.inner(u, u)
    v = [b - along * a for a, b in zip(u, w, strict=True)]
    scale = max(checking.norm(leaves) for leaves in points.values())
    if checking.norm(v) <= _COLLINEAR * checking.norm(w) + checking.ROUNDING * scale:
        raise ValueError(
            f"the three points lie on one line: the third is {checking.norm(v):.3g} away from the "
            f"line through the others, at {along:.6g} of the way; give three that span a plane, or "
            "use `path` for a line"
        )
    directions = tuple(direction(first, [leaf / checking.norm(d) for leaf in d]) for d in (u, v))
    return Plane(first, directions)


def path(first: Params, last: Params) -> Plane:
    """The straight path between two points: coordinate 0 is the first, and 1 the last.

    Args:
      first, last: parameters of one structure, as in `plane`.

    Raises:
      ValueError: points of different structure or shapes, or not finite; leaves that are no
        arrays, or none that is floating; points that coincide.
    """
    points = checking.check_points({"first": first, "last": last})
    checking.check_apart(points)
    between = [b - a for a, b in zip(points["first"], points["last"], strict=True)]
    return Plane(first, (direction(first, between),))


def moved(plane: Plane, position: Array) -> Params:
    """The point at a position whose values are not checked: for use inside ``jit``."""

    def leaf_at(leaf, *directions):
        if directions[0] is None or not checking.is_floating(leaf):
            return leaf
        steps = (c * d for c, d in zip(position, directions, strict=True))
        return sum(steps, start=leaf.astype(directions[0].dtype)).astype(leaf.dtype)

    return jax.tree.map(leaf_at, plane.origin, *plane.directions)


def point(plane: Plane, coordinates: Array) -> Params:
    """The parameters at some coordinates, one for every direction of the plane.

    Raises:
      ValueError: another number of coordinates, or one that is not finite in JAX's precision;
        directions unlike the origin.
    """
    checking.check_directions(plane.origin, plane.directions)
    position = checking.check_positions(len(plane.directions), np.asarray(coordinates)[None])[0]
    return _moved(plane, position)


_moved = jax.jit(moved)


def coordinates(plane: Plane, params: Params) -> np.ndarray:
    """The coordinates of a point's projection onto a plane, by least squares in double precision.

        c = G^-1 (<d_i, params - origin>)_i,  G_ij = <d_i, d_j>

    Raises:
      ValueError: parameters or directions unlike the origin, or not finite; directions that are
        zero or on one line.
    """
    checking.check_directions(plane.origin, plane.directions)
    points = checking.check_points({"origin": plane.origin, "params": params})
    offset = [b - a for a, b in zip(points["origin"], points["params"], strict=True)]
    directions = [checking.flat(direction) for direction in plane.directions]
    gram = np.array([[checking.inner(a, b) for b in directions] for a in directions])
    norms = np.sqrt(np.diag(gram))
    if not np.isfinite(gram).all():
        raise ValueError(f"the plane's directions have norms {norms.tolist()}; they must be finite")
    if not norms.all() or np.linalg.cond(gram / np.outer(norms, norms)) > _COLLINEAR**-2:
        raise ValueError(
            f"the plane's directions have norms {norms.tolist()} and lie on one line or are zero; "
            "coordinates need directions that are independent"
        )
    return np.linalg.solve(gram, [checking.inner(direction, offset) for direction in directions])


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
    try:
        rows, columns = map(operator.index, shape)
    except (TypeError, ValueError):
        rows, columns = 0, 0
    if min(rows, columns) < 2:
        raise ValueError(f"shape is {shape}; it is (rows, columns), two integers of 2 or more")
    if not isinstance(margin, (int, float, np.number)) or not 0 <= margin < np.inf:
        raise ValueError(f"margin is {margin!r}; it must be a finite number, 0 or more")
    low, high = found.min(0), found.max(0)
    spans = np.where(high > low, high - low, (high - low).max())
    low, high = low - margin * spans, high + margin * spans
    if not (high > low).all():
        raise ValueError(
            f"the grid would have the size {(high - low).tolist()}; give points that span both "
            "axes, or two that do not coincide and a margin above zero"
        )
    return np.linspace(low[0], high[0], columns), np.linspace(low[1], high[1], rows)


def direction(like: Params, leaves: list[np.ndarray]) -> PyTree:
    """Flat floating leaves as a direction in the structure of `like`."""
    remaining = iter(leaves)

    def shaped(leaf):
        if not checking.is_floating(leaf):
            return None
        dtype = jax.dtypes.canonicalize_dtype(jnp.promote_types(leaf.dtype, jnp.float32))
        return jnp.asarray(next(remaining).reshape(leaf.shape), dtype)

    return jax.tree.map(shaped, like)

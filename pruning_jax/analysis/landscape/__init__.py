"""The loss surface: planes and paths through parameters, and what a model does along them."""

from pruning_jax.analysis.landscape.directions import eigenvectors, random_directions
from pruning_jax.analysis.landscape.planes import Plane, coordinates, grid, path, plane, point
from pruning_jax.analysis.landscape.surfaces import barrier, evaluate

__all__ = [
    "Plane",
    "barrier",
    "coordinates",
    "eigenvectors",
    "evaluate",
    "grid",
    "path",
    "plane",
    "point",
    "random_directions",
]

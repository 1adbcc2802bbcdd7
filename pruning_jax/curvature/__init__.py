"""Derivatives of the mean loss, and statistics of units: what is estimated from data."""

from pruning_jax.curvature.derivatives import gradient, hessian_vector_product
from pruning_jax.curvature.ggn import ggn_diagonal, gradient_and_ggn
from pruning_jax.curvature.moments import input_moments
from pruning_jax.curvature.unit_statistics import UnitStatistics, unit_means, unit_statistics

__all__ = [
    "UnitStatistics",
    "ggn_diagonal",
    "gradient",
    "gradient_and_ggn",
    "hessian_vector_product",
    "input_moments",
    "unit_means",
    "unit_statistics",
]

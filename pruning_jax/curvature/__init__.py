"""Gradients and curvature of the mean loss: what is estimated from data."""

from pruning_jax.curvature.derivatives import gradient, hessian_vector_product
from pruning_jax.curvature.ggn import ggn_diagonal

__all__ = ["ggn_diagonal", "gradient", "hessian_vector_product"]

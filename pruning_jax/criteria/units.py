"""Criteria for units: how much harm the removal of each is expected to do.

Each is for one space of units at a time. Its parameters are named after what it needs, and it
returns scores of shape (size,), the lowest of which go first:

    kernel       (size, fan_in)    the incoming weights of each unit; of several layers that
                                   produce the units, as in a residual stream, side by side
    scale        (size,)           the scale of the norm that follows the layer; of several norms
                                   the mean of their absolute values
    removal      (examples, size)  mean_p(-a dl/da), of `curvature.unit_statistics`
    replacement  (examples, size)  mean_p((abar - a) dl/da), of the same
    mean_square  (size,)           E_x mean_p(a^2), of the same
    zeros        (size,)           the share of a <= 0, of the same
    key          a random key

with a the activation, abar its mean over examples x and positions p, l the loss of one example.
The first-order criteria are those of *Mean Replacement Pruning* (Evci et al. 2018, submitted to
ICLR 2019), in which the unit is replaced by zero (RS) or by its mean (MRS).
"""

import jax
import jax.numpy as jnp

from pruning_jax.types import Array


def random(kernel: Array, key: Array) -> Array:
    """Scores uniformly at random, a control (RAND).

    s ~ U[0, 1)

    Args:
      kernel: the incoming weights, shape (size, fan_in); the size alone matters.
      key: a random key.

    Returns:
      The scores, shape (size,).

    >>> pj.criteria.units.random(jnp.ones((3, 5)), jax.random.key(0)).shape
    (3,)

    Source: *Mean Replacement Pruning*, section 4.
    """
    return jax.random.uniform(key, kernel.shape[:1])


def weight_norm(kernel: Array) -> Array:
    """Scores by the L2 norm of the incoming weights (NORM).

    s_j = ||w_j||_2

    Args:
      kernel: the incoming weights, shape (size, fan_in).

    Returns:
      The scores, shape (size,).

    >>> pj.criteria.units.weight_norm(jnp.array([[3.0, 4.0], [0.0, -1.0]])).tolist()
    [5.0, 1.0]

    Source: *Mean Replacement Pruning*, section 4; its authors' code divides the square by fan_in,
      which leaves the order within a layer.
    """
    return jnp.sqrt(jnp.sum(kernel**2, axis=1))


def weight_norm_l1(kernel: Array) -> Array:
    """Scores by the L1 norm of the incoming weights.

    s_j = ||w_j||_1

    Args:
      kernel: the incoming weights, shape (size, fan_in).

    Returns:
      The scores, shape (size,).

    >>> pj.criteria.units.weight_norm_l1(jnp.array([[3.0, 4.0], [0.0, -1.0]])).tolist()
    [7.0, 1.0]

    Source: Li et al. 2017, *Pruning Filters for Efficient ConvNets*, section 3.1.
    """
    return jnp.sum(jnp.abs(kernel), axis=1)


def rs(removal: Array) -> Array:
    """Scores by the first-order change in loss when the unit is removed (RS).

    s_j = E_x mean_p(-a_j dl/da_j)

    Args:
      removal: mean_p(-a dl/da), shape (examples, size).

    Returns:
      The scores, shape (size,).

    >>> pj.criteria.units.rs(jnp.array([[1.0, -2.0], [3.0, 2.0]])).tolist()
    [2.0, 0.0]

    Source: *Mean Replacement Pruning*, section 3.
    """
    return jnp.mean(removal, axis=0)


def mrs(replacement: Array) -> Array:
    """Scores by the first-order change in loss when the unit is replaced by its mean (MRS).

    s_j = E_x mean_p((abar_j - a_j) dl/da_j)

    Args:
      replacement: mean_p((abar - a) dl/da), shape (examples, size).

    Returns:
      The scores, shape (size,).

    >>> pj.criteria.units.mrs(jnp.array([[1.0, -2.0], [3.0, 2.0]])).tolist()
    [2.0, 0.0]

    Source: *Mean Replacement Pruning*, section 3.
    """
    return jnp.mean(replacement, axis=0)


def abs_rs(removal: Array) -> Array:
    """Scores by the size of each example's first-order change when the unit is removed (ABS_RS).

    s_j = E_x |mean_p(-a_j dl/da_j)|

    Args:
      removal: mean_p(-a dl/da), shape (examples, size).

    Returns:
      The scores, shape (size,).

    >>> pj.criteria.units.abs_rs(jnp.array([[1.0, -2.0], [3.0, 2.0]])).tolist()
    [2.0, 2.0]

    Source: *Mean Replacement Pruning*, section 3; after Molchanov et al. 2017, equation 8.
    """
    return jnp.mean(jnp.abs(removal), axis=0)


def abs_mrs(replacement: Array) -> Array:
    """Scores by the size of each example's first-order change with mean replacement (ABS_MRS).

    s_j = E_x |mean_p((abar_j - a_j) dl/da_j)|

    Args:
      replacement: mean_p((abar - a) dl/da), shape (examples, size).

    Returns:
      The scores, shape (size,).

    >>> pj.criteria.units.abs_mrs(jnp.array([[1.0, -2.0], [3.0, 2.0]])).tolist()
    [2.0, 2.0]

    Source: *Mean Replacement Pruning*, section 3.
    """
    return jnp.mean(jnp.abs(replacement), axis=0)


def activation_norm(mean_square: Array) -> Array:
    """Scores by the root mean square of the activation.

    s_j = sqrt(E_x mean_p(a_j^2))

    Args:
      mean_square: E_x mean_p(a^2), shape (size,).

    Returns:
      The scores, shape (size,).

    >>> pj.criteria.units.activation_norm(jnp.array([4.0, 0.25])).tolist()
    [2.0, 0.5]

    Source: the activation criteria of Molchanov et al. 2017, section 2.2, with the L2 norm.
    """
    return jnp.sqrt(mean_square)


def average_percentage_of_zeros(zeros: Array) -> Array:
    """Scores by how often the activation is positive: the most zeros go first (APoZ).

    s_j = 1 - E_x mean_p [a_j <= 0]

    Args:
      zeros: the share of a <= 0, shape (size,); after ReLU, of the zeros.

    Returns:
      The scores, shape (size,).

    >>> pj.criteria.units.average_percentage_of_zeros(jnp.array([0.25, 1.0])).tolist()
    [0.75, 0.0]

    Source: Hu et al. 2016, *Network Trimming*, equation 1.
    """
    return 1 - zeros


def batch_norm_scale(scale: Array) -> Array:
    """Scores by the magnitude of the scale of the norm that follows the layer.

    s_j = |gamma_j|, of several norms, as of a residual stream, their mean

    Args:
      scale: gamma, shape (size,).

    Returns:
      The scores, shape (size,).

    >>> pj.criteria.units.batch_norm_scale(jnp.array([-2.0, 0.5])).tolist()
    [2.0, 0.5]

    Source: Liu et al. 2017, *Network Slimming*, section 3.
    """
    return jnp.abs(scale)

"""Performance profiles: how often a method comes near the best on many settings."""

import numpy as np
from numpy.typing import ArrayLike


def advantages(costs: ArrayLike) -> np.ndarray:
    """How far each method lies from a setting's worst, towards its best.

    r_ij = (max_k d_kj - d_ij) / (max_k d_kj - min_k d_kj)

    Args:
      costs: d, shape (methods, settings); lower is better.

    Returns:
      r, in [0, 1], without the settings where all methods cost the same; shape (methods, kept).

    Raises:
      ValueError: no costs, costs that are not finite, or no setting where methods differ.
    """
    d = np.asarray(costs, dtype=float)
    if d.ndim != 2 or not d.size:
        raise ValueError(f"costs has shape {d.shape}; it must be (methods, settings), not empty")
    if not np.isfinite(d).all():
        method, setting = np.argwhere(~np.isfinite(d))[0]
        raise ValueError(f"costs[{method}, {setting}] is {d[method, setting]}; mend that run first")
    worst, best = d.max(axis=0), d.min(axis=0)
    apart = worst > best
    if not apart.any():
        raise ValueError(f"methods differ in none of {d.shape[1]} settings, so none comes nearer")
    return ((worst - d) / np.where(apart, worst - best, 1.0))[:, apart]


def profile(costs: ArrayLike, taus: ArrayLike) -> np.ndarray:
    """The share of settings in which each method costs less than a threshold.

    P_i(tau) = #{j : d_ij < t_j} / #{j}, t_j = tau min_k d_kj + (1 - tau) max_k d_kj

    d_ij < t_j says that `advantages` exceeds tau, which is how it is counted here.

    Args:
      costs: d, shape (methods, settings); lower is better.
      taus: shape (points,), each in [0, 1]: 0 asks for less than the worst, 1 for the best.

    Returns:
      P, shape (methods, points).

    Raises:
      ValueError: as `advantages` does.

    Source: S4, section 4.3; after Dolan and More (2002).
    """
    ahead = advantages(costs)
    return (ahead[:, None, :] > np.asarray(taus, dtype=float)[:, None]).mean(axis=-1)


def areas(costs: ArrayLike) -> np.ndarray:
    """The exact area under each method's profile, tau from 0 to 1.

    The integral of [r_ij > tau] over tau is r_ij, so the area is the mean of r_ij over settings.

    Args:
      costs: d, shape (methods, settings); lower is better.

    Returns:
      Areas in [0, 1], shape (methods,).

    Raises:
      ValueError: as `advantages` does.
    """
    return advantages(costs).mean(axis=1)

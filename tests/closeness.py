"""How close floating-point values have to be, by their scale and their precision.

Two programs that compute the same values need not give the same bits: the order of a sum depends
on the size of the batch, the number of threads and the processor. Bits are compared only where the
same program runs twice, or where values are copied.

A step of float32 is EPS of a value, and rounding is off by half a step. A sum of n terms is rounded
n times, so it is off by about sqrt(n) / 2 steps of its largest partial sum. Where terms cancel, the
sum is small and its error is not: an error is measured by the largest value of its array, or by
the terms, and never by a number in fixed units.

    ROUNDING   32 steps: sums of some hundred terms, 5 steps each, two or three in turn; twice that
    NETWORK    256 steps: forwards and backwards through a network, or some twenty small steps of
               training. A network of 18 layers was off by 67 on one processor: some four times that
"""

import jax
import numpy as np

EPS = float(np.finfo(np.float32).eps)  # 1.2e-7
ROUNDING = 32 * EPS  # 4e-6
NETWORK = 256 * EPS  # 3e-5


def largest(*trees) -> float:
    """The largest magnitude in some trees."""
    leaves = jax.tree.leaves(trees)
    return max(float(np.abs(np.asarray(leaf, np.float64)).max(initial=0)) for leaf in leaves)


def assert_same(found, expected):
    """Asserts that two trees of arrays are equal to the bit."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found, expected, bound, scale=None):
    """Asserts that two trees of arrays differ by at most `bound * scale` anywhere.

    Args:
      found: an array or a tree of arrays.
      expected: another of the same structure and shapes.
      bound: ROUNDING or NETWORK; another one says why where it is given.
      scale: the largest magnitude that entered the values, where they are differences of larger
        ones; by default that of each array of `expected`.
    """
    leaves, structure = jax.tree.flatten_with_path(expected)
    assert jax.tree.structure(found) == structure, "the trees differ in structure"
    for (path, wanted), got in zip(leaves, jax.tree.leaves(found), strict=True):
        name = jax.tree_util.keystr(path)
        wanted, got = (np.asarray(each, np.float64) for each in (wanted, got))
        assert got.shape == wanted.shape, f"{name} has shape {got.shape}, not {wanted.shape}"
        with np.errstate(invalid="ignore"):  # what is not finite gives NaN, which nothing exceeds
            error = np.abs(got - wanted).max(initial=0)
        allowed = bound * (largest(wanted) if scale is None else scale)
        assert error <= allowed, f"{name} is off by {error:.2e}, over {allowed:.2e}"

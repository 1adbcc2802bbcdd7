"""What a task may add to its loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import trees
from pruning_jax.types import Array, Params


class ScaleL1(NamedTuple):
    """An L1 penalty on some leaves: strength sum |gamma|, for sparsity of norm scales.

    Attributes:
      names: of the leaves among the parameters, such as ``"BatchNorm_0/scale"``.
      strength: of the penalty, not negative; 1e-4 for VGG and 1e-5 for ResNets in the source.

    Source: Liu et al. 2017, *Network Slimming*, equation 1.
    """

    names: tuple[str, ...]
    strength: float

    def __call__(self, params: Params) -> Array:
        """Returns the penalty at `params`.

        Raises:
          ValueError: no names, or one that is no leaf; a strength that is negative or not finite.
        """
        if not isinstance(self.names, tuple) or not self.names:
            raise ValueError(f"names are {self.names!r}; give a tuple with one name or more")
        if not 0 <= self.strength < np.inf:
            raise ValueError(f"strength is {self.strength}; it must be finite and not negative")
        scales = jax.tree.leaves(trees.select(params, self.names))
        return self.strength * sum(jnp.abs(scale).sum() for scale in scales)

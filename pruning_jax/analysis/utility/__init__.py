"""Utility: how far a network's outputs move when some of its weights are ablated.

An ablation is a tree of masks, like the masks of a pruned network: False where a weight is zero for
the measurement, True elsewhere, ``None`` in the place of a leaf that holds no such weights.
"""

from pruning_jax.analysis.utility.ablations import magnitude_bands as magnitude_bands
from pruning_jax.analysis.utility.ablations import random_subsets as random_subsets
from pruning_jax.analysis.utility.divergence import divergences as divergences
from pruning_jax.analysis.utility.measuring import Summary as Summary
from pruning_jax.analysis.utility.measuring import Utilities as Utilities
from pruning_jax.analysis.utility.measuring import measure as measure
from pruning_jax.analysis.utility.measuring import summary as summary

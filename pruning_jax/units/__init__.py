"""Units: neurons, channels and filters, found in any JAX model, masked and counted."""

from pruning_jax.units.compact import Compact as Compact
from pruning_jax.units.compact import compact as compact
from pruning_jax.units.counts import Count as Count
from pruning_jax.units.counts import Counts as Counts
from pruning_jax.units.counts import counts as counts
from pruning_jax.units.graph import graph as graph
from pruning_jax.units.masks import SCOPES as SCOPES
from pruning_jax.units.masks import UnitMasks as UnitMasks
from pruning_jax.units.masks import UnitScores as UnitScores
from pruning_jax.units.masks import apply_masks as apply_masks
from pruning_jax.units.masks import check_masks as check_masks
from pruning_jax.units.masks import from_scores as from_scores
from pruning_jax.units.masks import parameter_masks as parameter_masks
from pruning_jax.units.spaces import Consumer as Consumer
from pruning_jax.units.spaces import Edge as Edge
from pruning_jax.units.spaces import Reading as Reading
from pruning_jax.units.spaces import Slice as Slice
from pruning_jax.units.spaces import UnitGraph as UnitGraph
from pruning_jax.units.spaces import UnitSpace as UnitSpace
from pruning_jax.units.spaces import edges as edges

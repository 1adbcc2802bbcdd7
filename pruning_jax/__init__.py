"""Neural-network pruning in JAX, of any model: ``import pruning_jax as pj``.

What is done to a whole network is here: `trace`, `prune`, `compact`, `save`, `load`, `export`. What
that is made of is in rooms: scores in `criteria`, what they need of the data in `curvature` and
`losses`, what is kept in `masks`, neurons, channels and filters in `units`, means in their place in
`replacement`, sparsity over stages in `schedules`.

Examples in docstrings suppose ``import jax``, ``import jax.numpy as jnp`` and this. Importing it
takes JAX and NumPy; SciPy and optax are imported where they are used. Running studies, in the rooms
that are not listed here, needs the packages of the extra ``lab``.
"""

from pruning_jax import criteria as criteria
from pruning_jax import curvature as curvature
from pruning_jax import losses as losses
from pruning_jax import masks as masks
from pruning_jax import methods as methods
from pruning_jax import replacement as replacement
from pruning_jax import schedules as schedules
from pruning_jax import units as units
from pruning_jax.exporting import export as export
from pruning_jax.pruning import prune as prune
from pruning_jax.saving import load as load
from pruning_jax.saving import save as save
from pruning_jax.tracing import trace as trace
from pruning_jax.types import Batch as Batch
from pruning_jax.units import compact as compact

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "__version__",
    "compact",
    "criteria",
    "curvature",
    "export",
    "load",
    "losses",
    "masks",
    "methods",
    "prune",
    "replacement",
    "save",
    "schedules",
    "trace",
    "units",
]

"""Results -> matplotlib figures. A figure draws what rows there are, and leaves out the rest.

A row is a line of ``results.jsonl``; a figure is a `matplotlib.figure.Figure`, bound to no display.
"""

import matplotlib

from pruning_jax.figures.claims import Effect, forest
from pruning_jax.figures.comparison import accuracy_by_sparsity
from pruning_jax.figures.loss_modelling import loss_modelling
from pruning_jax.figures.mean_replacement import mean_replacement
from pruning_jax.figures.planes import contours, profiles, surface
from pruning_jax.figures.plots import Sweep, curves, density, histogram
from pruning_jax.figures.pruning_mechanism import pruning_mechanism
from pruning_jax.figures.unit_graph import unit_graph

matplotlib.rcParams["svg.hashsalt"] = "pruning_jax"  # the same figure is the same file

__all__ = [
    "Effect",
    "Sweep",
    "accuracy_by_sparsity",
    "contours",
    "curves",
    "density",
    "forest",
    "histogram",
    "loss_modelling",
    "mean_replacement",
    "profiles",
    "pruning_mechanism",
    "surface",
    "unit_graph",
]

"""Removed units replaced by their means, which are folded into the biases of what follows.

With batch normalisation this holds in evaluation mode, where the running mean is subtracted. In
training mode the batch's own mean is, and any shift of a layer's output before it cancels: an
advantage of replacement measured in training mode behind such a layer is no advantage.
"""

from pruning_jax.replacement.folding import Folded as Folded
from pruning_jax.replacement.folding import bias_shifts as bias_shifts
from pruning_jax.replacement.folding import fold_means as fold_means
from pruning_jax.replacement.folding import shifted as shifted
from pruning_jax.replacement.responses import responses as responses

__all__ = ["Folded", "fold_means", "responses"]

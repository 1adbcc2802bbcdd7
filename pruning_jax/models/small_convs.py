"""The small and the medium convolutional network of mean replacement pruning."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pruning_jax import choices
from pruning_jax.models.layers import (
    ACTIVATIONS,
    INITIALISATIONS,
    check_widths,
    flatten,
    max_pool,
    norm_layer,
    numbers,
)
from pruning_jax.types import Array

_KERNELS = (5, 3, 3)
_PADDINGS = ("VALID", "SAME")


class SmallConv(nn.Module):
    """Small Conv of Evci et al. 2019 (S4), as in the authors' code.

    Three convolutions of 5x5, 3x3 and 3x3, each followed by normalisation (if asked), activation
    and 2x2 max pooling; two hidden dense layers; the output layer. With VALID padding and ten
    classes: 226,186 parameters at 28x28x1, 424,394 at 32x32x3. Kernels start Glorot-uniform and
    biases at zero, the defaults of the authors' library. With batch normalisation, layers keep
    their biases and the hidden dense layers are normalised too, as in the authors' code; scale and
    shift are learnt here, where the authors' default leaves them out.

    Attributes:
      classes: width of the output.
      widths: channels of the three convolutions, then units of the hidden dense layers.
      padding: `VALID` or `SAME`, of the convolutions.
      batch_norm: whether to normalise between layer and activation.
      activation: name in `ACTIVATIONS`.
      initialisation: name in `INITIALISATIONS`, for every kernel.
      dtype: of the parameters and of the arithmetic.
    """

    classes: int
    widths: tuple[int, ...] = (32, 64, 128, 512, 128)
    padding: str = "VALID"
    batch_norm: bool = False
    activation: str = "relu"
    initialisation: str = "glorot_uniform"
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_widths(self.widths, len(_KERNELS) + 2)
        choices.check("padding", self.padding, _PADDINGS)
        choices.check("activation", self.activation, ACTIVATIONS)
        choices.check("initialisation", self.initialisation, INITIALISATIONS)
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Returns the logits, shape (examples, classes)."""
        kernel_init = INITIALISATIONS[self.initialisation]
        layer = {"kernel_init": kernel_init, **numbers(self.dtype)}
        conv = functools.partial(nn.Conv, padding=self.padding, **layer)
        norm = norm_layer(train, self.dtype)

        def activated(outputs: Array) -> Array:
            return ACTIVATIONS[self.activation](norm()(outputs) if self.batch_norm else outputs)

        hidden = jnp.asarray(inputs, self.dtype)
        channels, units = self.widths[: len(_KERNELS)], self.widths[len(_KERNELS) :]
        for width, size in zip(channels, _KERNELS, strict=True):
            hidden = max_pool(activated(conv(width, (size, size))(hidden)))
        hidden = flatten(hidden, self.dtype)
        for width in units:
            hidden = activated(nn.Dense(width, **layer)(hidden))
        return nn.Dense(self.classes, **layer)(hidden)


class MediumConv(SmallConv):
    """Medium Conv of Evci et al. 2019 (S4), as in the authors' code: twice the widths.

    With VALID padding and ten classes: 1,688,458 parameters at 32x32x3.
    """

    widths: tuple[int, ...] = (64, 128, 256, 1024, 256)

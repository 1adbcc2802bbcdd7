"""AlexNet, in one tower."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pruning_jax.models.layers import INITIALISATIONS, check_widths, flatten, numbers
from pruning_jax.types import Array

_CONVOLUTIONS = (((11, 11), 4, 2), ((5, 5), 1, 2), ((3, 3), 1, 1), ((3, 3), 1, 1), ((3, 3), 1, 1))
"""Kernel, stride and padding of each convolution."""
_POOLED = (True, True, False, False, True)
_SMALLEST = 63


class AlexNet(nn.Module):
    """AlexNet of Krizhevsky et al. 2012, in one tower.

    Five convolutions with ReLU, the first of stride 4; overlapping 3x3 max pooling of stride 2
    after the first, second and fifth; two hidden dense layers and the output layer. With a thousand
    classes at 224x224x3: 62,378,344 parameters. The image's size is free from 63 pixels on: at
    64x64 one pixel is left after the last pooling. As in later single-tower versions there are no
    groups and no local response normalisation; there is no dropout either.

    Attributes:
      classes: width of the output.
      widths: channels of the five convolutions, then units of the two hidden dense layers.
      dtype: of the parameters and of the arithmetic.
    """

    classes: int
    widths: tuple[int, ...] = (96, 256, 384, 384, 256, 4096, 4096)
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_widths(self.widths, len(_CONVOLUTIONS) + 2)
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Returns the logits, shape (examples, classes)."""
        height, width = inputs.shape[1:3]
        if min(height, width) < _SMALLEST:
            raise ValueError(
                f"images are {height}x{width}; AlexNet needs {_SMALLEST} pixels a side or more"
            )
        layer = {"kernel_init": INITIALISATIONS["kaiming_normal"], **numbers(self.dtype)}
        hidden = jnp.asarray(inputs, self.dtype)
        channels, units = self.widths[: len(_CONVOLUTIONS)], self.widths[len(_CONVOLUTIONS) :]
        for outputs, (kernel, stride, padding), pooled in zip(
            channels, _CONVOLUTIONS, _POOLED, strict=True
        ):
            conv = functools.partial(nn.Conv, strides=stride, padding=padding, **layer)
            hidden = nn.relu(conv(outputs, kernel)(hidden))
            hidden = nn.max_pool(hidden, (3, 3), (2, 2)) if pooled else hidden
        hidden = flatten(hidden, self.dtype)
        for outputs in units:
            hidden = nn.relu(nn.Dense(outputs, **layer)(hidden))
        return nn.Dense(self.classes, **layer)(hidden)

"""VGG-11 for small images."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pruning_jax.models.layers import (
    INITIALISATIONS,
    check_widths,
    classifier,
    conv3x3,
    flatten,
    max_pool,
    norm_layer,
    numbers,
)
from pruning_jax.types import Array

_POOLED = (True, True, False, True, False, True, False, True)


class VGG11(nn.Module):
    """VGG-11 (Simonyan and Zisserman 2015, configuration A) as used on CIFAR-10.

    Eight 3x3 convolutions with bias, batch normalisation (unless refused) and ReLU; 2x2 max pooling
    after the first, second, fourth, sixth and eighth; one dense layer. With ten classes at 32x32x3:
    9,231,114 parameters, 9,225,610 without batch normalisation. Laurent et al. 2020 (S3) name VGG11
    and draw its kernels Kaiming-normal, as here; that their network has this batch normalisation
    and this single dense layer is our choice.

    Attributes:
      classes: width of the output.
      widths: channels of the eight convolutions.
      batch_norm: whether to normalise between convolution and activation.
      hidden: units of dense layers with ReLU before the output layer; by default there is none.
      dtype: of the parameters and of the arithmetic.
    """

    classes: int
    widths: tuple[int, ...] = (64, 128, 256, 256, 512, 512, 512, 512)
    batch_norm: bool = True
    hidden: tuple[int, ...] = ()
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_widths(self.widths, len(_POOLED))
        check_widths(self.hidden)
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Returns the logits, shape (examples, classes); images are 32x32 or larger."""
        conv, norm = conv3x3(self.dtype), norm_layer(train, self.dtype)
        hidden = jnp.asarray(inputs, self.dtype)
        for width, pooled in zip(self.widths, _POOLED, strict=True):
            hidden = conv(width)(hidden)
            hidden = nn.relu(norm()(hidden) if self.batch_norm else hidden)
            hidden = max_pool(hidden) if pooled else hidden
        hidden = flatten(hidden, self.dtype)
        kernel_init = INITIALISATIONS["kaiming_normal"]
        for width in self.hidden:
            dense = nn.Dense(width, kernel_init=kernel_init, **numbers(self.dtype))
            hidden = nn.relu(dense(hidden))
        return classifier(self.classes, self.dtype)(hidden)

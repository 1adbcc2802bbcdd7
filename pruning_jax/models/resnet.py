"""Residual networks for small images."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pruning_jax import choices
from pruning_jax.models.layers import (
    INITIALISATIONS,
    check_widths,
    classifier,
    conv3x3,
    norm_layer,
    numbers,
)
from pruning_jax.types import Array

_SHORTCUTS = ("projection", "identity")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them, then ReLU (He et al. 2016).

    Attributes:
      width: channels of the output.
      stride: of the first convolution, and of the shortcut.
      shortcut: what the shortcut does where the shape changes, `projection` or `identity`.
      dtype: of the parameters and of the arithmetic.
    """

    width: int
    stride: int
    shortcut: str
    dtype: Any

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Returns images, shape (examples, height / stride, width / stride, channels)."""
        conv, norm = conv3x3(self.dtype, use_bias=False), norm_layer(train, self.dtype)
        hidden = nn.relu(norm()(conv(self.width, strides=self.stride)(inputs)))
        hidden = norm()(conv(self.width)(hidden))
        if inputs.shape == hidden.shape:
            return nn.relu(hidden + inputs)
        if self.shortcut == "projection":
            return nn.relu(hidden + norm()(_project(inputs, self.width, self.stride, self.dtype)))
        strided = inputs[:, :: self.stride, :: self.stride]
        added = self.width - inputs.shape[-1]
        return nn.relu(hidden + jnp.pad(strided, ((0, 0), (0, 0), (0, 0), (0, added))))


class ResNet(nn.Module):
    """The CIFAR ResNet of He et al. 2016, section 4.2, of depth 6n + 2, with batch normalisation.

    One 3x3 convolution; three stages of n residual blocks, the last two of which start by halving
    the image; global average pooling; one dense layer. Convolutions have no bias. With ten classes
    at 32x32x3, depths 8, 20 and 56 have 78,042, 272,474 and 855,770 parameters; with the identity
    shortcut 75,290, 269,722 and 853,018.

    Attributes:
      classes: width of the output.
      depth: 6n + 2, such as 8, 20, 32, 44, 56 or 110.
      widths: channels of the three stages.
      shortcut: where the shape changes, `projection` (1x1 convolution and batch normalisation,
        option B, the default: it prunes and shrinks like any layer) or `identity` (every second
        pixel and channels of zeros, option A of the CIFAR experiments, which needs widths that do
        not decrease).
      stem_stride: of the first convolution; 2 leaves a quarter of the pixels and of the arithmetic.
      dtype: of the parameters and of the arithmetic.
    """

    classes: int
    depth: int = 20
    widths: tuple[int, ...] = (16, 32, 64)
    shortcut: str = "projection"
    stem_stride: int = 1
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            nearest = max(8, 6 * round((self.depth - 2) / 6) + 2)
            raise ValueError(
                f"depth is {self.depth}; a CIFAR ResNet has depth 6n + 2 with n 1 or more, and the "
                f"nearest is {nearest}"
            )
        check_widths(self.widths, 3)
        if not isinstance(self.stem_stride, int) or self.stem_stride < 1:
            raise ValueError(f"stem_stride is {self.stem_stride!r}; it is an integer, 1 or more")
        choices.check("shortcut", self.shortcut, _SHORTCUTS)
        if self.shortcut == "identity" and list(self.widths) != sorted(self.widths):
            raise ValueError(
                f"widths {self.widths} decrease; the shortcut 'identity' only adds channels, so "
                f"choose 'projection'"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Returns the logits, shape (examples, classes)."""
        stem = conv3x3(self.dtype, use_bias=False, strides=self.stem_stride)
        hidden = nn.relu(norm_layer(train, self.dtype)()(stem(self.widths[0])(inputs)))
        for stage, width in enumerate(self.widths):
            for block in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                residual = ResidualBlock(width, stride, self.shortcut, self.dtype)
                hidden = residual(hidden, train)
        return classifier(self.classes, self.dtype)(hidden.mean(axis=(1, 2)))


class PreActivationBlock(nn.Module):
    """Normalisation and ReLU before each of two 3x3 convolutions, and a shortcut around them.

    Where the shape changes, the shortcut is a 1x1 convolution of the first activation.

    Attributes:
      width: channels of the output.
      stride: of the first convolution, and of the shortcut.
      dtype: of the parameters and of the arithmetic.
    """

    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Returns images, shape (examples, height / stride, width / stride, channels)."""
        conv, norm = conv3x3(self.dtype, use_bias=False), norm_layer(train, self.dtype)
        active = nn.relu(norm()(inputs))
        hidden = conv(self.width, strides=self.stride)(active)
        hidden = conv(self.width)(nn.relu(norm()(hidden)))
        if inputs.shape == hidden.shape:
            return hidden + inputs
        return hidden + _project(active, self.width, self.stride, self.dtype)


class PreActResNet18(nn.Module):
    """PreActResNet-18 (He et al. 2016, identity mappings) as used on CIFAR-10 and in S3.

    One 3x3 convolution; four stages of two pre-activation blocks, the last three of which start by
    halving the image; global average pooling; one dense layer. As in the CIFAR code that is common
    in the field, nothing is normalised or activated between the last block and the pooling.
    Convolutions have no bias. With ten classes at 32x32x3: 11,171,146 parameters.

    Attributes:
      classes: width of the output.
      widths: channels of the four stages.
      dtype: of the parameters and of the arithmetic.
    """

    classes: int
    widths: tuple[int, ...] = (64, 128, 256, 512)
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_widths(self.widths, 4)
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Returns the logits, shape (examples, classes)."""
        hidden = conv3x3(self.dtype, use_bias=False)(self.widths[0])(inputs)
        for stage, width in enumerate(self.widths):
            for stride in (2 if stage else 1, 1):
                hidden = PreActivationBlock(width, stride, self.dtype)(hidden, train)
        return classifier(self.classes, self.dtype)(hidden.mean(axis=(1, 2)))


def _project(inputs: Array, width: int, stride: int, dtype: Any) -> Array:
    return nn.Conv(
        width,
        (1, 1),
        strides=stride,
        padding=0,
        use_bias=False,
        kernel_init=INITIALISATIONS["kaiming_normal"],
        **numbers(dtype),
    )(inputs)

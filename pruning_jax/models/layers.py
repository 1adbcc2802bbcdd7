"""What several of the networks are made of."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pruning_jax.types import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "gelu": nn.gelu,
    "silu": nn.silu,
}

INITIALISATIONS: dict[str, Callable[..., Array]] = {
    "kaiming_normal": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
    "glorot_normal": nn.initializers.variance_scaling(1.0, "fan_avg", "normal"),
    "glorot_uniform": nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
}


def check_widths(widths: tuple[int, ...], count: int | None = None) -> None:
    """Checks that widths are positive integers, and as many as the network has.

    Raises:
      ValueError: they are not.
    """
    if count is not None and len(widths) != count:
        raise ValueError(f"widths {widths} are {len(widths)}; this network has {count}")
    for width in widths:
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"widths {widths} hold {width!r}; a width is an integer, 1 or more")


def max_pool(inputs: Array, window: int = 2) -> Array:
    """The largest value of each window, windows side by side; a remainder at the edge is dropped.

    Args:
      inputs: images, shape (examples, height, width, channels).
      window: height and width of a window.

    Returns:
      Images, shape (examples, height // window, width // window, channels).

    Raises:
      ValueError: the images are smaller than a window.
    """
    examples, height, width, channels = inputs.shape
    if min(height, width) < window:
        raise ValueError(
            f"images have shrunk to {height}x{width} before a {window}x{window} pooling; give "
            f"larger images, or padding 'SAME' where the network has that field"
        )
    if height % window or width % window:
        return nn.max_pool(inputs, (window, window), (window, window))
    tiles = (examples, height // window, window, width // window, window, channels)
    return inputs.reshape(tiles).max(axis=(2, 4))


def numbers(dtype: Any) -> dict[str, Any]:
    """The arguments that make a layer keep its parameters and compute in `dtype`."""
    return {"dtype": dtype, "param_dtype": dtype}


def norm_layer(train: bool, dtype: Any) -> Callable[..., nn.BatchNorm]:
    """Batch normalisation over all axes but the last, with a learnt scale and shift.

    In training it uses the batch's moments, and moves the running ones a tenth of the way to them
    (momentum 0.9; the variance is the biased one); in evaluation it uses the running ones. Epsilon
    is 1e-5.
    """
    return functools.partial(
        nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, **numbers(dtype)
    )


def conv3x3(dtype: Any, **fields: Any) -> Callable[..., nn.Conv]:
    """A 3x3 convolution, padded by one pixel on every side, with Kaiming-normal kernels."""
    return functools.partial(
        nn.Conv,
        kernel_size=(3, 3),
        padding=1,
        kernel_init=INITIALISATIONS["kaiming_normal"],
        **numbers(dtype),
        **fields,
    )


def classifier(classes: int, dtype: Any) -> nn.Dense:
    """The output layer of the networks with Kaiming-normal kernels."""
    return nn.Dense(classes, kernel_init=INITIALISATIONS["kaiming_normal"], **numbers(dtype))


def flatten(inputs: Array, dtype: Any) -> Array:
    """Each example as one vector, shape (examples, features)."""
    return jnp.asarray(inputs, dtype).reshape(len(inputs), -1)

"""Multilayer perceptrons."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pruning_jax import choices
from pruning_jax.models.layers import ACTIVATIONS, INITIALISATIONS, check_widths, flatten, numbers
from pruning_jax.types import Array


class MLP(nn.Module):
    """The MLP of Laurent et al. 2020 (S3): 784-300-100-10 with tanh and Kaiming-normal kernels.

    At 28x28x1 and ten classes: 266,610 parameters, 266,200 of them in kernels. As in the authors'
    code, kernels are drawn from N(0, 2 / inputs) although the activation is tanh, and biases start
    at zero.

    Attributes:
      classes: width of the output.
      widths: width of each hidden layer.
      activation: name in `ACTIVATIONS`, after each hidden layer.
      initialisation: name in `INITIALISATIONS`, for every kernel.
      dtype: of the parameters and of the arithmetic.
    """

    classes: int
    widths: tuple[int, ...] = (300, 100)
    activation: str = "tanh"
    initialisation: str = "kaiming_normal"
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_widths(self.widths)
        choices.check("activation", self.activation, ACTIVATIONS)
        choices.check("initialisation", self.initialisation, INITIALISATIONS)
        super().__post_init__()

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Returns the logits, shape (examples, classes)."""
        kernel_init = INITIALISATIONS[self.initialisation]
        dense = functools.partial(nn.Dense, kernel_init=kernel_init, **numbers(self.dtype))
        hidden = flatten(inputs, self.dtype)
        for width in self.widths:
            hidden = ACTIVATIONS[self.activation](dense(width)(hidden))
        return dense(self.classes)(hidden)


class LeNet300100(MLP):
    """LeNet-300-100 (LeCun et al. 1998): the same MLP with ReLU and Glorot-normal kernels.

    This is the network of the lottery ticket hypothesis (Frankle and Carbin 2019).
    """

    activation: str = "relu"
    initialisation: str = "glorot_normal"

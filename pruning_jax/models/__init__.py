"""Flax Linen networks by name, and the functions that the rest of the package uses them by."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from pruning_jax import choices
from pruning_jax.models.alexnet import AlexNet
from pruning_jax.models.layers import ACTIVATIONS, INITIALISATIONS
from pruning_jax.models.mlp import MLP, LeNet300100
from pruning_jax.models.resnet import PreActResNet18, ResNet
from pruning_jax.models.small_convs import MediumConv, SmallConv
from pruning_jax.models.vgg import VGG11
from pruning_jax.types import ApplyFn, Array, Params

__all__ = [
    "ACTIVATIONS",
    "INITIALISATIONS",
    "MODELS",
    "TrainFn",
    "apply_fn",
    "build",
    "init",
    "train_fn",
]

MODELS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "lenet_300_100": LeNet300100,
    "small_conv": SmallConv,
    "medium_conv": MediumConv,
    "vgg11": VGG11,
    "resnet": ResNet,
    "preact_resnet18": PreActResNet18,
    "alexnet": AlexNet,
}

TrainFn = Callable[[Params, Array, Array], tuple[Array, dict[str, Any]]]
"""(variables, inputs, key) -> (logits, new model state), in training mode."""


def build(name: str, classes: int, **fields: Any) -> nn.Module:
    """Builds the network that `MODELS` names.

    Args:
      name: a row of `MODELS`.
      classes: width of the output, 1 or more.
      **fields: attributes of the row's module, such as `widths`; lists become tuples.

    Returns:
      The module. Equal arguments give equal modules.

    Raises:
      ValueError: the name, a field or a field's value is none that the network knows.
    """
    choices.check("model", name, MODELS)
    hidden = ("classes", "parent", "name")
    valid = [field.name for field in dataclasses.fields(MODELS[name]) if field.name not in hidden]
    for field in fields:
        choices.check(f"field of the model {name!r}", field, valid)
    if classes < 1:
        raise ValueError(f"classes is {classes}; a network has 1 output or more")
    hashable = {
        field: tuple(value) if isinstance(value, list) else value for field, value in fields.items()
    }
    return MODELS[name](classes=classes, **hashable)


def init(module: nn.Module, key: Array, inputs: Array) -> dict[str, Any]:
    """Draws the variables of a network.

    Args:
      module: the network.
      key: the only source of randomness.
      inputs: examples, for their shape alone.

    Returns:
      `{"params": ...}`, and `"batch_stats"` where the network has batch normalisation.

    Raises:
      ValueError: the images are too small for the network.
    """
    return _drawn(module, key, inputs[:1])


@functools.partial(jax.jit, static_argnums=0)
def _drawn(module: nn.Module, key: Array, inputs: Array) -> dict[str, Any]:
    return module.init(key, inputs)


@functools.cache
def apply_fn(module: nn.Module) -> ApplyFn:
    """The network in evaluation mode; equal modules give the same function object.

    Returns:
      `(variables, inputs) -> logits`, with the running moments in batch normalisation.
    """

    def apply(variables: Params, inputs: Array) -> Array:
        return module.apply(variables, inputs)

    return apply


@functools.cache
def train_fn(module: nn.Module) -> TrainFn:
    """The network in training mode; equal modules give the same function object.

    Returns:
      `(variables, inputs, key) -> (logits, state)`, with the batch's moments in batch
      normalisation. `state` is the new value of every collection of `variables` but `"params"`:
      running moments, a tenth of the way nearer to the batch's, or an empty dict. `key` feeds
      dropout, which no row of `MODELS` has.
    """

    def apply(variables: Params, inputs: Array, key: Array) -> tuple[Array, dict[str, Any]]:
        logits, state = module.apply(
            variables, inputs, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        kept = {name: value for name, value in variables.items() if name != "params"}
        return logits, {**kept, **state}

    return apply

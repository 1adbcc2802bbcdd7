"""Networks that the benchmarks read and the package does not train."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from pruning_jax import models


class Bottleneck(nn.Module):
    """A residual block of three convolutions; the stream has four times the width."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def conv(width: int, size: int, stride: int, y: jax.Array) -> jax.Array:
            y = nn.Conv(width, (size, size), strides=stride, use_bias=False)(y)
            return nn.BatchNorm(use_running_average=True)(y)

        y = nn.relu(conv(self.width, 1, 1, x))
        y = nn.relu(conv(self.width, 3, self.stride, y))
        y = conv(4 * self.width, 1, 1, y)
        if x.shape != y.shape:
            x = conv(4 * self.width, 1, self.stride, x)
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """For images of 224x224."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(64, (7, 7), strides=2, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = Bottleneck(64 * 2**stage, stride)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


class ViT(nn.Module):
    """The base size, with patches of 16x16 and the mean over positions."""

    width: int = 768
    heads: int = 12
    blocks: int = 12

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.width, (16, 16), strides=16)(x)
        x = x.reshape(x.shape[0], -1, self.width)
        x = x + self.param("positions", nn.initializers.normal(), (1, *x.shape[1:]))
        for _ in range(self.blocks):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
            y = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(y)
        return nn.Dense(1000)(nn.LayerNorm()(x).mean(1))


class Decoder(nn.Module):
    """A language model: blocks of causal attention and of a hidden layer four times as wide."""

    vocabulary: int
    width: int
    blocks: int
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        mask = nn.make_causal_mask(tokens)
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        for _ in range(self.blocks):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
            y = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(y)
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))


IMAGES = {"ResNet-56": 32, "ResNet-50": 224, "ViT-B/16": 224}
NETWORKS = {
    "ResNet-56": lambda: models.build("resnet", 10, depth=56),
    "ResNet-50": ResNet50,
    "ViT-B/16": ViT,
}


def shapes(name: str) -> tuple:
    """(module, shapes of its variables, shape of two examples)."""
    module, side = NETWORKS[name](), IMAGES[name]
    inputs = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return module, jax.eval_shape(module.init, jax.random.key(0), inputs), inputs

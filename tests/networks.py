"""Small networks from four libraries, as (apply_fn, variables, inputs)."""

import zlib

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

CLASSES = 4


def draw(seed: int, *shape: int) -> jax.Array:
    """Normal numbers, without a program for each shape."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def drawn(tree):
    """Noise in the shapes of a tree's leaves, such that no bias is zero and no norm does nothing.

    Kernels vary as 1 / fan-in, scales are near 1 and variances positive.
    """

    def leaf(path, x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        name = jax.tree_util.keystr(path)
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(x.shape)
        if "var" in name:
            noise = np.exp(0.3 * noise)
        elif "scale" in name:
            noise = 1 + 0.3 * noise
        else:
            noise *= 0.3 if x.ndim < 2 else np.prod(x.shape[:-1]) ** -0.5
        return jnp.asarray(noise, x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, tree)


class LinenNet(nn.Module):
    """Strided, grouped and dilated convolutions, batch norm, a residual, pooling, dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), strides=2)(x)
        x = nn.max_pool(nn.relu(nn.BatchNorm(use_running_average=True)(x)), (2, 2), (1, 1))
        x = x + nn.tanh(nn.Conv(4, (3, 3), feature_group_count=2)(x))
        x = nn.Conv(8, (3, 2), kernel_dilation=2, feature_group_count=4, padding="VALID")(x)
        x = nn.Dense(3)(nn.silu(x))
        return nn.Dense(CLASSES)(x.reshape(x.shape[0], -1))


def linen():
    inputs, module = draw(1, 3, 12, 12, 2), LinenNet()
    return module.apply, drawn(jax.eval_shape(module.init, jax.random.key(0), inputs)), inputs


class EquinoxNet(eqx.Module):
    layers: list

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(2, 4, 3, key=keys[0]),
            eqx.nn.Conv2d(4, 4, 3, groups=4, key=keys[1]),
            eqx.nn.ConvTranspose2d(4, 2, 3, stride=2, key=keys[2]),
            eqx.nn.Linear(2 * 5 * 5, CLASSES, key=keys[3]),
        ]

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = jax.nn.softplus(layer(x))
        return self.layers[-1](x.reshape(-1))


def equinox():
    arrays, static = eqx.partition(EquinoxNet(jax.random.key(0)), eqx.is_array)

    def apply_fn(variables, inputs):
        return jax.vmap(eqx.combine(variables, static))(inputs)

    return apply_fn, arrays, draw(1, 3, 2, 6, 6)


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 3, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs, deterministic=True)
        self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(3 * 36, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(nnx.relu(self.norm(self.conv(x))))
        return self.dense(x.reshape(x.shape[0], -1))


def nnx_net():
    graph, state = nnx.split(NNXNet(nnx.Rngs(0)))
    return lambda variables, inputs: nnx.merge(graph, variables)(inputs), state, draw(1, 4, 6, 6, 1)


def tied():
    """One kernel used twice, once transposed, with its own bias and a shared one."""
    variables = [(draw(0, 4, 6), draw(1, 6)), {"w": draw(2, 6, 6), "b": draw(3, 6)}, draw(4, 6, 4)]

    def apply_fn(variables, x):
        (w0, b0), block, w2 = variables
        h = jnp.tanh(x @ w0 + b0)
        h = jnp.tanh(h @ block["w"] + block["b"])
        h = jnp.tanh(h @ block["w"].T + block["b"])
        return h @ w2

    return apply_fn, variables, draw(5, 5, 4)


def tied_embedding():
    variables = {"table": draw(0, CLASSES, 6), "w": draw(1, 6, 6), "b": draw(2, 6)}

    def apply_fn(variables, ids):
        h = jnp.tanh(variables["table"][ids] @ variables["w"] + variables["b"])
        return h.mean(1) @ variables["table"].T

    return apply_fn, variables, jax.random.randint(jax.random.key(3), (5, 3), 0, CLASSES)


def views():
    """Kernels masked, repeated, split, merged with positions, rematerialised."""
    mask = jnp.asarray(np.random.RandomState(0).rand(4, 6) > 0.5, jnp.float32) * 2
    variables = {
        "masked": 0.5 * draw(0, 4, 6),
        "repeated": 0.5 * draw(1, 3, 6),
        "fused": draw(2, 6, 2 * CLASSES),
        "split": draw(3, CLASSES, 2 * CLASSES),
    }

    def apply_fn(variables, x):
        h = jnp.tanh(x.reshape(-1, 4) @ (variables["masked"] * mask)).reshape(x.shape[0], -1, 6)
        h = jax.checkpoint(lambda h: h @ jnp.repeat(variables["repeated"], 2, axis=0))(h).sum(1)
        query, value = jnp.split(h @ variables["fused"], 2, axis=1)
        first, second = jnp.split(variables["split"], 2, axis=1)
        return (jnp.tanh(query * value) @ first) * jax.nn.sigmoid(value @ second)

    return apply_fn, variables, draw(4, 5, 2, 4)


def positions_first():
    """Sequences with the examples inside a merged axis, and kernels repeated for every example."""
    variables = {
        "a": draw(0, 3, 5),
        "b": draw(1, 5, 6),
        "c": draw(2, 6, CLASSES),
        "bias": draw(3, 6),
    }

    def apply_fn(variables, x):
        rows = x.transpose(1, 0, 2).reshape(-1, 3)
        h = jnp.tanh(rows @ variables["a"]).reshape(x.shape[1], x.shape[0], 5).transpose(1, 0, 2)
        b = jnp.broadcast_to(variables["b"], (x.shape[0], 5, 6))
        h = jax.lax.dot_general(h, b, (((2,), (1,)), ((0,), (0,)))) + variables["bias"]
        return jnp.tanh(h).mean(1) @ variables["c"]

    return apply_fn, variables, draw(4, 5, 2, 3)


def convolution(rank: int):
    """A 1-D or 3-D convolution, channels first."""
    variables = {
        "kernel": draw(0, 3, 2, *(2,) * rank),
        "bias": draw(1, 3),
        "out": draw(2, 3, CLASSES),
    }

    def apply_fn(variables, x):
        spec = "NC" + "DHW"[-rank:], "OI" + "DHW"[-rank:], "NC" + "DHW"[-rank:]
        h = jax.lax.conv_general_dilated(
            x, variables["kernel"], (2,) + (1,) * (rank - 1), "SAME", dimension_numbers=spec
        )
        h = jnp.tanh(h + variables["bias"].reshape(-1, *(1,) * rank))
        return h.mean(range(2, 2 + rank)) @ variables["out"]

    return apply_fn, variables, draw(3, 3, 2, *(4,) * rank)


def _two_views(variables, x):
    return jnp.tanh(x @ variables["a"] + variables["bias"]) @ variables["o"]


def _two_views_network(joined):
    variables = {"a": draw(0, 4, 6), "bias": draw(1, 6), "o": draw(2, 6, CLASSES)}
    return lambda v, x: joined(lambda x: _two_views(v, x), x), variables, draw(3, 3, 5, 4).sum(1)


def concatenated():
    """Every example twice, one copy of the batch after the other."""

    def joined(run, x):
        first, second = jnp.split(run(jnp.concatenate([x, x[:, ::-1]], 0)), 2)
        return (first + second) / 2

    return _two_views_network(joined)


def tiled():
    def joined(run, x):
        scale = jnp.concatenate([jnp.ones_like(x), 2 * jnp.ones_like(x)])
        h = run(scale * jnp.tile(x, (2, 1)))
        return h[: x.shape[0]] + h[x.shape[0] :]

    return _two_views_network(joined)


def repeated():
    def joined(run, x):
        h = run(jnp.repeat(x, 2, axis=0) * jnp.tile(jnp.array([1.0, 2.0]), len(x))[:, None])
        return h[::2] + h[1::2]

    return _two_views_network(joined)


def own_rows():
    """Activations taken by the number of the example, along a position that its data chooses."""
    variables = {"a": draw(0, 4, 6), "o": draw(2, 6, CLASSES)}

    def apply_fn(v, x):
        h = jnp.tanh(x @ v["a"])
        return h[jnp.arange(x.shape[0]), jnp.argmax(x[:, :, 0], axis=1)] @ v["o"]

    return apply_fn, variables, draw(3, 3, 5, 4)


NETWORKS = {
    "linen": linen,
    "equinox": equinox,
    "nnx": nnx_net,
    "tied": tied,
    "tied_embedding": tied_embedding,
    "views": views,
    "positions_first": positions_first,
    "concatenated": concatenated,
    "tiled": tiled,
    "repeated": repeated,
    "own_rows": own_rows,
    "conv_1d": lambda: convolution(1),
    "conv_3d": lambda: convolution(3),
}

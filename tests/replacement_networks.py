"""Small networks from four libraries, as (apply_fn, variables, inputs).

Those of `NETWORKS` have no padding and those of `PADDED` do; some layers of those of `BIAS_FREE`
have no bias.
"""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import networks
from flax import nnx
from networks import draw, drawn

from pruning_jax import models

CLASSES = networks.CLASSES
Conv = functools.partial(nn.Conv, padding="VALID")
Plain = functools.partial(Conv, use_bias=False)
Norm = functools.partial(nn.BatchNorm, use_running_average=True)


def flat(x):
    return x.reshape(x.shape[0], -1)


def linen(body, *shape):
    """A Linen network written as one function, with every variable drawn anew."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return body(x)

    inputs, module = draw(1, 6, *shape), Net()
    return module.apply, drawn(jax.eval_shape(module.init, jax.random.key(0), inputs)), inputs


def dense(function):
    def body(x):
        return nn.Dense(CLASSES)(function(nn.Dense(5)(function(nn.Dense(7)(x)))))

    return lambda: linen(body, 4)


def pooled(pool, function=lambda x: x):
    """Convolution, function, pooling, another function, convolution, flatten."""

    def body(x):
        x = function(pool(nn.relu(Conv(5, (3, 3))(x))))
        return nn.Dense(CLASSES)(flat(nn.relu(Conv(4, (2, 2))(x))))

    return lambda: linen(body, 9, 9, 2)


def strided(x):
    x = nn.relu(Conv(6, (3, 3), strides=2)(x))
    x = nn.softplus(Conv(8, (2, 2), kernel_dilation=2, feature_group_count=2)(x))
    x = nn.relu(Conv(16, (2, 2), feature_group_count=8)(x))
    return nn.Dense(CLASSES)(flat(nn.Dense(6)(x)))


def running_mean(x):
    for width in (5, 6):
        x = nn.max_pool(nn.relu(Norm()(Plain(width, (3, 3))(x))), (2, 2), (1, 1))
    return nn.Dense(CLASSES)(nn.relu(Norm()(nn.Dense(7, use_bias=False)(flat(x)))))


def norm_with_bias(x):
    for width in (5, 6):
        x = nn.relu(Norm()(Conv(width, (3, 3))(x)))
    return nn.Dense(CLASSES)(x.mean((1, 2)))


def norm_after_pooling(x):
    for width in (5, 6):
        x = nn.tanh(Norm()(nn.avg_pool(Conv(width, (2, 2))(x), (2, 2), (2, 2))))
    return nn.Dense(CLASSES)(flat(x))


def layer_norm(x):
    for width in (6, 5):
        x = nn.gelu(nn.LayerNorm()(nn.Dense(width)(x)))
    return nn.Dense(CLASSES)(x.mean(1))


def residual(x):
    x = nn.relu(Conv(5, (3, 3))(x))
    for width in (7, 4):
        h = nn.relu(Norm()(Conv(width, (1, 1), use_bias=False)(x)))
        x = nn.relu(x + nn.Conv(5, (1, 1))(h))
    return nn.Dense(CLASSES)(x.mean((1, 2)))


def transformer(x):
    x = nn.Dense(6)(x)
    for _ in range(2):
        x = x + nn.Dense(6)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))
    return nn.Dense(CLASSES)(nn.LayerNorm()(x).mean(1))


def concatenation(x):
    x = nn.relu(Conv(4, (3, 3))(x))
    other = nn.max_pool(nn.relu(Conv(3, (1, 1))(x)), (2, 2), (1, 1))
    x = jnp.concatenate([nn.relu(Conv(5, (2, 2))(x)), nn.avg_pool(x, (2, 2), (1, 1)), other], -1)
    x = nn.relu(Conv(5, (2, 2))(x))
    return nn.Dense(CLASSES)(jnp.concatenate([flat(x), nn.relu(nn.Dense(4)(flat(x)))], -1))


def gated(x):
    """Pooled units, each times a gate that depends on all of them."""
    x = nn.relu(Conv(6, (3, 3))(x))
    pooled = x.mean((1, 2))
    gate = nn.sigmoid(nn.Dense(6)(nn.relu(nn.Dense(4)(pooled))))
    return nn.Dense(CLASSES)(nn.tanh(nn.Dense(5)(pooled * gate)))


def small_conv(batch_norm, padding="VALID"):
    def make():
        widths = 4, 5, 6, 7, 5
        module = models.SmallConv(CLASSES, widths=widths, batch_norm=batch_norm, padding=padding)
        inputs = draw(7, 4, 28, 28, 1)
        return module.apply, drawn(jax.eval_shape(module.init, jax.random.key(0), inputs)), inputs

    return make


def padded(x):
    for width, stride in ((5, 1), (6, 2), (4, 1)):
        x = nn.softplus(nn.Conv(width, (3, 3), strides=stride)(x))
    return nn.Dense(CLASSES)(flat(x))


def padded_norm(x):
    for width in (5, 6, 4):
        x = nn.relu(Norm()(nn.Conv(width, (3, 3), use_bias=False)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
    return nn.Dense(CLASSES)(x.mean((1, 2)))


def padded_residual(x):
    x = nn.relu(nn.Conv(5, (3, 3))(x))
    for width in (7, 4):
        h = nn.tanh(Norm()(nn.Conv(width, (3, 3), use_bias=False)(x)))
        x = nn.relu(x + Norm()(nn.Conv(5, (3, 3), use_bias=False)(h)))
    return nn.Dense(CLASSES)(x.mean((1, 2)))


def padded_concatenation(x):
    x = nn.relu(nn.Conv(4, (3, 3))(x))
    pool = nn.avg_pool(x, (3, 3), (1, 1), padding="SAME")
    x = jnp.concatenate([nn.tanh(nn.Conv(5, (3, 3))(x)), pool], -1)
    return nn.Dense(CLASSES)(nn.relu(nn.Conv(5, (3, 3), (2, 2))(x)).mean((1, 2)))


def rms_norm(x):
    """A branch of two layers, the second without a bias, after a norm without one."""
    x = nn.Dense(6)(x)
    for _ in range(2):
        h = nn.gelu(nn.Dense(8)(nn.RMSNorm()(x)))
        x = x + nn.Dense(6, use_bias=False)(h)
    return nn.Dense(CLASSES)(nn.relu(nn.Dense(7)(x)))


def swiglu():
    """Gated units that enter a layer without a bias, and a layer with one behind it."""
    variables = {"gate": draw(0, 6, 8), "up": draw(1, 6, 8), "down": draw(2, 8, 5)}
    variables |= {"out": draw(3, 5, CLASSES), "out_bias": draw(4, CLASSES)}

    def apply_fn(v, x):
        h = (jax.nn.silu(x @ v["gate"]) * (x @ v["up"])) @ v["down"]
        return jnp.tanh(h) @ v["out"] + v["out_bias"]

    return apply_fn, variables, draw(5, 6, 6)


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(2, 5, (3, 3), padding="VALID", use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(5, use_running_average=True, rngs=rngs)
        self.second = nnx.Conv(5, 4, (2, 2), padding="VALID", rngs=rngs)
        self.dense = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.norm(self.first(x))), (2, 2), (2, 2))
        return self.dense(nnx.silu(self.second(x)).mean((1, 2)))


def nnx_net():
    graph, state = nnx.split(NNXNet(nnx.Rngs(0)))
    apply_fn = lambda variables, inputs: nnx.merge(graph, variables)(inputs)  # noqa: E731
    return apply_fn, drawn(state), draw(1, 5, 8, 8, 2)


class EquinoxNet(eqx.Module):
    layers: list

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(2, 4, 3, key=keys[0]),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(4, 6, 2, groups=2, key=keys[1]),
            eqx.nn.AvgPool2d(2, 1),
            jnp.ravel,
            eqx.nn.Linear(24, 5, key=keys[2]),
            jnp.tanh,
            eqx.nn.Linear(5, CLASSES, key=keys[3]),
        ]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(jax.nn.relu(x)) if isinstance(layer, eqx.nn.MaxPool2d) else layer(x)
        return x


def equinox():
    arrays, static = eqx.partition(EquinoxNet(jax.random.key(0)), eqx.is_array)

    def apply_fn(variables, inputs):
        return jax.vmap(eqx.combine(variables, static))(inputs)

    return apply_fn, arrays, draw(1, 5, 2, 10, 10)


def channels_first():
    """A function of arrays: a bias subtracted, one after scales and a sum, one of two products."""
    variables = {
        "first": draw(0, 4, 2, 3, 3),
        "minus": draw(1, 4, 1, 1),
        "second": draw(2, 5, 4, 2, 2),
        "plus": draw(3, 5),
        "scale": 2 + draw(10, 5) ** 2,
        "left": draw(4, 5, 3),
        "right": draw(5, 4, 3),
        "sum": draw(6, 3),
        "last": draw(7, CLASSES, 3),
        "out": draw(8, CLASSES),
    }

    def conv(x, kernel):
        spec = ("NCHW", "OIHW", "NCHW")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=spec)

    def apply_fn(v, x):
        h = jax.nn.relu(conv(x, v["first"]) - v["minus"])
        g = 1 - 2 * conv(h, v["second"]) / v["scale"][:, None, None]
        g = jax.nn.relu(g + v["plus"][:, None, None])
        both = g.mean((2, 3)) @ v["left"] + h.max((2, 3)) @ v["right"]
        return jnp.einsum("oi,ni->no", v["last"], jnp.tanh(both + v["sum"])) + v["out"]

    return apply_fn, variables, draw(9, 5, 2, 7, 7)


def multi_axis_dense():
    """A bias whose units are in two axes, and units that are read in several positions."""
    variables = [draw(0, 4, 6), draw(1, 6), draw(2, 6, 2, 3), draw(3, 2, 3), draw(4, 2, 3, CLASSES)]
    variables.append(draw(5, CLASSES))

    def apply_fn(v, x):
        h = jnp.tanh(x @ v[0] + v[1])
        h = jnp.tanh(jnp.einsum("npi,iab->npab", h, v[2]) + v[3])
        return jnp.einsum("npab,abo->no", h, v[4]) / x.shape[1] + v[5]

    return apply_fn, variables, draw(6, 5, 3, 4)


MAX = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(1, 1))
AVERAGE = functools.partial(nn.avg_pool, window_shape=(2, 2), strides=(2, 2))

NETWORKS = {
    "dense": dense(nn.tanh),
    "dense_sigmoid": dense(nn.sigmoid),
    "max_pool": pooled(MAX),
    "average_pool": pooled(AVERAGE),
    "pool_then_tanh": pooled(AVERAGE, nn.tanh),
    "pool_then_sigmoid": pooled(MAX, nn.sigmoid),
    "strided_dilated_grouped": lambda: linen(strided, 11, 11, 2),
    "running_mean": lambda: linen(running_mean, 9, 9, 2),
    "norm_with_bias": lambda: linen(norm_with_bias, 8, 8, 2),
    "norm_after_pooling": lambda: linen(norm_after_pooling, 9, 9, 2),
    "layer_norm": lambda: linen(layer_norm, 3, 4),
    "residual": lambda: linen(residual, 6, 6, 2),
    "transformer": lambda: linen(transformer, 3, 4),
    "concatenation": lambda: linen(concatenation, 8, 8, 2),
    "gated": lambda: linen(gated, 6, 6, 2),
    "small_conv": small_conv(batch_norm=False),
    "small_conv_norm": small_conv(batch_norm=True),
    "nnx": nnx_net,
    "equinox": equinox,
    "channels_first": channels_first,
}

PADDED = {
    "padded": lambda: linen(padded, 7, 7, 2),
    "padded_norm": lambda: linen(padded_norm, 9, 9, 2),
    "padded_residual": lambda: linen(padded_residual, 6, 6, 2),
    "padded_concatenation": lambda: linen(padded_concatenation, 6, 6, 2),
    "padded_small_conv": small_conv(batch_norm=False, padding="SAME"),
    "padded_small_conv_norm": small_conv(batch_norm=True, padding="SAME"),
}

BIAS_FREE = {"rms_norm": lambda: linen(rms_norm, 4), "swiglu": swiglu}

"""Small networks whose units meet in different ways, as (apply_fn, variables, inputs)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from networks import CLASSES, draw, drawn


def _linen(module, *shape):
    inputs = draw(1, *shape)
    return module.apply, drawn(jax.eval_shape(module.init, jax.random.key(0), inputs)), inputs


def _norm(**fields):
    return nn.BatchNorm(use_running_average=True, **fields)


class Chain(nn.Module):
    """Convolutions with both ways of max pooling, average pooling, and a flatten."""

    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.silu(nn.Conv(6, (3, 3), padding="VALID")(x)), (2, 2), (2, 2))
        x = nn.silu(nn.Conv(5, (3, 3), strides=2)(x))
        x = nn.avg_pool(x, (2, 2), (1, 1))
        x = nn.tanh(nn.Dense(7)(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES)(x)


class NormAfterPool(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.avg_pool(nn.silu(nn.Conv(6, (3, 3), padding="VALID")(x)), (2, 2), (2, 2))
        x = _norm()(x)
        return nn.Dense(CLASSES)(nn.silu(nn.Conv(5, (3, 3))(x)).mean((1, 2)))


class Residual(nn.Module):
    """A stream that a convolution opens and two blocks add to, the second with a projection."""

    preactivation: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), use_bias=False)(x)
        for width in (6, 8):
            h = nn.silu(_norm()(x)) if self.preactivation else x
            h = nn.silu(_norm()(nn.Conv(5, (3, 3), use_bias=False)(h)))
            h = nn.Conv(width, (3, 3))(h)
            x = x if width == x.shape[-1] else nn.Conv(width, (1, 1))(x)
            x = x + h if self.preactivation else nn.silu(_norm()(x + h))
        x = nn.silu(_norm()(x)) if self.preactivation else x
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class PaddedShortcut(nn.Module):
    """A stream whose narrower part is padded with zeros."""

    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.Conv(4, (3, 3))(x))
        h = nn.Conv(7, (3, 3))(x)
        x = nn.silu(jnp.pad(x, [(0, 0)] * 3 + [(2, 1)]) + h)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class DenselyConnected(nn.Module):
    """Concatenations, normalised after they are made."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3))(x)
        for width in (3, 5):
            h = nn.Conv(width, (3, 3))(nn.silu(_norm()(x)))
            x = jnp.concatenate([x, h], axis=-1)
        x = nn.silu(_norm()(x))
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


class Separable(nn.Module):
    """Depthwise, grouped and pointwise convolutions."""

    @nn.compact
    def __call__(self, x):
        x = nn.silu(_norm()(nn.Conv(6, (3, 3), use_bias=False)(x)))
        x = nn.silu(_norm()(nn.Conv(12, (3, 3), feature_group_count=6, use_bias=False)(x)))
        x = nn.silu(nn.Conv(8, (1, 1))(x))
        x = nn.silu(nn.Conv(6, (3, 3), feature_group_count=2, kernel_dilation=2)(x))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Shuffled(nn.Module):
    """Channels shuffled between grouped convolutions, then split in two."""

    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.Conv(6, (3, 3))(x))
        shape = x.shape
        x = x.reshape(*shape[:3], 2, 3).swapaxes(3, 4).reshape(shape)
        x = nn.silu(nn.Conv(8, (3, 3), feature_group_count=2)(x))
        a, b = jnp.split(x, 2, axis=-1)
        return nn.Dense(CLASSES)(jnp.concatenate([a.mean((1, 2)), nn.Dense(3)(b).max((1, 2))], 1))


class Excited(nn.Module):
    """Squeeze and excitation: channels scaled by a function of all their means."""

    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.Conv(6, (3, 3))(x))
        gate = nn.sigmoid(nn.Dense(6)(nn.tanh(nn.Dense(3)(x.mean((1, 2))))))
        x = x * gate[:, None, None, :]
        return nn.Dense(CLASSES)(nn.silu(nn.Conv(5, (3, 3))(x)).mean((1, 2)))


class LayerNormed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.LayerNorm()(nn.Dense(7)(x)))
        x = nn.tanh(nn.LayerNorm()(nn.Dense(6)(x)))
        return nn.Dense(CLASSES)(x)


class GroupNormed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.GroupNorm(num_groups=2)(nn.Conv(6, (3, 3))(x)))
        x = nn.silu(nn.Conv(5, (3, 3))(x))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class NotZeroAtZero(nn.Module):
    """Functions that send zero to something else."""

    @nn.compact
    def __call__(self, x):
        x = nn.sigmoid(nn.Dense(7)(x))
        x = nn.softplus(nn.Dense(6)(x))
        x = jnp.cos(nn.Dense(5)(x)) + 1.0
        return nn.Dense(CLASSES)(x)


class Parametric(nn.Module):
    """Leaky functions with slopes of their own, and a scale."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(7)(x)
        x = jnp.where(x > 0, x, self.param("slope", nn.initializers.normal(), (7,)) * x)
        x = nn.leaky_relu(nn.Dense(6)(x))
        x = x * self.param("scale", nn.initializers.normal(), (6,))
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=True)(x))


class GatedUnits(nn.Module):
    """One layer's units are values, and the gates of other ones."""

    @nn.compact
    def __call__(self, x):
        value, gate = jnp.split(nn.Dense(10)(x), 2, axis=-1)
        return nn.Dense(CLASSES)(value * nn.sigmoid(gate))


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        h = nn.gelu(nn.Dense(9)(nn.LayerNorm()(x)))
        return nn.Dense(CLASSES)(nn.LayerNorm()(x + nn.Dense(8)(h)).mean(1))


def _plain(function, *shape):
    """Functions of a few arrays that meet units in unusual ways."""
    variables = {
        "w": draw(0, 4, 6),
        "b": draw(1, 6),
        "w2": draw(2, 4, 6),
        "b2": draw(3, 6),
        "k": draw(4, 2, 1, 6),
        "g": 1 + 0.3 * draw(5, 6),
        "c": draw(6, 6),
        "gate": draw(7, 6, 1),
        "o": draw(8, 6, CLASSES),
    }
    return function, variables, draw(10, *shape)


def _hidden(v, x):
    return jax.nn.silu(x @ v["w"] + v["b"])


def _layer_norm(v, z):
    centred = z - z.mean(-1, keepdims=True)
    spread = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(spread + 1e-5) * v["g"] + v["c"]


def _added_to_a_concatenation(v, x):
    """A unit's place in a sum is taken by an input in one of the summands."""
    wide = jnp.concatenate([x[:, :2], _hidden(v, x)[:, :4]], 1)
    return (wide + jnp.tanh(x @ v["w2"] + v["b2"])) @ v["o"]


def _positions_of_two_kinds(v, x):
    """Positions whose units are zero at zero beside positions where they are not."""
    both = [_hidden(v, x), jax.nn.sigmoid(x @ v["w2"] + v["b2"])]
    return jnp.tanh(jnp.concatenate(both, 1)).mean(1) @ v["o"]


def _class_token(v, x):
    """A leaf as one more position."""
    token = jnp.broadcast_to(v["c"], (len(x), 1, 6))
    return jnp.tanh(jnp.concatenate([token, _hidden(v, x)], 1)).mean(1) @ v["o"]


def _tiled_and_stacked(v, x):
    """Positions and units repeated, and two views of the units side by side."""
    h = jnp.tile(_hidden(v, x)[:, None], (1, 3, 1))
    both = jnp.stack([h, jnp.square(h)], 1).mean((1, 2))
    return jnp.tile(both, (1, 2)) @ jnp.tile(v["o"], (2, 1))


def _normed_after_depthwise(v, x):
    numbers = ("NWC", "WIO", "NWC")
    h = jax.lax.conv_general_dilated(
        _hidden(v, x), v["k"], (1,), "VALID", dimension_numbers=numbers, feature_group_count=6
    )
    return _layer_norm(v, h).mean(1) @ v["o"]


def _bias_used_twice(v, x):
    return _hidden(v, x) @ v["o"] + v["b"].sum() * x[:, :CLASSES]


def _scale_in_a_penalty(v, x):
    return (_hidden(v, x) * v["g"]) @ v["o"] + jnp.sum(v["g"] ** 2) * x[:, :CLASSES]


def _reduced_past_a_scale(v, x):
    z = x @ v["w"] + v["b"]
    return (z * v["g"]) @ v["o"] + z.max(1, keepdims=True) * x[:, :CLASSES]


def _divided_by_a_leaf(v, x):
    return (_hidden(v, x) * (1 / v["g"])) @ v["o"]


def _normed_after_pooling(v, x):
    return _layer_norm(v, _hidden(v, x).mean(1)) @ v["o"]


def _gated_by_one_unit(v, x):
    h = _hidden(v, x)
    return (h * (h @ v["gate"])) @ v["o"]


def _positions_into_channels(v, x):
    h = _hidden(v, x).reshape(-1, 4, 2, 3).swapaxes(1, 2).reshape(-1, 8, 3)
    h = h.mean(1)
    return jnp.concatenate([h, h], -1) @ v["o"]


class UNet(nn.Module):
    """Transposed convolutions and a resizing beside what they are concatenated with."""

    @nn.compact
    def __call__(self, x):
        a = nn.silu(nn.Conv(4, (3, 3))(x))
        b = nn.silu(nn.Conv(6, (3, 3))(nn.max_pool(a, (2, 2), (2, 2))))
        c = nn.silu(nn.ConvTranspose(5, (2, 2), (2, 2))(b))
        b = jax.image.resize(b, (*a.shape[:3], b.shape[-1]), "bilinear")
        return nn.Dense(CLASSES)(jnp.concatenate([a, b, c], -1).mean((1, 2)))


class VisionTransformer(nn.Module):
    """A stream with a class token and positions, normed before every branch."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (5, 5), (5, 5))(x).reshape(len(x), -1, 8)
        token = self.param("token", nn.initializers.normal(), (1, 1, 8))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 8)), x], 1)
        x = x + self.param("positions", nn.initializers.normal(), (1, 5, 8))
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x = x + nn.Dense(8)(nn.gelu(nn.Dense(9)(nn.LayerNorm()(x))))
        return nn.Dense(CLASSES)(nn.LayerNorm()(x)[:, 0])


class Mixer(nn.Module):
    """Layers along positions and along channels, by turns."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (5, 5), (5, 5))(x).reshape(len(x), -1, 6)
        for _ in range(2):
            h = nn.gelu(nn.Dense(7)(nn.LayerNorm()(x).swapaxes(1, 2)))
            x = x + nn.Dense(4)(h).swapaxes(1, 2)
            x = x + nn.Dense(6)(nn.gelu(nn.Dense(5)(nn.LayerNorm()(x))))
        return nn.Dense(CLASSES)(nn.LayerNorm()(x).mean(1))


@jax.custom_vjp
def _with_slope(x, slope):
    return x * jax.nn.sigmoid(slope * x)


_with_slope.defvjp(
    lambda x, slope: (_with_slope(x, slope), x), lambda x, g: (g * (x > 0), jnp.sum(g * x))
)


@jax.custom_jvp
def _over_width(x):
    return jnp.tanh(x) / x.shape[-1]


_over_width.defjvps(lambda tangent, _, x: tangent / x.shape[-1])


def _taken(v, x):
    return jnp.tanh(_hidden(v, x)[:, jnp.array([5, 0, 3, 3, 2, 1])]) @ v["o"]


def _rule_of_its_own(v, x):
    return _with_slope(_with_slope(x @ v["w"] + v["b"], 2.0) * v["g"], 2.0) @ v["o"]


def _width_in_a_body(v, x):
    return _over_width(_hidden(v, x)) @ v["o"]


def _width_in_a_power(v, x):
    return _hidden(v, x) ** v["w"].shape[1] @ v["o"]


def _normed_and_tied(v, x):
    return _layer_norm(v, x @ v["w"]) @ v["w"].T


IMAGES = (3, 10, 10, 2)
ROWS = (5, 4)

UNIT_NETWORKS = {
    "chain": lambda: _linen(Chain(), *IMAGES),
    "norm_after_pool": lambda: _linen(NormAfterPool(), *IMAGES),
    "residual": lambda: _linen(Residual(), *IMAGES),
    "preactivation": lambda: _linen(Residual(preactivation=True), *IMAGES),
    "padded_shortcut": lambda: _linen(PaddedShortcut(), *IMAGES),
    "densely_connected": lambda: _linen(DenselyConnected(), *IMAGES),
    "separable": lambda: _linen(Separable(), *IMAGES),
    "shuffled": lambda: _linen(Shuffled(), *IMAGES),
    "excited": lambda: _linen(Excited(), *IMAGES),
    "layer_normed": lambda: _linen(LayerNormed(), *ROWS),
    "group_normed": lambda: _linen(GroupNormed(), *IMAGES),
    "not_zero_at_zero": lambda: _linen(NotZeroAtZero(), *ROWS),
    "parametric": lambda: _linen(Parametric(), *ROWS),
    "gated_units": lambda: _linen(GatedUnits(), *ROWS),
    "attention": lambda: _linen(Attention(), 3, 5, 4),
    "added_to_a_concatenation": lambda: _plain(_added_to_a_concatenation, *ROWS),
    "positions_of_two_kinds": lambda: _plain(_positions_of_two_kinds, 5, 4, 4),
    "tiled_and_stacked": lambda: _plain(_tiled_and_stacked, *ROWS),
    "class_token": lambda: _plain(_class_token, 5, 4, 4),
    "normed_after_depthwise": lambda: _plain(_normed_after_depthwise, 5, 4, 4),
    "bias_used_twice": lambda: _plain(_bias_used_twice, *ROWS),
    "scale_in_a_penalty": lambda: _plain(_scale_in_a_penalty, *ROWS),
    "reduced_past_a_scale": lambda: _plain(_reduced_past_a_scale, *ROWS),
    "divided_by_a_leaf": lambda: _plain(_divided_by_a_leaf, *ROWS),
    "normed_after_pooling": lambda: _plain(_normed_after_pooling, 5, 4, 4),
    "gated_by_one_unit": lambda: _plain(_gated_by_one_unit, *ROWS),
    "u_net": lambda: _linen(UNet(), *IMAGES),
    "vision_transformer": lambda: _linen(VisionTransformer(), *IMAGES),
    "mixer": lambda: _linen(Mixer(), *IMAGES),
    "taken": lambda: _plain(_taken, *ROWS),
    "rule_of_its_own": lambda: _plain(_rule_of_its_own, *ROWS),
    "width_in_a_body": lambda: _plain(_width_in_a_body, *ROWS),
    "width_in_a_power": lambda: _plain(_width_in_a_power, *ROWS),
    "normed_and_tied": lambda: _plain(_normed_and_tied, *ROWS),
    "positions_into_channels": lambda: _plain(_positions_into_channels, 5, 4, 4),
}

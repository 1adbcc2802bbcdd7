"""Networks with attention, in each library's form, and with fewer key heads than query heads."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from networks import CLASSES, draw, drawn

TOKENS, WIDTH, HEADS, CHANNELS = 5, 6, 4, 3
INPUTS = (3, TOKENS, WIDTH)


class Linen(nn.Module):
    """Attention and a gated block between norms."""

    @nn.compact
    def __call__(self, x):
        attention = nn.MultiHeadDotProductAttention(HEADS, qkv_features=HEADS * CHANNELS)
        x = x + attention(nn.LayerNorm()(x), mask=jnp.tril(jnp.ones((TOKENS, TOKENS), bool)))
        y = nn.LayerNorm()(x)
        x = x + nn.Dense(WIDTH)(nn.silu(nn.Dense(8)(y)) * nn.Dense(8)(y))
        return nn.Dense(CLASSES)(nn.LayerNorm()(x).mean(1))


def linen():
    inputs = draw(1, *INPUTS)
    return Linen().apply, drawn(Linen().init(jax.random.key(0), inputs)), inputs


class NNX(nnx.Module):
    def __init__(self, rngs):
        size = HEADS * CHANNELS
        self.attention = nnx.MultiHeadAttention(
            HEADS, WIDTH, size, WIDTH, decode=False, normalize_qk=True, rngs=rngs
        )
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head((x + self.attention(x)).mean(1))


def nnx_net():
    graph, state = nnx.split(NNX(nnx.Rngs(0)))
    return lambda v, x: nnx.merge(graph, v)(x), drawn(state), draw(1, *INPUTS)


class Equinox(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key)
        biases = ("query", "key", "value", "output")
        self.attention = eqx.nn.MultiheadAttention(
            HEADS,
            WIDTH,
            qk_size=CHANNELS,
            vo_size=CHANNELS + 1,
            **{f"use_{name}_bias": True for name in biases},
            key=keys[0],
        )
        self.head = eqx.nn.Linear(WIDTH, CLASSES, key=keys[1])

    def __call__(self, x):
        mask = jnp.tril(jnp.ones((TOKENS, TOKENS), bool))
        return self.head((x + self.attention(x, x, x, mask)).mean(0))


def equinox():
    arrays, static = eqx.partition(Equinox(jax.random.key(0)), eqx.is_array)

    def apply_fn(variables, x):
        return jax.vmap(eqx.combine(variables, static))(x)

    return apply_fn, drawn(arrays), draw(1, *INPUTS)


def attended(q, k, v):
    """Of (examples, tokens, heads, channels)."""
    scores = jnp.einsum("nthd,nshd->nhts", q, k) / jnp.sqrt(q.shape[-1])
    return jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(scores), v)


def fused():
    """Queries, keys and values by one kernel."""
    size = HEADS * CHANNELS
    variables = {
        "qkv": draw(0, WIDTH, 3 * size),
        "b": draw(1, 3 * size),
        "o": draw(2, size, CLASSES),
    }

    def apply_fn(v, x):
        joined = (x @ v["qkv"] + v["b"]).reshape(*x.shape[:2], 3, HEADS, CHANNELS)
        out = attended(*(joined[:, :, i] for i in range(3)))
        return out.reshape(*x.shape[:2], size).mean(1) @ v["o"]

    return apply_fn, variables, draw(3, *INPUTS)


def turned(x):
    """Rotary positions."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None, None] * 0.3 ** jnp.arange(half)
    a, b = x[..., :half], x[..., half:]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def grouped(repeated):
    """Two heads of keys and values for four of queries."""

    def make():
        variables = {
            "q": draw(0, WIDTH, HEADS, 4),
            "k": draw(1, WIDTH, 2, 4),
            "v": draw(2, WIDTH, 2, 4),
            "o": draw(3, HEADS * 4, CLASSES),
        }

        def apply_fn(v, x):
            q, k, values = (jnp.einsum("ntc,chd->nthd", x, v[name]) for name in "qkv")
            q, k = turned(q), turned(k)
            if repeated:
                k, values = (jnp.repeat(array, 2, axis=2) for array in (k, values))
                out = attended(q, k, values)
            else:
                q = q.reshape(*x.shape[:2], 2, 2, 4)
                scores = jnp.einsum("ntkgd,nskd->nkgts", q, k) / 2
                out = jnp.einsum("nkgts,nskd->ntkgd", jax.nn.softmax(scores), values)
            return out.reshape(*x.shape[:2], -1).mean(1) @ v["o"]

        return apply_fn, variables, draw(4, *INPUTS)

    return make


def normed():
    """As today's decoders: one axis of heads and channels, each head's norm, rotary positions."""
    sizes = {"q": 4 * HEADS, "k": 4 * 2, "v": 4 * 2}
    variables = {name: draw(i, WIDTH, size) for i, (name, size) in enumerate(sizes.items())}
    variables |= {"q_scale": 1 + 0.3 * draw(3, 4), "k_scale": 1 + 0.3 * draw(4, 4)}
    variables |= {"o": draw(5, 4 * HEADS, CLASSES)}

    def norm(array, scale):
        return array / jnp.sqrt((array**2).mean(-1, keepdims=True) + 1e-6) * scale

    def apply_fn(v, x):
        q, k, values = ((x @ v[name]).reshape(*x.shape[:2], -1, 4) for name in "qkv")
        q, k = turned(norm(q, v["q_scale"])), turned(norm(k, v["k_scale"]))
        out = attended(q, *(jnp.repeat(array, 2, axis=2) for array in (k, values)))
        return out.reshape(*x.shape[:2], -1).mean(1) @ v["o"]

    return apply_fn, variables, draw(6, *INPUTS)


def library():
    """JAX's own attention, with a leaf that scales the channels of queries."""
    shape = (WIDTH, HEADS, CHANNELS)
    variables = {name: draw(i, *shape) for i, name in enumerate("qkv")}
    variables |= {"o": draw(3, HEADS, CHANNELS, CLASSES), "scale": 1 + 0.3 * draw(4, CHANNELS)}

    def apply_fn(v, x):
        q, k, values = (jnp.einsum("ntc,chd->nthd", x, v[name]) for name in "qkv")
        out = jax.nn.dot_product_attention(q * v["scale"], k, values, is_causal=True)
        return jnp.einsum("nthd,hdc->ntc", out, v["o"]).mean(1)

    return apply_fn, variables, draw(5, *INPUTS)


def graph_net():
    """Layers of a graph network, whose adjacency is data."""
    variables = {"a": draw(0, WIDTH, 8), "b": draw(1, 8, 7), "o": draw(2, 7, CLASSES)}

    def apply_fn(v, graph):
        h = jax.nn.relu(graph["adjacency"] @ (graph["x"] @ v["a"]))
        return jax.nn.relu(graph["adjacency"] @ h @ v["b"]).mean(1) @ v["o"]

    adjacency = jax.nn.softmax(draw(3, 3, TOKENS, TOKENS))
    return apply_fn, variables, {"adjacency": adjacency, "x": draw(4, *INPUTS)}


def pooled():
    """Attention pooling: one weight a token, by a layer of its own."""
    variables = {"a": draw(0, WIDTH, 8), "s": draw(1, 8), "o": draw(2, 8, CLASSES)}

    def apply_fn(v, x):
        h = jnp.tanh(x @ v["a"])
        return jnp.einsum("nt,ntc->nc", jax.nn.softmax(h @ v["s"]), h) @ v["o"]

    return apply_fn, variables, draw(3, *INPUTS)


def experts():
    """A mixture of experts, weighted by a softmax over them."""
    variables = {
        "gate": draw(0, WIDTH, 3),
        "up": draw(1, 3, WIDTH, 8),
        "down": draw(2, 3, 8, CLASSES),
    }

    def apply_fn(v, x):
        h = jax.nn.relu(jnp.einsum("nc,ecd->ned", x, v["up"]))
        weights = jax.nn.softmax(x @ v["gate"])
        return jnp.einsum("ned,edo->no", h * weights[:, :, None], v["down"])

    return apply_fn, variables, draw(3, 4, WIDTH)


def also_whole():
    """Values that a layer reads besides, where their heads and channels are one axis."""
    size = HEADS * CHANNELS
    variables = {name: draw(i, WIDTH, size) for i, name in enumerate("qkv")}
    variables |= {"b": draw(3, size), "o": draw(4, size, CLASSES), "p": draw(5, size, CLASSES)}

    def apply_fn(v, x):
        arrays = [x @ v["q"], x @ v["k"], x @ v["v"] + v["b"]]
        out = attended(*(a.reshape(*x.shape[:2], HEADS, CHANNELS) for a in arrays))
        out = out.reshape(*x.shape[:2], size).mean(1)
        return out @ v["o"] + jnp.tanh(arrays[2]).mean(1) @ v["p"]

    return apply_fn, variables, draw(6, *INPUTS)


PRODUCTS = {"graph_net": graph_net, "pooled": pooled, "experts": experts}
ATTENTION = {
    "library": library,
    "linen": linen,
    "nnx": nnx_net,
    "equinox": equinox,
    "fused": fused,
    "repeated": grouped(repeated=True),
    "grouped": grouped(repeated=False),
    "also_whole": also_whole,
    "normed": normed,
}

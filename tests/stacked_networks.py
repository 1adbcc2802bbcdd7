"""Small networks with layers in loops or kernels made of leaves: (apply_fn, variables, inputs)."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from networks import CLASSES, draw, drawn


def _linen(module, *shape):
    inputs = draw(1, *shape)
    return module.apply, drawn(jax.eval_shape(module.init, jax.random.key(0), inputs)), inputs


def scanned(loop=jax.lax.scan):
    """Three layers with biases in two leaves, run backwards; each step gives an output too."""
    variables = {
        "in": draw(0, 4, 6),
        "stack": {"w": draw(1, 3, 6, 6) / 2, "b": draw(2, 3, 6)},
        "out": draw(3, 6, CLASSES),
    }

    def apply_fn(v, x):
        def step(h, layer):
            h = jnp.tanh(h @ layer["w"] + layer["b"])
            return h, h**2

        h, squares = loop(step, x @ v["in"], v["stack"], reverse=True)
        return (h + squares[0] * squares[2]) @ v["out"]

    return apply_fn, variables, draw(4, 5, 4)


def in_python(step, carry, over, reverse):
    """What `jax.lax.scan` does."""
    steps = range(len(jax.tree.leaves(over)[0]))
    collected = {}
    for i in reversed(steps) if reverse else steps:
        carry, collected[i] = step(carry, jax.tree.map(lambda leaf, i=i: leaf[i], over))
    return carry, jnp.stack([collected[i] for i in steps])


def indexed():
    """Layers taken by the counters of two loops, and a branch that is known."""
    variables = {"w": draw(0, 2, 4, 4), "u": draw(1, 3, 4, 4) / 2, "out": draw(2, 4, CLASSES)}

    def apply_fn(v, x):
        h = jax.lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ v["w"][i]), x)
        h = jax.lax.scan(lambda h, i: (jnp.tanh(h @ v["u"][i]), None), h, jnp.arange(3))[0]
        return jax.lax.cond(True, lambda: h, lambda: 2 * h) @ v["out"]

    return apply_fn, variables, draw(3, 5, 4)


class Block(nn.Module):
    """A block of a transformer, as a step of a scan."""

    @nn.compact
    def __call__(self, h, _):
        h = h + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(h))
        return h + nn.Dense(4)(nn.gelu(nn.Dense(6)(nn.LayerNorm()(h)))), None


class ScannedTransformer(nn.Module):
    """Two blocks in a scan, each rematerialised."""

    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=2,
        )
        h, _ = blocks()(nn.Dense(4)(x), None)
        return nn.Dense(CLASSES)(nn.LayerNorm()(h).mean(1))


class Recurrent(nn.Module):
    cell: type[nn.RNNCellBase]

    @nn.compact
    def __call__(self, x):
        cell = self.cell(4, param_dtype=jnp.result_type(float))
        return nn.Dense(CLASSES)(nn.RNN(cell)(x)[:, -1])


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.wide = nnx.Linear(4, 6, rngs=rngs)
        self.narrow = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, h):
        return h + self.narrow(nnx.silu(self.wide(h)))


class NNXStack(nnx.Module):
    """Blocks made by `nnx.vmap` and run by `nnx.scan`."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return NNXBlock(rngs)

        self.blocks, self.head = make(rngs), nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        step = nnx.scan(lambda h, block: block(h), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.head(step(x, self.blocks))


def nnx_stack():
    graph, state = nnx.split(NNXStack(nnx.Rngs(0)))
    return lambda v, x: nnx.merge(graph, v)(x), drawn(state), draw(1, 5, 4)


def equinox_stack():
    """Layers made by `eqx.filter_vmap` and run by a scan."""
    keys = jax.random.split(jax.random.key(0), 4)
    stack = eqx.filter_vmap(lambda key: eqx.nn.Linear(4, 4, key=key))(keys[:3])
    arrays, static = eqx.partition((stack, eqx.nn.Linear(4, CLASSES, key=keys[3])), eqx.is_array)

    def one(v, x):
        stack, head = eqx.combine(v, static)
        layers, rest = eqx.partition(stack, eqx.is_array)

        def step(h, layer):
            return jnp.tanh(eqx.combine(layer, rest)(h)), None

        return head(jax.lax.scan(step, x, layers)[0])

    return lambda v, x: jax.vmap(lambda x: one(v, x))(x), arrays, draw(1, 5, 4)


def ensemble():
    """Members that `jax.vmap` runs side by side."""
    variables = {"w": draw(0, 3, 4, 6), "b": draw(1, 3, 6), "out": draw(2, 3, 6, CLASSES)}

    def apply_fn(v, x):
        def member(w, b, out):
            return jnp.tanh(x @ w + b) @ out

        return jax.vmap(member)(v["w"], v["b"], v["out"]).sum(0)

    return apply_fn, variables, draw(3, 5, 4)


def unrolled(first):
    """A recurrent network written as a Python loop, from some first state."""
    variables = {
        "first": draw(0, 4),
        "w": draw(1, 3, 4),
        "u": draw(2, 4, 4),
        "b": draw(3, 4),
        "out": draw(4, 4, CLASSES),
    }

    def apply_fn(v, x):
        h = jnp.broadcast_to(first(v), (len(x), 4))
        for step in range(x.shape[1]):
            h = jnp.tanh(x[:, step] @ v["w"] + (h @ v["u"] + v["b"]))
        return h @ v["out"]

    return apply_fn, variables, draw(5, 3, 3, 3)


LOOPS = {
    "scanned": scanned,
    "indexed": indexed,
    "scanned_transformer": lambda: _linen(ScannedTransformer(), 3, 4, 5),
    "lstm": lambda: _linen(Recurrent(nn.OptimizedLSTMCell), 3, 3, 5),
    "gru": lambda: _linen(Recurrent(nn.GRUCell), 3, 3, 5),
    "nnx_stack": nnx_stack,
    "equinox_stack": equinox_stack,
    "ensemble": ensemble,
    "from_zeros": lambda: unrolled(lambda v: jnp.zeros(4)),
    "from_ones": lambda: unrolled(lambda v: jnp.ones(4)),
    "from_learned": lambda: unrolled(lambda v: v["first"]),
}


def _mlp(kernel, **variables):
    """An MLP whose first kernel, (4, 6), is a function of the variables."""
    variables = {**variables, "bias": draw(10, 6), "out": draw(11, 6, CLASSES)}

    def apply_fn(v, x):
        return jnp.tanh(x @ kernel(v) + v["bias"]) @ v["out"]

    return apply_fn, variables, draw(12, 5, 4)


W, MASK = draw(0, 4, 6), (draw(20, 4, 6) > 0).astype(jnp.float32)


def masked_by_collection():
    variables = {"params": {"w": W, "out": draw(1, 6, CLASSES)}, "masks": {"w": MASK}}

    def apply_fn(v, x):
        return jnp.tanh(x @ (v["params"]["w"] * v["masks"]["w"])) @ v["params"]["out"]

    return apply_fn, variables, draw(2, 5, 4)


class Standardised(nn.Module):
    """A convolution whose kernel has mean 0 and variance 1 over the inputs of each output."""

    @nn.compact
    def __call__(self, x):
        w = self.param("kernel", nn.initializers.normal(), (3, 3, 2, 5))
        gain = self.param("gain", nn.initializers.ones, (5,))
        w = gain * (w - w.mean((0, 1, 2))) / (w.std((0, 1, 2)) + 1e-5)
        x = jax.lax.conv_general_dilated(
            x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return nn.Dense(CLASSES)(nn.silu(x).mean((1, 2)))


class WeightNormed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(nn.tanh(nn.WeightNorm(nn.Dense(6))(x)))


@jax.custom_jvp
def rounded(w):
    return jnp.round(4 * w) / 4


rounded.defjvp(lambda primals, tangents: (rounded(*primals), *tangents))


def normalised_classifier():
    """Cosines with the rows of a classifier."""
    variables = {"a": draw(0, 4, 6), "rows": draw(1, CLASSES, 6)}

    def unit(a):
        return a / jnp.linalg.norm(a, axis=-1, keepdims=True)

    def apply_fn(v, x):
        return 8 * unit(jnp.tanh(x @ v["a"])) @ unit(v["rows"]).T

    return apply_fn, variables, draw(2, 5, 4)


KERNELS = {
    "bool_mask": lambda: _mlp(lambda v: v["w"] * v["m"], w=W, m=MASK > 0),
    "stopped_mask": lambda: _mlp(lambda v: v["w"] * jax.lax.stop_gradient(v["m"]), w=W, m=MASK),
    "chosen": lambda: _mlp(lambda v: jnp.where(v["m"] > 0, v["w"], 0.0), w=W, m=MASK),
    "masked_by_collection": masked_by_collection,
    "weight_norm": lambda: _linen(WeightNormed(), 5, 4),
    "standardised": lambda: _linen(Standardised(), 3, 6, 6, 2),
    "normalised_classifier": normalised_classifier,
    "fake_quantised": lambda: _mlp(
        lambda v: v["w"] + jax.lax.stop_gradient(jnp.round(4 * v["w"]) / 4 - v["w"]), w=W
    ),
    "rounded": lambda: _mlp(lambda v: rounded(v["w"]), w=W),
    "lora": lambda: _mlp(
        lambda v: v["w"] + 0.5 * v["a"] @ v["b"], w=W, a=draw(1, 4, 2), b=draw(2, 2, 6)
    ),
    "mixed": lambda: _mlp(lambda v: v["w"] + v["w"] @ v["a"], w=W, a=draw(1, 6, 6) / 2),
    "beside": lambda: _mlp(
        lambda v: jnp.concatenate([v["p"], v["q"]], 1), p=draw(1, 4, 2), q=draw(2, 4, 4)
    ),
    "antisymmetric": lambda: _mlp(
        lambda v: jnp.pad(v["w"] - v["w"].T, ((0, 0), (0, 2))), w=draw(1, 4, 4)
    ),
    "positive": lambda: _mlp(lambda v: jnp.exp(v["w"]).T, w=draw(1, 6, 4)),
}

STACKED = LOOPS | KERNELS

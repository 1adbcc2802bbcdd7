"""Where the examples are: read once, against two readings and against what each example changes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from pruning_jax import models, tracing
from pruning_jax.tracing import batching, equations, flattening, growth
from pruning_jax.tracing.layouts import BatchAxis

IMAGES = {"lenet_300_100": (28, 28, 1), "mlp": (8, 8, 1), "alexnet": (64, 64, 3)}
TWICE = {"positions_first", "concatenated", "tiled", "repeated", "own_rows", "masked"}
MODELS = (*networks.NETWORKS, *models.MODELS)


@functools.cache
def built(name):
    if name in networks.NETWORKS:
        return networks.NETWORKS[name]()
    module = models.build(name, 10)
    inputs = jax.ShapeDtypeStruct((2, *IMAGES.get(name, (32, 32, 3))), jnp.float32)
    variables = jax.eval_shape(
        lambda key: models.init(module, key, jnp.zeros(inputs.shape)), jax.random.key(0)
    )
    return models.apply_fn(module), variables, inputs


def counted(apply_fn):
    """The function, and a list that grows whenever it is traced."""
    calls = []

    def counting(variables, inputs):
        calls.append(jax.tree.leaves(inputs)[0].shape[0])
        return apply_fn(variables, inputs)

    return counting, calls


def twice(apply_fn, variables, inputs, examples):
    """from_inputs and batch by the growth of the axes alone."""
    flats = []
    for size in (examples, 2 * examples):
        resized = jax.ShapeDtypeStruct((size, *inputs.shape[1:]), inputs.dtype)
        flat, output = flattening.flatten(apply_fn, variables, resized)
        flats.append(flat)
    live, source = flattening.live(flats[0].equations, output), len(jax.tree.leaves(variables))
    graph = batching.Graph(flats[0], examples, flats[1])
    return graph.follow(live, {source: BatchAxis(0)}, (output,))


@pytest.mark.parametrize("name", MODELS)
def test_one_reading_says_what_two_say(name):
    apply_fn, variables, inputs = built(name)
    model = tracing.trace(apply_fn, variables, inputs).model
    data, batch = twice(apply_fn, variables, inputs, model.examples)
    assert model.from_inputs == data
    assert model.batch == batch
    again = equations.read(apply_fn, variables, inputs, 5)
    assert (again.from_inputs, again.batch) == (data, batch)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in TWICE])
def test_known_operations_are_traced_once(name):
    apply_fn, variables, inputs = built(name)
    apply_fn, calls = counted(apply_fn)
    model = tracing.trace(apply_fn, variables, inputs).model
    assert calls == [model.examples]
    assert model.examples != inputs.shape[0]


def test_the_number_of_examples_can_be_given():
    apply_fn, variables, inputs = networks.linen()
    assert tracing.trace(apply_fn, variables, inputs, examples=3).model.examples == 3
    with pytest.raises(ValueError, match="examples is 1"):
        tracing.trace(apply_fn, variables, inputs, examples=1)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_an_example_changes_only_its_own_entries(name):
    apply_fn, variables, inputs = built(name)
    examples, other = 4, 2
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(inputs), size=examples)
    inputs = jnp.asarray(inputs)[rows]
    changed = inputs.at[other].set(inputs[other] + 1)
    model = equations.read(apply_fn, variables, inputs)
    arrays, changes = (
        equations.evaluate(model, variables, x, keep=lambda value: True)[1]
        for x in (inputs, changed)
    )
    assert model.batch[model.output] == BatchAxis(0)
    for value in model.from_inputs:
        axis, before, after = model.batch[value]
        differs = np.asarray(arrays[value] != changes[value])
        split = (*differs.shape[:axis], before, examples, after, *differs.shape[axis + 1 :])
        own = np.moveaxis(differs.reshape(split), axis + 1, 0)
        assert not own[np.arange(examples) != other].any(), model.avals[value]
    assert any((arrays[value] != changes[value]).any() for value in model.from_inputs)


W = jnp.linspace(-1.0, 1.0, 30).reshape(6, 5)


def merged(v, x):
    """Rows of positions, then the examples inside a later axis."""
    rows = jnp.tanh(x.reshape(-1, 6) @ v)
    return rows.reshape(x.shape[0], 4, 5).transpose(1, 0, 2).reshape(4, -1, 5).sum(0)


def pooled(v, x):
    h = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 1), (1, 2, 1), "VALID")
    return jnp.pad(h, ((0, 0), (1, 0), (0, 0)))[:, 1] @ v


def embedded(v, x):
    return v[jnp.argmax(x[:, :, :4], axis=2)].mean(1)


def attended(v, x):
    weights = jax.nn.softmax(jnp.einsum("ntc,nsc->nts", x, x), axis=-1)
    return jnp.einsum("nts,nsc->nc", weights, x) @ v


def normed(v, x):
    h = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    return jnp.cumsum(h[:, ::-1], axis=1)[:, 0] @ v


def joined(v, x):
    h = jnp.concatenate([x, jnp.zeros_like(x)], axis=1)
    return jnp.clip(jnp.split(h, 2, axis=1)[0], -1, 1).max(1) @ v


KNOWN = {
    "merged": merged,
    "pooled": pooled,
    "embedded": embedded,
    "attended": attended,
    "normed": normed,
    "joined": joined,
    "elu": lambda v, x: jax.nn.elu(x[:, 0] @ v),
    "leaky": lambda v, x: jax.nn.leaky_relu(jax.nn.selu(x[:, 0] @ v)),
    "smooth": lambda v, x: nn.gelu(jax.nn.silu(x[:, 0] @ v)),
    "vmapped": lambda v, x: jax.vmap(lambda row: jnp.tanh(row @ v).sum(0))(x),
    "left": lambda v, x: jnp.einsum("co,ntc->no", v, x),
    "masked": lambda v, x: jnp.where(jnp.ones_like(x) * 2 > x, x, 0.0).sum(1) @ v,
}


@pytest.mark.parametrize("name", KNOWN)
def test_rules(name):
    apply_fn, calls = counted(KNOWN[name])
    inputs = jnp.ones((3, 4, 6))
    model = equations.read(apply_fn, W, inputs, 11)
    assert (model.from_inputs, model.batch) == twice(KNOWN[name], W, inputs, 11)
    assert calls == ([11, 22] if name in TWICE else [11])


@pytest.mark.parametrize("examples", [2, 4, 19])
@pytest.mark.parametrize(
    "apply_fn",
    [
        lambda n: lambda v, x: x.reshape(n, 6) @ v,
        lambda n: lambda v, x: (x + jnp.ones((n, 6))) @ v,
        lambda n: lambda v, x: jnp.concatenate([x, jnp.zeros((n, 1))], 1)[:, :6] @ v,
    ],
)
def test_a_number_of_examples_that_is_written_into_the_model_is_refused(apply_fn, examples):
    with pytest.raises(ValueError, match="any number of examples on axis 0"):
        tracing.trace(apply_fn(examples), W, jnp.ones((examples, 6)))


@pytest.mark.parametrize("examples", [2, 3, 12])
@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x.reshape(6, -1).T.reshape(x.shape),
        lambda x: x.reshape(2, -1).reshape(-1, 2).reshape(x.shape[0], 6, order="F"),
        lambda x: jnp.concatenate([x, x], 0).reshape(len(x), 12)[:, :6],
        lambda x: x - jnp.ones((len(x), len(x))) @ x,
        lambda x: x + jnp.tril(x @ x.T) @ x,
        lambda x: jnp.concatenate([x[1:], x[:1]]),
        lambda x: x + jnp.ones(x.shape[0])[:, None] * x[0],
        lambda x: jax.lax.conv(x[None], jnp.ones((x.shape[0], x.shape[0], 1)), (1,), "SAME")[0],
        lambda x: jax.nn.relu(x.T @ x)[:1] + x,
        lambda x: jnp.roll(x, 1, axis=0),
    ],
)
def test_mixing_is_refused_at_every_number(mix, examples):
    for number in (None, examples):
        with pytest.raises(ValueError):
            tracing.trace(lambda v, x: mix(x) @ v, W, jnp.ones((examples, 6)), examples=number)


def test_a_constant_that_never_meets_the_examples_is_left_open():
    def apply_fn(v, x):
        return x @ (v * jnp.ones((11, 6, 5)).sum(0))

    flat, output = flattening.flatten(apply_fn, W, jnp.ones((11, 6)))
    live = flattening.live(flat.equations, output)
    with pytest.raises(ValueError, match="may follow the examples"):
        batching.Graph(flat, 11).follow(live, {1: BatchAxis(0)}, (output,))
    model = equations.read(apply_fn, W, jnp.ones((11, 6)))
    assert set(model.batch) == model.from_inputs


def test_a_telling_number_is_a_prime_that_divides_no_size():
    assert growth.telling([1, 2, 5, 10]) == 19
    assert growth.telling([0, 19, 46, 39]) == 29

"""Unit statistics against hand-written gradients; the same for any batch size; pure models only."""

import functools

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import NETWORK
from flax import linen as nn
from networks import CLASSES, NETWORKS, draw
from unit_networks import UNIT_NETWORKS

from pruning_jax import curvature, losses, tracing, trees, units
from pruning_jax.types import Batch

EVERY = NETWORKS | UNIT_NETWORKS
LAID_OUT = ["tied", "views", "positions_first", "concatenated", "tiled", "repeated", "conv_1d"]
LAID_OUT += ["own_rows", "equinox", "nnx", "densely_connected", "excited", "attention"]


def graph_of(apply_fn, variables, inputs):
    return units.graph(tracing.trace(apply_fn, variables, inputs))


def labels_of(inputs, seed=0):
    return jax.random.randint(jax.random.key(seed), inputs.shape[:1], 0, CLASSES)


def network(name):
    apply_fn, variables, inputs = EVERY[name]()
    batch = Batch(inputs, labels_of(inputs))
    return apply_fn, graph_of(apply_fn, variables, inputs), variables, batch


def chunks(batch, size):
    starts = range(0, len(batch.labels), size)
    return [jax.tree.map(lambda x, at=at: x[at : at + size], batch) for at in starts]


assert_close = functools.partial(closeness.assert_close, bound=NETWORK)


def by_hand(activation, gradient):
    """The four statistics of a space read once; positions are the axes between."""
    a, g = (np.asarray(x, np.float64) for x in (activation, gradient))
    a, g = (x.reshape(len(x), -1, x.shape[-1]) for x in (a, g))
    mean = a.mean((0, 1))
    return {
        "means": mean,
        "removal": (-a * g).mean(1),
        "replacement": ((mean - a) * g).mean(1),
        "mean_square": (a**2).mean((0, 1)),
        "zeros": (np.maximum(a, 0) == 0).mean((0, 1)),
    }


def assert_is_by_hand(statistics, space, activation, gradient):
    expected = by_hand(activation, gradient)
    (reading,) = space.readings
    assert_close(statistics.means[reading.value], expected.pop("means"))
    for name, values in expected.items():
        assert_close(getattr(statistics, name)[space.name], values)


def mlp(variables, x):
    h = jax.nn.relu(x @ variables["w1"] + variables["b1"])
    h = jax.nn.relu(h @ variables["w2"] + variables["b2"])
    return h @ variables["w3"]


def mlp_variables():
    return {
        "w1": draw(0, 4, 6),
        "b1": draw(1, 6),
        "w2": draw(2, 6, 5),
        "b2": draw(3, 5),
        "w3": draw(4, 5, CLASSES),
    }


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_an_mlp_by_hand(loss):
    variables, inputs = mlp_variables(), draw(5, 9, 4)
    labels = labels_of(inputs)
    graph = graph_of(mlp, variables, inputs)
    w = {name: np.asarray(leaf, np.float64) for name, leaf in variables.items()}
    h1 = np.maximum(np.asarray(inputs) @ w["w1"] + w["b1"], 0)
    h2 = np.maximum(h1 @ w["w2"] + w["b2"], 0)
    logits = h2 @ w["w3"]
    outputs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slope = (outputs if loss == "cross_entropy" else logits) - np.eye(CLASSES)[np.asarray(labels)]
    g2 = slope @ w["w3"].T
    g1 = (g2 * (h2 > 0)) @ w["w2"].T
    statistics = curvature.unit_statistics(
        graph, variables, Batch(inputs, labels), loss=losses.LOSSES[loss]
    )
    assert list(statistics.removal) == ["w1", "w2"]
    assert_is_by_hand(statistics, graph["w1"], h1, g1)
    assert_is_by_hand(statistics, graph["w2"], h2, g2)


def _convolve(x, kernel, bias):
    return (
        jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        + bias
    )


def _pooled(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def conv_head(variables, a):
    """From the first activation to the logits."""
    a2 = jax.nn.relu(_convolve(_pooled(a), variables["k2"], variables["b2"]))
    return dense_head(variables, a2)


def dense_head(variables, a2):
    return a2.reshape(len(a2), -1) @ variables["w"]


def conv_net(variables, x):
    return conv_head(variables, jax.nn.silu(_convolve(x, variables["k1"], variables["b1"])))


def conv_variables():
    return {
        "k1": draw(0, 3, 3, 2, 5),
        "b1": draw(1, 5),
        "k2": draw(2, 2, 2, 5, 6),
        "b2": draw(3, 6),
        "w": draw(4, 3 * 3 * 6, CLASSES) / 7,
    }


def own_gradients(head, variables, activations, labels):
    """Each example's gradient of its own loss in its own activation."""

    def one(a, label):
        log_p = jax.nn.log_softmax(head(variables, a[None])[0])
        return -log_p[label]

    return jax.vmap(jax.grad(one))(activations, labels)


def test_a_convolutional_network_by_hand():
    variables, inputs = conv_variables(), draw(5, 7, 10, 10, 2)
    labels = labels_of(inputs)
    graph = graph_of(conv_net, variables, inputs)
    statistics = curvature.unit_statistics(graph, variables, Batch(inputs, labels))
    a1 = jax.nn.silu(_convolve(inputs, variables["k1"], variables["b1"]))
    a2 = jax.nn.relu(_convolve(_pooled(a1), variables["k2"], variables["b2"]))
    assert a1.shape[1:3] == (8, 8)
    assert_is_by_hand(statistics, graph["k1"], a1, own_gradients(conv_head, variables, a1, labels))
    assert_is_by_hand(statistics, graph["k2"], a2, own_gradients(dense_head, variables, a2, labels))


def stream(variables, x, taps):
    """A residual stream that is read twice."""
    first = jax.nn.relu(x @ variables["open"]) + taps[0]
    hidden = jnp.tanh(first @ variables["in"]) + taps[1]
    second = first + hidden @ variables["out"] + taps[2]
    return second @ variables["head"]


def test_a_stream_sums_over_its_readings():
    variables = {
        "open": draw(0, 4, 6),
        "in": draw(1, 6, 5),
        "out": draw(2, 5, 6),
        "head": draw(3, 6, CLASSES),
    }
    inputs = draw(4, 8, 4)
    labels = labels_of(inputs)

    def apply_fn(variables, x):
        return stream(variables, x, (0.0, 0.0, 0.0))

    graph = graph_of(apply_fn, variables, inputs)
    space = graph["open"]
    assert graph["out"] is space and len(space.readings) == 2
    statistics = curvature.unit_statistics(graph, variables, Batch(inputs, labels))
    taps = (jnp.zeros((8, 6)), jnp.zeros((8, 5)), jnp.zeros((8, 6)))
    gradients = jax.grad(
        lambda taps: losses.cross_entropy.value(stream(variables, inputs, taps), labels).sum()
    )(taps)
    first = jax.nn.relu(inputs @ variables["open"])
    second = first + jnp.tanh(first @ variables["in"]) @ variables["out"]
    parts = [by_hand(first, gradients[0]), by_hand(second, gradients[2])]
    for reading, part in zip(space.readings, parts, strict=True):
        assert_close(statistics.means[reading.value], part["means"])
    for name in ("removal", "replacement"):
        expected = parts[0][name] + parts[1][name]
        assert_close(getattr(statistics, name)[space.name], expected)
    for name in ("mean_square", "zeros"):
        expected = (parts[0][name] + parts[1][name]) / 2
        assert_close(getattr(statistics, name)[space.name], expected)


def halves(variables, x):
    """Every unit at two places of the axis that the next layer reads, and three others between."""
    return jnp.tanh(spread(variables, x)) @ variables["o"]


def spread(variables, x):
    h = x @ variables["a"]
    return jnp.concatenate([h, x @ variables["b"], -2 * h], 1)


def test_a_unit_at_two_places_has_the_mean_over_them_and_each_place_its_mean():
    variables = {"a": draw(0, 4, 6), "b": draw(1, 4, 3), "o": draw(2, 15, CLASSES)}
    inputs = draw(3, 7, 4)
    labels = labels_of(inputs)
    graph = graph_of(halves, variables, inputs)
    statistics = curvature.unit_statistics(graph, variables, Batch(inputs, labels))
    joined = jnp.tanh(spread(variables, inputs))
    gradients = own_gradients(lambda v, a: a @ v["o"], variables, joined, labels)
    expected = by_hand(joined, gradients)
    (reading,) = graph["a"].readings
    assert_close(statistics.means[reading.value], expected.pop("means"))
    for name, values in expected.items():
        found = getattr(statistics, name)
        assert_close(found["a"], (values[..., :6] + values[..., 9:]) / 2)
        assert_close(found["b"], values[..., 6:9])


@pytest.mark.parametrize("name", LAID_OUT)
def test_examples_alone_or_together_give_the_same(name):
    """Also where the examples are inside a merged axis, or several times in an array."""
    apply_fn, graph, variables, batch = network(name)
    together = curvature.unit_statistics(graph, variables, batch)
    alone = curvature.unit_statistics(graph, variables, chunks(batch, 1))
    assert_close(alone, together)
    assert together.removal.keys() == {space.name for space in graph.prunable}
    for space in graph.prunable:
        shape = (len(batch.labels), space.size)
        assert together.removal[space.name].shape == shape
        assert together.replacement[space.name].shape == shape
        assert together.zeros[space.name].shape == together.mean_square[space.name].shape
        for reading in space.readings:
            assert len(reading.units) in together.means[reading.value].shape


@pytest.mark.parametrize("name", LAID_OUT)
def test_forward_passes_alone_give_the_same_means(name):
    _, graph, variables, batch = network(name)
    expected = curvature.unit_statistics(graph, variables, batch).means
    assert_close(curvature.unit_means(graph, variables, chunks(batch, 2)), expected)


def test_chunks_of_50_and_of_1000_give_the_same():
    variables, inputs = conv_variables(), draw(5, 1000, 10, 10, 2)
    batch = Batch(inputs, labels_of(inputs))
    graph = graph_of(conv_net, variables, inputs[:4])
    whole = curvature.unit_statistics(graph, variables, chunks(batch, 1000))
    for size in (50, 300):
        found = curvature.unit_statistics(graph, variables, iter(chunks(batch, size)))
        assert_close(found, whole)


def test_a_mean_replaced_unit_has_no_first_order_change_where_it_is_constant():
    variables = mlp_variables()
    variables["w1"] = variables["w1"].at[:, 2].set(0.0)
    variables["b1"] = variables["b1"].at[2].set(1.5)
    inputs = draw(5, 9, 4)
    graph = graph_of(mlp, variables, inputs)
    batch = Batch(inputs, labels_of(inputs))
    statistics = curvature.unit_statistics(graph, variables, batch)
    assert_close(statistics.means[graph["w1"].readings[0].value][2], 1.5)
    removal, replacement = (np.asarray(x["w1"][:, 2]) for x in statistics[1:3])
    assert_close(replacement, 0 * removal, scale=np.abs(removal).max())
    assert removal.any()


def test_the_mean_removal_is_a_directional_derivative_of_the_loss():
    """Scaling what a unit of the last hidden layer sends on, by finite differences."""
    variables, inputs = mlp_variables(), draw(5, 9, 4)
    batch = Batch(inputs, labels_of(inputs))
    graph = graph_of(mlp, variables, inputs)
    found = curvature.unit_statistics(graph, variables, batch).removal["w2"].mean(0)
    step = 1e-2

    def loss(scale, unit):
        head = variables["w3"].at[unit].multiply(scale)
        return losses.cross_entropy.value(
            mlp(variables | {"w3": head}, inputs), batch.labels
        ).mean()

    expected = [(loss(1 - step, u) - loss(1 + step, u)) / (2 * step) for u in range(5)]
    # Off by step**2 of a third derivative, and by the rounding of the loss over the step.
    assert_close(found, np.array(expected), bound=step**2)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_activations_have_single_precision_statistics(dtype):
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), mlp_variables())
    inputs = draw(5, 9, 4).astype(dtype)
    batch = Batch(inputs, labels_of(inputs))
    statistics = curvature.unit_statistics(graph_of(mlp, variables, inputs), variables, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {jnp.dtype(jnp.float32)}


class Impure:
    """Models with a state of their own, each a method."""

    def __init__(self):
        self.calls = 0

    def counts(self, v, x):
        self.calls += 1
        return jax.nn.relu(x @ v["a"]) @ v["b"] * float(self.calls)

    def alternates(self, v, x):
        self.calls += 1
        return jax.nn.relu(x @ v["a"]) @ v["b"] * (1.0 if self.calls % 2 else 2.0)

    def switches(self, v, x):
        self.calls += 1
        return (jax.nn.relu if self.calls % 2 else jnp.tanh)(x @ v["a"]) @ v["b"]

    def grows(self, v, x):
        self.calls += 1
        h = x @ v["a"]
        for _ in range(self.calls):
            h = jnp.tanh(h)
        return h @ v["b"]

    def draws(self, v, x):
        noise = np.random.default_rng().standard_normal(6).astype(np.float32)
        return jax.nn.relu(x @ v["a"] + noise) @ v["b"]

    def draws_when_compiled(self, v, x):
        return jax.jit(lambda v, x: self.draws(v, x))(v, x)

    def draws_in_a_rule(self, v, x):
        slope = float(np.random.default_rng().random())

        @jax.custom_jvp
        def leaky(h):
            return jnp.maximum(h, slope * h)

        leaky.defjvp(lambda h, t: (leaky(*h), jnp.where(h[0] > 0, t[0], slope * t[0])))
        return leaky(x @ v["a"]) @ v["b"]

    def draws_in_a_loop(self, v, x):
        decay = float(np.random.default_rng().random())
        return jax.lax.fori_loop(0, 3, lambda i, h: h * decay, jnp.tanh(x @ v["a"])) @ v["b"]


STATES = [name for name in vars(Impure) if not name.startswith("_")]


def pair():
    return {"a": draw(0, 4, 6), "b": draw(1, 6, CLASSES)}, Batch(draw(2, 5, 4), jnp.arange(5) % 4)


STATED = {
    "counts": "a constant of mul changes, equation 3 of the model, .*Python-side state",
    "alternates": "depends on Python-side state",
    "switches": "depends on Python-side state",
    "grows": "runs other operations .* Python-side state",
    "draws": "a constant of broadcast_in_dim changes, equation 1 of the model, .*Python-side state",
    "draws_when_compiled": "a constant of broadcast_in_dim changes, equation 1 of the model",
    "draws_in_a_rule": "custom_jvp_call .* is not the same for several as for one: equation 1 ",
    "draws_in_a_loop": "a constant of mul changes, equation 2 of the model",
}


@pytest.mark.parametrize("name", STATES)
def test_a_model_that_depends_on_python_side_state_is_refused(name):
    variables, batch = pair()
    apply_fn = getattr(Impure(), name)
    graph = graph_of(apply_fn, variables, batch.inputs)
    for statistic in (curvature.unit_statistics, curvature.unit_means, curvature.ggn_diagonal):
        with pytest.raises(ValueError, match=STATED[name]):
            statistic(graph, variables, batch)


def test_a_compiled_model_that_draws_is_refused():
    variables, batch = pair()
    apply_fn = jax.jit(Impure().draws)
    graph = graph_of(apply_fn, variables, batch.inputs)
    with pytest.raises(ValueError, match="Python-side state"):
        curvature.unit_statistics(graph, variables, batch)


def test_a_model_whose_state_changes_is_refused_or_stays_what_was_read():
    variables, batch = pair()
    settings = {"activation": jax.nn.relu}

    def apply_fn(v, x):
        return settings["activation"](x @ v["a"]) @ v["b"]

    used, unused = (graph_of(apply_fn, variables, batch.inputs) for _ in range(2))
    before = curvature.unit_statistics(used, variables, batch)
    settings["activation"] = jnp.tanh
    with pytest.raises(ValueError, match="runs other operations .* equation 1; .*Python-side"):
        curvature.unit_statistics(unused, variables, batch)
    assert_close(curvature.unit_statistics(used, variables, batch), before)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_no_network_is_taken_for_impure_or_for_one_that_mixes_examples(name, compiled):
    apply_fn, variables, inputs = EVERY[name]()
    trace = tracing.trace(jax.jit(apply_fn) if compiled else apply_fn, variables, inputs)
    tracing.check(trace, variables, inputs[:1] if compiled else inputs)


class Dropped(nn.Module):
    """A constant table, a NaN, dropout that is off, and a compiled part."""

    @nn.compact
    def __call__(self, x):
        table = np.where(np.arange(6) > 7, np.nan, np.linspace(0, 1, 6)).astype(np.float32)
        x = nn.Dropout(0.5, deterministic=True)(nn.Dense(6)(x) * table)
        x = jnp.where(jnp.isnan(x), jnp.nan, jax.jit(nn.gelu)(x))
        noise = jax.random.normal(jax.random.key(3), (6,))
        return nn.Dense(CLASSES)(x + 0.0 * noise)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_pure_model_with_constants_is_not_refused(compiled):
    inputs = draw(0, 5, 4)
    module = Dropped()
    variables = module.init(jax.random.key(0), inputs)
    apply_fn = jax.jit(module.apply) if compiled else module.apply
    batch = Batch(inputs, labels_of(inputs))
    graph = graph_of(apply_fn, variables, inputs)
    curvature.unit_statistics(graph, variables, chunks(batch, 2))


def test_a_graph_of_shapes_will_do():
    variables, batch = pair()
    shapes = jax.eval_shape(lambda: (variables, batch.inputs))

    def apply_fn(v, x):
        return jnp.tanh(x @ v["a"]) @ v["b"]

    graph = graph_of(apply_fn, *shapes)
    other = graph_of(apply_fn, variables, batch.inputs)
    assert_close(
        curvature.unit_statistics(graph, variables, batch),
        curvature.unit_statistics(other, variables, batch),
    )


def test_bad_input_is_refused():
    variables, inputs = mlp_variables(), draw(5, 9, 4)
    batch = Batch(inputs, labels_of(inputs))
    trace = tracing.trace(mlp, variables, inputs)
    graph = units.graph(trace)
    run = curvature.unit_statistics
    with pytest.raises(
        ValueError, match="graph is a Trace; it must be a UnitGraph, as units.graph"
    ):
        run(trace, variables, batch)
    with pytest.raises(ValueError, match="graph is a Trace; it must be a UnitGraph"):
        curvature.unit_means(trace, variables, batch)
    with pytest.raises(ValueError, match="batches is empty"):
        run(graph, variables, [])
    with pytest.raises(ValueError, match="labels go from"):
        run(graph, variables, Batch(inputs, batch.labels + CLASSES))
    with pytest.raises(ValueError, match="inputs of batch 0 are not all finite"):
        run(graph, variables, Batch(inputs.at[0, 0].set(jnp.nan), batch.labels))
    with pytest.raises(ValueError, match="loss must be a losses.Loss"):
        run(graph, variables, batch, loss=losses.cross_entropy.value)
    wide = variables | {"w2": draw(0, 6, 7), "b2": draw(1, 7), "w3": draw(2, 7, CLASSES)}
    with pytest.raises(ValueError, match=r"have \(7,\) at 'b2', and those that were traced \(5,\)"):
        run(graph, wide, batch)
    with pytest.raises(
        ValueError, match=r"have \(2,\) at 'extra', and those that were traced nothing"
    ):
        run(graph, variables | {"extra": jnp.ones(2)}, batch)


def test_inputs_of_another_shape_are_refused():
    def apply_fn(v, x):
        return jax.nn.relu(x @ v["a"]).mean(1) @ v["b"]

    variables, inputs = {"a": draw(0, 4, 6), "b": draw(1, 6, CLASSES)}, draw(2, 5, 3, 4)
    graph = graph_of(apply_fn, variables, inputs)
    batch = Batch(draw(2, 5, 2, 4), labels_of(inputs))
    with pytest.raises(ValueError, match=r"has shape \[\(2, 4\)\], and one that was traced"):
        curvature.unit_statistics(graph, variables, batch)


def test_a_model_that_is_another_for_other_numbers_of_examples_is_refused():
    def apply_fn(v, x):
        activation = jax.nn.relu if x.shape[0] == 1 else jnp.tanh
        return activation(x @ v["a"]) @ v["b"]

    variables, batch = pair()
    graph = graph_of(apply_fn, variables, batch.inputs)
    with pytest.raises(ValueError, match="runs other operations for 3 examples than for one"):
        curvature.unit_statistics(graph, variables, batch)


def test_only_prunable_units_have_statistics():
    variables, batch = draw(0, 4, CLASSES), Batch(draw(1, 3, 4), jnp.arange(3))
    graph = graph_of(lambda v, x: x @ v, variables, batch.inputs)
    statistics = curvature.unit_statistics(graph, variables, batch)
    assert not graph.prunable and not any(statistics)
    assert trees.size(statistics) == 0

"""Many variants measured at once against each applied on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import NETWORK, assert_close

from pruning_jax import evaluation, losses, models, replacement, tracing, units
from pruning_jax.analysis import variants
from pruning_jax.types import Batch

CLASSES = 4
NETWORKS = {
    "mlp": ("mlp", {"widths": (7, 5), "activation": "relu"}, (6,)),
    "valid": ("small_conv", {"widths": (3, 4, 5, 6, 7)}, (28, 28, 1)),
    "same": (
        "small_conv",
        {"widths": (3, 4, 5, 6, 7), "padding": "SAME", "batch_norm": True},
        (8, 8, 2),
    ),
    "resnet": ("resnet", {"depth": 8, "widths": (4, 5, 6)}, (8, 8, 3)),
}


def branching(variables, x):
    """Two branches side by side, one of which skips a layer."""
    left = jax.nn.relu(x @ variables["a"]["kernel"] + variables["a"]["bias"])
    right = jnp.tanh(x @ variables["b"]["kernel"] + variables["b"]["bias"])
    joined = jnp.concatenate([left, right], axis=-1)
    middle = jax.nn.relu(joined @ variables["c"]["kernel"] + variables["c"]["bias"])
    last = jnp.concatenate([middle, right], axis=-1)
    return last @ variables["d"]["kernel"] + variables["d"]["bias"]


def pre_activation(variables, x):
    """A residual stream that is read after a function of it, twice."""
    stream = x @ variables["a"]["kernel"] + variables["a"]["bias"]
    read = jax.nn.relu(stream)
    stream = stream + read @ variables["b"]["kernel"] + variables["b"]["bias"]
    return jax.nn.relu(stream) @ variables["c"]["kernel"] + variables["c"]["bias"]


PLAIN = {
    "branching": (branching, {"a": (6, 5), "b": (6, 4), "c": (9, 3), "d": (7, CLASSES)}),
    "pre_activation": (pre_activation, {"a": (6, 5), "b": (5, 5), "c": (5, CLASSES)}),
}


def filled(variables, seed=0):
    """Random leaves in place of constant ones, so that every one of them matters."""
    draws = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(
            np.abs(draws.normal(size=leaf.shape)) * 0.3 + 0.1
            if np.ptp(leaf) == 0
            else draws.normal(size=leaf.shape) * np.std(leaf),
            leaf.dtype,
        ),
        variables,
    )


@pytest.fixture(params=[*NETWORKS, *PLAIN], scope="module")
def network(request):
    """apply_fn, graph, variables, batch, means of one network."""
    if request.param in PLAIN:
        apply_fn, sizes = PLAIN[request.param]
        variables = {n: {"bias": jnp.zeros(s[1]), "kernel": jnp.eye(*s)} for n, s in sizes.items()}
        return prepared(apply_fn, variables, (6,))
    name, fields, shape = NETWORKS[request.param]
    module = models.build(name, CLASSES, **fields)
    variables = models.init(module, jax.random.key(0), jnp.zeros((1, *shape)))
    return prepared(models.apply_fn(module), variables, shape)


def prepared(apply_fn, variables, shape, examples=13):
    draws = np.random.default_rng(1)
    batch = Batch(
        jnp.asarray(draws.normal(size=(examples, *shape)), jnp.float32),
        jnp.asarray(draws.integers(0, CLASSES, examples)),
    )
    variables = filled(variables)
    graph = units.graph(tracing.trace(apply_fn, variables, batch.inputs))
    return apply_fn, graph, variables, batch, foldable(graph, variables)


def foldable(graph, variables):
    draws = np.random.default_rng(2)
    return {
        reading.value: jnp.asarray(draws.normal(size=reading.units.shape), jnp.float32)
        for space in graph.prunable
        for reading in space.readings
    }


def every_variant(graph):
    """No unit and one of some spaces, each alone, the last two, and all together."""
    scores = {
        space.name: np.random.default_rng(3).normal(size=space.size).astype(np.float32)
        for space in graph.prunable
    }
    names = list(scores)
    sets = [{names[0]}, {names[len(names) // 2]}, set(names), set(names[-2:])]
    chosen = [{name: scores[name] for name in names} for names in sets]
    return [units.from_scores(some, count=count) for some in chosen for count in (0, 1)]


def assert_same_metrics(found, wanted):
    assert_close(found.loss, wanted.loss, NETWORK)
    assert found.accuracy == wanted.accuracy


def test_removed_networks_have_the_loss_of_each_applied_on_its_own(network):
    apply_fn, graph, variables, batch, _ = network
    several = every_variant(graph)
    dense, found = variants.measure(graph, variables, batch, several)
    assert_same_metrics(dense, evaluation.evaluate(apply_fn, variables, batch))
    for unit_masks, measured in zip(several, found, strict=True):
        removed = units.apply_masks(graph, variables, unit_masks)
        assert_same_metrics(measured.zero, evaluation.evaluate(apply_fn, removed, batch))
        assert measured.mean is None


def test_replaced_networks_have_the_loss_of_each_folded_on_its_own(network):
    apply_fn, graph, variables, batch, means = network
    several = every_variant(graph)
    _, found = variants.measure(graph, variables, batch, several, means=means)
    for unit_masks, measured in zip(several, found, strict=True):
        removed = units.apply_masks(graph, variables, unit_masks)
        assert_same_metrics(measured.zero, evaluation.evaluate(apply_fn, removed, batch))
        folded = replacement.fold_means(graph, variables, means, unit_masks).variables
        assert_same_metrics(measured.mean, evaluation.evaluate(apply_fn, folded, batch))


@pytest.fixture(scope="module")
def conv():
    name, fields, shape = NETWORKS["same"]
    module = models.build(name, CLASSES, **fields | {"batch_norm": False})
    variables = models.init(module, jax.random.key(0), jnp.zeros((1, *shape)))
    return prepared(models.apply_fn(module), variables, shape)


@pytest.mark.parametrize("chunk", [1, 3, 5, 100])
def test_means_do_not_depend_on_the_chunk(conv, chunk):
    _, graph, variables, batch, means = conv
    several = every_variant(graph)[-4:]
    _, whole = variants.measure(graph, variables, batch, several, means=means)
    _, parts = variants.measure(graph, variables, batch, several, means=means, chunk=chunk)
    for one, other in zip(whole, parts, strict=True):
        assert_same_metrics(one.zero, other.zero)
        assert_same_metrics(one.mean, other.mean)


def test_one_example_and_another_loss(conv):
    apply_fn, graph, variables, batch, _ = conv
    one = Batch(batch.inputs[:1], jax.nn.one_hot(batch.labels[:1], CLASSES))
    (unit_masks,) = every_variant(graph)[1:2]
    _, (found,) = variants.measure(graph, variables, one, [unit_masks], loss=losses.squared_error)
    removed = units.apply_masks(graph, variables, unit_masks)
    wanted = evaluation.evaluate(apply_fn, removed, one, loss=losses.squared_error)
    np.testing.assert_allclose(found.zero.loss, wanted.loss, rtol=1e-5)


def test_variants_that_remove_nothing_are_the_network_and_equal_ones_are_measured_once(conv):
    _, graph, variables, batch, means = conv
    whole = {space.name: np.ones(space.size, bool) for space in graph.prunable}
    dense, found = variants.measure(graph, variables, batch, [{}, whole], means=means)
    assert all(one.zero is dense and one.mean is dense for one in found)
    less = {name: mask.copy() for name, mask in whole.items()}
    less["params/Conv_1"][2] = False
    alone = {"params/Conv_1": less["params/Conv_1"]}
    _, found = variants.measure(graph, variables, batch, [less, alone, less])
    assert found[0] is found[1] is found[2]


def test_what_lies_before_the_pruned_layers_is_computed_once_for_all_variants():
    calls = []

    def counted(x):
        calls.append(len(x))
        return x

    def apply_fn(variables, x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        x = jax.pure_callback(counted, shape, x, vmap_method="expand_dims")
        h = jax.nn.relu(x @ variables["a"])
        return h @ variables["b"] + variables["b_bias"]

    variables = {"a": jnp.eye(6, 5), "b": jnp.eye(5, CLASSES), "b_bias": jnp.zeros(CLASSES)}
    _, graph, variables, batch, means = prepared(apply_fn, variables, (6,))
    several = [{"a": np.arange(5) != unit} for unit in range(5)]
    ran = []
    for count in (2, 5):
        calls.clear()
        variants.measure(graph, variables, batch, several[:count], means=means)
        ran.append(len(calls))
    # The check of the graph and what was compiled ran in the first round alone.
    assert 0 < ran[1] <= ran[0]


def test_an_array_of_two_spaces_is_masked_along_both_axes():
    shapes = {"a": (3, 4), "b": (2, 5), "c": (4, 5, CLASSES)}
    variables = {n: jnp.asarray(draw(s), jnp.float32) for n, s in shapes.items()}
    variables |= {"c_bias": jnp.zeros(CLASSES), "a_bias": jnp.ones(4)}

    def apply_fn(v, x):
        rows = jax.nn.relu(x[:, :3] @ v["a"] + v["a_bias"])
        columns = jax.nn.relu(x[:, 3:] @ v["b"])
        both = rows[:, :, None] * columns[:, None, :]
        return jnp.einsum("nij,ijo->no", both, v["c"]) + v["c_bias"]

    batch = Batch(jnp.asarray(draw((7, 5)), jnp.float32), jnp.arange(7) % CLASSES)
    graph = units.graph(tracing.trace(apply_fn, variables, batch.inputs))
    unit_masks = {space.name: np.arange(space.size) > 1 for space in graph.prunable}
    assert len(unit_masks) == 2
    _, (found,) = variants.measure(graph, variables, batch, [unit_masks])
    removed = units.apply_masks(graph, variables, unit_masks)
    assert_same_metrics(found.zero, evaluation.evaluate(apply_fn, removed, batch))


def test_a_model_that_mixes_its_examples_is_refused():
    def apply_fn(variables, x):
        h = jnp.tanh((x - x.mean(0)) @ variables["a"])
        return h @ variables["b"]

    variables = {"a": jnp.eye(6, 5), "b": jnp.eye(5, CLASSES)}
    _, graph, variables, batch, _ = prepared(apply_fn, variables, (6,))
    with pytest.raises(ValueError, match="mixes examples"):
        variants.measure(graph, variables, batch, [])


def draw(shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def test_bad_masks_and_chunks_are_refused(conv):
    _, graph, variables, batch, _ = conv
    with pytest.raises(ValueError, match="Conv_0"):
        variants.measure(graph, variables, batch, [{"params/Conv_0": np.ones(2, bool)}])
    with pytest.raises(ValueError, match="chunk is 0; it must be 1 example or more"):
        variants.measure(graph, variables, batch, [], chunk=0)

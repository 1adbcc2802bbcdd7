"""Many variants measured at once against each applied on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import NETWORK, assert_close

from pruning_jax import evaluation, losses, models, penalties, replacement, tracing, units
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
    variants = every_variant(graph)
    dense, found = penalties.measure(apply_fn, graph, variables, batch, variants)
    assert_same_metrics(dense, evaluation.evaluate(apply_fn, variables, batch))
    for unit_masks, measured in zip(variants, found, strict=True):
        removed = units.apply_masks(graph, variables, unit_masks)
        assert_same_metrics(measured.zero, evaluation.evaluate(apply_fn, removed, batch))
        assert measured.mean is None


def test_replaced_networks_have_the_loss_of_each_folded_on_its_own(network):
    apply_fn, graph, variables, batch, means = network
    variants = every_variant(graph)
    _, found = penalties.measure(apply_fn, graph, variables, batch, variants, means=means)
    for unit_masks, measured in zip(variants, found, strict=True):
        removed = units.apply_masks(graph, variables, unit_masks)
        assert_same_metrics(measured.zero, evaluation.evaluate(apply_fn, removed, batch))
        folded = replacement.fold_means(graph, variables, means, unit_masks)
        assert_same_metrics(measured.mean, evaluation.evaluate(apply_fn, folded, batch))


@pytest.fixture(scope="module")
def conv():
    name, fields, shape = NETWORKS["same"]
    module = models.build(name, CLASSES, **fields | {"batch_norm": False})
    variables = models.init(module, jax.random.key(0), jnp.zeros((1, *shape)))
    return prepared(models.apply_fn(module), variables, shape)


@pytest.mark.parametrize("chunk", [2, 3, 5, 100])
def test_means_do_not_depend_on_the_chunk(conv, chunk):
    apply_fn, graph, variables, batch, means = conv
    variants = every_variant(graph)[-4:]
    _, whole = penalties.measure(apply_fn, graph, variables, batch, variants, means=means)
    _, parts = penalties.measure(
        apply_fn, graph, variables, batch, variants, means=means, chunk=chunk
    )
    for one, other in zip(whole, parts, strict=True):
        assert_same_metrics(one.zero, other.zero)
        assert_same_metrics(one.mean, other.mean)


def test_one_example_and_another_loss(conv):
    apply_fn, graph, variables, batch, _ = conv
    one = Batch(batch.inputs[:1], jax.nn.one_hot(batch.labels[:1], CLASSES))
    (unit_masks,) = every_variant(graph)[1:2]
    _, (found,) = penalties.measure(
        apply_fn, graph, variables, one, [unit_masks], loss=losses.squared_error
    )
    removed = units.apply_masks(graph, variables, unit_masks)
    wanted = evaluation.evaluate(apply_fn, removed, one, loss=losses.squared_error)
    np.testing.assert_allclose(found.zero.loss, wanted.loss, rtol=1e-5)


def test_variants_that_remove_nothing_cost_nothing_and_equal_ones_are_measured_once(
    conv, monkeypatch
):
    apply_fn, graph, variables, batch, means = conv
    asked, real = [], penalties._sums
    monkeypatch.setattr(penalties, "_sums", lambda *a: asked.extend(a[4]) or real(*a), raising=True)
    whole = {space.name: np.ones(space.size, bool) for space in graph.prunable}
    dense, found = penalties.measure(apply_fn, graph, variables, batch, [{}, whole], means=means)
    assert not asked and all(one.zero is dense and one.mean is dense for one in found)
    less = {name: mask.copy() for name, mask in whole.items()}
    less["params/Conv_1"][2] = False
    alone = {"params/Conv_1": less["params/Conv_1"]}
    _, found = penalties.measure(apply_fn, graph, variables, batch, [less, alone, less])
    assert len(asked) == 1 and found[0] is found[1] is found[2]


def test_layers_before_the_first_pruned_one_are_not_computed_again(conv):
    apply_fn, graph, variables, batch, _ = conv
    specification = penalties._specification(variables, batch.inputs)
    later = {}
    for name in ("params/Conv_0", "params/Conv_2", "params/Dense_1"):
        programs = penalties._programs(apply_fn, losses.cross_entropy, (name,), *specification)
        cached = jax.eval_shape(programs.before, variables, batch.inputs)
        masks = {name: jnp.ones(graph[name].size, bool)}
        chunk = cached, batch.labels
        text = str(jax.make_jaxpr(programs.after)((None, masks), variables, chunk))
        later[name] = text.count("conv_general_dilated["), text.count("dot_general[")
    assert later == {
        "params/Conv_0": (2, 3),
        "params/Conv_2": (0, 3),
        "params/Dense_1": (0, 1),
    }


def test_bad_masks_are_refused(conv):
    apply_fn, graph, variables, batch, _ = conv
    with pytest.raises(ValueError, match="Conv_0"):
        penalties.measure(apply_fn, graph, variables, batch, [{"params/Conv_0": np.ones(2, bool)}])

"""Patterns, densities and fan-ins lie where the trace has the inputs, whatever the library."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import CLASSES, NETWORKS, draw
from unit_networks import UNIT_NETWORKS

from pruning_jax import layouts, masks, retraining, tracing, trees

EVERY = NETWORKS | UNIT_NETWORKS
FLAX = ("linen", "residual", "separable", "chain")


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(8, (3, 2), padding="VALID", name="conv")(x))
        x = nn.tanh(nn.Conv(12, (2, 2), feature_group_count=2, name="grouped")(x))
        return nn.Dense(CLASSES, name="dense")(x.mean((1, 2)))


class EquinoxNet(eqx.Module):
    conv: eqx.nn.Conv2d
    grouped: eqx.nn.Conv2d
    dense: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.conv = eqx.nn.Conv2d(4, 8, (3, 2), key=keys[0])
        self.grouped = eqx.nn.Conv2d(8, 12, 2, groups=2, padding="SAME", key=keys[1])
        self.dense = eqx.nn.Linear(12, CLASSES, key=keys[2])

    def __call__(self, x):
        x = jnp.tanh(self.grouped(jnp.tanh(self.conv(x))))
        return self.dense(x.mean((1, 2)))


TRANSPOSED = {"conv": (3, 2, 0, 1), "grouped": (3, 2, 0, 1), "dense": (1, 0)}
"""The axes of an Equinox kernel, of those of the Linen kernel."""


def twins():
    """A Linen and an Equinox network of the same weights, and their traces."""
    module, inputs = LinenNet(), draw(0, 3, 6, 5, 4)
    linen = module.init(jax.random.key(1), inputs)
    arrays, static = eqx.partition(EquinoxNet(jax.random.key(2)), eqx.is_array)
    for name, order in TRANSPOSED.items():
        kernel = linen["params"][name]["kernel"].transpose(order)
        bias = jnp.zeros(getattr(arrays, name).bias.shape)
        arrays = eqx.tree_at(lambda a, n=name: getattr(a, n).weight, arrays, kernel)
        arrays = eqx.tree_at(lambda a, n=name: getattr(a, n).bias, arrays, bias)

    def apply_fn(variables, inputs):
        return jax.vmap(eqx.combine(variables, static))(inputs.transpose(0, 3, 1, 2))

    np.testing.assert_allclose(apply_fn(arrays, inputs), module.apply(linen, inputs), rtol=1e-4)
    traces = [tracing.trace(fn, v, inputs) for fn, v in ((module.apply, linen), (apply_fn, arrays))]
    return linen, arrays, *traces


def scores_of(variables, trace, seed=0):
    leaves = trees.select(variables, trace.kernels)
    return jax.tree.map(lambda leaf: draw(seed + leaf.size, *leaf.shape), leaves)


def twin_scores():
    """Scores of the twins, the same of the same weight."""
    linen, arrays, first, second = twins()
    scores = scores_of(linen, first)
    other = trees.select(arrays, second.kernels)
    for name, order in TRANSPOSED.items():
        turned = scores["params"][name]["kernel"].transpose(order)
        other = eqx.tree_at(lambda a, n=name: getattr(a, n).weight, other, turned)
    return scores, other, first, second


def check_twins(linen, equinox):
    for name, order in TRANSPOSED.items():
        expected = linen["params"][name]["kernel"].transpose(order)
        np.testing.assert_array_equal(getattr(equinox, name).weight, expected)


def test_a_pattern_lies_along_the_inputs_of_both_twins():
    scores, other, first, second = twin_scores()
    kept = masks.n_of_m(scores, 1, 4, trace=first)
    check_twins(kept, masks.n_of_m(other, 1, 4, trace=second))
    check_twins(kept, masks.n_of_m(other, 1, 4, axis=1))
    jax.tree.map(np.testing.assert_array_equal, kept, masks.n_of_m(scores, 1, 4, axis=-2))
    weights = np.asarray(kept["params"]["dense"]["kernel"])
    np.testing.assert_array_equal(weights.reshape(3, 4, CLASSES).sum(1), 1)
    jitted = jax.jit(lambda scores: masks.n_of_m(scores, 1, 4, trace=second))(other)
    check_twins(kept, jitted)


def test_a_collection_alone_is_known_too():
    scores, _, trace, _ = twin_scores()
    whole = masks.n_of_m(scores, 2, 4, trace=trace)
    alone = masks.n_of_m(scores["params"], 2, 4, trace=trace)
    jax.tree.map(np.testing.assert_array_equal, whole["params"], alone)


def test_inputs_on_several_axes_are_one_row():
    apply_fn, variables, inputs = UNIT_NETWORKS["attention"]()
    trace = tracing.trace(apply_fn, variables, inputs)
    scores = trees.select(scores_of(variables, trace), [n for n in trace.kernels if "Atten" in n])
    kept = trees.named_leaves(masks.n_of_m(scores, 3, 8, trace=trace))
    for name, leaf in trees.named_leaves(scores).items():
        rows = (8, -1)
        flat, found = np.asarray(leaf).reshape(rows), np.asarray(kept[name]).reshape(rows)
        for unit in range(flat.shape[1]):
            best = np.argsort(-flat[:, unit])[:3]
            np.testing.assert_array_equal(np.flatnonzero(found[:, unit]), np.sort(best))


def reshaped():
    """Kernels whose axes a reshape merges, one that is not read, and a bias of two axes."""
    variables = {
        "merged": draw(0, 4, 2, 4),
        "halves": draw(1, 2, 4, 8),
        "odd": draw(2, 8, 6),
        "bias": draw(3, 2, 3),
        "unread": draw(4, 6, 6),
        "last": draw(5, 6, CLASSES),
    }

    def apply_fn(v, x):
        h = jnp.tanh(x @ v["merged"].reshape(4, 8))
        h = jnp.tanh(h @ v["halves"].reshape(8, 8))
        h = (h @ v["odd"]).reshape(-1, 2, 3) + v["bias"]
        h = h.reshape(-1, 6)
        h = h @ v["unread"] + h * v["unread"][0]
        return h @ v["last"]

    return apply_fn, variables, draw(6, 5, 4)


def traced(network):
    apply_fn, variables, inputs = network()
    return variables, tracing.trace(apply_fn, variables, inputs)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("merged", 4, "which axes of 'merged' of shape .* merges, splits or repeats"),
        ("odd", 3, r"'odd' of shape \(8, 6\) has 8 inputs, not whole groups of 3"),
        ("bias", 3, "'bias' is no kernel of the trace"),
        ("unread", 3, "the axes of 'unread' are is not known: .* also used by mul"),
    ],
)
def test_a_pattern_without_known_inputs_is_refused_by_name(name, size, message):
    variables, trace = traced(reshaped)
    with pytest.raises(ValueError, match=message):
        masks.n_of_m({name: variables[name]}, 1, size, trace=trace)


def test_uses_that_differ_are_refused_by_name():
    variables, trace = traced(NETWORKS["tied"])
    scores = trees.select(variables, trace.kernels)
    with pytest.raises(ValueError, match="which axes of '1/w' .* its uses differ"):
        masks.n_of_m(scores, 1, 2, trace=trace)


def test_one_of_trace_and_axis_is_asked_for():
    scores, _, trace, _ = twin_scores()
    with pytest.raises(ValueError, match="give either trace= .* or axis="):
        masks.n_of_m(scores, 1, 4)
    with pytest.raises(ValueError, match="give only one of trace= .* or axis="):
        masks.n_of_m(scores, 1, 4, trace=trace, axis=-2)


def test_a_trace_of_another_model_is_refused():
    _, _, trace, _ = twin_scores()
    with pytest.raises(ValueError, match="unknown leaf of the trace 'params/dense/kernl'.*did you"):
        masks.n_of_m({"params": {"dense": {"kernl": jnp.ones((12, 4))}}}, 1, 4, trace=trace)
    with pytest.raises(ValueError, match=r"'dense/kernel' has shape \(8, 4\); it was traced with"):
        masks.n_of_m({"dense": {"kernel": jnp.ones((8, 4))}}, 1, 4, trace=trace)


def removed(kept):
    return {name: count.removed for name, count in masks.counts(kept).items()}


@pytest.mark.parametrize("sparsity", [0.3, 0.7, 0.9])
def test_erk_densities_are_those_of_the_merged_kernels(sparsity):
    """Attention's kernels have several axes for their features; two matrices say the same."""
    variables, trace = traced(UNIT_NETWORKS["attention"])
    scores = scores_of(variables, trace)
    features = {name: leaf.shape for name, leaf in trees.named_leaves(scores).items()}
    features = {name: (8, 8) if "Atten" in name else shape for name, shape in features.items()}
    flat = {name: draw(0, *shape) for name, shape in features.items()}
    found = removed(masks.from_scores(scores, sparsity, scope="erk", trace=trace))
    assert found == removed(masks.from_scores(flat, sparsity, scope="erk"))
    assert found != removed(masks.from_scores(scores, sparsity, scope="erk"))


def test_erk_densities_of_reshaped_kernels():
    variables, trace = traced(reshaped)
    names = ("merged", "halves", "odd", "last")
    scores = {name: draw(0, *variables[name].shape) for name in names}
    flat = {**scores, "merged": draw(0, 4, 8), "halves": draw(0, 8, 8)}
    found = removed(masks.from_scores(scores, 0.7, scope="erk", trace=trace))
    assert found == removed(masks.from_scores(flat, 0.7, scope="erk"))
    with pytest.raises(ValueError, match="'unread' are is not known"):
        scores |= {"unread": variables["unread"]}
        masks.from_scores(scores, 0.7, scope="erk", trace=trace)


@pytest.mark.parametrize("name", FLAX)
def test_erk_masks_of_flax_layouts_are_what_they_were(name):
    variables, trace = traced(EVERY[name])
    scores = scores_of(variables, trace)
    with_trace = masks.from_scores(scores, 0.8, scope="erk", trace=trace)
    without = masks.from_scores(scores, 0.8, scope="erk")
    jax.tree.map(np.testing.assert_array_equal, with_trace, without)


@pytest.mark.parametrize("name", EVERY)
def test_dimensions_have_the_size_of_the_leaf(name):
    _, trace = traced(EVERY[name])
    for layer in trace.layers:
        if name == "views" and layer.kernel == "repeated":
            continue
        sizes = layouts.dimensions(trace, layer.kernel, layer.kernel_shape)
        assert np.prod(sizes) == np.prod(layer.kernel_shape)


def test_twins_are_rescaled_alike():
    linen, arrays, first, second = twins()
    scores, other, *_ = twin_scores()
    kept, kept_other = masks.from_scores(scores, 0.6), masks.from_scores(other, 0.6)
    check_twins(kept, kept_other)
    small = retraining.rescaled(linen, kept, trace=first)
    check_twins(small, retraining.rescaled(arrays, kept_other, trace=second))
    check_twins(small, retraining.rescaled(arrays, kept_other, output_axis=0))
    by_axis = retraining.rescaled(linen, kept, output_axis=-1)
    jax.tree.map(np.testing.assert_array_equal, small, by_axis)
    alone = retraining.rescaled(linen["params"], kept["params"], trace=first)
    jax.tree.map(np.testing.assert_array_equal, small["params"], alone)


def test_attention_is_rescaled_by_the_inputs_of_its_features():
    variables, trace = traced(UNIT_NETWORKS["attention"])
    kept = masks.from_scores(scores_of(variables, trace), 0.5)
    small = trees.named_leaves(retraining.rescaled(variables, kept, trace=trace))
    leaves, kept = trees.named_leaves(variables), trees.named_leaves(kept)
    for layer in trace.layers:
        name, inputs = layer.kernel, 8 if "Atten" in layer.kernel else layer.kernel_shape[0]
        mask = np.asarray(kept[name]).reshape(inputs, -1)
        mean = mask.sum(0)[mask.any(0)].mean()
        expected = np.where(kept[name], leaves[name] * np.sqrt(inputs / mean), 0)
        np.testing.assert_allclose(small[name], expected, rtol=1e-6)


def test_a_bias_of_two_axes_is_masked_and_not_rescaled():
    variables, trace = traced(reshaped)
    mask = np.arange(6).reshape(2, 3) > 1
    none = trees.select(variables, ())
    small = retraining.rescaled(variables, none | {"bias": mask}, trace=trace)
    np.testing.assert_array_equal(small["bias"], np.where(mask, variables["bias"], 0))
    with pytest.raises(ValueError, match="'unread' are is not known"):
        kept = none | {"unread": np.ones((6, 6), bool)}
        retraining.rescaled(variables, kept, trace=trace)
    with pytest.raises(ValueError, match="give either trace= .* or output_axis="):
        retraining.rescaled(variables, none)
    with pytest.raises(ValueError, match="give only one of trace="):
        retraining.rescaled(variables, none, trace=trace, output_axis=-1)


def test_counts_and_tables_are_in_the_order_of_the_network():
    variables, trace = traced(UNIT_NETWORKS["excited"])
    kept = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), variables)
    kernels = trees.select(kept, trace.kernels)
    assert list(masks.counts(kernels, trace)) == list(trace.kernels)
    assert list(masks.counts(kernels)) == sorted(trace.kernels) != list(trace.kernels)
    assert masks.counts(kernels, trace) == masks.counts(kernels)
    first = [line.split()[0] for line in masks.table(kernels, trace).splitlines()]
    assert first == ["layer", *trace.kernels, "total"]
    alone = [name.removeprefix("params/") for name in masks.counts(kept, trace)]
    assert list(masks.counts(kept["params"], trace)) == alone
    pairs = [(layer.kernel, layer.bias) for layer in trace.layers]
    assert list(masks.counts(kept, trace)) == [leaf for pair in pairs for leaf in pair]


def test_leaves_without_a_use_come_last():
    variables = {"a": draw(0, 4, 4), "b": draw(1, 4, 4), "c": draw(2, 4, 4)}
    trace = tracing.trace(lambda v, x: x @ v["c"] @ v["b"], variables, draw(3, 5, 4))
    kept = jax.tree.map(lambda leaf: leaf > 0, variables)
    assert list(masks.counts(kept, trace)) == ["c", "b", "a"]


def test_a_long_name_goes_on_below_its_counts():
    name = "/".join(["MultiHeadDotProductAttention_0"] * 4)
    lines = masks.table({name: jnp.arange(3) > 0, "head": jnp.ones(2, bool)}).splitlines()
    assert max(map(len, lines)) <= 100
    assert "".join(line.split()[0] for line in lines[1:-2]) == name
    assert lines[1].split()[1:] == ["3", "1", "0.3333"]

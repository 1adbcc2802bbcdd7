"""Heads and channels of attention as units: found, masked, cut out, their means folded."""

import functools

import attention_networks
import clamping
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_networks import ATTENTION, CHANNELS, HEADS, PRODUCTS, TOKENS, WIDTH
from closeness import NETWORK, assert_close
from networks import CLASSES, draw, drawn

from pruning_jax import curvature, replacement, tracing, units
from pruning_jax.types import Batch

EVERY = ATTENTION | PRODUCTS
SPACES = {
    "library": {"q": HEADS, "q_2": CHANNELS, "v": CHANNELS},
    "linen": {"query": HEADS, "query_2": CHANNELS, "value": CHANNELS, "Dense_1": 8},
    "nnx": {"query": HEADS, "query_2": CHANNELS, "value": CHANNELS},
    "equinox": {"query_proj": HEADS, "query_proj_2": CHANNELS, "value_proj": CHANNELS + 1},
    "fused": {"qkv": HEADS, "qkv_2": CHANNELS, "qkv_3": CHANNELS},
    "repeated": {"q": 2, "q_2": 2, "v": 4},
    "grouped": {"q": 2, "q_3": 2, "v": 4},
    "also_whole": {"q": HEADS, "q_2": CHANNELS, "v": CHANNELS},
    "normed": {"q": 2, "q_2": 2, "v": 4},
    "graph_net": {"a": 8, "b": 7},
    "pooled": {"a": 8},
    "experts": {"up": 3, "up_2": 8},
}
"""The last part of a space's name -> its size; rotary positions tie channels in pairs."""


@functools.cache
def network(name):
    apply_fn, variables, inputs = EVERY[name]()
    return apply_fn, variables, inputs, units.graph(tracing.trace(apply_fn, variables, inputs))


def some_removed(graph, seed=0):
    random = np.random.default_rng(seed)
    shared = any(space.layers == ("qkv",) for space in graph.spaces)
    return {
        space.name: random.permutation(space.size) >= max(space.size // 3, 1)
        for space in graph.prunable
        if not shared or space.size == HEADS
    }


@pytest.mark.parametrize("name", EVERY)
def test_heads_and_channels_are_units(name):
    *_, graph = network(name)
    found = {space.name.split("/")[-1]: space.size for space in graph.prunable}
    assert found == SPACES[name] | ({"out": WIDTH} if name == "linen" else {})


@pytest.mark.parametrize("name", EVERY)
def test_compact_is_masked_and_counts_are_its(name):
    apply_fn, variables, inputs, graph = network(name)
    unit_masks = some_removed(graph)
    small = units.compact(graph, variables, unit_masks)
    expected = jax.jit(apply_fn)(units.apply_masks(graph, variables, unit_masks), inputs)
    assert np.abs(expected - jax.jit(apply_fn)(variables, inputs)).max() > 0.01
    assert_close(jax.jit(small.apply_fn)(small.variables, inputs), expected, NETWORK)
    left = units.counts(graph, unit_masks).total
    whole = units.counts(units.graph(tracing.trace(small.apply_fn, small.variables, inputs))).total
    assert sum(leaf.size for leaf in jax.tree.leaves(small.variables)) == left.kept_parameters
    assert (whole.macs, whole.parameters) == (left.kept_macs, left.kept_parameters)


def test_a_head_removed_is_a_head_cut_by_hand():
    apply_fn, variables, inputs, graph = network("library")
    keep = np.array([True, False, True, True])
    by_hand = variables | {name: variables[name][:, keep] for name in "qkv"}
    by_hand["o"] = variables["o"][keep]
    expected = apply_fn(by_hand, inputs)
    assert_close(
        apply_fn(units.apply_masks(graph, variables, {"q": keep}), inputs), expected, NETWORK
    )
    small = units.compact(graph, variables, {"q": keep})
    jax.tree.map(np.testing.assert_array_equal, small.variables, by_hand)


def test_a_linen_network_with_fewer_heads_is_the_one_cut_by_hand():
    def module(heads):
        return nn.MultiHeadDotProductAttention(
            heads, qkv_features=heads * CHANNELS, out_features=CLASSES
        )

    inputs = draw(1, *attention_networks.INPUTS)
    variables = drawn(module(HEADS).init(jax.random.key(0), inputs))
    graph = units.graph(tracing.trace(module(HEADS).apply, variables, inputs))
    keep = np.array([False, True, True, False])
    small = units.compact(graph, variables, {"params/query": keep})
    for name in ("query", "key", "value"):
        kernel, bias = variables["params"][name]["kernel"], variables["params"][name]["bias"]
        np.testing.assert_array_equal(small.variables["params"][name]["kernel"], kernel[:, keep])
        np.testing.assert_array_equal(small.variables["params"][name]["bias"], bias[keep])
    expected = module(2).apply(small.variables, inputs)
    assert_close(small.apply_fn(small.variables, inputs), expected, NETWORK)
    masked = units.apply_masks(graph, variables, {"params/query": keep})
    assert_close(module(HEADS).apply(masked, inputs), expected, NETWORK)


def test_equinox_channels_of_a_head_are_cut_from_one_axis():
    _, variables, _, graph = network("equinox")
    keep = np.array([True, False, True, True])
    small = units.compact(graph, variables, {"attention/query_proj": keep})
    rows = np.repeat(keep, CHANNELS)
    attention, less = variables.attention, small.variables.attention
    for name in ("query_proj", "key_proj"):
        weight = getattr(attention, name).weight
        np.testing.assert_array_equal(getattr(less, name).weight, weight[rows])
    output = attention.output_proj.weight[:, np.repeat(keep, CHANNELS + 1)]
    np.testing.assert_array_equal(less.output_proj.weight, output)


@pytest.mark.parametrize("name", ATTENTION)
def test_a_removed_head_contributes_exactly_nothing(name):
    """Whatever the kernels that read it are."""
    apply_fn, variables, inputs, graph = network(name)
    heads = next(s for s in graph.prunable if len(s.layers) != 2 and s.consumers and s.size != 8)
    keep = {heads.name: np.arange(heads.size) > 0}
    masked = units.apply_masks(graph, variables, keep)
    readers = units.parameter_masks(graph, variables, keep, readers=True)
    without = jax.tree.map(
        lambda leaf, mask: leaf if mask is None else leaf * mask,
        masked,
        readers,
        is_leaf=lambda leaf: leaf is None,
    )
    apply_fn = jax.jit(apply_fn)
    np.testing.assert_array_equal(apply_fn(masked, inputs), apply_fn(without, inputs))


@pytest.mark.parametrize("name", ATTENTION)
def test_means_of_heads_and_channels_are_folded_exactly(name):
    apply_fn, variables, inputs, graph = network(name)
    means = curvature.unit_means(graph, variables, Batch(inputs, jnp.zeros(len(inputs), int)))
    assert_close(means, clamping.read_means(graph, variables, inputs), NETWORK)
    unit_masks = {
        space: mask
        for space, mask in some_removed(graph).items()
        if not graph[space].products and len(graph[space].layers) != 2
    }
    added = replacement.responses(graph, variables, means, unit_masks)
    expected = clamping.clamped(graph, variables, inputs, means, unit_masks)
    found = clamping.with_added(graph, variables, inputs, added, unit_masks)
    assert_close(found, expected, NETWORK)


def test_means_of_the_channels_of_queries_are_refused_by_name():
    _, variables, inputs, graph = network("linen")
    means = curvature.unit_means(graph, variables, Batch(inputs, jnp.zeros(len(inputs), int)))
    name = next(space.name for space in graph.prunable if space.products)
    keep = {name: np.arange(CHANNELS) > 0}
    with pytest.raises(ValueError, match="query_2' are multiplied with other data, by dot_general"):
        replacement.fold_means(graph, variables, means, keep)
    folded = replacement.fold_means(graph, variables, means, keep, missing="skip")
    assert folded.left_out.keys() == {name}


def test_scores_of_heads_are_derivatives_by_gates():
    """Of the loss, by a gate that closes on all of a head's channels together."""
    apply_fn, variables, inputs, graph = network("library")
    labels = jnp.array([0, 3, 1])
    statistics = curvature.unit_statistics(graph, variables, Batch(inputs, labels))

    def loss(gates, x, y):
        v = variables | {"o": variables["o"] * gates[:, None, None]}
        return -jax.nn.log_softmax(apply_fn(v, x[None]))[0, y]

    slope = jax.vmap(jax.grad(loss), (None, 0, 0))(jnp.ones(HEADS), inputs, labels)
    assert_close(statistics.removal["q"], -slope / (TOKENS * CHANNELS), NETWORK)


def test_other_channels_of_queries_than_of_values_are_refused_where_one_kernel_makes_both():
    _, variables, _, graph = network("fused")
    with pytest.raises(ValueError, match="hold parts of one axis of units"):
        units.compact(graph, variables, {"qkv_2": np.arange(CHANNELS) > 0})


def test_heads_that_keys_do_not_divide_are_refused():
    _, variables, inputs, _ = network("repeated")
    apply_fn = ATTENTION["grouped"]()[0]
    wrong = variables | {"k": draw(1, WIDTH, 3, 4)}
    with pytest.raises(ValueError, match="the model failed for inputs of shape"):
        tracing.trace(apply_fn, wrong, inputs)


def test_a_norm_over_the_stream_names_why_its_width_stays():
    """A norm without a scale mixes the units, and nothing of theirs stands before the reader."""

    def apply_fn(v, x):
        h = x @ v["w"]
        h = h / jnp.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)
        return h.mean(1) @ v["o"]

    variables = {"w": draw(0, WIDTH, 8), "o": draw(1, 8, CLASSES)}
    graph = units.graph(tracing.trace(apply_fn, variables, draw(2, *attention_networks.INPUTS)))
    assert "reduce_sum mixes them, and o reads them with no scale of theirs" in graph["w"].reason


def merged(names, function):
    """Attention whose kernels make heads and channels on one axis."""
    size = HEADS * CHANNELS
    variables = {name: draw(i, WIDTH, size) for i, name in enumerate("qkv")}
    variables |= {"o": draw(3, size, CLASSES)} | names

    def apply_fn(v, x):
        q, k, values = ((x @ v[name]).reshape(*x.shape[:2], HEADS, CHANNELS) for name in "qkv")
        out = function(v, q, k, values).reshape(*x.shape[:2], size)
        return out.mean(1) @ v["o"]

    return apply_fn, variables, draw(4, *attention_networks.INPUTS)


def test_a_norm_of_all_positions_of_one_merged_axis_is_refused_by_name():
    def normed(v, q, k, values):
        flat = q.reshape(*q.shape[:2], HEADS * CHANNELS)
        flat = flat / jnp.sqrt((flat**2).mean(-1, keepdims=True) + 1e-6) * v["s"]
        return attention_networks.attended(flat.reshape(q.shape), k, values)

    graph = units.graph(tracing.trace(*merged({"s": 1 + draw(5, HEADS * CHANNELS)}, normed)))
    assert "mixes positions of an axis that is heads and channels elsewhere" in graph["q"].reason
    assert [space.name for space in graph.prunable] == ["v"]


def test_slopes_that_are_subtracted_are_parameters_and_no_running_moments():
    """ALiBi: a slope a head, times the distance."""

    def apply_fn(v, x):
        q, k, values = (jnp.einsum("ntc,chd->nthd", x, v[name]) for name in "qkv")
        distance = jnp.abs(jnp.arange(TOKENS)[:, None] - jnp.arange(TOKENS)[None])
        scores = jnp.einsum("nthd,nshd->nhts", q, k) - v["slope"][:, None, None] * distance
        out = jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(scores), values)
        return jnp.einsum("nthd,hdc->nc", out, v["o"])

    variables = {name: draw(i, WIDTH, HEADS, CHANNELS) for i, name in enumerate("qkv")}
    variables |= {"slope": draw(3, HEADS), "o": draw(4, HEADS, CHANNELS, CLASSES)}
    inputs = draw(5, *attention_networks.INPUTS)
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    keep = {"q": np.array([True, True, False, True])}
    small = units.compact(graph, variables, keep)
    counts = units.counts(graph, keep).total
    assert counts.parameters == sum(leaf.size for leaf in variables.values())
    assert counts.kept_parameters == sum(leaf.size for leaf in small.variables.values())
    expected = apply_fn(units.apply_masks(graph, variables, keep), inputs)
    assert_close(small.apply_fn(small.variables, inputs), expected, NETWORK)

"""Networks cut smaller, against the same networks masked and against what counts say of them."""

import functools

import clamping
import jax
import narrow_networks
import numpy as np
import pytest
import replacement_networks
from closeness import NETWORK, assert_close
from networks import NETWORKS, draw
from unit_networks import UNIT_NETWORKS

from pruning_jax import replacement, tracing, units

EVERY = NETWORKS | UNIT_NETWORKS | narrow_networks.NETWORKS
GROUPED = {"linen", "separable", "shuffled", "grouped"}
"""Networks of grouped convolutions, whose masks must keep as many units in every group."""


@functools.cache
def graph_of(name):
    apply_fn, variables, inputs = EVERY[name]()
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    return apply_fn, variables, inputs, graph


def some_removed(name, graph):
    if name == "grouped":
        return narrow_networks.masks(name)
    random, kept = np.random.default_rng(0), {}
    for space in graph.prunable:
        if name in GROUPED and space.size % 2 == 0:
            kept[space.name] = np.arange(space.size) % (space.size // 2) != 1
        else:
            kept[space.name] = random.permutation(space.size) >= max(space.size // 3, 1)
    return kept


@pytest.mark.parametrize("name", EVERY)
def test_compact_is_masked(name):
    apply_fn, variables, inputs, graph = graph_of(name)
    unit_masks = some_removed(name, graph)
    small = units.compact(graph, variables, unit_masks)
    expected = jax.jit(apply_fn)(units.apply_masks(graph, variables, unit_masks), inputs)
    assert_close(jax.jit(small.apply_fn)(small.variables, inputs), expected, NETWORK)
    assert_close(jax.jit(small.apply_fn)(small.variables, inputs[:1]), expected[:1], NETWORK)


@pytest.mark.parametrize("name", EVERY)
def test_counts_are_those_of_the_compact_network(name):
    _, variables, inputs, graph = graph_of(name)
    unit_masks = some_removed(name, graph)
    small = units.compact(graph, variables, unit_masks)
    counts = units.counts(graph, unit_masks)
    whole, less = units.graph(tracing.trace(small.apply_fn, small.variables, inputs)), counts.total
    assert units.counts(whole).total.macs == less.kept_macs
    assert units.counts(whole).total.parameters == less.kept_parameters


@pytest.mark.parametrize("name", ["mlp", "sigmoid", "equinox", "tied"])
def test_the_models_own_function_is_returned_where_it_does_the_same(name):
    apply_fn, variables, _, graph = graph_of(name)
    small = units.compact(graph, variables, some_removed(name, graph))
    assert small.apply_fn is apply_fn


def test_a_function_that_knows_its_width_is_not_taken_for_the_smaller_network():
    def apply_fn(v, x):
        hidden = jax.nn.relu(x @ v["a"])
        return (hidden.sum(-1, keepdims=True) * 0 + hidden / v["a"].shape[1]) @ v["b"]

    variables, inputs = {"a": draw(0, 5, 8), "b": draw(1, 8, 3)}, draw(2, 4, 5)
    graph = units.graph(tracing.trace(lambda v, x: apply_fn(v, x)[:, :3], variables, inputs))
    mask = {space.name: np.arange(8) > 2 for space in graph.prunable}
    small = units.compact(graph, variables, mask)
    expected = apply_fn(units.apply_masks(graph, variables, mask), inputs)
    assert_close(small.apply_fn(small.variables, inputs), expected, NETWORK)


@pytest.mark.parametrize(
    "multiple, expected", [(1, (3, 4)), (2, (4, 4)), (4, (4, 4)), (16, (7, 6))]
)
def test_units_are_kept_in_multiples(multiple, expected):
    apply_fn, variables, inputs, graph = graph_of("mlp")
    unit_masks = {"0": np.arange(7) > 3, "1": np.arange(6) > 1}
    small = units.compact(graph, variables, unit_masks, round_to=multiple)
    assert tuple(layer["w"].shape[1] for layer in small.variables[:2]) == expected
    assert tuple(int(mask.sum()) for mask in small.unit_masks.values()) == expected
    masked = apply_fn(units.apply_masks(graph, variables, unit_masks), inputs)
    assert_close(small.apply_fn(small.variables, inputs), masked, NETWORK)


REPLACED = replacement_networks.NETWORKS | replacement_networks.PADDED


def replaced(name):
    """A network of which some units are to be replaced: graph, variables, inputs, means, masks."""
    every = REPLACED | replacement_networks.BIAS_FREE
    apply_fn, variables, inputs = every[name]()
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    means = clamping.read_means(graph, variables, inputs)
    unit_masks = clamping.some_removed(graph)
    if name in ("strided_dilated_grouped", "equinox"):  # the same units of both groups
        unit_masks = {
            space.name: np.arange(space.size) % max(space.size // 2, 1) > 0
            for space in graph.prunable
            if space.size % 2 == 0
        }
    return graph, variables, inputs, means, unit_masks


@pytest.mark.parametrize("name", REPLACED)
def test_means_are_folded_and_then_cut_out(name):
    graph, variables, inputs, means, unit_masks = replaced(name)
    folded = replacement.fold_means(graph, variables, means, unit_masks).variables
    small = units.compact(graph, folded, unit_masks)
    expected = graph.trace.apply_fn(folded, inputs)
    assert_close(small.apply_fn(small.variables, inputs), expected, NETWORK)


@pytest.mark.parametrize("name", REPLACED | replacement_networks.BIAS_FREE)
def test_with_the_responses_added_the_compact_network_is_the_clamped_one(name):
    """Exactly, with padding and without a bias to fold into."""
    graph, variables, inputs, means, unit_masks = replaced(name)
    added = replacement.responses(graph, variables, means, unit_masks)
    small = units.compact(graph, variables, unit_masks, added=added)
    expected = clamping.clamped(graph, variables, inputs, means, unit_masks)
    assert_close(small.apply_fn(small.variables, inputs), expected, NETWORK)

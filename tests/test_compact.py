"""Networks cut smaller against the same networks masked, against counts and against a step of each."""

import functools

import jax
import jax.numpy as jnp
import narrow_networks
import numpy as np
import optax
import pytest
from networks import CLASSES, NETWORKS, draw
from unit_networks import UNIT_NETWORKS

from pruning_jax import masks, models, tracing, trees, units

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
            kept[space.name] = np.arange(space.size) % (space.size // 2) > 0
        else:
            kept[space.name] = random.permutation(space.size) >= max(space.size // 3, 1)
    return kept


def assert_same(found, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", EVERY)
def test_compact_is_masked(name):
    apply_fn, variables, inputs, graph = graph_of(name)
    unit_masks = some_removed(name, graph)
    small = units.compact(graph, variables, unit_masks)
    expected = jax.jit(apply_fn)(units.apply_masks(graph, variables, unit_masks), inputs)
    assert_same(jax.jit(small.apply_fn)(small.variables, inputs), expected)
    assert_same(jax.jit(small.apply_fn)(small.variables, inputs[:1]), expected[:1])


@pytest.mark.parametrize("name", EVERY)
def test_counts_are_those_of_the_compact_network(name):
    _, variables, inputs, graph = graph_of(name)
    unit_masks = some_removed(name, graph)
    small = units.compact(graph, variables, unit_masks)
    counts = units.counts(graph, unit_masks)
    whole, less = units.graph(tracing.trace(small.apply_fn, small.variables, inputs)), counts.total
    assert units.counts(whole).total.macs == less.kept_macs
    assert units.counts(whole).total.parameters == less.kept_parameters

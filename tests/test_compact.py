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

    @jax.jit
    def both(variables, inputs, means):
        folded = replacement.fold_means(graph, variables, means, unit_masks).variables
        return folded, graph.trace.apply_fn(folded, inputs)

    folded, expected = both(variables, inputs, means)
    small = units.compact(graph, folded, unit_masks)
    assert_close(jax.jit(small.apply_fn)(small.variables, inputs), expected, NETWORK)


@pytest.mark.parametrize("name", REPLACED | replacement_networks.BIAS_FREE)
def test_with_the_responses_added_the_compact_network_is_the_clamped_one(name):
    """Exactly, with padding and without a bias to fold into."""
    graph, variables, inputs, means, unit_masks = replaced(name)

    @jax.jit
    def both(variables, inputs, means):
        added = replacement.responses(graph, variables, means, unit_masks)
        return added, clamping.clamped(graph, variables, inputs, means, unit_masks)

    added, expected = both(variables, inputs, means)
    small = units.compact(graph, variables, unit_masks, added=added)
    assert_close(jax.jit(small.apply_fn)(small.variables, inputs), expected, NETWORK)


@pytest.mark.parametrize("removed", [[0], [5], [0, 3], [2, 4]])
def test_a_part_by_number_is_that_of_the_units_that_stay(removed):
    """A function that takes units by their places does something else at the smaller sizes."""
    variables, inputs = {"a": draw(0, 5, 6), "o": draw(1, 2, 4)}, draw(2, 3, 5)

    def sliced(v, x):
        return jax.nn.relu(x @ v["a"])[:, 2:4] @ v["o"]

    def taken(v, x):
        return jax.nn.relu(x @ v["a"])[:, np.array([5, 0])] @ v["o"]

    for apply_fn in (sliced, taken):
        graph = units.graph(tracing.trace(apply_fn, variables, inputs))
        unit_masks = {"a": ~np.isin(np.arange(6), removed)}
        small = units.compact(graph, variables, unit_masks)
        expected = apply_fn(units.apply_masks(graph, variables, unit_masks), inputs)
        assert_close(small.apply_fn(small.variables, inputs), expected, NETWORK)


def _refused(kind):
    """A network, and what is asked of `compact` that it refuses."""
    variables, inputs = {"a": draw(0, 5, 6), "o": draw(1, 6, 4)}, draw(2, 3, 5)

    def apply_fn(v, x):
        if kind == "mixes":
            x = x - x.mean(0)
        if kind == "draws":
            x = x * np.random.rand(5).astype(np.float32)  # noqa: NPY002
        h = jax.nn.relu(x @ v["a"]) @ v["o"]
        return h.squeeze() if kind == "squeezes" else h

    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    options = {"unit_masks": {"a": np.arange(6) > 1}}
    if kind == "value":
        options["added"] = {999: np.ones(4)}
    elif kind == "shape":
        product = graph["a"].consumers[0].equation
        options["added"] = {graph.trace.model.equations[product].outputs[0]: np.ones((9, 4))}
    elif kind == "no masks":
        options["unit_masks"] = None
    elif kind == "trace":
        graph = graph.trace
    elif kind == "train_fn":
        options["train_fn"] = 3
    elif kind == "shapes":
        variables = jax.eval_shape(lambda: variables)
    elif kind == "dtype":
        variables = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), variables)
    return graph, variables, options


@pytest.mark.parametrize(
    "kind, message",
    [
        ("mixes", "reduce_sum mixes examples"),
        ("draws", r"a constant of \w+ changes"),
        ("squeezes", "it treats one example apart, as squeeze"),
        ("value", "at value 999, which is no layer's product"),
        ("shape", r"shape \(9, 4\) at value \d+, which has shape \(1, 4\)"),
        ("no masks", "unit masks are a mapping from unit space to booleans, not NoneType"),
        ("trace", "graph is a Trace; it must be a UnitGraph"),
        ("train_fn", "train_fn is a function, not int"),
        ("shapes", "the variables have a shape at 'a'; compact needs arrays"),
        ("dtype", "the variables have bfloat16 at 'a', and those that were traced float32"),
    ],
)
def test_what_would_go_wrong_later_is_refused(kind, message):
    graph, variables, options = _refused(kind)
    with pytest.raises(ValueError, match=message):
        units.compact(graph, variables, **options)


def test_a_head_for_training_alone_is_refused():
    variables, inputs = (
        {"a": draw(0, 5, 6), "o": draw(1, 6, 4), "head": draw(2, 6, 4)},
        draw(3, 3, 5),
    )

    def train_fn(v, x):
        h = jax.nn.relu(x @ v["a"])
        return h @ v["o"], h @ v["head"]

    trace = tracing.trace(lambda v, x: train_fn(v, x)[0], variables, inputs)
    mask = {"a": np.arange(6) > 1}
    small = units.compact(units.graph(trace), variables, mask, train_fn=train_fn)
    with pytest.raises(ValueError, match="'head' would have to be .4, 4., and is .6, 4."):
        small.train_fn(small.variables, inputs)

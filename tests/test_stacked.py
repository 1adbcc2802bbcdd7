"""Layers in loops, and kernels made of leaves: read, counted, pruned and cut as any other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stacked_networks
from closeness import NETWORK, ROUNDING, assert_close
from networks import CLASSES, draw
from stacked_networks import STACKED
from test_curvature import dense_diagonal

from pruning_jax import curvature, layouts, losses, masks, pruning, tracing, trees, units
from pruning_jax.types import Batch

MACS = {
    "scanned": {"in": 24, "stack": 108, "out": 24},
    "indexed": {"w": 32, "u": 48, "out": 16},
    "nnx_stack": {"blocks/wide": 72, "blocks/narrow": 72, "head": 16},
    "equinox_stack": {"0": 48, "1": 16},
    "ensemble": {"w": 72, "out": 72},
    "from_zeros": {"w": 36, "u": 48, "out": 16},
    "from_learned": {"w": 36, "u": 48, "out": 16},
    "lora": {"w": 24, "out": 24},
    "beside": {"p": 8, "q": 16, "out": 24},
    "lstm": {
        **{f"params/OptimizedLSTMCell_0/i{gate}": 60 for gate in "ifgo"},
        **{f"params/OptimizedLSTMCell_0/h{gate}": 48 for gate in "ifgo"},
        "params/Dense_0": 16,
    },
}
"""Network -> its layers and their multiply-accumulates, by hand."""

EXACT = {
    **dict.fromkeys(["scanned", "scanned_transformer", "lstm", "gru", "nnx_stack"], ()),
    **dict.fromkeys(["bool_mask", "normalised_classifier", "fake_quantised", "rounded"], ()),
    **dict.fromkeys(["beside", "antisymmetric", "positive"], ()),
    "from_learned": ("first",),
    "weight_norm": ("params/WeightNorm_0/Dense_1/kernel/scale",),
    "standardised": ("params/gain",),
    "lora": ("a", "b"),
    "mixed": ("a",),
}
"""Network -> the leaves that are neither a kernel nor a bias."""


@functools.cache
def traced(name):
    apply_fn, variables, inputs = STACKED[name]()
    return apply_fn, variables, inputs, tracing.trace(apply_fn, variables, inputs)


@pytest.mark.parametrize("name", STACKED)
def test_the_reading_is_the_function(name):
    apply_fn, variables, inputs, trace = traced(name)

    @jax.jit
    def both(variables, inputs):
        run = functools.partial(tracing.run, trace.model, variables)
        return tracing.merged(tracing.over_examples(run, inputs)), apply_fn(variables, inputs)

    assert_close(*both(variables, inputs), ROUNDING)
    assert not {"scan", "while", "cond"} & {equation.name for equation in trace.model.equations}


@pytest.mark.parametrize("name", MACS)
def test_layers_and_their_work(name):
    *_, trace = traced(name)
    assert {layer.name: layer.macs for layer in trace.layers} == MACS[name]
    expected = {"lora": {"a", "b"}}.get(name, set())
    assert {leaf for leaf, _ in trace.unsupported} == expected


def in_double_precision(leaf):
    return leaf.astype(float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


@pytest.mark.parametrize("name", EXACT)
def test_exact_diagonal_is_that_of_the_dense_matrix_in_double_precision(name):
    with jax.enable_x64(True):
        apply_fn, *arrays = STACKED[name]()
        variables, inputs = jax.tree.map(in_double_precision, arrays)
        batch = Batch(inputs, jnp.arange(len(inputs)) % CLASSES)
        found = trees.named_leaves(curvature.ggn_diagonal(apply_fn, variables, batch))
        expected = dense_diagonal(apply_fn, variables, batch, losses.cross_entropy)
        largest = max(float(leaf.max()) for leaf in expected.values())
        norms = {leaf for leaf in expected if "LayerNorm" in leaf}
        assert expected.keys() - found.keys() - norms == set(EXACT[name])
        for leaf, array in found.items():
            assert_close(array, expected[leaf], 1e-13, largest)  # some leaves have none


CUT = {
    "scanned": 6,
    "scanned_transformer": 16,
    "gru": 4,
    "nnx_stack": 6,
    "ensemble": 6,
    "from_zeros": 4,
    "from_learned": 0,
    "bool_mask": 6,
    "weight_norm": 6,
    "lora": 0,
    "beside": 0,
}
"""Network -> how many of its units are prunable."""


@pytest.mark.parametrize("name", CUT)
def test_compact_is_masked(name):
    apply_fn, variables, inputs, trace = traced(name)
    graph = units.graph(trace)
    assert sum(space.size for space in graph.prunable) == CUT[name]
    kept = {space.name: np.arange(space.size) % 3 != 1 for space in graph.prunable}
    small = units.compact(graph, variables, kept)
    expected = jax.jit(apply_fn)(units.apply_masks(graph, variables, kept), inputs)
    assert_close(jax.jit(small.apply_fn)(small.variables, inputs), expected, NETWORK)
    counts = units.counts(graph, kept).total
    whole = units.counts(units.graph(tracing.trace(small.apply_fn, small.variables, inputs)))
    assert (whole.total.parameters, whole.total.macs) == (counts.kept_parameters, counts.kept_macs)


def test_a_stack_is_printed_as_its_layers():
    *_, trace = traced("scanned")
    assert [layer.stack for layer in trace.layers] == [None, 0, None]
    assert str(trace).splitlines()[3].split()[:5] == ["stack", "dense", "3", "of", "6x6"]


def apart(tree):
    """The layers of `scanned`, each in a leaf of its own."""
    return [tree["in"], *tree["stack"]["w"], tree["out"]]


@pytest.mark.parametrize("scope", ["layer", "erk", "global"])
def test_layers_of_a_stack_are_layers(scope):
    _, variables, _, trace = traced("scanned")
    scores = jax.tree.map(jnp.abs, trees.select(variables, trace.kernels))
    found = masks.from_scores(scores, 0.6, scope=scope, trace=trace)
    expected = masks.from_scores(apart(scores), 0.6, scope=scope)
    jax.tree.map(np.testing.assert_array_equal, apart(found), expected)
    counts = masks.counts(found, trace)
    assert list(counts) == ["in", "stack/w[0]", "stack/w[1]", "stack/w[2]", "out"]
    assert list(counts.values()) == list(masks.counts(expected).values())


def test_a_layer_of_a_stack_is_not_emptied_silently():
    _, variables, _, trace = traced("scanned")
    scores = jax.tree.map(jnp.ones_like, trees.select(variables, trace.kernels))
    scores["stack"]["w"] = scores["stack"]["w"].at[1].set(0.0)
    with pytest.raises(ValueError, match=r"every weight of stack/w\[1\]"):
        masks.from_scores(scores, 0.3, trace=trace)
    found = masks.from_scores(scores, 0.3, trace=trace, allow_empty_layers=True)
    assert masks.empty_layers(found, trace) == ["stack/w[1]"]
    kept = pruning.prune(trace, variables, "magnitude", 0.5, scope="layer", kernels=trace.kernels)
    counts = masks.counts(kept, trace)
    assert {counts[f"stack/w[{i}]"].removed for i in range(3)} == {18}


def test_neighbours_lie_along_the_inputs_of_each_layer_of_a_stack():
    _, variables, _, trace = traced("scanned")
    scores = {"in": None, "stack": {"w": draw(0, 3, 6, 6), "b": None}, "out": None}
    found = masks.n_of_m(scores, 1, 3, trace=trace)["stack"]["w"]
    alone = [masks.n_of_m([layer], 1, 3, axis=0)[0] for layer in scores["stack"]["w"]]
    np.testing.assert_array_equal(found, alone)
    assert layouts.dimensions(trace, "stack/w", (3, 6, 6)) == (6, 6)


@pytest.mark.parametrize("criterion", ["magnitude", "gradient_magnitude", "linear", "quadratic"])
def test_a_scan_is_pruned_as_the_loop_it_is(criterion):
    """The same layers in a Python loop, a leaf each."""
    scanned, variables, inputs, trace = traced("scanned")
    looped, *_ = stacked_networks.scanned(stacked_networks.in_python)
    layers = [jax.tree.map(lambda leaf, i=i: leaf[i], variables["stack"]) for i in range(3)]

    def apply_fn(v, x):
        stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *v["stack"])
        return looped(v | {"stack": stack}, x)

    batch = Batch(inputs, jnp.arange(5) % CLASSES)
    kernels = ["in", *(f"stack/{i}/w" for i in range(3)), "out"]
    options = {"batches": batch, "stages": 2}
    found = pruning.prune(scanned, variables, criterion, 0.6, kernels=trace.kernels, **options)
    other = variables | {"stack": layers}
    expected = pruning.prune(apply_fn, other, criterion, 0.6, kernels=kernels, **options)
    jax.tree.map(
        np.testing.assert_array_equal,
        apart(found),
        [expected["in"], *(layer["w"] for layer in expected["stack"]), expected["out"]],
    )

import functools

import clamping
import jax
import jax.numpy as jnp
import narrow_networks
import numpy as np
import pytest
from closeness import NETWORK, assert_close, largest
from networks import CLASSES, NETWORKS, draw
from unit_networks import UNIT_NETWORKS

from pruning_jax import masks, tracing, trees, units

EVERY = NETWORKS | UNIT_NETWORKS


@functools.cache
def graph_of(name):
    apply_fn, variables, inputs = EVERY[name]()
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    return apply_fn, variables, inputs, graph


def some_removed(graph, seed=0):
    """Masks that remove a third of every prunable space, at least one unit."""
    rng = np.random.default_rng(seed)
    chosen = {}
    for space in graph.prunable:
        kept = rng.permutation(space.size) >= max(space.size // 3, 1)
        chosen[space.name] = kept
    return chosen


def gone(of, space, unit_masks):
    """Which entries of a slice, or positions of a reading, are of removed units of a space."""
    return (of.units >= 0) & ~unit_masks[space.name][of.units]


@pytest.mark.parametrize("name", EVERY)
def test_a_removed_unit_reads_zero_or_is_not_read(name):
    apply_fn, variables, inputs, graph = graph_of(name)
    unit_masks = some_removed(graph)

    @jax.jit
    def read(variables, inputs):
        removed = units.apply_masks(graph, variables, unit_masks)
        return narrow_networks.reading_arrays(graph, removed, inputs)

    arrays = read(variables, inputs)
    for space in graph.prunable:
        if any(consumer.slice.masked for consumer in space.consumers):
            continue
        for reading in space.readings:
            places = np.flatnonzero(gone(reading, space, unit_masks))
            assert not np.take(np.asarray(arrays[reading.value]), places, reading.axis + 1).any()


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"norm_after_pool"}))
def test_removal_is_the_original_network_with_zeros_where_the_units_are_read(name):
    """It takes all of a unit away, and nothing of its neighbours."""
    apply_fn, variables, inputs, graph = graph_of(name)
    unit_masks = some_removed(graph)

    @jax.jit
    def both(variables, inputs):
        removed = units.apply_masks(graph, variables, unit_masks)
        expected = clamping.clamped(graph, variables, inputs, None, unit_masks)
        return expected, apply_fn(removed, inputs), apply_fn(variables, inputs)

    expected, found, dense = both(variables, inputs)
    assert_close(found, expected, NETWORK)
    if graph.prunable:
        assert np.abs(found - dense).max() > 10 * NETWORK * largest(dense)


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"tied_embedding"}))
def test_the_gradient_of_a_consumer_is_zero_where_it_multiplies_removed_units(name):
    apply_fn, variables, inputs, graph = graph_of(name)
    unit_masks = some_removed(graph)
    weight = draw(9, len(inputs), CLASSES)

    @jax.jit
    def gradient_of(variables, inputs):
        removed = units.apply_masks(graph, variables, unit_masks)
        return jax.grad(lambda v: jnp.sum(weight * apply_fn(v, inputs)), allow_int=True)(removed)

    gradient = trees.named_leaves(gradient_of(variables, inputs))
    consumed = [c.slice.leaf for space in graph.spaces for c in space.consumers]
    for space in graph.prunable:
        for consumer in space.consumers:
            if consumer.slice.masked or consumed.count(consumer.slice.leaf) > 1:
                continue
            leaf = np.asarray(gradient[consumer.slice.leaf])
            entries = np.broadcast_to(gone(consumer.slice, space, unit_masks), leaf.shape)
            assert not leaf[entries].any()


def test_a_residual_stream_is_one_space():
    *_, graph = graph_of("residual")
    stream = graph["params/Conv_0"]
    assert stream.layers == ("params/Conv_0", "params/Conv_2")
    assert [c.layer for c in stream.consumers] == [
        "params/Conv_1",
        "params/Conv_3",
        "params/Conv_5",
    ]
    assert len(stream.readings) == 2
    assert graph["params/Conv_2"] is stream


def test_a_concatenation_brings_offsets_and_a_flatten_repeats():
    *_, graph = graph_of("densely_connected")
    spaces = [graph[f"params/Conv_{i}"] for i in range(3)]
    last = [space.consumers[-1] for space in spaces]
    assert {consumer.layer for consumer in last} == {"params/Dense_0"}
    assert [consumer.offset for consumer in last] == [0, 4, 7]
    assert [consumer.repeats for consumer in last] == [100, 100, 100]
    assert [space.size for space in spaces] == [4, 3, 5]


def test_a_depthwise_convolution_lives_and_dies_with_its_inputs():
    *_, graph = graph_of("separable")
    space = graph["params/Conv_0"]
    assert space.layers == ("params/Conv_0", "params/Conv_1") and space.size == 6
    depthwise = next(p for p in space.producers if p.leaf == "params/Conv_1/kernel")
    np.testing.assert_array_equal(depthwise.units.ravel(), np.repeat(np.arange(6), 2))
    assert space.consumers[0].repeats == 2


def test_a_grouped_convolution_reads_each_input_in_its_group_alone():
    *_, graph = graph_of("separable")
    (consumer,) = graph["params/Conv_2"].consumers
    found = consumer.slice.units[0, 0]
    expected = np.arange(4)[:, None] + 4 * (np.arange(6) // 3)[None]
    np.testing.assert_array_equal(found, expected)


def test_squeeze_and_excitation_joins_the_gates_to_the_channels():
    *_, graph = graph_of("excited")
    assert graph["params/Conv_0"].layers == ("params/Conv_0", "params/Dense_0")


def test_a_leaf_before_a_layer_norm_is_not_masked_and_one_after_it_is():
    *_, graph = graph_of("layer_normed")
    masked = {p.leaf: p.masked for p in graph["params/Dense_0"].producers}
    assert masked == {
        "params/Dense_0/kernel": False,
        "params/Dense_0/bias": False,
        "params/LayerNorm_0/scale": True,
        "params/LayerNorm_0/bias": True,
    }


def test_roles_of_a_batch_norm():
    *_, graph = graph_of("residual")
    roles = {p.leaf.split("/", 1)[1]: p.role for p in graph["params/Conv_1"].producers}
    assert roles == {
        "Conv_1/kernel": "kernel",
        "BatchNorm_0/scale": "scale",
        "BatchNorm_0/bias": "bias",
        "BatchNorm_0/mean": "mean",
        "BatchNorm_0/var": "variance",
    }


def test_activations_are_read_before_pooling():
    *_, graph = graph_of("chain")
    values = [graph[f"params/Conv_{i}"].readings[0].value for i in range(2)]
    assert [graph.trace.model.shape(value) for value in values] == [(1, 8, 8, 6), (1, 2, 2, 5)]


def test_a_function_after_pooling_is_no_new_reading():
    def apply_fn(v, x):
        h = jnp.tanh(jax.nn.silu(x @ v["a"]).max(1))
        return h @ v["o"]

    variables = {"a": draw(0, 4, 6), "o": draw(2, 6, CLASSES)}
    trace = tracing.trace(apply_fn, variables, draw(3, 5, 7, 4))
    (reading,) = units.graph(trace)["a"].readings
    assert trace.model.avals[reading.value].shape[1:] == (7, 6)


def test_inputs_and_outputs_may_not_be_pruned():
    *_, graph = graph_of("chain")
    assert graph.spaces[0].reason == "they are the network's inputs"
    assert graph["params/Dense_1"].reason == "they are the network's outputs"


@pytest.mark.parametrize("name", ["attention", "residual", "separable"])
def test_the_graph_is_the_same_every_time(name):
    trace = tracing.trace(*EVERY[name]())
    first, second = units.graph(trace), units.graph(trace)
    assert str(first) == str(second)


def unknown(kind):
    variables = {"a": draw(0, 4, 6), "b": draw(1, 6, 6), "o": draw(2, 6, CLASSES)}

    def apply_fn(v, x):
        h = jnp.tanh(x @ v["a"])
        if kind == "sort":
            h = jnp.sort(h, axis=-1)
        elif kind == "cumsum":
            h = jnp.cumsum(h, axis=-1)
        elif kind == "while":
            looped = (lambda s: s[1] < 2, lambda s: (jnp.tanh(s[0] @ v["b"]), s[1] + 1), (h, 0))
            h, _ = jax.lax.while_loop(*looped)
        elif kind == "fft":
            h = jnp.fft.fft(h).real
        elif kind == "raw input":
            h = h + x[:, jnp.array([0, 1, 2, 3, 0, 1])]
        return h @ v["o"]

    return apply_fn, variables, draw(3, 5, 4)


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("sort", "sort goes over their axis"),
        ("cumsum", "cumsum goes over their axis"),
        ("while", "while is not understood"),
        ("fft", "fft is not understood"),
        ("raw input", "add makes them something else than zero"),
    ],
)
def test_what_is_not_understood_is_named_and_not_prunable(kind, reason):
    graph = units.graph(tracing.trace(*unknown(kind)))
    assert reason in graph["a"].reason
    assert not graph["a"].prunable


@pytest.mark.parametrize(
    "name, reason",
    [
        ("added_to_a_concatenation", "concatenate makes them something else than zero"),
        ("bias_used_twice", "reduce_sum takes their parameters"),
        ("scale_in_a_penalty", "reduce_sum takes their parameters"),
        ("reduced_past_a_scale", "reduce_max mixes them into the network's outputs"),
        ("divided_by_a_leaf", "give no finite number"),
        ("positions_into_channels", "reduce_sum mixes them into what a layer takes"),
    ],
)
def test_units_that_cannot_be_taken_out_alone_are_not_prunable(name, reason):
    *_, graph = graph_of(name)
    assert reason in graph["w"].reason


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("masked", "makes them, a kernel that cannot be read: 'w' and 'm' make a kernel together"),
        ("transformed", "they come into o from a layer by a way that is not understood"),
    ],
)
def test_units_made_by_no_layer_are_not_called_inputs(kind, reason):
    variables = {"w": draw(0, 4, 6), "b": draw(1, 6), "o": draw(2, 6, CLASSES)}
    variables["m"] = draw(4, 4, 6)

    def apply_fn(v, x):
        if kind == "masked":
            return jnp.tanh(x @ (v["w"] * v["m"]) + v["b"]) @ v["o"]
        return jnp.fft.fft(jnp.tanh(x @ v["w"] + v["b"])).real @ v["o"]

    graph = units.graph(tracing.trace(apply_fn, variables, draw(3, 5, 4)))
    space = next(s for s in graph.spaces if any(c.layer == "o" for c in s.consumers))
    assert space.name == "into o" and reason in space.reason


def _tied(function):
    """An embedding whose rows are normed, and that reads a function of the norm's units."""
    variables = {"table": draw(0, 11, 6), "g": 1 + 0.3 * draw(1, 6), "c": draw(2, 6)}

    def apply_fn(v, ids):
        h = v["table"][ids].mean(1)
        h = (h - h.mean(-1, keepdims=True)) / h.std(-1, keepdims=True) * v["g"] + v["c"]
        return function(h) @ v["table"].T

    ids = jax.random.randint(jax.random.key(3), (5, 3), 0, 11)
    return apply_fn, variables, ids, units.graph(tracing.trace(apply_fn, variables, ids))


def test_a_kernel_that_a_norm_needs_stays_where_it_reads_too():
    apply_fn, variables, ids, graph = _tied(jnp.tanh)
    mask = {"table": np.arange(6) > 1}
    expected = apply_fn(units.apply_masks(graph, variables, mask), ids)
    readers = units.parameter_masks(graph, variables, mask, readers=True)
    assert_close(apply_fn(masks.apply(variables, readers), ids), expected, NETWORK)
    small = units.compact(graph, variables, mask)
    assert_close(small.apply_fn(small.variables, ids), expected, NETWORK)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(small.variables))
    assert units.counts(graph, mask).total.kept_parameters == sizes


def test_a_kernel_that_would_have_to_be_zero_and_not_is_named():
    *_, graph = _tied(jax.nn.sigmoid)
    assert "'table' would have to be zero where table reads them" in graph["table"].reason


def test_a_class_token_is_a_slice_of_its_units():
    *_, graph = graph_of("class_token")
    assert [p.leaf for p in graph["w"].producers] == ["w", "b", "c"] and graph["w"].prunable


def test_an_unknown_layer_is_refused_with_the_nearest():
    *_, graph = graph_of("residual")
    with pytest.raises(ValueError, match="did you mean 'params/Conv_1'"):
        graph["params/Conv1"]


def test_shapes_are_enough():
    apply_fn, variables, inputs = UNIT_NETWORKS["residual"]()
    shapes = jax.eval_shape(lambda: (variables, inputs))
    found = units.graph(tracing.trace(apply_fn, *shapes))
    assert str(found) == str(units.graph(tracing.trace(apply_fn, variables, inputs)))


def test_units_permuted_in_the_leaves_are_permuted_in_the_network():
    """The slices of a unit, exchanged with those of another everywhere, change nothing."""
    apply_fn, variables, inputs, graph = graph_of("residual")
    order = {
        space.name: np.random.default_rng(1).permutation(space.size) for space in graph.prunable
    }
    leaves = {name: np.asarray(leaf) for name, leaf in trees.named_leaves(variables).items()}
    for space in graph.prunable:
        for slices in (*space.producers, *(consumer.slice for consumer in space.consumers)):
            (axis,) = [i for i, n in enumerate(slices.units.shape) if n > 1]
            leaves[slices.leaf] = np.take(leaves[slices.leaf], order[space.name], axis)
    permuted = jax.tree_util.tree_map_with_path(
        lambda path, _: leaves[trees.path_name(path)], variables
    )
    assert_close(apply_fn(permuted, inputs), apply_fn(variables, inputs), NETWORK)


def test_masks_of_the_graph_fit_the_variables():
    _, variables, _, graph = graph_of("separable")
    kept = some_removed(graph)["params/Conv_0"]
    found = units.parameter_masks(graph, variables, {"params/Conv_0": kept})
    masked = trees.named_leaves(masks.apply(variables, found))
    assert not np.asarray(masked["params/Conv_0/kernel"])[..., ~kept].any()


def kernels(**shapes):
    return {name: draw(number, *shape) for number, (name, shape) in enumerate(shapes.items())}


def graph_of_function(apply_fn, variables, *shape):
    return units.graph(tracing.trace(apply_fn, variables, jnp.ones(shape)))


def test_a_leaf_that_is_a_kernel_of_inputs_and_of_units_is_not_prunable():
    variables = kernels(h=(2, 6, 6), b=(6, 3))

    def apply_fn(v, x):
        for number in range(2):
            x = jax.nn.relu(x @ v["h"][number])
        return x @ v["b"]

    reason = graph_of_function(apply_fn, variables, 5, 6)["h"].reason
    assert reason == "'h' is the kernel of several layers, one of which has other inputs"


def test_units_made_by_a_kernel_that_cannot_be_read_are_not_called_inputs():
    variables = kernels(v=(4, 8), w=(4, 8), a=(8, 6), b=(6, 3))

    def apply_fn(v, x):
        return jax.nn.relu(jnp.tanh(x @ (v["v"] * v["w"])) @ v["a"]) @ v["b"]

    graph = graph_of_function(apply_fn, variables, 5, 4)
    assert graph["into a"].reason.startswith("'v' makes them, a kernel that cannot be read")
    total = units.counts(graph, {"a": np.arange(6) > 2}).total
    assert (total.macs, total.kept_macs) == (4 * 8 + 8 * 6 + 6 * 3, 4 * 8 + 8 * 3 + 3 * 3)


def test_a_random_key_among_the_constants_is_read_past():
    key, variables = jax.random.key(0), kernels(a=(4, 8), b=(8, 3))

    def apply_fn(v, x):
        hidden = jax.nn.relu(x @ v["a"])
        noise = jax.random.normal(jax.random.split(key)[0], (8,))
        return jnp.where(jnp.ones(8) > 0, hidden, hidden * noise) @ v["b"]

    assert graph_of_function(apply_fn, variables, 6, 4)["a"].prunable


@pytest.mark.parametrize("how", ["nearest", "bilinear", "permuted", "constant matrix", "sigmoid"])
def test_units_go_on_where_other_axes_are_moved_or_mixed_by_constants(how):
    variables = kernels(a=(3, 8), b=(8, 3))
    order = jnp.array([0, 2, 4, 6, 1, 3, 5, 7])
    moves = {
        "nearest": lambda h: jax.image.resize(h, (len(h), 8, 8, 8), "nearest"),
        "bilinear": lambda h: jax.image.resize(h, (len(h), 8, 8, 8), "bilinear"),
        "permuted": lambda h: h[..., order],
        "constant matrix": lambda h: jnp.einsum("st,nthc->nshc", jnp.ones((2, 4)), h),
        "sigmoid": lambda h: jax.nn.sigmoid(h),
    }

    def apply_fn(v, x):
        return moves[how](jax.nn.relu(x @ v["a"])).mean((1, 2)) @ v["b"]

    assert graph_of_function(apply_fn, variables, 4, 4, 4, 3)["a"].prunable


def test_the_layer_that_reads_normed_units_without_their_scale_is_named():
    variables = kernels(a=(4, 8), g=(8,), c=(8, 8), b=(8, 3))

    def apply_fn(v, x):
        h = x @ v["a"]
        normed = h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-6)
        return (h + (normed * v["g"]) @ v["c"]).mean(1) @ v["b"]

    reason = graph_of_function(apply_fn, variables, 5, 6, 4)["a"].reason
    assert "b reads them with no scale of theirs between" in reason


def test_the_rows_of_a_mapped_embedding_are_units():
    variables = kernels(table=(11, 8), out=(8, 3))

    def apply_fn(v, ids):
        rows = jax.vmap(jax.vmap(lambda number: v["table"][number]))(ids)
        return jax.nn.relu(rows).mean(1) @ v["out"]

    graph = units.graph(tracing.trace(apply_fn, variables, jnp.zeros((4, 5), int)))
    assert graph["table"].prunable and graph["table"].size == 8

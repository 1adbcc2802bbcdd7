"""Mean replacement against the network with clamped units, run by hand or equation by equation."""

import functools
import re

import clamping
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import replacement_networks
from closeness import NETWORK, ROUNDING, assert_close, largest
from networks import CLASSES, draw, drawn
from scipy import optimize

from pruning_jax import models, replacement, tracing, units


def with_means(apply_fn, variables, inputs):
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    return graph, clamping.read_means(graph, variables, inputs)


@functools.cache
def network(name):
    """(apply_fn, variables, inputs, graph, means) of a network."""
    networks = replacement_networks.NETWORKS | replacement_networks.PADDED
    apply_fn, variables, inputs = (networks | replacement_networks.BIAS_FREE)[name]()
    return (apply_fn, variables, inputs, *with_means(apply_fn, variables, inputs))


def several_masks(graph):
    """Of all spaces, with two seeds, and of each alone."""
    masks = [clamping.some_removed(graph, seed) for seed in range(2)]
    return masks + [clamping.some_removed(graph, only=[space.name]) for space in graph.prunable]


@pytest.mark.parametrize("name", replacement_networks.NETWORKS)
def test_folded_network_is_the_clamped_network(name):
    apply_fn, variables, inputs, graph, means = network(name)
    assert len(graph.prunable) > 1

    @jax.jit
    def measured(variables, inputs, means, masks):
        clamped = clamping.clamped(graph, variables, inputs, means, masks)
        folded = replacement.fold_means(graph, variables, means, masks)
        removed = units.apply_masks(graph, variables, masks)
        return clamped, apply_fn(removed, inputs), apply_fn(folded.variables, inputs), folded

    differences = []
    for masks in several_masks(graph):
        clamped, removed, logits, folded = measured(variables, inputs[::-1] + 0.1, means, masks)
        assert_close(logits, clamped, NETWORK)
        assert folded.left_out == {} and max(folded.distances.values()) < 1e-5
        differences.append(jnp.max(jnp.abs(removed - clamped)) / jnp.max(jnp.abs(clamped)))
    assert min(differences[:2]) > 1e-3


EVERY = [
    *replacement_networks.NETWORKS,
    *replacement_networks.PADDED,
    *replacement_networks.BIAS_FREE,
]


@pytest.mark.parametrize("name", EVERY)
def test_the_network_with_its_responses_added_is_the_clamped_network(name):
    _, variables, inputs, graph, means = network(name)

    @jax.jit
    def both(variables, inputs, means, masks):
        clamped = clamping.clamped(graph, variables, inputs, means, masks)
        added = replacement.responses(graph, variables, means, masks)
        removed = units.apply_masks(graph, variables, masks)
        return clamped, clamping.with_added(graph, removed, inputs, added, masks)

    for masks in several_masks(graph):
        clamped, added = both(variables, inputs[::-1] + 0.1, means, masks)
        assert_close(added, clamped, NETWORK)


@pytest.mark.parametrize("name", replacement_networks.PADDED)
def test_padding_puts_the_folded_network_at_a_distance(name):
    apply_fn, variables, inputs, graph, means = network(name)
    masks = clamping.some_removed(graph)
    folded = replacement.fold_means(graph, variables, means, masks)
    convolutions = [layer.name for layer in graph.trace.layers[1:] if layer.kind == "conv"]
    assert convolutions and all(0.01 < folded.distances[name] < 2 for name in convolutions)
    dense = [layer.name for layer in graph.trace.layers if layer.kind == "dense"]
    assert all(folded.distances.get(name, 0) < 1e-5 for name in dense)
    logits = [
        apply_fn(folded.variables, inputs),
        clamping.clamped(graph, variables, inputs, means, masks),
        apply_fn(units.apply_masks(graph, variables, masks), inputs),
    ]
    assert jnp.abs(logits[0] - logits[1]).max() > 1e-4 * jnp.abs(logits[1]).max()
    assert jnp.linalg.norm(logits[0] - logits[1]) < jnp.linalg.norm(logits[2] - logits[1])


def hand_written(variables, x, clamp=lambda name, h: h):
    v = variables
    spec = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(x, v["a"], (1, 1), "VALID", dimension_numbers=spec)
    h = clamp("a", jax.nn.relu(h + v["a_bias"]))
    h = jnp.tanh(h.reshape(x.shape[0], 4, 2, 4, 2, 5).max((2, 4)))
    h = jax.lax.conv_general_dilated(h, v["b"], (1, 1), "VALID", dimension_numbers=spec)
    h = clamp("b", jax.nn.sigmoid(h + v["b_bias"])).reshape(x.shape[0], -1)
    return h @ v["c"] + v["c_bias"]


def test_folded_network_is_the_clamped_network_written_by_hand():
    shapes = {"a": (3, 3, 2, 5), "b": (2, 2, 5, 6), "c": (54, CLASSES)}
    variables = {name: draw(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    variables |= {f"{name}_bias": draw(9, shape[-1]) for name, shape in shapes.items()}
    inputs, means, removed = draw(5, 6, 10, 10, 2), {}, {"a": [0, 3], "b": [2, 4, 5]}

    def clamp(name, h):
        means[name] = h.mean((0, 1, 2))
        return h

    def clamp_removed(name, h):
        return h.at[..., jnp.array(removed[name])].set(means[name][jnp.array(removed[name])])

    hand_written(variables, inputs, clamp)
    graph, found = with_means(hand_written, variables, inputs)
    masks = {name: ~np.isin(np.arange(len(means[name])), gone) for name, gone in removed.items()}
    for name, mean in means.items():
        (reading,) = graph[name].readings
        assert_close(found[reading.value], mean, ROUNDING)
    folded = replacement.fold_means(graph, variables, found, masks).variables
    expected = hand_written(variables, inputs + 0.5, clamp_removed)
    assert_close(hand_written(folded, inputs + 0.5), expected, ROUNDING)
    for name, gone in removed.items():
        assert not np.asarray(folded[name])[..., gone].any()


def test_half_precision_keeps_the_mean_over_many_positions():
    single = models.SmallConv(CLASSES, widths=(4, 5, 6, 7, 5))
    half = models.SmallConv(CLASSES, widths=(4, 5, 6, 7, 5), dtype=jnp.bfloat16)
    inputs = draw(0, 6, 28, 28, 1)
    variables = drawn(jax.eval_shape(single.init, jax.random.key(0), inputs))
    graph, means = with_means(single.apply, variables, inputs)
    masks = clamping.some_removed(graph)
    expected = jax.jit(functools.partial(replacement.bias_shifts, graph))(variables, means, masks)
    variables = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    graph, means = with_means(half.apply, variables, inputs)
    for leaf, found in replacement.bias_shifts(graph, variables, means, masks).items():
        assert found.dtype == jnp.bfloat16
        error = jnp.max(jnp.abs(found.astype(jnp.float32) - expected[leaf]))
        assert error < 0.02 * jnp.max(jnp.abs(expected[leaf]))


@pytest.mark.parametrize("stride", [1, 2])
def test_with_padding_the_shift_is_the_spatial_mean_of_the_response(stride):
    def apply_fn(v, x):
        spec = ("NHWC", "HWIO", "NHWC")
        h = jax.nn.relu(x @ v["a"] + v["a_bias"])
        h = jax.lax.conv_general_dilated(h, v["b"], (stride,) * 2, "SAME", dimension_numbers=spec)
        return jax.nn.relu(h + v["b_bias"]).mean((1, 2)) @ v["c"]

    variables = {"a": draw(0, 2, 5), "a_bias": draw(1, 5), "b": draw(2, 3, 3, 5, 4)}
    variables |= {"b_bias": draw(3, 4), "c": draw(4, 4, CLASSES)}
    inputs, kept = draw(5, 3, 7, 7, 2), np.array([True, False, True, False, True])
    graph, means = with_means(apply_fn, variables, inputs)
    shifts = replacement.bias_shifts(graph, variables, means, {"a": kept})
    (mean,) = (means[reading.value] for reading in graph["a"].readings)
    image = jnp.broadcast_to(jnp.where(kept, 0, mean), (1, 7, 7, 5)).transpose(0, 3, 1, 2)
    kernel = variables["b"].transpose(3, 2, 0, 1)
    response = jax.lax.conv(image, kernel, (stride,) * 2, "SAME")
    average = response.mean((0, 2, 3))
    assert shifts.keys() == {"b_bias"}
    terms = largest(jax.lax.conv(abs(image), abs(kernel), (stride,) * 2, "SAME"))
    assert_close(shifts["b_bias"], average, ROUNDING, scale=terms)
    (added,) = replacement.responses(graph, variables, means, {"a": kept}).values()
    scale = float(jnp.abs(response).max())
    assert_close(added, response.transpose(0, 2, 3, 1), ROUNDING, scale=terms)
    folded = replacement.fold_means(graph, variables, means, {"a": kept})
    assert_close(folded.variables["b_bias"], variables["b_bias"] + average, ROUNDING, scale=terms)
    distance = jnp.abs(response - average[:, None, None]).max() / scale
    assert distance > 0.05 and folded.distances.keys() == {"b"}
    np.testing.assert_allclose(folded.distances["b"], distance, rtol=1e-4)


def test_a_bias_for_every_position_takes_up_padding_exactly():
    def apply_fn(v, x):
        spec = ("NHWC", "HWIO", "NHWC")
        h = jax.nn.relu(x @ v["a"] + v["a_bias"])
        h = jax.lax.conv_general_dilated(h, v["b"], (1, 1), "SAME", dimension_numbers=spec)
        return jnp.tanh(h + v["b_bias"]).mean((1, 2)) @ v["c"] + v["c_bias"]

    variables = {"a": draw(0, 2, 5), "a_bias": draw(1, 5), "b": draw(2, 3, 3, 5, 4)}
    variables |= {"b_bias": draw(3, 6, 6, 4), "c": draw(4, 4, CLASSES), "c_bias": draw(6, CLASSES)}
    inputs = draw(5, 3, 6, 6, 2)
    graph, means = with_means(apply_fn, variables, inputs)
    masks = clamping.some_removed(graph)
    folded = replacement.fold_means(graph, variables, means, masks).variables
    expected = clamping.clamped(graph, variables, inputs, means, masks)
    assert_close(apply_fn(folded, inputs), expected, NETWORK)


def test_the_mean_is_the_best_constant_for_a_linear_regression():
    random = np.random.RandomState(0)
    features = random.normal(size=(200, 5)) * [1, 2, 0.5, 3, 1] + [0.5, -1, 2, 4, -3]
    targets = features @ random.normal(size=5) + 2 + random.normal(size=200)
    solved = np.linalg.lstsq(np.column_stack([features, np.ones(200)]), targets, rcond=None)[0]
    variables = {"a": np.eye(5), "w": solved[:5, None], "b": solved[5:]}
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)

    def apply_fn(v, x):
        return x @ v["a"] @ v["w"] + v["b"]

    inputs = jnp.asarray(features, jnp.float32)
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    means = clamping.read_means(graph, variables, inputs)
    for unit in range(5):

        def loss(constant, unit=unit):
            changed = features.copy()
            changed[:, unit] = constant
            return np.mean((changed @ solved[:5] + solved[5] - targets) ** 2)

        best = optimize.minimize_scalar(loss)
        (mean,) = (means[reading.value] for reading in graph["a"].readings)
        np.testing.assert_allclose(mean[unit], best.x, rtol=1e-5)
        masks = {"a": np.arange(5) != unit}
        folded = replacement.fold_means(graph, variables, means, masks).variables
        found = np.mean((np.asarray(apply_fn(folded, inputs))[:, 0] - targets) ** 2)
        np.testing.assert_allclose(found, best.fun, rtol=1e-5)


def test_outside_jit_and_inside_give_the_same():
    apply_fn, variables, inputs = replacement_networks.NETWORKS["pool_then_sigmoid"]()
    graph, means = with_means(apply_fn, variables, inputs)
    masks = clamping.some_removed(graph)
    outside = replacement.bias_shifts(graph, variables, means, masks)
    inside = jax.jit(lambda *args: replacement.bias_shifts(graph, *args))(variables, means, masks)
    assert outside.keys() == inside.keys() == {"params/Conv_1/bias", "params/Dense_0/bias"}
    for leaf, array in outside.items():
        assert_close(inside[leaf], array, ROUNDING)


def test_running_mean_goes_down_by_the_response():
    apply_fn, variables, inputs = replacement_networks.NETWORKS["running_mean"]()
    graph, means = with_means(apply_fn, variables, inputs)
    masks = clamping.some_removed(graph, only=["params/Conv_0"])
    shifts = replacement.bias_shifts(graph, variables, means, masks)
    (mean,) = (means[reading.value] for reading in graph["params/Conv_0"].readings)
    gone = jnp.where(masks["params/Conv_0"], 0, mean)
    kernel = variables["params"]["Conv_1"]["kernel"]
    assert shifts.keys() == {"batch_stats/BatchNorm_1/mean"}
    terms = abs(gone) @ abs(kernel).sum((0, 1))
    assert_close(*shifts.values(), -gone @ kernel.sum((0, 1)), ROUNDING, scale=largest(terms))


def test_where_nothing_is_removed_nothing_is_asked_of_the_layer():
    apply_fn, variables, inputs = no_bias()
    graph, means = with_means(apply_fn, variables, inputs)
    assert replacement.bias_shifts(graph, variables, means, {"b": np.ones(6, bool)}) == {}


def no_bias():
    """A stream, and a branch whose last layer has no bias before it joins."""
    variables = {"a": draw(0, 4, 5), "b": draw(1, 5, 6), "c": draw(2, 6, 5), "d": draw(3, 5, 4)}
    variables |= {"a_bias": draw(4, 5), "b_bias": draw(5, 6), "d_bias": draw(6, 4)}

    def apply_fn(v, x):
        h = jnp.tanh(x @ v["a"] + v["a_bias"])
        h = h + jnp.tanh(h @ v["b"] + v["b_bias"]) @ v["c"]
        return jnp.tanh(h) @ v["d"] + v["d_bias"]

    return apply_fn, variables, draw(7, 6, 4)


def shared_bias():
    variables = {"a": draw(0, 4, 5), "b": draw(1, 5, 5), "c": draw(2, 5, CLASSES)}
    variables |= {"a_bias": draw(3, 5), "c_bias": draw(4, CLASSES)}

    def apply_fn(v, x):
        h = jnp.tanh(jnp.tanh(x @ v["a"] + v["a_bias"]) @ v["b"] + v["a_bias"])
        return h @ v["c"] + v["c_bias"]

    return apply_fn, variables, draw(5, 6, 4)


def taken_by_data():
    """Units at a place that the example itself says."""
    variables = {"a": draw(0, 3, 3, 2, 5), "b": draw(1, 5, CLASSES), "b_bias": draw(2, CLASSES)}

    def apply_fn(v, x):
        spec = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(x, v["a"], (1, 1), "VALID", dimension_numbers=spec)
        place = jnp.abs(x).sum((2, 3)).argmax(1) % 6
        rows = jax.vmap(lambda h, at: jax.lax.dynamic_slice_in_dim(h, at, 1))(jax.nn.relu(h), place)
        return rows.mean((1, 2)) @ v["b"] + v["b_bias"]

    return apply_fn, variables, draw(3, 4, 8, 8, 2)


REFUSED = {
    "other data on the way": (
        taken_by_data,
        "a",
        "b",
        "'a' .* gather combines them with other data",
    ),
    "no bias before a sum": (no_bias, "b", "c", "nothing to fold means into behind 'c'"),
    "a bias of two layers": (
        shared_bias,
        "a",
        "b",
        "folded into 'a_bias'.* it is used elsewhere too",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_means_that_cannot_be_folded_are_refused(case):
    make, space, _, message = REFUSED[case]
    apply_fn, variables, inputs = make()
    graph, means = with_means(apply_fn, variables, inputs)
    masks = {space: np.arange(graph[space].size) > 0}
    with pytest.raises(ValueError, match=message):
        replacement.fold_means(graph, variables, means, masks)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda m: replacement.fold_means(graph, variables, means, m))(masks)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_folded_is_skipped_by_name(case):
    make, space, layer, message = REFUSED[case]
    apply_fn, variables, inputs = make()
    graph, means = with_means(apply_fn, variables, inputs)
    masks = {space: np.arange(graph[space].size) > 0}
    folded = replacement.fold_means(graph, variables, means, masks, missing="skip")
    under_jit = jax.jit(
        lambda masks: replacement.fold_means(graph, variables, means, masks, missing="skip")
    )(masks)
    for each in (folded, under_jit):
        assert each.left_out.keys() == {layer} and layer not in each.distances
        assert re.search(message, each.left_out[layer])
        removed = units.apply_masks(graph, variables, masks)
        np.testing.assert_array_equal(each.variables["b"], removed["b"])


@pytest.mark.parametrize(
    "name, folds, left",
    [
        ("rms_norm", "params/Dense_5", ["params/Dense_2", "params/Dense_4"]),
        ("swiglu", "out", ["down"]),
    ],
)
def test_layers_with_a_bias_are_folded_beside_those_without(name, folds, left):
    _, variables, inputs, graph, means = network(name)
    masks = clamping.some_removed(graph)
    with pytest.raises(ValueError, match=f"nothing to fold means into behind '{left[0]}'"):
        replacement.fold_means(graph, variables, means, masks)
    folded = replacement.fold_means(graph, variables, means, masks, missing="skip")
    assert list(folded.left_out) == left
    assert all(f"behind {layer!r}: no bias" in folded.left_out[layer] for layer in left)
    assert folds not in folded.left_out and max(folded.distances.values()) < 1e-5
    # What is left out is what is between the folded network and the clamped one.
    added = replacement.responses(graph, variables, means, masks)
    products = {
        use.equation for layer in graph.trace.layers if layer.name in left for use in layer.uses
    }
    outputs = {graph.trace.model.equations[number].outputs[0] for number in products}
    assert outputs < added.keys()
    added = {value: added[value] for value in outputs}
    completed = clamping.with_added(graph, folded.variables, inputs, added, masks)
    assert_close(completed, clamping.clamped(graph, variables, inputs, means, masks), NETWORK)


def test_an_unknown_word_for_what_is_missing_is_refused():
    _, variables, _, graph, means = network("dense")
    masks = clamping.some_removed(graph)
    with pytest.raises(ValueError, match="'skp' .did you mean 'skip'.*; valid: refuse, skip"):
        replacement.fold_means(graph, variables, means, masks, missing="skp")


@pytest.mark.parametrize("names", [["0"], ["2"], ["2", "2_2"]])
def test_units_along_two_axes_of_one_array_have_a_mean_for_each_pair(names):
    apply_fn, variables, inputs = replacement_networks.multi_axis_dense()
    graph, means = with_means(apply_fn, variables, inputs)
    masks = clamping.some_removed(graph, only=names)
    assert set(names) <= masks.keys()
    folded = replacement.fold_means(graph, variables, means, masks).variables
    expected = clamping.clamped(graph, variables, inputs, means, masks)
    assert_close(apply_fn(folded, inputs), expected, NETWORK)


def changed(change):
    return lambda means: {value: change(mean) for value, mean in means.items()}


BAD_MEANS = {
    "not finite": (changed(lambda m: m.at[0].set(jnp.nan)), "'params/Dense_2'.* not all finite"),
    "infinite": (changed(lambda m: m.at[0].set(jnp.inf)), "'params/Dense_2'.* not all finite"),
    "another shape": (changed(lambda m: m[1:]), r"'params/Dense_2'.* have shape \(6,\).* \(7,\)"),
    "of another model": (lambda means: network("transformer")[4], "of no units of this graph"),
    "missing": (lambda means: {}, "'params/Dense_2'.* are missing"),
}


@pytest.mark.parametrize("case", BAD_MEANS)
def test_bad_means_are_refused(case):
    change, message = BAD_MEANS[case]
    _, variables, _, graph, means = network("dense")
    with pytest.raises(ValueError, match=message):
        replacement.fold_means(graph, variables, change(means), clamping.some_removed(graph))


@pytest.mark.parametrize(
    "masks, message",
    [
        (
            {"params/Dense_2": np.arange(6) > 0},
            r"'params/Dense_2' must be booleans of shape \(7,\)",
        ),
        ({"params/Dense_2": np.arange(7)}, r"'params/Dense_2' must be booleans of shape \(7,\)"),
        ({"params/Dense_0": np.arange(4) > 0}, "'params/Dense_0' is not prunable"),
        ({"params/Conv_0": np.arange(5) > 0}, "unknown unit space 'params/Conv_0'"),
        ({"params/Dense_9": np.arange(4) > 0}, "unknown unit space 'params/Dense_9'"),
    ],
)
def test_bad_unit_masks_are_refused(masks, message):
    _, variables, _, graph, means = network("dense")
    with pytest.raises(ValueError, match=message):
        replacement.fold_means(graph, variables, means, masks)


def test_variables_of_another_shape_are_refused():
    _, variables, _, graph, means = network("dense")
    masks = clamping.some_removed(graph, only=["params/Dense_2"])
    variables = jax.tree.map(lambda leaf: leaf, variables)
    variables["params"]["Dense_1"]["bias"] = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"have \(3,\) at 'params/Dense_1/bias', .* \(5,\)"):
        replacement.fold_means(graph, variables, means, masks)
    del variables["params"]["Dense_1"]["bias"]
    with pytest.raises(ValueError, match="'params/Dense_1/bias'"):
        replacement.fold_means(graph, variables, means, masks)

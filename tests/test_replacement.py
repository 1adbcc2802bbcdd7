"""Mean replacement against the network with clamped units, run by hand or equation by equation."""

import functools

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
from pruning_jax.replacement import paths
from pruning_jax.types import Batch


def batch(inputs):
    return Batch(inputs, jnp.arange(len(inputs)) % CLASSES)


def with_means(apply_fn, variables, inputs):
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    return graph, replacement.unit_means(apply_fn, graph, variables, batch(inputs))


@pytest.mark.parametrize("name", replacement_networks.NETWORKS)
def test_folded_network_is_the_clamped_network(name):
    apply_fn, variables, inputs = replacement_networks.NETWORKS[name]()
    graph, means = with_means(apply_fn, variables, inputs)
    assert len(graph.prunable) > 1

    @jax.jit
    def logits(variables, inputs, means, masks):
        clamped = clamping.clamped(apply_fn, graph, variables, inputs, means, masks)
        folded = replacement.fold_means(graph, variables, means, masks)
        removed = units.apply_masks(graph, variables, masks)
        return clamped, apply_fn(folded, inputs), apply_fn(removed, inputs)

    choices = [clamping.some_removed(graph, seed) for seed in range(2)]
    choices += [clamping.some_removed(graph, only=[space.name]) for space in graph.prunable]
    differences = []
    for masks in choices:
        clamped, folded, removed = logits(variables, inputs[::-1] + 0.1, means, masks)
        assert_close(folded, clamped, NETWORK)
        differences.append(jnp.max(jnp.abs(removed - clamped)) / jnp.max(jnp.abs(clamped)))
    assert min(differences[:2]) > 1e-3


def test_a_model_with_state_of_its_own_has_no_means():
    apply_fn, variables, inputs = replacement_networks.NETWORKS["dense"]()
    calls = []

    def counting(variables, inputs):
        calls.append(1)
        return apply_fn(variables, inputs) * len(calls)

    graph = units.graph(tracing.trace(counting, variables, inputs))
    with pytest.raises(ValueError, match="Python-side state"):
        replacement.unit_means(counting, graph, variables, batch(inputs))


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
    folded = replacement.fold_means(graph, variables, found, masks)
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
    assert shifts.keys() == {"b_bias"}
    terms = jax.lax.conv(abs(image), abs(kernel), (stride,) * 2, "SAME")
    assert_close(shifts["b_bias"], response.mean((0, 2, 3)), ROUNDING, scale=largest(terms))


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
    folded = replacement.fold_means(graph, variables, means, masks)
    expected = clamping.clamped(apply_fn, graph, variables, inputs, means, masks)
    assert_close(apply_fn(folded, inputs), expected, ROUNDING)


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
    labelled = Batch(inputs, jnp.asarray(targets[:, None], jnp.float32))
    means = replacement.unit_means(apply_fn, graph, variables, labelled)
    for unit in range(5):

        def loss(constant, unit=unit):
            changed = features.copy()
            changed[:, unit] = constant
            return np.mean((changed @ solved[:5] + solved[5] - targets) ** 2)

        best = optimize.minimize_scalar(loss)
        (mean,) = (means[reading.value] for reading in graph["a"].readings)
        np.testing.assert_allclose(mean[unit], best.x, rtol=1e-5)
        folded = replacement.fold_means(graph, variables, means, {"a": np.arange(5) != unit})
        found = np.mean((np.asarray(apply_fn(folded, inputs))[:, 0] - targets) ** 2)
        np.testing.assert_allclose(found, best.fun, rtol=1e-5)


@pytest.mark.parametrize("sizes", [[6], [1, 5], [2, 3, 1]])
def test_means_do_not_depend_on_the_split(sizes):
    apply_fn, variables, inputs = replacement_networks.NETWORKS["running_mean"]()
    graph, means = with_means(apply_fn, variables, inputs)
    parts = jnp.split(inputs, np.cumsum(sizes)[:-1])
    split = replacement.unit_means(apply_fn, graph, variables, (batch(part) for part in parts))
    assert split.keys() == {r.value for space in graph.prunable for r in space.readings}
    for value, mean in means.items():
        assert_close(split[value], mean, ROUNDING)


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


REFUSED = {
    "no bias before a sum": (no_bias, "b", "nothing to fold means into behind 'c'"),
    "a bias of two layers": (shared_bias, "a", "folded into 'a_bias'.* it is used elsewhere too"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_means_that_cannot_be_folded_are_refused(case):
    make, space, message = REFUSED[case]
    apply_fn, variables, inputs = make()
    graph, means = with_means(apply_fn, variables, inputs)
    masks = {space: np.arange(graph[space].size) > 0}
    with pytest.raises(ValueError, match=message):
        replacement.fold_means(graph, variables, means, masks)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda m: replacement.fold_means(graph, variables, means, m))(masks)


def test_units_along_two_axes_of_one_array_are_refused_and_others_are_not():
    apply_fn, variables, inputs = replacement_networks.multi_axis_dense()
    graph, means = with_means(apply_fn, variables, inputs)
    masks = clamping.some_removed(graph, only=["0"])
    folded = replacement.fold_means(graph, variables, means, masks)
    expected = clamping.clamped(apply_fn, graph, variables, inputs, means, {"0": masks["0"]})
    assert_close(apply_fn(folded, inputs), expected, ROUNDING)
    with pytest.raises(ValueError, match="'2' share the array .* along another axis"):
        replacement.fold_means(graph, variables, means, {"2": np.array([True, False])})


def test_other_data_on_the_way_is_refused():
    def apply_fn(v, x):
        return (jnp.tanh(x @ v["a"]) * x[:, :1]) @ v["b"]

    variables = {"a": draw(0, 4, 5), "b": draw(1, 5, CLASSES)}
    model = (trace := tracing.trace(apply_fn, variables, draw(2, 3, 4))).model
    names = [equation.name for equation in model.equations]
    (read,) = model.equations[names.index("tanh")].outputs
    product = model.equations[names.index("mul")].outputs[0]
    given = frozenset([read])
    with pytest.raises(ValueError, match="mul combines them with other data"):
        paths.between(paths.wiring(trace), product, given, given)


def dense():
    apply_fn, variables, inputs = replacement_networks.NETWORKS["dense"]()
    return (apply_fn, variables, inputs, *with_means(apply_fn, variables, inputs))


def changed(change):
    return lambda means: {value: change(mean) for value, mean in means.items()}


BAD_MEANS = {
    "not finite": (changed(lambda m: m.at[0].set(jnp.nan)), "'params/Dense_2'.* not all finite"),
    "infinite": (changed(lambda m: m.at[0].set(jnp.inf)), "'params/Dense_2'.* not all finite"),
    "another shape": (changed(lambda m: m[1:]), r"'params/Dense_2'.* have shape \(6,\).* 7"),
    "missing": (lambda means: {}, "'params/Dense_2'.* are missing"),
}


@pytest.mark.parametrize("case", BAD_MEANS)
def test_bad_means_are_refused(case):
    change, message = BAD_MEANS[case]
    _, variables, _, graph, means = dense()
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
        ({"params/Dense_9": np.arange(4) > 0}, "unknown unit space 'params/Dense_9'"),
    ],
)
def test_bad_unit_masks_are_refused(masks, message):
    _, variables, _, graph, means = dense()
    with pytest.raises(ValueError, match=message):
        replacement.fold_means(graph, variables, means, masks)


def test_variables_of_another_shape_are_refused():
    _, variables, _, graph, means = dense()
    masks = clamping.some_removed(graph, only=["params/Dense_2"])
    variables["params"]["Dense_1"]["bias"] = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"'params/Dense_1/bias' has shape \(3,\)"):
        replacement.fold_means(graph, variables, means, masks)
    del variables["params"]["Dense_1"]["bias"]
    with pytest.raises(ValueError, match="'params/Dense_1/bias'"):
        replacement.fold_means(graph, variables, means, masks)


def test_means_of_another_model_or_of_bad_examples_are_refused():
    apply_fn, variables, inputs, graph, _ = dense()

    def other(v, x):
        return apply_fn(v, jnp.tanh(x))

    with pytest.raises(ValueError, match="they differ in equation 0"):
        replacement.unit_means(other, graph, variables, batch(inputs))
    with pytest.raises(ValueError, match="not all finite"):
        bad = inputs.at[0].set(jnp.nan)
        replacement.unit_means(apply_fn, graph, variables, batch(bad))
    with pytest.raises(ValueError, match="empty"):
        replacement.unit_means(apply_fn, graph, variables, [])

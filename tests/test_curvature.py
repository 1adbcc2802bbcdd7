"""Gradients and curvature against dense automatic differentiation, finite differences, BackPACK."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from closeness import NETWORK, ROUNDING, assert_close

from pruning_jax import curvature, losses, tracing, trees, units
from pruning_jax.curvature import ggn
from pruning_jax.types import Batch


def floating(variables):
    return {
        name: leaf
        for name, leaf in trees.named_leaves(variables).items()
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }


def with_leaves(variables, leaves):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(trees.path_name(path), leaf), variables
    )


def mean_loss(leaves, apply_fn, variables, batch, loss):
    return loss.value(apply_fn(with_leaves(variables, leaves), batch.inputs), batch.labels).mean()


def dense_diagonal(apply_fn, variables, batch, loss):
    """diag(J^T H J), from the whole Jacobian and the Hessian of the loss in the logits."""
    return jax.jit(_dense_diagonal, static_argnums=(0, 3))(apply_fn, variables, batch, loss)


def _dense_diagonal(apply_fn, variables, batch, loss):
    leaves = floating(variables)
    logits = apply_fn(variables, batch.inputs)
    jacobian = jax.jacrev(lambda own: apply_fn(with_leaves(variables, own), batch.inputs))(leaves)
    hessian = jax.vmap(jax.hessian(lambda f, y: loss.value(f[None], y[None])[0]))(
        logits, batch.labels
    )
    return {
        name: jnp.einsum("na...,nab,nb...->...", j, hessian, j) / len(logits)
        for name, j in jacobian.items()
    }


def examples(name, seed=0):
    apply_fn, variables, inputs = networks.NETWORKS[name]()
    labels = jax.random.randint(jax.random.key(seed), inputs.shape[:1], 0, networks.CLASSES)
    return apply_fn, variables, Batch(inputs, labels)


@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.parametrize("loss", losses.LOSSES)
def test_exact_diagonal_is_that_of_the_dense_matrix(name, loss):
    apply_fn, variables, batch = examples(name)
    found = curvature.ggn_diagonal(apply_fn, variables, batch, loss=losses.LOSSES[loss])
    layers = tracing.trace(apply_fn, variables, batch.inputs).layers
    assert set(trees.named_leaves(found)) == {
        path for layer in layers for path in (layer.kernel, layer.bias) if path is not None
    }
    expected = dense_diagonal(apply_fn, variables, batch, losses.LOSSES[loss])
    for leaf, array in trees.named_leaves(found).items():
        assert_close(array, expected[leaf], NETWORK)


@pytest.mark.parametrize("name", ["linen", "nnx", "tied_embedding"])
def test_gradient_is_that_of_the_mean_loss(name):
    apply_fn, variables, batch = examples(name)
    found = curvature.gradient(apply_fn, variables, batch)
    expected = jax.grad(mean_loss)(
        floating(variables), apply_fn, variables, batch, losses.cross_entropy
    )
    assert set(trees.named_leaves(found)) == set(expected)
    for leaf, array in trees.named_leaves(found).items():
        assert_close(array, expected[leaf], NETWORK)


def test_hessian_vector_product_is_that_of_the_dense_hessian():
    apply_fn, variables, batch = examples("tied")
    vector = [(networks.draw(7, 4, 6), None), {"w": networks.draw(8, 6, 6), "b": None}, None]
    found = curvature.hessian_vector_product(apply_fn, variables, vector, batch)
    flat, unravel = jax.flatten_util.ravel_pytree(floating(variables))
    hessian = jax.hessian(
        lambda x: mean_loss(unravel(x), apply_fn, variables, batch, losses.cross_entropy)
    )(flat)
    given = trees.named_leaves(vector)
    whole = {
        name: given.get(name, jnp.zeros_like(leaf)) for name, leaf in floating(variables).items()
    }
    expected = unravel(hessian @ jax.flatten_util.ravel_pytree(whole)[0])
    for leaf, array in trees.named_leaves(found).items():
        assert_close(array, expected[leaf], NETWORK)


@pytest.mark.parametrize("name", ["nnx", "tied"])
def test_a_trace_and_a_graph_stand_for_their_function(name):
    apply_fn, variables, batch = examples(name)
    trace = tracing.trace(apply_fn, variables, batch.inputs)
    for model in (trace, units.graph(trace)):
        for statistic in (curvature.ggn_diagonal, curvature.gradient):
            expected = statistic(apply_fn, variables, batch)
            assert_close(statistic(model, variables, batch), expected, ROUNDING)
        product = curvature.hessian_vector_product(model, variables, variables, batch)
        expected = curvature.hessian_vector_product(apply_fn, variables, variables, batch)
        assert_close(product, expected, ROUNDING)


def test_a_gradient_needs_no_layers_and_a_diagonal_does():
    variables, batch = jnp.ones((2, 4)), Batch(networks.draw(0, 5, 4), jnp.arange(5) % 4)

    def scaled(v, x):
        return x * v[0] + v[1]

    for model in (scaled, lambda v, x: scaled(v, x - x.mean(0))):
        assert jnp.isfinite(curvature.gradient(model, variables, batch)).all()
    with pytest.raises(ValueError, match="the model has no layers"):
        curvature.ggn_diagonal(scaled, variables, batch)
    with pytest.raises(ValueError, match="mixes examples"):
        curvature.ggn_diagonal(lambda v, x: (x - x.mean(0)) @ v.T @ v, variables, batch)


WINDOWS = {
    "valid": {},
    "strided": {"window_strides": (2, 3), "padding": [(2, 1), (0, 3)]},
    "cropped": {"window_strides": (3, 3), "padding": [(-1, 0), (0, -1)]},
    "dilated": {"rhs_dilation": (2, 1), "padding": "SAME"},
    "transposed": {"lhs_dilation": (2, 3), "padding": [(1, 2), (2, 0)]},
    "grouped": {"feature_group_count": 2, "padding": "SAME"},
}


@pytest.mark.parametrize("window", WINDOWS)
def test_exact_diagonal_of_every_kind_of_convolution(window):
    options = {"window_strides": (1, 1), "padding": "VALID"} | WINDOWS[window]
    channels = 4 // options.get("feature_group_count", 1)
    variables = {"kernel": networks.draw(0, 3, 2, channels, 6), "out": networks.draw(1, 6, 4)}

    def apply_fn(v, x):
        h = jax.lax.conv_general_dilated(
            x, v["kernel"], **options, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.tanh(h).mean((1, 2)) @ v["out"]

    batch = Batch(networks.draw(2, 3, 8, 9, 4), jnp.arange(3))
    expected = dense_diagonal(apply_fn, variables, batch, losses.cross_entropy)
    assert_close(curvature.ggn_diagonal(apply_fn, variables, batch), expected, 1e-5)


@pytest.mark.parametrize("sizes", [[1, 3], [2, 1, 1]])
def test_means_do_not_depend_on_the_split(sizes):
    apply_fn, variables, batch = examples("nnx")
    ends = np.cumsum([0, *sizes])
    parts = [
        Batch(batch.inputs[a:b], batch.labels[a:b])
        for a, b in zip(ends[:-1], ends[1:], strict=True)
    ]
    for options in ({}, {"key": jax.random.key(0), "samples": 2}):
        whole = curvature.ggn_diagonal(apply_fn, variables, batch, **options)
        split = curvature.ggn_diagonal(apply_fn, variables, iter(parts), **options)
        assert_close(split, whole, NETWORK)
    whole = curvature.gradient(apply_fn, variables, batch)
    split = curvature.gradient(apply_fn, variables, parts)
    assert_close(split, whole, NETWORK)


def test_means_do_not_depend_on_how_memory_is_bounded(monkeypatch):
    apply_fn, variables, inputs = networks.tied()
    batch = Batch(networks.draw(9, 11, 4), jnp.arange(11) % networks.CLASSES)
    whole = curvature.ggn_diagonal(apply_fn, variables, batch)
    monkeypatch.setitem(ggn._PIECE_BYTES, "cpu", 1)
    monkeypatch.setattr(ggn, "_FEWEST_COLUMNS", 1)
    trace = tracing.trace(apply_fn, variables, inputs)
    plan = ggn._plan(trace, losses.cross_entropy, None)
    counted = [piece.weights.sum() for _, piece in ggn._pieces(plan.examples, batch)]
    assert (counted, plan.group) == ([4, 4, 3], (1, 1))
    assert_close(curvature.ggn_diagonal(trace, variables, batch), whole, NETWORK)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_monte_carlo_is_unbiased(loss):
    apply_fn, variables, batch = examples("tied")
    exact = curvature.ggn_diagonal(apply_fn, variables, batch, loss=losses.LOSSES[loss])
    draws = [
        curvature.ggn_diagonal(
            apply_fn, variables, batch, loss=losses.LOSSES[loss], key=key, samples=8
        )
        for key in jax.random.split(jax.random.key(0), 200)
    ]
    for truth, *found in zip(*map(jax.tree.leaves, [exact, *draws]), strict=True):
        found = np.stack(found)
        deviation = found.std(0, ddof=1) / np.sqrt(len(found))
        assert np.all(np.abs(found.mean(0) - truth) < 5 * deviation + 1e-5 * np.abs(truth))


def test_the_same_key_gives_the_same_estimate():
    apply_fn, variables, batch = examples("tied")
    one, same, other = (
        curvature.ggn_diagonal(apply_fn, variables, batch, key=jax.random.key(seed))
        for seed in (0, 0, 1)
    )
    assert all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(same)))
    assert not all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def test_a_second_call_does_not_trace_again():
    apply_fn, variables, batch = examples("tied")
    calls = []

    def counted(variables, inputs):
        calls.append(1)
        return apply_fn(variables, inputs)

    for statistic in (curvature.gradient, curvature.ggn_diagonal):
        statistic(counted, variables, batch)
        before = len(calls)
        statistic(counted, jax.tree.map(lambda leaf: 2 * leaf, variables), batch)
        assert len(calls) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": jnp.array([0, 1, 2, 3, 4])}, r"must be in \[0, 3\]"),
        ({"labels": jnp.array([0, 1, -1, 3, 2])}, r"must be in \[0, 3\]"),
        ({"labels": jnp.array([0, 1])}, "a label for each"),
        ({"labels": jnp.ones(5)}, r"float labels have shape \(5,\) and the logits \(5, 4\)"),
        ({"labels": jnp.ones((5, 4), int)}, r"integer labels have shape \(5, 4\)"),
        ({"labels": [0, 1, 2, 3, 0]}, "must be arrays"),
        ({"labels": jnp.full((5, 4), jnp.nan)}, "labels of batch 0 are not all finite"),
        ({"inputs": [[0.0] * 4] * 5}, "must be arrays"),
        ({"inputs": jnp.full((5, 4), jnp.inf)}, "inputs of batch 0 are not all finite"),
        ({"batches": (jnp.ones((5, 4)), jnp.zeros(5, int))}, r"wrap it as Batch\(inputs, labels"),
        ({"batches": [(jnp.ones((5, 4)), jnp.zeros(5, int))]}, r"wrap it as Batch\(inputs, labels"),
        ({"loss": "cross_entropy"}, "pass one of losses.cross_entropy, losses.squared_error"),
        ({"key": 0}, "key must be one random key"),
        ({"samples": 3}, "give a key"),
        ({"samples": 0, "key": jax.random.key(0)}, "must be 1 or more"),
        ({"batches": []}, "at least one Batch"),
        ({"batches": [jnp.ones((5, 4))]}, "iterable of Batch"),
    ],
)
def test_bad_input_is_refused(change, message):
    apply_fn, variables, batch = examples("tied")
    change = dict(change)
    fields = {name: change.pop(name) for name in Batch._fields if name in change}
    batches = change.pop("batches", batch._replace(**fields))
    with pytest.raises(ValueError, match=message):
        curvature.ggn_diagonal(apply_fn, variables, batches, **change)


@pytest.mark.parametrize("statistic", [curvature.gradient, curvature.hessian_vector_product])
def test_batches_that_are_not_finite_are_named(statistic):
    apply_fn, variables, batch = examples("tied")
    bad = batch._replace(inputs=batch.inputs.at[1, 2].set(jnp.nan))
    vector = [] if statistic is curvature.gradient else [variables]
    with pytest.raises(ValueError, match="inputs of batch 1 are not all finite"):
        statistic(apply_fn, variables, *vector, iter([batch, bad]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_means_of_half_precision_leaves_do_not_drift(dtype):
    apply_fn, variables, batch = examples("views")
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), variables)
    batch = batch._replace(inputs=batch.inputs[:2], labels=batch.labels[:2])
    for statistic in (curvature.gradient, curvature.ggn_diagonal):
        many = statistic(apply_fn, variables, (batch for _ in range(300)))
        assert {leaf.dtype for leaf in jax.tree.leaves(many)} == {jnp.dtype(jnp.float32)}
        # Half precision has 8 or 11 binary digits, of which the network costs some three.
        assert_close(many, statistic(apply_fn, wide, batch), 0.03)


def test_many_examples_are_counted_in_half_precision():
    batch = Batch(jnp.ones((50_000, 1)), jnp.zeros(50_000, int))
    variables = jnp.full((1, 2), 0.5, jnp.float16)
    for statistic in (curvature.gradient, curvature.ggn_diagonal):
        found = statistic(lambda v, x: x @ v, variables, [batch, batch])
        expected = 0.5 if statistic is curvature.gradient else 0.25
        np.testing.assert_allclose(jnp.abs(found), expected * jnp.ones((1, 2)), rtol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_exact_diagonal_is_that_of_backpack():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("backpack", reason="backpack-for-pytorch is not installed")
    from benchmarks import ggn

    assert ggn.largest_difference("lenet_300_100", examples=4) < NETWORK
    assert ggn.largest_difference("small_conv", examples=3) < NETWORK


@pytest.mark.parametrize("measure", [curvature.gradient, curvature.ggn_diagonal])
@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_outputs_that_are_no_floats_are_refused_and_not_given_a_gradient_of_zero(measure, dtype):
    def classes(variables, inputs):
        return jnp.round(inputs @ variables["w"]).astype(dtype)

    batch = Batch(jnp.ones((2, 3)), jnp.array([0, 1]))
    with pytest.raises(ValueError, match=f"outputs are {dtype}, and logits.* are floats"):
        measure(classes, {"w": jnp.ones((3, 4))}, batch)

"""Logits with positions, regressions and half precision, against dense matrices in float64."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import NETWORK, assert_close, largest

from pruning_jax import curvature, evaluation, losses, pruning, tracing, trees, units
from pruning_jax.analysis import variants
from pruning_jax.curvature import ggn
from pruning_jax.types import Batch

EXAMPLES, LENGTH, VOCABULARY = 3, 4, 7


class PerToken(nn.Module):
    """Every token alone."""

    @nn.compact
    def __call__(self, tokens):
        hidden = nn.gelu(nn.Dense(6)(nn.Embed(VOCABULARY, 5)(tokens)))
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(hidden))


class Decoder(nn.Module):
    """A block with causal attention; its table is its last layer too where that is tied."""

    width: int
    tied: bool = False

    @nn.compact
    def __call__(self, inputs):
        tokens, seen = inputs["tokens"], inputs["seen"]
        table = nn.Embed(VOCABULARY, self.width)
        mask = nn.combine_masks(nn.make_causal_mask(tokens), nn.make_attention_mask(seen, seen))
        x = table(tokens)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), mask=mask)
        x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))
        x = nn.LayerNorm()(x)
        return table.attend(x) if self.tied else nn.Dense(VOCABULARY)(x)


class Segmentation(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Conv(4, (3, 3))(images))
        x = nn.relu(nn.Conv(5, (1, 1))(x))
        return nn.Conv(3, (1, 1), use_bias=False)(x)


class Regression(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(5)(x)))[:, 0]


def tokens(key):
    return jax.random.randint(key, (EXAMPLES, LENGTH), 0, VOCABULARY)


def sentences(key):
    seen = jnp.arange(LENGTH) < jnp.array([[LENGTH], [2], [3]])
    return {"tokens": tokens(key), "seen": seen}


def images(key):
    return jax.random.normal(key, (EXAMPLES, 3, 3, 2))


MODELS = {
    "per_token": (PerToken(), tokens),
    "decoder": (Decoder(8), sentences),
    "narrow_decoder": (Decoder(4), sentences),
    "tied_decoder": (Decoder(4, tied=True), sentences),
    "segmentation": (Segmentation(), images),
    "regression": (Regression(), lambda key: jax.random.normal(key, (EXAMPLES, 4))),
}


@functools.cache
def network(name):
    """apply_fn, variables, a batch with integer labels where there are outputs, its loss."""
    module, draw = MODELS[name]
    keys = jax.random.split(jax.random.key(0), 4)
    inputs = draw(keys[0])
    variables = jax.jit(module.init)(keys[1], inputs)
    variables = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(keys[2], leaf.shape), variables
    )
    logits = jax.eval_shape(module.apply, variables, inputs)
    if logits.ndim == 1:
        return module.apply, variables, Batch(inputs, jnp.arange(3.0)), losses.squared_error
    labels = jax.random.randint(keys[3], logits.shape[:-1], 0, logits.shape[-1])
    return module.apply, variables, Batch(inputs, labels), losses.cross_entropy


def weighed(batch, kind):
    """A batch with weights, and labels that mean nothing where they do not count."""
    if kind is None:
        return batch
    weights = np.random.default_rng(0).uniform(0.5, 2, batch.labels.shape)
    weights[..., -1] = 0
    weights[1] = 0
    if kind is bool:
        weights = weights > 0
    labels = batch.labels
    if jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jnp.where(weights > 0, labels, -100)
    return Batch(batch.inputs, labels, jnp.asarray(weights))


def wide(tree):
    return jax.tree.map(
        lambda x: np.asarray(x, np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def dense(apply_fn, variables, batch, loss):
    """The gradient and the diagonal of the GGN, from the whole Jacobian in double precision."""
    with jax.enable_x64(True):
        variables, inputs = wide(variables), wide(batch.inputs)
        logits = apply_fn(variables, inputs)
        outputs = logits.shape[-1] if logits.ndim > 1 else 1
        flat = logits.reshape(-1, outputs)
        weights = np.ones(len(flat)) if batch.weights is None else np.ravel(batch.weights)
        weights = np.asarray(weights, np.float64) / np.sum(weights)
        jacobian = jax.jit(jax.jacfwd(lambda v: apply_fn(v, inputs).reshape(-1, outputs)))(
            variables
        )
        labels = np.asarray(batch.labels)
        if labels.dtype.kind == "i":
            labels = np.eye(outputs)[np.where(weights > 0, labels.ravel(), 0)]
        labels = labels.reshape(-1, outputs)
        if loss is losses.cross_entropy:
            p = jax.nn.softmax(flat)
            slopes, hessian = p - labels, jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None]
        else:
            slopes, hessian = (
                flat - labels,
                jnp.broadcast_to(jnp.eye(outputs), (*flat.shape, outputs)),
            )
        gradient = jax.tree.map(
            lambda j: jnp.einsum("r,ro,ro...->...", weights, slopes, j), jacobian
        )
        diagonal = jax.tree.map(
            lambda j: jnp.einsum("r,ra...,rab,rb...->...", weights, j, hessian, j), jacobian
        )
        return trees.named_leaves(gradient), trees.named_leaves(diagonal)


@pytest.mark.parametrize("weights", [None, float])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_and_diagonal_are_those_of_the_dense_matrix(name, weights):
    apply_fn, variables, batch, loss = network(name)
    batch = weighed(batch, weights)
    gradient, diagonal = dense(apply_fn, variables, batch, loss)
    found = map(
        trees.named_leaves, curvature.gradient_and_ggn(apply_fn, variables, batch, loss=loss)
    )
    norms = {leaf for leaf in gradient if "LayerNorm" in leaf}
    for arrays, expected, leaves in zip(
        found, (gradient, diagonal), (set(gradient), set(gradient) - norms), strict=True
    ):
        assert set(arrays) == leaves
        for leaf in leaves:
            # Softmax does not see the bias of the keys, whose derivatives are sums to zero.
            scale = max(largest(expected[leaf]), 1e-2 * largest(expected))
            assert_close(arrays[leaf], expected[leaf], NETWORK, scale)


@pytest.mark.parametrize(
    ("name", "whole", "columns"),
    [
        ("per_token", True, VOCABULARY - 1),
        ("decoder", False, VOCABULARY - 1),
        ("narrow_decoder", False, 4),
        ("tied_decoder", False, VOCABULARY - 1),
        ("segmentation", False, 2),
    ],
)
def test_positions_share_columns_after_they_met_for_the_last_time(name, whole, columns):
    apply_fn, variables, batch, loss = network(name)
    plan = ggn._plan(tracing.trace(apply_fn, variables, batch.inputs), loss, None)
    assert (plan.tail.start is None, plan.columns) == (whole, columns)
    assert bool(plan.tail.leaves) == (name != "tied_decoder")


def test_columns_in_many_groups_are_those_of_one(monkeypatch):
    apply_fn, variables, batch, _ = network("narrow_decoder")
    batch = weighed(batch, float)
    whole = curvature.ggn_diagonal(apply_fn, variables, batch)
    monkeypatch.setitem(ggn._PIECE_BYTES, "cpu", 1)
    for fewest, group in ((3, (2, 1)), (8, (4, 2))):
        monkeypatch.setattr(ggn, "_FEWEST_COLUMNS", fewest)
        trace = tracing.trace(apply_fn, variables, batch.inputs)
        assert ggn._plan(trace, losses.cross_entropy, None).group == group
        found = curvature.ggn_diagonal(trace, variables, batch)
        assert_close(found, whole, NETWORK, 1e-2 * largest(whole))


def test_a_narrow_last_layer_has_its_inputs_as_columns():
    keys = jax.random.split(jax.random.key(0), 4)
    variables = [jax.random.normal(k, s) for k, s in zip(keys, [(6, 3), (3, 9)], strict=False)]
    inputs = jax.random.normal(keys[2], (5, 6))
    batch = Batch(inputs, jnp.arange(5))

    def apply_fn(v, x):
        return jnp.tanh(x @ v[0]) @ v[1]

    plan = ggn._plan(tracing.trace(apply_fn, variables, inputs), losses.cross_entropy, None)
    assert plan.columns == 3
    _, expected = dense(apply_fn, variables, batch, losses.cross_entropy)
    found = curvature.ggn_diagonal(apply_fn, variables, batch)
    assert_close(trees.named_leaves(found), expected, NETWORK)


@pytest.mark.parametrize("name", ["narrow_decoder", "segmentation"])
def test_the_estimate_is_unbiased(name):
    apply_fn, variables, batch, _ = network(name)
    batch = weighed(batch, float)
    exact = curvature.ggn_diagonal(apply_fn, variables, batch)
    draws = [
        curvature.ggn_diagonal(apply_fn, variables, batch, key=key, samples=50)
        for key in jax.random.split(jax.random.key(0), 40)
    ]
    for truth, *found in zip(*map(jax.tree.leaves, [exact, *draws]), strict=True):
        found, rounding = np.stack(found), 1e-5 * largest(exact)
        deviation = found.std(0, ddof=1) / np.sqrt(len(found))
        assert np.all(np.abs(found.mean(0) - truth) < 6 * deviation + rounding)


def mean_loss(apply_fn, variables, batch, loss):
    """By hand, of the labels that count."""
    logits = np.asarray(apply_fn(variables, batch.inputs), np.float64)
    weights = np.ones(batch.labels.shape) if batch.weights is None else np.asarray(batch.weights)
    counted = weights > 0
    labels, logits = np.asarray(batch.labels)[counted], logits[counted]
    if loss is losses.squared_error:
        of_each = 0.5 * (logits - labels) ** 2
    else:
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        of_each = -log_p[np.arange(len(labels)), labels]
    right = logits.argmax(-1) == labels if logits.ndim > 1 else np.nan
    weights = weights[counted]
    return (weights * of_each).sum() / weights.sum(), (weights * right).sum() / weights.sum()


@pytest.mark.parametrize("weights", [None, bool, float])
@pytest.mark.parametrize("name", ["decoder", "segmentation", "regression"])
def test_means_are_over_the_positions_that_count(name, weights):
    apply_fn, variables, batch, loss = network(name)
    batch = weighed(batch, weights)
    expected = mean_loss(apply_fn, variables, batch, loss)
    for chunk in (1, 2, 10):
        found = evaluation.evaluate(apply_fn, variables, batch, loss=loss, chunk=chunk)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_hessian_vector_products_are_derivatives_of_the_gradient():
    apply_fn, variables, batch, _ = network("decoder")
    batch = weighed(batch, float)
    weights, labels = batch.weights, jnp.maximum(batch.labels, 0)[..., None]

    def loss(variables):
        log_p = jax.nn.log_softmax(apply_fn(variables, batch.inputs))
        return -jnp.sum(weights * jnp.take_along_axis(log_p, labels, -1)[..., 0]) / weights.sum()

    expected = jax.jit(lambda v: jax.jvp(jax.grad(loss), (v,), (v,))[1])(variables)
    found = curvature.hessian_vector_product(apply_fn, variables, variables, batch)
    assert_close(found, expected, NETWORK, largest(expected))


def test_statistics_of_units_are_derivatives_of_the_mean_loss():
    apply_fn, variables, batch, _ = network("decoder")
    batch = weighed(batch, float)
    graph = units.graph(tracing.trace(apply_fn, variables, batch.inputs))
    space = graph["params/Dense_1"]
    halves = [jax.tree.map(lambda x, s=s: x[s], batch) for s in (slice(0, 1), slice(1, 3))]
    found = curvature.unit_statistics(graph, variables, halves)
    kernel = variables["params"]["Dense_0"]["kernel"]
    slopes = curvature.gradient(apply_fn, variables, batch)["params"]["Dense_0"]["kernel"]
    removal = found.removal[space.name].mean(0) * LENGTH
    assert_close(removal, -(kernel * slopes).sum(1), NETWORK)

    def hidden(module, *_):
        return module.name == "Dense_1"

    _, state = MODELS["decoder"][0].apply(variables, batch.inputs, capture_intermediates=hidden)
    [activation] = state["intermediates"]["Dense_1"]["__call__"]
    expected = np.average(
        nn.gelu(activation).reshape(-1, 8), axis=0, weights=np.ravel(batch.weights)
    )
    [reading] = space.readings
    assert_close(found.means[reading.value], expected, NETWORK)
    assert_close(curvature.unit_means(graph, variables, halves)[reading.value], expected, NETWORK)


def test_variants_are_measured_at_the_positions_that_count():
    apply_fn, variables, batch, loss = network("decoder")
    batch = weighed(batch, float)
    graph = units.graph(tracing.trace(apply_fn, variables, batch.inputs))
    kept = {"params/Dense_1": np.arange(8) % 3 > 0}
    whole, [variant] = variants.measure(graph, variables, batch, [kept], chunk=2)
    pruned = units.apply_masks(graph, variables, kept)
    for found, of in ((whole, variables), (variant.zero, pruned)):
        np.testing.assert_allclose(found, mean_loss(apply_fn, of, batch, loss), rtol=1e-5)


def test_a_language_model_is_pruned():
    apply_fn, variables, batch, _ = network("decoder")
    trace = tracing.trace(apply_fn, variables, batch.inputs)
    masks = pruning.prune(
        apply_fn, variables, "quadratic", 0.5, kernels=trace.kernels, batches=weighed(batch, bool)
    )
    kept = [int(mask.sum()) for mask in jax.tree.leaves(masks)]
    sizes = [mask.size for mask in jax.tree.leaves(masks)]
    assert sum(sizes) - sum(kept) == round(0.5 * sum(sizes))


@pytest.mark.parametrize(
    ("name", "dtype", "bound"),
    # A network costs a few of the 8 or 11 binary digits.
    [("decoder", jnp.bfloat16, 0.1), ("per_token", jnp.float16, 0.02)],
)
def test_half_precision_has_statistics_of_single_precision(name, dtype, bound):
    apply_fn, variables, batch, _ = network(name)
    batch = weighed(batch, float)
    halves = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    same = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), halves)
    expected = curvature.gradient_and_ggn(apply_fn, same, batch)
    found = curvature.gradient_and_ggn(apply_fn, halves, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(got, wanted, bound, max(largest(wanted), 1e-2 * largest(expected)))
    found, expected = (evaluation.evaluate(apply_fn, v, batch).loss for v in (halves, same))
    np.testing.assert_allclose(found, expected, rtol=bound)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("decoder", {"labels": jnp.zeros(3, int)}, r"labels have shape \(3,\) and the logits "
         r"\(3, 4, 7\); they must have shape \(3, 4\)"),
        ("decoder", {"labels": jnp.zeros((3, 4))}, r"float labels .* must have shape \(3, 4, 7\)"),
        ("decoder", {"labels": jnp.full((3, 4), 7)}, r"7 outputs they must be in \[0, 6\]"),
        ("decoder", {"labels": jnp.full((3, 4), -100)}, "give weights of 0"),
        ("decoder", {"weights": jnp.ones(3)}, r"weights have shape \(3,\) and the logits "
         r"\(3, 4, 7\); they must have shape \(3, 4\)"),
        ("decoder", {"weights": jnp.zeros((3, 4), bool)}, "0 at every position of every example"),
        ("decoder", {"weights": -jnp.ones((3, 4))}, "must be finite and 0 or more"),
        ("decoder", {"weights": [1, 0, 1]}, "must be arrays"),
        ("segmentation", {"labels": jnp.zeros((3, 9), int)}, r"must have shape \(3, 3, 3\)"),
        ("regression", {"labels": jnp.zeros(3, int)}, "needs float labels"),
        ("regression", {"labels": jnp.zeros((3, 1))}, r"must have shape \(3,\)"),
        ("regression", {"loss": losses.cross_entropy}, "softmax is always 1"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(name, change, message):
    apply_fn, variables, batch, loss = network(name)
    loss = change.get("loss", loss)
    batch = batch._replace(**{k: v for k, v in change.items() if k != "loss"})
    for statistic in (curvature.gradient, curvature.ggn_diagonal):
        with pytest.raises(ValueError, match=message):
            statistic(apply_fn, variables, batch, loss=loss)


def test_inputs_with_other_numbers_of_examples_are_refused():
    apply_fn, variables, batch, _ = network("decoder")
    inputs = batch.inputs | {"seen": batch.inputs["seen"][:2]}
    with pytest.raises(ValueError, match="2 and 3 examples"):
        curvature.gradient(apply_fn, variables, batch._replace(inputs=inputs))


def test_weights_that_are_all_zero_have_no_mean():
    apply_fn, variables, batch, _ = network("segmentation")
    batch = batch._replace(weights=jnp.zeros(batch.labels.shape))
    with pytest.raises(ValueError, match="0 at every position"):
        evaluation.evaluate(apply_fn, variables, batch)

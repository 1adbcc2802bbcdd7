"""Distributions over weights and gates: against integrals, and against drawing the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruning_jax import methods, recipes
from pruning_jax.methods import local
from pruning_jax.methods.local import Gaussian
from pruning_jax.types import Extended

DRAWS = 2_000
CHANNELS = ("NHWC", "HWIO", "NHWC")


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_the_divergence_is_near_its_integral():
    """KL = E log|1 + sqrt(alpha) e| - 1/2 log alpha - E log|e|, e ~ N(0, 1), and 0 at infinity."""
    edges = np.linspace(-12, 12, 2_000_001)
    e = (edges[1:] + edges[:-1]) / 2
    density = np.exp(-(e**2) / 2) / np.sqrt(2 * np.pi) * (edges[1] - edges[0])
    for log_alpha in np.linspace(-8, 8, 9):
        root = np.exp(log_alpha / 2)
        exact = (density * (np.log(np.abs(1 + root * e)) - np.log(root * np.abs(e)))).sum()
        found = methods.kl_divergence(jnp.float32(log_alpha))
        np.testing.assert_allclose(found, exact, atol=0.009)  # as close as its source says


@pytest.mark.parametrize("log_alpha", [-4.0, -1.0, 0.0, 2.5])
def test_gates_are_open_as_often_as_is_said(log_alpha):
    u = (np.arange(200_000) + 0.5) / 200_000
    gates = np.asarray(methods.hard_concrete(jnp.full(u.shape, log_alpha), jnp.asarray(u)))
    s = 1 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + log_alpha) * 1.5))
    np.testing.assert_allclose(gates, np.clip(s * 1.2 - 0.1, 0, 1), atol=2e-5)
    found = methods.open_probability(jnp.float32(log_alpha))
    np.testing.assert_allclose(found, (gates > 0).mean(), atol=2e-5)


def conv(variables, inputs, key):
    kernel = variables["kernel"].reshape(3, 3, 2, 4)  # reshaped before it is used
    y = jax.lax.conv_general_dilated(inputs, kernel, (1, 1), "SAME", dimension_numbers=CHANNELS)
    return y + variables["bias"], {}


def dense(variables, inputs, key):
    return inputs.reshape(len(inputs), -1) @ variables["kernel"].T + variables["bias"], {}


def unread(variables, inputs, key):
    return jnp.tanh(variables["kernel"]).sum() + inputs.sum() + variables["bias"].sum(), {}


NETWORKS = {"conv": (conv, (18, 4), 4), "dense": (dense, (5, 32), 5), "unread": (unread, (4, 3), 2)}


@pytest.mark.parametrize("name", NETWORKS)
def test_noise_on_outputs_has_the_moments_of_noise_on_weights(name):
    function, shape, width = NETWORKS[name]
    inputs, mean = draw(0, 2, 4, 4, 2), draw(1, *shape) / 3
    variables = {"kernel": mean, "bias": draw(2, width)}
    variance = jnp.exp(draw(3, *shape)) / 20

    def here(key):
        noisy = variables | {"kernel": Gaussian(mean, variance)}
        return local.reparameterised(function)(noisy, inputs, key)[0]

    def sampled(key):
        weights = mean + jnp.sqrt(variance) * jax.random.normal(key, shape)
        return function(variables | {"kernel": weights}, inputs, key)[0]

    keys = jax.random.split(jax.random.key(4), DRAWS)
    found, expected = (np.asarray(jax.jit(jax.vmap(f))(keys)) for f in (here, sampled))
    spread = expected.std(0)
    assert np.abs(found.mean(0) - expected.mean(0)).max() < 6 * spread.max() / np.sqrt(DRAWS)
    np.testing.assert_allclose(found.std(0), spread, rtol=0.12)
    np.testing.assert_allclose((found.std(0) / spread).mean(), 1, rtol=0.02)
    if name == "conv":  # every position has noise of its own, which drawn weights would share
        one, other = found[:, 0, 1, 1, 0], found[:, 0, 2, 2, 0]
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_what_the_function_does_besides_is_as_it_was():
    """Batch norm takes the moments of the noisy outputs, and other outputs come back in place."""
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(3, (3, 3))(x)))
            return nn.Dense(2)(nn.Dropout(0.5, deterministic=False)(x.reshape(len(x), -1)))

    def train_fn(variables, inputs, key):
        return Net().apply(variables, inputs, mutable=["batch_stats"], rngs={"dropout": key})

    inputs, key = draw(0, 3, 4, 4, 2), jax.random.key(1)
    variables = Net().init({"params": key, "dropout": key}, inputs)
    method = methods.variational_dropout(weight=1.0, log_variance=-80.0)
    trained, state = method.init(variables["params"], key, None)
    tiny = jax.tree.map(lambda v: jnp.full(v.shape, -80.0), trained.added)
    trained = Extended(jax.tree.map(lambda p: p + 1e-20, trained.params), tiny)
    seen = method.view(trained, state, 0, key)
    assert local.is_gaussian(seen["Conv_0"]["kernel"]) and not local.is_gaussian(
        seen["Conv_0"]["bias"]
    )
    noisy = variables | {"params": seen}
    found = jax.jit(method.model(train_fn))(noisy, inputs, key)
    expected = jax.jit(train_fn)(variables, inputs, key)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=0.2)
    assert method.model(train_fn)(variables, inputs, key)[0].shape == (3, 2)


def test_evaluation_takes_the_weights_that_are_not_noisy_and_training_clips():
    method = methods.variational_dropout(weight=0.5, first=2, last=6, threshold=1.0)
    params = {"kernel": jnp.array([[1.0, 0.1], [-2.0, 1e-3]]), "bias": jnp.ones(2)}
    variances = {"kernel": jnp.array([[0.0, -2.0], [-20.0, 30.0]]), "bias": None}
    trained = Extended(params, variances)
    theta, spread = np.asarray(params["kernel"]), np.asarray(variances["kernel"])
    log_alpha = spread - np.log(theta**2 + 1e-8)
    kept = log_alpha < 1
    assert kept.tolist() == [[True, False], [True, False]]
    found = method.view(trained, (), 9, None)["kernel"]
    np.testing.assert_array_equal(found, np.where(kept, theta, 0))
    clipped = np.clip(log_alpha, -8, 8)
    variance = method.view(trained, (), 9, jax.random.key(0))["kernel"].variance
    np.testing.assert_allclose(variance, np.exp(clipped) * (theta**2 + 1e-8), rtol=1e-4)
    whole = 0.5 * np.asarray(methods.kl_divergence(jnp.asarray(clipped))).sum()
    for step, share in ((1, 0), (2, 0), (4, 0.5), (6, 1), (9, 1)):
        np.testing.assert_allclose(method.penalty(trained, (), step), share * whole, rtol=1e-5)
    at_once = methods.variational_dropout(weight=0.5)
    np.testing.assert_allclose(at_once.penalty(trained, (), 0), whole, rtol=1e-5)


def test_what_methods_add_is_never_decayed():
    recipe = recipes.Recipe(1, 1, 1.0, momentum=0.0, weight_decay=0.1)
    trained = Extended({"w": jnp.ones((2, 2))}, {"w": jnp.ones((2, 2))})
    tx = recipes.optimizer(recipe, 1)
    update, _ = tx.update(jax.tree.map(jnp.zeros_like, trained), tx.init(trained), trained, step=0)
    assert float(update.params["w"][0, 0]) == pytest.approx(-0.1)
    assert not np.asarray(update.added["w"]).any()

"""Losses against their definitions; Hessian roots against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import ROUNDING, assert_close, largest

from pruning_jax import losses

LOGITS = 2 * jax.random.normal(jax.random.key(0), (5, 4))
LABELS = jnp.array([0, 3, 1, 2, 2])


@pytest.mark.parametrize("name", losses.LOSSES)
def test_root_squares_to_the_hessian(name):
    loss = losses.LOSSES[name]
    hessian = jax.vmap(jax.hessian(lambda f, y: loss.value(f[None], y[None])[0]))(LOGITS, LABELS)
    root = loss.hessian_root(LOGITS, LABELS)
    assert_close(root @ root.swapaxes(1, 2), hessian, ROUNDING)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_sampled_root_squares_to_the_hessian_on_average(name):
    loss = losses.LOSSES[name]
    root = loss.hessian_root(LOGITS, LABELS)
    keys = jax.random.split(jax.random.key(1), 20_000)
    drawn = jax.vmap(lambda key: loss.sampled_root(key, LOGITS, LABELS))(keys)
    squares = jnp.einsum("sna,snb->snab", drawn, drawn)
    errors = squares.mean(0) - root @ root.swapaxes(1, 2)
    rounding = ROUNDING * largest(squares.mean(0))
    assert jnp.all(jnp.abs(errors) < 5 * squares.std(0) / np.sqrt(len(keys)) + rounding)


def test_root_is_finite_and_exact_for_saturated_logits():
    logits = jnp.array([[0.0, -200.0, -200.0], [300.0, 0.0, 299.0], [-90.0, 0.0, -100.0]])
    p = jax.nn.softmax(logits)
    hessian = p[:, :, None] * (jnp.eye(3) - p[:, None])
    root = losses.cross_entropy.hessian_root(logits, jnp.zeros(3, int))
    assert_close(root @ root.swapaxes(1, 2), hessian, ROUNDING)


def test_values():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    np.testing.assert_allclose(
        losses.cross_entropy.value(LOGITS, LABELS), -np.log(p[np.arange(5), LABELS]), rtol=1e-5
    )
    targets = np.eye(4)[LABELS]
    expected = 0.5 * ((LOGITS - targets) ** 2).sum(1)
    np.testing.assert_allclose(losses.squared_error.value(LOGITS, LABELS), expected, rtol=1e-5)
    np.testing.assert_allclose(
        losses.squared_error.value(LOGITS, jnp.asarray(targets)), expected, rtol=1e-5
    )


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("labels", [jnp.ones(5), jnp.ones((5, 1)), jnp.ones((5, 4), int)])
def test_labels_of_another_shape_are_refused(name, labels):
    with pytest.raises(ValueError, match=r"labels have shape .* and the logits \(5, 4\)"):
        jax.jit(losses.LOSSES[name].value)(LOGITS, labels)

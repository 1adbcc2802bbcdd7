"""Second moments of the inputs of layers, against loops over examples and positions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import ROUNDING, assert_close

from pruning_jax import curvature, tracing
from pruning_jax.types import Batch

EXAMPLES, LENGTH = 5, 3


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def split(batch, *sizes):
    ends = np.cumsum([0, *sizes])
    return [
        jax.tree.map(lambda x, a=a, b=b: x[a:b], batch)
        for a, b in zip(ends[:-1], ends[1:], strict=True)
    ]


def moments(rows, weights):
    """sum_i w_i x_i x_i^T / sum_i w_i in double precision."""
    rows, weights = np.asarray(rows, np.float64), np.asarray(weights, np.float64)
    return (rows * weights[:, None]).T @ rows / weights.sum()


def tokens(v, x):
    return jnp.tanh(x @ v["first"]) @ v["second"]


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("sizes", [[5], [1, 4], [2, 2, 1]])
def test_dense_layers_at_the_positions_that_count(weighed, sizes):
    variables = {"first": draw(0, 4, 6), "second": draw(1, 6, 3)}
    inputs = draw(2, EXAMPLES, LENGTH, 4)
    weights = np.random.default_rng(0).uniform(0, 1, (EXAMPLES, LENGTH)).round(1)
    labels = jnp.zeros((EXAMPLES, LENGTH), int)
    batch = Batch(inputs, labels, jnp.asarray(weights) if weighed else None)
    found = curvature.input_moments(tokens, variables, split(batch, *sizes))
    each = weights.ravel() if weighed else np.ones(EXAMPLES * LENGTH)
    hidden = np.tanh(np.asarray(inputs, np.float64) @ np.asarray(variables["first"]))
    expected = {
        "first": moments(inputs.reshape(-1, 4), each),
        "second": moments(hidden.reshape(-1, 6), each),
    }
    assert_close(found, expected, ROUNDING)


CONVOLUTIONS = {
    "same": {"padding": [(1, 1), (0, 1)]},
    "strided": {"window_strides": (2, 1), "padding": [(0, 0), (0, 0)]},
    "grouped": {"feature_group_count": 2, "padding": [(0, 1), (0, 0)]},
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_by_their_patches(kind):
    options = {"window_strides": (1, 1)} | CONVOLUTIONS[kind]
    groups = options.get("feature_group_count", 1)
    variables = {"kernel": draw(0, 3, 2, 4 // groups, 6), "last": draw(1, 6, 3)}
    inputs = draw(2, EXAMPLES, 6, 5, 4)

    def apply_fn(v, x):
        h = jax.lax.conv_general_dilated(
            x, v["kernel"], **options, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return h.mean((1, 2)) @ v["last"]

    weights = np.array([1, 0, 2, 1, 0.5])
    batch = Batch(inputs, jnp.zeros(EXAMPLES, int), jnp.asarray(weights))
    found = curvature.input_moments(apply_fn, variables, split(batch, 3, 2))["kernel"]
    padded = np.pad(np.asarray(inputs), [(0, 0), *options["padding"], (0, 0)])
    rows, columns = (
        range(0, padded.shape[axis] - size + 1, stride)
        for axis, size, stride in zip((1, 2), (3, 2), options["window_strides"], strict=True)
    )
    patches = np.stack(
        [padded[:, r : r + 3, c : c + 2] for r in rows for c in columns], axis=1
    ).reshape(EXAMPLES, -1, 6, groups, 4 // groups)
    expected = [
        moments(patches[:, :, :, group].reshape(-1, 24 // groups), weights.repeat(patches.shape[1]))
        for group in range(groups)
    ]
    assert_close(found, np.stack(expected) if groups > 1 else expected[0], ROUNDING)


def test_a_kernel_used_twice_has_the_mean_of_both_uses():
    kernel, inputs = draw(0, 4, 4), draw(1, EXAMPLES, 4)
    batch = Batch(inputs, jnp.zeros(EXAMPLES, int))
    trace = tracing.trace(lambda v, x: jnp.tanh(x @ v["w"]) @ v["w"], {"w": kernel}, inputs)
    found = curvature.input_moments(trace, {"w": kernel}, batch)["w"]
    both = np.concatenate([inputs, np.tanh(np.asarray(inputs, np.float64) @ np.asarray(kernel))])
    assert_close(found, moments(both, np.ones(len(both))), ROUNDING)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_summed_in_single(dtype):
    inputs = jnp.full((3000, 1), 3, dtype)
    batch = Batch(inputs, jnp.zeros(3000, int))
    found = curvature.input_moments(lambda v, x: x @ v, jnp.ones((1, 2), dtype), batch)
    assert found[""].dtype == jnp.float32
    assert_close(found[""], np.full((1, 1), 9.0), ROUNDING)

"""Means over a dataset against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import ROUNDING, assert_close

from pruning_jax import evaluation, losses
from pruning_jax.lab import meshes, replicates
from pruning_jax.types import Batch


def linear(variables, inputs):
    return inputs @ variables["w"]


VARIABLES = {"w": jax.random.normal(jax.random.key(0), (5, 4))}
BATCH = Batch(
    jax.random.normal(jax.random.key(1), (37, 5)),
    jax.random.randint(jax.random.key(2), (37,), 0, 4),
)


def by_hand(batch: Batch) -> tuple[float, float]:
    logits = np.asarray(batch.inputs, np.float64) @ np.asarray(VARIABLES["w"], np.float64)
    log_z = np.log(np.exp(logits).sum(1))
    labels = np.asarray(batch.labels)
    loss = log_z - logits[np.arange(len(labels)), labels]
    return loss.mean(), (logits.argmax(1) == labels).mean()


@pytest.mark.parametrize("chunk", [1, 10, 37, 1000])
def test_means_are_exact_and_do_not_depend_on_the_chunk(chunk):
    got = evaluation.evaluate(linear, VARIABLES, BATCH, chunk=chunk)
    loss, accuracy = by_hand(BATCH)
    np.testing.assert_allclose(got.loss, loss, rtol=1e-5)
    assert got.accuracy == accuracy


def test_replicates_are_evaluated_each_on_its_own_split():
    batches = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 20], BATCH) for i in range(3)]
    variables = replicates.stack([VARIABLES] * 3)
    stacked = replicates.stack(batches)
    seen = []

    def watched(variables, inputs):
        seen.append(len(inputs))
        return linear(variables, inputs)

    with meshes.use(meshes.make(devices=1)):
        got = evaluation.evaluate(watched, variables, stacked, chunk=7, replicated=True)
    assert set(seen) == {2}, "7 examples at once, of three replicates"
    expected = np.array([by_hand(batch) for batch in batches])
    np.testing.assert_allclose(got.loss, expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(got.accuracy, expected[:, 1], rtol=1e-6)


def test_squared_error_and_float_targets():
    targets = Batch(BATCH.inputs, jax.nn.one_hot(BATCH.labels, 4))
    whole = evaluation.evaluate(linear, VARIABLES, BATCH, loss=losses.squared_error)
    same = evaluation.evaluate(linear, VARIABLES, targets, loss=losses.squared_error)
    assert_close(whole.loss, same.loss, ROUNDING)
    assert whole.accuracy == same.accuracy


def test_no_examples_have_no_mean():
    empty = Batch(jnp.zeros((0, 5)), jnp.zeros(0, jnp.int32))
    with pytest.raises(ValueError, match="0 examples"):
        evaluation.evaluate(linear, VARIABLES, empty)

"""The mean activation of every unit, against those of arrays read equation by equation."""

import clamping
import jax.numpy as jnp
import numpy as np
import pytest
import replacement_networks
from closeness import ROUNDING, assert_close
from networks import CLASSES

from pruning_jax import curvature, tracing, units
from pruning_jax.types import Batch


def batch(inputs):
    return Batch(inputs, jnp.arange(len(inputs)) % CLASSES)


@pytest.mark.parametrize("sizes", [[6], [1, 5], [2, 3, 1]])
def test_means_are_those_of_the_arrays_and_do_not_depend_on_the_split(sizes):
    apply_fn, variables, inputs = replacement_networks.NETWORKS["running_mean"]()
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    parts = jnp.split(inputs, np.cumsum(sizes)[:-1])
    split = curvature.unit_means(graph, variables, (batch(part) for part in parts))
    assert split.keys() == {r.value for space in graph.prunable for r in space.readings}
    assert_close(split, clamping.read_means(graph, variables, inputs), ROUNDING)


def test_a_model_with_state_of_its_own_has_no_means():
    apply_fn, variables, inputs = replacement_networks.NETWORKS["dense"]()
    calls = []

    def counting(variables, inputs):
        calls.append(1)
        return apply_fn(variables, inputs) * len(calls)

    graph = units.graph(tracing.trace(counting, variables, inputs))
    with pytest.raises(ValueError, match="Python-side state"):
        curvature.unit_means(graph, variables, batch(inputs))


def test_bad_examples_have_no_means():
    apply_fn, variables, inputs = replacement_networks.NETWORKS["dense"]()
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    with pytest.raises(ValueError, match="not all finite"):
        curvature.unit_means(graph, variables, batch(inputs.at[0].set(jnp.nan)))
    with pytest.raises(ValueError, match="empty"):
        curvature.unit_means(graph, variables, [])

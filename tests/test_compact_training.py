"""Steps of a network that was cut smaller, against those of the masked one.

Compiled as a user's: without XLA's optimisation the gradient of a maximum after a batch norm is
another one, for the two are computed twice and differ in the last bit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import CLASSES, draw

from pruning_jax import masks, models, tracing, trees, units

pytestmark = pytest.mark.usefixtures("optimised")


def some_removed(graph):
    random = np.random.default_rng(0)
    return {s.name: random.permutation(s.size) >= max(s.size // 3, 1) for s in graph.prunable}


def trained(name):
    """A network with batch norms: its graph, training function, variables and a batch."""
    module = {
        "small_conv": models.build("small_conv", CLASSES, widths=(4, 6, 4, 6, 8), batch_norm=True),
        "resnet": models.build("resnet", CLASSES, depth=8, widths=(4, 6, 8)),
    }[name]
    inputs = draw(1, 8, 32, 32, 3)
    variables = models.init(module, jax.random.key(0), inputs)
    graph = units.graph(tracing.trace(models.apply_fn(module), variables, inputs))
    return graph, models.train_fn(module), variables, inputs, jnp.arange(8) % CLASSES


@pytest.mark.parametrize("name", ["small_conv", "resnet"])
def test_steps_of_the_compact_network_are_those_of_the_masked_one_on_what_is_kept(name):
    graph, train_fn, variables, inputs, labels = trained(name)
    unit_masks = some_removed(graph)
    held = units.parameter_masks(graph, variables, unit_masks, readers=True)
    masked = units.apply_masks(graph, variables, unit_masks)
    small = units.compact(graph, variables, unit_masks, train_fn=train_fn)
    optimizer = optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.1, momentum=0.9))

    def step(function, variables, state, keep):
        def loss(params):
            logits, rest = function({**variables, "params": params}, inputs, jax.random.key(2))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), rest

        (value, rest), slope = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(slope, state, variables["params"])
        params = keep(optax.apply_updates(variables["params"], updates))
        return {**variables, **rest, "params": params}, state, value

    def run(function, variables, keep):
        state, values = optimizer.init(variables["params"]), []
        jitted = jax.jit(functools.partial(step, function, keep=keep))
        for _ in range(3):
            variables, state, value = jitted(variables, state)
            values.append(float(value))
        return variables, values

    kept = {"params": held["params"]}
    whole, expected = run(train_fn, masked, lambda p: masks.apply({"params": p}, kept)["params"])
    less, values = run(small.train_fn, small.variables, lambda params: params)
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    cut = trees.named_leaves(units.compact(graph, whole, unit_masks).variables)
    for leaf, array in trees.named_leaves(less).items():
        assert array.shape == cut[leaf].shape
        scale = max(np.abs(cut[leaf]).max(), 1e-3)
        np.testing.assert_allclose(array, cut[leaf], rtol=0, atol=1e-3 * scale, err_msg=leaf)

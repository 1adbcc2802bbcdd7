"""Mean replacement in ten lines, on models that are not ours."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import NETWORK, assert_close
from networks import CLASSES, draw, drawn

from pruning_jax import (
    criteria,
    curvature,
    evaluation,
    losses,
    replacement,
    tracing,
    units,
)
from pruning_jax.analysis import variants
from pruning_jax.types import Batch


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        norm = nn.BatchNorm(use_running_average=True, name="first_norm")
        h = nn.relu(norm(nn.Conv(self.width, (3, 3), use_bias=False)(x)))
        h = nn.BatchNorm(use_running_average=True)(nn.Conv(self.width, (3, 3), use_bias=False)(h))
        if x.shape[-1] != self.width:
            x = nn.Conv(self.width, (1, 1))(x)
        return nn.relu(x + h)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        for width in (8, 12):
            x = Block(width)(x)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


def linen_resnet():
    module, inputs = ResNet(), draw(0, 40, 8, 8, 3)
    return module.apply, drawn(jax.eval_shape(module.init, jax.random.key(0), inputs)), inputs


def equinox_cnn():
    keys = jax.random.split(jax.random.key(0), 3)
    network = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 8, 3, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(8, 12, 3, key=keys[1]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(12, CLASSES, key=keys[2]),
        ]
    )
    arrays, static = eqx.partition(network, eqx.is_array)

    def apply_fn(variables, inputs):
        return jax.vmap(eqx.combine(variables, static))(inputs)

    return apply_fn, arrays, draw(1, 40, 3, 8, 8)


def plain_mlp():
    sizes = (6, 16, 12, CLASSES)
    variables = [
        (draw(i, a, b) / a**0.5, 0.1 * draw(9 + i, b))
        for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
    ]

    def apply_fn(variables, x):
        for w, b in variables[:-1]:
            x = jax.nn.relu(x @ w + b)
        return x @ variables[-1][0] + variables[-1][1]

    return apply_fn, variables, draw(2, 40, 6)


@pytest.mark.parametrize("network", [linen_resnet, equinox_cnn, plain_mlp])
def test_units_of_the_readers_own_model_are_replaced_by_their_means(network):
    model, variables, inputs = network()
    batch = Batch(inputs, jnp.arange(len(inputs)) % CLASSES)

    graph = units.graph(tracing.trace(model, variables, inputs))
    statistics = curvature.unit_statistics(graph, variables, batch)
    scores = criteria.unit_scores("abs_mrs", graph, variables, statistics=statistics)
    kept = units.from_scores(scores, fraction=0.25)
    removed = units.apply_masks(graph, variables, kept)
    folded = replacement.fold_means(graph, variables, statistics.means, kept).variables
    means = statistics.means
    dense, (found,) = variants.measure(graph, variables, batch, [kept], means=means)

    for space in graph.prunable:
        assert (~np.asarray(kept[space.name])).sum() == space.size // 4
    counted = units.counts(graph, kept).total
    assert counted.kept_parameters < counted.parameters and counted.kept_macs < counted.macs
    loss = losses.cross_entropy.value
    for pruned, metrics in ((variables, dense), (removed, found.zero), (folded, found.mean)):
        expected = loss(model(pruned, inputs), batch.labels).mean()
        assert_close(metrics.loss, expected, NETWORK)
    whole = evaluation.evaluate(model, folded, batch)
    assert_close(whole.loss, found.mean.loss, NETWORK)

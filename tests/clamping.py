"""The network whose removed units are clamped to their means, run equation by equation."""

import jax.numpy as jnp
import numpy as np

from pruning_jax import tracing


def clamped(graph, variables, inputs, means, unit_masks):
    """The logits of the unpruned model with the removed units overwritten where they are read."""
    model, fixed = graph.trace.model, {}
    for name, kept in unit_masks.items():
        for reading in graph[name].readings:
            fixed.setdefault(reading.value, []).append((reading, kept))

    def edit(value, array):
        for reading, kept in fixed.get(value, ()):
            array = _overwritten(array, reading, kept, means[value])
        return array

    def one(inputs):
        known = model.known(variables, inputs)
        return tracing.evaluate(model, known, model.outputs, edit)[model.logits]

    return tracing.over_examples(one, inputs)[:, 0]


def _overwritten(array, reading, kept, mean):
    of_none = reading.units < 0
    stays = of_none | jnp.asarray(kept)[np.where(of_none, 0, reading.units)]
    shape = [-1 if axis == reading.axis else 1 for axis in range(array.ndim)]
    return jnp.where(stays.reshape(shape), array, jnp.reshape(mean, shape).astype(array.dtype))


def some_removed(graph, seed=0, share=0.4, only=None):
    """Unit masks that remove about a share of every space's units, at least one and not all.

    Where `only` names spaces, the others keep all of theirs.
    """
    random, found = np.random.RandomState(seed), {}
    for space in graph.prunable:
        count = min(max(round(share * space.size), 1), space.size - 1)
        kept = np.ones(space.size, bool)
        if only is None or space.name in only:
            kept[random.permutation(space.size)[:count]] = False
        found[space.name] = kept
    return found

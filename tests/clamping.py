"""The network whose removed units are clamped to their means, and where other constants are added.

Run equation by equation, on the unpruned model.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import tracing


def clamped(graph, variables, inputs, means, unit_masks):
    """The logits of the unpruned model with the removed units overwritten where they are read.

    Without means by zero.
    """
    model, fixed, axes = graph.trace.model, _fixed(graph, unit_masks), _axes(graph)

    def edit(value, array):
        for reading, kept in fixed.get(value, ()):
            shape = [n if axis in axes[value] else 1 for axis, n in enumerate(array.shape)]
            mean = jnp.reshape(means[value], shape) if means else jnp.zeros_like(array)
            array = _overwritten(array, reading, kept, mean)
        return array

    return _logits(model, variables, inputs, edit)


def _logits(model, variables, inputs, edit):
    """Compiled as one: equation by equation each would be a program."""

    @jax.jit
    def logits(variables, inputs):
        def one(inputs):
            known = model.known(variables, inputs)
            return tracing.evaluate(model, known, model.outputs, edit)[model.logits]

        return tracing.over_examples(one, inputs)[:, 0]

    return logits(variables, inputs)


def read_means(graph, variables, inputs):
    """The mean over examples and positions of every array that is read."""
    axes = _axes(graph)

    @jax.jit
    def means(variables, inputs):
        arrays = values(graph, variables, inputs, axes)
        return {
            value: array.mean([axis for axis in range(array.ndim) if axis - 1 not in axes[value]])
            for value, array in arrays.items()
        }

    return means(variables, inputs)


def _axes(graph):
    """Value -> the axes along which units that may be pruned are read in it."""
    axes = {}
    for reading in (reading for space in graph.prunable for reading in space.readings):
        axes.setdefault(reading.value, set()).add(reading.axis)
    return axes


def values(graph, variables, inputs, wanted):
    """Values of the model, each (examples, ...)."""
    model = graph.trace.model

    def one(inputs):
        return tracing.evaluate(model, model.known(variables, inputs), wanted)

    return tracing.over_examples(one, inputs)


def with_added(graph, variables, inputs, added, unit_masks):
    """The logits of a network without units that has constants added to some values.

    The units stay at zero, whatever is added to what makes them.
    """
    model, fixed = graph.trace.model, _fixed(graph, unit_masks)

    def edit(value, array):
        array = array + added[value] if value in added else array
        for reading, kept in fixed.get(value, ()):
            array = _overwritten(array, reading, kept, jnp.zeros_like(array))
        return array

    return _logits(model, variables, inputs, edit)


def _fixed(graph, unit_masks):
    """Value -> where removed units are read in it, and which are kept."""
    fixed = {}
    for name, kept in unit_masks.items():
        for reading in graph[name].readings:
            fixed.setdefault(reading.value, []).append((reading, kept))
    return fixed


def _overwritten(array, reading, kept, mean):
    of_none = reading.units < 0
    stays = of_none | jnp.asarray(kept)[np.where(of_none, 0, reading.units)]
    shape = [-1 if axis == reading.axis else 1 for axis in range(array.ndim)]
    return jnp.where(stays.reshape(shape), array, mean.astype(array.dtype))


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

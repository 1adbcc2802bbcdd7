"""The mean activation of every unit."""

import functools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp

from pruning_jax import losses
from pruning_jax.curvature import averaging, purity
from pruning_jax.tracing import equations
from pruning_jax.types import ApplyFn, Array, Batch, Params, PyTree
from pruning_jax.units import UnitGraph


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sums(
    apply_fn: ApplyFn,
    read: tuple[tuple[int, int], ...],
    names: tuple[str, ...],
    variables: Params,
    inputs: PyTree,
) -> dict[int, Array]:
    model = equations.read(apply_fn, variables, inputs)
    if tuple(equation.name for equation in model.equations) != names:
        raise ValueError(
            "apply_fn runs other operations than those of the graph; take the graph again: "
            "units.graph(tracing.trace(apply_fn, variables, inputs))"
        )
    examples = jax.tree.leaves(inputs)[0].shape[0]
    if examples == 1:
        inputs = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), inputs)
    _, kept = equations.evaluate(model, variables, inputs, keep=dict(read).__contains__)

    def mean(array: Array, axis: int) -> Array:
        array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
        return array.mean([other for other in range(array.ndim) if other != axis])

    return {value: examples * mean(kept[value], axis) for value, axis in read}


def axes_read(graph: UnitGraph) -> dict[int, set[int]]:
    """The values that are read, and along which axes."""
    found: dict[int, set[int]] = {}
    for reading in (reading for space in graph.prunable for reading in space.readings):
        found.setdefault(reading.value, set()).add(reading.axis)
    return found


def unit_means(
    apply_fn: ApplyFn, graph: UnitGraph, variables: Params, batches: Batch | Iterable[Batch]
) -> dict[int, Array]:
    """The mean activation of every unit that may be pruned.

        abar_j = E_x mean_p a_j(x, p)

    over examples x and positions p, after layer, norm and function, before pooling.

    Args:
      apply_fn: the model, in evaluation mode.
      graph: its unit graph.
      variables: its variables.
      batches: examples, any number a batch.

    Returns:
      Value of a reading -> means, shape (size of its axis of units,). A value that is read along
      several axes has none.

    Raises:
      ValueError: no batches, inputs or labels that do not fit or are not finite, a model that
        depends on Python-side state, or another one than the graph's.

    Source: Evci et al. 2018, *Mean Replacement Pruning*, section 3.
    """
    read = tuple((value, axes.pop()) for value, axes in axes_read(graph).items() if len(axes) == 1)
    names = tuple(equation.name for equation in graph.trace.model.equations)

    def sums() -> Iterator[tuple[int, PyTree]]:
        checked = averaging.checked(apply_fn, variables, batches, losses.cross_entropy)
        for number, batch in enumerate(checked):
            if not number:
                purity.check(apply_fn, graph.trace.model, variables, batch.inputs)
            part = _sums(apply_fn, read, names, variables, batch.inputs)
            yield jax.tree.leaves(batch.inputs)[0].shape[0], part

    return averaging.mean(sums())

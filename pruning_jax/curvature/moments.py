"""Second moments of what the layers of a model take."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from pruning_jax import losses
from pruning_jax.curvature import averaging, derivatives, layer_gradients
from pruning_jax.tracing import Layer, Trace
from pruning_jax.types import Array, Batch, Params, PyTree


def _layers(trace: Trace) -> list[Layer]:
    return [layer for layer in trace.layers if layer.kind != "embedding"]


@functools.partial(jax.jit, static_argnums=0)
def _sums(trace: Trace, variables: Params, batch: Batch) -> dict[str, Array]:
    model = trace.model
    uses = {layer.kernel: layer.uses for layer in _layers(trace)}
    data = {layer_gradients.data(model, use) for group in uses.values() for use in group}
    known = derivatives.inputs_of(model, batch.inputs)
    arrays = derivatives.forward(model, data, variables, known, {})
    found = {}
    for kernel, group in uses.items():
        sums, positions = zip(
            *(
                layer_gradients.second_moments(
                    model, use, arrays[layer_gradients.data(model, use)], batch.weights
                )
                for use in group
            ),
            strict=True,
        )
        found[kernel] = sum(sums) / sum(positions)
    return found


def input_moments(
    model: Any, variables: Params, batches: Batch | Iterable[Batch]
) -> dict[str, Array]:
    """The second moments of the inputs of every dense or convolutional layer, from one pass.

        M = E_x mean_p a(x, p) a(x, p)^T

    over examples x and the positions p where the kernel is applied, in single precision at least. a
    are the inputs that an output sums over, in the order of the kernel's axes: of a convolution the
    patch under its window, the window's axes first and the channels of a group last. Where a batch
    has weights, positions of a layer are weighed as the labels' where its output has those on its
    first axes; elsewhere an example has its mean weight.

    Args:
      model: a function in evaluation mode, which is traced, or its `Trace` or `UnitGraph`.
      variables: its variables.
      batches: one batch or an iterable of them, any number of examples in each.

    Returns:
      Kernel -> M, shape (inputs, inputs), or (groups, inputs, inputs) where a layer has several
      groups. A kernel that is used several times has the mean over all its positions.

    Raises:
      ValueError: as `ggn_diagonal`.

    Source: LeCun et al. 1990 and Hassibi and Stork 1993, whose Hessians of a layer's squared error
      these are; Frantar and Alistarh, arXiv 2208.11580.

    >>> model = lambda variables, inputs: inputs @ variables["w"]
    >>> batch = pj.Batch(jnp.array([[2.0, 0.0], [0.0, 1.0]]), labels=jnp.array([0, 1]))
    >>> moments = pj.curvature.input_moments(model, {"w": jnp.zeros((2, 2))}, batch)
    >>> moments["w"].tolist()
    [[2.0, 0.0], [0.0, 0.5]]
    """

    def sums() -> Iterator[tuple[float | Array, PyTree]]:
        for trace, batch in averaging.traced(model, variables, batches, losses.cross_entropy):
            yield averaging.count_of_examples(batch), _sums(trace, variables, batch)

    return jax.tree.map(lambda m: m[0] if len(m) == 1 else m, averaging.mean(sums()))

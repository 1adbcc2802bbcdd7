"""Derivatives of the mean loss in the variables, and of the logits in values on the way to them."""

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from pruning_jax import losses, tracing
from pruning_jax.curvature import averaging
from pruning_jax.losses import Loss
from pruning_jax.tracing import Equations, Trace
from pruning_jax.types import ApplyFn, Array, Batch, Params, PyTree


def _is_none(leaf: object) -> bool:
    return leaf is None


def _differentiable(variables: Params) -> PyTree:
    """The floating leaves; ``None`` for the others (counters, random keys)."""
    return jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating) else None,
        variables,
    )


def _merge(floating: PyTree, variables: Params) -> Params:
    return jax.tree.map(
        lambda leaf, whole: whole if leaf is None else leaf, floating, variables, is_leaf=_is_none
    )


def _loss_sum(floating: PyTree, apply_fn: ApplyFn, loss: Loss, variables: Params, batch: Batch):
    logits = apply_fn(_merge(floating, variables), batch.inputs)
    return losses.total(loss, logits, batch)


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradient_sum(apply_fn: ApplyFn, loss: Loss, variables: Params, batch: Batch) -> PyTree:
    """The gradient of the loss summed over a batch; ``None`` for leaves that are not floating."""
    return jax.grad(_loss_sum)(_differentiable(variables), apply_fn, loss, variables, batch)


def _function(model: Any) -> ApplyFn:
    """The function of a trace or a graph; another model is one."""
    trace = model if isinstance(model, Trace) else getattr(model, "trace", None)
    return trace.apply_fn if isinstance(trace, Trace) else model


def gradient(
    model: Any,
    variables: Params,
    batches: Batch | Iterable[Batch],
    *,
    loss: Loss = losses.cross_entropy,
) -> PyTree:
    """The gradient of the mean loss.

        g = E_x dL(f(x), y) / d theta

    Args:
      model: any function in evaluation mode, or a `Trace` or `UnitGraph` of one.
      variables: its variables.
      batches: one batch or an iterable of them; the mean is over all examples.
      loss: one of `losses.LOSSES`.

    Returns:
      A pytree like `variables`; ``None`` for leaves that are not floating. Half-precision
      leaves have single-precision values.

    Raises:
      ValueError: no batches, no `Loss`, labels that do not match the inputs or the outputs, inputs
        or labels that are not finite.

    >>> model = lambda variables, inputs: inputs @ variables["w"]
    >>> variables = {"w": jnp.zeros((1, 2))}
    >>> batch = pj.Batch(inputs=jnp.array([[1.0], [3.0]]), labels=jnp.array([0, 1]))
    >>> pj.curvature.gradient(model, variables, batch)["w"].tolist()
    [[0.5, -0.5]]
    """
    apply_fn = _function(model)
    return averaging.mean(
        (losses.count(batch), gradient_sum(apply_fn, loss, variables, batch))
        for batch in averaging.checked(apply_fn, variables, batches, loss)
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _hvp_sum(apply_fn: ApplyFn, loss: Loss, variables: Params, vector: PyTree, batch: Batch):
    floating = _differentiable(variables)
    tangents = jax.tree.map(
        lambda leaf, v: None if leaf is None else jnp.zeros_like(leaf) if v is None else v,
        floating,
        vector,
        is_leaf=_is_none,
    )
    grad = functools.partial(
        jax.grad(_loss_sum), apply_fn=apply_fn, loss=loss, variables=variables, batch=batch
    )
    return jax.jvp(grad, (floating,), (tangents,))[1]


def hessian_vector_product(
    model: Any,
    variables: Params,
    vector: PyTree,
    batches: Batch | Iterable[Batch],
    *,
    loss: Loss = losses.cross_entropy,
) -> PyTree:
    """The Hessian of the mean loss times a vector, forward over reverse.

        H v,  H = E_x d^2 L(f(x), y) / d theta^2

    Args:
      model, variables, batches, loss: as in `gradient`.
      vector: a pytree like `variables`; ``None`` stands for zeros.

    Returns:
      A pytree like `variables`; ``None`` for leaves that are not floating. Half-precision
      leaves have single-precision values.

    Raises:
      ValueError: no batches, no `Loss`, labels that do not match the inputs or the outputs, inputs
        or labels that are not finite.

    >>> model = lambda variables, inputs: inputs @ variables["w"]
    >>> variables = {"w": jnp.zeros((1, 2))}
    >>> batch = pj.Batch(inputs=jnp.array([[1.0], [3.0]]), labels=jnp.array([0, 1]))
    >>> vector = {"w": jnp.array([[1.0, 0.0]])}
    >>> pj.curvature.hessian_vector_product(model, variables, vector, batch)["w"].tolist()
    [[1.25, -1.25]]
    """
    apply_fn = _function(model)
    return averaging.mean(
        (losses.count(batch), _hvp_sum(apply_fn, loss, variables, vector, batch))
        for batch in averaging.checked(apply_fn, variables, batches, loss)
    )


def inputs_of(model: Equations, inputs: PyTree) -> dict[int, Array]:
    """The values of a model's inputs, shape (examples, 1, ...)."""
    return dict(zip(model.inputs, (x[:, None] for x in jax.tree.leaves(inputs)), strict=True))


def forward(
    model: Equations,
    wanted: Collection[int],
    variables: Params,
    known: dict[int, Array],
    taps: dict[int, Array],
) -> dict[int, Array]:
    """Values of a model, of every example.

    Args:
      model: the equations.
      wanted: the values to return; they depend on the inputs.
      variables: the model's.
      known: value -> (examples, *shape of one example's): the inputs, or a cut behind them.
      taps: value -> (examples, *shape), what is added to it.

    Returns:
      value -> its arrays, shape (examples, *shape of one example's).
    """

    def one(known: dict[int, Array], taps: dict[int, Array]) -> dict[int, Array]:
        def tapped(value: int, x: Array) -> Array:
            return x + taps[value] if value in taps else x

        known = model.known(variables) | {v: tapped(v, x) for v, x in known.items()}
        return tracing.evaluate(model, known, wanted, tapped)

    return jax.vmap(one)(known, taps)


def backward(
    model: Equations,
    end: int,
    tapped: Collection[int],
    kept: Collection[int],
    variables: Params,
    known: dict[int, Array],
) -> tuple[dict[int, Array], Callable[[Array], tuple[PyTree, dict[int, Array]]]]:
    """Runs a model forward, to differentiate a value in others on the way to it.

    Args:
      model: the equations.
      end: the value that is differentiated, the logits or another.
      tapped: the values in which to differentiate.
      kept: the values to return; they depend on the inputs.
      variables, known: as in `forward`.

    Returns:
      value -> (examples, *shape), of `end` and those kept; and the map s -> the gradients of
      <s, end> in the variables, and value -> its cotangent, of those tapped.
    """
    examples = next(iter(known.values())).shape[0]
    taps = {v: jnp.zeros((examples, *model.shape(v)), model.avals[v].dtype) for v in tapped}

    def run(floating: PyTree, taps: dict[int, Array]) -> tuple[Array, dict[int, Array]]:
        whole = _merge(floating, variables)
        arrays = forward(model, {end, *kept}, whole, known, taps)
        return arrays[end], arrays

    _, pull_back, arrays = jax.vjp(run, _differentiable(variables), taps, has_aux=True)
    return arrays, pull_back

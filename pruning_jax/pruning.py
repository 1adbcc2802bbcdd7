"""Pruning in stages: statistics, scores, selection, and again at the masked point."""

import functools
import math
import numbers
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from pruning_jax import choices, criteria, curvature, losses, schedules, tracing, trees
from pruning_jax import masks as masks_
from pruning_jax.curvature import averaging
from pruning_jax.losses import Loss
from pruning_jax.tracing import Trace
from pruning_jax.types import Array, Batch, Masks, Params, PyTree, Scores

Batches = Batch | Iterable[Batch]

_LISTED = 3
"""How many of the kernels that could not be read a warning lists."""


def prune(
    model: Any,
    variables: Params,
    criterion: str | Callable,
    sparsity: float,
    *,
    batches: Callable[[int], Batches] | Batch | list[Batch] | None = None,
    kernels: Iterable[str] | None = None,
    stages: int = 1,
    schedule: str = "exponential",
    scope: str = "global",
    step_penalty: float = 0.0,
    key: Array | None = None,
    loss: Loss = losses.cross_entropy,
    allow_empty_layers: bool = False,
) -> Masks:
    """Prunes to a sparsity in stages, without training between them.

    Every stage i takes fresh statistics at the weights masked so far, scores the weights and
    removes those with the lowest scores, down to the sparsity kappa_i of the schedule. What is
    pruned stays pruned. A stage that has nothing to remove is passed over.

    Without `kernels`, the sparsity is of all kernels that were read off the model. A warning says
    which could not be read, and how many of the weights they hold.

    Args:
      model: a function in evaluation mode, (variables, inputs) -> logits, or its `Trace` or
        `UnitGraph`.
      variables: its variables; they are not changed.
      criterion: a row of `criteria.WEIGHT_CRITERIA`, or a function like them.
      sparsity: the share of the kernels' weights to remove, in [0, 1].
      batches: one batch or a list of them, the same at every stage, or a function from the stage,
        0 for the first, to the examples that its statistics are taken on. Needed by criteria with a
        gradient or a curvature, and where kernels are to be read off a function.
      kernels: the names of the leaves to prune; all `trace(...).kernels` when ``None``.
      stages: how many stages; no more than there are weights to remove.
      schedule: a row of `schedules.SCHEDULES`.
      scope: one of `masks.SCOPES`.
      step_penalty: lambda of the criterion, at least 0; one that a `functools.partial` has bound
        is kept.
      key: a random key; needed by criteria that draw scores, folded with the stage.
      loss: the loss whose gradient and curvature are taken.
      allow_empty_layers: whether a layer may lose all its weights.

    Returns:
      Booleans, True = kept, ``None`` where a leaf is not among `kernels`.

    Raises:
      ValueError: before anything is computed, for an unknown name, a number out of range, more
        stages than weights to remove, missing batches or key, variables of other shapes than the
        trace's; at a stage, for statistics that are not finite or a layer about to be emptied.

    >>> model = lambda variables, inputs: jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> out = jnp.array([[3.0, 1.0], [0.2, 1.0], [1.0, 2.0]])
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.1]]), "out": out}
    >>> batch = pj.Batch(inputs=jnp.array([[1.0], [3.0]]), labels=jnp.array([0, 1]))
    >>> masks = pj.prune(model, variables, "quadratic", 0.33, batches=batch, scope="layer")
    >>> print(pj.masks.table(masks))
    layer    prunable     removed  sparsity
    out             6           2    0.3333
    w               3           1    0.3333
    total           9           3    0.3333

    Source: arXiv 2006.12279, Algorithm 1, with the schedules of its authors' code.
    """
    sparsity = choices.check_sparsity(sparsity)
    losses.check_loss(loss)
    averaging.check_key(key)
    batches = _by_stage(batches)
    score = _resolve(criterion, step_penalty, batches, key)
    choices.check("scope", scope, masks_.SCOPES)
    targets = schedules.sparsities(schedule, sparsity, stages)
    trace = tracing.trace_in(model)
    if kernels is None and trace is None:
        inputs, batches = _first_inputs(batches)
        trace = tracing.traced(model, variables, inputs)
    if trace is not None:
        tracing.check_variables(trace.model, variables)
    kernels = _read_kernels(trace, sparsity) if kernels is None else _names(kernels)
    prunable = trees.size(trees.select(variables, kernels))
    check_stages(stages, targets[-1], prunable)
    needs = criteria.required(score)
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), trees.select(variables, kernels))
    removed = 0
    for stage, target in enumerate(targets):
        if round(target * prunable) == removed:
            continue
        masked = _apply(variables, masks)
        statistics = _statistics(trace or model, masked, needs, batches, stage, key, loss)
        scores = _score(score, kernels, masked, statistics, step_penalty)
        masks = masks_.from_scores(
            scores,
            target,
            scope=scope,
            masks=masks,
            trace=trace,
            allow_empty_layers=allow_empty_layers,
        )
        removed = round(target * prunable)
    return masks


def _read_kernels(trace: Trace, sparsity: float) -> tuple[str, ...]:
    """The kernels that a trace has read; warns where it could not read others."""
    if trace.unsupported:
        sizes = {leaf: math.prod(trace.model.shape(v)) for leaf, v in trace.model.leaves.items()}
        read = sum(sizes[leaf] for leaf in trace.kernels)
        unread = sum(sizes[leaf] for leaf, _ in trace.unsupported)
        listed = [f"{leaf!r}, since {reason}" for leaf, reason in trace.unsupported[:_LISTED]]
        more = len(trace.unsupported) - len(listed)
        warnings.warn(
            f"sparsity {sparsity} is of the {read:,} weights of the kernels that were read. "
            f"{unread:,} weights ({unread / (read + unread):.0%} of all) could not be "
            f"read and stay as they are: {'; '.join(listed)}{f'; and {more} more' * (more > 0)}. "
            "Name what to prune in kernels= to choose it, and to leave out this warning",
            stacklevel=3,
        )
    return trace.kernels


def _names(kernels: Iterable[str]) -> tuple[str, ...]:
    if isinstance(kernels, str):
        raise ValueError(
            f"kernels must be a sequence of names, not the text {kernels!r}; "
            f"for one kernel give [{kernels!r}]"
        )
    return tuple(kernels)


def _by_stage(
    batches: Callable[[int], Batches] | Batch | list[Batch] | None,
) -> Callable[[int], Batches] | None:
    """Batches that are given as such, the same at every stage."""
    several = isinstance(batches, list) and batches and isinstance(batches[0], Batch)
    if isinstance(batches, Batch) or several:
        return lambda stage: batches
    return batches


def _examples(batches: Callable[[int], Batches], stage: int) -> Batch | list[Batch]:
    examples = batches(stage)
    return examples if isinstance(examples, Batch) else list(examples)


def _first_inputs(
    batches: Callable[[int], Batches] | None,
) -> tuple[PyTree, Callable[[int], Batches]]:
    """The inputs of the first batch, and the batches, which may give those of a stage only once."""
    first = _examples(batches, 0) if callable(batches) else batches
    batch = first[0] if isinstance(first, list) and first else first
    if not isinstance(batch, Batch):
        raise ValueError(
            "which kernels a function has is read with the inputs of its first batch, a "
            f"Batch(inputs, labels), not a {type(batch).__name__}: give batches=, or kernels=, or "
            "a Trace in place of the function"
        )
    return batch.inputs, lambda stage: first if stage == 0 else batches(stage)


_apply = jax.jit(masks_.apply)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(
    criterion: Callable,
    kernels: tuple[str, ...],
    variables: Params,
    statistics: dict[str, PyTree],
    step_penalty: float,
) -> Scores:
    weights = trees.select(variables, kernels)
    if criteria.takes_step_penalty(criterion):
        return criterion(weights, **statistics, step_penalty=step_penalty)
    return criterion(weights, **statistics)


def _statistics(
    model: Any,
    variables: Params,
    needs: frozenset[str],
    batches: Callable[[int], Batches] | None,
    stage: int,
    key: Array | None,
    loss: Loss,
) -> dict[str, PyTree]:
    statistics = {}
    if "key" in needs:
        statistics["key"] = jax.random.fold_in(key, stage)
    if needs & {"gradient", "ggn"}:
        examples = _examples(batches, stage)
    if needs >= {"gradient", "ggn"}:
        found = curvature.gradient_and_ggn(model, variables, examples, loss=loss)
        statistics["gradient"], statistics["ggn"] = found
    elif "gradient" in needs:
        statistics["gradient"] = curvature.gradient(model, variables, examples, loss=loss)
    elif "ggn" in needs:
        statistics["ggn"] = curvature.ggn_diagonal(model, variables, examples, loss=loss)
    return statistics


def _resolve(
    criterion: str | Callable,
    step_penalty: float,
    batches: Callable[[int], Batches] | None,
    key: Array | None,
) -> Callable:
    """The criterion's function, with what it needs checked."""
    if not callable(criterion):
        choices.check("criterion", criterion, criteria.WEIGHT_CRITERIA)
        criterion = criteria.WEIGHT_CRITERIA[criterion]
    name = criteria.name(criterion)
    needs = criteria.required(criterion)
    number = isinstance(step_penalty, numbers.Real) or hasattr(step_penalty, "dtype")
    if isinstance(step_penalty, bool) or not number:
        raise ValueError(f"step_penalty must be a number, at least 0, not {step_penalty!r}")
    if not (math.isfinite(step_penalty) and step_penalty >= 0):
        raise ValueError(f"step_penalty is {step_penalty}; it must be a finite number, at least 0")
    if step_penalty and not criteria.takes_step_penalty(criterion):
        raise ValueError(
            f"criterion {name!r} takes no step_penalty, or has it bound already; leave it at 0"
        )
    if needs & {"gradient", "ggn"} and not callable(batches):
        raise ValueError(
            f"criterion {name!r} needs {' and '.join(sorted(needs))}, taken on data: give batches, "
            "a Batch, a list of them or a function from the stage to them, not "
            + ("an empty list" if batches == [] else type(batches).__name__)
        )
    if "key" in needs and key is None:
        raise ValueError(f"criterion {name!r} draws at random: give key, as jax.random.key(0)")
    return criterion


def check_stages(stages: int, sparsity: float, prunable: int) -> None:
    """Checks that `sparsity` of `prunable` weights can be removed in so many stages.

    Raises:
      ValueError: there is nothing to prune, or there are more stages than weights to remove.
    """
    if not prunable:
        raise ValueError("kernels names no leaf with weights to prune")
    to_remove = round(sparsity * prunable)
    if stages > max(to_remove, 1):
        raise ValueError(
            f"{stages} stages are more than the {to_remove} of {prunable} weights to remove; "
            f"the most is {max(to_remove, 1)}"
        )

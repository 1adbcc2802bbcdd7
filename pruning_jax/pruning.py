"""Pruning in stages: statistics, scores, selection, and again at the masked point."""

import functools
import math
import numbers
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from pruning_jax import choices, criteria, curvature, losses, schedules, trees
from pruning_jax import masks as masks_
from pruning_jax.curvature import averaging
from pruning_jax.losses import Loss
from pruning_jax.tracing import Trace
from pruning_jax.types import ApplyFn, Array, Batch, Masks, Params, PyTree, Scores

Batches = Batch | Iterable[Batch]


def prune(
    apply_fn: ApplyFn,
    variables: Params,
    criterion: str | Callable,
    sparsity: float,
    *,
    kernels: Iterable[str],
    batches: Callable[[int], Batches] | Batch | list[Batch] | None = None,
    stages: int = 1,
    schedule: str = "exponential",
    scope: str = "global",
    step_penalty: float = 0.0,
    key: Array | None = None,
    loss: Loss = losses.cross_entropy,
    trace: Trace | None = None,
    allow_empty_layers: bool = False,
) -> Masks:
    """Prunes to a sparsity in stages, without training between them.

    Every stage i takes fresh statistics at the weights masked so far, scores the weights and
    removes those with the lowest scores, down to the sparsity kappa_i of the schedule. What is
    pruned stays pruned. A stage that has nothing to remove is passed over.

    Args:
      apply_fn: the model, (variables, inputs) -> logits.
      variables: its variables; they are not changed.
      criterion: a row of `criteria.WEIGHT_CRITERIA`, or a function like them.
      sparsity: the share of the kernels' weights to remove, in [0, 1].
      kernels: the names of the prunable leaves, as `trace(...).kernels` gives them.
      batches: from the stage, 0 for the first, to the examples that its statistics are taken on;
        one batch or a list of them stands for the same examples at every stage; needed by
        criteria with a gradient or a curvature.
      stages: how many stages; no more than there are weights to remove.
      schedule: a row of `schedules.SCHEDULES`.
      scope: one of `masks.SCOPES`.
      step_penalty: lambda of the criterion, at least 0; one that a `functools.partial` has bound
        is kept.
      key: a random key; needed by criteria that draw scores, folded with the stage.
      loss: the loss whose gradient and curvature are taken.
      trace: of the model, for the densities of the scope "erk", as in `masks.from_scores`.
      allow_empty_layers: whether a layer may lose all its weights.

    Returns:
      Booleans, True = kept, ``None`` where a leaf is not among `kernels`.

    Raises:
      ValueError: before anything is computed, for an unknown name, a number out of range, more
        stages than weights to remove, missing batches or key; at a stage, for statistics that are
        not finite or a layer about to be emptied.

    Source: arXiv 2006.12279, Algorithm 1, with the schedules of its authors' code.
    """
    kernels = _names(kernels)
    sparsity = choices.check_sparsity(sparsity)
    losses.check_loss(loss)
    averaging.check_key(key)
    batches = _by_stage(batches)
    score = _resolve(criterion, step_penalty, batches, key)
    choices.check("scope", scope, masks_.SCOPES)
    prunable = trees.size(trees.select(variables, kernels))
    targets = schedules.sparsities(schedule, sparsity, stages)
    check_stages(stages, targets[-1], prunable)
    needs = criteria.required(score)
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), trees.select(variables, kernels))
    removed = 0
    for stage, target in enumerate(targets):
        if round(target * prunable) == removed:
            continue
        masked = _apply(variables, masks)
        statistics = _statistics(apply_fn, masked, needs, batches, stage, key, loss)
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
    apply_fn: ApplyFn,
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
        examples = batches(stage)
        examples = examples if isinstance(examples, Batch) else list(examples)
    if "gradient" in needs:
        statistics["gradient"] = curvature.gradient(apply_fn, variables, examples, loss=loss)
    if "ggn" in needs:
        statistics["ggn"] = curvature.ggn_diagonal(apply_fn, variables, examples, loss=loss)
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
            f"criterion {name!r} needs {' and '.join(sorted(needs))}, taken on data: give "
            f"batches, a function from the stage to examples, not {type(batches).__name__}"
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

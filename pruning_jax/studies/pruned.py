"""The second phase of a study: dense networks, pruned and measured."""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax import data, masks, pruning, trees
from pruning_jax.lab import checkpointing
from pruning_jax.studies.phases import (
    Row,
    Session,
    describe,
    folder_name,
    measure,
    pending,
    record,
    save,
)
from pruning_jax.studies.pretrained import Dense, load_dense
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Batch, Masks, Params

STATISTICS_CHUNK = 500


class Pruned(NamedTuple):
    """A pruned network: its variables, zero where its masks are False."""

    variables: Params
    masks: Masks


def unit_of(
    workload: Workload,
    seed: int,
    criterion: str,
    *,
    sparsity: float,
    stages: int = 1,
    step_penalty: float = 0.0,
    epoch: int | str = "best",
) -> Row:
    """One pruning of one dense network."""
    return {
        "phase": "pruned",
        "workload": workload.name,
        "seed": seed,
        "epoch": epoch,
        "criterion": criterion,
        "sparsity": sparsity,
        "stages": stages,
        "schedule": workload.settings["schedule"],
        "scope": workload.settings["scope"],
        "step_penalty": step_penalty,
    }


def prune(
    session: Session, workload: Workload, units: Iterable[Row], keep: Iterable[Row] = ()
) -> None:
    """Prunes dense networks, each as its unit says, and measures them.

    Args:
      session: where to.
      workload: what.
      units: from `unit_of`.
      keep: those of them whose networks get a checkpoint, to be retrained.
    """
    keep = list(keep)
    left = pending(session.run, units, kept=keep)
    dense_of = itertools.groupby(left, key=lambda unit: (unit["seed"], unit["epoch"]))
    for (seed, epoch), group in dense_of:
        dense = load_dense(session, workload, seed, epoch)
        before = measure(workload, dense.variables, dense.dataset)
        batches = stage_batches(workload, dense.dataset, seed)
        for unit in group:

            def checked(stage: int, unit: Row = unit, batches: Callable = batches) -> list[Batch]:
                session.check(f"{describe(unit)}: stage {stage}/{unit['stages']}")
                return batches(stage)

            kept = masks_of(workload, dense, unit, checked)
            pruned = Pruned(masks.apply(dense.variables, kept), kept)
            after = measure(workload, pruned.variables, dense.dataset)
            counts = counted(pruned)
            penalty = {"penalty": after["train_loss"] - before["train_loss"]}
            if unit in keep:
                save(session.run, unit, pruned._asdict(), counts)
            record(session.run, [unit | counts | after | penalty], [unit])
            session.tell(describe(unit), left.index(unit) + 1, len(left), penalty)


def stage_batches(
    workload: Workload, dataset: data.Dataset, seed: int
) -> Callable[[int], list[Batch]]:
    """Fresh training examples for each stage, the same for every criterion of a seed."""
    key, examples = workload.keys(seed).pruning, workload.settings["statistics_examples"]

    @functools.cache
    def batches(stage: int) -> list[Batch]:
        drawn = data.sample(jax.random.fold_in(key, stage), dataset.train, examples)
        return data.batches(drawn, STATISTICS_CHUNK)

    return batches


def masks_of(
    workload: Workload, dense: Dense, unit: Row, batches: Callable[[int], list[Batch]]
) -> Masks:
    """The masks that a unit's criterion, stages and sparsity give.

    A layer may be emptied, which the unit's row says: a study measures that too.
    """
    return pruning.prune(
        workload.trace,
        dense.variables,
        unit["criterion"],
        unit["sparsity"],
        kernels=workload.kernels,
        batches=batches,
        stages=unit["stages"],
        schedule=unit["schedule"],
        scope=unit["scope"],
        step_penalty=unit["step_penalty"],
        key=workload.keys(unit["seed"]).pruning,
        allow_empty_layers=True,
    )


def counted(pruned: Pruned) -> Row:
    """How many weights are removed, of how many prunable and parameters; layers left empty."""
    return {
        "removed": masks.removed(pruned.masks),
        "prunable": masks.prunable(pruned.masks),
        "parameters": trees.size(pruned.variables["params"]),
        "empty_layers": masks.empty_layers(pruned.masks),
    }


def load_pruned(session: Session, unit: Row) -> Pruned:
    """A kept pruned network."""
    found = checkpointing.load(session.run.checkpoints / folder_name(unit | {"phase": "pruned"}))
    return Pruned(**jax.tree.map(jnp.asarray, found))

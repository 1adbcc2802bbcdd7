"""The networks that studies share: dense ones, trained; pruned ones, measured; trained again."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax

from pruning_jax import data, masks, pruning, retraining, training, trees
from pruning_jax.lab.jobs import Lab, fill
from pruning_jax.lab.records import Record
from pruning_jax.lab.tables import Job, name
from pruning_jax.lab.trainings import Training, Visit, train
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Array, Batch, Masks, Params

STATISTICS_CHUNK = 500


class Pruned(NamedTuple):
    """A pruned network: its variables, zero where its masks are False."""

    variables: Params
    masks: Masks


def dense_job(
    workload: Workload, seed: int, epoch: int | str = "best", step: int | None = None
) -> Job:
    """The dense network of a seed: at its best validation accuracy, or after an epoch or a step."""
    job = {"phase": "pretrained", "workload": workload.name, "seed": seed}
    if step is not None:
        return job | {"step": step}
    return job if epoch == "best" else job | {"epoch": epoch}


def pretrain(
    lab: Lab,
    workload: Workload,
    seeds: Iterable[int],
    snapshots: tuple[int, ...] = (),
    visit: Visit | None = None,
) -> None:
    """Trains dense networks and keeps each at its best validation accuracy.

    Args:
      lab: where to.
      workload: what.
      seeds: one a replicate.
      snapshots: epochs after which the network is kept as well, besides the one that retraining
        goes back to.
      visit: what is done with the networks in the middle of epochs.
    """
    plan = workload.retraining
    rewound = (plan.step // workload.steps,) if plan.rewinds_weights else ()

    def begin(seed: int, dataset: data.Dataset) -> training.Progress:
        variables, key = workload.initial(seed, dataset), workload.keys(seed).training
        return training.start(workload.pretraining, variables, key, workload.examples)

    trainings = (
        Training(
            dense_job(workload, seed),
            workload.pretraining,
            functools.partial(begin, seed),
            functools.partial(_best, workload),
            (*snapshots, *rewound),
        )
        for seed in seeds
    )
    train(lab, trainings, workload.load, visit)


def _best(
    workload: Workload, progress: training.Progress, dataset: data.Dataset
) -> tuple[Params, Record]:
    """A training's network of the best validation accuracy, with its counts and measures."""
    found, kept = {}, {"params": progress.state.masks}
    if jax.tree.leaves(kept):
        found = counted(Pruned(progress.best, kept))
    found["best_epoch"] = int(progress.best_epoch)
    return progress.best, found | workload.measure(progress.best, dataset)


def pruning_job(
    workload: Workload,
    seed: int,
    criterion: str,
    *,
    sparsity: float,
    stages: int = 1,
    step_penalty: float = 0.0,
    epoch: int | str = "best",
) -> Job:
    """One pruning of one dense network."""
    return {
        "phase": "pruned",
        "workload": workload.name,
        "seed": seed,
        "epoch": epoch,
        "criterion": criterion,
        "sparsity": sparsity,
        "stages": stages,
        "schedule": workload.settings.schedule,
        "scope": workload.settings.scope,
        "step_penalty": step_penalty,
    }


def prune(lab: Lab, workload: Workload, jobs: Iterable[Job], keep: Iterable[Job] = ()) -> None:
    """Prunes dense networks, each as its job says, and measures them.

    A layer may be emptied, which the job's row says: a study measures that too.

    Args:
      lab: where to.
      workload: what.
      jobs: of `pruning_job`.
      keep: those of them whose networks are kept, to be retrained.
    """
    keep = list(keep)

    def measure(left: list[Job]) -> Iterator[Record]:
        for (seed, epoch), group in itertools.groupby(left, lambda j: (j["seed"], j["epoch"])):
            variables, dataset = lab.kept(dense_job(workload, seed, epoch)), workload.load(seed)
            before = workload.measure(variables, dataset)
            batches = _stage_batches(workload, dataset, seed)
            for job in group:
                kept = _masks(lab, workload, variables, job, batches)
                pruned = Pruned(masks.apply(variables, kept), kept)
                counts, after = counted(pruned), workload.measure(pruned.variables, dataset)
                if job in keep:
                    lab.keep(job, pruned._asdict(), counts)
                penalty = {"penalty": after["train_loss"] - before["train_loss"]}
                yield counts | after | penalty

    fill(lab, jobs, measure, keeps=keep)


def _stage_batches(
    workload: Workload, dataset: data.Dataset, seed: int
) -> Callable[[int], list[Batch]]:
    """Fresh training examples for each stage, the same for every criterion of a seed."""

    @functools.cache
    def batches(stage: int) -> list[Batch]:
        key = jax.random.fold_in(workload.keys(seed).pruning, stage)
        drawn = data.sample(key, dataset.train, workload.settings.statistics_examples)
        return data.batches(drawn, STATISTICS_CHUNK)

    return batches


def _masks(lab: Lab, workload: Workload, variables: Params, job: Job, batches: Callable) -> Masks:
    def checked(stage: int) -> list[Batch]:
        lab.check(f"{name(job)}: stage {stage}/{job['stages']}")
        return batches(stage)

    return pruning.prune(
        workload.trace,
        variables,
        job["criterion"],
        job["sparsity"],
        kernels=workload.kernels,
        batches=checked,
        **{name: job[name] for name in ("stages", "schedule", "scope", "step_penalty")},
        key=workload.keys(job["seed"]).pruning,
        allow_empty_layers=True,
    )


def counted(pruned: Pruned) -> Record:
    """How many weights are removed, of how many prunable and parameters; layers left empty."""
    return {
        "removed": masks.removed(pruned.masks),
        "prunable": masks.prunable(pruned.masks),
        "parameters": trees.size(pruned.variables["params"]),
        "empty_layers": masks.empty_layers(pruned.masks),
    }


def retrain(lab: Lab, workload: Workload, jobs: Iterable[Job]) -> None:
    """Trains pruned networks under their masks and keeps each at its best validation accuracy.

    Args:
      lab: where to.
      workload: whose retraining plan is followed.
      jobs: of pruned networks that were kept; their rows here have ``phase="retrained"``.
    """
    plan = workload.retraining

    def begin(job: Job, dataset: data.Dataset) -> training.Progress:
        def at_epoch(epoch: int) -> Params:
            return lab.kept(dense_job(workload, job["seed"], epoch))

        key, pruned = workload.keys(job["seed"]).retraining, Pruned(**lab.kept(job))
        return again(workload, plan, workload.pretraining, job["seed"], pruned, key, at_epoch)

    trainings = (
        Training(
            job | {"phase": "retrained"},
            workload.pretraining._replace(recipe=plan.recipe),
            functools.partial(begin, job),
            functools.partial(_best, workload),
        )
        for job in jobs
    )
    train(lab, trainings, workload.load)


def again(
    workload: Workload,
    plan: retraining.Plan,
    task: training.Task,
    seed: int,
    pruned: Pruned,
    key: Array,
    at_epoch: Callable[[int], Params],
) -> training.Progress:
    """A pruned network about to be trained again.

    Args:
      workload: what.
      plan: of the retraining.
      task: of pretraining.
      seed: of the network.
      pruned: the network.
      key: of the run.
      at_epoch: an epoch after the first -> the variables that pretraining had then.
    """
    epoch, last = plan.step // workload.steps, workload.pretraining.recipe.epochs
    history = {last * workload.steps: pruned.variables}
    if plan.rewinds_weights:
        first = epoch == 0
        history[plan.step] = (
            workload.initial(seed, workload.load(seed)) if first else at_epoch(epoch)
        )
    kept, examples = pruned.masks["params"], workload.examples
    return retraining.begin(plan, task, history, kept, key=key, examples=examples)[1]

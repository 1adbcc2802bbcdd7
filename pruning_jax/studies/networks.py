"""The networks that studies share: dense ones, trained; pruned ones, measured; trained again."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax

from pruning_jax import data, masks, pruning, retraining, training, trees
from pruning_jax.lab.jobs import Lab, fill
from pruning_jax.lab.records import Record
from pruning_jax.lab.tables import Job, key, name
from pruning_jax.lab.trainings import Training, Visit, train
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Batch, Masks, Params

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
    snapshots = (*snapshots, rewound_epoch(workload))

    def begin(seed: int, dataset: data.Dataset) -> training.Progress:
        variables, key = workload.initial(seed, dataset), workload.keys(seed).training
        return training.start(workload.pretraining, variables, key, len(dataset.train.labels))

    trainings = (
        Training(
            dense_job(workload, seed),
            workload.pretraining,
            functools.partial(begin, seed),
            best(workload),
            snapshots,
        )
        for seed in seeds
    )
    train(lab, trainings, workload.load, visit)


def best(workload: Workload, counts: Callable[[], Record] = dict) -> Callable:
    """Keeps a training's network of the best validation accuracy, with its counts and measures."""

    def finish(progress: training.Progress, dataset: data.Dataset) -> tuple[Params, Record]:
        found = counts() | {"best_epoch": int(progress.best_epoch)}
        return progress.best, found | workload.measure(progress.best, dataset)

    return finish


def rewound_epoch(workload: Workload) -> int | None:
    """The epoch whose weights a workload's retraining goes back to, if it does."""
    plan = workload.retraining
    steps = workload.examples // workload.pretraining.recipe.batch_size
    return plan.step // steps if plan.rewinds_weights else None


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
        "schedule": workload.settings["schedule"],
        "scope": workload.settings["scope"],
        "step_penalty": step_penalty,
    }


def prune(lab: Lab, workload: Workload, jobs: Iterable[Job], keep: Iterable[Job] = ()) -> None:
    """Prunes dense networks, each as its job says, and measures them.

    Args:
      lab: where to.
      workload: what.
      jobs: of `pruning_job`.
      keep: those of them whose networks are kept, to be retrained.
    """
    keep = list(keep)

    def measure(left: list[Job]) -> Iterator[Record]:
        for (seed, epoch), group in itertools.groupby(
            left, lambda job: (job["seed"], job["epoch"])
        ):
            variables, dataset = lab.kept(dense_job(workload, seed, epoch)), workload.load(seed)
            before = workload.measure(variables, dataset)
            batches = stage_batches(workload, dataset, seed)
            for job in group:
                kept = _masks(lab, workload, variables, job, batches)
                pruned = Pruned(masks.apply(variables, kept), kept)
                counts, after = counted(pruned), workload.measure(pruned.variables, dataset)
                if job in keep:
                    lab.keep(job, pruned._asdict(), counts)
                penalty = {"penalty": after["train_loss"] - before["train_loss"]}
                yield counts | after | penalty

    fill(lab, jobs, measure, keeps=keep)


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


def _masks(lab: Lab, workload: Workload, variables: Params, job: Job, batches: Callable) -> Masks:
    """The masks that a job's criterion, stages and sparsity give.

    A layer may be emptied, which the job's row says: a study measures that too.
    """

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
        stages=job["stages"],
        schedule=job["schedule"],
        scope=job["scope"],
        step_penalty=job["step_penalty"],
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


def kept_pruned(lab: Lab, job: Job) -> Pruned:
    """A pruned network that was kept."""
    return Pruned(**lab.kept(job))


def retrain(lab: Lab, workload: Workload, jobs: Iterable[Job]) -> None:
    """Trains pruned networks under their masks and keeps each at its best validation accuracy.

    Args:
      lab: where to.
      workload: whose retraining plan is followed.
      jobs: of pruned networks that were kept; their rows here have ``phase="retrained"``.
    """
    task = workload.pretraining._replace(recipe=workload.retraining.recipe)
    counts: dict[str, Record] = {}

    def begin(job: Job, dataset: data.Dataset) -> training.Progress:
        network, seed = kept_pruned(lab, job), job["seed"]
        counts[key(job)] = counted(network)
        history = _history(lab, workload, seed, network, dataset)
        _, start = retraining.begin(
            workload.retraining,
            workload.pretraining,
            history,
            network.masks["params"],
            key=workload.keys(seed).retraining,
            examples=workload.examples,
        )
        return start

    trainings = (
        Training(
            job | {"phase": "retrained"},
            task,
            functools.partial(begin, job),
            best(workload, lambda job=job: counts[key(job)]),
        )
        for job in jobs
    )
    train(lab, trainings, workload.load)


def _history(
    lab: Lab, workload: Workload, seed: int, network: Pruned, dataset: data.Dataset
) -> dict[int, Params]:
    """The weights that a retraining may begin with, by the steps of pretraining behind them."""
    recipe, epoch = workload.pretraining.recipe, rewound_epoch(workload)
    steps = workload.examples // recipe.batch_size
    history = {recipe.epochs * steps: network.variables}
    if epoch == 0:
        history[0] = workload.initial(seed, dataset)
    elif epoch is not None:
        history[epoch * steps] = lab.kept(dense_job(workload, seed, epoch))
    return history

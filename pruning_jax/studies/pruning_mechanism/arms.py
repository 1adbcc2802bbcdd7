"""Which networks the study trains: dense, small, pruned in one shot, and pruned in cycles."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from pruning_jax import masks, retraining, schedules, training
from pruning_jax.lab.jobs import Lab
from pruning_jax.lab.tables import Job
from pruning_jax.studies.networks import Pruned
from pruning_jax.studies.pruning_mechanism import networks
from pruning_jax.studies.pruning_mechanism.networks import Group
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Array, Masks, Params

SMALL = "small"
"""The regime that trains a small network from scratch in place of pruning."""


def steps_of(workload: Workload) -> int:
    """The steps of an epoch."""
    return workload.examples // workload.pretraining.recipe.batch_size


def task_of(workload: Workload, arm: Mapping[str, Any] | None = None) -> training.Task:
    """The task of pretraining; of an arm with `scale_l1`, with that penalty on the norm scales."""
    strength = (arm or {}).get("scale_l1", 0.0)
    if not strength:
        return workload.pretraining
    names = [name.removeprefix("params/") for name in workload.trace.model.leaves]
    scales = tuple(name for name in names if name.endswith("/scale"))
    return workload.pretraining._replace(regulariser=training.ScaleL1(scales, strength))


def dense(lab: Lab, group: Group, *, snapshots: bool) -> list[Params]:
    """Trains the dense networks W*."""
    workload = group.workload
    of = group.jobs(network="dense", density=1.0)

    def begin(place: int) -> training.Progress:
        variables = initial(group, place)
        kept = networks.everything(workload, variables)
        return _start(workload, workload.pretraining, group.seeds[place], variables, kept)

    epochs = workload.pretraining.recipe.epochs
    return networks.train(
        lab, group, of, workload.pretraining, begin, epochs=epochs, snapshots=snapshots
    )


def initial(group: Group, place: int) -> Params:
    """The variables of a replicate before training."""
    return group.workload.initial(group.seeds[place], group.datasets[place])


def key_of(workload: Workload, seed: int, number: int = 0) -> Array:
    """A replicate's key of what follows pretraining; one a cycle, the same for every arm."""
    return jax.random.fold_in(workload.keys(seed).retraining, number)


def _start(
    workload: Workload, task: training.Task, seed: int, variables: Params, kept: Masks
) -> training.Progress:
    key = workload.keys(seed).training
    return training.start(task, variables, key, workload.examples, kept["params"])


def small(lab: Lab, group: Group, density: float, schedules: int) -> list[Params]:
    """Trains networks under random masks drawn at initialisation, over the schedule so often."""
    return scratch(
        lab,
        group,
        lambda variables, key: networks.at_random(group.workload, variables, 1 - density, key),
        [
            group.jobs(network="small", density=density, schedules=count)
            for count in range(1, schedules + 1)
        ],
        group.workload.pretraining,
    )


def scratch(
    lab: Lab,
    group: Group,
    draw: Callable[[Params, Array], Masks],
    stages: list[list[Job]],
    task: training.Task,
) -> list[Params]:
    """Trains small networks from scratch, once over the schedule for each of `stages`."""
    workload, epochs = group.workload, group.workload.pretraining.recipe.epochs
    found: list[Params] = []
    for number, of in enumerate(stages):

        def begin(place: int, number: int = number, before: list[Params] = found):
            seed, variables = group.seeds[place], initial(group, place)
            kept = draw(variables, key_of(workload, seed))
            if number == 0:
                own = retraining.rescaled(variables["params"], kept["params"], trace=workload.trace)
                return _start(workload, task, seed, variables | {"params": own}, kept)
            key = key_of(workload, seed, number)
            return training.start(task, before[place], key, workload.examples, kept["params"])

        found = networks.train(lab, group, of, task, begin, epochs=(number + 1) * epochs)
    return found


def one_shot(lab: Lab, group: Group, trained: list[Params], density: float) -> list[Params]:
    """Prunes the dense networks by magnitude and trains the survivors over the whole schedule."""
    workload = group.workload
    plan = retraining.plan("original_schedule", workload.pretraining.recipe, steps_of(workload))
    kept = [networks.smallest(workload, one, 1 - density, None) for one in trained]
    pruned = [masks.apply(one, mask) for one, mask in zip(trained, kept, strict=True)]
    of = group.jobs(network="one_shot", density=density)
    epochs = workload.pretraining.recipe.epochs
    return _retrain(
        lab, group, of, plan, workload.pretraining, pruned, kept, number=0, behind=epochs
    )


def _retrain(
    lab: Lab,
    group: Group,
    of: list[Job],
    plan: retraining.Plan,
    task: training.Task,
    pruned: list[Params],
    kept: list[Masks],
    *,
    number: int,
    behind: int,
    snapshots: bool = False,
) -> list[Params]:
    """Trains pruned networks again, with the key of a `number`, `behind` epochs before."""
    workload, steps = group.workload, steps_of(group.workload)
    last = workload.pretraining.recipe.epochs * steps

    def begin(place: int) -> training.Progress:
        key = key_of(workload, group.seeds[place], number)
        history, mask = {last: pruned[place]}, kept[place]["params"]
        if plan.rewinds_weights:
            history[plan.step] = _at_epoch(lab, group, place, plan.step // steps)
        begun = retraining.begin(plan, task, history, mask, key=key, examples=workload.examples)
        return begun[1]

    followed = task._replace(recipe=plan.recipe)
    epochs = behind + plan.recipe.epochs - plan.step // steps
    return networks.train(lab, group, of, followed, begin, epochs=epochs, snapshots=snapshots)


def _at_epoch(lab: Lab, group: Group, place: int, epoch: int) -> Params:
    """A dense network as it was in pretraining."""
    if epoch == 0:
        return initial(group, place)
    job = networks.job_of(group.workload, group.seeds[place], network="dense", density=1.0)
    return networks.snapshot_of(lab, job, epoch)


def rewinds_weights(workload: Workload) -> bool:
    """Whether an arm goes back to weights that the dense networks had in pretraining."""
    regimes = {regime for arm in workload.settings["arms"].values() for regime in arm["regimes"]}
    return any(retraining.REGIMES[regime].rewinds_weights for regime in regimes - {SMALL})


def cycles(
    lab: Lab, group: Group, trained: list[Params], name: str, regime: str, *, shown: bool
) -> None:
    """Prunes and retrains in cycles, or trains the small networks of the last sparsity compared.

    Args:
      lab: where to.
      group: of replicates.
      trained: their dense networks.
      name: of the arm in the settings.
      regime: of `retraining.REGIMES`, or `SMALL`.
      shown: whether every epoch of the last retraining that is compared is kept.
    """
    workload = group.workload
    arm, pretraining = workload.settings["arms"][name], workload.pretraining.recipe
    sparsities = schedules.compounded(arm["share"], arm["cycles"])
    if regime == SMALL:
        _small_arm(lab, group, name, sparsities[arm["compared"] - 1])
        return
    plan = retraining.plan(regime, pretraining, steps_of(workload), epochs=arm["epochs"])
    task, counter = task_of(workload, arm), itertools.count(1)

    def retrain(pruned: list[Params], kept: list[Masks]) -> list[Params]:
        cycle = next(counter)
        of = group.jobs(network="cycle", arm=name, regime=regime, cycle=cycle)
        behind = pretraining.epochs + (cycle - 1) * arm["epochs"]
        _keep_pruned(lab, group, of, pruned, kept, behind)
        options = {"number": cycle, "behind": behind}
        options["snapshots"] = cycle == arm["compared"] and shown
        return _retrain(lab, group, of, plan, task, pruned, kept, **options)

    prune = functools.partial(_pruned, group, arm["prunes"])
    for _ in retraining.iterate(trained, sparsities, prune, retrain):
        pass


def _keep_pruned(
    lab: Lab,
    group: Group,
    of: list[Job],
    pruned: list[Params],
    kept: list[Masks],
    epochs: int,
) -> None:
    held = [Pruned(*pair) for pair in zip(pruned, kept, strict=True)]
    before = [job | {"phase": "pruned"} for job in of]
    networks.keep(lab, group, before, held, epochs=epochs)


def _pruned(
    group: Group, prunes: str, variables: list[Params], sparsity: float, kept: list[Masks] | None
) -> list[Masks]:
    if prunes == "channels":
        return [networks.channels(group.graph, one, sparsity) for one in variables]
    before = kept or [None] * len(variables)
    return [
        networks.smallest(group.workload, one, sparsity, mask)
        for one, mask in zip(variables, before, strict=True)
    ]


def _small_arm(lab: Lab, group: Group, name: str, sparsity: float) -> None:
    workload = group.workload
    arm = workload.settings["arms"][name]

    def draw(variables: Params, key: Array) -> Masks:
        if arm["prunes"] == "channels":
            return networks.channels(group.graph, variables, sparsity, key)
        return networks.at_random(workload, variables, sparsity, key)

    stages = [
        group.jobs(network="cycle", arm=name, regime=SMALL, cycle=cycle)
        for cycle in range(arm["compared"] + 1)
    ]
    scratch(lab, group, draw, stages, task_of(workload, arm))

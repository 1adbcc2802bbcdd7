"""The networks of the study of the pruning mechanism (S0): from what each is trained, and how."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax import (
    criteria,
    data,
    masks,
    methods,
    retraining,
    schedules,
    training,
    trees,
    units,
)
from pruning_jax.lab import trainings
from pruning_jax.lab.jobs import Lab, fill
from pruning_jax.lab.records import Record
from pruning_jax.lab.tables import Job
from pruning_jax.studies.networks import Pruned, again, counted
from pruning_jax.studies.pruning_mechanism.asked import SMALL
from pruning_jax.studies.pruning_mechanism.claims import DENSE, small
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Array, Masks, Params


class Replicate(NamedTuple):
    """One seed of a workload, its data, and where its networks are kept."""

    lab: Lab
    workload: Workload
    seed: int
    dataset: data.Dataset

    def job(self, phase: str = "network", **columns: Any) -> Job:
        """A job; the columns name a network, and what is done with it."""
        return {"phase": phase, "workload": self.workload.name, "seed": self.seed, **columns}

    def kept(self, columns: Record, phase: str = "network") -> Pruned:
        """A network that was kept, at the end of its training, or as it was pruned."""
        return Pruned(**self.lab.kept(self.job(phase, **columns)))

    def snapshot(self, columns: Record, epoch: int) -> Params:
        """A network as it was after an epoch of its training."""
        return self.lab.kept(self.job(**columns) | {"epoch": epoch})

    def key(self, number: int = 0) -> Array:
        """The key of what follows pretraining; one a cycle, the same for every arm."""
        return jax.random.fold_in(self.workload.keys(self.seed).retraining, number)

    def again(
        self, plan: retraining.Plan, task: training.Task, pruned: Pruned, number: int
    ) -> training.Progress:
        """A pruned network about to be trained again, with the key of a number."""
        at_epoch = functools.partial(self.snapshot, DENSE)
        return again(self.workload, plan, task, self.seed, pruned, self.key(number), at_epoch)

    def begin(
        self, task: training.Task, variables: Params, kept: Masks, key: Array | None = None
    ) -> training.Progress:
        """A network about to be trained under its masks, by default with the key of training."""
        key = self.workload.keys(self.seed).training if key is None else key
        return training.start(task, variables, key, self.workload.examples, kept["params"])

    def initial(self) -> Params:
        """The variables before training."""
        return self.workload.initial(self.seed, self.dataset)

    def measure(self, network: Pruned, epochs: int) -> Record:
        """The counts of a network's prunable weights, whatever else is masked, and its measures."""
        own = trees.map_selected(
            lambda leaf, mask: jnp.ones(leaf.shape, bool) if mask is None else mask,
            kernels(self.workload, network.variables),
            network.masks,
        )
        measured = self.workload.measure(network.variables, self.dataset)
        return counted(network._replace(masks=own)) | {"epochs": epochs} | measured


class Network(NamedTuple):
    """A network of every replicate.

    Attributes:
      columns: that name it.
      task: what is trained and how.
      start: the training before the first step.
      epochs: behind it in the end, all retraining included.
      snapshots: whether it is kept after every epoch as well.
      prune: what it is trained from, to be kept and measured too.
      behind: the epochs before the pruning.
    """

    columns: Record
    task: training.Task
    start: Callable[[Replicate], training.Progress]
    epochs: int
    snapshots: bool = False
    prune: Callable[[Replicate], Pruned] | None = None
    behind: int = 0


def every(workload: Workload, *, shown: bool) -> Iterator[Network]:
    """Every network, after those that it is made of.

    Args:
      workload: what runs.
      shown: whether every epoch is kept that planes show.
    """
    own, task = workload.settings, workload.pretraining
    regimes = {regime for arm in own.arms.values() for regime in arm.regimes} - {SMALL}
    rewinds = any(retraining.REGIMES[regime].rewinds_weights for regime in regimes)

    def dense(one: Replicate) -> training.Progress:
        variables = one.initial()
        return one.begin(task, variables, everything(workload, variables))

    kept = shown or bool(own.during_training) or rewinds
    yield Network(DENSE, task, dense, task.recipe.epochs, kept)
    for density in own.sizes.densities:
        yield from _of_size(workload, density, 1)
    for density in own.one_shot.densities:
        yield _one_shot(workload, density)
        yield from _of_size(workload, density, 2)
    for name, arm in own.arms.items():
        for regime in arm.regimes:
            cycles = _small_arm if regime == SMALL else _cycles
            yield from cycles(workload, name, regime, shown)


def _of_size(workload: Workload, density: float, count: int) -> Iterator[Network]:
    """Networks under random masks drawn at initialisation, over the schedule so often."""
    stages = [small(density, schedules) for schedules in range(1, count + 1)]
    draw = functools.partial(at_random, workload, 1 - density)
    return _scratch(workload, stages, draw, workload.pretraining)


def _scratch(
    workload: Workload, stages: list[Record], draw: Callable, task: training.Task
) -> Iterator[Network]:
    """Small networks from scratch, once over the schedule for each of `stages`.

    Their masks are drawn of the variables before training and a key.
    """

    def start(number: int, one: Replicate) -> training.Progress:
        if number:
            variables, kept = one.kept(stages[number - 1])
            return one.begin(task, variables, kept, one.key(number))
        variables = one.initial()
        kept = draw(variables, one.key())
        own = retraining.rescaled(variables["params"], kept["params"], trace=workload.trace)
        return one.begin(task, variables | {"params": own}, kept)

    for number, columns in enumerate(stages):
        epochs = (number + 1) * task.recipe.epochs
        yield Network(columns, task, functools.partial(start, number), epochs)


def _one_shot(workload: Workload, density: float) -> Network:
    """The largest weights of the dense network, trained over the whole schedule again."""
    task = workload.pretraining
    plan = retraining.plan("original_schedule", task.recipe, workload.steps)

    def start(one: Replicate) -> training.Progress:
        variables, _ = one.kept(DENSE)
        kept = smallest(workload, variables, 1 - density, None)
        return one.again(plan, task, Pruned(masks.apply(variables, kept), kept), 0)

    columns = {"network": "one_shot", "density": density}
    return Network(columns, task, start, 2 * task.recipe.epochs)


def _cycles(workload: Workload, name: str, regime: str, shown: bool) -> Iterator[Network]:
    """An arm's networks, pruned and trained again cycle after cycle."""
    arm, recipe = workload.settings.arms[name], workload.pretraining.recipe
    plan = retraining.plan(regime, recipe, workload.steps, epochs=arm.epochs)
    task, own = task_of(workload, name), {"network": "cycle", "arm": name, "regime": regime}

    def prune(cycle: int, sparsity: float, one: Replicate) -> Pruned:
        variables, kept = one.kept(own | {"cycle": cycle - 1} if cycle > 1 else DENSE)
        if arm.prunes == "channels":
            kept = channels(workload, sparsity, variables)
        else:
            kept = smallest(workload, variables, sparsity, kept if cycle > 1 else None)
        return Pruned(masks.apply(variables, kept), kept)

    def start(cycle: int, one: Replicate) -> training.Progress:
        return one.again(plan, task, one.kept(own | {"cycle": cycle}, "pruned"), cycle)

    for cycle, sparsity in enumerate(schedules.compounded(arm.share, arm.cycles), 1):
        behind = recipe.epochs + (cycle - 1) * arm.epochs
        yield Network(
            own | {"cycle": cycle},
            task._replace(recipe=plan.recipe),
            functools.partial(start, cycle),
            behind + plan.recipe.epochs - plan.step // workload.steps,
            shown and cycle == arm.compared,
            functools.partial(prune, cycle, sparsity),
            behind,
        )


def _small_arm(workload: Workload, name: str, regime: str, _: bool) -> Iterator[Network]:
    """Small networks of the sparsity at which an arm's regimes are compared."""
    arm, own = workload.settings.arms[name], {"network": "cycle", "arm": name, "regime": regime}
    sparsity = schedules.compounded(arm.share, arm.cycles)[arm.compared - 1]
    removes = channels if arm.prunes == "channels" else at_random
    stages = [own | {"cycle": cycle} for cycle in range(arm.compared + 1)]
    draw = functools.partial(removes, workload, sparsity)
    return _scratch(workload, stages, draw, task_of(workload, name))


def task_of(workload: Workload, name: str) -> training.Task:
    """The task of pretraining; of an arm with `scale_l1`, with that penalty on the norm scales."""
    strength = workload.settings.arms[name].scale_l1
    if not strength:
        return workload.pretraining
    names = [name.removeprefix("params/") for name in workload.trace.model.leaves]
    scales = tuple(name for name in names if name.endswith("/scale"))
    slimming = methods.build("slimming", strength=strength, scales=scales)
    return workload.pretraining._replace(method=slimming)


def train(lab: Lab, group: list[Replicate], network: Network) -> None:
    """Prunes, keeps and measures what a network is trained from; then trains it, side by side."""
    by_seed = {one.seed: one for one in group}

    def measure(left: list[Job]) -> Iterator[Record]:
        for job in left:
            one = by_seed[job["seed"]]
            pruned = network.prune(one)
            found = one.measure(pruned, network.behind)
            lab.keep(job, pruned._asdict(), found)
            yield found

    def finish(one: Replicate, progress: training.Progress) -> tuple[dict, Record]:
        variables, kept = progress.state.variables, {"params": progress.state.masks}
        whole = {part: kept.get(part, trees.select(of, ())) for part, of in variables.items()}
        trained = Pruned(variables, whole)
        return trained._asdict(), one.measure(trained, network.epochs)

    if network.prune:
        jobs = [one.job("pruned", **network.columns) for one in group]
        fill(lab, jobs, measure, keeps=jobs)
    snapshots = range(1, network.task.recipe.epochs + 1) if network.snapshots else ()
    of_group = [
        trainings.Training(
            one.job(**network.columns),
            network.task,
            lambda _, one=one: network.start(one),
            lambda progress, _, one=one: finish(one, progress),
            snapshots,
        )
        for one in group
    ]
    trainings.train(lab, of_group, lambda seed: by_seed[seed].dataset)


# What is removed.


def kernels(workload: Workload, variables: Params) -> Params:
    """The prunable weights: of convolutions alone, or all; ``None`` for every other leaf."""
    names = workload.kernels
    if workload.settings.prunable == "convolutions":
        names = [layer.kernel for layer in workload.trace.layers if layer.kind == "conv"]
    return trees.select(variables, names)


def everything(workload: Workload, variables: Params) -> Masks:
    """Masks of a dense network, that keep every prunable weight."""
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), kernels(workload, variables))


def smallest(workload: Workload, variables: Params, sparsity: float, kept: Masks | None) -> Masks:
    """Removes the weights of the smallest magnitude, of all layers together."""
    scores = criteria.WEIGHT_CRITERIA["magnitude"](kernels(workload, variables))
    return masks.from_scores(scores, sparsity, masks=kept, allow_empty_layers=True)


def at_random(workload: Workload, sparsity: float, variables: Params, key: Array) -> Masks:
    """Removes weights at random, of all layers together."""
    scores = criteria.WEIGHT_CRITERIA["random"](kernels(workload, variables), key)
    return masks.from_scores(scores, sparsity)


def channels(
    workload: Workload, fraction: float, variables: Params, key: Array | None = None
) -> Masks:
    """Removes channels of the smallest batch-norm scale, of all layers together; with a key any.

    A channel that is removed has a scale of zero, so that it goes first at the next cycle.
    """
    graph, criterion = units.graph(workload.trace), "batch_norm_scale" if key is None else "random"
    scores = criteria.unit_scores(criterion, graph, variables, key=key)
    unit_masks = units.from_scores(scores, fraction, scope="global")
    return units.parameter_masks(graph, variables, unit_masks, readers=True)

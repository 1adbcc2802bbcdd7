"""The networks of the study of the pruning mechanism (S0): their rows, masks and training."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax import criteria, data, masks, training, trees, units
from pruning_jax.lab import trainings as trainings_of
from pruning_jax.lab.jobs import Lab, fill
from pruning_jax.lab.records import Record
from pruning_jax.lab.tables import Job
from pruning_jax.lab.trainings import Training
from pruning_jax.studies.networks import Pruned, counted
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Array, Masks, Params


class Group(NamedTuple):
    """Replicates that run together.

    Attributes:
      workload: what runs.
      seeds: one a replicate.
      datasets: of each seed.
      graph: the units of the network.
    """

    workload: Workload
    seeds: tuple[int, ...]
    datasets: list[data.Dataset]
    graph: units.UnitGraph

    def jobs(self, **columns) -> list[Job]:
        """A job of every seed."""
        return [job_of(self.workload, seed, **columns) for seed in self.seeds]


def job_of(workload: Workload, seed: int, phase: str = "network", **columns) -> Job:
    """A job; the columns name a network, and what is done with it."""
    return {"phase": phase, "workload": workload.name, "seed": seed, **columns}


def kernels(workload: Workload, variables: Params) -> Params:
    """The prunable weights: of convolutions alone, or all; ``None`` for every other leaf."""
    names = workload.kernels
    if workload.settings["prunable"] == "convolutions":
        names = [layer.kernel for layer in workload.trace.layers if layer.kind == "conv"]
    return trees.select(variables, names)


def everything(workload: Workload, variables: Params) -> Masks:
    """Masks of a dense network, that keep every prunable weight."""
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), kernels(workload, variables))


def smallest(workload: Workload, variables: Params, sparsity: float, kept: Masks | None) -> Masks:
    """Removes the weights of the smallest magnitude, of all layers together."""
    scores = criteria.WEIGHT_CRITERIA["magnitude"](kernels(workload, variables))
    return masks.from_scores(scores, sparsity, masks=kept, allow_empty_layers=True)


def at_random(workload: Workload, variables: Params, sparsity: float, key: Array) -> Masks:
    """Removes weights at random, of all layers together."""
    scores = criteria.WEIGHT_CRITERIA["random"](kernels(workload, variables), key)
    return masks.from_scores(scores, sparsity)


def channels(
    graph: units.UnitGraph, variables: Params, fraction: float, key: Array | None = None
) -> Masks:
    """Removes the channels of the smallest batch-norm scale, of all layers together, or any.

    A channel that is removed has a scale of zero, so that it goes first at the next cycle.

    Args:
      graph: of the model.
      variables: of the model.
      fraction: the share of all channels to remove.
      key: to remove channels at random instead.
    """
    criterion = "batch_norm_scale" if key is None else "random"
    scores = criteria.unit_scores(criterion, graph, variables, key=key)
    unit_masks = units.from_scores(scores, fraction, scope="global")
    return units.parameter_masks(graph, variables, unit_masks, readers=True)


def train(
    lab: Lab,
    group: Group,
    of: list[Job],
    task: training.Task,
    begin: Callable[[int], training.Progress],
    *,
    epochs: int,
    snapshots: bool = False,
) -> list[Params]:
    """Trains a group's networks, unless they are kept, and keeps them as they end.

    Args:
      lab: where to.
      group: of replicates.
      of: the jobs, one a replicate.
      task: what is trained and how.
      begin: the replicate's place in the group -> its beginning.
      epochs: behind the networks in the end, all retraining included.
      snapshots: whether the network is kept after every epoch as well.

    Returns:
      The variables of each.
    """

    def load_data(seed: int) -> data.Dataset:
        return group.datasets[group.seeds.index(seed)]

    def finish(progress: training.Progress, dataset: data.Dataset) -> tuple[dict, Record]:
        variables, kept = progress.state.variables, {"params": progress.state.masks}
        network = Pruned(variables, _like(variables, kept))
        return network._asdict(), _found(group.workload, network, dataset, epochs)

    kept_after = range(1, task.recipe.epochs + 1) if snapshots else ()
    trainings = [
        Training(job, task, lambda _, place=place: begin(place), finish, kept_after)
        for place, job in enumerate(of)
    ]
    trainings_of.train(lab, trainings, load_data)
    return [load(lab, job).variables for job in of]


def _like(variables: Params, kept: Masks) -> Masks:
    """Masks of the parameters -> masks of all variables."""
    return {name: kept.get(name, trees.select(tree, ())) for name, tree in variables.items()}


def keep(lab: Lab, group: Group, of: list[Job], networks: list[Pruned], *, epochs: int) -> None:
    """Keeps and measures networks of a group as they are."""

    def measure(left: list[Job]) -> Iterator[Record]:
        for job in left:
            place = of.index(job)
            found = _found(group.workload, networks[place], group.datasets[place], epochs)
            lab.keep(job, networks[place]._asdict(), found)
            yield found

    fill(lab, of, measure, keeps=of)


def _found(workload: Workload, network: Pruned, dataset: data.Dataset, epochs: int) -> Record:
    measured = workload.measure(network.variables, dataset)
    return _counted(workload, network) | {"epochs": epochs} | measured


def _counted(workload: Workload, network: Pruned) -> Record:
    """The counts of a network's prunable weights, whatever else is masked."""
    own = trees.map_selected(
        lambda leaf, mask: jnp.ones(leaf.shape, bool) if mask is None else mask,
        kernels(workload, network.variables),
        network.masks,
    )
    return counted(network._replace(masks=own))


def load(lab: Lab, job: Job) -> Pruned:
    """A kept network."""
    return Pruned(**lab.kept(job))


def snapshot_of(lab: Lab, job: Job, epoch: int) -> Params:
    """A network as it was after an epoch of its training."""
    return lab.kept(job | {"epoch": epoch})

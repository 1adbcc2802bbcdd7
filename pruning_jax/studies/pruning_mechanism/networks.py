"""The networks of the study of the pruning mechanism (S0): their rows, masks and training."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax import criteria, data, masks, training, trees, units
from pruning_jax.lab import checkpointing
from pruning_jax.studies import groups
from pruning_jax.studies.phases import (
    Row,
    Session,
    folder_name,
    measure,
    pending,
    record,
    save,
)
from pruning_jax.studies.pruned import Pruned, counted
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

    def units(self, **columns) -> list[Row]:
        """A unit of work of every seed."""
        return [unit_of(self.workload, seed, **columns) for seed in self.seeds]


def unit_of(workload: Workload, seed: int, phase: str = "network", **columns) -> Row:
    """A unit of work; the columns name a network, and what is done with it."""
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
    session: Session,
    group: Group,
    of: list[Row],
    task: training.Task,
    begin: Callable[[int], training.Progress],
    *,
    epochs: int,
    snapshots: bool = False,
) -> list[Params]:
    """Trains a group's networks, unless they are kept, and keeps them as they end.

    Args:
      session: where to.
      group: of replicates.
      of: the units of work, one a replicate.
      task: what is trained and how.
      begin: the replicate's place in the group -> its beginning.
      epochs: behind the networks in the end, all retraining included.
      snapshots: whether the network is kept after every epoch as well.

    Returns:
      The variables of each.
    """

    def load_data(seed: int) -> data.Dataset:
        return group.datasets[group.seeds.index(seed)]

    def begun(unit: Row, _: data.Dataset) -> groups.Begun:
        return groups.Begun(task, begin(of.index(unit)), {})

    def snapshot(part: list[Row], epoch: int, progress: training.Progress) -> None:
        if snapshots:
            groups.keep_epoch(session.run, part, epoch, progress)

    def finish(trained: groups.Trained) -> None:
        states = [one.state for one in trained.ended]
        networks = [
            Pruned(state.variables, _like(state.variables, {"params": state.masks}))
            for state in states
        ]
        keep(session, group.workload, trained.units, networks, trained.datasets, epochs=epochs)

    left = pending(session.run, of, kept=of)
    groups.train(session, left, load_data, begun, finish, snapshot)
    return [load(session, unit).variables for unit in of]


def _like(variables: Params, kept: Masks) -> Masks:
    """Masks of the parameters -> masks of all variables."""
    return {name: kept.get(name, trees.select(tree, ())) for name, tree in variables.items()}


def keep(
    session: Session,
    workload: Workload,
    of: list[Row],
    networks: list[Pruned],
    datasets: list[data.Dataset],
    *,
    epochs: int,
) -> None:
    """Saves networks and adds their rows."""
    rows = []
    for unit, network, dataset in zip(of, networks, datasets, strict=True):
        columns = _counted(workload, network) | {"epochs": epochs}
        save(session.run, unit, network._asdict(), columns)
        rows.append(unit | columns | measure(workload, network.variables, dataset))
    record(session.run, rows, of)


def _counted(workload: Workload, network: Pruned) -> Row:
    """The counts of a network's prunable weights, whatever else is masked."""
    own = trees.map_selected(
        lambda leaf, mask: jnp.ones(leaf.shape, bool) if mask is None else mask,
        kernels(workload, network.variables),
        network.masks,
    )
    return counted(network._replace(masks=own))


def load(session: Session, unit: Row) -> Pruned:
    """A kept network."""
    found = checkpointing.load(session.run.checkpoints / folder_name(unit))
    return Pruned(**jax.tree.map(jnp.asarray, found))


def snapshot_of(session: Session, unit: Row, epoch: int) -> Params:
    """A network as it was after an epoch of its training."""
    found = checkpointing.load(session.run.checkpoints / folder_name(unit | {"epoch": epoch}))
    return jax.tree.map(jnp.asarray, found)

"""How networks use their weights: utilities of random subsets and of magnitude bands (S0)."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import data, trees
from pruning_jax.analysis import utility
from pruning_jax.measurements.pruning_mechanism import LAST
from pruning_jax.studies.phases import Row, Session, describe, pending, record
from pruning_jax.studies.pruned import Pruned
from pruning_jax.studies.pruning_mechanism import networks
from pruning_jax.studies.pruning_mechanism.networks import Group, unit_of
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Batch


def during_training(workload: Workload, seed: int) -> Iterator[Row]:
    """E1: the dense network, after some epochs of its training."""
    asked = workload.settings["during_training"]
    for epoch in asked.get("epochs", ()):
        yield from _by_ratio(workload, seed, asked, epoch, 1.0, network="dense", density=1.0)


def of_sizes(workload: Workload, seed: int) -> Iterator[Row]:
    """E2 to E4: the dense network, and small ones that followed the schedule once."""
    asked = workload.settings["sizes"]
    if asked:
        yield from _by_ratio(workload, seed, asked, LAST, 1.0, network="dense", density=1.0)
    for density in asked.get("densities", ()):
        small = {"network": "small", "density": density, "schedules": 1}
        yield from _by_ratio(workload, seed, asked, LAST, 1.0, **small)


def of_one_shot(workload: Workload, seed: int) -> Iterator[Row]:
    """E5: the dense network's largest weights, the pruned and retrained, and a small network."""
    asked = workload.settings["one_shot"]
    for density in asked.get("densities", ()):
        small = {"network": "small", "density": density, "schedules": 2}
        shot = {"network": "one_shot", "density": density}
        yield from _by_ratio(workload, seed, asked, LAST, density, network="dense", density=1.0)
        yield from _by_ratio(workload, seed, asked, LAST, 1.0, **shot)
        yield from _by_ratio(workload, seed, asked, LAST, 1.0, **small)


def _by_ratio(
    workload: Workload, seed: int, asked, epoch, among: float, **network
) -> Iterator[Row]:
    for ratio in asked["ratios"]:
        place = {"epoch": epoch, "among": among, "ratio": ratio}
        yield unit_of(workload, seed, "utility", **network, **place)


def measure(session: Session, group: Group) -> None:
    """Adds the utilities that a group's networks lack."""
    workload = group.workload
    for seed, dataset in zip(group.seeds, group.datasets, strict=True):
        asked = [
            *during_training(workload, seed),
            *of_sizes(workload, seed),
            *of_one_shot(workload, seed),
        ]
        if not asked:
            continue
        left = pending(session.run, asked)
        batch = examples_of(workload, seed, dataset)
        for number, unit in enumerate(left, 1):
            row = _utilities(session, workload, unit, batch)
            record(session.run, [unit | row], [unit])
            session.tell(describe(unit), number, len(left), {"mean": row["mean"]})
        if workload.settings["sizes"]:
            _measure_bands(session, workload, seed, batch)


def examples_of(workload: Workload, seed: int, dataset: data.Dataset) -> Batch:
    """The training examples on which a seed's utilities are measured."""
    count = workload.settings["utility"]["examples"]
    return data.sample(workload.keys(seed).pruning, dataset.train, count)


def _network(session: Session, workload: Workload, unit: Row) -> Pruned:
    """The network of a unit, at its epoch, and the weights that subsets are drawn from."""
    named = ("network", "density", "schedules")
    columns = {name: unit[name] for name in named if name in unit}
    own = unit_of(workload, unit["seed"], **columns)
    if unit["epoch"] == LAST:
        variables, kept = networks.load(session, own)
    else:
        variables = networks.snapshot_of(session, own, unit["epoch"])
        kept = networks.everything(workload, variables)
    if unit["among"] < 1:
        kept = networks.smallest(workload, variables, 1 - unit["among"], kept)
    return Pruned(variables, kept)


def _utilities(session: Session, workload: Workload, unit: Row, batch: Batch) -> Row:
    variables, kept = _network(session, workload, unit)
    weights, subsets = (
        networks.kernels(workload, variables),
        workload.settings["utility"]["subsets"],
    )
    kept = trees.map_selected(lambda leaf, mask: mask, weights, kept)
    key = jax.random.fold_in(workload.keys(unit["seed"]).pruning, 1)
    drawn = utility.random_subsets(key, weights, subsets, ratio=unit["ratio"], among=kept)
    drawn = session.checked(describe(unit), drawn)
    found = utility.measure(workload.pretraining.apply_fn, variables, drawn, batch)
    alive = int(sum(int(mask.sum()) for mask in jax.tree.leaves(kept)))
    accuracy = np.asarray(found.accuracy)
    return {
        "subset_size": round(unit["ratio"] * alive),
        "weights": alive,
        **utility.summary(found.divergence)._asdict(),
        "accuracy_mean": float(accuracy.mean()),
        "accuracy_minimum": float(accuracy.min()),
        "accuracy_maximum": float(accuracy.max()),
        "unablated_accuracy": float(found.unablated_accuracy),
        "examples": len(batch.labels),
        "subsets": subsets,
    }


def _measure_bands(session: Session, workload: Workload, seed: int, batch: Batch) -> None:
    unit = unit_of(workload, seed, "bands", network="dense", density=1.0, epoch=LAST)
    if not pending(session.run, [unit]):
        return
    variables = networks.load(session, unit_of(workload, seed, network="dense", density=1.0))[0]
    weights = networks.kernels(workload, variables)
    bands = utility.magnitude_bands(weights, workload.settings["sizes"]["bands"])
    drawn = session.checked(describe(unit), bands)
    found = utility.measure(workload.pretraining.apply_fn, variables, drawn, batch)
    columns = {
        "utility": jnp.asarray(found.divergence).tolist(),
        "accuracy": jnp.asarray(found.accuracy).tolist(),
        "unablated_accuracy": float(found.unablated_accuracy),
        "examples": len(batch.labels),
    }
    record(session.run, [unit | columns], [unit])

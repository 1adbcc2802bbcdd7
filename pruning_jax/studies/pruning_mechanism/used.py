"""How networks use their weights: utilities of random subsets and of magnitude bands (S0)."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import data, trees
from pruning_jax.analysis import utility
from pruning_jax.lab.jobs import Lab, fill
from pruning_jax.lab.records import Record
from pruning_jax.lab.tables import Job, name
from pruning_jax.measurements.pruning_mechanism import LAST
from pruning_jax.studies.networks import Pruned
from pruning_jax.studies.pruning_mechanism import networks
from pruning_jax.studies.pruning_mechanism.networks import Group, job_of
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Batch


def during_training(workload: Workload, seed: int) -> Iterator[Job]:
    """E1: the dense network, after some epochs of its training."""
    asked = workload.settings["during_training"]
    for epoch in asked.get("epochs", ()):
        yield from _by_ratio(workload, seed, asked, epoch, 1.0, network="dense", density=1.0)


def of_sizes(workload: Workload, seed: int) -> Iterator[Job]:
    """E2 to E4: the dense network, and small ones that followed the schedule once."""
    asked = workload.settings["sizes"]
    if asked:
        yield from _by_ratio(workload, seed, asked, LAST, 1.0, network="dense", density=1.0)
    for density in asked.get("densities", ()):
        small = {"network": "small", "density": density, "schedules": 1}
        yield from _by_ratio(workload, seed, asked, LAST, 1.0, **small)


def of_one_shot(workload: Workload, seed: int) -> Iterator[Job]:
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
) -> Iterator[Job]:
    for ratio in asked["ratios"]:
        place = {"epoch": epoch, "among": among, "ratio": ratio}
        yield job_of(workload, seed, "utility", **network, **place)


def measure(lab: Lab, group: Group) -> None:
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
        batch = examples_of(workload, seed, dataset)
        fill(lab, asked, lambda left, of=batch: (utilities(lab, workload, j, of) for j in left))
        if workload.settings["sizes"]:
            job = job_of(workload, seed, "bands", network="dense", density=1.0, epoch=LAST)
            fill(lab, [job], lambda left, of=batch: (_bands(lab, workload, j, of) for j in left))


def examples_of(workload: Workload, seed: int, dataset: data.Dataset) -> Batch:
    """The training examples on which a seed's utilities are measured."""
    count = workload.settings["utility"]["examples"]
    return data.sample(workload.keys(seed).pruning, dataset.train, count)


def _network(lab: Lab, workload: Workload, job: Job) -> Pruned:
    """The network of a job, at its epoch, and the weights that subsets are drawn from."""
    named = ("network", "density", "schedules")
    columns = {column: job[column] for column in named if column in job}
    own = job_of(workload, job["seed"], **columns)
    if job["epoch"] == LAST:
        variables, kept = networks.load(lab, own)
    else:
        variables = networks.snapshot_of(lab, own, job["epoch"])
        kept = networks.everything(workload, variables)
    if job["among"] < 1:
        kept = networks.smallest(workload, variables, 1 - job["among"], kept)
    return Pruned(variables, kept)


def utilities(lab: Lab, workload: Workload, job: Job, batch: Batch) -> Record:
    """How far a network's outputs move without random subsets of its weights."""
    variables, kept = _network(lab, workload, job)
    weights, subsets = (
        networks.kernels(workload, variables),
        workload.settings["utility"]["subsets"],
    )
    kept = trees.map_selected(lambda leaf, mask: mask, weights, kept)
    key = jax.random.fold_in(workload.keys(job["seed"]).pruning, 1)
    drawn = utility.random_subsets(key, weights, subsets, ratio=job["ratio"], among=kept)
    drawn = lab.checked(name(job), drawn)
    found = utility.measure(workload.pretraining.apply_fn, variables, drawn, batch)
    alive = int(sum(int(mask.sum()) for mask in jax.tree.leaves(kept)))
    accuracy = np.asarray(found.accuracy)
    return {
        "subset_size": round(job["ratio"] * alive),
        "weights": alive,
        **utility.summary(found.divergence)._asdict(),
        "accuracy_mean": float(accuracy.mean()),
        "accuracy_minimum": float(accuracy.min()),
        "accuracy_maximum": float(accuracy.max()),
        "unablated_accuracy": float(found.unablated_accuracy),
        "examples": len(batch.labels),
        "subsets": subsets,
    }


def _bands(lab: Lab, workload: Workload, job: Job, batch: Batch) -> Record:
    dense = job_of(workload, job["seed"], network="dense", density=1.0)
    variables = networks.load(lab, dense).variables
    weights = networks.kernels(workload, variables)
    bands = utility.magnitude_bands(weights, workload.settings["sizes"]["bands"])
    drawn = lab.checked(name(job), bands)
    found = utility.measure(workload.pretraining.apply_fn, variables, drawn, batch)
    return {
        "utility": jnp.asarray(found.divergence).tolist(),
        "accuracy": jnp.asarray(found.accuracy).tolist(),
        "unablated_accuracy": float(found.unablated_accuracy),
        "examples": len(batch.labels),
    }

"""How networks use their weights, and what lies between them (S0).

Utilities of random subsets and of magnitude bands; paths and planes from the pretrained network
to the pruned and the retrained one.
"""

from collections.abc import Iterator

import jax
import numpy as np

from pruning_jax import data, retraining, trees
from pruning_jax.analysis import landscape, utility
from pruning_jax.evaluation import Metrics
from pruning_jax.lab.jobs import fill
from pruning_jax.lab.records import Record
from pruning_jax.lab.tables import Job, name
from pruning_jax.measurements.pruning_mechanism import LAST
from pruning_jax.studies.pruning_mechanism.asked import MOMENTS, SMALL
from pruning_jax.studies.pruning_mechanism.claims import DENSE, small
from pruning_jax.studies.pruning_mechanism.networks import Replicate, everything, kernels, smallest
from pruning_jax.types import Batch, Params

CHUNK = 100
"""Examples at once, on any device: batch statistics are estimated within chunks."""


def utility_jobs(one: Replicate) -> Iterator[Job]:
    """E1: the dense network after some epochs; E2 to E4: networks of several sizes; E5: pruned."""
    own = one.workload.settings
    during, sizes, shot = own.during_training, own.sizes, own.one_shot
    measured = [(DENSE, epoch, 1.0, during.ratios) for epoch in during.epochs]
    for density in (1.0, *sizes.densities):
        measured.append((small(density), LAST, 1.0, sizes.ratios))
    for density in shot.densities:
        pruned = {"network": "one_shot", "density": density}
        measured.append((DENSE, LAST, density, shot.ratios))
        measured += [(of, LAST, 1.0, shot.ratios) for of in (pruned, small(density, 2))]
    for network, epoch, among, ratios in measured:
        for ratio in ratios:
            yield one.job("utility", **network, epoch=epoch, among=among, ratio=ratio)


def use(one: Replicate) -> None:
    """Adds the utilities that a replicate's networks lack."""
    jobs, own = list(utility_jobs(one)), one.workload.settings
    if jobs:
        key = one.workload.keys(one.seed).pruning
        batch = data.sample(key, one.dataset.train, own.utility.examples)
        fill(one.lab, jobs, lambda left: (utilities(one, job, batch) for job in left))
    if own.sizes:
        jobs = [one.job("bands", **DENSE, epoch=LAST)]
        fill(one.lab, jobs, lambda left: (_bands(one, job, batch) for job in left))


def utilities(one: Replicate, job: Job, batch: Batch) -> Record:
    """How far a network's outputs move without random subsets of its weights."""
    workload, columns = one.workload, {c: job[c] for c in NAMES if c in job}
    if job["epoch"] == LAST:
        variables, kept = one.kept(columns)
    else:
        variables = one.snapshot(columns, job["epoch"])
        kept = everything(workload, variables)
    if job["among"] < 1:
        kept = smallest(workload, variables, 1 - job["among"], kept)
    weights, subsets = kernels(workload, variables), workload.settings.utility.subsets
    kept = trees.map_selected(lambda leaf, mask: mask, weights, kept)
    key = jax.random.fold_in(workload.keys(one.seed).pruning, 1)
    drawn = utility.random_subsets(key, weights, subsets, ratio=job["ratio"], among=kept)
    drawn = one.lab.checked(name(job), drawn)
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


NAMES = ("network", "density", "schedules")


def _bands(one: Replicate, job: Job, batch: Batch) -> Record:
    variables, _ = one.kept(DENSE)
    weights, bands = kernels(one.workload, variables), one.workload.settings.sizes.bands
    drawn = one.lab.checked(name(job), utility.magnitude_bands(weights, bands))
    found = utility.measure(one.workload.pretraining.apply_fn, variables, drawn, batch)
    return {
        "utility": np.asarray(found.divergence).tolist(),
        "accuracy": np.asarray(found.accuracy).tolist(),
        "unablated_accuracy": float(found.unablated_accuracy),
        "examples": len(batch.labels),
    }


# What lies between networks.


def surfaces(one: Replicate, *, drawn: bool) -> None:
    """Adds the paths of a replicate's networks, and the planes where they are drawn."""
    own = one.workload.settings
    compared = [
        {"arm": name, "regime": regime}
        for name, arm in own.arms.items()
        for regime in arm.regimes
        if regime != SMALL
    ]
    for columns in compared if own.paths else ():
        _path(one, examples_of(one, own.paths.examples), columns)
    for columns in compared if drawn else ():
        if columns["arm"] in own.surfaces.arms:
            _surface(one, examples_of(one, own.surfaces.examples), columns)


def examples_of(one: Replicate, count: int) -> Batch:
    """The training examples on which a path or a plane is measured."""
    key = jax.random.fold_in(one.workload.keys(one.seed).pruning, 2)
    return data.sample(key, one.dataset.train, count)


def _path(one: Replicate, batch: Batch, columns: Record) -> None:
    """The straight line from the pretrained to the retrained network."""
    positions = np.linspace(0, 1, one.workload.settings.paths.positions)

    def measure(left: list[Job]) -> Iterator[Record]:
        first, _, last = _corners(one, columns)
        line = landscape.path(first["params"], last["params"])
        for job in left:
            values = _evaluate(one, line, positions[:, None], batch, first, job)
            found = _columns([*values])
            yield {"positions": positions.tolist(), **found, "examples": len(batch.labels)}

    fill(one.lab, [one.job("path", **columns, moments=moments) for moments in MOMENTS], measure)


def _surface(one: Replicate, batch: Batch, columns: Record) -> None:
    """The plane of the three networks: its points and paths, then a row of the grid at a time."""
    own, corners = one.workload.settings.surfaces, _corners(one, columns)
    plane = landscape.plane(*(corner["params"] for corner in corners))
    points = [landscape.coordinates(plane, corner["params"]) for corner in corners]
    x, y = landscape.grid(np.array(points), tuple(own.shape), own.margin)

    def describe(_: list[Job]) -> Iterator[Record]:
        named = zip(("pretrained", "pruned", "retrained"), points, strict=True)
        found = {"points": {corner: point.tolist() for corner, point in named}}
        yield found | {"paths": _traced(one, plane, columns), "x": x.tolist(), "y": y.tolist()}

    def measure(left: list[Job]) -> Iterator[Record]:
        places = np.array([(across, y[job["block"]]) for job in left for across in x])
        values = _evaluate(one, plane, places, batch, corners[0], left[0])
        for _ in left:
            yield _columns([next(values) for _ in x])

    fill(one.lab, [one.job("plane", **columns)], describe)
    for moments in own.moments:
        of = {**columns, "moments": moments}
        fill(one.lab, [one.job("surface", **of, block=n) for n in range(len(y))], measure)


def _compared(one: Replicate, columns: Record) -> Record:
    """The network of an arm at the cycle that is compared."""
    cycle = one.workload.settings.arms[columns["arm"]].compared
    return {"network": "cycle", **columns, "cycle": cycle}


def _corners(one: Replicate, columns: Record) -> list[Params]:
    """The pretrained network, the pruned and the retrained one."""
    own = _compared(one, columns)
    return [one.kept(*of).variables for of in ((DENSE,), (own, "pruned"), (own,))]


def _traced(one: Replicate, plane: landscape.Plane, columns: Record) -> dict[str, list]:
    """The epochs of pretraining and retraining, projected on a plane."""
    last = one.workload.pretraining.recipe.epochs
    count = one.workload.settings.arms[columns["arm"]].epochs
    end = last if retraining.REGIMES[columns["regime"]].rewinds_rate else count
    parts = {
        "pretraining": (DENSE, range(1, last + 1)),
        "retraining": (_compared(one, columns), range(end - count + 1, end + 1)),
    }
    return {
        part: [
            landscape.coordinates(plane, one.snapshot(own, epoch)["params"]).tolist()
            for epoch in epochs
        ]
        for part, (own, epochs) in parts.items()
    }


def _evaluate(
    one: Replicate,
    plane: landscape.Plane,
    coordinates: np.ndarray,
    batch: Batch,
    variables: Params,
    job: Job,
) -> Iterator[Metrics]:
    task, own = one.workload.pretraining, {"chunk": CHUNK}
    own["state"] = {name: tree for name, tree in variables.items() if name != "params"}
    if job["moments"] == "estimated":
        own |= {"train_fn": task.train_fn, "moments": batch}
    values = landscape.evaluate(task.apply_fn, plane, coordinates, batch, **own)
    return one.lab.checked(name(job), values)


def _columns(found: list[Metrics]) -> Record:
    return {
        "loss": [float(each.loss) for each in found],
        "accuracy": [float(each.accuracy) for each in found],
    }

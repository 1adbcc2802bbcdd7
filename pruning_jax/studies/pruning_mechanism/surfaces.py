"""The loss between and around pretrained, pruned and retrained networks (S0, section 3)."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from pruning_jax import data, retraining
from pruning_jax.analysis import landscape
from pruning_jax.evaluation import Metrics
from pruning_jax.lab.jobs import Lab, fill
from pruning_jax.lab.records import Record
from pruning_jax.lab.tables import Job, name
from pruning_jax.studies.pruning_mechanism import arms, networks
from pruning_jax.studies.pruning_mechanism.networks import Group, job_of
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Batch, Params

CHUNK = 100
"""Examples at once, on any device: batch statistics are estimated within chunks."""

MOMENTS = ("kept", "estimated")
"""The state of a point: that of the pretrained network, or the one the point's weights give."""


def arms_of(workload: Workload, only: Sequence[str] | None = None) -> Iterator[Job]:
    """Every arm and regime that prunes."""
    for arm, asked in workload.settings["arms"].items():
        for regime in asked["regimes"]:
            if regime != arms.SMALL and (only is None or arm in only):
                yield {"arm": arm, "regime": regime}


def shown(workload: Workload) -> tuple[int, ...]:
    """The seeds whose planes are drawn."""
    return workload.seeds[: workload.settings["surfaces"].get("seeds", 0)]


def measure(lab: Lab, group: Group) -> None:
    """Adds the paths of a group's networks, and the planes of those that are shown."""
    workload = group.workload
    for seed, dataset in zip(group.seeds, group.datasets, strict=True):
        if workload.settings["paths"]:
            for columns in arms_of(workload):
                _path(lab, workload, seed, dataset, columns)
        if seed in shown(workload):
            for columns in arms_of(workload, workload.settings["surfaces"]["arms"]):
                _surface(lab, workload, seed, dataset, columns)


def _compared(workload: Workload, seed: int, columns: Job, phase: str = "network") -> Job:
    """The network of an arm at the cycle that is compared."""
    cycle = workload.settings["arms"][columns["arm"]]["compared"]
    return job_of(workload, seed, phase, network="cycle", **columns, cycle=cycle)


def _dense(workload: Workload, seed: int) -> Job:
    return job_of(workload, seed, network="dense", density=1.0)


def _path(lab: Lab, workload: Workload, seed: int, dataset: data.Dataset, columns: Job) -> None:
    """The straight line from the pretrained to the retrained network."""
    settings = workload.settings["paths"]
    positions = np.linspace(0, 1, settings["positions"])

    def measure(left: list[Job]) -> Iterator[Record]:
        first = networks.load(lab, _dense(workload, seed)).variables
        last = networks.load(lab, _compared(workload, seed, columns)).variables
        line = landscape.path(first["params"], last["params"])
        batch = _examples(workload, seed, dataset, settings["examples"])
        for job in left:
            values = _evaluate(workload, line, positions[:, None], batch, first, job["moments"])
            found = _columns(list(lab.checked(name(job), values)))
            yield {"positions": positions.tolist(), **found, "examples": len(batch.labels)}

    asked = [job_of(workload, seed, "path", **columns, moments=moments) for moments in MOMENTS]
    fill(lab, asked, measure)


def _surface(lab: Lab, workload: Workload, seed: int, dataset: data.Dataset, columns: Job) -> None:
    """The plane of the three networks: its points and paths, then a row of the grid at a time."""
    settings = workload.settings["surfaces"]
    plane, x, y = _plane(lab, workload, seed, columns)

    def measure(left: list[Job]) -> Iterator[Record]:
        first = networks.load(lab, _dense(workload, seed)).variables
        batch = _examples(workload, seed, dataset, settings["examples"])
        points = [(across, y[job["block"]]) for job in left for across in x]
        values = _evaluate(workload, plane, np.array(points), batch, first, left[0]["moments"])
        values = lab.checked(name(left[0]), values)
        for _ in left:
            yield _columns([next(values) for _ in x])

    for moments in settings["moments"]:
        of = {**columns, "moments": moments}
        blocks = range(len(y))
        fill(lab, [job_of(workload, seed, "surface", **of, block=n) for n in blocks], measure)


def _plane(
    lab: Lab, workload: Workload, seed: int, columns: Job
) -> tuple[landscape.Plane, np.ndarray, np.ndarray]:
    """The plane through the pretrained, pruned and retrained network, and the axes of its grid."""
    dense, retrained = _dense(workload, seed), _compared(workload, seed, columns)
    pruned = _compared(workload, seed, columns, "pruned")
    names = ("pretrained", "pruned", "retrained")
    corners = [networks.load(lab, job).variables["params"] for job in (dense, pruned, retrained)]
    plane = landscape.plane(*corners)
    points = np.array([landscape.coordinates(plane, corner) for corner in corners])
    settings = workload.settings["surfaces"]
    x, y = landscape.grid(points, tuple(settings["shape"]), settings["margin"])

    def measure(_: list[Job]) -> Iterator[Record]:
        epochs = range(1, workload.pretraining.recipe.epochs + 1)
        again = workload.settings["arms"][columns["arm"]]["epochs"]
        after = _epochs(workload, columns["regime"], again)
        paths = {
            "pretraining": _traced(lab, plane, dense, epochs),
            "retraining": _traced(lab, plane, retrained, after),
        }
        named = dict(zip(names, points.tolist(), strict=True))
        yield {"points": named, "paths": paths, "x": x.tolist(), "y": y.tolist()}

    fill(lab, [job_of(workload, seed, "plane", **columns)], measure)
    return plane, x, y


def _epochs(workload: Workload, regime: str, count: int) -> range:
    """The epochs of a recipe that a retraining of so many goes through."""
    rewinds = retraining.REGIMES[regime].rewinds_rate
    last = workload.pretraining.recipe.epochs if rewinds else count
    return range(last - count + 1, last + 1)


def _traced(lab: Lab, plane: landscape.Plane, job: Job, epochs: range) -> list[list[float]]:
    """A network's training, projected on a plane."""
    found = [networks.snapshot_of(lab, job, epoch)["params"] for epoch in epochs]
    return [landscape.coordinates(plane, params).tolist() for params in found]


def _examples(workload: Workload, seed: int, dataset: data.Dataset, count: int) -> Batch:
    key = jax.random.fold_in(workload.keys(seed).pruning, 2)
    return data.sample(key, dataset.train, count)


def _evaluate(
    workload: Workload,
    plane: landscape.Plane,
    coordinates: np.ndarray,
    batch: Batch,
    variables: Params,
    moments: str,
) -> Iterator[Metrics]:
    task = workload.pretraining
    state = {name: tree for name, tree in variables.items() if name != "params"}
    estimated = {"train_fn": task.train_fn, "moments": batch} if moments == "estimated" else {}
    return landscape.evaluate(
        task.apply_fn, plane, coordinates, batch, state=state, chunk=CHUNK, **estimated
    )


def _columns(found: list[Metrics]) -> Record:
    return {
        "loss": [float(each.loss) for each in found],
        "accuracy": [float(each.accuracy) for each in found],
    }

"""The loss between and around pretrained, pruned and retrained networks (S0, section 3)."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from pruning_jax import data, retraining
from pruning_jax.analysis import landscape
from pruning_jax.evaluation import Metrics
from pruning_jax.studies.phases import Row, Session, describe, pending, record
from pruning_jax.studies.pruning_mechanism import arms, networks
from pruning_jax.studies.pruning_mechanism.networks import Group, unit_of
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Batch, Params

CHUNK = 100
"""Examples at once, on any device: batch statistics are estimated within chunks."""

MOMENTS = ("kept", "estimated")
"""The state of a point: that of the pretrained network, or the one the point's weights give."""


def arms_of(workload: Workload, only: Sequence[str] | None = None) -> Iterator[Row]:
    """Every arm and regime that prunes."""
    for name, arm in workload.settings["arms"].items():
        for regime in arm["regimes"]:
            if regime != arms.SMALL and (only is None or name in only):
                yield {"arm": name, "regime": regime}


def shown(workload: Workload) -> tuple[int, ...]:
    """The seeds whose planes are drawn."""
    return workload.seeds[: workload.settings["surfaces"].get("seeds", 0)]


def measure(session: Session, group: Group) -> None:
    """Adds the paths of a group's networks, and the planes of those that are shown."""
    workload = group.workload
    for seed, dataset in zip(group.seeds, group.datasets, strict=True):
        if workload.settings["paths"]:
            for columns in arms_of(workload):
                _path(session, workload, seed, dataset, columns)
        if seed in shown(workload):
            for columns in arms_of(workload, workload.settings["surfaces"]["arms"]):
                _surface(session, workload, seed, dataset, columns)


def _compared(workload: Workload, seed: int, columns: Row, phase: str = "network") -> Row:
    """The network of an arm at the cycle that is compared."""
    cycle = workload.settings["arms"][columns["arm"]]["compared"]
    return unit_of(workload, seed, phase, network="cycle", **columns, cycle=cycle)


def _dense(workload: Workload, seed: int) -> Row:
    return unit_of(workload, seed, network="dense", density=1.0)


def _path(
    session: Session, workload: Workload, seed: int, dataset: data.Dataset, columns: Row
) -> None:
    """The straight line from the pretrained to the retrained network."""
    asked = [unit_of(workload, seed, "path", **columns, moments=moments) for moments in MOMENTS]
    left = pending(session.run, asked)
    if not left:
        return
    settings = workload.settings["paths"]
    positions = np.linspace(0, 1, settings["positions"])
    first = networks.load(session, _dense(workload, seed)).variables
    last = networks.load(session, _compared(workload, seed, columns)).variables
    line = landscape.path(first["params"], last["params"])
    batch = _examples(workload, seed, dataset, settings["examples"])
    for unit in left:
        values = _evaluate(workload, line, positions[:, None], batch, first, unit["moments"])
        found = list(session.checked(describe(unit), values))
        row = {"positions": positions.tolist(), **_columns(found), "examples": len(batch.labels)}
        record(session.run, [unit | row], [unit])
    session.tell(describe(left[-1]), 1, 1, {"accuracy": row["accuracy"][-1]})


def _surface(
    session: Session, workload: Workload, seed: int, dataset: data.Dataset, columns: Row
) -> None:
    """The plane of the three networks: its points and paths, then a row of the grid at a time."""
    settings = workload.settings["surfaces"]
    plane, x, y = _plane(session, workload, seed, columns)
    first = networks.load(session, _dense(workload, seed)).variables
    batch = _examples(workload, seed, dataset, settings["examples"])
    for moments in settings["moments"]:
        asked = [
            unit_of(workload, seed, "surface", **columns, moments=moments, block=block)
            for block in range(len(y))
        ]
        left = pending(session.run, asked)
        if not left:
            continue
        points = [(across, y[unit["block"]]) for unit in left for across in x]
        values = _evaluate(workload, plane, np.array(points), batch, first, moments)
        values = session.checked(describe(left[0]), values)
        for unit in left:
            found = [next(values) for _ in x]
            record(session.run, [unit | _columns(found)], [unit])
            figures = {"accuracy": max(float(each.accuracy) for each in found)}
            session.tell(describe(unit), unit["block"] + 1, len(y), figures)


def _plane(
    session: Session, workload: Workload, seed: int, columns: Row
) -> tuple[landscape.Plane, np.ndarray, np.ndarray]:
    """The plane through the pretrained, pruned and retrained network, and the axes of its grid."""
    dense, retrained = _dense(workload, seed), _compared(workload, seed, columns)
    pruned = _compared(workload, seed, columns, "pruned")
    names = ("pretrained", "pruned", "retrained")
    corners = [
        networks.load(session, unit).variables["params"] for unit in (dense, pruned, retrained)
    ]
    plane = landscape.plane(*corners)
    points = np.array([landscape.coordinates(plane, corner) for corner in corners])
    settings = workload.settings["surfaces"]
    x, y = landscape.grid(points, tuple(settings["shape"]), settings["margin"])
    unit = unit_of(workload, seed, "plane", **columns)
    if pending(session.run, [unit]):
        epochs = range(1, workload.pretraining.recipe.epochs + 1)
        again = workload.settings["arms"][columns["arm"]]["epochs"]
        paths = {
            "pretraining": _traced(session, plane, dense, epochs),
            "retraining": _traced(
                session, plane, retrained, _epochs(workload, columns["regime"], again)
            ),
        }
        row = {"points": dict(zip(names, points.tolist(), strict=True)), "paths": paths}
        record(session.run, [unit | row | {"x": x.tolist(), "y": y.tolist()}], [unit])
    return plane, x, y


def _epochs(workload: Workload, regime: str, count: int) -> range:
    """The epochs of a recipe that a retraining of so many goes through."""
    rewinds = retraining.REGIMES[regime].rewinds_rate
    last = workload.pretraining.recipe.epochs if rewinds else count
    return range(last - count + 1, last + 1)


def _traced(
    session: Session, plane: landscape.Plane, unit: Row, epochs: range
) -> list[list[float]]:
    """A network's training, projected on a plane."""
    found = [networks.snapshot_of(session, unit, epoch)["params"] for epoch in epochs]
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


def _columns(found: list[Metrics]) -> Row:
    return {
        "loss": [float(each.loss) for each in found],
        "accuracy": [float(each.accuracy) for each in found],
    }

"""The numbers of each seed of a pruning-mechanism run, once all its rows are there.

Accuracies, their differences and barriers are in pp.
"""

import itertools
import math
from collections.abc import Iterable

import numpy as np

from pruning_jax.analysis import statistics
from pruning_jax.measurements import Row, rows_of, where
from pruning_jax.measurements import pruning_mechanism as measured
from pruning_jax.measurements.pruning_mechanism import LAST, Curve
from pruning_jax.studies.workloads import Workload

COMPARED = ("mean", "std")
"""Of utility over random subsets: what a network's curves are compared by."""
DENSE = {"network": "dense", "density": 1.0}
COMPRESSIONS = (3.0, 5.0, 9.0)
"""At which the gain by rewinding is taken."""
NEAR = 1.25
"""The factor within which a cycle's compression stands for one of `COMPRESSIONS`."""


def each_seed(rows: list[Row], workload: Workload, phase: str, **columns: object) -> list[Row]:
    """The row of each seed, in the order of the workload's seeds.

    Raises:
      LookupError: a seed has none.
    """
    units = [
        {"phase": phase, "workload": workload.name, "seed": seed} | columns
        for seed in workload.seeds
    ]
    return rows_of(where(rows, phase=phase, **columns), units)


def correlations(rows: list[Row], workload: Workload, quantity: str, ratio: float) -> np.ndarray:
    """Spearman's correlation of epoch and a quantity of utility; 0 where it never changes.

    Raises:
      LookupError: an epoch has no row.
      ValueError: a value is not finite.
    """
    epochs, found = workload.settings["during_training"]["epochs"], []
    for epoch in epochs:
        each_seed(rows, workload, "utility", **DENSE, epoch=epoch, among=1.0, ratio=ratio)
    for seed in workload.seeds:
        curve = measured.along_training(where(rows, seed=seed), ratio, quantity)
        utilities = [curve[epoch] for epoch in epochs]
        _check_finite(utilities, f"the {quantity} of utility at ratio {ratio:g}, seed {seed},")
        flat = np.ptp(utilities) == 0
        found.append(0.0 if flat else statistics.spearman(epochs, utilities))
    return np.array(found)


def accuracy_ranges(rows: list[Row], workload: Workload) -> dict[float, np.ndarray]:
    """Ratio -> largest less least accuracy over the random subsets of the dense network."""
    found = {}
    for ratio in workload.settings["sizes"]["ratios"]:
        own = each_seed(rows, workload, "utility", **DENSE, epoch=LAST, among=1.0, ratio=ratio)
        found[ratio] = np.array([measured.accuracy_range(row) for row in own])
    return found


def band_costs(rows: list[Row], workload: Workload) -> np.ndarray:
    """The accuracy that each band of magnitudes costs, smallest first; shape (seeds, bands)."""
    own = each_seed(rows, workload, "bands", **DENSE, epoch=LAST)
    return np.stack([measured.band_costs(row) for row in own])


def curves(
    rows: list[Row], workload: Workload, ratios: Iterable[float], **network: object
) -> list[list[Curve]]:
    """Each seed's curves of a network, one for each of `COMPARED`, by the network's own ratio.

    Raises:
      LookupError: a ratio has no row.
    """
    columns = {"epoch": LAST, "among": 1.0} | network
    for ratio in ratios:
        each_seed(rows, workload, "utility", **columns, ratio=ratio)
    own = where(rows, phase="utility", **columns)
    return [
        [measured.by_ratio(where(own, seed=seed), moment, **network) for moment in COMPARED]
        for seed in workload.seeds
    ]


def size_distances(rows: list[Row], workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """How far apart networks of different sizes lie, at equal ratio and at equal number.

    The mean of `measurements.pruning_mechanism.distance` over the pairs of sizes, both at the
    shares that `numbers` lists: of a network's own weights, and of the dense network's.

    Returns:
      Two arrays of shape (seeds,).
    """
    settings = workload.settings["sizes"]
    densities, shares = (1.0, *settings["densities"]), settings["numbers"]
    of_sizes = []
    for density in densities:
        network = DENSE if density == 1.0 else _small(density, 1)
        ratios = [own_ratio(workload, share) for share in shares]
        ratios += [own_ratio(workload, share / density) for share in shares]
        of_sizes.append(curves(rows, workload, ratios, **network))
    by_ratio, by_number = [], []
    for found in zip(*of_sizes, strict=True):
        counted = [
            [measured.by_number(curve, density) for curve in own]
            for own, density in zip(found, densities, strict=True)
        ]
        for kept, of_seed in ((by_ratio, found), (by_number, counted)):
            pairs = itertools.combinations(of_seed, 2)
            kept.append(np.mean([measured.distance(*pair, shares) for pair in pairs]))
    return np.array(by_ratio), np.array(by_number)


def own_ratio(workload: Workload, ratio: float) -> float:
    """The ratio as the settings of `sizes` write it; raises `LookupError` where it was not run."""
    ratios = workload.settings["sizes"]["ratios"]
    near = [own for own in ratios if math.isclose(own, ratio, rel_tol=1e-6)]
    if not near:
        ran = ", ".join(f"{own:g}" for own in ratios)
        raise LookupError(f"no subsets of a share of {ratio:g} were run; there are {ran}")
    return near[0]


def largest(rows: list[Row], workload: Workload, density: float, ratio: float) -> np.ndarray:
    """The largest utility of the random subsets of a network of a size, in nats."""
    network = DENSE if density == 1.0 else _small(density, 1)
    own = each_seed(rows, workload, "utility", **network, epoch=LAST, among=1.0, ratio=ratio)
    return np.array([row["maximum"] for row in own], dtype=float)


def retrained_distances(
    rows: list[Row], workload: Workload, density: float
) -> tuple[np.ndarray, np.ndarray]:
    """How far a network pruned in one shot, and a small one, lie from the pretrained network.

    Subsets of the pretrained network are drawn from the weights that pruning keeps.

    Returns:
      Two arrays of shape (seeds,).
    """
    ratios = workload.settings["one_shot"]["ratios"]
    networks = DENSE | {"among": density}, {"network": "one_shot", "density": density}
    pretrained, pruned, small = (
        curves(rows, workload, ratios, **network) for network in (*networks, _small(density, 2))
    )
    first, second = (
        [measured.distance(*pair, ratios) for pair in zip(other, pretrained, strict=True)]
        for other in (pruned, small)
    )
    return np.array(first), np.array(second)


def dips(rows: list[Row], workload: Workload, arm: str, regime: str) -> np.ndarray:
    """How far training accuracy falls below that path's worse end: no barrier where it climbs."""
    own = each_seed(rows, workload, "path", arm=arm, regime=regime, moments="estimated")
    paths = [100 * np.array(row["accuracy"], dtype=float) for row in own]
    return np.array([min(path[0], path[-1]) - path.min() for path in paths])


def accuracies(rows: list[Row], workload: Workload, split: str, **network: object) -> np.ndarray:
    """Accuracy of a trained network, in %; shape (seeds,)."""
    own = each_seed(rows, workload, "network", **network)
    return 100 * np.array([row[f"{split}_accuracy"] for row in own], dtype=float)


def retrained_accuracies(
    rows: list[Row],
    workload: Workload,
    split: str,
    arm: str,
    regime: str,
    cycle: int | None = None,
) -> np.ndarray:
    """Accuracy of an arm's network after a cycle, by default the one where regimes are compared.

    Raises:
      LookupError: the arm or regime was not run, or a seed has no row.
    """
    need(workload, arm, regime)
    cycle = workload.settings["arms"][arm]["compared"] if cycle is None else cycle
    network = {"network": "cycle", "arm": arm, "regime": regime, "cycle": cycle}
    return accuracies(rows, workload, split, **network)


def need(workload: Workload, arm: str, *regimes: str) -> None:
    """Raises `LookupError` where an arm, or one of its regimes, is not among those that run."""
    arms = workload.settings["arms"]
    if arm not in arms:
        raise LookupError(f"arm not run: {arm}")
    missing = [regime for regime in regimes if regime not in arms[arm]["regimes"]]
    if missing:
        raise LookupError(f"regimes not run for arm {arm}: {', '.join(missing)}")


def compared_cycles(workload: Workload) -> list[int]:
    """The cycles of weight pruning whose compressions are nearest to `COMPRESSIONS`.

    Raises:
      LookupError: there is no such arm, or none of its cycles comes within `NEAR`.
    """
    need(workload, "weight", "fine_tuning", "learning_rate_rewinding")
    arm, found = workload.settings["arms"]["weight"], []
    for compression in COMPRESSIONS:
        exact = -math.log(compression) / math.log(1 - arm["share"])
        cycle = min(range(1, arm["cycles"] + 1), key=lambda cycle: abs(cycle - exact))
        apart = abs(math.log((1 - arm["share"]) ** -cycle / compression))
        if apart > math.log(NEAR) or cycle in found:
            raise LookupError(f"no cycle of weight pruning leaves about 1/{compression:g}")
        found.append(cycle)
    return found


def random_cost(rows: list[Row], workload: Workload) -> float:
    """Mean accuracy, in pp, that random ablation of the dense network costs: the control.

    At the end of its training and the largest share of weights.

    Raises:
      LookupError: a row is missing, or no random subsets of the dense network were run.
      ValueError: the cost is not finite.
    """
    settings = workload.settings
    if settings["sizes"]:
        epoch, ratios = LAST, settings["sizes"]["ratios"]
    elif settings["during_training"]:
        epoch = max(settings["during_training"]["epochs"])
        ratios = settings["during_training"]["ratios"]
    else:
        raise LookupError("no random subsets of the dense network were run for the control")
    columns = DENSE | {"epoch": epoch, "among": 1.0, "ratio": max(ratios)}
    own = each_seed(rows, workload, "utility", **columns)
    cost = float(np.mean([measured.random_cost(row) for row in own]))
    _check_finite([cost], "the accuracy that random ablation costs")
    return cost


def _small(density: float, schedules: int) -> Row:
    return {"network": "small", "density": density, "schedules": schedules}


def _check_finite(values: Iterable[float], name: str) -> None:
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; mend that run first")

"""The numbers of each seed of a mean-replacement run, once all its rows are there."""

from collections.abc import Iterable

import numpy as np

from pruning_jax.lab.tables import name as describe
from pruning_jax.measurements import Row, rows_of, where
from pruning_jax.measurements import mean_replacement as measured
from pruning_jax.studies.mean_replacement import grid
from pruning_jax.studies.workloads import Workload


def probed(rows: list[Row], workload: Workload, seed: int) -> list[Row]:
    """The settings of a seed, every probe x layer set x fraction, in which a unit was removed.

    Raises:
      LookupError: a setting has no row, or none removes a unit.
    """
    found = where(rows, phase="probed", seed=seed)
    for step in grid.probe_steps(workload):
        _check_there(found, grid.probed_jobs(workload, seed, step))
    if not measured.prunings(found):
        raise LookupError(f"no fraction removes a unit at seed {seed}")
    return measured.prunings(found)


def penalties(rows: list[Row], workload: Workload) -> list[dict[measured.Method, np.ndarray]]:
    """Each seed's penalties of every method in its `probed` settings, in nats.

    Raises:
      LookupError: as `probed` does.
      ValueError: a penalty is not finite.
    """
    found = []
    for seed in workload.seeds:
        found.append(measured.penalties(probed(rows, workload, seed)))
        for (criterion, replacement), values in found[-1].items():
            _check_finite(values, f"a penalty of {criterion}, {replacement}, at seed {seed}")
    return found


def gaps(
    rows: list[Row], workload: Workload, criteria: Iterable[str], fraction: float
) -> dict[int, np.ndarray]:
    """Fine-tuning steps -> zero less mean penalty of some criteria at a fraction; shape (seeds,).

    Raises:
      LookupError: a fine-tuned network has no row.
      ValueError: a penalty is not finite.
    """
    tuning, criteria = workload.settings["fine_tuning"], tuple(criteria)
    found: dict[int, list[float]] = {int(count): [] for count in (0, *sorted(tuning["steps"]))}
    for seed in workload.seeds:
        own = where(rows, phase="fine_tuned", seed=seed, fraction=fraction)
        own = [row for row in own if row["criterion"] in criteria]
        for step in tuning["probes"]:
            asked = grid.fine_tuned_jobs(workload, seed, step)
            wanted = (job for job in asked if job["fraction"] == fraction)
            _check_there(own, (job for job in wanted if job["criterion"] in criteria))
        pairs = measured.fine_tuned_pairs(own)
        if not pairs:
            raise LookupError(f"nothing was fine-tuned of {', '.join(criteria)} at {fraction:g}")
        for count, values in found.items():
            both = np.array([[row["penalty"][str(count)] for row in pair] for pair in pairs], float)
            _check_finite(both, f"a penalty after {count} fine-tuning steps at seed {seed}")
            values.append(float((both[:, 0] - both[:, 1]).mean()))
    return {count: np.array(values) for count, values in found.items()}


def overlaps(rows: list[Row], workload: Workload, first: str, second: str) -> np.ndarray:
    """Jaccard's overlap of the units that two criteria remove from a layer; shape (seeds,).

    The mean over the probes and layers whose rows list the units.
    """
    found = []
    for seed in workload.seeds:
        chosen = [row["units"] for row in probed(rows, workload, seed) if row.get("units")]
        if not chosen:
            raise LookupError(f"no row at seed {seed} lists the units removed")
        found.append(np.mean([measured.overlap(units[first], units[second]) for units in chosen]))
    return np.array(found)


def removed_squares(rows: list[Row], workload: Workload, criterion: str) -> np.ndarray:
    """The mean squared activation of the removed units, mean over the probes; shape (seeds,)."""
    selection = workload.settings["selection"]
    found = []
    for seed in workload.seeds:
        own = where(probed(rows, workload, seed), **selection)
        squares = [row["mean_square"][criterion] for row in own if row.get("mean_square")]
        if not squares:
            raise LookupError(f"no row at seed {seed} has the squared activations of {selection}")
        found.append(np.mean(squares))
    return np.array(found)


def selections(rows: list[Row], workload: Workload) -> list[tuple[int, list[Row]]]:
    """Each seed's size of the layer that is selected from, and its selections in their order.

    Raises:
      LookupError: a selection, or the layer's size, has no row.
    """
    settings, found = workload.settings, []
    every = settings["selection_every"]
    steps = range(every, grid.total_steps(workload) + 1, every)
    for seed in workload.seeds:
        own = where(rows, phase="selected", seed=seed, **settings["selection"])
        _check_there(own, (grid.selected_job(workload, seed, step) for step in steps))
        size = measured.layer_size(rows, seed=seed, **settings["selection"])
        if size is None:
            raise LookupError(f"no row for activations seed={seed}")
        found.append((size, sorted(own, key=lambda row: row["step"])))
    return found


def relative_errors(rows: list[Row], workload: Workload) -> np.ndarray:
    """How far the numeric optimum of a linear regression lies from the mean; shape (seeds,)."""
    own = {"phase": "linear_regression", "workload": workload.name}
    found = rows_of(rows, [own | {"seed": seed} for seed in workload.seeds])
    return np.array([row["relative_error"] for row in found], dtype=float)


def need(workload: Workload, criteria: Iterable[str]) -> None:
    """Raises `LookupError` where a criterion is not among those that run."""
    missing = [name for name in criteria if name not in workload.settings["criteria"]]
    if missing:
        raise LookupError(f"criteria not run: {', '.join(missing)}")


def _check_finite(values: np.ndarray, name: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is {values[~np.isfinite(values)][0]}; mend that run first")


def _check_there(rows: list[Row], jobs: Iterable[Row]) -> None:
    """Raises `LookupError` where a job, all of the same columns, has no row."""
    there: set[tuple] | None = None
    for job in jobs:
        if there is None:
            there = {tuple(row.get(name) for name in job) for row in rows}
        if tuple(job.values()) not in there:
            raise LookupError(f"no row for {describe(job)}")

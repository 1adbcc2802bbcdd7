"""Loss gaps and error gaps of the loss-modelling study, a number a seed, and their spread.

Loss gap: |training loss after pruning - training loss before|, in nats. Error gap: the validation
error of a pruned network less that of the dense one, in pp.
"""

import math

import numpy as np

from pruning_jax.measurements import Row, rows_of
from pruning_jax.studies.loss_modelling.prunings import at
from pruning_jax.studies.networks import dense_job
from pruning_jax.studies.workloads import Workload


def loss_gaps(rows: list[Row], workload: Workload, *pruning: object) -> np.ndarray:
    """Loss gaps of one way of pruning, in nats; shape (seeds,).

    Args:
      rows: of the workload.
      workload: whose seeds are taken.
      *pruning: epoch, criterion, stages and step penalty.

    Raises:
      LookupError: a seed has no such row.
      ValueError: a gap is not finite.
    """
    jobs = [at(workload, seed, *pruning) for seed in workload.seeds]
    gaps = np.array([abs(row["penalty"]) for row in rows_of(rows, jobs)])
    if not np.isfinite(gaps).all():
        epoch, criterion, stages, penalty = pruning
        raise ValueError(
            f"a loss gap of {criterion} at epoch {epoch}, {stages} stages and step penalty "
            f"{penalty:g} is not finite: {gaps.tolist()}"
        )
    return gaps


def errors(rows: list[Row], workload: Workload, phase: str, *pruning: object) -> np.ndarray:
    """Validation errors of one way of pruning, in %; shape (seeds,).

    Args:
      rows: of the workload.
      workload: whose seeds are taken.
      phase: "pruned" or "retrained".
      *pruning: epoch, criterion, stages and step penalty.

    Raises:
      LookupError: a seed has no such row.
    """
    jobs = [at(workload, seed, *pruning) | {"phase": phase} for seed in workload.seeds]
    return _errors(rows_of(rows, jobs))


def error_gaps(rows: list[Row], workload: Workload, phase: str, *pruning: object) -> np.ndarray:
    """`errors` less the dense networks' own, in pp; shape (seeds,)."""
    dense = [dense_job(workload, seed) for seed in workload.seeds]
    return errors(rows, workload, phase, *pruning) - _errors(rows_of(rows, dense))


def _errors(rows: list[Row]) -> np.ndarray:
    return np.array([100 * (1 - row["validation_accuracy"]) for row in rows])


def random_cost(rows: list[Row], workload: Workload) -> float:
    """Mean validation accuracy that random pruning costs, in pp: the control of every claim."""
    return float(error_gaps(rows, workload, "pruned", "best", "random", 1, 0.0).mean())


def scale(values: np.ndarray) -> float:
    """Standard deviation over the seeds, pooled over the methods.

    sqrt(mean_m(Var_s(v))), with n - 1 in the variance

    Args:
      values: shape (seeds, methods), at least 2 seeds.
    """
    return math.sqrt(values.var(axis=0, ddof=1).mean())


def spread(values: np.ndarray, least_scale: float = 0.0) -> float:
    """How far apart methods lie, in standard deviations of a seed.

    SD_m(mean_s(v)) / max(scale(v), least_scale), with methods - 1 in SD_m

    Args:
      values: shape (seeds, methods), at least 2 of each.
      least_scale: keeps a resample that is one seed throughout from dividing by zero.

    Raises:
      ValueError: no method varies over the seeds.
    """
    between, within = float(values.mean(axis=0).std(ddof=1)), max(scale(values), least_scale)
    if not within:
        raise ValueError("no method varies over the seeds, so they have no unit to spread in")
    return between / within

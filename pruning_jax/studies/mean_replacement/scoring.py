"""The examples, statistics and scores of the mean-replacement study, and what they select."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from pruning_jax import criteria, curvature, data
from pruning_jax.lab.tables import Job
from pruning_jax.studies.mean_replacement.grid import masks_of
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Array, Batch, Params
from pruning_jax.units import UnitGraph

STATISTICS_CHUNK = 250


class Examples(NamedTuple):
    """A seed's examples, drawn once.

    Attributes:
      scoring: D_s, of the training split: for the scores, and for the means that are folded.
      evaluation: split -> examples for the penalties; of the training split none of D_s.
    """

    scoring: Batch
    evaluation: Mapping[str, Batch]


class Scored(NamedTuple):
    """One network's statistics over D_s, and each criterion's scores."""

    statistics: curvature.UnitStatistics
    scores: Mapping[str, Mapping[str, Array]]


def draw(workload: Workload, dataset: data.Dataset, seed: int) -> Examples:
    """The examples of a seed."""
    key, settings = workload.keys(seed).pruning, workload.settings
    scored, measured = settings["scoring_examples"], settings["evaluation_examples"]
    splits, evaluation = settings["evaluation_splits"], {}
    if "validation" in splits:
        own = jax.random.fold_in(key, 1)
        evaluation["validation"] = data.sample(own, dataset.validation, measured)
    count = scored + measured if "train" in splits else scored
    drawn = data.sample(jax.random.fold_in(key, 0), dataset.train, count)
    if "train" in splits:
        evaluation["train"] = jax.tree.map(lambda leaf: leaf[scored:], drawn)
    return Examples(jax.tree.map(lambda leaf: leaf[:scored], drawn), evaluation)


def score(
    workload: Workload,
    graph: UnitGraph,
    variables: Params,
    examples: Examples,
    *,
    seed: int,
    step: int,
) -> Scored:
    """Every criterion's scores of a network, from one pass over D_s.

    One mean of each unit, over all of D_s, serves both the scores and the folding.
    """
    batches = data.batches(examples.scoring, STATISTICS_CHUNK)
    statistics = curvature.unit_statistics(graph, variables, batches)
    key = jax.random.fold_in(jax.random.fold_in(workload.keys(seed).pruning, 2), step)
    return Scored(
        statistics,
        {
            name: criteria.unit_scores(name, graph, variables, statistics=statistics, key=key)
            for name in workload.settings["criteria"]
        },
    )


def selected(
    workload: Workload, graph: UnitGraph, scored: Scored, layers: str, fraction: float | str
) -> dict[str, list[int]]:
    """The numbers of the units that every criterion removes of one layer."""
    found = {}
    for name, scores in scored.scores.items():
        (mask,) = masks_of(workload, graph, scores, layers, fraction).values()
        found[name] = np.flatnonzero(~np.asarray(mask)).tolist()
    return found


def activations(
    workload: Workload, graph: UnitGraph, scored: Scored, job: Job
) -> tuple[list[float], dict[str, list[int]]]:
    """The mean squared activation of every unit of a layer, and those that are removed."""
    chosen = selected(workload, graph, scored, job["layers"], job["fraction"])
    (layer,) = workload.settings["layers"][job["layers"]]
    return np.asarray(scored.statistics.mean_square[graph[layer].name]).tolist(), chosen

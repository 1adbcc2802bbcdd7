"""Fine-tuning in the mean-replacement study: what is left of the penalty after some steps."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax

from pruning_jax import data, evaluation, replacement, training, units
from pruning_jax.lab import replicates
from pruning_jax.lab.jobs import Lab, fill
from pruning_jax.lab.records import Record
from pruning_jax.lab.tables import Job, name
from pruning_jax.studies.mean_replacement import grid, scoring
from pruning_jax.studies.mean_replacement.scoring import Examples, Scored
from pruning_jax.studies.networks import dense_job
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Params
from pruning_jax.units import UnitGraph


class Probed(NamedTuple):
    """A probed network, from which fine-tuning runs start, and what is known of it."""

    graph: UnitGraph
    variables: Params
    dataset: data.Dataset
    examples: Examples
    scored: Scored


def fine_tune(lab: Lab, workload: Workload) -> None:
    """Prunes probed networks with and without replacement, and trains each for some steps.

    Every run has a fresh optimiser, keeps its removed units at zero, and of one seed and probe all
    take the same batches in the same order. They train together, as many as the devices allow.
    """

    def measure(left: list[Job]) -> Iterator[list[Record]]:
        for (seed, step), jobs in itertools.groupby(left, lambda job: (job["seed"], job["step"])):
            network = load(lab, workload, seed, step)
            before = _losses_of(workload, network.variables, network.examples)
            runs = [list(run) for _, run in itertools.groupby(jobs, _without_split)]
            for group in replicates.groups(runs, functools.partial(_memory, workload, network)):
                found = train(lab, workload, network, [run[0] for run in group])
                yield [
                    {"penalty": _penalty(after, before, job["split"])}
                    for run, after in zip(group, found, strict=True)
                    for job in run
                ]

    places = itertools.product(workload.seeds, workload.settings["fine_tuning"]["probes"])
    asked = (job for place in places for job in grid.fine_tuned_jobs(workload, *place))
    fill(lab, asked, measure)


def _without_split(job: Job) -> Job:
    return {name: value for name, value in job.items() if name != "split"}


def load(lab: Lab, workload: Workload, seed: int, step: int) -> Probed:
    """The network of a probe, scored as it was then."""
    graph, dataset = grid.graph_of(workload), workload.load(seed)
    variables = lab.kept(dense_job(workload, seed, step=step))
    examples = scoring.draw(workload, dataset, seed)
    scored = scoring.score(workload, graph, variables, examples, seed=seed, step=step)
    return Probed(graph, variables, dataset, examples, scored)


def train(
    lab: Lab, workload: Workload, network: Probed, of: list[Job]
) -> list[dict[int, dict[str, float]]]:
    """Trains a group of runs; of each, steps -> the loss on each split; pruned alone at 0 steps."""
    stops, found = workload.settings["fine_tuning"]["steps"], [{} for _ in of]
    state = replicates.stack([_start(workload, network, job).state for job in of])
    trained_on, evaluated_on = (
        replicates.stack_on_host([examples] * len(of))
        for examples in (network.dataset.train, network.examples.evaluation)
    )

    def measure(count: int, state: training.TrainState) -> None:
        apply_fn, variables = workload.pretraining.apply_fn, state.variables
        for split, batch in evaluated_on.items():
            after = evaluation.evaluate(apply_fn, variables, batch, replicated=True).loss
            for one, loss in zip(found, after, strict=True):
                one.setdefault(count, {})[split] = float(loss)

    def call(count: int, state: training.TrainState) -> None:
        if count in stops:
            measure(count, state)
        lab.check(f"{name(of[0])}: step {count}/{max(stops)}")

    measure(0, state)
    pause = training.Pause(math.gcd(*stops), call)
    training.take_steps(state, trained_on, max(stops), task=_task(workload), pause=pause)
    return found


def _task(workload: Workload) -> training.Task:
    return workload.pretraining._replace(recipe=workload.retraining.recipe)


def _start(workload: Workload, network: Probed, job: Job) -> training.Progress:
    """A pruned network before its first step."""
    graph, variables = network.graph, network.variables
    scores = network.scored.scores[job["criterion"]]
    unit_masks = grid.masks_of(workload, graph, scores, job["layers"], job["fraction"])
    if job["replacement"] == "mean":
        means = network.scored.statistics.means
        pruned = replacement.fold_means(graph, variables, means, unit_masks).variables
    else:
        pruned = units.apply_masks(graph, variables, unit_masks)
    kept = units.parameter_masks(graph, variables, unit_masks)["params"]
    key = jax.random.fold_in(workload.keys(job["seed"]).retraining, job["step"])
    return training.start(_task(workload), pruned, key, workload.examples, kept)


def _memory(workload: Workload, network: Probed, run: list[Job]) -> int | None:
    """The bytes of a device's memory that a run takes."""
    start, examples = _start(workload, network, run[0]), network.dataset.train
    return training.memory(start, examples, network.examples.evaluation, task=_task(workload))


def _losses_of(workload: Workload, variables: Params, examples: Examples) -> dict[str, float]:
    """The loss on each split."""
    apply_fn = workload.pretraining.apply_fn
    return {
        split: float(evaluation.evaluate(apply_fn, variables, batch).loss)
        for split, batch in examples.evaluation.items()
    }


def _penalty(
    losses: dict[int, dict[str, float]], before: dict[str, float], split: str
) -> dict[str, float]:
    return {str(count): found[split] - before[split] for count, found in losses.items()}

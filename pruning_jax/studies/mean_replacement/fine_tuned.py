"""Fine-tuning in the mean-replacement study: what is left of the penalty after some steps."""

import functools
import itertools
import math
from typing import NamedTuple

import jax

from pruning_jax import evaluation, replacement, training, units
from pruning_jax.lab import replicates
from pruning_jax.studies.mean_replacement import grid, scoring
from pruning_jax.studies.mean_replacement.scoring import Examples, Scored
from pruning_jax.studies.phases import Row, Session, describe, pending, record
from pruning_jax.studies.pretrained import Dense, load_dense
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Params
from pruning_jax.units import UnitGraph


class Probed(NamedTuple):
    """A probed network, from which fine-tuning runs start, and what is known of it."""

    graph: UnitGraph
    dense: Dense
    examples: Examples
    scored: Scored


def fine_tune(session: Session, workload: Workload) -> None:
    """Prunes probed networks with and without replacement, and trains each for some steps.

    Every run has a fresh optimiser, keeps its removed units at zero, and of one seed and probe all
    take the same batches in the same order. They train together, as many as the devices allow.
    """
    probes = workload.settings["fine_tuning"]["probes"]
    of_a_run = len(workload.settings["evaluation_splits"])
    for seed, step in itertools.product(workload.seeds, probes):
        asked = list(grid.fine_tuned_units(workload, seed, step))
        left = pending(session.run, asked)
        if not left:
            continue
        runs = [asked[first : first + of_a_run] for first in range(0, len(asked), of_a_run)]
        runs = [run for run in runs if any(unit in left for unit in run)]
        network = load(session, workload, seed, step)
        before = _losses_of(workload, network.dense.variables, network.examples)
        for group in replicates.groups(runs, functools.partial(_memory, workload, network)):
            found = train(session, workload, network, [run[0] for run in group])
            rows = [
                [unit | {"penalty": _penalty(after, before, unit["split"])} for unit in run]
                for run, after in zip(group, found, strict=True)
            ]
            record(session.run, sum(rows, []), sum(group, []))
            for run, measured in zip(group, rows, strict=True):
                done = asked.index(run[-1]) + 1
                session.tell(describe(run[0]), done, len(asked), measured[0]["penalty"])


def load(session: Session, workload: Workload, seed: int, step: int) -> Probed:
    """The network of a probe, scored as it was then."""
    graph, dense = grid.graph_of(workload), load_dense(session, workload, seed, step=step)
    examples = scoring.draw(workload, dense.dataset, seed)
    scored = scoring.score(workload, graph, dense.variables, examples, seed=seed, step=step)
    return Probed(graph, dense, examples, scored)


def train(
    session: Session, workload: Workload, network: Probed, of: list[Row]
) -> list[dict[int, dict[str, float]]]:
    """Trains a group of runs; of each, steps -> the loss on each split; pruned alone at 0 steps."""
    stops, found = workload.settings["fine_tuning"]["steps"], [{} for _ in of]
    state = replicates.stack([_start(workload, network, unit).state for unit in of])
    trained_on, evaluated_on = (
        replicates.stack_on_host([examples] * len(of))
        for examples in (network.dense.dataset.train, network.examples.evaluation)
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
        session.check(f"{describe(of[0])}: step {count}/{max(stops)}")

    measure(0, state)
    pause = training.Pause(math.gcd(*stops), call)
    training.take_steps(state, trained_on, max(stops), task=_task(workload), pause=pause)
    return found


def _task(workload: Workload) -> training.Task:
    return workload.pretraining._replace(recipe=workload.retraining.recipe)


def _start(workload: Workload, network: Probed, unit: Row) -> training.Progress:
    """A pruned network before its first step."""
    graph, dense, _, scored = network
    scores = scored.scores[unit["criterion"]]
    unit_masks = grid.masks_of(workload, graph, scores, unit["layers"], unit["fraction"])
    if unit["replacement"] == "mean":
        means = scored.statistics.means
        variables = replacement.fold_means(graph, dense.variables, means, unit_masks).variables
    else:
        variables = units.apply_masks(graph, dense.variables, unit_masks)
    kept = units.parameter_masks(graph, dense.variables, unit_masks)["params"]
    key = jax.random.fold_in(workload.keys(unit["seed"]).retraining, unit["step"])
    return training.start(_task(workload), variables, key, workload.examples, kept)


def _memory(workload: Workload, network: Probed, run: list[Row]) -> int | None:
    """The bytes of a device's memory that a run takes."""
    start, examples = _start(workload, network, run[0]), network.dense.dataset.train
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

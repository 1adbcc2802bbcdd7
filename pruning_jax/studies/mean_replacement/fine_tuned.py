"""Fine-tuning in the mean-replacement study: what is left of the penalty after some steps."""

import itertools
import math

import jax

from pruning_jax import evaluation, replacement, replicates, training, units
from pruning_jax.studies.mean_replacement import grid, scoring
from pruning_jax.studies.mean_replacement.scoring import Examples, Scored
from pruning_jax.studies.phases import Row, Session, describe, pending, record
from pruning_jax.studies.pretrained import Dense, load_dense
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Batch, Params
from pruning_jax.units import UnitGraph


def fine_tune(session: Session, workload: Workload) -> None:
    """Prunes probed networks with and without replacement, and trains each for some steps.

    Every run has a fresh optimiser, keeps its removed units at zero, and of one seed and probe all
    take the same batches in the same order.
    """
    graph, probes = grid.graph_of(workload), workload.settings["fine_tuning"]["probes"]
    for seed, step in itertools.product(workload.seeds, probes):
        asked = list(grid.fine_tuned_units(workload, seed, step))
        left = pending(session.run, asked)
        if not left:
            continue
        dense = load_dense(session, workload, seed, step=step)
        examples = scoring.draw(workload, dense.dataset, seed)
        scored = scoring.score(workload, graph, dense.variables, examples, seed=seed, step=step)
        train = replicates.stack([dense.dataset.train])
        before = _losses_of(workload, dense.variables, examples)
        of_a_run = len(workload.settings["evaluation_splits"])
        for first in range(0, len(asked), of_a_run):
            run = asked[first : first + of_a_run]
            if not any(unit in left for unit in run):
                continue
            losses = _losses(session, workload, graph, dense, examples, scored, train, run[0])
            rows = [unit | {"penalty": _penalty(losses, before, unit["split"])} for unit in run]
            record(session.run, rows, run)
            session.tell(describe(run[0]), first + of_a_run, len(asked), rows[0]["penalty"])


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


def _losses(
    session: Session,
    workload: Workload,
    graph: UnitGraph,
    dense: Dense,
    examples: Examples,
    scored: Scored,
    train: Batch,
    unit: Row,
) -> dict[int, dict[str, float]]:
    """Steps of fine-tuning -> the loss on each split; pruned alone at 0 steps."""
    scores = scored.scores[unit["criterion"]]
    unit_masks = grid.masks_of(workload, graph, scores, unit["layers"], unit["fraction"])
    if unit["replacement"] == "mean":
        means = scored.statistics.means
        variables = replacement.fold_means(graph, dense.variables, means, unit_masks)
    else:
        variables = units.remove(graph, dense.variables, unit_masks)
    kept = units.parameter_masks(graph, dense.variables, unit_masks)["params"]
    key = jax.random.fold_in(workload.keys(unit["seed"]).retraining, unit["step"])
    task = workload.pretraining._replace(recipe=workload.retraining.recipe)
    start = training.start(task, variables, key, workload.examples, kept)
    stops = workload.settings["fine_tuning"]["steps"]
    losses = {0: _losses_of(workload, variables, examples)}

    def call(count: int, state: training.TrainState) -> None:
        if count in stops:
            (one,) = replicates.unstack(state)
            losses[count] = _losses_of(workload, one.variables, examples)
        session.check(f"{describe(unit)}: step {count}/{max(stops)}")

    training.take_steps(
        replicates.stack([start.state]),
        train,
        max(stops),
        task=task,
        pause=training.Pause(math.gcd(*stops), call),
    )
    return losses

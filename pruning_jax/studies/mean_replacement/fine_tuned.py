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
from pruning_jax.types import Batch
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
        before = _loss(workload, dense.variables, examples)
        for unit in left:
            losses = _losses(workload, graph, dense, examples, scored, train, unit)
            found = {str(count): loss - before for count, loss in losses.items()}
            record(session.run, [unit | {"penalty": found}], [unit])
            session.report(describe(unit), asked.index(unit) + 1, len(asked), found)


def _loss(workload: Workload, variables, examples: Examples) -> float:
    apply_fn = workload.pretraining.apply_fn
    return float(evaluation.evaluate(apply_fn, variables, examples.evaluation).loss)


def _losses(
    workload: Workload,
    graph: UnitGraph,
    dense: Dense,
    examples: Examples,
    scored: Scored,
    train: Batch,
    unit: Row,
) -> dict[int, float]:
    """Steps of fine-tuning -> the loss on the evaluation examples; pruned alone at 0 steps."""
    scores = scored.scores[unit["criterion"]]
    unit_masks = grid.masks_of(workload, graph, scores, unit["layers"], unit["fraction"])
    if unit["replacement"] == "mean":
        means = scored.statistics.means
        variables = replacement.fold_means(graph, dense.variables, means, unit_masks)
    else:
        variables = units.remove(graph, dense.variables, unit_masks)
    kept = units.parameter_masks(graph, dense.variables, unit_masks)["params"]
    key = jax.random.fold_in(workload.keys(unit["seed"]).retraining, unit["step"])
    start = training.start(workload.retraining, variables, key, workload.examples, kept)
    stops = workload.settings["fine_tuning"]["steps"]
    losses = {0: _loss(workload, variables, examples)}

    def call(count: int, state: training.TrainState) -> None:
        if count in stops:
            (one,) = replicates.unstack(state)
            losses[count] = _loss(workload, one.variables, examples)

    training.take_steps(
        replicates.stack([start.state]),
        train,
        max(stops),
        task=workload.retraining,
        pause=training.Pause(math.gcd(*stops), call),
    )
    return losses

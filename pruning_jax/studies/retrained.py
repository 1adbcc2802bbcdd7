"""The third phase of a study: pruned networks, trained again under their masks."""

import functools
from collections.abc import Iterable

from pruning_jax import data, retraining
from pruning_jax.studies import groups
from pruning_jax.studies.phases import Row, Session, pending
from pruning_jax.studies.pretrained import load_dense, rewound_epoch
from pruning_jax.studies.pruned import Pruned, counted, load_pruned
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Params


def retrain(session: Session, workload: Workload, units: Iterable[Row]) -> None:
    """Trains pruned networks under their masks and keeps each at its best validation accuracy.

    Args:
      session: where to.
      workload: whose retraining plan is followed.
      units: of pruned networks that were kept; their rows here have ``phase="retrained"``.
    """
    units = [unit | {"phase": "retrained"} for unit in units]

    def begin(unit: Row, dataset: data.Dataset) -> groups.Begun:
        network = load_pruned(session, unit)
        task, start = retraining.begin(
            workload.retraining,
            workload.pretraining,
            _history(session, workload, unit, network, dataset),
            network.masks["params"],
            key=workload.keys(unit["seed"]).retraining,
            examples=workload.examples,
        )
        return groups.Begun(task, start, counted(network))

    finish = functools.partial(groups.keep_best, session.run, workload)
    groups.train(session, pending(session.run, units), workload.load, begin, finish)


def _history(
    session: Session, workload: Workload, unit: Row, network: Pruned, dataset: data.Dataset
) -> dict[int, Params]:
    """The weights that a retraining may begin with, by the steps of pretraining behind them."""
    recipe, epoch = workload.pretraining.recipe, rewound_epoch(workload)
    steps = workload.examples // recipe.batch_size
    history = {recipe.epochs * steps: network.variables}
    if epoch == 0:
        history[0] = workload.initial(unit["seed"], dataset)
    elif epoch is not None:
        history[epoch * steps] = load_dense(session, workload, unit["seed"], epoch).variables
    return history

"""The third phase of a study: pruned networks, trained again under their masks."""

from collections.abc import Iterable

from pruning_jax import replicates, training
from pruning_jax.studies.phases import Row, Session, finish, pending, train_units
from pruning_jax.studies.pruned import counted, load_pruned
from pruning_jax.studies.workloads import Workload


def retrain(session: Session, workload: Workload, units: Iterable[Row]) -> None:
    """Trains pruned networks under their masks and keeps each at its best validation accuracy.

    Args:
      session: where to.
      workload: whose retraining task is followed.
      units: of pruned networks that were kept; their rows here have ``phase="retrained"``.
    """
    units = [unit | {"phase": "retrained"} for unit in units]
    for group in replicates.groups(pending(session.run, units)):
        networks = [load_pruned(session, unit) for unit in group]
        datasets = [workload.load(unit["seed"]) for unit in group]
        starts = [
            training.start(
                workload.retraining,
                network.variables,
                workload.keys(unit["seed"]).retraining,
                dataset.train.labels.shape[0],
                network.masks["params"],
            )
            for unit, network, dataset in zip(group, networks, datasets, strict=True)
        ]
        ended = train_units(session, workload.retraining, group, starts, datasets)
        columns = [counted(network) for network in networks]
        finish(session.run, workload, group, ended, datasets, columns)

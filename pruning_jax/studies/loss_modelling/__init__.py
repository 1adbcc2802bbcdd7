"""Revisiting Loss Modelling for Unstructured Pruning (S3): the phases of the study."""

from collections.abc import Mapping
from typing import Any

from pruning_jax import choices, figures
from pruning_jax.analysis.claims import to_dict
from pruning_jax.studies import workloads
from pruning_jax.studies.loss_modelling.claims import decide
from pruning_jax.studies.loss_modelling.published import PUBLISHED
from pruning_jax.studies.loss_modelling.units import selected_units, test_units, tuning_units
from pruning_jax.studies.phases import Session
from pruning_jax.studies.pretrained import pretrain
from pruning_jax.studies.pruned import prune
from pruning_jax.studies.retrained import retrain
from pruning_jax.studies.workloads import Workload


def build(config: Mapping[str, Any]) -> list[Workload]:
    """The study's workloads; raises `ValueError` for a config that it cannot run."""
    built = workloads.build_all(config)
    for workload in built:
        settings = workload.settings
        stages = (*settings["stages"], *settings["early_stages"])
        workloads.check_pruning(workload, [settings["sparsity"]], stages)
        epochs = workload.pretraining.recipe.epochs
        for epoch in settings["early_epochs"]:
            if choices.whole("an early epoch", epoch, "epoch") > epochs:
                raise ValueError(f"early_epochs has {epoch}; training has {epochs} epochs")
        tuning = workloads.checked_seeds(settings["tuning_seeds"])
        if set(tuning) & set(workload.seeds):
            raise ValueError(f"tuning_seeds {tuning} share a seed with seeds {workload.seeds}")
    return built


def run(built: list[Workload], session: Session) -> None:
    """Pretrains, prunes over the grid, retrains, and decides claims L1 to L5.

    Step penalties and stages are selected on the tuning seeds alone; a claim counts the others.
    """
    for workload in built:
        settings = workload.settings
        seeds = (*workload.seeds, *settings["tuning_seeds"])
        pretrain(session, workload, seeds, tuple(settings["early_epochs"]))
        prune(session, workload, tuning_units(workload))
        rows = session.run.rows()
        prune(session, workload, test_units(workload, rows), selected_units(workload, rows))
        conclude(built, session)
    for workload in built:
        retrain(session, workload, selected_units(workload, session.run.rows()))
        conclude(built, session)


def conclude(built: list[Workload], session: Session) -> None:
    """Writes the claims and the figures that the rows so far give."""
    rows = session.run.rows()
    decided = [c for workload in built for c in decide(rows, workload)]
    session.run.write_claims([to_dict(claim) for claim in decided])
    drawn = figures.loss_modelling(
        rows,
        published=PUBLISHED,
        tuning_seeds={workload.name: workload.settings["tuning_seeds"] for workload in built},
    )
    for name, figure in drawn.items():
        session.run.save_figure(figure, name)

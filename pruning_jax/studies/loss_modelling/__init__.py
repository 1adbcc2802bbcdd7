"""Revisiting Loss Modelling for Unstructured Pruning (S3): the phases of the study."""

from collections.abc import Mapping
from typing import Any

from pruning_jax import choices, figures
from pruning_jax.analysis.claims import to_dict
from pruning_jax.lab.jobs import Lab
from pruning_jax.studies import workloads
from pruning_jax.studies.loss_modelling.claims import QUESTIONS, decide
from pruning_jax.studies.loss_modelling.prunings import selected_jobs, test_jobs, tuning_jobs
from pruning_jax.studies.loss_modelling.published import LABELS, PAPER, PUBLISHED
from pruning_jax.studies.networks import pretrain, prune, retrain
from pruning_jax.studies.workloads import Workload

SETTINGS = (
    "criteria",
    "retrained",
    "schedule",
    "scope",
    "sparsity",
    "stages",
    "step_penalties",
    "tuning_seeds",
    "statistics_examples",
    "early_stages",
    "early_epochs",
    "thresholds",
)


__all__ = ["LABELS", "PAPER", "QUESTIONS", "build", "conclude", "run"]


def build(config: Mapping[str, Any]) -> list[Workload]:
    """The study's workloads; raises `ValueError` for a config that it cannot run."""
    built = workloads.build_all(config)
    for workload in built:
        workloads.check_settings(workload, SETTINGS)
        settings = workload.settings
        if not all(settings[name] for name in ("stages", "step_penalties")):
            raise ValueError("stages and step_penalties need one value each, at least")
        for penalty in settings["step_penalties"]:
            choices.number("a step penalty", penalty)
        stages = (*settings["stages"], *settings["early_stages"])
        workloads.check_pruning(workload, [settings["sparsity"]], stages)
        epochs = workload.pretraining.recipe.epochs
        for epoch in settings["early_epochs"]:
            if choices.whole("an early epoch", epoch, "epoch") > epochs:
                raise ValueError(f"early_epochs has {epoch}; training has {epochs} epochs")
        given = settings["tuning_seeds"]
        tuning = workloads.checked_seeds(given) if given else ()
        if set(tuning) & set(workload.seeds):
            raise ValueError(f"tuning_seeds {tuning} share a seed with seeds {workload.seeds}")
    return built


def run(built: list[Workload], lab: Lab) -> None:
    """Pretrains, prunes over the grid, retrains, and decides claims L1 to L5.

    Step penalties and stages are selected on the tuning seeds alone; a claim counts the others.
    """
    for workload in built:
        settings = workload.settings
        seeds = (*workload.seeds, *settings["tuning_seeds"])
        pretrain(lab, workload, seeds, tuple(settings["early_epochs"]))
        prune(lab, workload, tuning_jobs(workload))
        rows = lab.run.rows()
        prune(lab, workload, test_jobs(workload, rows), selected_jobs(workload, rows))
        conclude(built, lab)
    for workload in built:
        retrain(lab, workload, selected_jobs(workload, lab.run.rows()))
        conclude(built, lab)


def conclude(built: list[Workload], lab: Lab) -> None:
    """Writes the claims and the figures that the rows so far give."""
    rows = lab.run.rows()
    decided = [c for workload in built for c in decide(rows, workload)]
    lab.run.write_claims([to_dict(claim) for claim in decided])
    drawn = figures.loss_modelling(
        rows,
        published=PUBLISHED,
        tuning_seeds={workload.name: workload.settings["tuning_seeds"] for workload in built},
    )
    for name, figure in drawn.items():
        lab.run.save_figure(figure, name)

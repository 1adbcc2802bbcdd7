"""Mean Replacement Pruning (S4): the phases of the study."""

from collections.abc import Mapping
from typing import Any

from pruning_jax import figures
from pruning_jax.analysis.claims import to_dict
from pruning_jax.lab.jobs import Lab
from pruning_jax.studies import workloads
from pruning_jax.studies.mean_replacement import grid
from pruning_jax.studies.mean_replacement.claims import LABELS, PAPER, QUESTIONS, decide
from pruning_jax.studies.mean_replacement.fine_tuned import fine_tune
from pruning_jax.studies.mean_replacement.probed import probe, watch
from pruning_jax.studies.networks import pretrain
from pruning_jax.studies.workloads import Workload

__all__ = ["LABELS", "PAPER", "QUESTIONS", "build", "conclude", "run"]


def build(config: Mapping[str, Any]) -> list[Workload]:
    """The study's workloads; raises `ValueError` for a config that it cannot run."""
    built = workloads.build_all(config)
    for workload in built:
        grid.check(workload)
    return built


def run(built: list[Workload], lab: Lab) -> None:
    """Trains, keeping networks to probe; probes them; fine-tunes some; decides M1 to M7."""
    for workload in built:
        pretrain(lab, workload, workload.seeds, visit=watch(lab, workload))
        probe(lab, workload)
        conclude(built, lab)
        fine_tune(lab, workload)
        conclude(built, lab)


def conclude(built: list[Workload], lab: Lab) -> None:
    """Writes the claims and the figures that the rows so far give."""
    rows = lab.run.rows()
    decided = [claim for workload in built for claim in decide(rows, workload)]
    lab.run.write_claims([to_dict(claim) for claim in decided])
    for name, figure in figures.mean_replacement(rows).items():
        lab.run.save_figure(figure, name)

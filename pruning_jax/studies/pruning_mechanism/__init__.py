"""An Empirical Study of a Pruning Mechanism (S0): the phases of the study."""

from collections.abc import Mapping
from typing import Any

from pruning_jax import figures, units
from pruning_jax.analysis.claims import to_dict
from pruning_jax.lab import replicates
from pruning_jax.lab.jobs import Lab
from pruning_jax.studies import workloads
from pruning_jax.studies.pruning_mechanism import arms, settings, surfaces, used
from pruning_jax.studies.pruning_mechanism.claims import BASIN, NETWORKS, decide
from pruning_jax.studies.pruning_mechanism.claims import QUESTIONS as _QUESTIONS
from pruning_jax.studies.pruning_mechanism.networks import Group
from pruning_jax.studies.pruning_mechanism.published import PAPER, PUBLISHED
from pruning_jax.studies.workloads import Workload

QUESTIONS, LABELS = _QUESTIONS | {"E6": BASIN}, NETWORKS

__all__ = ["LABELS", "PAPER", "QUESTIONS", "build", "conclude", "run"]


def build(config: Mapping[str, Any]) -> list[Workload]:
    """The study's workloads; raises `ValueError` for a config that it cannot run."""
    built = workloads.build_all(config)
    for workload in built:
        settings.check(workload)
    return built


def run(built: list[Workload], lab: Lab) -> None:
    """Trains the networks of every replicate and measures them; decides E1 to E7 and R6."""
    for workload in built:
        for seeds in replicates.groups(list(workload.seeds)):
            _replicates(lab, workload, tuple(seeds))
            conclude(built, lab)


def _replicates(lab: Lab, workload: Workload, seeds: tuple[int, ...]) -> None:
    datasets = [workload.load(seed) for seed in seeds]
    group = Group(workload, seeds, datasets, units.graph(workload.trace))
    own, shown = workload.settings, bool(set(seeds) & set(surfaces.shown(workload)))
    snapshots = shown or bool(own["during_training"]) or arms.rewinds_weights(workload)
    trained = arms.dense(lab, group, snapshots=snapshots)
    for density in own["sizes"].get("densities", ()):
        arms.small(lab, group, density, schedules=1)
    for density in own["one_shot"].get("densities", ()):
        arms.one_shot(lab, group, trained, density)
        arms.small(lab, group, density, schedules=2)
    for name, arm in own["arms"].items():
        for regime in arm["regimes"]:
            arms.cycles(lab, group, trained, name, regime, shown=shown)
    used.measure(lab, group)
    surfaces.measure(lab, group)


def conclude(built: list[Workload], lab: Lab) -> None:
    """Writes the claims and the figures that the rows so far give."""
    rows = lab.run.rows()
    decided = [claim for workload in built for claim in decide(rows, workload)]
    lab.run.write_claims([to_dict(claim) for claim in decided])
    for name, figure in figures.pruning_mechanism(rows, published=PUBLISHED).items():
        lab.run.save_figure(figure, name)

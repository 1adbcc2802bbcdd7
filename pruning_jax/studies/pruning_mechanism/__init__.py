"""An Empirical Study of a Pruning Mechanism (S0): dense, small and pruned networks, compared.

Of every seed a dense network W* is trained; small ones, of random masks, from scratch; networks
that are pruned in one shot; and those of arms, pruned and trained again in cycles. Utilities say
how they use their weights, and paths and planes what lies between them.
"""

from collections.abc import Mapping
from typing import Any

from pruning_jax import figures
from pruning_jax.lab import replicates
from pruning_jax.lab.jobs import Lab
from pruning_jax.studies import questions, workloads
from pruning_jax.studies.pruning_mechanism import asked, measures, networks
from pruning_jax.studies.pruning_mechanism.claims import LABELS, PAPER, PUBLISHED, QUESTIONS, decide
from pruning_jax.studies.pruning_mechanism.networks import Replicate
from pruning_jax.studies.workloads import Workload

__all__ = ["LABELS", "PAPER", "QUESTIONS", "build", "conclude", "decide", "run"]


def build(config: Mapping[str, Any]) -> list[Workload]:
    """The study's workloads; raises `ValueError` for a config that it cannot run."""
    built = workloads.build_all(config, asked.Settings)
    for workload in built:
        asked.check(workload)
    return built


def run(built: list[Workload], lab: Lab) -> None:
    """Trains the networks of every replicate and measures them; decides E1 to E7 and R6."""
    for workload in built:
        drawn = workload.seeds[: workload.settings.surfaces.seeds]
        for seeds in replicates.groups(list(workload.seeds)):
            group = [Replicate(lab, workload, seed, workload.load(seed)) for seed in seeds]
            for network in networks.every(workload, shown=not {*seeds}.isdisjoint(drawn)):
                networks.train(lab, group, network)
            for one in group:
                measures.use(one)
            for one in group:
                measures.surfaces(one, drawn=one.seed in drawn)
            conclude(built, lab)


def conclude(built: list[Workload], lab: Lab) -> None:
    """Writes the claims and the figures that the rows so far give."""
    rows = lab.run.rows()
    decided = [claim for workload in built for claim in decide(rows, workload)]
    questions.write(lab, decided, figures.pruning_mechanism(rows, published=PUBLISHED))

"""The probes of the mean-replacement study: every variant of a network in training, measured."""

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from pruning_jax.analysis import variants
from pruning_jax.analysis.variants import Measured
from pruning_jax.lab.jobs import Lab, fill, record
from pruning_jax.lab.records import Record
from pruning_jax.lab.tables import Job
from pruning_jax.lab.trainings import Visit
from pruning_jax.studies.mean_replacement import grid, regression, scoring
from pruning_jax.studies.mean_replacement.scoring import Examples, Scored
from pruning_jax.studies.networks import dense_job
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Batch, Params
from pruning_jax.units import UnitGraph


def watch(lab: Lab, workload: Workload) -> Visit:
    """What is done while networks train: selections recorded, networks to be probed kept."""
    graph, settings = grid.graph_of(workload), workload.settings
    probes = grid.probe_steps(workload)
    # Networks that train together are visited in turn.
    drawn = _drawn(workload, keep=len(workload.seeds))

    def call(dense: Job, step: int, variables: Params) -> None:
        seed = dense["seed"]
        if step in probes:
            lab.keep(dense_job(workload, seed, step=step), variables)
        job = grid.selected_job(workload, seed, step)
        if step % settings["selection_every"] or job in lab.run.table:
            return
        scored = scoring.score(workload, graph, variables, drawn(seed), seed=seed, step=step)
        chosen = scoring.selected(workload, graph, scored, job["layers"], job["fraction"])
        record(lab, [job], [{"units": chosen}])

    every = np.gcd(settings["probe_every"], settings["selection_every"])
    return Visit(int(every), call)


def probe(lab: Lab, workload: Workload) -> None:
    """Measures every probe's network and its variants; the last of a seed in more detail."""
    graph, steps = grid.graph_of(workload), grid.probe_steps(workload)
    drawn = _drawn(workload, keep=1)

    def measure(left: list[Job]) -> Iterator[list[Record]]:
        places = itertools.groupby(left, lambda job: (job["seed"], job.get("step", steps[-1])))
        for (seed, step), jobs in places:
            variables, examples = lab.kept(dense_job(workload, seed, step=step)), drawn(seed)
            scored = scoring.score(workload, graph, variables, examples, seed=seed, step=step)
            yield measured(workload, graph, variables, examples, scored, list(jobs))

    fill(lab, grid.jobs(workload), measure)


def _drawn(workload: Workload, keep: int) -> Callable[[int], Examples]:
    """The examples of a seed; those of the last seeds stay in memory."""

    @functools.lru_cache(maxsize=keep)
    def drawn(seed: int) -> Examples:
        return scoring.draw(workload, workload.load(seed), seed)

    return drawn


def measured(
    workload: Workload,
    graph: UnitGraph,
    variables: Params,
    examples: Examples,
    scored: Scored,
    jobs: list[Job],
) -> list[Record]:
    """What the jobs of one probe find: those of a split together, then the others."""
    found = []
    for split in workload.settings["evaluation_splits"]:
        asked = [job for job in jobs if job.get("split") == split]
        if asked:
            batch = examples.evaluation[split]
            found += _on_split(workload, graph, variables, batch, scored, asked)
    for job in jobs[len(found) :]:
        detail = _activations if job["phase"] == "activations" else _regression
        found.append(detail(workload, graph, variables, examples, scored))
    return found


def _on_split(
    workload: Workload,
    graph: UnitGraph,
    variables: Params,
    batch: Batch,
    scored: Scored,
    asked: list[Job],
) -> list[Record]:
    """What the jobs of one probe find on one split."""
    unit_masks = [
        {
            name: grid.masks_of(workload, graph, scores, job["layers"], job["fraction"])
            for name, scores in scored.scores.items()
        }
        for job in asked
    ]
    dense, measured_variants = variants.measure(
        graph,
        variables,
        batch,
        [masks for by_criterion in unit_masks for masks in by_criterion.values()],
        means=scored.statistics.means,
    )
    before = {"loss": float(dense.loss), "accuracy": float(dense.accuracy)}
    results, rows = iter(measured_variants), []
    for job, by_criterion in zip(asked, unit_masks, strict=True):
        costs = _costs({name: next(results) for name in by_criterion}, dense.loss)
        row = {"removed": _removed(job, by_criterion)} | before | costs
        names = grid.names_of(workload, graph, job["layers"])
        if len(names) == 1 and job["fraction"] == grid.SHOWN:
            row |= _shown(workload, graph, scored, job)
        rows.append(row)
    return rows


def _removed(job: Job, by_criterion: dict) -> dict[str, int]:
    """How many units each space loses, or all together where criteria differ in the space."""
    counts = [
        {name: int(np.sum(~np.asarray(mask))) for name, mask in masks.items()}
        for masks in by_criterion.values()
    ]
    if all(count == counts[0] for count in counts):
        return counts[0]
    return {job["layers"]: sum(counts[0].values())}


def _costs(by_criterion: dict[str, Measured], before: np.ndarray) -> Record:
    """Penalty and accuracy of every criterion's variants."""
    return {
        "penalty": {
            name: {kind: float(metrics.loss - before) for kind, metrics in both._asdict().items()}
            for name, both in by_criterion.items()
        },
        "pruned_accuracy": {
            name: {kind: float(metrics.accuracy) for kind, metrics in both._asdict().items()}
            for name, both in by_criterion.items()
        },
    }


def _shown(workload: Workload, graph: UnitGraph, scored: Scored, job: Job) -> Record:
    """The removed units of one layer, and their mean squared activation."""
    squares, chosen = scoring.activations(workload, graph, scored, job)
    return {
        "units": chosen,
        "mean_square": {
            name: float(np.mean([squares[number] for number in numbers]))
            for name, numbers in chosen.items()
            if numbers
        },
    }


def _activations(
    workload: Workload, graph: UnitGraph, variables: Params, examples: Examples, scored: Scored
) -> Record:
    job = grid.selected_job(workload, 0, 0)
    squares, chosen = scoring.activations(workload, graph, scored, job)
    return {"mean_square": squares, "units": chosen}


def _regression(
    workload: Workload, graph: UnitGraph, variables: Params, examples: Examples, scored: Scored
) -> Record:
    return {"relative_error": regression.relative_error(graph, variables, examples.scoring)}

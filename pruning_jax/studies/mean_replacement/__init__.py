"""Mean Replacement Pruning (S4): networks probed in training on copies without some units.

A probe scores a network by every criterion, removes units of every layer set at every fraction,
alone and with their means folded into what follows, and measures what each costs. Some are then
fine-tuned.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from pruning_jax import criteria, curvature, data, evaluation, figures, replacement, training, units
from pruning_jax.analysis import variants
from pruning_jax.lab import replicates
from pruning_jax.lab.jobs import Lab, fill, record
from pruning_jax.lab.records import Record
from pruning_jax.lab.tables import Job, name
from pruning_jax.lab.trainings import Visit
from pruning_jax.studies import questions, workloads
from pruning_jax.studies.mean_replacement import grid, regression
from pruning_jax.studies.mean_replacement.claims import LABELS, PAPER, QUESTIONS, decide
from pruning_jax.studies.networks import dense_job, pretrain
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Array, Batch, Params

__all__ = ["LABELS", "PAPER", "QUESTIONS", "build", "conclude", "decide", "run"]


def build(config: Mapping[str, Any]) -> list[Workload]:
    """The study's workloads; raises `ValueError` for a config that it cannot run."""
    built = workloads.build_all(config, grid.Settings)
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
    questions.write(lab, decided, figures.mean_replacement(rows))


CHUNK = 250
"""Examples at once in a pass for statistics."""


# A network in training: its examples, its scores, what is removed of it.


class Examples(NamedTuple):
    """A seed's examples, drawn once: D_s, and for each split those for the penalties."""

    scoring: Batch
    evaluation: Mapping[str, Batch]


class Scored(NamedTuple):
    """A network, its statistics over D_s, and each criterion's scores.

    One mean of each unit, over all of D_s, serves both the scores and the folding.
    """

    workload: Workload
    variables: Params
    examples: Examples
    statistics: curvature.UnitStatistics
    scores: Mapping[str, Mapping[str, Array]]

    def masks(self, job: Job) -> dict[str, dict[str, Array]]:
        """Each criterion's unit masks, at the layer set and fraction of a job."""
        place = job["layers"], job["fraction"]
        return {name: grid.masks_of(self.workload, of, *place) for name, of in self.scores.items()}

    def removed(self, job: Job) -> dict[str, list[int]]:
        """The numbers of the units that each criterion removes of one layer."""
        return {
            name: np.flatnonzero(~np.asarray(*masks.values())).tolist()
            for name, masks in self.masks(job).items()
        }

    def squares(self, job: Job) -> np.ndarray:
        """The mean squared activation of the units of one layer."""
        (name,) = grid.names_of(self.workload, job["layers"])
        return np.asarray(self.statistics.mean_square[name])


def draw(workload: Workload, seed: int) -> Examples:
    """The examples of a seed."""
    key, asked, dataset = workload.keys(seed).pruning, workload.settings, workload.load(seed)
    scored, measured = asked.scoring_examples, asked.evaluation_examples
    count = scored + measured * ("train" in asked.evaluation_splits)
    drawn = data.sample(jax.random.fold_in(key, 0), dataset.train, count)
    scoring, others = (
        jax.tree.map(lambda leaf, part=part: leaf[part], drawn)
        for part in (slice(scored), slice(scored, None))
    )
    evaluation = {"scored": scoring, "train": others}
    if "validation" in asked.evaluation_splits:
        own = jax.random.fold_in(key, 1)
        evaluation["validation"] = data.sample(own, dataset.validation, measured)
    return Examples(scoring, {split: evaluation[split] for split in asked.evaluation_splits})


def score(
    workload: Workload, variables: Params, examples: Examples, *, seed: int, step: int
) -> Scored:
    """Every criterion's scores of a network, from one pass over D_s."""
    graph, batches = grid.graph_of(workload), data.batches(examples.scoring, CHUNK)
    statistics = curvature.unit_statistics(graph, variables, batches)
    key = jax.random.fold_in(jax.random.fold_in(workload.keys(seed).pruning, 2), step)
    scores = {
        name: criteria.unit_scores(name, graph, variables, statistics=statistics, key=key)
        for name in workload.settings.criteria
    }
    return Scored(workload, variables, examples, statistics, scores)


def watch(lab: Lab, workload: Workload) -> Visit:
    """What is done while networks train: selections recorded, networks to be probed kept."""
    asked, probes = workload.settings, grid.probe_steps(workload)
    drawn = functools.cache(functools.partial(draw, workload))  # seeds are visited in turn

    def call(dense: Job, step: int, variables: Params) -> None:
        seed = dense["seed"]
        if step in probes:
            lab.keep(dense_job(workload, seed, step=step), variables)
        job = grid.selected_job(workload, seed, step)
        if step % asked.selection_every == 0 and job not in lab.run.table:
            scored = score(workload, variables, drawn(seed), seed=seed, step=step)
            record(lab, [job], [{"units": scored.removed(job)}])

    return Visit(math.gcd(asked.probe_every, asked.selection_every), call)


def _probed(
    lab: Lab, workload: Workload, jobs: Iterable[Job]
) -> Iterator[tuple[Scored, list[Job]]]:
    """Every probed network that jobs are of, scored as it was then, and its jobs."""
    drawn = functools.lru_cache(maxsize=1)(functools.partial(draw, workload))
    last = grid.probe_steps(workload)[-1]
    for (seed, step), own in itertools.groupby(
        jobs, lambda job: (job["seed"], job.get("step", last))
    ):
        variables = lab.kept(dense_job(workload, seed, step=step))
        yield score(workload, variables, drawn(seed), seed=seed, step=step), list(own)


def probe(lab: Lab, workload: Workload) -> None:
    """Measures every probe's network and its variants; the last of a seed in more detail."""

    def measure(left: list[Job]) -> Iterator[list[Record]]:
        for scored, jobs in _probed(lab, workload, left):
            found = []
            for split in workload.settings.evaluation_splits:
                own = [job for job in jobs if job.get("split") == split]
                found += _on_split(scored, split, own) if own else []
            yield found + [_detail(scored, job) for job in jobs[len(found) :]]

    fill(lab, grid.jobs(workload), measure)


def _detail(scored: Scored, job: Job) -> Record:
    if job["phase"] == "activations":
        return {"mean_square": scored.squares(job).tolist(), "units": scored.removed(job)}
    graph, batch = grid.graph_of(scored.workload), scored.examples.scoring
    return {"relative_error": regression.relative_error(graph, scored.variables, batch)}


def _on_split(scored: Scored, split: str, asked: list[Job]) -> list[Record]:
    """What the jobs of one probe find on one split."""
    masks = [scored.masks(job) for job in asked]
    dense, found = variants.measure(
        grid.graph_of(scored.workload),
        scored.variables,
        scored.examples.evaluation[split],
        [one for by_criterion in masks for one in by_criterion.values()],
        means=scored.statistics.means,
    )
    left, rows = iter(found), []
    for job, by_criterion in zip(asked, masks, strict=True):
        both = {name: next(left)._asdict().items() for name in by_criterion}
        row = {"removed": _counts(job, by_criterion)}
        row |= {"loss": float(dense.loss), "accuracy": float(dense.accuracy)}
        row["penalty"] = {
            name: {kind: float(after.loss - dense.loss) for kind, after in of}
            for name, of in both.items()
        }
        row["pruned_accuracy"] = {
            name: {kind: float(after.accuracy) for kind, after in of} for name, of in both.items()
        }
        alone = len(grid.names_of(scored.workload, job["layers"])) == 1
        if alone and job["fraction"] == grid.SHOWN:
            row["units"], squares = scored.removed(job), scored.squares(job).tolist()
            chosen = {name: [squares[n] for n in gone] for name, gone in row["units"].items()}
            row["mean_square"] = {name: float(np.mean(of)) for name, of in chosen.items() if of}
        rows.append(row)
    return rows


def _counts(job: Job, by_criterion: Mapping[str, Mapping[str, Array]]) -> dict[str, int]:
    """How many units each space loses, or all together where criteria differ in the space."""
    first, *others = (
        {name: int(np.sum(~np.asarray(mask))) for name, mask in masks.items()}
        for masks in by_criterion.values()
    )
    same = all(count == first for count in others)
    return first if same else {job["layers"]: sum(first.values())}


# Fine-tuning: what is left of the penalty after some steps.


def fine_tune(lab: Lab, workload: Workload) -> None:
    """Prunes probed networks and trains them together, as many as the devices allow."""

    def measure(left: list[Job]) -> Iterator[list[Record]]:
        for scored, jobs in _probed(lab, workload, left):
            train = workload.load(jobs[0]["seed"]).train
            before = _losses(workload, scored.variables, scored.examples.evaluation)
            runs = [[*run] for _, run in itertools.groupby(jobs, lambda j: j | {"split": None})]
            for group in replicates.groups(runs, functools.partial(_memory, scored, train)):
                found = tuned(lab, scored, train, [run[0] for run in group])
                pairs = [
                    (job["split"], own)
                    for run, own in zip(group, found, strict=True)
                    for job in run
                ]
                yield [
                    {"penalty": {str(n): of[split] - float(before[split]) for n, of in own.items()}}
                    for split, own in pairs
                ]

    fill(lab, grid.fine_tuned_jobs(workload), measure)


def tuned(
    lab: Lab, scored: Scored, train: Batch, runs: list[Job]
) -> list[dict[int, dict[str, float]]]:
    """Trains a group of runs; of each, steps -> the loss on each split; pruned alone at 0 steps."""
    stops, found = scored.workload.settings.fine_tuning.steps, [{} for _ in runs]
    state = replicates.stack([_start(scored, job).state for job in runs])
    trained_on, batches = (
        replicates.stack_on_host([examples] * len(runs))
        for examples in (train, scored.examples.evaluation)
    )

    def call(count: int, state: training.TrainState) -> None:
        if count in (0, *stops):
            losses = _losses(scored.workload, state.variables, batches, replicated=True)
            for place, one in enumerate(found):
                one[count] = {split: float(loss[place]) for split, loss in losses.items()}
        lab.check(f"{name(runs[0])}: step {count}/{max(stops)}")

    call(0, state)
    pause = training.Pause(math.gcd(*stops), call)
    training.take_steps(state, trained_on, max(stops), task=_task(scored), pause=pause)
    return found


def _task(scored: Scored) -> training.Task:
    return scored.workload.pretraining._replace(recipe=scored.workload.retraining.recipe)


def _start(scored: Scored, job: Job) -> training.Progress:
    """A pruned network before its first step."""
    workload, variables, graph = scored.workload, scored.variables, grid.graph_of(scored.workload)
    masks = grid.masks_of(workload, scored.scores[job["criterion"]], job["layers"], job["fraction"])
    if job["replacement"] == "mean":
        pruned = replacement.fold_means(graph, variables, scored.statistics.means, masks).variables
    else:
        pruned = units.apply_masks(graph, variables, masks)
    kept = units.parameter_masks(graph, variables, masks)["params"]
    key = jax.random.fold_in(workload.keys(job["seed"]).retraining, job["step"])
    return training.start(_task(scored), pruned, key, workload.examples, kept)


def _memory(scored: Scored, train: Batch, run: list[Job]) -> int | None:
    """The bytes of a device's memory that a run takes."""
    start, batches = _start(scored, run[0]), scored.examples.evaluation
    return training.memory(start, train, batches, task=_task(scored))


def _losses(
    workload: Workload, variables: Params, batches: Mapping[str, Batch], **how: bool
) -> dict[str, Any]:
    """The loss on each split."""
    loss = functools.partial(evaluation.evaluate, workload.pretraining.apply_fn, variables, **how)
    return {split: loss(batch).loss for split, batch in batches.items()}

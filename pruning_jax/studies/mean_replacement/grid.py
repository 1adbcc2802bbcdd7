"""What the mean-replacement study (S4) asks for: its settings, steps, layer sets and jobs."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np

from pruning_jax import choices, criteria, units
from pruning_jax.lab.tables import Job
from pruning_jax.studies import settings, workloads
from pruning_jax.studies.settings import Count, Counts, FewCounts, FewNames, Names, Number, setting
from pruning_jax.studies.workloads import Workload
from pruning_jax.types import Array
from pruning_jax.units import UnitGraph

ONE = "one"
"""The fraction that stands for a single unit."""

SHOWN = 0.1
"""The fraction of one layer at which rows name the removed units."""

SPLITS = {"scored": "D_s", "train": "training examples", "validation": "validation examples"}
"""Where penalties may be measured: on D_s, on training examples outside it, on held-out ones."""

FRACTION = settings.rule(
    f"{ONE!r}, or a share of a layer's units below 1",
    lambda of: of == ONE or (isinstance(of, float) and 0 <= of < 1),
)
Fractions = Annotated[tuple, settings.several(FRACTION)]
Criteria = Annotated[
    tuple[str, ...], settings.several(settings.one_of("criterion", criteria.UNIT_CRITERIA))
]
LayerSets = Annotated[
    Mapping[str, Any], settings.rule("a dict of layer sets", lambda of: isinstance(of, Mapping))
]
Splits = Annotated[tuple[str, ...], settings.several(settings.one_of("evaluation split", SPLITS))]


@setting
class Selection:
    """The layer and the fraction at which selections are followed along training."""

    layers: Annotated[str, settings.NAME]
    fraction: Annotated[Any, FRACTION]


@setting
class FineTuning:
    """Which probes' networks are fine-tuned, pruned how, and after which steps they are measured.

    With or without replacement, every run has a fresh optimiser and keeps its removed units at
    zero; of one seed and probe all take the same batches in the same order.
    """

    fractions: Fractions
    layers: Names
    criteria: Names
    steps: Counts
    probes: FewCounts


@setting
class Thresholds:
    """Of the claims; `put_later` names those put as they are after the rows were seen."""

    share_below: Number = 0.8  # of the settings whose difference is significant
    equal_area: Number = 0.05  # of a performance profile
    overlap: Number = 0.5  # Jaccard's, of the units that two criteria remove
    exact: Number = 1e-5  # relative error of a numeric minimum
    least_fraction: Number = 0.05  # of a layer's units, in profiles
    most_fraction: Number = 0.2  # in fine-tuning
    put_later: FewNames = ()


@setting
class Settings:
    """What the study asks for."""

    criteria: Criteria
    fractions: Fractions
    layers: LayerSets  # a layer set's name -> its layers, or "all"
    probed: FewNames  # the layer sets that probes measure; all if it is empty
    scoring_examples: Count  # D_s, of the training split: for the scores, and the means folded
    evaluation_examples: Count  # for the penalties; of the training split none of D_s
    evaluation_splits: Splits  # D_s decides where it is among them, or else the first
    probe_every: Count  # steps
    selection_every: Count  # steps
    selection: Selection
    fine_tuning: FineTuning
    thresholds: Thresholds


_graph = functools.lru_cache(maxsize=16)(units.graph)


def graph_of(workload: Workload) -> UnitGraph:
    """The units of a workload's network: one graph, as compiled programs belong to a graph."""
    return _graph(workload.trace)


def total_steps(workload: Workload) -> int:
    """The steps of training."""
    return workload.pretraining.recipe.epochs * workload.steps


def probe_steps(workload: Workload) -> range:
    """The steps after which networks are probed."""
    every = workload.settings.probe_every
    return range(every, total_steps(workload) + 1, every)


def names_of(workload: Workload, layers: str) -> tuple[str, ...]:
    """The unit spaces of a layer set; raises `ValueError` for a layer whose units must stay."""
    wanted, graph = workload.settings.layers[layers], graph_of(workload)
    if wanted == "all":
        return tuple(space.name for space in graph.prunable)
    for layer in wanted:
        if not graph[layer].prunable:
            names = ", ".join(other.name for other in graph.prunable)
            raise ValueError(
                f"layers.{layers} has {layer!r}, whose units are not prunable: "
                f"{graph[layer].reason}; prunable: {names}"
            )
    return tuple(dict.fromkeys(graph[layer].name for layer in wanted))


def masks_of(
    workload: Workload, scores: Mapping[str, Array], layers: str, fraction: float | str
) -> dict[str, Array]:
    """The unit masks of a layer set and a fraction: floor(f n) units of each layer, or one in all.

    Where one unit is taken of several layers, the scores of each are divided by their norm.
    """
    scores = {name: scores[name] for name in names_of(workload, layers)}
    if fraction == ONE:
        return units.from_scores(scores, count=1, scope="global", normalise=True)
    return units.from_scores(scores, fraction)


def probed_jobs(workload: Workload, seed: int, step: int) -> Iterator[Job]:
    """The measurements of one probe: its layer sets at every fraction, on every split."""
    asked = workload.settings
    job = {"phase": "probed", "workload": workload.name, "seed": seed, "step": step}
    for split, layers, fraction in itertools.product(
        asked.evaluation_splits, asked.probed or asked.layers, asked.fractions
    ):
        yield job | {"split": split, "layers": layers, "fraction": fraction}


def selected_job(workload: Workload, seed: int, step: int, phase: str = "selected") -> Job:
    """The units that every criterion would remove, at the layer and fraction of `selection`."""
    job = {"phase": phase, "workload": workload.name, "seed": seed, "step": step}
    return job | vars(workload.settings.selection)


def jobs(workload: Workload) -> Iterator[Job]:
    """The measurements of all probes, seed by seed; the last probe of a seed has two more."""
    for seed in workload.seeds:
        for step in probe_steps(workload):
            yield from probed_jobs(workload, seed, step)
        yield selected_job(workload, seed, step, "activations")
        yield {"phase": "linear_regression", "workload": workload.name, "seed": seed}


def fine_tuned_jobs(workload: Workload) -> Iterator[Job]:
    """The measurements of fine-tuning runs; those of one run, on every split, follow each other."""
    tuning, splits = workload.settings.fine_tuning, workload.settings.evaluation_splits
    columns = ("seed", "step", "layers", "fraction", "criterion", "replacement", "split")
    pruned = tuning.layers, tuning.fractions, tuning.criteria, ("zero", "mean"), splits
    for values in itertools.product(workload.seeds, tuning.probes, *pruned):
        job = {"phase": "fine_tuned", "workload": workload.name}
        yield job | dict(zip(columns, values, strict=True))


def check(workload: Workload) -> None:
    asked, tuning, total = workload.settings, workload.settings.fine_tuning, total_steps(workload)
    held_out = len(workload.load(workload.seeds[0]).validation.labels)
    scored, measured = asked.scoring_examples, asked.evaluation_examples
    workloads.check_examples(workload, "scoring_examples", scored)
    left = {"scored": measured, "train": workload.examples - scored, "validation": held_out}
    most = min(left[split] for split in asked.evaluation_splits)
    if measured > most:
        raise ValueError(
            f"evaluation_examples is {measured}; it must be from 1 to the {most} examples of "
            f"{', '.join(asked.evaluation_splits)} that are not scored with"
        )
    zeros = {space.name: np.zeros(space.size, np.float32) for space in graph_of(workload).prunable}
    fractions = {*asked.fractions, *tuning.fractions, asked.selection.fraction}
    for layers, fraction in itertools.product(asked.layers, fractions):
        masks_of(workload, zeros, layers, fraction)
    for layers in (*tuning.layers, asked.selection.layers, *asked.probed):
        choices.check("layer set", layers, asked.layers)
    for criterion in tuning.criteria:
        choices.check("criterion of fine_tuning", criterion, asked.criteria)
    if len(names_of(workload, asked.selection.layers)) != 1:
        layers = asked.selection.layers
        raise ValueError(f"selection.layers is {layers!r}, which names several layers; give one")
    for field in ("probe_every", "selection_every"):
        if getattr(asked, field) > total:
            every = getattr(asked, field)
            raise ValueError(f"{field} is {every}; it must be from 1 to the {total} of training")
    probes = probe_steps(workload)
    for step in tuning.probes:
        if step not in probes:
            nearest = min(probes, key=lambda probe: abs(probe - step))
            raise ValueError(
                f"fine_tuning.probes has {step}, where no network is probed; the nearest probe is "
                f"at {nearest}"
            )

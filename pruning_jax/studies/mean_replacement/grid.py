"""What the mean-replacement study (S4) asks for: steps, layer sets, fractions, unit masks."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pruning_jax import choices, criteria, units
from pruning_jax.measurements import Row
from pruning_jax.studies.workloads import Workload, check_settings
from pruning_jax.types import Array
from pruning_jax.units import UnitGraph

ONE = "one"
"""The fraction that stands for a single unit."""

SPLITS = ("train", "validation")
"""Where penalties may be measured: on training examples outside D_s, on held-out ones."""

SHOWN = 0.1
"""The fraction of one layer at which rows name the removed units."""


_graph = functools.lru_cache(maxsize=16)(units.graph)


def graph_of(workload: Workload) -> UnitGraph:
    """The units of a workload's network: one graph, as compiled programs belong to a graph."""
    return _graph(workload.trace)


def total_steps(workload: Workload) -> int:
    """The steps of training."""
    recipe = workload.pretraining.recipe
    return recipe.epochs * (workload.examples // recipe.batch_size)


def probe_steps(workload: Workload) -> range:
    """The steps after which networks are probed."""
    every = workload.settings["probe_every"]
    return range(every, total_steps(workload) + 1, every)


def names_of(workload: Workload, graph: UnitGraph, layers: str) -> tuple[str, ...]:
    """The unit spaces of a layer set; raises `ValueError` for a layer whose units must stay."""
    wanted = workload.settings["layers"][layers]
    if wanted == "all":
        return tuple(space.name for space in graph.prunable)
    spaces = [graph[layer] for layer in wanted]
    for layer, space in zip(wanted, spaces, strict=True):
        if not space.prunable:
            names = ", ".join(other.name for other in graph.prunable)
            raise ValueError(
                f"layers.{layers} has {layer!r}, whose units are not prunable: {space.reason}; "
                f"prunable: {names}"
            )
    return tuple(dict.fromkeys(space.name for space in spaces))


def masks_of(
    workload: Workload,
    graph: UnitGraph,
    scores: Mapping[str, Array],
    layers: str,
    fraction: float | str,
) -> dict[str, Array]:
    """The unit masks of a layer set and a fraction: floor(f n) units of each layer, or one in all.

    Where one unit is taken of several layers, the scores of each are divided by their norm.
    """
    scores = {name: scores[name] for name in names_of(workload, graph, layers)}
    if fraction == ONE:
        return units.from_scores(scores, count=1, scope="global", normalise=True)
    return units.from_scores(scores, fraction)


def probed_layers(workload: Workload) -> tuple[str, ...]:
    """The layer sets that probes measure: those that `probed` names, or all if it is empty."""
    return tuple(workload.settings.get("probed", ())) or tuple(workload.settings["layers"])


def probed_jobs(workload: Workload, seed: int, step: int) -> Iterator[Row]:
    """The measurements of one probe: its layer sets at every fraction, on every split."""
    settings = workload.settings
    names = ("split", "layers", "fraction")
    for values in itertools.product(
        settings["evaluation_splits"], probed_layers(workload), settings["fractions"]
    ):
        job = {"phase": "probed", "workload": workload.name, "seed": seed, "step": step}
        yield job | dict(zip(names, values, strict=True))


def jobs(workload: Workload) -> Iterator[Row]:
    """The measurements of all probes, seed by seed; the last probe of a seed has two more."""
    for seed in workload.seeds:
        for step in probe_steps(workload):
            yield from probed_jobs(workload, seed, step)
        yield selected_job(workload, seed, step, "activations")
        yield {"phase": "linear_regression", "workload": workload.name, "seed": seed}


def selected_job(workload: Workload, seed: int, step: int, phase: str = "selected") -> Row:
    """The units that every criterion would remove, at the layer and fraction of `selection`."""
    selection = workload.settings["selection"]
    return {
        "phase": phase,
        "workload": workload.name,
        "seed": seed,
        "step": step,
        "layers": selection["layers"],
        "fraction": selection["fraction"],
    }


def fine_tuned_jobs(workload: Workload, seed: int, step: int) -> Iterator[Row]:
    """The measurements of the fine-tuning runs that start from one probe's network.

    Those of one run, on every split, follow each other.
    """
    settings = workload.settings["fine_tuning"]
    names = ("layers", "fraction", "criterion", "replacement", "split")
    for values in itertools.product(
        settings["layers"],
        settings["fractions"],
        settings["criteria"],
        ("zero", "mean"),
        workload.settings["evaluation_splits"],
    ):
        job = {"phase": "fine_tuned", "workload": workload.name, "seed": seed, "step": step}
        yield job | dict(zip(names, values, strict=True))


SETTINGS = (
    "criteria",
    "fractions",
    "layers",
    "probed",
    "scoring_examples",
    "evaluation_examples",
    "evaluation_splits",
    "probe_every",
    "selection_every",
    "selection",
    "fine_tuning",
    "thresholds",
)


def check(workload: Workload) -> None:
    """Raises `ValueError` for settings that the study cannot run, before anything is computed."""
    check_settings(workload, SETTINGS)
    settings, graph = workload.settings, graph_of(workload)
    tuning, selection = settings["fine_tuning"], settings["selection"]
    for criterion in settings["criteria"]:
        choices.check("criterion", criterion, criteria.UNIT_CRITERIA)
    _check_examples(workload)
    zeros = {space.name: np.zeros(space.size, np.float32) for space in graph.prunable}
    for layers in settings["layers"]:
        for fraction in settings["fractions"]:
            masks_of(workload, graph, zeros, layers, fraction)
    for layers in (*tuning["layers"], selection["layers"], *probed_layers(workload)):
        choices.check("layer set", layers, settings["layers"])
    if len(names_of(workload, graph, selection["layers"])) != 1:
        raise ValueError(
            f"selection.layers is {selection['layers']!r}, which names several layers; it must "
            "name one"
        )
    masks_of(workload, graph, zeros, selection["layers"], selection["fraction"])
    for layers, fraction in itertools.product(tuning["layers"], tuning["fractions"]):
        masks_of(workload, graph, zeros, layers, fraction)
    for criterion in tuning["criteria"]:
        choices.check("criterion of fine_tuning", criterion, settings["criteria"])
    _check_steps(workload)


def _check_examples(workload: Workload) -> None:
    settings = workload.settings
    splits, scoring = tuple(settings["evaluation_splits"]), settings["scoring_examples"]
    for split in splits:
        choices.check("evaluation split", split, SPLITS)
    if not splits or len(set(splits)) < len(splits):
        raise ValueError(f"evaluation_splits are {splits}; give at least one, none twice")
    if not 1 <= scoring <= workload.examples:
        raise ValueError(
            f"scoring_examples is {scoring}; it must be from 1 to the {workload.examples} training "
            "examples"
        )
    held_out = workload.load(workload.seeds[0]).validation.labels.shape[0]
    left = {"train": workload.examples - scoring, "validation": held_out}
    for split in splits:
        if not 1 <= settings["evaluation_examples"] <= left[split]:
            raise ValueError(
                f"evaluation_examples is {settings['evaluation_examples']}; it must be from 1 to "
                f"the {left[split]} {split} examples that are not scored with"
            )


def _check_steps(workload: Workload) -> None:
    settings, total = workload.settings, total_steps(workload)
    for name in ("probe_every", "selection_every"):
        every: Any = settings[name]
        if not isinstance(every, int) or not 1 <= every <= total:
            raise ValueError(
                f"{name} is {every!r}; it must be a number of steps from 1 to the {total} of "
                "training"
            )
    tuning, probes = settings["fine_tuning"], probe_steps(workload)
    for step in tuning["probes"]:
        if step not in probes:
            nearest = min(probes, key=lambda probe: abs(probe - step))
            raise ValueError(
                f"fine_tuning.probes has {step}, where no network is probed; the nearest probe is "
                f"at {nearest}"
            )
    if tuning["probes"] and not tuning["steps"]:
        raise ValueError("fine_tuning.steps is empty; give at least one, of 1 step or more")
    for count in tuning["steps"]:
        choices.whole("fine_tuning.steps", count, "step")

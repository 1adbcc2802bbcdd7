"""What a config of the pruning-mechanism study must hold, checked before anything is computed."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pruning_jax import choices, recipes, retraining, schedules, units
from pruning_jax.studies.pruning_mechanism import arms, surfaces
from pruning_jax.studies.workloads import Workload

SECTIONS = ("utility", "during_training", "sizes", "one_shot", "arms", "paths", "surfaces")
"""The settings of the study; one that is empty asks for nothing."""

PRUNABLE = ("convolutions", "kernels")
"""Which weights are pruned and ablated: those of convolutions, or of every kernel."""

PRUNES = ("weights", "channels")


def check(workload: Workload) -> None:
    """Raises `ValueError` for settings that the study cannot run."""
    settings = workload.settings
    for name in SECTIONS:
        if name not in settings:
            raise ValueError(f"the workload {workload.name!r} has no section {name!r}; give {{}}")
    choices.check("prunable", settings.get("prunable"), PRUNABLE)
    _check_utility(workload)
    for name, arm in settings["arms"].items():
        _check_arm(workload, name, arm)
    _check_surfaces(workload)


def _check_utility(workload: Workload) -> None:
    settings = workload.settings
    asked = [settings[name] for name in ("during_training", "sizes", "one_shot")]
    for section in filter(None, asked):
        _check_shares("ratio", section["ratios"])
        _check_shares("density", section.get("densities", ()), below=1)
    if any(asked):
        _check_examples(workload, "utility.examples", settings["utility"]["examples"])
        if settings["utility"]["subsets"] < 2:
            raise ValueError(f"utility.subsets is {settings['utility']['subsets']}; give 2 or more")
    if settings["sizes"] and settings["sizes"]["bands"] < 1:
        raise ValueError(f"sizes.bands is {settings['sizes']['bands']}; give 1 or more")
    last = workload.pretraining.recipe.epochs
    for epoch in settings["during_training"].get("epochs", ()):
        if not 1 <= epoch <= last:
            raise ValueError(
                f"during_training.epochs has {epoch}; networks are kept from epoch 1 to {last}"
            )


def _check_shares(kind: str, values: Iterable[float], below: float | None = None) -> None:
    for value in values:
        if not 0 < value <= 1 or value == below:
            end = "1)" if below else "1]"
            raise ValueError(f"a {kind} is {value}; it is a share of the weights, in (0, {end}")


def _check_arm(workload: Workload, name: str, arm: Mapping[str, Any]) -> None:
    choices.check(f"arms.{name}.prunes", arm["prunes"], PRUNES)
    sparsities = schedules.compounded(arm["share"], arm["cycles"])
    for regime in arm["regimes"]:
        choices.check("regime", regime, (*retraining.REGIMES, arms.SMALL))
        if regime != arms.SMALL:
            steps, recipe = arms.steps_of(workload), workload.pretraining.recipe
            plan = retraining.plan(regime, recipe, steps, epochs=arm["epochs"])
            recipes.check(plan.recipe)
    if not 1 <= arm["compared"] <= arm["cycles"]:
        raise ValueError(
            f"arms.{name}.compared is {arm['compared']}; it must be 1 to {arm['cycles']}, the "
            "cycles"
        )
    if arm["epochs"] < 1:
        raise ValueError(f"arms.{name}.epochs is {arm['epochs']}; a cycle trains for 1 or more")
    if arm.get("scale_l1", 0.0) < 0:
        raise ValueError(f"arms.{name}.scale_l1 is {arm['scale_l1']}; it must be 0 or more")
    if arm["prunes"] == "channels":
        _check_channels(workload, name, sparsities[-1])


def _check_channels(workload: Workload, name: str, sparsity: float) -> None:
    """Checks that every channel has a norm's scale to be ranked by, and that every space keeps one.

    What is removed stays removed because its scale is zero, so each needs one.
    """
    spaces = units.graph(workload.trace).prunable
    for space in spaces:
        if all(each.role != "scale" for each in space.producers):
            raise ValueError(
                f"arms.{name} ranks channels by the scales of their norms, and {space.name!r} has "
                "no norm; prune weights, or choose a model with batch normalisation"
            )
    total, most = sum(space.size for space in spaces), len(spaces)
    if not spaces or int(sparsity * total) > total - most:
        raise ValueError(
            f"arms.{name} would remove {sparsity:.3f} of {total} channels, and each of the {most} "
            "spaces keeps one; choose fewer cycles or a smaller share"
        )


def _check_surfaces(workload: Workload) -> None:
    settings = workload.settings
    for name in ("paths", "surfaces"):
        if settings[name]:
            _check_examples(workload, f"{name}.examples", settings[name]["examples"])
    if settings["paths"] and settings["paths"]["positions"] < 3:
        raise ValueError(
            f"paths.positions is {settings['paths']['positions']}; a barrier needs 3 or more"
        )
    drawn = settings["surfaces"]
    if not drawn:
        return
    for name in drawn["arms"]:
        choices.check("arm of surfaces", name, settings["arms"])
    for moments in drawn["moments"]:
        choices.check("moments", moments, surfaces.MOMENTS)
    if len(drawn["shape"]) != 2 or min(drawn["shape"]) < 2:
        raise ValueError(f"surfaces.shape is {drawn['shape']}; it is rows and columns, 2 or more")
    if not 0 <= drawn["margin"] < math.inf:
        raise ValueError(f"surfaces.margin is {drawn['margin']}; it must be finite, 0 or more")


def _check_examples(workload: Workload, name: str, count: int) -> None:
    if not 1 <= count <= workload.examples:
        raise ValueError(
            f"{name} is {count}; it must be 1 to the {workload.examples} training examples"
        )

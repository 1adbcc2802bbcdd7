"""What a config of the pruning-mechanism study must hold, checked before anything is computed."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from pruning_jax import choices, recipes, retraining, schedules, units
from pruning_jax.studies.pruning_mechanism import arms, surfaces
from pruning_jax.studies.workloads import Workload

FIELDS = {
    "utility": {"subsets": "count", "examples": "count"},
    "during_training": {"epochs": "counts", "ratios": "shares"},
    "sizes": {"densities": "shares", "ratios": "shares", "numbers": "shares", "bands": "count"},
    "one_shot": {"densities": "shares", "ratios": "shares"},
    "paths": {"positions": "count", "examples": "count"},
    "surfaces": {
        "seeds": "count",
        "shape": "counts",
        "margin": "number",
        "arms": "names",
        "moments": "names",
        "examples": "count",
    },
}
"""The sections of the settings and their fields; one that is empty asks for nothing."""

ARM = {
    "prunes": "name",
    "share": "number",
    "cycles": "count",
    "compared": "count",
    "epochs": "count",
    "regimes": "names",
    "scale_l1": "number",
}
"""The fields of each of the section `arms`."""

PRUNABLE = ("convolutions", "kernels")
"""Which weights are pruned and ablated: those of convolutions, or of every kernel."""

PRUNES = ("weights", "channels")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def _are(of_one: Callable[[Any], bool], values: Any) -> bool:
    several = isinstance(values, tuple | list) and all(map(of_one, values))
    return several and len(values) > 0


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "count": (_is_count, "an integer of 1 or more"),
    "number": (_is_number, "a finite number, not negative"),
    "name": (lambda value: isinstance(value, str), "a name"),
    "counts": (lambda values: _are(_is_count, values), "integers of 1 or more"),
    "names": (
        lambda values: _are(lambda v: isinstance(v, str), values) and len({*values}) == len(values),
        "one name or more, none twice",
    ),
    "shares": (
        lambda values: _are(lambda v: _is_number(v) and 0 < v <= 1, values),
        "shares of the weights, in (0, 1]",
    ),
}
"""What a field may hold, and how it is said."""


def check(workload: Workload) -> None:
    """Raises `ValueError` for settings that the study cannot run."""
    settings = workload.settings
    for name in settings:
        choices.check("section", name, (*FIELDS, "arms", "prunable", "thresholds"))
    for name, fields in FIELDS.items():
        if name not in settings:
            raise ValueError(f"the workload {workload.name!r} has no section {name!r}; give {{}}")
        if settings[name]:
            _check_fields(name, settings[name], fields)
    if "arms" not in settings:
        raise ValueError(f"the workload {workload.name!r} has no section 'arms'; give {{}}")
    choices.check("prunable", settings.get("prunable"), PRUNABLE)
    _check_utility(workload)
    for name, arm in settings["arms"].items():
        _check_fields(f"arms.{name}", arm, ARM)
        _check_arm(workload, name, arm)
    _check_surfaces(workload)


def _check_fields(where: str, section: Mapping[str, Any], fields: Mapping[str, str]) -> None:
    for field in section:
        choices.check(f"field of {where}", field, fields)
    for field, kind in fields.items():
        if field not in section:
            raise ValueError(f"{where} has no field {field!r}; it has {', '.join(fields)}")
        fits, meaning = KINDS[kind]
        if not fits(section[field]):
            raise ValueError(f"{where}.{field} is {section[field]!r}; it must be {meaning}")


def _check_utility(workload: Workload) -> None:
    settings = workload.settings
    if any(settings[name] for name in ("during_training", "sizes", "one_shot")):
        if not settings["utility"]:
            raise ValueError("utility is empty; say how many subsets and examples are measured")
        _check_examples(workload, "utility.examples", settings["utility"]["examples"])
        if settings["utility"]["subsets"] < 2:
            raise ValueError(f"utility.subsets is {settings['utility']['subsets']}; give 2 or more")
    for name in ("sizes", "one_shot"):
        for density in settings[name].get("densities", ()):
            if density == 1:
                raise ValueError(f"{name}.densities has 1; a small network keeps less")
    if settings["sizes"]:
        _check_numbers(settings["sizes"])
    last = workload.pretraining.recipe.epochs
    for epoch in settings["during_training"].get("epochs", ()):
        if epoch > last:
            raise ValueError(
                f"during_training.epochs has {epoch}; networks are kept from epoch 1 to {last}"
            )


def _check_numbers(sizes: Mapping[str, Any]) -> None:
    """Checks that a number of weights is a ratio that every size of network is measured at."""
    for number, density in itertools.product(sizes["numbers"], (1.0, *sizes["densities"])):
        if not any(math.isclose(number / density, ratio) for ratio in sizes["ratios"]):
            raise ValueError(
                f"sizes.numbers has {number}, a share of {number / density:g} of the weights at "
                f"density {density:g}, which sizes.ratios lacks: {sizes['ratios']}"
            )


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
    if arms.SMALL in arm["regimes"] and arm["epochs"] != workload.pretraining.recipe.epochs:
        raise ValueError(
            f"arms.{name}.epochs is {arm['epochs']}; where a small network follows the schedule "
            f"once a cycle, it must be the {workload.pretraining.recipe.epochs} of training"
        )
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
    if drawn["seeds"] > len(workload.seeds):
        raise ValueError(f"surfaces.seeds is {drawn['seeds']}; there are {len(workload.seeds)}")


def _check_examples(workload: Workload, name: str, count: int) -> None:
    if not 1 <= count <= workload.examples:
        raise ValueError(
            f"{name} is {count}; it must be 1 to the {workload.examples} training examples"
        )

"""What the study of the pruning mechanism (S0) asks for; a section that is empty, for nothing."""

import itertools
import math
from collections.abc import Mapping
from typing import Annotated

from pruning_jax import choices, recipes, retraining, schedules, units
from pruning_jax.studies import workloads
from pruning_jax.studies.settings import (
    Check,
    Count,
    Counts,
    FewNames,
    Names,
    Number,
    Shares,
    one_of,
    rule,
    setting,
    several,
)
from pruning_jax.studies.workloads import Workload

SMALL = "small"
"""The regime that trains a small network from scratch in place of pruning."""

MOMENTS = ("kept", "estimated")
"""The state of a point: that of the pretrained network, or the one the point's weights give."""


def _at_least(least: int) -> Check:
    return rule(f"an integer of {least} or more", lambda of: type(of) is int and of >= least)


BELOW = rule(
    "a share below 1, as a small network keeps less",
    lambda of: isinstance(of, float) and 0 < of < 1,
)
Densities = Annotated[tuple[float, ...], several(BELOW)]
SHAPE = rule(
    "rows and columns, 2 or more",
    lambda of: isinstance(of, tuple) and len(of) == 2 and all(type(n) is int and n > 1 for n in of),
)


@setting
class Utility:
    """How many random subsets, on how many training examples."""

    subsets: Annotated[int, _at_least(2)] = 0
    examples: Count = 0


@setting
class DuringTraining:
    """Utilities of the dense network after some epochs."""

    epochs: Counts = ()
    ratios: Shares = ()


@setting
class Sizes:
    """Utilities of small networks; `numbers` are shares of the dense network's weights."""

    densities: Densities = ()
    ratios: Shares = ()
    numbers: Shares = ()
    bands: Count = 0


@setting
class OneShot:
    """Networks pruned in one shot, and their utilities."""

    densities: Densities = ()
    ratios: Shares = ()


@setting
class Arm:
    """Networks pruned and trained again in cycles; regimes are compared after one of them."""

    prunes: Annotated[str, one_of("prunes", ("weights", "channels"))]
    share: Number
    cycles: Count
    compared: Count
    epochs: Count
    regimes: Annotated[tuple[str, ...], several(one_of("regime", (*retraining.REGIMES, SMALL)))]
    scale_l1: Number


@setting
class Paths:
    """Straight lines from the pretrained to the retrained networks."""

    positions: Annotated[int, _at_least(3)] = 0
    examples: Count = 0


@setting
class Surfaces:
    """Planes through networks, of so many seeds."""

    seeds: Count = 0
    shape: Annotated[tuple[int, ...], SHAPE] = ()
    margin: Number = 0.0
    arms: Names = ()
    moments: Annotated[tuple[str, ...], several(one_of("moments", MOMENTS))] = ()
    examples: Count = 0


@setting
class Thresholds:
    """Of the claims; `put_later` names those put as they are after the rows were seen."""

    range: Number = 20.0  # pp of accuracy over random subsets of one size
    distance_ratio: Number = 0.5  # of curves at equal ratio over those at equal number
    barrier: Number = 2.0  # pp below the worse end of a path
    fall: Number = 10.0  # pp of training accuracy below the dense network's, to count as stuck
    put_later: FewNames = ()


@setting
class Settings:
    """What the study asks for; weights that are pruned and ablated are those of `prunable`."""

    prunable: Annotated[str, one_of("prunable", ("convolutions", "kernels"))]
    utility: Utility
    during_training: DuringTraining
    sizes: Sizes
    one_shot: OneShot
    arms: Mapping[str, Arm]
    paths: Paths
    surfaces: Surfaces
    thresholds: Thresholds


def check(workload: Workload) -> None:
    """Raises `ValueError` for settings that a workload's network and data cannot have."""
    own, last = workload.settings, workload.pretraining.recipe.epochs
    for section in ("utility", "paths", "surfaces"):
        if getattr(own, section):
            examples = getattr(own, section).examples
            workloads.check_examples(workload, f"{section}.examples", examples)
    if (own.during_training or own.sizes or own.one_shot) and not own.utility:
        raise ValueError("utility is empty; say how many subsets and examples are measured")
    for number, density in itertools.product(own.sizes.numbers, (1.0, *own.sizes.densities)):
        if not any(math.isclose(number / density, ratio) for ratio in own.sizes.ratios):
            raise ValueError(
                f"sizes.numbers has {number}, a share of {number / density:g} of the weights at "
                f"density {density:g}, which sizes.ratios lacks: {own.sizes.ratios}"
            )
    for epoch in own.during_training.epochs:
        if epoch > last:
            raise ValueError(
                f"during_training.epochs has {epoch}; networks are kept from epoch 1 to {last}"
            )
    for name, arm in own.arms.items():
        _check_arm(workload, f"arms.{name}", arm)
    for name in own.surfaces.arms:
        choices.check("arm of surfaces", name, own.arms)
    if own.surfaces.seeds > len(workload.seeds):
        raise ValueError(f"surfaces.seeds is {own.surfaces.seeds}; there are {len(workload.seeds)}")


def _check_arm(workload: Workload, name: str, arm: Arm) -> None:
    sparsities, recipe = schedules.compounded(arm.share, arm.cycles), workload.pretraining.recipe
    for regime in {*arm.regimes} - {SMALL}:
        recipes.check(retraining.plan(regime, recipe, workload.steps, epochs=arm.epochs).recipe)
    if arm.compared > arm.cycles:
        raise ValueError(f"{name}.compared is {arm.compared}; it must be 1 to {arm.cycles}")
    if SMALL in arm.regimes and arm.epochs != recipe.epochs:
        raise ValueError(
            f"{name}.epochs is {arm.epochs}; where a small network follows the schedule once a "
            f"cycle, it must be the {recipe.epochs} of training"
        )
    if arm.prunes == "channels":
        _check_channels(workload, name, sparsities[-1])


def _check_channels(workload: Workload, name: str, sparsity: float) -> None:
    """Checks that every channel has a norm's scale to be ranked by, and that every space keeps one.

    What is removed stays removed because its scale is zero, so each needs one.
    """
    spaces = units.graph(workload.trace).prunable
    for space in spaces:
        if all(each.role != "scale" for each in space.producers):
            raise ValueError(
                f"{name} ranks channels by the scales of their norms, and {space.name!r} has no "
                "norm; prune weights, or choose a model with batch normalisation"
            )
    total, most = sum(space.size for space in spaces), len(spaces)
    if not spaces or int(sparsity * total) > total - most:
        raise ValueError(
            f"{name} would remove {sparsity:.3f} of {total} channels, and each of the {most} "
            "spaces keeps one; choose fewer cycles or a smaller share"
        )

"""A config's workload -> its data, model and training task, checked before anything runs."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from pruning_jax import (
    choices,
    data,
    evaluation,
    masks,
    models,
    pruning,
    recipes,
    retraining,
    schedules,
    tracing,
    training,
    trees,
)
from pruning_jax.criteria import WEIGHT_CRITERIA
from pruning_jax.types import Array, Params

FIELDS = frozenset(
    {"dataset", "data_dir", "subset", "validation", "model", "training", "retraining", "seeds"}
)
"""What every workload's config has; its other fields are its study's settings."""


class Keys(NamedTuple):
    """A replicate's independent sources of randomness."""

    initial: Array
    training: Array
    pruning: Array
    retraining: Array


class Workload(NamedTuple):
    """A network on a dataset, with how it is trained and retrained.

    Attributes:
      name: the workload's key in the config.
      dataset: what `data.load` takes.
      pretraining: what the dense network is trained with.
      retraining: how a pruned one is trained again.
      seeds: one a replicate.
      kernels: the names of the prunable leaves.
      prunable: how many weights they hold.
      examples: of a training split.
      trace: of the model in evaluation mode.
      settings: the config's other values, a study's own.
    """

    name: str
    dataset: Mapping[str, Any]
    module: Any
    pretraining: training.Task
    retraining: retraining.Plan
    seeds: tuple[int, ...]
    kernels: tuple[str, ...]
    prunable: int
    examples: int
    trace: tracing.Trace
    settings: Mapping[str, Any]

    def load(self, seed: int) -> data.Dataset:
        """The splits of one replicate."""
        return data.load(**self.dataset, seed=seed)

    def keys(self, seed: int) -> Keys:
        """The keys of one replicate."""
        return Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))

    def initial(self, seed: int, dataset: data.Dataset) -> Params:
        """The variables of one replicate before training."""
        return models.init(self.module, self.keys(seed).initial, dataset.train.inputs[:1])

    def measure(self, variables: Params, dataset: data.Dataset) -> dict[str, float]:
        """Loss and accuracy on the three splits, in evaluation mode."""
        found = {}
        for split in ("train", "validation", "test"):
            batch = getattr(dataset, split)
            metrics = evaluation.evaluate(self.pretraining.apply_fn, variables, batch)
            found[f"{split}_loss"] = float(metrics.loss)
            found[f"{split}_accuracy"] = float(metrics.accuracy)
        return found


def build_all(config: Mapping[str, Any]) -> list[Workload]:
    """The workloads of a study's config: those that its field `only` names, or all if it is empty.

    Raises:
      ValueError: `only` names a workload that there is not, or one twice, or `build` refuses one.
    """
    only, there = tuple(config.get("only", ())), config["workloads"]
    for name in only:
        choices.check("workload in only", name, there)
    if len(set(only)) < len(only):
        raise ValueError(f"only is {only}; name each workload once")
    return [build(name, values) for name, values in there.items() if not only or name in only]


def build(name: str, config: Mapping[str, Any]) -> Workload:
    """Builds a workload from its config.

    Raises:
      ValueError: a name, field or number that nothing can be built from.
    """
    dataset = {key: config[key] for key in ("validation", "subset", "data_dir")}
    dataset = {key: value for key, value in dataset.items() if value is not None}
    dataset["name"] = config["dataset"]
    seeds = checked_seeds(config["seeds"])
    loaded = data.load(**dataset, seed=seeds[0])
    model = dict(config["model"])
    module = models.build(model.pop("name"), loaded.classes, **model)
    recipe = recipe_of(config["training"])
    recipes.check(recipe)
    examples = len(loaded.train.labels)
    again = _retraining(config["retraining"], recipe, examples)
    train_fn, apply_fn = models.train_fn(module), models.apply_fn(module)
    inputs = loaded.train.inputs[:2]
    variables = jax.eval_shape(lambda: models.init(module, jax.random.key(0), inputs))
    trace = tracing.trace(apply_fn, variables, inputs)
    return Workload(
        name,
        dataset,
        module,
        training.Task(train_fn, apply_fn, recipe),
        again,
        seeds,
        trace.kernels,
        trees.size(trees.select(variables, trace.kernels)),
        examples,
        trace,
        {key: value for key, value in config.items() if key not in FIELDS},
    )


def _retraining(
    config: Mapping[str, Any], pretraining: recipes.Recipe, examples: int
) -> retraining.Plan:
    """The retraining section of a config; epochs alone say how far a rewinding goes back."""
    changes = dict(config)
    regime = changes.pop("regime")
    for field in changes:
        choices.check("retraining field", field, recipes.Recipe._fields)
    steps = examples // pretraining.batch_size
    plan = retraining.plan(regime, pretraining, steps, **changes)
    recipes.check(plan.recipe)
    return plan


def checked_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """The seeds as a tuple; raises `ValueError` unless there are some, not negative, none twice."""
    seeds = tuple(seeds)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds are {seeds}; give at least one, none negative and none twice")
    return seeds


def check_pruning(workload: Workload, targets: Iterable[float], stages: Iterable[int]) -> None:
    """Raises `ValueError` for prunings that the workload's settings ask for and that cannot be."""
    settings, stages = workload.settings, tuple(stages)
    for criterion in settings["criteria"]:
        choices.check("criterion", criterion, WEIGHT_CRITERIA)
    choices.check("scope", settings["scope"], masks.SCOPES)
    examples = settings["statistics_examples"]
    if not 1 <= examples <= workload.examples:
        raise ValueError(
            f"statistics_examples is {examples}; it must be from 1 to the {workload.examples} "
            "training examples"
        )
    for sparsity, count in itertools.product(targets, stages):
        schedules.sparsities(settings["schedule"], sparsity, count)
        pruning.check_stages(count, choices.check_sparsity(sparsity), workload.prunable)


def recipe_of(config: Mapping[str, Any]) -> recipes.Recipe:
    """The training section of a config as a `Recipe`; an unknown field is refused by name."""
    for field in config:
        choices.check("training field", field, recipes.Recipe._fields)
    values = dict(config)
    values["boundaries"] = tuple(values.get("boundaries", ()))
    return recipes.Recipe(**values)

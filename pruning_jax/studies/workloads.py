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

OPTIONAL = frozenset({"split_seed"})
"""What it may have: the seed of every replicate's split, in place of the replicate's own."""

_SEEDS = 2**32
"""Seeds that are equal modulo this give one key."""


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
      dataset: what `data.load` takes; with a seed, every replicate has that split.
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
        return data.load(**{"seed": seed} | self.dataset)

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
    only, there = tuple(config.get("only", ())), config.get("workloads")
    if not isinstance(there, Mapping) or not there:
        raise ValueError(f"workloads is {there!r}; give at least one, name -> its fields")
    for name in only:
        choices.check("workload in only", name, there)
    if len(set(only)) < len(only):
        raise ValueError(f"only is {only}; name each workload once")
    return [build(name, values) for name, values in there.items() if not only or name in only]


def surroundings(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Digests of what a config's rows depend on beside it: its data, and code of the user's."""
    several = config.get("workloads") or {config["study"]: config["workload"]}
    asked = {name: several[name] for name in config.get("only") or several}
    names = [of for each in asked.values() for of in (each["dataset"], each["model"]["name"])]
    return {
        "data": {
            name: data.fingerprint(each["dataset"], each["data_dir"])
            for name, each in asked.items()
        },
        "code": {name: choices.digest(name) for name in names if choices.is_path(name)},
    }


def build(name: str, config: Mapping[str, Any]) -> Workload:
    """Builds a workload from its config.

    Raises:
      ValueError: a name, field or number that nothing can be built from.
    """
    _check_fields(name, config)
    dataset = {key: config[key] for key in ("validation", "subset", "data_dir")}
    dataset = {key: value for key, value in dataset.items() if value is not None}
    dataset["name"] = config["dataset"]
    seeds = checked_seeds(config["seeds"])
    if config.get("split_seed") is not None:
        dataset["seed"] = checked_seeds((config["split_seed"],))[0]
    loaded = data.load(**{"seed": seeds[0]} | dataset)
    if not len(loaded.validation.labels):
        raise ValueError(
            f"validation is {dataset['validation']}, which holds out no example; networks are kept "
            "at their best validation accuracy, so give 1 or more"
        )
    model = dict(config["model"])
    module = _module(model.pop("name"), loaded.classes, model)
    recipe = recipe_of(config["training"])
    recipes.check(recipe)
    examples = len(loaded.train.labels)
    if recipe.batch_size > examples:
        raise ValueError(
            f"batch_size is {recipe.batch_size}; it must be 1 to the {examples} training examples"
        )
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
        {key: value for key, value in config.items() if key not in FIELDS | OPTIONAL},
    )


def _module(name: str, classes: int, fields: Mapping[str, Any]) -> Any:
    """A model of the table, or the Linen module that a function of an import path returns."""
    if not choices.is_path(name):
        return models.build(name, classes, **fields)
    try:
        return choices.imported("model", name)(classes, **fields)
    except TypeError as error:
        raise ValueError(f"the model {name!r} cannot be built: {error}") from error


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


def _check_fields(name: str, config: Mapping[str, Any]) -> None:
    """Checks that the fields of every workload are there, and those that have a name."""
    missing = sorted(FIELDS - config.keys())
    if missing:
        raise ValueError(
            f"the workload {name!r} has no field {missing[0]!r}; it needs "
            f"{', '.join(sorted(FIELDS))}"
        )
    for section, field in (("model", "name"), ("retraining", "regime")):
        if not isinstance(config[section], Mapping) or field not in config[section]:
            raise ValueError(
                f"{section} of the workload {name!r} is {config[section]!r}; give its {field}"
            )
    if not isinstance(config["training"], Mapping):
        raise ValueError(
            f"training of the workload {name!r} is {config['training']!r}; give fields"
        )


def check_settings(workload: Workload, fields: Iterable[str]) -> None:
    """Checks that a workload has the settings of its study, and no others.

    Raises:
      ValueError: it does not; an unknown one is named with the nearest.
    """
    fields = tuple(fields)
    for field in workload.settings:
        choices.check(f"field of the workload {workload.name!r}", field, (*FIELDS, *fields))
    missing = [field for field in fields if field not in workload.settings]
    if missing:
        raise ValueError(f"the workload {workload.name!r} has no field {missing[0]!r}")


def checked_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """The seeds as a tuple.

    Raises:
      ValueError: there are none, one is no integer from 0 to 2^32 - 1, or one is there twice.
    """
    seeds = tuple(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else (seeds,)
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds) or not min(seeds) >= 0:
        raise ValueError(
            f"seeds are {seeds}; give at least one integer, none negative and none twice"
        )
    if max(seeds) >= _SEEDS:
        raise ValueError(f"seeds has {max(seeds)}; a seed is below 2^32, {_SEEDS}")
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
    targets = tuple(targets)
    for name, values in (("criteria", settings["criteria"]), ("sparsities", targets)):
        if not values:
            raise ValueError(f"{name} is empty; give at least one")
    if not stages:
        raise ValueError("stages is empty; give at least one")
    choices.check("schedule", settings["schedule"], schedules.SCHEDULES)
    for sparsity, count in itertools.product(targets, stages):
        choices.whole("stages", count, "stage")
        pruning.check_stages(count, choices.check_sparsity(sparsity), workload.prunable)


def recipe_of(config: Mapping[str, Any]) -> recipes.Recipe:
    """The training section of a config as a `Recipe`; an unknown field is refused by name."""
    for field in config:
        choices.check("training field", field, recipes.Recipe._fields)
    missing = [
        field
        for field in recipes.Recipe._fields
        if field not in config and field not in recipes.Recipe._field_defaults
    ]
    if missing:
        raise ValueError(f"training has no field {missing[0]!r}; it needs {', '.join(missing)}")
    values = dict(config)
    values["boundaries"] = tuple(values.get("boundaries", ()))
    return recipes.Recipe(**values)

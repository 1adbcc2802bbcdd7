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
from pruning_jax.studies import settings
from pruning_jax.types import Array, Params

FIELDS = frozenset(
    {"dataset", "data_dir", "subset", "validation", "model", "training", "retraining", "seeds"}
)
"""What every workload's config has; its other fields are its study's settings."""

OPTIONAL = frozenset({"split_seed"})
"""What it may have: the seed of every replicate's split, in place of the replicate's own."""

SEED = settings.rule(
    "an integer from 0 to below 2^32", lambda of: type(of) is int and 0 <= of < 2**32
)
"""Seeds that are equal modulo 2^32 give one key."""


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
      classes: of the dataset.
      trace: of the model in evaluation mode.
      settings: the study's own.
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
    classes: int
    trace: tracing.Trace
    settings: Any

    @property
    def steps(self) -> int:
        """The steps of an epoch."""
        return self.examples // self.pretraining.recipe.batch_size

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


def build_all(config: Mapping[str, Any], section: type) -> list[Workload]:
    """The workloads of a study's config: those that its field `only` names, or all if it is empty.

    Raises:
      ValueError: `only` names a workload that there is not, or one twice, or `build` refuses one.
    """
    only, there = tuple(config.get("only", ())), config.get("workloads")
    if not isinstance(there, Mapping) or not there:
        raise ValueError(f"workloads is {there!r}; give at least one, name -> its fields")
    settings.several(settings.one_of("workload in only", there), least=0)("only", only)
    return [build(name, there[name], section) for name in there if not only or name in only]


def surroundings(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Digests of what a config's rows depend on beside it: its data, and code of the user's."""
    several = config.get("workloads") or {config["study"]: config["workload"]}
    asked = {name: several[name] for name in config.get("only") or several}
    names = [of for each in asked.values() for of in (each["dataset"], each["model"]["name"])]
    paths = [name for name in names if choices.is_path(name)]
    paths += [config["study"]] if "." in config["study"] else []
    return {
        "data": {
            name: data.fingerprint(each["dataset"], each["data_dir"])
            for name, each in asked.items()
        },
        "code": {path: choices.digest(path) for path in paths},
    }


@settings.setting
class Nothing:
    """The settings of a study that has none."""


def build(name: str, config: Mapping[str, Any], section: type = Nothing) -> Workload:
    """Builds a workload from its config.

    Args:
      name: what it is called.
      config: name -> value: those of every workload, and those of its study.
      section: the `settings.setting` of its study.

    Raises:
      ValueError: a name, field or number that nothing can be built from.
    """
    own = _settings(name, config, section)
    dataset = {key: config[key] for key in ("validation", "subset", "data_dir")}
    dataset = {key: value for key, value in dataset.items() if value is not None}
    dataset["name"] = config["dataset"]
    seeds = tuple(config["seeds"]) if isinstance(config["seeds"], list) else config["seeds"]
    settings.several(SEED)("seeds", seeds)
    if config.get("split_seed") is not None:
        dataset["seed"] = config["split_seed"]
        SEED("split_seed", dataset["seed"])
    loaded = data.load(**{"seed": seeds[0]} | dataset)
    if not len(loaded.validation.labels):
        raise ValueError(
            f"validation is {dataset['validation']}, which holds out no example; networks are kept "
            "at their best validation accuracy, so give 1 or more"
        )
    model, examples = dict(config["model"]), len(loaded.train.labels)
    module = _module(model.pop("name"), loaded.classes, model)
    recipe = recipe_of(config["training"])
    if recipe.batch_size > examples:
        raise ValueError(
            f"batch_size is {recipe.batch_size}; it must be 1 to the {examples} training examples"
        )
    again = _retraining(config["retraining"], recipe, examples)
    train_fn, apply_fn = models.train_fn(module), models.apply_fn(module)
    inputs = loaded.train.inputs[:2]
    variables = jax.eval_shape(lambda: models.init(module, jax.random.key(0), inputs))
    trace = tracing.trace(apply_fn, variables, inputs)
    prunable = trees.size(trees.select(variables, trace.kernels))
    task = training.Task(train_fn, apply_fn, recipe)
    sizes = trace.kernels, prunable, examples, loaded.classes
    return Workload(name, dataset, module, task, again, seeds, *sizes, trace, own)


def _settings(name: str, config: Mapping[str, Any], section: type) -> Any:
    """The study's own; checks that the fields of every workload are there."""
    where = f"the workload {name!r}"
    for field in sorted(FIELDS):
        if field not in config:
            needed = ", ".join(sorted(FIELDS))
            raise ValueError(f"{where} has no field {field!r}; it needs {needed}")
    for field, needed in (("model", "name"), ("retraining", "regime"), ("training", None)):
        if not isinstance(config[field], Mapping) or needed not in (None, *config[field]):
            raise ValueError(
                f"{field} of {where} is {config[field]!r}; give its {needed or 'fields'}"
            )
    general = FIELDS | OPTIONAL
    own = {field: value for field, value in config.items() if field not in general}
    return settings.read(section, own, where, known=sorted(general))


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
    plan = retraining.plan(regime, pretraining, examples // pretraining.batch_size, **changes)
    recipes.check(plan.recipe)
    return plan


def recipe_of(config: Mapping[str, Any]) -> recipes.Recipe:
    """The training section of a config as a `Recipe`, checked; a wrong field is refused by name."""
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
    values["options"] = tuple(sorted(dict(values.get("options", ())).items()))
    recipe = recipes.Recipe(**values)
    recipes.check(recipe)
    return recipe


# What several studies' settings have.

Criteria = settings.Annotated[
    tuple[str, ...], settings.several(settings.one_of("criterion", WEIGHT_CRITERIA))
]
Scope = settings.Annotated[str, settings.one_of("scope", masks.SCOPES)]
Schedule = settings.Annotated[str, settings.one_of("schedule", schedules.SCHEDULES)]


def check_pruning(workload: Workload, targets: Iterable[float], stages: Iterable[int]) -> None:
    """Raises `ValueError` for sparsities or stages that a workload's network cannot have."""
    check_examples(workload, "statistics_examples", workload.settings.statistics_examples)
    for sparsity, count in itertools.product(targets, stages):
        choices.whole("stages", count, "stage")
        pruning.check_stages(count, choices.check_sparsity(sparsity), workload.prunable)


def check_examples(workload: Workload, name: str, count: int, most: int | None = None) -> None:
    """Raises `ValueError` for a number of examples that a training split does not have."""
    most = workload.examples if most is None else most
    if not 1 <= count <= most:
        raise ValueError(f"{name} is {count}; it must be from 1 to the {most} training examples")

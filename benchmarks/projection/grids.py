"""What a config of a study asks for, as tasks: every training, pruning and measurement, counted.

The units of work are those that the studies' own modules list, so that they are counted as they
would run. Where a selection decides what runs, the more expensive choice is taken.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from benchmarks.projection import work
from benchmarks.projection.work import Network, Task
from pruning_jax import recipes, retraining
from pruning_jax.criteria import WEIGHT_CRITERIA, required
from pruning_jax.studies import workloads
from pruning_jax.studies.loss_modelling import units as prunings
from pruning_jax.studies.mean_replacement import grid
from pruning_jax.studies.pruning_mechanism import arms, surfaces, used


class Counting(SimpleNamespace):
    """What the studies' modules need of a workload to list its units of work, without its data.

    Attributes:
      name, seeds, settings: as of `workloads.Workload`.
      network: counted.
      recipe: of pretraining.
      pretraining: has `recipe`.
      examples: of the training split.
      steps: of an epoch.
      held_out: examples of the validation split.
      measured: forward passes of a network's measurement, on all three splits.
    """

    name: str
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    network: Network
    recipe: recipes.Recipe
    examples: int
    steps: int
    held_out: int
    measured: int

    def training(self, what: str, runs: int, schedules: int = 1, **columns: Any) -> Task:
        """Training runs as long as pretraining, or as several of it, measured after each."""
        epochs = schedules * self.recipe.epochs
        return self.trained(what, runs, epochs, ends=schedules, **columns)

    def trained(self, what: str, runs: int, epochs: int, ends: int = 1, **columns: Any) -> Task:
        """Training runs, measured on the validation split at every epoch, on all in the end."""
        steps = epochs * self.steps
        passes = work.TRAINING * steps * self.recipe.batch_size
        passes += epochs * self.held_out + ends * self.measured
        task = Task(what, self.network, "training", runs, passes, steps, self.recipe.batch_size)
        return task._replace(**{"saved": ends, "spread": "replicates"} | columns)

    def forward(self, what: str, jobs: int, passes: int, **columns: Any) -> Task:
        """Forward passes."""
        return Task(what, self.network, "forward", jobs, passes, **columns)


def counting(name: str, values: Mapping[str, Any]) -> Counting:
    """A config's workload."""
    data, recipe = work.DATASETS[values["dataset"]], workloads.recipe_of(values["training"])
    held_out = values["validation"]
    examples = values["subset"] or data.train - held_out
    return Counting(
        name=name,
        seeds=tuple(values["seeds"]),
        settings=values,
        network=work.network(values["model"], values["dataset"]),
        recipe=recipe,
        pretraining=SimpleNamespace(recipe=recipe),
        examples=examples,
        steps=examples // recipe.batch_size,
        held_out=held_out,
        measured=examples + held_out + data.test,
    )


def _pruning_mechanism(of: Counting) -> list[Task]:
    """S0: dense and small networks, one-shot, arms of cycles; then utilities, paths and planes."""
    own, seeds = of.settings, len(of.seeds)
    shown = len(surfaces.shown(of))
    kept = of.recipe.epochs if shown or own["during_training"] else 0
    tasks = [of.training("dense", seeds, saved=1 + kept)]
    schedules = {density: 1 for density in own["sizes"].get("densities", ())}
    schedules |= {density: 2 for density in own["one_shot"].get("densities", ())}
    for density, count in schedules.items():
        tasks.append(of.training(f"small, {density:g} of the weights", seeds, count, phase=1))
    for density in own["one_shot"].get("densities", ()):
        tasks.append(of.training(f"one shot, {density:g} kept", seeds, phase=1))
    for name, arm in own["arms"].items():
        for regime in arm["regimes"]:
            tasks.append(_arm(of, name, regime, arm))
    tasks += _utilities(of)
    pruned = list(surfaces.arms_of(of))
    points, examples = own["paths"].get("positions", 0), own["paths"].get("examples", 0)
    tasks.append(_surface(of, "paths", seeds * len(pruned) * points, examples))
    if shown:
        side, other = own["surfaces"]["shape"]
        drawn = len(list(surfaces.arms_of(of, own["surfaces"]["arms"])))
        points, examples = shown * drawn * side * other, own["surfaces"]["examples"]
        tasks.append(_surface(of, "planes", points, examples))
    return [task for task in tasks if task.jobs and task.passes]


def _arm(of: Counting, name: str, regime: str, arm: Mapping[str, Any]) -> Task:
    """An arm's cycles, one after another; each also measures the pruned network."""
    if regime == arms.SMALL:
        count = arm["compared"] + 1
        return of.training(f"{name}, {regime}", len(of.seeds), count, phase=1)
    cycles, epochs = arm["cycles"], arm["cycles"] * arm["epochs"]
    ends, kept = 2 * cycles, 2 * cycles + arm["epochs"] * bool(surfaces.shown(of))
    what = f"{name}, {regime}"
    task = of.trained(what, len(of.seeds), epochs, ends, phase=1, saved=kept)
    return task._replace(weights=cycles * of.network.weights)


def _utilities(of: Counting) -> list[Task]:
    examples, subsets = (of.settings["utility"].get(name, 0) for name in ("examples", "subsets"))
    listed = {"during training": used.during_training, "of sizes": used.of_sizes}
    listed["of one shot"] = used.of_one_shot
    tasks = []
    for what, units in listed.items():
        count = sum(len(list(units(of, seed))) for seed in of.seeds)
        tasks.append(_split(of, f"utilities {what}", count * (subsets + 1), examples))
    if of.settings["sizes"]:
        bands = of.settings["sizes"]["bands"] + 1
        tasks.append(_split(of, "utilities of bands", len(of.seeds) * bands, examples))
    return tasks


def _split(of: Counting, what: str, jobs: int, passes: int) -> Task:
    return of.forward(what, jobs, passes, phase=2, spread="points")


def _surface(of: Counting, what: str, points: int, examples: int) -> Task:
    """Points with the statistics kept, and with their own: a pass more, in training mode."""
    return _split(of, what, points, 3 * examples)


def _loss_modelling(of: Counting) -> list[Task]:
    """S3: dense networks, prunings on tuning seeds and on the others, retraining."""
    own = of.settings
    tuning = list(prunings.tuning_units(of))
    # The selected step penalty is one of its own, so that no unit falls together with another.
    one = tuple(own["tuning_seeds"])[:1]
    rows = [unit | {"penalty": float(unit["step_penalty"] == 0)} for unit in tuning]
    rows = [row for row in rows if row["seed"] in one]
    selecting = Counting(**vars(of) | {"settings": {**own, "tuning_seeds": one}})
    chosen = prunings.selected_units(selecting, rows)
    dense = len(of.seeds) + len(own["tuning_seeds"])
    plan = retraining.plan(
        own["retraining"]["regime"],
        of.recipe,
        of.steps,
        **{key: value for key, value in own["retraining"].items() if key != "regime"},
    )
    epochs = plan.recipe.epochs - plan.step // of.steps
    return [
        of.training("dense", dense, saved=1 + len(own["early_epochs"])),
        *_prunings(of, "prunings of tuning seeds", tuning, 1),
        *_prunings(of, "prunings of test seeds", list(prunings.test_units(selecting, rows)), 2),
        of.trained("retrained", len(chosen), epochs, phase=3, saved=2),
    ]


def _prunings(of: Counting, what: str, units: list[Mapping[str, Any]], phase: int) -> list[Task]:
    """Prunings by the statistics and the number of stages that they take, measured after each."""
    counts: dict[tuple[int, int], int] = {}
    for unit in units:
        needs = required(WEIGHT_CRITERIA[unit["criterion"]])
        passes = work.GRADIENT * ("gradient" in needs)
        passes += work.ggn(of.network.classes) * ("ggn" in needs)
        counts[passes, unit["stages"]] = counts.get((passes, unit["stages"]), 0) + 1
    examples, weights, tasks = of.settings["statistics_examples"], of.network.weights, []
    for (passes, stages), count in counts.items():
        shown = f"{what}, {stages} stage{'s' * (stages > 1)}"
        own = passes * stages * examples
        task = Task(shown, of.network, "ggn", count, own, phase=phase, weights=stages * weights)
        tasks.append(task)
    tasks.append(of.forward(f"{what}, measured", len(units), of.measured, phase=phase))
    return tasks


def _mean_replacement(of: Counting) -> list[Task]:
    """S4: training with selections on the way, probes of the networks kept, fine-tuning."""
    own, seeds = of.settings, len(of.seeds)
    scoring, measured = own["scoring_examples"], own["evaluation_examples"]
    probes = grid.probe_steps(of)
    selections = grid.total_steps(of) // own["selection_every"]
    dense = of.training("dense", seeds, saved=1 + len(probes))
    settings = len(list(grid.probed_units(of, of.seeds[0], probes[0])))
    variants = 2 * len(own["criteria"]) * settings
    tuning = own["fine_tuning"]
    runs = seeds * len(tuning["probes"])
    runs *= len(list(grid.fine_tuned_units(of, of.seeds[0], 0))) // len(own["evaluation_splits"])
    steps = max(tuning["steps"], default=0)
    losses = len(own["evaluation_splits"]) * (1 + len(tuning["steps"])) * measured
    passes = work.TRAINING * steps * of.recipe.batch_size + losses
    tuned = (of.network, "training", runs, passes, steps, of.recipe.batch_size, 2)
    count = seeds * len(probes)
    return [
        dense,
        of.forward("scores on the way", seeds * selections, work.GRADIENT * scoring),
        of.forward("scores of probes", count, work.GRADIENT * scoring, phase=1),
        of.forward("variants of probes", count * variants, measured, phase=1, spread="points"),
        *([Task("fine-tuned", *tuned, spread="replicates")] if runs else []),
    ]


STUDIES: dict[str, Callable[[Counting], list[Task]]] = {
    "pruning_mechanism": _pruning_mechanism,
    "loss_modelling": _loss_modelling,
    "mean_replacement": _mean_replacement,
}


def tasks(config: Mapping[str, Any]) -> dict[str, list[Task]]:
    """The tasks of every workload of a study's config, a plain dict; of those in `only` if any."""
    count, only = STUDIES[config["study"]], config.get("only", ())
    return {
        name: count(counting(name, values))
        for name, values in config["workloads"].items()
        if not only or name in only
    }

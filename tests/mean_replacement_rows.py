"""Rows of a mean-replacement run that never ran: the figures in them are set by the test."""

import itertools
from types import SimpleNamespace

import numpy as np

from pruning_jax.studies import settings as read
from pruning_jax.studies.mean_replacement.grid import Settings

PENALTIES = {
    "random": 0.4,
    "weight_norm": 0.3,
    "rs": 0.9,
    "mrs": 1.0,
    "abs_rs": 0.1,
    "abs_mrs": 0.101,
}
SIZES = {"firstconv": 12, "midconv": 20, "lastconv": 30, "firstdense": 40}
LEFT = {"0": 1.0, "10": 0.5, "100": 0.3, "500": 0.2, "600": 0.2}
"""The share of a penalty that is left after so many fine-tuning steps."""
SHARES = {"one": 0.02, 0.05: 0.05, 0.1: 0.1, 0.2: 0.2, 0.5: 0.5}


class Work(SimpleNamespace):
    """A workload that never ran."""

    def _replace(self, **changes):
        return Work(**vars(self) | changes)


def workload(name="small_conv_cifar10", seeds=8, **changes):
    settings = {
        "criteria": tuple(PENALTIES),
        "fractions": (0.05, 0.1, 0.2, 0.5, "one"),
        "layers": {"all": "all"} | {layers: [f"params/{layers}"] for layers in SIZES},
        "probed": (),
        "scoring_examples": 1000,
        "evaluation_examples": 1000,
        "evaluation_splits": ("train",),
        "probe_every": 250,
        "selection_every": 25,
        "selection": {"layers": "midconv", "fraction": 0.1},
        "fine_tuning": {
            "probes": (750, 1000),
            "fractions": (0.1, 0.5),
            "layers": ("all",),
            "criteria": ("weight_norm", "random", "abs_rs", "abs_mrs"),
            "steps": (10, 100, 500),
        },
        "thresholds": {},
    }
    return Work(
        name=name,
        seeds=tuple(range(1, seeds + 1)),
        settings=settings | changes,
        examples=5_000,
        steps=500,
        classes=10,
        pretraining=SimpleNamespace(recipe=SimpleNamespace(epochs=2, batch_size=10)),
    )


def built(work):
    """The workload as a study has it: its settings read."""
    return work._replace(settings=read.read(Settings, work.settings, work.name))


def penalty(unit):
    """The expected penalty: folding leaves 60 % of it."""
    scale = SHARES[unit["fraction"]] * (0.5 + unit["step"] / 1000)
    return PENALTIES[unit["criterion"]] * scale * (0.6 if unit["replacement"] == "mean" else 1.0)


def tuned(unit, steps):
    """The expected penalty after some fine-tuning steps."""
    return penalty(unit) * LEFT[steps]


def chosen(criterion, draw, count, size):
    """The units removed: of MRS the most active ones, of |RS| and |MRS| the least."""
    if criterion == "random":
        return sorted(draw.permutation(size)[:count].tolist())
    if criterion in ("rs", "mrs"):
        return list(range(size - count, size))
    return sorted(draw.permutation(count + 1)[:count].tolist())


def squares(size):
    """The squared activation of every unit: the later, the more active."""
    return np.geomspace(0.01, 10, size)


def run(
    work,
    *,
    penalty=penalty,
    tuned=tuned,
    chosen=chosen,
    squares=squares,
    random_accuracy=0.3,
    pruned_accuracy=0.7,
    overfitted=2.0,
    relative_error=1e-7,
    noise=0.02,
):
    """Every row of a run, a seed after another."""
    draw, settings = np.random.default_rng(0), work.settings
    fractions, criteria, selection = (
        settings[name] for name in ("fractions", "criteria", "selection")
    )
    recipe = work.pretraining.recipe
    total = recipe.epochs * (work.examples // recipe.batch_size)
    last = total // settings["probe_every"] * settings["probe_every"]

    def count(layers, fraction):
        size = SIZES.get(layers, sum(SIZES.values()))
        return 1 if fraction == "one" else int(fraction * size + 1e-9)

    def noisy(value):
        return value * float(np.exp(noise * draw.normal()))

    def of_each(unit, value):
        return {
            c: {r: value(unit | {"criterion": c, "replacement": r}) for r in ("zero", "mean")}
            for c in criteria
        }

    def probed(unit):
        layers, fraction = unit["layers"], unit["fraction"]
        removed = count(layers, fraction)
        row = unit | {"phase": "probed", "removed": {layers: removed}, "loss": 1.0, "accuracy": 0.8}
        row["penalty"] = of_each(unit, lambda u: noisy(penalty(u)) if removed else 0.0)
        row["pruned_accuracy"] = of_each(
            unit, lambda u: random_accuracy if u["criterion"] == "random" else pruned_accuracy
        )
        if layers in SIZES and fraction == 0.1:
            size = SIZES[layers]
            row["units"] = {c: chosen(c, draw, removed, size) for c in criteria}
            row["mean_square"] = {
                c: noisy(float(squares(size)[units].mean())) for c, units in row["units"].items()
            }
        return row

    def units_of(unit):
        size = SIZES[unit["layers"]]
        return {c: chosen(c, draw, count(unit["layers"], unit["fraction"]), size) for c in criteria}

    rows = []
    for seed in work.seeds:
        own = {"workload": work.name, "seed": seed}
        dense = {"train_accuracy": 0.8 + overfitted / 100, "test_accuracy": 0.8}
        rows.append(own | {"phase": "pretrained", "best_epoch": 9} | dense)
        for step in range(settings["selection_every"], total + 1, settings["selection_every"]):
            unit = own | {"step": step} | selection
            rows.append(unit | {"phase": "selected", "units": units_of(unit)})
        probes = range(settings["probe_every"], total + 1, settings["probe_every"])
        names = ("step", "split", "layers", "fraction")
        splits = settings["evaluation_splits"]
        for values in itertools.product(probes, splits, settings["layers"], fractions):
            rows.append(probed(own | dict(zip(names, values, strict=True))))
        unit = own | {"step": last} | selection
        values = [noisy(value) for value in squares(SIZES[selection["layers"]])]
        rows.append(unit | {"phase": "activations", "mean_square": values, "units": units_of(unit)})
        tuning = settings["fine_tuning"]
        columns = [tuning[name] for name in ("probes", "layers", "fractions", "criteria")]
        names = ("step", "layers", "fraction", "criterion", "replacement", "split")
        for values in itertools.product(*columns, ("zero", "mean"), splits):
            unit = own | dict(zip(names, values, strict=True))
            after = {str(n): noisy(tuned(unit, str(n))) for n in (0, *tuning["steps"])}
            rows.append(unit | {"phase": "fine_tuned", "penalty": after})
        rows.append(own | {"phase": "linear_regression", "relative_error": relative_error})
    return rows

"""Rows of a loss-modelling run that never ran: the figures in them are set by the test."""

from types import SimpleNamespace

import numpy as np

from pruning_jax.studies import loss_modelling as study
from pruning_jax.studies import settings as read

LOSS_GAPS = {"magnitude": 2.02, "obd": 1.83, "linear": 1.17, "quadratic": 1.05, "random": 2.3}
ERROR_GAPS = {"magnitude": 2.4, "obd": 2.0, "linear": 1.9, "quadratic": 1.9}
STAGES = {1: 1.08, 14: 1.04, 140: 1.0}
PENALTIES = {0.0: 1.5, 0.01: 1.0, 1.0: 1.3}
EPOCHS = {"best": 1.0, 5: 0.8, 100: 0.9}
OBD_EARLY = {"best": 1.0, 5: 1.4, 100: 1.1}


def workload(name="mlp_mnist", seeds=8, **changes):
    settings = {
        "criteria": ("magnitude", "obd", "linear", "quadratic", "random"),
        "retrained": ("magnitude", "obd", "linear", "quadratic"),
        "schedule": "exponential",
        "scope": "global",
        "sparsity": 0.98847,
        "stages": (1, 14, 140),
        "step_penalties": tuple(PENALTIES),
        "tuning_seeds": (2111, 2112),
        "early_stages": (14,),
        "early_epochs": (5, 100),
        "statistics_examples": 1000,
        "thresholds": {},
    }
    return SimpleNamespace(
        name=name,
        seeds=tuple(range(1111, 1111 + seeds)),
        settings=settings | changes,
        classes=10,
        pretraining=SimpleNamespace(recipe=SimpleNamespace(epochs=800)),
        retraining=SimpleNamespace(recipe=SimpleNamespace(epochs=160)),
    )


def built(work):
    """The workload as a study has it: its settings read."""
    own = read.read(study.Settings, work.settings, work.name)
    return SimpleNamespace(**vars(work) | {"settings": own})


def loss_gap(unit):
    """The expected gap: lowest at most stages and at the step penalty .01."""
    criterion, gap = unit["criterion"], LOSS_GAPS[unit["criterion"]]
    if not study.estimated(criterion):
        return gap
    gap *= STAGES[unit["stages"]] * PENALTIES[unit["step_penalty"]] * EPOCHS[unit["epoch"]]
    return gap * (OBD_EARLY[unit["epoch"]] if criterion == "obd" else 1)


def run(
    work,
    *,
    gap=loss_gap,
    error_gaps=ERROR_GAPS,
    random_accuracy=0.1,
    noise=0.02,
    overfitted=1.0,
    pruned_accuracy=0.8,
    tuned=None,
):
    """Every row of a run, in the order in which it writes them."""
    draw = np.random.default_rng(0).normal
    seeds = (*work.seeds, *work.settings["tuning_seeds"])
    dense = {seed: 0.98 + 0.001 * draw() for seed in seeds}
    rows = [
        {"phase": "pretrained", "workload": work.name, "seed": seed, "best_epoch": 300}
        | {"validation_accuracy": accuracy, "test_accuracy": accuracy}
        | {"train_accuracy": accuracy + overfitted / 100}
        for seed, accuracy in dense.items()
    ]

    def pruned(unit):
        accuracy = random_accuracy if unit["criterion"] == "random" else pruned_accuracy
        accuracies = {"validation_accuracy": accuracy, "test_accuracy": accuracy}
        return unit | accuracies | {"penalty": gap(unit) + noise * draw()}

    def retrained(unit):
        lost = error_gaps[unit["criterion"]] / 100 if tuned is None else tuned(unit, gap(unit))
        lost += 0.002 * draw()
        accuracy = dense[unit["seed"]] - lost
        accuracies = {"validation_accuracy": accuracy, "test_accuracy": accuracy}
        return unit | accuracies | {"phase": "retrained", "best_epoch": 100}

    work = built(work)
    rows += [pruned(unit) for unit in study.tuning_jobs(work)]
    rows += [pruned(unit) for unit in study.test_jobs(work, rows)]
    rows += [retrained(unit) for unit in study.selected_jobs(work, rows)]
    return rows

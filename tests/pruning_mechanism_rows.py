"""Rows of a pruning-mechanism run that never ran: the figures in them are set by the test.

By default every claim holds on them. A test changes one of the functions that `run` takes: each
maps a unit of work, the columns that name a row, to the expected figures.
"""

import itertools
from types import SimpleNamespace

import numpy as np

from pruning_jax.studies import settings as read
from pruning_jax.studies.pruning_mechanism.asked import Settings

PRUNABLE = 77_000
PARAMETERS = 78_000
REGIMES = ("fine_tuning", "learning_rate_rewinding", "small")
ON_PATH = REGIMES[:2]
VALIDATION = {
    "weight": {"fine_tuning": 0.70, "learning_rate_rewinding": 0.73, "small": 0.66},
    "channel": {"fine_tuning": 0.45, "learning_rate_rewinding": 0.60, "small": 0.63},
    "harsh_channel": {"fine_tuning": 0.20, "learning_rate_rewinding": 0.50},
}
"""Validation accuracies at the cycle where regimes are compared; of the dense network, `DENSE`."""
DENSE = 0.72
GAIN = {cycle: 0.006 * cycle for cycle in range(1, 20)}
"""How far rewinding of weights leads fine-tuning after a cycle."""
BARRIERS = {"fine_tuning": {"weight": 0.4, "channel": 20.0, "harsh_channel": 30.0}} | {
    "learning_rate_rewinding": {"weight": 0.8, "channel": 15.0, "harsh_channel": 40.0}
}
"""Of training accuracy on the path from pretrained to retrained, in pp."""


class Work(SimpleNamespace):
    """A workload that never ran."""

    def _replace(self, **changes):
        return Work(**vars(self) | changes)


SETTINGS = {
    "prunable": "convolutions",
    "utility": {"subsets": 500, "examples": 250},
    "during_training": {},
    "sizes": {},
    "one_shot": {},
    "arms": {},
    "paths": {},
    "surfaces": {},
    "thresholds": {},
}
DURING_TRAINING = {"epochs": (1, 2, 4, 8, 16, 30), "ratios": (0.05, 0.1, 0.2)}


def arm(prunes, share, cycles, compared, regimes=REGIMES):
    return {
        "prunes": prunes,
        "share": share,
        "cycles": cycles,
        "compared": compared,
        "regimes": regimes,
        "epochs": 10,
        "scale_l1": 0.0,
    }


RESNET8 = {
    "sizes": {
        "densities": (0.5, 0.25),
        "ratios": (0.05, 0.1, 0.2, 0.4, 0.8),
        "numbers": (0.05, 0.1, 0.2),
        "bands": 10,
    },
    "one_shot": {"densities": (0.5, 0.25), "ratios": (0.1, 0.2)},
    "arms": {
        "weight": arm("weights", 0.3, 6, 5),
        "channel": arm("channels", 0.2, 5, 5),
        "harsh_channel": arm("channels", 0.5, 3, 3, ON_PATH),
    },
    "paths": {"positions": 21, "examples": 1000},
    "surfaces": {
        "seeds": 1,
        "shape": (7, 9),
        "margin": 0.25,
        "arms": ("weight", "channel"),
        "moments": ("kept", "estimated"),
        "examples": 1000,
    },
}


def workload(name="resnet8", seeds=8, **changes):
    """Workload B ("small_conv"), C ("small_conv_bn") or D ("resnet8") of the study."""
    own = RESNET8 if name == "resnet8" else {"during_training": DURING_TRAINING}
    return Work(
        name=name,
        seeds=tuple(range(1, seeds + 1)),
        settings=SETTINGS | own | changes,
        module=SimpleNamespace(depth=8, stem_stride=2) if name == "resnet8" else SimpleNamespace(),
        dataset={"name": "cifar10", "subset": 4000, "validation": 1000},
        examples=4000,
        prunable=PRUNABLE,
        pretraining=SimpleNamespace(recipe=SimpleNamespace(epochs=30, batch_size=64)),
    )


def built(work):
    """The workload as a study has it: its settings read."""
    return work._replace(settings=read.read(Settings, work.settings, work.name))


def utility(unit):
    """Utility's moments over random subsets: they grow with the epoch and with the own ratio.

    The largest is larger in smaller networks, and a small network of two schedules differs from
    the others.
    """
    age = 1.0 if unit["epoch"] == "last" else (unit["epoch"] / 30) ** 0.5
    mean = 4 * age * unit["ratio"] ** 1.2 * (1.8 if unit.get("schedules") == 2 else 1.0)
    most = 3 + 0.5 / unit["density"]
    return {"mean": mean, "std": 0.5 * mean, "minimum": 0.2 * mean, "maximum": most * mean}


def ablated(unit):
    """The mean, the least and the largest accuracy after random ablations, of `UNABLATED`."""
    left = (1 - unit["ratio"]) ** 2
    return 0.1 + 0.8 * left, 0.1 + 0.5 * left, 0.1 + 0.84 * left


UNABLATED = 0.95


def drops(bands):
    """How far the accuracy falls without each band of weights, the smallest magnitudes first."""
    return np.geomspace(0.001, 0.6, bands)


def accuracy(unit):
    """Validation accuracy of a trained network."""
    if unit["network"] != "cycle":
        return DENSE - 0.1 * (1 - unit["density"])
    reached = VALIDATION[unit["arm"]]
    if unit["arm"] == "weight" and unit["regime"] == "learning_rate_rewinding":
        return reached["fine_tuning"] + GAIN[unit["cycle"]]
    return reached[unit["regime"]]


def train_accuracy(unit):
    """Training accuracy of a trained network."""
    return min(accuracy(unit) + 0.2, 1.0)


def barrier(unit):
    """How far training accuracy dips below the straight line on a path, in pp."""
    kept = 2.0 if unit["moments"] == "kept" else 1.0
    return kept * BARRIERS[unit["regime"]][unit["arm"]]


def removed(work, unit):
    """Weights removed of those of the dense network."""
    if unit["network"] != "cycle":
        return round((1 - unit["density"]) * PRUNABLE)
    left = PRUNABLE
    for _ in range(unit["cycle"]):
        left -= round(work.settings["arms"][unit["arm"]]["share"] * left)
    return PRUNABLE - left


def trained_units(work):
    """The networks of a seed: dense, small, pruned in one shot, and those of every cycle."""
    settings = work.settings
    yield {"network": "dense", "density": 1.0}
    for density in settings["sizes"].get("densities", ()):
        yield {"network": "small", "density": density, "schedules": 1}
    for density in settings["one_shot"].get("densities", ()):
        yield {"network": "one_shot", "density": density}
        yield {"network": "small", "density": density, "schedules": 2}
    for name, of in settings["arms"].items():
        for regime in of["regimes"]:
            cycles = [of["compared"]] if regime == "small" else range(1, of["cycles"] + 1)
            for cycle in cycles:
                yield {"network": "cycle", "arm": name, "regime": regime, "cycle": cycle}


def utility_units(work):
    """The sets of random subsets of a seed, none twice."""
    settings = work.settings
    during, sizes, shot = (settings[name] for name in ("during_training", "sizes", "one_shot"))
    dense, found = {"network": "dense", "density": 1.0}, []
    for epoch, ratio in itertools.product(during.get("epochs", ()), during.get("ratios", ())):
        found.append(dense | {"epoch": epoch, "among": 1.0, "ratio": ratio})
    last = {"epoch": "last", "among": 1.0}
    for ratio in sizes.get("ratios", ()):
        found.append(dense | last | {"ratio": ratio})
        for density in sizes["densities"]:
            own = {"network": "small", "density": density, "schedules": 1}
            found.append(own | last | {"ratio": ratio})
    for density, ratio in itertools.product(shot.get("densities", ()), shot.get("ratios", ())):
        retrained = {"network": "one_shot", "density": density}
        small = {"network": "small", "density": density, "schedules": 2}
        found += [own | last | {"ratio": ratio} for own in (retrained, small)]
        found.append(dense | last | {"among": density, "ratio": ratio})
    return found


def run(
    work,
    *,
    utility=utility,
    ablated=ablated,
    drops=drops,
    accuracy=accuracy,
    train_accuracy=train_accuracy,
    barrier=barrier,
    noise=0.02,
):
    """Every row of a run, a seed after another.

    Utilities vary over seeds by a factor of e^(noise), accuracies by 20 % of `noise`.
    """
    rows = []
    for seed in work.seeds:
        draw = np.random.default_rng([7, seed])
        own = {"workload": work.name, "seed": seed}
        rows += _networks(work, own, draw, accuracy, train_accuracy, noise)
        for unit in utility_units(work):
            rows.append(_utility(work, own | unit, draw, utility, ablated, noise))
        if work.settings["sizes"].get("bands"):
            fall = drops(work.settings["sizes"]["bands"]) * np.exp(noise * draw.normal())
            unit = own | {"phase": "bands", "network": "dense", "density": 1.0, "epoch": "last"}
            found = {"utility": (5 * fall).tolist(), "accuracy": (UNABLATED - fall).tolist()}
            rows.append(unit | found | {"unablated_accuracy": UNABLATED, "examples": 250})
        if work.settings["paths"]:
            rows += _paths(work, own, draw, barrier, train_accuracy, noise)
        if work.seeds.index(seed) < work.settings["surfaces"].get("seeds", 0):
            rows += _surfaces(work, own)
    return rows


def _networks(work, own, draw, accuracy, train_accuracy, noise):
    for unit in trained_units(work):
        unit = own | unit
        gone = removed(work, unit)
        columns = {
            "removed": gone,
            "prunable": PRUNABLE,
            "parameters": PARAMETERS - gone,
            "empty_layers": [],
            "epochs": 30 * (1 + unit.get("cycle", 0)),
        }
        validation = accuracy(unit) + 0.2 * noise * draw.normal()
        train = train_accuracy(unit) + 0.2 * noise * draw.normal()
        phases = ("network", "pruned") if unit["network"] == "cycle" else ("network",)
        for phase in phases:
            left = 0.6 if phase == "pruned" else 1.0
            reached = {"train": left * train, "validation": left * validation}
            reached["test"] = reached["validation"] - 0.01
            measured = {f"{split}_accuracy": value for split, value in reached.items()}
            measured |= {f"{split}_loss": 2.3 * (1 - value) for split, value in reached.items()}
            yield {"phase": phase} | unit | columns | measured


def _utility(work, unit, draw, utility, ablated, noise):
    moments = {name: value * np.exp(noise * draw.normal()) for name, value in utility(unit).items()}
    mean, least, most = ablated(unit)
    shift = 0.2 * noise * draw.normal()
    low, high = moments["minimum"], moments["maximum"]
    edges = np.linspace(low, high, 41)
    centres = (edges[1:] + edges[:-1]) / 2
    shares = np.exp(-0.5 * ((centres - moments["mean"]) / (moments["std"] or 1.0)) ** 2)
    shares = np.nan_to_num(shares)
    subsets = work.settings["utility"]["subsets"]
    columns = {
        "subset_size": round(unit["ratio"] * unit["among"] * unit["density"] * PRUNABLE),
        "weights": round(unit["density"] * PRUNABLE),
        "counts": np.round(subsets * shares / (shares.sum() or 1.0)).astype(int).tolist(),
        "edges": edges.tolist(),
        "accuracy_mean": mean + shift,
        "accuracy_minimum": least + shift,
        "accuracy_maximum": most,
        "unablated_accuracy": UNABLATED,
        "examples": work.settings["utility"]["examples"],
        "subsets": subsets,
    }
    return {"phase": "utility"} | unit | {k: float(v) for k, v in moments.items()} | columns


def path_units(work):
    """The arms and regimes of the paths and planes."""
    for name, of in work.settings["arms"].items():
        for regime in of["regimes"]:
            if regime in ON_PATH:
                yield {"arm": name, "regime": regime}


def _paths(work, own, draw, barrier, train_accuracy, noise):
    positions = np.linspace(0, 1, work.settings["paths"]["positions"])
    dense = own | {"network": "dense", "density": 1.0}
    for unit in path_units(work):
        compared = work.settings["arms"][unit["arm"]]["compared"]
        retrained = own | unit | {"network": "cycle", "cycle": compared}
        ends = train_accuracy(dense), train_accuracy(retrained)
        for moments in ("kept", "estimated"):
            dip = barrier(own | unit | {"moments": moments}) * np.exp(noise * draw.normal()) / 100
            line = ends[0] + positions * (ends[1] - ends[0])
            values = line - dip * 4 * positions * (1 - positions)
            yield (
                {"phase": "path"}
                | own
                | unit
                | {"moments": moments, "positions": positions.tolist()}
                | {"loss": (2.3 * (1 - values)).tolist(), "accuracy": values.tolist()}
            )


def _surfaces(work, own):
    rows, columns = work.settings["surfaces"]["shape"]
    x, y = np.linspace(-2.0, 12.0, columns), np.linspace(-3.0, 9.0, rows)
    points = {"pretrained": [0.0, 0.0], "pruned": [8.0, 0.0], "retrained": [9.0, 6.0]}
    steps = np.linspace(0, 1, 6)[:, None]
    paths = {
        "pretraining": (np.array([[-1.5, 7.0]]) * (1 - steps)).tolist(),
        "retraining": (np.array([[8.0, 0.0]]) + steps * np.array([[1.0, 6.0]])).tolist(),
    }
    for unit in path_units(work):
        if unit["arm"] not in work.settings["surfaces"]["arms"]:
            continue
        plane = {"points": points, "paths": paths, "x": x.tolist(), "y": y.tolist()}
        yield {"phase": "plane"} | own | unit | plane
        for moments, block in itertools.product(work.settings["surfaces"]["moments"], range(rows)):
            wells = np.exp(-(x**2 + y[block] ** 2) / 30)
            wells = np.maximum(wells, 0.8 * np.exp(-((x - 9) ** 2 + (y[block] - 6) ** 2) / 20))
            reached = 0.1 + 0.8 * wells * (1.0 if moments == "estimated" else 0.9)
            values = {"loss": (2.3 * (1 - reached)).tolist(), "accuracy": reached.tolist()}
            yield {"phase": "surface"} | own | unit | {"moments": moments, "block": block} | values

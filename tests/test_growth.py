"""The benchmark of growth: fitted exponents, counted work, shared-out time, and docs/scaling.md."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import projection
from benchmarks.growth import command, exponents
from benchmarks.growth.operations import Case
from benchmarks.projection import grids, machines, papers, rethinking, work
from benchmarks.projection.work import Network, Task

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "notebooks" / "results"
SIZES = [2**power for power in range(6, 13)]


def noisy(exponent, seed, fixed=0.0, turns=5):
    """Costs of every size in every turn, of a known exponent, 3 % noise each."""
    rng = np.random.default_rng(seed)
    clean = np.array([fixed + 3e-4 * size**exponent for size in SIZES])
    return clean[:, None] * np.exp(0.03 * rng.standard_normal((len(SIZES), turns)))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_a_known_exponent_is_recovered_from_noise(exponent):
    turns = noisy(exponent, seed=0)
    found = exponents.fit(SIZES, np.median(turns, axis=1))
    assert found.low < exponent < found.high
    assert found.value == pytest.approx(exponent, abs=0.03)
    upper = exponents.at_upper_end(SIZES, turns.tolist())
    assert upper.low <= upper.value <= upper.high
    assert upper.value == pytest.approx(exponent, abs=0.1)


def test_the_interval_covers_a_known_exponent_as_often_as_it_says():
    fits = [exponents.fit(SIZES, noisy(1.2, seed, turns=1)[:, 0]) for seed in range(300)]
    covered = np.mean([found.low <= 1.2 <= found.high for found in fits])
    assert 0.91 <= covered <= 0.99


def test_a_fixed_cost_bends_the_fit_and_less_the_upper_end():
    turns = noisy(1.0, seed=1, fixed=0.3)
    whole = exponents.fit(SIZES, np.median(turns, axis=1))
    upper = exponents.at_upper_end(SIZES, turns.tolist())
    assert whole.value < upper.value < 1.0
    assert whole.high - whole.low > 0.1


@pytest.mark.parametrize(
    "sizes, costs, message",
    [
        ([1, 2], [1.0], "one a size"),
        ([3, 3], [1.0, 2.0], "two that differ"),
        ([1, 2], [0.0, 1.0], r"costs are \[0.0, 1.0\]"),
        ([0, 2], [1.0, 1.0], r"sizes are \[0.0, 2.0\]"),
    ],
)
def test_what_has_no_exponent_is_refused(sizes, costs, message):
    with pytest.raises(ValueError, match=message):
        exponents.fit(sizes, costs)


def test_a_network_is_counted_as_by_hand():
    own = work.network({"name": "mlp", "widths": (4, 3)}, "mnist")
    products = 784 * 4 + 4 * 3 + 3 * 10
    assert own[1:] == ("mlp", products + 4 + 3 + 10, products, products, 3, 10)
    small = work.network({"name": "small_conv", "padding": "VALID"}, "cifar10")
    convolutions = 28**2 * 25 * 3 * 32 + 12**2 * 9 * 32 * 64 + 4**2 * 9 * 64 * 128
    assert small.macs == convolutions + 2 * 2 * 128 * 512 + 512 * 128 + 128 * 10
    assert (small.family, small.layers, small.parameters) == ("conv", 6, 424_394)


def config(**settings):
    """A config of S4 that is small enough to be counted by hand."""
    workload = {
        "dataset": "mnist",
        "subset": 1_000,
        "validation": 200,
        "model": {"name": "mlp", "widths": (4, 3)},
        "training": {"epochs": 3, "batch_size": 30, "learning_rate": 0.1},
        "seeds": (1, 2),
        "criteria": ("random", "rs"),
        "fractions": (0.1, 0.5, "one"),
        "layers": {"all": "all", "first": ("params/Dense_0",)},
        "scoring_examples": 50,
        "evaluation_examples": 70,
        "evaluation_splits": ("train", "validation"),
        "probe_every": 30,
        "selection_every": 10,
        "fine_tuning": {
            "probes": (30, 60),
            "layers": ("all",),
            "fractions": (0.5,),
            "criteria": ("rs",),
            "steps": (2, 8),
        },
    }
    return {"study": "mean_replacement", "only": (), "workloads": {"mlp": workload | settings}}


def test_steps_and_examples_are_counted_as_by_hand():
    (tasks,) = grids.tasks(config()).values()
    dense, scores, probes, variants, tuned = tasks
    # 3 epochs of 33 steps of 30; the validation split after each, all splits in the end.
    assert (dense.jobs, dense.steps, dense.batch) == (2, 99, 30)
    assert dense.passes == 3 * 99 * 30 + 3 * 200 + (1_000 + 200 + 10_000)
    assert (scores.jobs, scores.passes) == (2 * 9, 3 * 50)
    assert (probes.jobs, probes.passes) == (2 * 3, 3 * 50)
    # 2 splits, 2 layer sets, 3 fractions, 2 criteria, with and without replacement.
    assert (variants.jobs, variants.passes) == (2 * 3 * 48, 70)
    assert (tuned.jobs, tuned.steps) == (2 * 2 * 2, 8)
    assert tuned.passes == 3 * 8 * 30 + 2 * 3 * 70
    assert dense.macs == dense.jobs * dense.passes * 3_178


def committed(study):
    """The tasks of a committed run's config by workload, and its rows."""
    folder = RESULTS / study
    values = json.loads((folder / "config.json").read_text("utf-8"))["config"]
    lines = (folder / "results.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return grids.tasks(values), rows


def jobs(tasks, start):
    """How many jobs the tasks are whose names start so."""
    return sum(task.jobs for task in tasks if task.what.startswith(start))


def test_counts_are_those_of_the_committed_run_of_the_pruning_mechanism():
    counted, rows = committed("pruning_mechanism")
    found = Counter((row["workload"], row["phase"]) for row in rows)
    for name, tasks in counted.items():
        schedule = tasks[0].steps
        networks = sum(task.jobs * task.steps / schedule for task in tasks)
        assert networks == found[name, "network"]
        subsets = 1 + next(row["subsets"] for row in rows if row["phase"] == "utility")
        bands = jobs(tasks, "utilities of bands")
        assert jobs(tasks, "utilities") - bands == subsets * found[name, "utility"]
    points = {phase: 0 for phase in ("path", "surface")}
    for row in rows:
        if row["phase"] in points:
            points[row["phase"]] += len(row["loss"])
    # Every point has a row with the statistics kept and one with its own.
    assert 2 * jobs(counted["resnet8"], "paths") == points["path"]
    assert 2 * jobs(counted["resnet8"], "planes") == points["surface"]


def test_counts_are_those_of_the_committed_run_of_loss_modelling():
    counted, rows = committed("loss_modelling")
    for name, tasks in counted.items():
        own = [row for row in rows if row["workload"] == name]
        found = Counter(row["phase"] for row in own)
        assert jobs(tasks, "dense") == found["pretrained"]
        assert jobs(tasks, "retrained") == found["retrained"]
        stages = Counter(row["stages"] for row in own if row["phase"] == "pruned")
        for count, prunings in stages.items():
            of_so_many = [
                task.jobs
                for task in tasks
                if task.kind == "ggn" and task.what.split(", ")[1].split()[0] == str(count)
            ]
            assert sum(of_so_many) == prunings


def test_counts_are_those_of_the_committed_run_of_mean_replacement():
    counted, rows = committed("mean_replacement")
    (tasks,) = counted.values()
    found = Counter(row["phase"] for row in rows)
    assert jobs(tasks, "dense") == found["pretrained"]
    assert jobs(tasks, "scores on the way") == found["selected"]
    criteria, splits = 6, 2
    assert jobs(tasks, "variants") == 2 * criteria * found["probed"]
    assert splits * jobs(tasks, "fine-tuned") == found["fine_tuned"]


def test_pruned_filters_leave_what_their_paper_says():
    """Li et al., Pruning Filters for Efficient ConvNets (arXiv 1608.08710), Table 1."""
    published = {
        "VGG-16": (3.13e8, 1.5e7, 2.06e8, 5.4e6),
        "ResNet-56-A": (1.25e8, 8.5e5, 1.12e8, 7.7e5),
        "ResNet-56-B": (1.25e8, 8.5e5, 9.09e7, 7.3e5),
        "ResNet-110-A": (2.53e8, 1.72e6, 2.13e8, 1.68e6),
        "ResNet-110-B": (2.53e8, 1.72e6, 1.55e8, 1.16e6),
    }
    for (whole, pruned), wanted in zip(rethinking.pairs(), published.values(), strict=True):
        counted = (whole.macs, whole.parameters, pruned.macs, pruned.parameters)
        np.testing.assert_allclose(counted, wanted, rtol=0.03)
    budgets = {task.what: task.steps // 781 for task in rethinking.tasks()}
    assert budgets["VGG-16-A, scratch-E"] == 160 and budgets["VGG-16-A, fine-tuned"] == 40
    assert budgets["VGG-16-A, scratch-B"] == int(160 * 313_201_664 / 206_146_048)


MLP = Network("mlp", "mlp", 100, 90, 10, 3, 10)
MACHINE = machines.assumed("one", rate=10.0, latency=0.5, selection=9.0)


def test_time_is_shared_out_the_longest_job_first():
    assert machines.shared_out([3, 5, 2, 4, 4], 1) == 18
    assert machines.shared_out([3, 5, 2, 4, 4], 3) == 7
    assert machines.shared_out([3, 5, 2, 4, 4], 9) == 5


def test_a_task_takes_its_products_its_latency_and_its_selections():
    trained = Task("a", MLP, "training", 2, 6, steps=4, spread="replicates")
    pruned = Task("b", MLP, "ggn", 3, 5, weights=18, phase=1)
    points = Task("c", MLP, "forward", 16, 1, phase=1, spread="points")
    every = [trained, pruned, points]
    assert [MACHINE.seconds(task) for task in every] == [6 + 4 * 3 * 0.5, 5 + 2, 1]
    assert MACHINE.total(every) == 2 * 12 + 3 * 7 + 16
    assert machines.chain(every, MACHINE) == 12 + 7
    assert machines.by_mesh([every], MACHINE, 8) == 12 + 3 * 7 + 2
    assert machines.by_training(every, MACHINE, 2) == 12 + (3 * 7 + 16) / 2
    assert machines.by_run([[trained], [pruned], [points]], MACHINE, 2) == 16 + 21


def test_devices_that_disagree_are_refused():
    points, split = Case("landscape", "mlp", 8, 100, 4), Case("training epoch", "mlp", 8, 100)
    close = {1: [1.0, 2.0], 4: [1.0, 2.0 + 2e-6]}
    assert command.largest_difference(split, close, "cpu") == pytest.approx(1e-6)
    with pytest.raises(SystemExit, match="4 devices differ from those of 1 by 1.0e-06"):
        command.largest_difference(points, close, "cpu")
    with pytest.raises(SystemExit, match="training epoch"):
        command.largest_difference(split, {1: [1.0], 2: [float("nan")]}, "cpu")


def test_the_sweeps_of_the_papers_are_as_many_runs_as_they_say():
    runs = {grid.name.split(",")[0]: grid for grid in papers.papers()[:3]}
    assert [len(grid.runs) for grid in runs.values()] == [24, 3, 24]
    for grid in runs.values():
        whole = [task for tasks in grid.workloads for task in tasks]
        assert work.macs(grid.tasks, "training") == pytest.approx(work.macs(whole, "training"))


def test_the_page_is_up_to_date():
    assert projection.main(["--check"]) == 0


def test_a_page_without_its_markers_is_refused():
    with pytest.raises(ValueError, match="growth:begin"):
        projection.updated("nothing", {"growth": "a table"})
    page = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n"
    assert projection.updated(page, {"x": "new"}).splitlines()[2] == "new"

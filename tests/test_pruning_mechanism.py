"""The pruning-mechanism study: its rows against networks made by hand, and how it resumes."""

import shutil
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import NETWORK, ROUNDING, assert_close, assert_same
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from configs import pruning_mechanism as configs
from pruning_jax import (
    data,
    methods,
    models,
    studies,
    tracing,
    training,
    trees,
    units,
)
from pruning_jax.analysis import utility
from pruning_jax.lab import checkpointing, jobs, replicates, results, tables
from pruning_jax.measurements import where
from pruning_jax.recipes import Recipe
from pruning_jax.studies import pruning_mechanism
from pruning_jax.studies.pruning_mechanism import asked, measures, networks
from pruning_jax.training.steps import STATIC
from pruning_jax.types import Batch

STUDY = studies.find("pruning_mechanism")
SEED, EXAMPLES, STEPS = 3, 160, 5
KERNELS = [f"params/Dense_{number}/kernel" for number in range(2)]
PRUNABLE = 64 * 10 + 10 * 10
DENSE = {"network": "dense", "density": 1.0}
WHOLE = Recipe(epochs=2, batch_size=32, learning_rate=0.1, boundaries=(1,), momentum=0.0)
TUNED = Recipe(epochs=2, batch_size=32, learning_rate=0.1 * 0.1, momentum=0.0)


def arm(prunes, share, cycles, epochs, *regimes, **values):
    return configs._arm(prunes, share, cycles, epochs, regimes=regimes, **values)


def config_of(**values):
    common = {"dataset": "digits", "validation": 160, "subset": EXAMPLES, "seeds": (SEED,)}
    workload = configs._workload(**common | {"prunable": "kernels"} | values)
    fields = {"study": "pruning_mechanism", "workloads": {"tiny": workload}}
    return ConfigDict(fields).to_dict()


def tiny(**changes):
    """One seed of a perceptron, trained for two epochs of five steps, in every section.

    Layers are alike, and so are splits, so that little is compiled.
    """
    values = {
        "model": {"name": "mlp", "widths": (10,)},
        "training": configs._plain(2, (1,), batch_size=32),
        "utility": {"subsets": 4, "examples": 40},
        "during_training": {"epochs": (1,), "ratios": (0.1, 0.8)},
        "sizes": {"densities": (0.5,), "ratios": (0.1, 0.2, 0.8), "numbers": (0.1,), "bands": 4},
        "one_shot": {"densities": (0.5,), "ratios": (0.2,)},
        "arms": {
            "weight": arm("weights", 0.3, 2, 2, "fine_tuning", "learning_rate_rewinding", "small"),
            "rewound": arm("weights", 0.4, 1, 1, "weight_rewinding"),
        },
        "paths": {"positions": 3, "examples": 40},
        "surfaces": configs._surfaces(2, shape=(2, 3), arms=("weight",), examples=40)
        | {"moments": ("kept",)},
    }
    return config_of(**values | changes)


def empty(*sections):
    return dict.fromkeys(sections, {})


MEASURED = ("during_training", "sizes", "one_shot", "paths", "surfaces")


def quiet(*_):
    """Reports nothing."""


def run_in(workdir, config, report=quiet):
    with results.open_run(workdir, config, study="pruning_mechanism") as run:
        session = jobs.Lab(run, report)
        (workload,) = plan = STUDY.build(config)
        STUDY.run(plan, session)
        return workload, session, run.rows()


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """The figures have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        drawn = {"figure_1_tiny": Figure(figsize=(1, 1))}
        patch.setattr(pruning_mechanism.figures, "pruning_mechanism", lambda rows, **_: drawn)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """workload, session, rows of a whole run, and what it reported."""
    reports = []

    def report(what, done, *_):
        reports.append((what, done))

    return *run_in(tmp_path_factory.mktemp("mechanism") / "run", tiny(), report), reports


def of_phase(rows, phase, **columns):
    return where(rows, phase=phase, **columns)


def network(finished, phase="network", **columns):
    """row, variables, masks of a network that a run kept."""
    workload, session, rows, *_ = finished
    (row,) = of_phase(rows, phase, **columns)
    return row, *replicate(session, workload).kept(columns, phase)


def replicate(session, workload):
    return networks.Replicate(session, workload, SEED, workload.load(SEED))


def cycle(regime, number, arm="weight"):
    return {"network": "cycle", "arm": arm, "regime": regime, "cycle": number}


def logits(variables, inputs):
    """The perceptron in NumPy."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    hidden = np.asarray(inputs, np.float64).reshape(len(inputs), -1)
    for number in range(2):
        hidden = np.tanh(hidden) if number else hidden
        hidden = hidden @ params[f"Dense_{number}"]["kernel"] + params[f"Dense_{number}"]["bias"]
    return hidden


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def measured(variables, batch):
    """loss, accuracy in NumPy."""
    found, labels = logits(variables, batch.inputs), np.asarray(batch.labels)
    right = (found.argmax(-1) == labels).mean()
    return -log_softmax(found)[np.arange(len(labels)), labels].mean(), right


def flat(tree, names=KERNELS):
    leaves = trees.named_leaves(tree)
    return np.concatenate([np.asarray(leaves[name]).ravel() for name in names])


def smallest_removed(weights, count, kept=None):
    """What is left of weights in a row without the `count` smallest; those removed go first."""
    size = np.abs(weights) if kept is None else np.where(kept, np.abs(weights), -1)
    left = np.ones(len(weights), bool)
    left[np.argsort(size, kind="stable")[:count]] = False
    return left


def keys():
    return dict(
        zip(
            ("initial", "training", "pruning", "retraining"),
            jax.random.split(jax.random.key(SEED), 4),
            strict=True,
        )
    )


def fitted(workload, recipe, variables, key, kept, *, step=0, **changes):
    """Plain training of one network by hand."""
    task = training.Task(
        models.train_fn(workload.module), models.apply_fn(workload.module), recipe, **changes
    )
    begun = training.start(task, variables, key, EXAMPLES, kept["params"], step=step)
    dataset = workload.load(SEED)
    splits = [replicates.stack([split]) for split in (dataset.train, dataset.validation)]
    *_, (_, progress, _) = training.fit(replicates.stack([begun]), *splits, task=task)
    return replicates.unstack(progress)[0].state.variables


def test_a_run_has_a_row_for_every_measurement_asked_for(finished):
    _, session, rows, _ = finished
    counted = {phase: len(of_phase(rows, phase)) for phase in {row["phase"] for row in rows}}
    assert counted == {
        "network": 1 + 2 + 1 + 2 * 2 + 3 + 1,
        "pruned": 2 * 2 + 1,
        "utility": 2 + 2 * 3 + 3,
        "bands": 1,
        "path": 3 * 2,
        "plane": 2,
        "surface": 2 * 2,
    }
    written = results.read(session.run.path)
    decided = [claim["id"] for claim in written.claims]
    assert decided == sorted(decided) and {"E1", "E2", "E3", "E4", "E5", "E7", "R6"} <= {*decided}
    names = {path.name for path in (session.run.path / "figures").iterdir()}
    assert names == {"figure_1_tiny.svg", "figure_1_tiny.png"}


def test_the_dense_network_is_that_of_a_plain_fit(finished):
    workload, _, _, _ = finished
    row, variables, kept = network(finished, **DENSE)
    initial = models.init(workload.module, keys()["initial"], workload.load(SEED).train.inputs)
    everything = {"params": trees.select(initial["params"], ())}
    assert_same(variables, fitted(workload, WHOLE, initial, keys()["training"], everything))
    assert flat(kept).all() and len(flat(kept)) == PRUNABLE
    assert row["removed"] == 0 and row["prunable"] == PRUNABLE and row["epochs"] == 2
    assert row["parameters"] == PRUNABLE + 2 * 10 and row["empty_layers"] == []


def test_every_row_of_a_network_measures_the_network_kept(finished):
    workload, _, rows, _ = finished
    dataset = workload.load(SEED)
    for row in [*of_phase(rows, "network"), *of_phase(rows, "pruned")]:
        named = ("network", "density", "schedules", "arm", "regime", "cycle")
        columns = {name: row[name] for name in named if name in row}
        _, variables, kept = network(finished, row["phase"], **columns)
        assert not flat(variables)[~flat(kept)].any()
        assert row["removed"] == (~flat(kept)).sum() and row["prunable"] == PRUNABLE
        for split in ("train", "validation", "test"):
            loss, accuracy = measured(variables, getattr(dataset, split))
            np.testing.assert_allclose(row[f"{split}_loss"], loss, rtol=1e-5)
            assert_close(row[f"{split}_accuracy"], accuracy, ROUNDING)


@pytest.mark.parametrize("regime", ["fine_tuning", "learning_rate_rewinding"])
def test_each_cycle_removes_the_smallest_of_what_remains(finished, regime):
    _, weights, _ = network(finished, **DENSE)
    before = np.ones(PRUNABLE, bool)
    for number in (1, 2):
        count = round((1 - 0.7**number) * PRUNABLE)
        row, pruned, kept = network(finished, "pruned", **cycle(regime, number))
        assert row["removed"] == count and row["epochs"] == 2 * number
        expected = smallest_removed(flat(weights), count, before)
        np.testing.assert_array_equal(flat(kept), expected)
        assert not (flat(kept) & ~before).any()
        np.testing.assert_array_equal(flat(pruned), np.where(expected, flat(weights), 0))
        biases = [name for name in trees.named_leaves(weights) if name.endswith("bias")]
        np.testing.assert_array_equal(flat(pruned, biases), flat(weights, biases))
        row, weights, kept = network(finished, **cycle(regime, number))
        assert row["removed"] == count and row["epochs"] == 2 * number + 2
        before = expected
        np.testing.assert_array_equal(flat(kept), expected)


@pytest.mark.parametrize(
    ("regime", "recipe"), [("learning_rate_rewinding", WHOLE), ("fine_tuning", TUNED)]
)
def test_retraining_is_a_plain_fit_of_the_pruned_network(finished, regime, recipe):
    for number in (1, 2):
        _, pruned, kept = network(finished, "pruned", **cycle(regime, number))
        _, retrained, _ = network(finished, **cycle(regime, number))
        key = jax.random.fold_in(keys()["retraining"], number)
        assert_same(retrained, fitted(finished[0], recipe, pruned, key, kept))


def test_rewound_weights_are_those_of_the_epoch(finished):
    workload, session, _, _ = finished
    row, _, kept = network(finished, "pruned", **cycle("weight_rewinding", 1, "rewound"))
    assert row["removed"] == round(0.4 * PRUNABLE)
    first = replicate(session, workload).snapshot(DENSE, 1)
    assert np.abs(flat(first) - flat(network(finished, **DENSE)[1])).max() > 1e-3
    row, retrained, _ = network(finished, **cycle("weight_rewinding", 1, "rewound"))
    key = jax.random.fold_in(keys()["retraining"], 1)
    assert_same(retrained, fitted(workload, WHOLE, first, key, kept, step=STEPS))
    assert row["epochs"] == 3


def test_pruning_in_one_shot_keeps_the_largest_and_trains_the_whole_schedule(finished):
    workload, _, _, _ = finished
    _, weights, _ = network(finished, **DENSE)
    row, retrained, kept = network(finished, network="one_shot", density=0.5)
    np.testing.assert_array_equal(flat(kept), smallest_removed(flat(weights), PRUNABLE // 2))
    key = jax.random.fold_in(keys()["retraining"], 0)
    assert_same(retrained, fitted(workload, WHOLE, weights, key, kept))
    assert row["removed"] == PRUNABLE // 2 and row["epochs"] == 4


@pytest.mark.parametrize("of", ["sizes", "arm"])
def test_small_networks_are_random_and_rescaled(finished, of):
    workload, _, _, _ = finished
    if of == "sizes":
        stages = [{"network": "small", "density": 0.5, "schedules": count} for count in (1, 2)]
        count = PRUNABLE // 2
    else:
        stages, count = [cycle("small", number) for number in (0, 1, 2)], round(0.51 * PRUNABLE)
    _, _, kept = network(finished, **stages[0])
    initial = models.init(workload.module, keys()["initial"], workload.load(SEED).train.inputs)
    left, own = flat(kept), np.abs(flat(initial))
    assert (~left).sum() == count
    np.testing.assert_allclose(own[left].mean(), own[~left].mean(), rtol=0.1)
    start = jax.tree.map(np.array, initial)
    for layer, mask in kept["params"].items():
        mask = np.asarray(mask["kernel"])
        inputs = mask.sum(0)[mask.any(0)].mean()
        start["params"][layer]["kernel"] *= mask * np.sqrt(len(mask) / inputs)
    expected, key = start, keys()["training"]
    for number, stage in enumerate(stages):
        row, variables, mask = network(finished, **stage)
        assert_same(mask, kept)
        assert row["removed"] == count and row["epochs"] == 2 * (number + 1)
        expected = fitted(workload, WHOLE, jax.tree.map(jnp.asarray, expected), key, kept)
        assert_close(variables, expected, NETWORK)
        expected, key = variables, jax.random.fold_in(keys()["retraining"], number + 1)


def test_utilities_are_those_of_brute_force(finished, monkeypatch):
    """Also that ablated weights are of the network, and of its largest where that is asked."""
    workload, session, rows, _ = finished
    seen = []
    real = utility.measure

    def watched(apply_fn, variables, ablations, batch):
        ablations = list(ablations)
        seen.append((variables, ablations, batch))
        return real(apply_fn, variables, ablations, batch)

    monkeypatch.setattr(measures.utility, "measure", watched)
    one, examples = replicate(session, workload), utility_examples(workload)
    for row in of_phase(rows, "utility"):
        named = ("phase", "workload", "seed", "network", "density", "schedules")
        unit = {name: row[name] for name in (*named, "epoch", "among", "ratio") if name in row}
        assert row == unit | measures.utilities(one, unit, examples)
        variables, ablations, batch = seen[-1]
        kept = allowed(finished, row)
        assert row["weights"] == kept.sum() and len(ablations) == row["subsets"] == 4
        found = [brute_force(variables, flat(one), kept, batch, row) for one in ablations]
        divergence, accuracy = np.array(found).T
        assert len({round(value, 12) for value in divergence}) == 4
        columns = ("mean", "std", "minimum", "maximum")
        expected = [getattr(divergence, name)() for name in ("mean", "std", "min", "max")]
        assert_close(np.array([row[name] for name in columns]), np.array(expected), NETWORK)
        columns = ("accuracy_mean", "accuracy_minimum", "accuracy_maximum")
        expected = [getattr(accuracy, name)() for name in ("mean", "min", "max")]
        assert_close(np.array([row[name] for name in columns]), np.array(expected), ROUNDING)
        assert sum(row["counts"]) == 4 and row["edges"][0] <= row["minimum"]
        assert row["examples"] == len(batch.labels) == 40
        assert row["unablated_accuracy"] == pytest.approx(measured(variables, batch)[1])


def utility_examples(workload):
    return data.sample(keys()["pruning"], workload.load(SEED).train, 40)


def allowed(finished, row):
    """The weights that the subsets of a row may hold, in a row; and that it is of its network."""
    columns = {name: row[name] for name in ("network", "density", "schedules") if name in row}
    _, variables, kept = network(finished, **columns)
    if row["among"] < 1:
        return smallest_removed(flat(variables), round((1 - row["among"]) * PRUNABLE))
    return flat(kept)


def brute_force(variables, ablation, kept, batch, row):
    ablated = ~ablation
    assert ablated.sum() == row["subset_size"] == round(row["ratio"] * kept.sum())
    assert not (ablated & ~kept).any()
    parts = np.split(ablation, [640])
    without = jax.tree.map(np.array, variables)
    for number, part in enumerate(parts):
        kernel = without["params"][f"Dense_{number}"]["kernel"]
        kernel *= part.reshape(kernel.shape)
    log_p = log_softmax(logits(variables, batch.inputs))
    log_q = log_softmax(logits(without, batch.inputs))
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()
    return divergence, measured(without, batch)[1]


def test_utilities_during_training_are_of_the_epoch(finished):
    workload, session, rows, _ = finished
    (row,) = of_phase(rows, "utility", epoch=1, ratio=0.1)
    (last,) = of_phase(rows, "utility", epoch="last", among=1.0, ratio=0.1, **DENSE)
    snapshot = replicate(session, workload).snapshot(DENSE, 1)
    batch = utility_examples(workload)
    assert row["unablated_accuracy"] == pytest.approx(measured(snapshot, batch)[1])
    assert row["subset_size"] == last["subset_size"] == round(0.1 * PRUNABLE)
    assert row["mean"] != last["mean"]


def test_bands_are_the_quarters_of_magnitude(finished):
    workload, _, rows, _ = finished
    (row,) = of_phase(rows, "bands", **DENSE)
    _, variables, _ = network(finished, **DENSE)
    batch = utility_examples(workload)
    order = np.argsort(np.abs(flat(variables)), kind="stable")
    asked = {"ratio": 0.25, "subset_size": None}
    for number, band in enumerate(np.array_split(order, 4)):
        ablation = np.ones(PRUNABLE, bool)
        ablation[band] = False
        asked |= {"ratio": len(band) / PRUNABLE, "subset_size": len(band)}
        found = brute_force(variables, ablation, np.ones(PRUNABLE, bool), batch, asked)
        assert_close(row["utility"][number], found[0], NETWORK)
        assert_close(row["accuracy"][number], found[1], ROUNDING)


def between(finished, columns):
    """The pretrained, pruned and retrained network of an arm, and the examples of its surface."""
    found = [network(finished, **DENSE), network(finished, "pruned", **columns)]
    found.append(network(finished, **columns))
    batch = measures.examples_of(replicate(*finished[1::-1]), 40)
    return [variables for _, variables, _ in found], batch


@pytest.mark.parametrize(
    ("name", "regime", "compared"),
    [("weight", "learning_rate_rewinding", 2), ("rewound", "weight_rewinding", 1)],
)
def test_paths_lead_from_the_pretrained_to_the_retrained_network(finished, name, regime, compared):
    (first, _, last), batch = between(finished, cycle(regime, compared, name))
    middle = jax.tree.map(lambda a, b: (np.asarray(a) + np.asarray(b)) / 2, first, last)
    expected = np.array([measured(each, batch) for each in (first, middle, last)]).T
    for moments in asked.MOMENTS:
        (row,) = of_phase(finished[2], "path", arm=name, regime=regime, moments=moments)
        assert row["positions"] == [0.0, 0.5, 1.0] and row["examples"] == 40
        np.testing.assert_allclose(row["loss"], expected[0], rtol=1e-5)
        assert_close(np.array(row["accuracy"]), expected[1], ROUNDING)


@pytest.mark.parametrize("regime", ["fine_tuning", "learning_rate_rewinding"])
def test_a_surface_is_of_the_plane_through_three_networks(finished, regime):
    rows = finished[2]
    corners, batch = between(finished, cycle(regime, 2))
    leaves, structure = jax.tree.flatten(corners[0])
    stops = np.cumsum([leaf.size for leaf in leaves])[:-1]
    origin, pruned, retrained = (
        np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(corner)])
        for corner in corners
    )
    u = (pruned - origin) / np.linalg.norm(pruned - origin)
    v = retrained - origin - (retrained - origin) @ u * u
    v /= np.linalg.norm(v)
    (row,) = of_phase(rows, "plane", arm="weight", regime=regime)
    expected = {"pretrained": origin, "pruned": pruned, "retrained": retrained}
    for name, corner in expected.items():
        place = [(corner - origin) @ u, (corner - origin) @ v]
        assert_close(np.array(row["points"][name]), np.array(place), ROUNDING)
    assert row["paths"]["pretraining"][-1] == pytest.approx([0, 0])
    assert row["paths"]["retraining"][-1] == pytest.approx(row["points"]["retrained"])
    assert [len(path) for path in row["paths"].values()] == [2, 2]
    points = np.array(list(row["points"].values()))
    assert len(row["x"]) == 3 and len(row["y"]) == 2
    for axis, places in zip(points.T, (row["x"], row["y"]), strict=True):
        margin = 0.3 * np.ptp(axis)
        ends = [axis.min() - margin, axis.max() + margin]
        np.testing.assert_allclose([places[0], places[-1]], ends)
    for block, y in enumerate(row["y"]):
        (found,) = of_phase(rows, "surface", arm="weight", regime=regime, block=block)
        assert found["moments"] == "kept"
        for x, loss, accuracy in zip(row["x"], found["loss"], found["accuracy"], strict=True):
            pieces = np.split(origin + x * u + y * v, stops)
            pieces = [part.reshape(leaf.shape) for part, leaf in zip(pieces, leaves, strict=True)]
            expected = measured(jax.tree.unflatten(structure, pieces), batch)
            assert_close(np.array([loss, accuracy]), np.array(expected), NETWORK)


class _Stop(Exception):
    pass


def test_an_interrupted_run_ends_like_a_whole_one(finished, tmp_path, monkeypatch):
    """Killed in the middle of a training, of the utilities of a network, and of a surface.

    It is a part of the whole run, which gives the same rows of it.
    """
    monkeypatch.setattr(jobs, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    config = tiny(arms={"weight": tiny()["workloads"]["tiny"]["arms"]["weight"]})
    config["workloads"]["tiny"] |= empty("sizes", "one_shot", "paths")
    config["workloads"]["tiny"]["arms"]["weight"] |= {"regimes": ("fine_tuning",)}
    session, rows, reports = finished[1:]
    expected = [row for row in rows if in_part(row)]
    whole, seen, tuned = [], [], "regime=fine_tuning cycle=2"
    for what, _ in reports:
        unit = dict(column.split("=") for column in what.split()[2:])
        in_part({"phase": what.split()[0]} | unit) and whole.append(what)
    for text, number in ((tuned, 2), ("utility", 1), ("surface", 1)):
        left = [number]

        def report(what, *_, text=text, left=left):
            seen.append(what)
            left[0] -= text in what
            if not left[0]:
                raise _Stop

        with pytest.raises(_Stop):
            run_in(tmp_path / "run", config, report)
        before = results.read(tmp_path / "run").results
        assert 0 < len(before) < len(expected) and before == expected[: len(before)]
    _, _, found = run_in(tmp_path / "run", config, lambda what, *_: seen.append(what))
    assert found == expected
    again = next(place for place, what in enumerate(whole) if tuned in what) + 1
    assert seen == whole[: again + 1] + whole[again:], "an epoch is taken again, and nothing else"
    metrics = [record for record in results.read(session.run.path).metrics if in_part(record)]
    assert results.read(tmp_path / "run").metrics == metrics


def in_part(row):
    """Whether a row, or what is reported of it, is of training, fine-tuning and their surface."""
    if row["phase"] in ("path", "bands"):
        return False
    of_dense = row.get("network") == "dense" and str(row.get("epoch")) != "last"
    return of_dense or (row.get("arm"), row.get("regime")) == ("weight", "fine_tuning")


def test_what_is_finished_is_not_done_again_but_where_it_is_damaged(finished, tmp_path):
    workload, session, rows, _ = finished
    shutil.copytree(session.run.path, tmp_path / "run")
    stamp = (tmp_path / "run" / "results.jsonl").stat().st_mtime_ns
    seen, expected = [], {}
    assert run_in(tmp_path / "run", tiny(), lambda *report: seen.append(report))[2] == rows
    assert not seen and (tmp_path / "run" / "results.jsonl").stat().st_mtime_ns == stamp
    one = replicate(session, workload)
    trained = [one.job(**DENSE), one.job(**cycle("fine_tuning", 2))]
    pruned = one.job("pruned", **cycle("learning_rate_rewinding", 2))
    for unit in (*trained, pruned):
        folder = tmp_path / "run" / "checkpoints" / tables.folder(unit)
        expected[folder] = checkpointing.load(folder)
        largest = max(folder.rglob("*"), key=lambda file: file.stat().st_size * file.is_file())
        largest.write_bytes(largest.read_bytes()[:-1] + b"?")
    with pytest.warns(checkpointing.DamagedCheckpoint, match="made again"):
        found = run_in(tmp_path / "run", tiny(), lambda what, *_: seen.append(what))
    assert found[2] == rows
    for folder, tree in expected.items():
        assert_same(checkpointing.load(folder), tree)
    again = [tables.name(job) for job in trained for _ in range(2)]
    assert seen == [*again, tables.name(pruned)]


def test_a_study_of_nothing_trains_the_dense_networks(finished, tmp_path):
    config = tiny(**empty("utility", "arms", *MEASURED))
    assert run_in(tmp_path / "run", config)[2] == of_phase(finished[2], "network", **DENSE)


# What channel pruning and batch norms add.


class Normed(nn.Module):
    """A stream of units, and a block that adds to it; norms, but no convolution to compile."""

    classes: int

    @nn.compact
    def __call__(self, x, train=False):
        def layer(x):
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(10)(x))

        x = nn.relu(layer(x.reshape(len(x), -1)))
        return nn.Dense(self.classes)(nn.relu(x + layer(nn.relu(layer(x)))))


NORMS = tuple(f"BatchNorm_{number}/scale" for number in range(3))
PENALTY = methods.build("slimming", strength=1e-2, scales=NORMS)


def scales(variables):
    """Of the units of the stream, then of those inside the block: what each is ranked by."""
    first, inner, second = (
        np.abs(np.asarray(trees.named_leaves(variables)[f"params/{name}"])) for name in NORMS
    )
    return [(first + second) / 2, inner]


def lowest(scores, count):
    """Marks the `count` lowest of several spaces, the last of none."""
    found, order = [np.zeros(len(own), bool) for own in scores], []
    for space, own in enumerate(scores):
        order += [(value, space, place) for place, value in enumerate(own)]
    for _, space, place in sorted(order):
        if count and found[space].sum() < len(found[space]) - 1:
            found[space][place], count = True, count - 1
    return found


@pytest.fixture(scope="module")
def channel_run(tmp_path_factory):
    """workload, session, rows of two cycles of pruning whole units."""
    asked = arm("channels", 0.25, 2, 2, "learning_rate_rewinding", "small", scale_l1=1e-2)
    sections = empty("utility", *MEASURED) | {"paths": {"positions": 3, "examples": 40}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "normed", Normed)
        config = tiny(model={"name": "normed"}, arms={"channel": asked}, **sections)
        yield run_in(tmp_path_factory.mktemp("channels") / "run", config)


def test_channels_are_pruned_and_trained_with_the_penalty_on_scales(channel_run):
    workload, _, _ = channel_run
    task = networks.task_of(workload, "channel")
    assert task.method == PENALTY and workload.pretraining.method == STATIC
    _, before, everything = network(channel_run, **DENSE)
    assert flat(everything, [f"params/Dense_{number}/kernel" for number in range(4)]).all()
    gone = [np.zeros(10, bool)] * 2
    for number, removed in ((1, 5), (2, 8)):
        columns = cycle("learning_rate_rewinding", number, "channel")
        row, pruned, kept = network(channel_run, "pruned", **columns)
        expected = lowest(scales(before), removed)
        for now, earlier, own in zip(scales(pruned), gone, expected, strict=True):
            np.testing.assert_array_equal(now == 0, own)
            assert not (earlier & ~own).any()
        gone = expected
        stream, inner = (10 - own.sum() for own in gone)
        left = 64 * stream + 2 * stream * inner + 10 * stream
        assert row["removed"] == 940 - left and row["prunable"] == 940
        _, before, trained_kept = network(channel_run, **columns)
        key = jax.random.fold_in(keys()["retraining"], number)
        assert_same(before, fitted(workload, WHOLE, pruned, key, kept, method=PENALTY))
        assert_same(trained_kept["params"], kept["params"])


def test_the_state_of_a_path_is_kept_or_estimated(channel_run):
    """With estimated moments a point is in training mode, where moments are those of the batch."""
    workload, _, rows = channel_run
    columns = cycle("learning_rate_rewinding", 2, "channel")
    (first, _, last), batch = between(channel_run, columns)
    assert {row["regime"] for row in of_phase(rows, "path")} == {"learning_rate_rewinding"}
    train_fn, apply_fn = models.train_fn(workload.module), models.apply_fn(workload.module)

    @jax.jit
    def both(params):
        variables = first | {"params": params["params"]}
        inputs = jnp.asarray(batch.inputs)
        trained, _ = train_fn(variables, inputs, jax.random.key(0))
        return {"kept": apply_fn(variables, inputs), "estimated": trained}

    for place, point in ((0, first), (2, last)):
        for moments, found in both(point).items():
            (row,) = of_phase(rows, "path", moments=moments)
            found, labels = np.asarray(found, np.float64), np.asarray(batch.labels)
            loss = -log_softmax(found)[np.arange(len(labels)), labels].mean()
            assert_close(row["loss"][place], loss, NETWORK)
            assert row["accuracy"][place] == (found.argmax(-1) == labels).mean()
    ends = [of_phase(rows, "path", moments=moments)[0]["loss"][2] for moments in asked.MOMENTS]
    assert abs(ends[0] - ends[1]) > 1e-3


def test_small_networks_of_channels_are_random(channel_run):
    _, _, kept = network(channel_run, **cycle("small", 0, "channel"))
    _, _, pruned = network(channel_run, **cycle("learning_rate_rewinding", 2, "channel"))
    masks = [flat(tree, [f"params/{name}" for name in NORMS]) for tree in (kept, pruned)]
    streams, inner = masks[0][[*range(10), *range(20, 30)]].reshape(2, 10), masks[0][10:20]
    assert (streams[0] == streams[1]).all() and (masks[0] != masks[1]).any()
    assert (~streams[0]).sum() + (~inner).sum() == 8
    for number in range(3):
        row, variables, mask = network(channel_run, **cycle("small", number, "channel"))
        assert_same(mask, kept)
        assert row["epochs"] == 2 * (number + 1)
        gone = trees.map_selected(lambda m, leaf: np.asarray(leaf)[~m], mask, variables)
        assert not any(leaf.any() for leaf in jax.tree.leaves(gone))


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_channels_that_are_removed_stay_removed(channel_run, seed):
    """Whatever training does to the weights that are left; drawn at random they are as many."""
    graph, draws = units.graph(channel_run[0].trace), np.random.default_rng(1)
    assert [len(space.layers) for space in graph.prunable] == [2, 1], "a stream and what is inside"
    variables = jax.tree.map(np.asarray, network(channel_run, **DENSE)[1])
    gone = [np.zeros(10, bool)] * 2
    for fraction, count in ((0.5, 10), (0.75, 15)):
        key = None if seed is None else jax.random.key(seed)
        kept = networks.channels(channel_run[0], fraction, variables, key)
        pruned = networks.masks.apply(variables, kept)
        removed = [own == 0 for own in scales(pruned)]
        assert sum(own.sum() for own in removed) == count
        ranked = lowest(scales(variables), count)
        assert np.array_equal(removed, ranked) == (seed is None)
        stay = [not (earlier & ~own).any() for earlier, own in zip(gone, removed, strict=True)]
        assert all(stay) or seed is not None
        gone, left = removed, trees.named_leaves(kept)

        def trained(path, leaf, left=left):
            noise = 0.1 * draws.normal(size=leaf.shape).astype(np.float32)
            return (leaf + noise) * np.asarray(left.get(trees.path_name(path), True))

        variables = jax.tree_util.tree_map_with_path(trained, jax.tree.map(np.asarray, pruned))


def test_prunable_weights_are_those_of_convolutions_or_all(channel_run):
    """A convolution over rows alone is one too, whatever the axes of its kernel."""
    kernels = {"Conv_0": {"kernel": np.ones((3, 1, 2))}, "Dense_0": {"kernel": np.ones((2, 4))}}
    variables = {"params": kernels | {"bias": np.ones(4)}}

    def apply_fn(variables, x):
        kernel = variables["params"]["Conv_0"]["kernel"]
        layout = ("NWC", "WIO", "NWC")
        h = jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=layout)
        params = variables["params"]
        return h.mean(1) @ params["Dense_0"]["kernel"] + params["bias"]

    trace = tracing.trace(apply_fn, variables, np.ones((2, 5, 1), np.float32))
    names = [f"params/{layer}/kernel" for layer in kernels]
    workload = channel_run[0]._replace(kernels=tuple(names), trace=trace)
    for prunable, expected in (("kernels", names), ("convolutions", names[:1])):
        workload = workload._replace(settings=SimpleNamespace(prunable=prunable))
        kept = networks.everything(workload, variables)
        assert [*trees.named_leaves(kept)] == expected and flat(kept, expected).all()


# What is refused.


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("prunable", "biases", "unknown prunable 'biases'.*valid: convolutions, kernels"),
        ("utility.examples", 161, "utility.examples is 161; it must be from 1 to the 160 training"),
        ("utility.examples", 0, "utility.examples is 0; it must be an integer of 1"),
        ("utility.subsets", 2.5, "utility.subsets is 2.5; it must be an integer"),
        ("utility.subsets", 1, "utility.subsets is 1; it must be an integer of 2 or more"),
        ("during_training.epochs", (1, 3), "has 3; networks are kept from epoch 1 to 2"),
        ("during_training.epochs", (0,), "epochs is 0; it must be an integer of 1 or more"),
        ("during_training.epochs", (), "during_training.epochs is empty"),
        ("during_training.ratios", (0.0,), r"ratios is 0.0; it must be a share, in \(0, 1\]"),
        ("during_training.ratios", 0.1, "during_training.ratios is 0.1"),
        ("sizes.ratios", (0.1, 1.5), "sizes.ratios is 1.5"),
        ("sizes.ratios", (0.1, 0.8), "numbers has 0.1, a share of 0.2 .* sizes.ratios lacks"),
        ("sizes.densities", (1.0,), "sizes.densities is 1.0; it must be a share below 1"),
        ("sizes.bands", 0, "sizes.bands is 0"),
        ("one_shot.densities", (-0.5,), "one_shot.densities is"),
        ("one_shot.ratios", (float("nan"),), "one_shot.ratios is"),
        ("arms.weight.prunes", "weight", "unknown prunes 'weight' .did you mean 'weights'"),
        ("arms.weight.prunes", "channels", "'params/Dense_0' has no norm; prune weights"),
        ("arms.weight.share", 1.0, "share is 1.0"),
        ("arms.weight.cycles", 0, "arms.weight.cycles is 0"),
        ("arms.weight.cycle", 2, "field of arms.weight 'cycle' .did you mean 'cycles'"),
        ("arms.weight.epochs", 1, "epochs is 1; where a small network .* must be the 2"),
        ("arms.weight.regimes", ("small", "small"), "none twice"),
        ("surface", {}, "unknown field .* 'surface' .did you mean 'surfaces'"),
        ("surfaces.seeds", 2, "surfaces.seeds is 2; there are 1"),
        ("arms.weight.regimes", ("finetuning",), "unknown regime.*mean 'fine_tuning'"),
        ("arms.weight.compared", 3, "arms.weight.compared is 3; it must be 1 to 2"),
        ("arms.weight.compared", 0, "arms.weight.compared is 0"),
        ("arms.weight.epochs", 3, "rewinding to 3 epochs before the end is not possible"),
        ("arms.weight.epochs", 0, "arms.weight.epochs is 0"),
        ("arms.weight.epochs", 1.5, "epochs is 1.5; it must be an integer"),
        ("arms.weight.scale_l1", -0.1, "arms.weight.scale_l1 is -0.1"),
        ("paths.positions", 2, "paths.positions is 2; it must be an integer of 3 or more"),
        ("paths.examples", 161, "paths.examples is 161"),
        ("surfaces.examples", 0, "surfaces.examples is 0"),
        ("surfaces.arms", ("wieght",), "unknown arm of surfaces 'wieght'.*'weight'"),
        ("surfaces.moments", ("re-estimated",), "moments 're-estimated'.*kept, estimated"),
        ("surfaces.shape", (1, 3), r"surfaces.shape is \(1, 3\)"),
        ("surfaces.shape", 3, "surfaces.shape is 3; it must be rows and columns"),
        ("arms", 3, "arms is 3; give its fields"),
        ("sizes", (0.5,), r"sizes is \(0.5,\); give its fields"),
        ("sizes.densities", ("half",), "sizes.densities is 'half'; it must be a share below 1"),
        ("surfaces.shape", (3,), "it must be rows and columns"),
        ("surfaces.margin", -0.1, "surfaces.margin is -0.1"),
        ("seeds", (), "seeds"),
    ],
)
def test_a_bad_value_is_refused_before_anything_runs(tmp_path, field, value, named):
    config = tiny()
    section = config["workloads"]["tiny"]
    *sections, last = field.split(".")
    for name in sections:
        section = section[name]
    section[last] = value
    with pytest.raises(ValueError, match=named):
        STUDY.build(config)


@pytest.mark.parametrize("name", [*MEASURED, "utility", "arms", "prunable"])
def test_a_missing_section_is_named(name):
    config = tiny()
    del config["workloads"]["tiny"][name]
    with pytest.raises(ValueError, match=name):
        STUDY.build(config)


def test_a_space_keeps_a_channel(monkeypatch):
    monkeypatch.setitem(models.MODELS, "normed", Normed)

    def config(share):
        pruned = {"channel": arm("channels", share, 2, 1, "fine_tuning")}
        return tiny(model={"name": "normed"}, arms=pruned, **empty(*MEASURED))

    STUDY.build(config(0.6))
    with pytest.raises(ValueError, match="would remove 0.990 of 20 channels, and each of the 2"):
        STUDY.build(config(0.9))


@pytest.mark.parametrize("variant", configs.VARIANTS)
def test_the_variants_describe_studies_that_exist(variant, monkeypatch):
    """Only the sizes of CIFAR-10 matter to a check, so blank images stand in for it."""
    real = data.load

    def load(name, *, seed, validation, subset=None):
        if name == "digits":
            return real(name, seed=seed, validation=validation, subset=subset)
        sizes = (subset or 50_000 - validation, validation, 10_000)
        blank = np.float32(0)
        splits = [
            Batch(np.broadcast_to(blank, (size, 32, 32, 3)), np.zeros(size, np.int32))
            for size in sizes
        ]
        return data.Dataset(*splits, 10, name)

    monkeypatch.setattr(studies.workloads.data, "load", load)
    for workload in STUDY.build(configs.get_config(variant).to_dict()):
        jobs = list(measures.utility_jobs(networks.Replicate(None, workload, 1, None)))
        assert len(jobs) == len({tables.name(job) for job in jobs}) > 0
        sizes = workload.settings.sizes
        own = [number / density for number in sizes.numbers for density in (1.0, *sizes.densities)]
        assert set(own) <= set(sizes.ratios), "equal numbers are ratios that are run"


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="'nope'; it must be one of .*'smoke', 'cpu', 'paper'"):
        configs.get_config("nope")

"""Units that train together: found again wherever their trainings were kept."""

import gc
import weakref

import jax
import numpy as np
import pytest

from pruning_jax import data, models, recipes, training
from pruning_jax.lab import checkpointing, replicates, results
from pruning_jax.studies import groups
from pruning_jax.studies.phases import Session
from pruning_jax.types import Batch

SEEDS = (1, 2, 3)
MODULE = models.build("mlp", 3, widths=(2,))
RECIPE = recipes.Recipe(epochs=1, batch_size=2, learning_rate=0.1)
TASK = training.Task(models.train_fn(MODULE), models.apply_fn(MODULE), RECIPE)


@pytest.fixture
def run(tmp_path):
    with results.open_run(tmp_path / "run", {}, study="comparison") as opened:
        yield opened


def unit(seed):
    return {"phase": "pretrained", "workload": "w", "seed": seed}


def start(seed):
    variables = models.init(MODULE, jax.random.key(seed), np.ones((1, 4), np.float32))
    return training.start(TASK, variables, jax.random.key(seed), 8)


def keep(run, step, *seeds):
    """Keeps a group, each replicate of which carries the step and its seed as its best accuracy."""
    progress = replicates.stack([start(seed) for seed in seeds])
    marked = np.array([10 * step + seed for seed in seeds], np.float32)
    groups._keep(run, [unit(seed) for seed in seeds], step, progress._replace(best_accuracy=marked))


def reached(run, *seeds):
    step, found = groups._reached(
        run, [unit(seed) for seed in seeds], [start(seed) for seed in seeds]
    )
    for seed, one in zip(seeds, found, strict=True):
        assert one.best_accuracy == (10 * step + seed if step else -1)
        np.testing.assert_equal(
            *(jax.tree.map(np.asarray, x.state.params) for x in (one, start(seed)))
        )
    return step


def seeds_of(run, *seeds):
    found = groups.equally_far(run, [unit(seed) for seed in seeds])
    return [[member["seed"] for member in group] for group in found]


def test_a_unit_goes_on_from_the_last_group_that_it_was_in(run, monkeypatch):
    monkeypatch.setattr(replicates, "groups", lambda members, need: [members])
    assert seeds_of(run, *SEEDS) == [[1, 2, 3]] and reached(run, *SEEDS) == 0
    keep(run, 3, *SEEDS)
    keep(run, 5, *SEEDS)
    assert seeds_of(run, 3, 1, 4) == [[3, 1], [4]]
    assert [reached(run, *some) for some in [SEEDS, (3, 1), (2,), (4,)]] == [5, 5, 5, 0]
    keep(run, 7, 2)
    keep(run, 9, 2)
    assert seeds_of(run, *SEEDS) == [[1, 3], [2]]
    assert reached(run, 2) == 9 and reached(run, 1, 3) == 5
    assert reached(run, *SEEDS) == 5, "the last step of all three, in two folders"
    assert reached(run, 2, 4) == 0


def test_groups_of_the_same_first_unit_and_size_are_kept_apart(run):
    keep(run, 3, 1, 2)
    keep(run, 5, 1, 3)
    assert reached(run, 2) == 3 and reached(run, 3) == reached(run, 1) == 5


def test_a_group_whose_checkpoints_are_damaged_begins_again(run):
    for step in (3, 5):
        keep(run, step, 1, 2)
    (folder,) = groups._held(run)
    for step in checkpointing.steps(folder):
        (folder / f"{step:08d}" / "CHECKSUMS.json").write_text("{}")
    with pytest.warns(checkpointing.DamagedCheckpoint):
        assert reached(run, 1, 2) == 0


@pytest.mark.parametrize(("together", "held"), [(False, [1, 1, 1, 1]), (True, [2])])
def test_a_group_holds_one_dataset_a_seed_and_lets_go_of_it(run, monkeypatch, together, held):
    if together:
        monkeypatch.setattr(replicates, "groups", lambda members, need: [members])
    units = [unit(seed) | {"criterion": name} for seed in (1, 2) for name in ("obd", "linear")]
    images, ended, alive = [], [], []

    def load(seed):
        split = Batch(jax.random.normal(jax.random.key(seed), (8, 4)), np.arange(8) % 3)
        images.append(weakref.ref(split.inputs))
        return data.Dataset(split, split, split, 3, "toy")

    def finish(trained):
        gc.collect()
        alive.append(sum(image() is not None for image in images))
        for one, dataset, columns, progress in zip(*trained, strict=True):
            assert int(progress.state.step) == 4 and columns == {"seed": one["seed"]}
            np.testing.assert_array_equal(dataset.train.inputs, load(one["seed"]).train.inputs)
        ended.extend(trained.units)

    def begin(unit, dataset):
        assert isinstance(dataset.train.inputs, np.ndarray)
        return groups.Begun(TASK, start(unit["seed"]), {"seed": unit["seed"]})

    groups.train(Session(run, lambda *_: None), units, load, begin, finish)
    assert ended == units and alive == held

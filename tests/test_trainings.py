"""Trainings side by side: what they hold, what they leave, and from where they go on."""

import gc
import weakref

import jax
import numpy as np
import pytest

from pruning_jax import data, models, recipes, training
from pruning_jax.lab import checkpointing, jobs, replicates, results
from pruning_jax.lab.jobs import Lab
from pruning_jax.lab.trainings import Training, train
from pruning_jax.types import Batch

MODULE = models.build("mlp", 3, widths=(2,))
RECIPE = recipes.Recipe(epochs=3, batch_size=2, learning_rate=0.1)
TASK = training.Task(models.train_fn(MODULE), models.apply_fn(MODULE), RECIPE)


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Every epoch is kept."""
    monkeypatch.setattr(jobs, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)


def load(seed):
    split = Batch(np.random.default_rng(seed).normal(size=(8, 4)), np.arange(8) % 3)
    return data.Dataset(split, split, split, 3, "toy")


def start(seed):
    variables = models.init(MODULE, jax.random.key(seed), np.ones((1, 4), np.float32))
    return training.start(TASK, variables, jax.random.key(seed), 8)


def finish(progress, dataset):
    return progress.state.variables, {"steps": int(progress.state.step)}


def asked(*seeds, finish=finish, **more):
    return [
        Training(
            {"phase": "pretrained", "workload": "w", "seed": seed} | more,
            TASK,
            lambda _, seed=seed: start(seed),
            finish,
        )
        for seed in seeds
    ]


def run_in(folder, trainings, *, epochs=99, config=None, load=load):
    """Trains until so many epochs were told, and returns what they were of."""
    told = []
    with results.open_run(folder, config or {}, study="s") as run:
        lab = Lab(run, lambda what, *_: told.append(what), lambda: len(told) >= epochs)
        try:
            train(lab, trainings, load)
        except jobs.Stopped as stop:
            assert "step" in str(stop)
    return told


def kept(folder):
    """The rows of a run, and its networks."""
    paths = sorted(folder.glob("checkpoints/pretrained/*/*"))
    return results.read(folder).results, [checkpointing.load(path) for path in paths]


def middles(folder):
    return sorted(path.parent for path in folder.glob("checkpoints/training/*/*/*/members.json"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_in(folder, asked(1, 2, 3))
    return folder


def assert_whole(folder, whole):
    (rows, networks), wanted = kept(folder), kept(whole)
    assert sorted(rows, key=lambda row: row["seed"]) == wanted[0] and not middles(folder)
    np.testing.assert_equal(networks, wanted[1])


def test_what_is_finished_leaves_its_network_and_no_checkpoint_of_its_middle(whole):
    rows, networks = kept(whole)
    assert [row["steps"] for row in rows] == [12] * 3 and len(networks) == 3
    assert not middles(whole)
    assert [row["step"] for row in results.read(whole).metrics] == [4, 8, 12] * 3


def test_a_training_goes_on_from_its_last_epoch(whole, tmp_path):
    assert len(run_in(tmp_path, asked(1, 2, 3), epochs=2)) == 2 and middles(tmp_path)
    assert len(run_in(tmp_path, asked(1, 2, 3), epochs=3)) == 3
    assert len(run_in(tmp_path, asked(1, 2, 3))) == 9 - 2 - 3
    assert_whole(tmp_path, whole)


def test_damaged_checkpoints_are_named_and_the_training_begins_again(whole, tmp_path):
    run_in(tmp_path, asked(1, 2, 3), epochs=2)
    (folder,) = middles(tmp_path)
    for step in checkpointing.steps(folder):
        (folder / f"{step:08d}" / "CHECKSUMS.json").write_text("{}")
    with pytest.warns(checkpointing.DamagedCheckpoint):
        run_in(tmp_path, asked(1, 2, 3))
    assert_whole(tmp_path, whole)


def test_checkpoints_of_another_run_or_job_are_refused(tmp_path):
    for rate in (0.1, 0.2):
        run_in(tmp_path / str(rate), asked(1), epochs=1, config={"rate": rate})
    (own,), (other,) = (middles(tmp_path / str(rate)) for rate in (0.1, 0.2))
    own.rename(own.with_name("away"))
    other.rename(own)
    with pytest.raises(ValueError, match="is another's: its run is"):
        run_in(tmp_path / "0.1", asked(1), config={"rate": 0.1})


def test_a_network_under_another_s_name_is_refused(whole, tmp_path):
    run_in(tmp_path, asked(1, 2))
    one, two = sorted(tmp_path.glob("checkpoints/pretrained/*/*"))
    one.rename(tmp_path / "x"), two.rename(one), (tmp_path / "x").rename(two)
    with results.open_run(tmp_path, {}, study="s") as run:
        lab = Lab(run, lambda *_: None)
        with pytest.raises(ValueError, match=r"another's: its job.seed is 2, and 1 is asked for"):
            lab.kept({"phase": "pretrained", "workload": "w", "seed": 1})


@pytest.mark.parametrize("gone", ["damaged", "absent"])
def test_a_lost_network_is_made_again(whole, tmp_path, gone):
    run_in(tmp_path, asked(1, 2, 3))
    path = tmp_path / "checkpoints/pretrained/w/seed=2"
    if gone == "absent":
        path.rename(tmp_path / "away")
        told = run_in(tmp_path, asked(1, 2, 3))
    else:
        (path / "CHECKSUMS.json").write_text("{}")
        with pytest.warns(checkpointing.DamagedCheckpoint, match="seed=2.* is made again"):
            told = run_in(tmp_path, asked(1, 2, 3))
    assert len(told) == 3 and "seed=2" in told[0]
    assert_whole(tmp_path, whole)


@pytest.mark.parametrize(("together", "held"), [(False, [1, 1, 1, 1]), (True, [2] * 4)])
def test_a_group_holds_one_dataset_a_seed_and_lets_go_of_it(tmp_path, monkeypatch, together, held):
    if together:
        monkeypatch.setattr(replicates, "groups", lambda members, need: [members])
    images, alive = [], []

    def watched(seed):
        split = Batch(jax.random.normal(jax.random.key(seed), (8, 4)), np.arange(8) % 3)
        images.append(weakref.ref(split.inputs))
        return data.Dataset(split, split, split, 3, "toy")

    def finish(progress, dataset):
        gc.collect()
        alive.append(sum(image() is not None for image in images))
        assert isinstance(dataset.train.inputs, np.ndarray)
        return progress.state.variables, {}

    each = [one for name in ("obd", "linear") for one in asked(1, 2, finish=finish, criterion=name)]
    run_in(tmp_path, each, load=watched)
    assert alive == held

"""Checkpoints against what was saved, through kills, damage and full disks."""

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pruning_jax.lab import checkpointing
from pruning_jax.lab.checkpointing import folders


class State(NamedTuple):
    variables: dict
    optimiser: tuple
    masks: dict
    step: jax.Array
    key: jax.Array


def make_state(seed: int = 0) -> State:
    keys = jax.random.split(jax.random.key(seed), 3)
    layers = {
        "Dense_0": {"kernel": jax.random.normal(keys[0], (5, 4)), "bias": jnp.arange(4.0)},
        "Dense_1": {"kernel": jax.random.normal(keys[1], (4, 3)), "bias": jnp.zeros(3)},
    }
    variables = {"params": layers, "batch_stats": {}}
    masks = jax.tree.map(lambda leaf: leaf > 0 if leaf.ndim == 2 else None, variables)
    optimiser = optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(variables)
    return State(variables, optimiser, masks, jnp.asarray(seed), keys[2])


def same(first, second) -> bool:
    if jax.tree.structure(first) != jax.tree.structure(second):
        return False

    def bits(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return bits(jax.random.key_data(leaf))
        return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()

    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(bits(a) == bits(b) for a, b in pairs)


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def saved(tmp_path) -> Path:
    checkpointing.save(tmp_path / "a", make_state(), metadata={"epoch": 3, "loss": float("nan")})
    return tmp_path / "a"


def test_restore_gives_back_structure_and_bits(saved):
    state = make_state()
    found = checkpointing.restore(saved, make_state(1))
    assert same(found, state)
    assert found.step.weak_type == state.step.weak_type
    assert jax.random.key_impl(found.key) == jax.random.key_impl(state.key)


def test_restored_state_continues_without_compiling_again(saved):
    double = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 2, state.variables))
    double(make_state())
    double(checkpointing.restore(saved, make_state()))
    assert double._cache_size() == 1


def test_restore_without_values(saved):
    state = make_state()._replace(key=None)
    checkpointing.save(saved, state, overwrite=True)
    like = jax.eval_shape(lambda: state)
    assert same(checkpointing.restore(saved, like), state)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "uint32", "bool"])
def test_dtypes_and_scalars(tmp_path, dtype):
    tree = [jnp.ones((2, 3), dtype), jnp.ones((), dtype), np.ones(4, dtype), (3, 0.5, True, None)]
    checkpointing.save(tmp_path / "a", tree)
    found = checkpointing.restore(tmp_path / "a", tree)
    assert same(found[:3], tree[:3])
    assert found[3] == tree[3] and isinstance(found[3][2], bool)
    assert isinstance(found[2], np.ndarray)


def test_other_libraries_trees(tmp_path):
    equinox = pytest.importorskip("equinox")
    nnx = pytest.importorskip("flax.nnx")
    models = [
        equinox.filter(equinox.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)), equinox.is_array),
        nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param),
    ]
    for number, model in enumerate(models):
        checkpointing.save(tmp_path / str(number), model)
        assert same(checkpointing.restore(tmp_path / str(number), model), model)


def test_load_needs_only_the_path(saved):
    found = checkpointing.load(saved)
    assert set(found) == set(State._fields)
    state = make_state()
    kernel = found["variables"]["params"]["Dense_0"]["kernel"]
    assert isinstance(kernel, np.ndarray)
    np.testing.assert_array_equal(kernel, state.variables["params"]["Dense_0"]["kernel"])
    assert found["masks"]["params"]["Dense_0"]["bias"] is None
    assert found["optimiser"][1][0]["count"] == 0
    np.testing.assert_array_equal(found["key"], jax.random.key_data(state.key))


def test_metadata(saved):
    found = checkpointing.metadata(saved)
    assert found["epoch"] == 3 and np.isnan(found["loss"])


def test_inside_a_running_event_loop(tmp_path):
    async def cell():
        checkpointing.save(tmp_path / "a", {"w": np.ones(2)})
        return checkpointing.load(tmp_path / "a")["w"].sum()

    assert asyncio.run(cell()) == 2


def test_plain_orbax_opens_it(saved):
    from orbax.checkpoint import v1 as ocp

    np.testing.assert_array_equal(
        ocp.load(saved)["variables"]["params"]["Dense_0"]["bias"], np.arange(4.0)
    )


def test_nothing_is_pickled_and_nothing_unpickles(saved, monkeypatch):
    import pickle

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    for file in files(saved):
        assert not file.read_bytes().startswith(b"\x80")
        assert file.suffix not in {".pkl", ".pickle", ".npy"}
    checkpointing.restore(saved, make_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s._replace(step=jnp.zeros(2, jnp.int32)),
            r"leaf 'step' .*int32\[\].*int32\[2\]",
        ),
        (lambda s: s._replace(step=jnp.zeros(())), "leaf 'step' .*float32.*is asked for"),
        (lambda s: s._replace(variables={"a": jnp.zeros(1)}), "misses the leaf 'variables/a'"),
        (lambda s: s._replace(masks=None), "not asked for: 'masks/params/Dense_0/kernel'"),
    ],
)
def test_restore_names_the_leaf_that_differs(saved, change, message):
    with pytest.raises(ValueError, match=message):
        checkpointing.restore(saved, change(make_state()))


def test_existing_path_is_replaced_only_when_asked(saved):
    with pytest.raises(ValueError, match="overwrite=True"):
        checkpointing.save(saved, make_state(1))
    assert same(checkpointing.restore(saved, make_state()), make_state())
    checkpointing.save(saved, make_state(1), overwrite=True)
    assert same(checkpointing.restore(saved, make_state()), make_state(1))
    assert os.listdir(saved.parent) == ["a"]


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="is no checkpoint"):
        checkpointing.save(tmp_path / "mine", make_state(), overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "has no leaves"),
        ({"a": {"b": "text"}}, "leaf 'a/b' is a str"),
        ({"a": np.zeros((0, 3))}, r"leaf 'a' .*\(0, 3\)"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, tree, message):
    with pytest.raises(ValueError, match=message):
        checkpointing.save(tmp_path / "a", tree)
    assert not files(tmp_path)


def test_metadata_that_is_no_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        checkpointing.save(tmp_path / "a", make_state(), metadata={"a": object()})
    assert not files(tmp_path)


def test_missing_checkpoint(tmp_path):
    for read in (checkpointing.load, checkpointing.metadata):
        with pytest.raises(FileNotFoundError, match="no checkpoint.*nowhere"):
            read(tmp_path / "nowhere")
    assert checkpointing.latest(tmp_path / "nowhere", make_state()) is None


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_every_damaged_file_is_noticed(saved, damage):
    for file in files(saved):
        if file.stat().st_size == 0 and damage is not Path.unlink:
            continue
        before = file.read_bytes()
        damage(file)
        name = "" if file.name == folders.CHECKSUMS else file.name
        with pytest.raises(ValueError, match=f"{saved} is damaged: its file .*{name}"):
            checkpointing.load(saved)
        file.write_bytes(before)
    checkpointing.load(saved)


def test_empty_folder_is_damage_and_can_be_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="damaged"):
        checkpointing.load(tmp_path / "a")
    checkpointing.save(tmp_path / "a", make_state(), overwrite=True)
    checkpointing.restore(tmp_path / "a", make_state())


def test_steps_keep_the_last(tmp_path):
    assert checkpointing.latest(tmp_path, make_state()) is None
    for step in range(4):
        path = checkpointing.save_step(tmp_path, step, make_state(step), metadata={"step": step})
    assert sorted(os.listdir(tmp_path)) == ["00000002", "00000003"]
    assert checkpointing.metadata(path) == {"step": 3}
    step, state = checkpointing.latest(tmp_path, make_state())
    assert step == 3 and same(state, make_state(3))
    checkpointing.save_step(tmp_path, 4, make_state(4), keep=1)
    assert os.listdir(tmp_path) == ["00000004"]


def test_the_last_step_may_be_bounded(tmp_path):
    assert checkpointing.steps(tmp_path / "nowhere") == []
    for step in (3, 9):
        checkpointing.save_step(tmp_path, step, {"w": jnp.float32(step)})
    assert checkpointing.steps(tmp_path) == [3, 9]
    found = {
        most: checkpointing.latest(tmp_path, {"w": jnp.float32(0)}, most=most)
        for most in (None, 9, 8, 3, 2)
    }
    assert found == {None: (9, {"w": 9.0}), 9: (9, {"w": 9.0})} | dict.fromkeys(
        (8, 3), (3, {"w": 3.0})
    ) | {2: None}


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_damaged_step_is_named_and_the_one_before_it_used(tmp_path, damage):
    for step in (10, 20):
        path = checkpointing.save_step(tmp_path, step, make_state(step))
    damage(max(files(path), key=lambda file: file.stat().st_size))
    with pytest.warns(checkpointing.DamagedCheckpoint, match=f"{path} is damaged"):
        step, state = checkpointing.latest(tmp_path, make_state())
    assert step == 10 and same(state, make_state(10))
    checkpointing.save_step(tmp_path, 15, make_state(15))
    assert sorted(os.listdir(tmp_path)) == ["00000010", "00000015"]
    checkpointing.latest(tmp_path, make_state())


def test_all_steps_damaged(tmp_path):
    path = checkpointing.save_step(tmp_path, 1, make_state())
    for file in files(path):
        file.unlink()
    with pytest.warns(checkpointing.DamagedCheckpoint):
        assert checkpointing.latest(tmp_path, make_state()) is None


def test_another_model_is_not_damage(tmp_path):
    checkpointing.save_step(tmp_path, 1, make_state())
    checkpointing.save_step(tmp_path, 2, make_state())
    with pytest.raises(ValueError, match="misses the leaf"):
        checkpointing.latest(tmp_path, {"another": jnp.zeros(1)})


def test_bad_steps(tmp_path):
    for arguments in ({"step": -1}, {"step": 1, "keep": 0}):
        with pytest.raises(ValueError, match="at least"):
            checkpointing.save_step(tmp_path, tree=make_state(), **arguments)


def test_replacement_cut_between_its_renames(saved, monkeypatch):
    rename = os.rename

    def dies(source, target):
        if target == saved:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpointing.save(saved, make_state(1), overwrite=True)
    monkeypatch.undo()
    assert not saved.exists()
    assert same(checkpointing.restore(saved, make_state()), make_state())
    with pytest.raises(ValueError, match="exists"):
        checkpointing.save(saved, make_state(2))
    checkpointing.save(saved, make_state(2), overwrite=True)
    assert same(checkpointing.restore(saved, make_state()), make_state(2))
    assert os.listdir(saved.parent) == ["a"]


@pytest.mark.parametrize("failing", ["rename", "fsync"])
def test_failing_disk_leaves_what_was_there(saved, monkeypatch, failing):
    actual = getattr(os, failing)

    def fails(*arguments):
        if failing == "fsync" or str(arguments[0]).endswith(".a.writing"):
            raise OSError(30, "Read-only file system")
        return actual(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fails)
        with pytest.raises(OSError, match="Read-only.*choose a folder.*/a'"):
            checkpointing.save(saved, make_state(1), overwrite=True)
    assert same(checkpointing.restore(saved, make_state()), make_state())
    assert os.listdir(saved.parent) == ["a"]


def test_a_path_under_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="choose a folder"):
        checkpointing.save(tmp_path / "file" / "a", make_state())


def test_too_little_space_is_noticed_before_writing(tmp_path, monkeypatch):
    usage = folders.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="No space left"):
        checkpointing.save(tmp_path / "a", make_state())
    assert not files(tmp_path)


FULL_DISK = """
import resource, signal, sys
import numpy as np
from pruning_jax.lab import checkpointing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tree = {"a": np.random.default_rng(0).normal(size=50_000)}
checkpointing.save_step(sys.argv[1], 1, {"a": np.zeros(50_000)})
for limit in (100_000, 300, 0):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpointing.save_step(sys.argv[1], 2, tree)
    except OSError as error:
        assert "free some space" in str(error), error
    else:
        raise SystemExit("not refused")
print(checkpointing.latest(sys.argv[1], tree)[0])
"""


def run_python(program: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no file size limits here")
def test_disk_that_fills_while_orbax_writes(tmp_path):
    with run_python(FULL_DISK, str(tmp_path)) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.strip() == "1"
    assert os.listdir(tmp_path) == ["00000001"]


WRITER = """
import itertools, sys
import numpy as np
from pruning_jax.lab import checkpointing
start = int(sys.argv[2])
for step in itertools.count(start):
    tree = {"w": np.full((40, 40), float(step)), "step": step}
    checkpointing.save_step(sys.argv[1] + "/steps", step, tree)
    checkpointing.save(sys.argv[1] + "/same", tree, overwrite=True)
    print(step, flush=True)
"""


def test_killed_at_any_moment(tmp_path):
    like = {"w": np.zeros((40, 40)), "step": 0}
    generator = random.Random(0)
    written = 0
    for _ in range(10):
        with run_python(WRITER, str(tmp_path), str(written + 1)) as process:
            for _ in range(generator.randint(1, 3)):
                written = int(process.stdout.readline())
            time.sleep(generator.uniform(0, 0.08))
            process.kill()
            rest = process.stdout.read().split()
            assert not process.stderr.read()
        written = int(rest[-1]) if rest else written
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            step, tree = checkpointing.latest(tmp_path / "steps", like)
            replaced = checkpointing.restore(tmp_path / "same", like)
        assert step in (written, written + 1) and tree["step"] == step
        assert np.all(tree["w"] == step)
        assert replaced["step"] in (written, written + 1)
        assert np.all(replaced["w"] == replaced["step"])
    checkpointing.save_step(tmp_path / "steps", written + 2, like)
    checkpointing.save(tmp_path / "same", like, overwrite=True)
    names = itertools.chain(os.listdir(tmp_path), os.listdir(tmp_path / "steps"))
    assert not [name for name in names if name.startswith(".")]


def test_saving_is_silent(tmp_path):
    program = """
import sys
from absl import app, logging
import jax
import numpy as np
from pruning_jax.lab import checkpointing

def main(_):
    logging.set_verbosity(logging.INFO)
    checkpointing.save(sys.argv[1] + "/a", {"w": np.ones(3)})
    checkpointing.load(sys.argv[1] + "/a")
    assert logging.get_verbosity() == logging.INFO

jax.devices()
app.run(main, argv=sys.argv[:1])
"""
    pytest.importorskip("absl")
    with run_python(program, str(tmp_path)) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "", "")

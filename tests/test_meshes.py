"""The mesh: what it refuses, and that a result does not depend on it."""

import pathlib
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from closeness import NETWORK, assert_close

from pruning_jax.lab import meshes, replicates

ROOT = pathlib.Path(__file__).parents[1]
REPLICATES_ALONE = ("2/2", "4/4", "8/8")
BATCHES_SHARED = ("4/1", "8/2")


@pytest.fixture(scope="module")
def found(tmp_path_factory, optimised):
    """What `sharded` computes on meshes of 1, 2, 4 and 8 virtual devices."""
    file = tmp_path_factory.mktemp("sharded") / "found.npz"
    shapes = ("1/1", *REPLICATES_ALONE, *BATCHES_SHARED)
    code = [sys.executable, "-W", "error", "-m", "tests.sharded", "8", str(file), *shapes]
    ended = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr
    arrays = np.load(file)
    by_mesh = {shape: {} for shape in shapes}
    for name in arrays.files:
        shape, _, what = name.partition(" ")
        by_mesh[shape][what] = arrays[name]
    return by_mesh


@pytest.mark.parametrize("shape", REPLICATES_ALONE)
def test_replicates_and_points_give_the_same_bits_on_any_number_of_devices(found, shape):
    """3 replicates, 5 points, 5 subsets and 7 variants, none of which 2, 4 and 8 devices divide."""
    assert found[shape].keys() == found["1/1"].keys() >= {"landscape", "utilities", "probes"}
    for name, value in found["1/1"].items():
        np.testing.assert_array_equal(found[shape][name], value, err_msg=name)


@pytest.mark.parametrize("shape", BATCHES_SHARED)
def test_batches_may_be_shared_by_any_number_of_devices(found, shape):
    """10 examples on 4 devices, whose moments are those of all 10, and held-out 7."""
    trained = found[shape]
    assert len(trained) == len(found["1/1"]) - 3
    for name, value in trained.items():
        assert_close({name: value}, {name: found["1/1"][name]}, NETWORK)
    moved = max(np.ptp(trained[f"{seed} state/params/filters"]) for seed in (1, 2, 3))
    assert moved > 0.1


def test_a_mesh_is_of_all_devices_or_of_some():
    mesh = meshes.make()
    assert mesh.size == len(jax.devices()) and replicates.slots(mesh) == mesh.size
    with meshes.use(meshes.make(1, 1)):
        assert meshes.current().size == 1
    assert meshes.current() == mesh


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((9,), "devices is 9, and there are? 1 cpu device; give at most 1; JAX_NUM_CPU_DEVICES"),
        ((0,), "devices is 0; it must be 1 device or more"),
        ((1.5,), "devices is 1.5; it must be an integer"),
        ((1, 2), r"replicates is 2, which does not divide the 1 devices of the mesh; .* \[1\]"),
        ((1, 0), "replicates is 0"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        meshes.make(*arguments)


def test_a_mesh_that_replicates_do_not_divide_is_refused(monkeypatch):
    devices = [object()] * 6
    monkeypatch.setattr(jax, "devices", lambda: devices)
    with pytest.raises(ValueError, match=r"replicates is 4, .* 6 devices .* \[1, 2, 3, 6\]"):
        meshes.make(6, 4)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ValueError, match="devices is 6, .* 4 processes .* multiple of 4"):
        meshes.make(6)


def test_replicates_fill_the_slots_of_a_mesh(monkeypatch):
    monkeypatch.setattr(replicates, "slots", lambda mesh: 4)
    tree = {"a": np.arange(6.0).reshape(3, 2), "key": jax.random.split(jax.random.key(0), 3)}
    placed = replicates.place(tree, meshes.make())
    np.testing.assert_array_equal(placed["a"], [[0, 1], [2, 3], [4, 5], [4, 5]])
    assert placed["key"].shape == (4,)
    trimmed = replicates.trim(placed, 3)
    np.testing.assert_array_equal(trimmed["a"], tree["a"])


class Device:
    """One of a kind that tells how much memory it has, or that it does not know."""

    def __init__(self, limit, used):
        self.stats = {"bytes_limit": limit, "bytes_in_use": used} if limit else None

    def memory_stats(self):
        return self.stats


@pytest.mark.parametrize(
    ("backend", "need", "limits", "used", "sizes"),
    [
        ("cpu", 1, (100, 100), 0, [2, 2, 2, 1]),  # one a slot, whatever fits
        ("gpu", None, (100, 100), 0, [7]),
        ("gpu", 1, (100, 100), 50, [7]),
        ("gpu", 20, (100, 100), 50, [4, 3]),  # half of 100 holds two of 20 on each device
        ("gpu", 20, (100, 100), 70, [2, 2, 2, 1]),  # less than half is free
        ("gpu", 20, (100, 60), 0, [2, 2, 2, 1]),  # the smallest device decides
        ("gpu", 10, (60, 60), 0, [4, 3]),  # two rounds of 6 at most: of about one size
        ("gpu", 200, (100, 100), 0, [2, 2, 2, 1]),  # one, though it may not fit
        ("gpu", 20, (100, None), 0, [2, 2, 2, 1]),
    ],
)
def test_as_many_replicates_run_together_as_memory_holds(
    monkeypatch, backend, need, limits, used, sizes
):
    mesh = SimpleNamespace(
        shape={meshes.REPLICATES: 2}, local_devices=[Device(limit, used) for limit in limits]
    )
    monkeypatch.setattr(meshes, "current", lambda: mesh)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    asked = need and (lambda item: need * item)
    found = replicates.groups([1, 2, 3, 4, 5, 6, 7], asked)
    assert [len(group) for group in found] == sizes and sum(found, []) == [1, 2, 3, 4, 5, 6, 7]
    assert replicates.groups([], asked) == []

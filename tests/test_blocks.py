"""Sums at many points against one call of the function; `test_meshes` has several devices."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from closeness import ROUNDING, assert_close, largest

from pruning_jax.lab import blocks, meshes

INPUTS = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
POINTS = [np.float32(value) for value in np.linspace(-1, 1, 5)]


@functools.cache
def powers():
    def function(point, shared, chunk):
        values = (chunk["x"] @ shared["w"]) * point["c"]
        return {"sum": values.sum(), "square": (values**2).sum(0), "examples": len(values)}

    return function


def points():
    return ({"c": value, "nothing": None} for value in POINTS)


def found(chunk=7, size=None, of=None):
    shared = {"w": jnp.array([1.0, -2.0, 0.5])}
    chunks = blocks.split({"x": INPUTS}, chunk)
    return list(blocks.sums(powers(), of or points(), shared, chunks, size=size))


def expected():
    values = INPUTS.astype(np.float64) @ [1.0, -2.0, 0.5]
    scaled = [values * c for c in POINTS]
    return [{"values": v, "sum": v.sum(), "square": (v**2).sum()} for v in scaled]


@pytest.mark.parametrize("chunk, size", [(7, None), (3, None), (1, 2), (3, 3), (100, 9)])
def test_sums_are_those_of_every_point_in_order(chunk, size):
    results = found(chunk, size)
    assert len(results) == len(POINTS)
    for got, want in zip(results, expected(), strict=True):
        assert got["examples"] == 7
        assert got["sum"].dtype == np.float64 and got["sum"].shape == ()
        assert_close(got["sum"], want["sum"], ROUNDING, scale=largest(want["values"]))
        assert_close(got["square"], want["square"], ROUNDING)


def test_points_of_jax_and_of_numpy_agree():
    of = ({"c": jnp.float32(value), "nothing": None} for value in POINTS)
    assert [r["sum"] for r in found(of=of)] == [r["sum"] for r in found()]


def test_points_are_drawn_a_block_at_a_time():
    drawn = []

    def drawing():
        for point in points():
            drawn.append(point)
            yield point

    results = blocks.sums(powers(), drawing(), {"w": jnp.ones(3)}, blocks.split({"x": INPUTS}))
    assert not drawn
    next(results)
    assert len(drawn) == 2, "one that is fetched and one that is dispatched"
    assert len(list(results)) == len(POINTS) - 1


def test_sums_stay_on_the_mesh_that_they_began_on(monkeypatch):
    meshes_asked, current = [], meshes.current
    monkeypatch.setattr(meshes, "current", lambda: meshes_asked.append(1) or current())
    results = blocks.sums(powers(), points(), {"w": jnp.ones(3)}, blocks.split({"x": INPUTS}))
    assert len(meshes_asked) == 1
    assert len(list(results)) == len(POINTS) and len(meshes_asked) == 1


def test_no_points_give_no_sums():
    assert list(blocks.sums(powers(), [], {"w": jnp.ones(3)}, [{"x": INPUTS}])) == []


def test_a_function_is_compiled_once_for_a_chunk_shape():
    traced = []

    def function(point, shared, chunk):
        traced.append(chunk.shape)
        return chunk.sum() * point + shared

    for _ in range(2):
        list(blocks.sums(function, POINTS, 0.0, blocks.split(INPUTS, 2)))
    assert sorted(set(traced)) == [(1, 3), (2, 3)] and len(traced) == 2


def test_chunks_cover_the_examples_in_order():
    chunks = blocks.split({"x": jnp.asarray(INPUTS), "y": jnp.arange(7)}, 3)
    assert [len(chunk["y"]) for chunk in chunks] == [2, 2, 3]
    np.testing.assert_array_equal(np.concatenate([chunk["x"] for chunk in chunks]), INPUTS)
    assert len(blocks.split(INPUTS)) == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: blocks.sums(powers(), [], {}, []), "chunks is empty"),
        (lambda: blocks.sums(powers(), [], {}, [{}], size=0), "size is 0"),
        (lambda: blocks.sums(powers(), [], {}, [{}], size=2.5), "size is 2.5; .* integer"),
        (lambda: blocks.split(INPUTS, 0), "chunk is 0"),
        (lambda: blocks.split(INPUTS, 2.5), "chunk is 2.5; .* integer"),
        (lambda: blocks.split(INPUTS[:0]), "examples"),
        (lambda: blocks.split((INPUTS, INPUTS[:2])), r"\[2, 7\] examples"),
        (lambda: found(of=[{"c": 1.0}, {"d": 1.0}]), "structure"),
        (lambda: found(of=[{"c": 1.0}, {"c": np.ones(2)}]), "shapes"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Networks as programs: run by a process that cannot import this package, and what is refused."""

import os
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import NETWORK, assert_close, assert_same
from networks import NETWORKS, draw
from unit_networks import UNIT_NETWORKS

import pruning_jax as pj

EVERY = NETWORKS | UNIT_NETWORKS
RUN = """
import pathlib, sys
sys.modules["pruning_jax"] = None  # whatever imports it fails
import numpy as np
from jax import export
from safetensors.numpy import load_file
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    arrays = load_file(path)
    program = export.deserialize(arrays.pop("program"))
    inputs = np.load(path.with_suffix(".npy"))
    outputs = {str(n): program.call(arrays, inputs[:n]) for n in (1, len(inputs))}
    np.savez(path.with_suffix(".npz"), **outputs)
"""


def removed(graph):
    """Every third unit of every space; of grouped convolutions the same of every group."""
    return {space.name: np.arange(space.size) % 3 != 1 for space in graph.prunable}


def pruned_by_weights(function, variables, inputs):
    masks = pj.prune(pj.trace(function, variables, inputs), variables, "magnitude", 0.7)
    return function, pj.masks.apply(variables, masks)


def folded(function, variables, inputs):
    graph = pj.units.graph(pj.trace(function, variables, inputs))
    batch = pj.Batch(inputs, jnp.zeros(len(inputs), int))
    means = pj.curvature.unit_means(graph, variables, batch)
    found = pj.replacement.fold_means(graph, variables, means, removed(graph), missing="skip")
    return graph, found.variables


def compacted(function, variables, inputs):
    graph, variables = folded(function, variables, inputs)
    small = pj.compact(graph, variables, removed(graph))
    return small.apply_fn, small.variables


def with_responses(function, variables, inputs):
    graph = pj.units.graph(pj.trace(function, variables, inputs))
    batch = pj.Batch(inputs, jnp.zeros(len(inputs), int))
    means = pj.curvature.unit_means(graph, variables, batch)
    added = pj.replacement.responses(graph, variables, means, removed(graph))
    small = pj.compact(graph, variables, removed(graph), added=added)
    return small.apply_fn, small.variables


CASES = {
    **{f"weights {name}": (pruned_by_weights, name) for name in ("nnx", "chain")},
    **{f"means {name}": (folded, name) for name in ("equinox", "layer_normed")},
    **{f"compact {name}": (compacted, name) for name in ("equinox", "attention")},
    "responses": (with_responses, "chain"),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """What each case's network gives here, and what its program gave in another process."""
    folder, expected = tmp_path_factory.mktemp("exported"), {}
    for case, (change, name) in CASES.items():
        function, variables, inputs = EVERY[name]()
        model, variables = change(function, variables, inputs)
        pj.export(model, variables, inputs, folder / f"{case}.safetensors")
        np.save(folder / f"{case}.npy", inputs)
        model = function if isinstance(model, pj.units.UnitGraph) else model
        expected[case] = jax.jit(model)(variables, inputs)
    command = [sys.executable, "-c", RUN, str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {case: dict(np.load(folder / f"{case}.npz")) for case in CASES}
    return expected, found, folder


@pytest.mark.parametrize("case", CASES)
def test_a_program_gives_what_the_network_gives_for_any_number_of_examples(exported, case):
    expected, found, _ = exported
    assert found[case].keys() == {"1", str(len(expected[case]))}
    for examples, outputs in found[case].items():
        assert_close(outputs, expected[case][: int(examples)], NETWORK)


def test_weights_are_beside_the_program_and_not_in_it(exported):
    folder = exported[-1]
    arrays = pj.tensorfiles.read(folder / "weights nnx.safetensors")[0]
    weights = max(array.nbytes for name, array in arrays.items() if name != "program")
    kernel = next(array for array in arrays.values() if array.nbytes == weights)
    assert kernel.tobytes() not in arrays["program"].tobytes()


def test_the_file_is_one_of_save_too(tmp_path):
    variables = {"w": draw(0, 4, 3)}
    pj.export(
        lambda v, x: x @ v["w"], variables, draw(1, 2, 4), tmp_path / "n", metadata={"a": [1]}
    )
    found = pj.load(tmp_path / "n", like=variables)
    assert_same(found.variables, variables)
    assert found.metadata == {"a": [1]}


def called(path, *inputs):
    """What the program in a file returns."""
    arrays = pj.tensorfiles.read(path)[0]
    program = jax.export.deserialize(arrays.pop("program"))
    return program, program.call(arrays, *inputs)


def test_inputs_and_outputs_may_be_trees_and_variables_of_any_type(tmp_path):
    variables = {"w": draw(0, 4, 3).astype(jnp.bfloat16), "key": jax.random.key(2), "none": None}

    def model(v, inputs):
        noise = jax.random.normal(v["key"], (3,), jnp.bfloat16)
        return {"out": inputs["ids"], "logits": (inputs["x"] @ v["w"] + noise, None)}

    inputs = {"x": draw(1, 2, 4).astype(jnp.bfloat16), "ids": jnp.arange(2)}
    shapes = jax.eval_shape(lambda: inputs)
    pj.export(model, variables, shapes, tmp_path / "n", platforms=["cpu", "cuda"])
    program, outputs = called(tmp_path / "n", inputs)
    assert program.platforms == ("cpu", "cuda")
    assert_same(outputs, jax.jit(model)(variables, inputs))


def folds(v, x):
    """A model that wants to know the number of its examples."""
    return x @ v if x.shape[0] > 2 else -x @ v


def test_a_program_of_so_many_examples_is_made_where_it_cannot_be_of_any(tmp_path):
    weights, inputs = draw(0, 4, 3), draw(1, 3, 4)
    with pytest.raises(ValueError, match="for any number of examples; examples=1, .*inconclusive"):
        pj.export(folds, weights, inputs, tmp_path / "n")
    pj.export(folds, weights, inputs, tmp_path / "n", examples=3)
    program, outputs = called(tmp_path / "n", inputs)
    assert_close(outputs, inputs @ weights, NETWORK)
    with pytest.raises(ValueError):
        program.call({"variables/": weights}, inputs[:2])


def counts(v, x):
    """A model that has NumPy count its examples, as a class token that is tiled does."""
    return x @ v + np.zeros((x.shape[0], 1), np.float32)


def test_a_model_that_counts_its_examples_is_exported_by_one_of_them(tmp_path):
    weights, inputs = draw(0, 4, 3), draw(1, 3, 4)
    pj.export(counts, weights, inputs, tmp_path / "n")
    assert_close(called(tmp_path / "n", inputs[:2])[1], inputs[:2] @ weights, NETWORK)
    with pytest.raises(ValueError, match="give arrays as inputs, not their shapes, to compare"):
        pj.export(counts, weights, jax.eval_shape(lambda: inputs), tmp_path / "n")


class Outputs(NamedTuple):
    logits: jax.Array


@pytest.mark.parametrize(
    ("model", "inputs", "options", "message"),
    [
        ("net", jnp.ones((2, 4)), {}, "a model is a function, a Trace or a UnitGraph, not str"),
        (lambda v, x: x @ v, jnp.ones((2, 5)), {}, r"failed for inputs of shape .*\(2, 5\).*Type"),
        (lambda v, x: x @ v, jnp.float32(2), {}, r"examples on axis 0; one has the shape \(\)"),
        (lambda v, x: Outputs(x @ v), jnp.ones((2, 4)), {}, "dicts, lists and tuples .*Outputs"),
        (lambda v, x: x @ v, jnp.ones((2, 4)), {"platforms": "gpu"}, "unknown platform 'gpu'"),
        (lambda v, x: x @ v, jnp.ones((2, 4)), {"examples": 0}, "examples is 0; it must be 1"),
        (lambda v, x: x @ v, jnp.ones((2, 4)), {"metadata": {1: 2}}, "does not come back"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    tmp_path, model, inputs, options, message
):
    with pytest.raises(ValueError, match=message):
        pj.export(model, jnp.ones((4, 3)), inputs, tmp_path / "n", **options)
    assert os.listdir(tmp_path) == []


def test_shapes_in_place_of_variables_are_refused(tmp_path):
    shapes = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    with pytest.raises(ValueError, match="'variables/' is a ShapeDtypeStruct"):
        pj.export(lambda v, x: x @ v, shapes, jnp.ones((2, 4)), tmp_path / "n")


def test_without_flatbuffers_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'pruning_jax\[export\]'"):
        pj.export(lambda v, x: x @ v, jnp.ones((4, 3)), jnp.ones((2, 4)), tmp_path / "n")

"""Networks as ONNX files, against what ONNX Runtime makes of them."""

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import NETWORK, assert_close
from networks import draw
from test_exporting import EVERY, compacted, folded, pruned_by_weights

from pruning_jax import onnx, units

REASON = "jax2onnx is not installed: extra 'onnx'"
installed = pytest.mark.filterwarnings("ignore:::jax2onnx", "ignore:::onnx")


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("jax2onnx", reason=REASON)
    return pytest.importorskip("onnxruntime", reason=REASON)


CASES = {
    "weights, CNN with pools": (pruned_by_weights, "chain"),
    "means, CNN with pools": (folded, "chain"),
    "compact, CNN with pools": (compacted, "chain"),
    "weights, transformer block": (pruned_by_weights, "attention"),
    "compact, transformer block": (compacted, "attention"),
    "compact, vision transformer": (compacted, "vision_transformer"),
}


@installed
@pytest.mark.parametrize("case", CASES)
def test_a_file_gives_what_the_network_gives_for_any_number_of_examples(case, tmp_path, runtime):
    change, name = CASES[case]
    function, variables, inputs = EVERY[name]()
    model, variables = change(function, variables, inputs)
    onnx.export(model, variables, inputs, tmp_path / "network.onnx")
    session = runtime.InferenceSession(tmp_path / "network.onnx")
    function = function if isinstance(model, units.UnitGraph) else model
    expected = jax.jit(function)(variables, inputs)
    for examples in (1, len(inputs)):
        (found,) = session.run(["outputs"], {"inputs": np.asarray(inputs[:examples])})
        assert_close(found, expected[:examples], NETWORK)


def model(variables, inputs):
    return {"logits": inputs["x"] @ variables["w"], "ids": inputs["ids"] + 1}


@installed
def test_inputs_and_outputs_have_the_names_of_leaves(tmp_path, runtime):
    variables, x = {"w": draw(0, 4, 3)}, draw(1, 5, 4)
    inputs = {"x": x, "ids": jnp.arange(5)}
    onnx.export(model, variables, inputs, tmp_path / "network.onnx", examples=2)
    session = runtime.InferenceSession(tmp_path / "network.onnx")
    given = {"inputs/x": np.asarray(x[:2]), "inputs/ids": np.arange(2, dtype=np.int32)}
    logits, ids = session.run(["outputs/logits", "outputs/ids"], given)
    assert_close(logits, x[:2] @ variables["w"], NETWORK)
    assert ids.tolist() == [1, 2]


@installed
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda v, x: x @ v - (x @ v).mean(0), "mixes examples|treats one example apart"),
        (lambda v, x: jax.lax.fft(x @ v, "FFT", (3,)).real, "cannot be made an ONNX file|gives"),
        (lambda v, x: x @ v[:2], "the model failed for inputs of shape"),
    ],
)
def test_what_cannot_be_converted_is_refused_before_anything_is_written(
    function, message, tmp_path, runtime
):
    with pytest.raises(ValueError, match=message):
        onnx.export(function, draw(0, 4, 3), draw(1, 5, 4), tmp_path / "network.onnx")
    assert os.listdir(tmp_path) == []


@installed
def test_what_gives_other_values_is_refused(tmp_path, runtime, monkeypatch):
    monkeypatch.setitem(onnx._POOLS, "reduce_window_max", onnx._POOLS["reduce_window_min"])

    def pooled(v, x):
        return jax.lax.reduce_window(x @ v, -jnp.inf, jax.lax.max, (1, 2), (1, 1), "SAME")

    with pytest.raises(ValueError, match="gives other values than the model for 'outputs'"):
        onnx.export(pooled, draw(0, 4, 3), draw(1, 5, 4), tmp_path / "network.onnx")


def test_without_jax2onnx_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'pruning_jax\[onnx\]'"):
        onnx.export(model, {}, jnp.ones((2, 4)), tmp_path / "network.onnx")

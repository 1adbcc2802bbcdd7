"""Networks in files: what comes back, what other programs read, what is refused."""

import json
import os
from typing import NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from closeness import ROUNDING, assert_close, assert_same
from flax import nnx
from flax.core import FrozenDict
from networks import draw

import pruning_jax as pj
from pruning_jax import trees

BITS = draw(0, 3, 4)
DTYPES = [
    *(jnp.float32, jnp.float16, jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.complex64),
    *(jnp.int32, jnp.int16, jnp.int8, jnp.uint32, jnp.uint16, jnp.uint8, jnp.bool_),
]


class Layer(NamedTuple):
    kernel: jax.Array
    bias: jax.Array | None


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.safetensors"


def there_and_back(path, variables, like=None, **options):
    pj.save(path, variables, **options)
    return pj.load(path, like=like)


@pytest.mark.parametrize(
    "tree",
    [
        BITS,
        {"a": {"kernel": BITS, "bias": None}, "b": [BITS, (BITS, None)], "c": (), "d": {}, "e": []},
        [(BITS, {10: BITS, 2: (BITS,)}), None],
        {"scalar": jnp.float32(2), "empty": jnp.zeros((0, 3)), "odd": jnp.ones(3, jnp.int8)},
        {"~/linear/w": BITS, 'é"\\': BITS, "": {"": BITS}},
    ],
)
def test_dicts_lists_tuples_and_none_come_back_as_they_were(path, tree):
    found = there_and_back(path, tree)
    assert found[1:] == (None, None, {})
    assert_same(found.variables, tree)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found.variables))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_every_type_keeps_its_bits(path, dtype):
    array = jnp.asarray(np.float32([0, 1, -1.5, 2.7]), dtype)
    found = there_and_back(path, {"x": array}).variables["x"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(
        np.asarray(found).view(np.uint8), np.asarray(array).view(np.uint8)
    )


def test_types_that_jax_lacks_stay_numpy_arrays(path):
    tree = {"wide": np.float64([1 / 3]), "long": np.int64([2**40]), "swapped": np.float32([2, 3])}
    tree["swapped"] = tree["swapped"].astype(">f4")[::-1]
    found = there_and_back(path, tree).variables
    assert isinstance(found["wide"], np.ndarray) and found["wide"].dtype == np.float64
    assert_same(found, tree)


def test_random_keys_draw_the_same_numbers(path):
    keys = {"a": jax.random.key(3), "b": jax.random.split(jax.random.key(4, impl="rbg"))}
    found = there_and_back(path, keys, like=jax.eval_shape(lambda: keys)).variables
    assert found["b"].dtype == keys["b"].dtype and found["b"].shape == (2,)
    draws = [[jax.random.uniform(tree["a"]), jax.random.uniform(tree["b"][1])]
             for tree in (found, keys)]  # fmt: skip
    assert_same(*draws)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Dense(6)(x)))
        return nn.Dense(3)(x)


def linen():
    return Net().init(jax.random.key(0), BITS)


def nnx_state():
    return nnx.state(
        nnx.Sequential(nnx.Linear(4, 6, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1)))
    )


def equinox():
    return eqx.partition(eqx.nn.MLP(4, 3, 6, 2, key=jax.random.key(0)), eqx.is_array)[0]


@pytest.mark.parametrize(
    "make", [linen, nnx_state, equinox, lambda: FrozenDict(linen()), lambda: [Layer(BITS, None)]]
)
def test_modules_come_back_as_dicts_or_as_what_they_were_with_like(path, make):
    tree = make()
    found = there_and_back(path, tree)
    named, expected = trees.named_leaves(found.variables), trees.named_leaves(tree)
    assert named.keys() == expected.keys()
    for name, leaf in expected.items():
        assert named[name].dtype == leaf.dtype and (named[name] == leaf).all()
    for like in (tree, jax.eval_shape(lambda: tree)):
        again = pj.load(path, like=like).variables
        assert jax.tree.structure(again) == jax.tree.structure(tree)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), again, tree)))


def plain(variables, x):
    first, (kernel, bias) = variables["first"], variables["last"]
    return jax.nn.relu(x @ first["kernel"] + first["bias"]) @ kernel + bias


@pytest.fixture(scope="module")
def network():
    """A network pruned by weights and by units, its units' means folded, and cut out."""
    first = {"kernel": draw(1, 4, 8), "bias": draw(2, 8)}
    variables = {"first": first, "last": (draw(3, 8, 3), draw(4, 3))}
    batch = pj.Batch(draw(5, 20, 4), jnp.arange(20) % 3)
    masks = pj.prune(plain, variables, "quadratic", 0.5, batches=batch)
    graph = pj.units.graph(pj.trace(plain, variables, batch.inputs))
    statistics = pj.curvature.unit_statistics(graph, variables, batch)
    scores = pj.criteria.unit_scores("abs_mrs", graph, variables, statistics=statistics)
    unit_masks = pj.units.from_scores(scores, 0.5)
    folded = pj.replacement.fold_means(graph, variables, statistics.means, unit_masks).variables
    return variables, batch.inputs, masks, graph, unit_masks, folded


def test_masks_of_weights_come_back_beside_the_weights(path, network):
    variables, inputs, masks, *_ = network
    found = there_and_back(path, variables, masks=masks, metadata={"sparsity": 0.5, "seeds": [1]})
    assert_same(found.variables, variables)
    assert_same(found.masks, masks)
    assert found.metadata == {"sparsity": 0.5, "seeds": [1]}
    pruned = pj.masks.apply(found.variables, found.masks)
    assert_same(plain(pruned, inputs), plain(pj.masks.apply(variables, masks), inputs))


def test_masks_are_bytes_in_the_file_and_other_programs_read_all_of_it(path, network):
    variables, _, masks, _, unit_masks, _ = network
    variables = variables | {"half": jnp.bfloat16([1, 2.5])}
    pj.save(path, variables, masks=masks | {"half": None}, unit_masks=unit_masks)
    found = safetensors.numpy.load_file(path)
    for name, leaf in trees.named_leaves(variables).items():
        np.testing.assert_array_equal(found.pop(f"variables/{name}"), leaf)
    expected = {f"masks/{name}": leaf for name, leaf in trees.named_leaves(masks).items()}
    expected |= {f"unit_masks/{name}": leaf for name, leaf in unit_masks.items()}
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        assert found[name].dtype == np.uint8
        np.testing.assert_array_equal(found[name], leaf)


def test_a_compact_network_comes_back_with_its_unit_masks(path, network):
    variables, inputs, _, graph, unit_masks, folded = network
    small = pj.compact(graph, folded, unit_masks)
    found = there_and_back(path, small.variables, unit_masks=small.unit_masks)
    assert_same(found.variables, small.variables)
    assert found.unit_masks.keys() == small.unit_masks.keys()
    zeros = jax.tree.map(jnp.zeros_like, variables)
    again = pj.compact(graph, zeros, found.unit_masks)
    found = pj.load(path, like=again.variables)
    assert_close(again.apply_fn(found.variables, inputs), plain(folded, inputs), ROUNDING)


@pytest.mark.parametrize("make", [linen, nnx_state, equinox])
def test_masks_come_back_in_the_structure_of_like(path, make):
    variables = make()
    kernels = [n for n, leaf in trees.named_leaves(variables).items() if leaf.ndim == 2]
    masks = jax.tree.map(lambda leaf: leaf > 0, trees.select(variables, kernels))
    found = there_and_back(path, variables, like=variables, masks=masks)
    assert_same(found.masks, masks)


def test_a_failing_write_leaves_what_was_there(path, monkeypatch):
    pj.save(path, [BITS])
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        pj.save(path, [BITS + 1])
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_a_file_is_replaced_and_readable_as_any_other(path):
    pj.save(path, [BITS])
    pj.save(str(path), [BITS + 1])
    assert_same(pj.load(str(path)).variables, [BITS + 1])
    path.with_name("other").write_text("")
    assert path.stat().st_mode == path.with_name("other").stat().st_mode


@pytest.mark.parametrize(
    ("variables", "options", "message"),
    [
        ({"eps": 0.1}, {}, "'variables/eps' is a float, 0.1; .*must be arrays: jnp.asarray"),
        ({"act": jax.nn.relu}, {}, "'variables/act' is a .*must be arrays: .*eqx.partition"),
        ({"x": jax.ShapeDtypeStruct((2,), "float32")}, {}, "'variables/x' is a ShapeDtypeStruct"),
        ({"x": np.array(["a"])}, {}, "'variables/x' is of <U1, and can be of float64, "),
        ({"x": jnp.ones(2, jnp.int4)}, {}, "'variables/x' is of int4, and can be of float64, "),
        ({"a/b": BITS, "a": {"b": BITS}}, {}, "two leaves are named 'a/b'"),
        ({(1, 2): BITS}, {}, r"a dict with the key \(1, 2\); texts and whole numbers can be kept"),
        ([BITS], {"masks": [BITS]}, "'masks/0' is of float32; a mask is of booleans"),
        ([BITS], {"masks": [BITS[0] > 0]}, r"masks has shape \(4,\) at '0', .* leaf has \(3, 4\)"),
        ([BITS], {"masks": {"a": BITS > 0}}, "masks has a leaf 'a'; the leaves are 0"),
        ([BITS], {"unit_masks": [BITS > 0]}, "unit_masks map unit spaces to booleans; .* a list"),
        ([BITS], {"unit_masks": {"a": BITS > 0}}, r"unit mask 'a' has shape \(3, 4\), not \(size"),
        ([BITS], {"unit_masks": {"a": BITS[0]}}, "'unit_masks/a' is of float32; a mask is of bool"),
        ([BITS], {"metadata": {"x": BITS}}, "JSON cannot hold it"),
        ([BITS], {"metadata": {"x": float("nan")}}, "JSON cannot hold it"),
        ([BITS], {"metadata": {1: 2}}, "does not come back from JSON as it is; .*texts for keys"),
        ([BITS], {"metadata": "note"}, "must be a dict"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_written(
    path, variables, options, message
):
    with pytest.raises(ValueError, match=message):
        pj.save(path, variables, **options)
    assert os.listdir(path.parent) == []


def test_values_that_are_not_known_are_refused(path):
    with pytest.raises(ValueError, match="'variables/0' has no values under jit"):
        jax.jit(lambda x: pj.save(path, [x]))(BITS)


@pytest.mark.parametrize("where", ["", "/absent/network.safetensors"])
def test_a_path_to_no_file_is_refused(tmp_path, where):
    with pytest.raises(OSError, match="is a folder|there is no folder .*absent"):
        pj.save(f"{tmp_path}{where}", [BITS])


def test_a_file_that_is_not_there_is_named_with_those_beside_it(path):
    pj.save(path, [BITS])
    with pytest.raises(FileNotFoundError, match="netwrk.safetensors; there is network.safetensors"):
        pj.load(path.with_name("netwrk.safetensors"))


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": BITS}, r"float32 of shape \(3, 4\) at 'b', and like has nothing"),
        (
            {"a": BITS, "b": BITS, "c": BITS},
            r"nothing at 'c', and like has float32 of shape \(3, 4",
        ),
        ({"a": BITS, "b": BITS.T}, r"float32 of shape \(3, 4\) at 'b', .* of shape \(4, 3\)"),
        ({"a": BITS.astype(jnp.bfloat16), "b": BITS.T}, "at 'a', and like has bfloat16"),
        ({"a": BITS, "b": 1.0}, "at 'b', and like has a float"),
        ([BITS, BITS], "nothing at '0'"),
    ],
)
def test_a_file_of_another_structure_names_the_first_leaf_that_differs(path, like, message):
    pj.save(path, {"a": BITS, "b": BITS})
    with pytest.raises(ValueError, match=f"network.safetensors has .*{message}"):
        pj.load(path, like=like)


def test_a_file_of_another_program_is_refused_with_the_way_to_read_it(path):
    safetensors.numpy.save_file({"w": np.asarray(BITS)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="another program.*: w; read them by safetensors.numpy"):
        pj.load(path)


def test_a_file_that_is_cut_short_anywhere_or_goes_on_is_refused(path):
    pj.save(path, {"a": jnp.arange(3), "b": jnp.ones(2, jnp.int8)})
    size = path.stat().st_size
    for other in (size + 1, *reversed(range(size))):
        os.truncate(path, other)
        with pytest.raises(ValueError, match="is damaged, truncated or no safetensors file"):
            pj.load(path)


def test_every_byte_that_is_changed_is_noticed(path):
    pj.save(path, {"a": jnp.arange(3), "b": jnp.ones(2, jnp.int8)}, metadata={"note": "é"})
    with path.open("r+b") as file:
        for place, byte in enumerate(path.read_bytes()):
            os.pwrite(file.fileno(), bytes([byte ^ 1]), place)
            with pytest.raises(ValueError, match="is damaged|was written by another program"):
                pj.load(path)
            os.pwrite(file.fileno(), bytes([byte]), place)
    pj.load(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
        {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**64]},
        {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]},
        {"dtype": "F4", "shape": [32], "data_offsets": [0, 16]},
        {"shape": [4], "data_offsets": [0, 16]},
        [1],
        None,
    ],
)
def test_a_header_that_says_what_is_not_there_is_refused(path, entry):
    header = json.dumps({"x": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(ValueError, match="is damaged, truncated or no safetensors file"):
        pj.load(path)


def test_bits_of_half_precision_agree_with_the_library(path):
    array = np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3)
    pj.save(path, {"x": array})
    with safetensors.safe_open(path, "np") as file:
        np.testing.assert_array_equal(file.get_tensor("variables/x"), array)

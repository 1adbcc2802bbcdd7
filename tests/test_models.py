"""The table of networks: sizes, modes, determinism, and what `models.build` refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import NETWORK, ROUNDING, assert_close

from pruning_jax import models, trees
from pruning_jax.models import layers, resnet

SMALL = {
    "mlp": ((8, 8, 1), {"widths": (7, 5)}),
    "lenet_300_100": ((8, 8, 1), {"widths": (7, 5)}),
    "small_conv": ((8, 8, 1), {"widths": (3, 4, 5, 6, 7), "padding": "SAME", "batch_norm": True}),
    "medium_conv": ((8, 8, 2), {"widths": (3, 4, 5, 6, 7), "padding": "SAME"}),
    "vgg11": ((32, 32, 3), {"widths": (2, 2, 3, 3, 2, 2, 2, 2)}),
    "resnet": ((8, 8, 3), {"depth": 8, "widths": (2, 3, 4)}),
    "preact_resnet18": ((8, 8, 3), {"widths": (2, 3, 4, 5)}),
    "alexnet": ((63, 63, 1), {"widths": (2, 3, 2, 3, 2, 5, 4)}),
}


@pytest.fixture(params=SMALL, scope="module")
def network(request):
    """Every row of the table at a small size: module, variables, inputs."""
    shape, fields = SMALL[request.param]
    module = models.build(request.param, 4, **fields)
    inputs = np.random.default_rng(1).normal(size=(6, *shape)).astype(np.float32)
    return module, filled(jax.eval_shape(module.init, jax.random.key(0), inputs)), inputs


def filled(shapes):
    """Variables of the given shapes from NumPy, whose drawing costs no compilation."""
    draws = np.random.default_rng(0)

    def leaf(path, shape):
        name = trees.path_name(path).rpartition("/")[2]
        if name == "kernel":
            return jnp.asarray(draws.normal(size=shape.shape) * 0.5, shape.dtype)
        return jnp.full(shape.shape, float(name in ("scale", "var")), shape.dtype)

    return jax.tree.map_with_path(leaf, shapes)


def parameters(name, shape, classes=10, **fields):
    """How many parameters a network has, without drawing them."""
    module = models.build(name, classes, **fields)
    inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return trees.size(jax.eval_shape(module.init, jax.random.key(0), inputs)["params"])


def test_every_model_has_a_small_size_here():
    assert SMALL.keys() == models.MODELS.keys()


@pytest.mark.parametrize(
    ("name", "shape", "fields", "count"),
    [
        ("mlp", (28, 28, 1), {}, 266_610),
        ("lenet_300_100", (28, 28, 1), {}, 266_610),
        ("small_conv", (28, 28, 1), {}, 226_186),
        ("small_conv", (32, 32, 3), {}, 424_394),
        ("medium_conv", (32, 32, 3), {}, 1_688_458),
        ("vgg11", (32, 32, 3), {}, 9_231_114),
        ("vgg11", (32, 32, 3), {"batch_norm": False}, 9_225_610),
        ("vgg11", (32, 32, 3), {"hidden": (100,)}, 9_231_114 - 5_130 + 51_300 + 1_010),
        ("resnet", (32, 32, 3), {"depth": 8}, 78_042),
        ("resnet", (32, 32, 3), {"depth": 8, "stem_stride": 2}, 78_042),
        ("resnet", (32, 32, 3), {"depth": 20}, 272_474),
        ("resnet", (32, 32, 3), {"depth": 20, "shortcut": "identity"}, 269_722),
        ("resnet", (32, 32, 3), {"depth": 56}, 855_770),
        ("resnet", (32, 32, 3), {"depth": 56, "shortcut": "identity"}, 853_018),
        ("preact_resnet18", (32, 32, 3), {}, 11_171_146),
        ("alexnet", (224, 224, 3), {"classes": 1000}, 62_378_344),
        ("alexnet", (64, 64, 3), {}, 21_622_154),
    ],
)
def test_parameter_counts_are_the_published_ones(name, shape, fields, count):
    assert parameters(name, shape, **fields) == count


def test_mlp_kernels_are_the_prunable_ones_of_s3():
    module = models.build("mlp", 10)
    variables = models.init(module, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    leaves = trees.named_leaves(variables)
    assert sum(v.size for k, v in leaves.items() if k.endswith("kernel")) == 266_200
    first = leaves["params/Dense_0/kernel"]
    assert float(first.std()) == pytest.approx((2 / 784) ** 0.5, rel=0.02)
    assert float(jnp.abs(first).max()) > 3 * (2 / 784) ** 0.5
    assert not any(v.any() for k, v in leaves.items() if k.endswith("bias"))


def test_mlp_is_its_equation():
    module = models.build("mlp", 4, widths=(7, 5))
    inputs = jax.random.normal(jax.random.key(1), (6, 3, 3, 1))
    variables = models.init(module, jax.random.key(0), inputs)
    w = trees.named_leaves(variables["params"])
    hidden = np.tanh(np.asarray(inputs).reshape(6, 9) @ w["Dense_0/kernel"])
    hidden = np.tanh(hidden @ w["Dense_1/kernel"])
    outputs = models.apply_fn(module)(variables, inputs)
    assert_close(outputs, hidden @ w["Dense_2/kernel"], ROUNDING)


def test_logits_have_one_column_a_class(network):
    module, variables, inputs = network
    logits = models.apply_fn(module)(variables, inputs)
    assert logits.shape == (6, 4) and logits.dtype == jnp.float32
    assert bool(jnp.isfinite(logits).all())


def test_evaluation_is_a_function_of_each_example_alone(network):
    module, variables, inputs = network
    apply = jax.jit(models.apply_fn(module))
    np.testing.assert_array_equal(apply(variables, inputs), apply(variables, inputs))
    assert_examples_alone(models.apply_fn(module), variables, inputs)


def assert_examples_alone(apply_fn, variables, inputs):
    together = jax.jit(apply_fn)(variables, inputs)
    assert_close(together[:2], apply_fn(variables, inputs[:2]), NETWORK)


def test_a_statistic_of_the_batch_that_moves_logits_by_a_thousandth_is_seen(network):
    module, variables, inputs = network

    def mixing(variables, inputs):
        logits = models.apply_fn(module)(variables, inputs)
        return logits + 1e-3 * logits.sum(axis=0) / 6

    with pytest.raises(AssertionError, match="off by"):
        assert_examples_alone(mixing, variables, inputs)


@pytest.mark.parametrize("name", ["mlp", "small_conv"])
def test_init_is_a_function_of_the_key(name):
    shape, fields = SMALL[name]
    module, inputs = models.build(name, 4, **fields), jnp.ones((2, *shape))
    drawn, again, other = (
        models.init(module, jax.random.key(seed), scale * inputs)
        for seed, scale in ((0, 1), (0, 2), (1, 1))
    )
    jax.tree.map(np.testing.assert_array_equal, drawn, again)
    first, second = trees.named_leaves(drawn), trees.named_leaves(other)
    kernels = [k for k in first if k.endswith("kernel")]
    assert all(not np.array_equal(first[k], second[k]) for k in kernels)


def test_training_moves_the_running_moments_and_nothing_else(network):
    module, variables, inputs = network
    logits, state = models.train_fn(module)(variables, inputs, jax.random.key(2))
    assert logits.shape == (6, 4)
    assert state.keys() == variables.keys() - {"params"}
    if not state:
        assert_close(logits, models.apply_fn(module)(variables, inputs), NETWORK)
        return
    assert jax.tree.structure(state["batch_stats"]) == jax.tree.structure(variables["batch_stats"])
    before, after = (trees.named_leaves(each["batch_stats"]) for each in (variables, state))
    assert all(not np.array_equal(before[k], after[k]) for k in before)


def test_running_moments_move_a_tenth_of_the_way():
    shape, fields = SMALL["vgg11"]
    module = models.build("vgg11", 4, **fields)
    inputs = jax.random.normal(jax.random.key(1), (6, *shape))
    variables = filled(jax.eval_shape(module.init, jax.random.key(0), inputs))
    _, state = models.train_fn(module)(variables, inputs, jax.random.key(2))
    kernel, bias = (variables["params"]["Conv_0"][k] for k in ("kernel", "bias"))
    outputs = nn.Conv(2, (3, 3), padding=1).apply(
        {"params": {"kernel": kernel, "bias": bias}}, inputs
    )
    moved = state["batch_stats"]["BatchNorm_0"]
    scale = 0.1 * float(jnp.abs(outputs).max())
    assert_close(moved["mean"], 0.1 * outputs.mean(axis=(0, 1, 2)), ROUNDING, scale)
    assert_close(moved["var"], 0.9 + 0.1 * outputs.var(axis=(0, 1, 2)), ROUNDING)


def test_gradients_reach_every_parameter(network):
    module, variables, inputs = network
    key = jax.random.key(2)

    def loss(params):
        logits, _ = models.train_fn(module)({**variables, "params": params}, inputs, key)
        return jnp.square(logits - jnp.arange(4.0)).sum()

    gradients = trees.named_leaves(jax.jit(jax.grad(loss))(variables["params"]))
    kernels = {k: v for k, v in gradients.items() if k.endswith("kernel")}
    assert all(bool(jnp.isfinite(v).all()) for v in gradients.values())
    assert all(bool(jnp.any(v != 0)) for v in kernels.values())


def test_equal_modules_share_their_functions():
    fields = {"widths": [3, 4, 5, 6, 7], "batch_norm": True}
    first, second = (models.build("small_conv", 10, **fields) for _ in range(2))
    assert first == second and first is not second
    assert models.apply_fn(first) is models.apply_fn(second)
    assert models.train_fn(first) is models.train_fn(second)
    other = models.build("small_conv", 10, **{**fields, "batch_norm": False})
    assert models.apply_fn(other) is not models.apply_fn(first)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", SMALL)
def test_a_network_computes_in_its_dtype(name, dtype):
    shape, fields = SMALL[name]
    module = models.build(name, 4, dtype=dtype, **fields)
    inputs = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), inputs)
    assert {v.dtype for v in jax.tree.leaves(variables["params"])} == {jnp.dtype(dtype)}
    assert jax.eval_shape(models.apply_fn(module), variables, inputs).dtype == dtype


@pytest.mark.parametrize("side", [8, 9])
def test_identity_shortcuts_take_every_second_pixel_and_add_zeros(side):
    block = resnet.ResidualBlock(width=5, stride=2, shortcut="identity", dtype=jnp.float32)
    inputs = jax.random.normal(jax.random.key(1), (2, side, side, 3))
    shapes = jax.eval_shape(block.init, jax.random.key(0), inputs)
    assert shapes["params"].keys() == {"Conv_0", "Conv_1", "BatchNorm_0", "BatchNorm_1"}
    outputs = block.apply(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes), inputs)
    expected = np.zeros((2, (side + 1) // 2, (side + 1) // 2, 5))
    expected[..., :3] = np.maximum(inputs[:, ::2, ::2], 0)
    np.testing.assert_array_equal(outputs, expected)


@pytest.mark.parametrize("side", [4, 5, 7])
def test_max_pooling_takes_each_windows_largest(side):
    inputs = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    expected = np.zeros((2, side // 2, side // 2, 3), np.float32)
    for row in range(side // 2):
        for column in range(side // 2):
            window = inputs[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected[:, row, column] = window.max(axis=(1, 2))
    np.testing.assert_array_equal(layers.max_pool(inputs), expected)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnett", {}, "unknown model 'resnett' .did you mean 'resnet'"),
        ("resnet", {"deepth": 20}, "did you mean 'depth'.*valid: depth, widths, shortcut"),
        ("resnet", {"stem_stride": 0}, "stem_stride is 0; it is an integer, 1 or more"),
        ("resnet", {"depth": 21}, "depth is 21; .* 6n . 2 .* nearest is 20"),
        ("resnet", {"depth": 2}, "nearest is 8"),
        ("resnet", {"shortcut": "ident"}, "did you mean 'identity'"),
        ("resnet", {"shortcut": "identity", "widths": (4, 3, 2)}, "choose 'projection'"),
        ("resnet", {"widths": (1, 2)}, "are 2; this network has 3"),
        ("mlp", {"activation": "rely"}, "did you mean 'relu'"),
        ("mlp", {"initialisation": "kaiming"}, "did you mean 'kaiming_normal'"),
        ("mlp", {"widths": (300, 0)}, "hold 0; a width is an integer, 1 or more"),
        ("small_conv", {"padding": "valid"}, "valid: VALID, SAME"),
        ("small_conv", {"activation": "none"}, "unknown activation 'none'"),
        ("vgg11", {"widths": (64,)}, "are 1; this network has 8"),
        ("vgg11", {"hidden": (0,)}, "hold 0; a width is an integer, 1 or more"),
    ],
)
def test_what_cannot_be_built_is_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, 10, **fields)


def test_a_network_without_outputs_is_refused():
    with pytest.raises(ValueError, match="classes is 0"):
        models.build("mlp", 0)


@pytest.mark.parametrize(("name", "side"), [("small_conv", 8), ("vgg11", 28)])
def test_images_too_small_for_a_network_are_refused(name, side):
    with pytest.raises(ValueError, match="before a 2x2 pooling; give larger images"):
        models.init(models.build(name, 10), jax.random.key(0), jnp.zeros((1, side, side, 1)))
    with pytest.raises(ValueError, match="62x63; AlexNet needs 63 pixels a side"):
        models.init(models.build("alexnet", 10), jax.random.key(0), jnp.zeros((1, 62, 63, 3)))

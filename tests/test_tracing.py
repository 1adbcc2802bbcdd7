"""The layers that are read off models of four libraries, and what is refused by name."""

import re

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from closeness import ROUNDING, assert_close

from pruning_jax import curvature, tracing, trees
from pruning_jax.types import Batch


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_one_examples_equations_give_each_example_of_a_batch(name):
    apply_fn, variables, inputs = networks.NETWORKS[name]()
    model = tracing.trace(apply_fn, variables, inputs).model
    logits = tracing.over_examples(lambda x: tracing.run(model, variables, x), inputs)
    assert_close(tracing.merged(logits), apply_fn(variables, inputs), ROUNDING)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_model_is_checked_once_on_its_first_batch(name):
    apply_fn, variables, inputs = networks.NETWORKS[name]()
    calls = []

    def counting(variables, inputs):
        calls.append(1)
        return apply_fn(variables, inputs)

    trace = tracing.trace(counting, variables, inputs)
    assert len(calls) == 1
    for _ in range(2):
        tracing.check(trace, variables, inputs)
        tracing.check(trace, variables, inputs[:1])
    assert len(calls) == 2


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_kernel_is_found(name):
    apply_fn, variables, inputs = networks.NETWORKS[name]()
    trace = tracing.trace(apply_fn, variables, inputs)
    leaves = trees.named_leaves(variables)
    kernels = {path for path, leaf in leaves.items() if leaf.ndim > 1 and leaf.size > leaf.shape[0]}
    kernels -= {path for path in kernels if path.endswith("bias")}
    assert set(trace.kernels) == kernels
    assert trace.unsupported == ()
    for layer in trace.layers:
        assert layer.kernel_shape == leaves[layer.kernel].shape


@pytest.mark.parametrize("examples", [1, 2, 7])
def test_a_trace_does_not_depend_on_the_number_of_examples(examples):
    apply_fn, variables, inputs = networks.linen()
    abstract = jax.ShapeDtypeStruct((examples, *inputs.shape[1:]), inputs.dtype)
    assert str(tracing.trace(apply_fn, variables, abstract)) == str(
        tracing.trace(apply_fn, variables, inputs)
    )


def test_table():
    apply_fn, variables, inputs = networks.linen()
    lines = str(tracing.trace(apply_fn, variables, inputs)).splitlines()
    assert lines[0].split() == ["layer", "kind", "kernel", "parameters", "MACs"]
    assert lines[2].split() == ["params/Conv_0", "conv", "3x3x2x4", "76", "2,592"]
    assert lines[4].split() == ["params/Conv_2", "conv", "3x2x1x8", "56", "144"]
    total = trees.size(variables["params"]) - 8
    assert lines[-1].split()[:5] == ["total", "of", "these", "layers", f"{total}"]


def test_biases_and_names():
    apply_fn, variables, inputs = networks.equinox()
    layers = tracing.trace(apply_fn, variables, inputs).layers
    assert [layer.name for layer in layers] == [f"layers/{i}" for i in range(4)]
    assert [layer.bias for layer in layers] == [f"layers/{i}/bias" for i in range(4)]
    apply_fn, variables, inputs = networks.nnx_net()
    layers = tracing.trace(apply_fn, variables, inputs).layers
    assert [layer.name for layer in layers] == ["conv", "dense"]


def test_several_uses_of_a_kernel_are_one_layer():
    apply_fn, variables, inputs = networks.tied()
    layer = tracing.trace(apply_fn, variables, inputs).layers[1]
    assert (layer.kernel, layer.bias, len(layer.uses), layer.macs) == ("1/w", "1/b", 2, 72)


def reasons(apply_fn, variables, inputs):
    variables = {"out": jnp.ones((3, 2)), **variables}
    trace = tracing.trace(lambda v, x: apply_fn(v, x) @ v["out"], variables, inputs)
    assert trace.kernels == ("out",)
    return dict(trace.unsupported)


@jax.custom_vjp
def own(x, w):
    return x @ w


own.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g, saved[1]))


def looped(v, x):
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] @ v["w"]), (0, x))[1]


def long(v, x):
    return jax.lax.fori_loop(0, 10**6, lambda i, h: jnp.tanh(h @ v["w"]), x)


@pytest.mark.parametrize(
    "apply_fn, reason",
    [
        (looped, "enters while, .* use lax.scan, or lax.fori_loop between Python integers"),
        (long, r"enters scan, .* \(to 10,000 equations at most\): trace it on shorter inputs"),
        (
            lambda v, x: jax.lax.cond(x[0, 0] > 0, lambda: x @ v["w"], lambda: x),
            "enters cond, whose branch is chosen when it runs: choose it in Python",
        ),
        (lambda v, x: own(x, v["w"]), "enters custom_vjp_call, which has a derivative of its own"),
        (lambda v, x: x @ v["w"] + x * v["w"][0], "it is also used by mul"),
        (
            lambda v, x: x @ (v["w"] * v["m"]),
            "'w' and 'm' make a kernel together, each of as many entries: .* as booleans or int",
        ),
        (lambda v, x: x @ (v["w"] @ v["m"]), "dot_general multiplies 'w' and 'm' with each other"),
        (
            lambda v, x: v["w"][:, x[:, 0].astype(int)].T,
            r"its gather does not take whole rows, as table\[ids\] does",
        ),
    ],
)
def test_what_cannot_be_read_is_reported_with_a_way_out(apply_fn, reason):
    variables = {"out": jnp.ones((3, 2)), "w": jnp.ones((3, 3)), "m": jnp.ones((3, 3))}
    trace = tracing.trace(lambda v, x: apply_fn(v, x) @ v["out"], variables, jnp.ones((2, 3)))
    assert trace.kernels == ("out",)
    assert re.search(reason, dict(trace.unsupported)["w"])


@pytest.mark.parametrize(
    ("apply_fn", "message"),
    [
        (lambda v, x: x * v[:, 0], "no layers"),
        (lambda v, x: x.reshape(4, 3) @ v, "axis 0"),
        (lambda v, x: x[:, :0] @ v[:0], "without entries"),
    ],
)
def test_models_that_cannot_be_read(apply_fn, message):
    with pytest.raises(ValueError, match=message):
        tracing.trace(apply_fn, jnp.ones((3, 3)), jnp.ones((4, 3)))


@pytest.mark.parametrize(
    "inputs, message",
    [
        (jnp.ones(()), r"the input has shape \(\); every input has its examples on axis 0"),
        (jnp.ones((0, 3)), r"the input has shape \(0, 3\); every input has its examples on axis 0"),
        ({"a": jnp.ones((2, 3)), "b": 1}, r"the input 'b' has shape \(\)"),
        (
            {"ids": jnp.ones((4, 3)), "mask": jnp.ones((1, 3, 3))},
            "'mask' has 1 examples and 'ids' has 4; .* close over what all examples share",
        ),
    ],
)
def test_inputs_without_examples_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        tracing.trace(lambda v, x: x @ v, jnp.ones((3, 3)), inputs)


def test_inputs_may_be_any_tree():
    """Token ids with a mask of attention and a number for each example."""
    variables = {
        "table": networks.draw(0, 7, 4),
        "q": networks.draw(1, 4, 4),
        "out": networks.draw(2, 4, 3),
    }

    def apply_fn(v, x):
        h = v["table"][x["ids"]]
        scores = jnp.where(x["mask"], jnp.einsum("nsd,ntd->nst", h @ v["q"], h), -1e9)
        return ((jax.nn.softmax(scores) @ h).mean(1) * x["scale"][:, None]) @ v["out"]

    inputs = {
        "ids": jnp.arange(15).reshape(3, 5) % 7,
        "mask": jnp.tril(jnp.ones((3, 5, 5), bool)),
        "scale": jnp.arange(3.0),
    }
    trace = tracing.trace(apply_fn, variables, inputs)
    assert {layer.kernel: layer.macs for layer in trace.layers} == {"table": 0, "q": 80, "out": 12}
    tracing.check(trace, variables, inputs)
    with pytest.raises(ValueError, match="an example of the inputs has shape"):
        tracing.check(trace, variables, inputs | {"mask": jnp.ones((3, 4, 4), bool)})


def two_heads(v, x):
    h = jnp.tanh(x @ v["a"])
    return {"logits": h @ v["b"], "value": (h @ v["c"])[:, 0]}


HEADS = {"a": networks.draw(0, 3, 5), "b": networks.draw(1, 5, 4), "c": networks.draw(2, 5, 1)}


def test_one_of_several_outputs_is_selected():
    inputs = networks.draw(3, 6, 3)
    trace = tracing.trace(two_heads, HEADS, inputs, select=lambda outputs: outputs["logits"])
    assert trace.kernels == ("a", "b")
    assert_close(trace.apply_fn(HEADS, inputs), two_heads(HEADS, inputs)["logits"], ROUNDING)
    alone = tracing.trace(lambda v, x: jnp.tanh(x @ v["a"]) @ v["b"], HEADS, inputs)
    batch = Batch(inputs, jnp.arange(6) % 4)
    for statistic in (curvature.gradient, curvature.ggn_diagonal):
        assert_close(statistic(trace, HEADS, batch), statistic(alone, HEADS, batch), ROUNDING)


@pytest.mark.parametrize(
    "select, message",
    [
        (lambda outputs: outputs["scores"], r"select failed for outputs .*'logits'.* KeyError"),
        (lambda outputs: outputs[0], "select failed for outputs .*: KeyError: 0"),
        (
            lambda outputs: None,
            "select returned None and no arrays; the model's outputs have shapes",
        ),
        (lambda outputs: "logits", "select returned 'logits' and no arrays"),
        ("logits", "select is 'logits'; it must be a function"),
    ],
)
def test_a_select_that_finds_nothing_is_refused(select, message):
    with pytest.raises(ValueError, match=message):
        tracing.trace(two_heads, HEADS, networks.draw(3, 6, 3), select=select)


def test_what_needs_logits_says_how_to_select_them():
    inputs = networks.draw(3, 6, 3)
    trace = tracing.trace(two_heads, HEADS, inputs)
    assert trace.kernels == ("a", "b", "c")
    with pytest.raises(ValueError, match=r"returns \{'logits': \(1, 4\), .* select=lambda outputs"):
        curvature.ggn_diagonal(trace, HEADS, Batch(inputs, jnp.arange(6) % 4))


def test_variables_that_are_no_arrays_are_refused_with_a_way_out():
    variables = {"w": jnp.ones((3, 3)), "activation": jax.nn.relu}
    with pytest.raises(ValueError, match=r"at 'activation'; .* eqx.partition"):
        tracing.trace(lambda v, x: v["activation"](x @ v["w"]), variables, jnp.ones((2, 3)))


def check(apply_fn, inputs, weights=None):
    weights = networks.draw(1, 3, 3) if weights is None else weights
    tracing.check(tracing.trace(apply_fn, weights, inputs), weights, inputs)


@pytest.mark.parametrize(
    ("apply_fn", "message"),
    [
        (lambda v, x: (x @ v).T, "does not keep the examples on axis 0"),
        (lambda v, x: jnp.squeeze(x @ v), "treats one example apart"),
        (lambda v, x: (x @ v)[:2], "does not keep the examples on axis 0"),
        (lambda v, x: x @ v if len(x) > 1 else 2 * x @ v, "runs other operations for 3 examples"),
        (
            lambda v, x: jax.lax.scan(lambda c, row: (c + row, c + row), jnp.zeros(3), x @ v)[1],
            "runs other operations for 3 examples than for one",
        ),
    ],
)
def test_a_model_that_is_another_for_several_examples_is_refused(apply_fn, message):
    with pytest.raises(ValueError, match=message):
        check(apply_fn, networks.draw(0, 4, 3))


def test_a_model_that_depends_on_python_side_state_is_refused():
    draws, calls = np.random.default_rng(0), []

    def noisy(v, x):
        return x @ v + draws.normal(size=3).astype(np.float32)

    def counted(v, x):
        calls.append(1)
        return x @ v * float(len(calls))

    for apply_fn in (noisy, counted):
        with pytest.raises(ValueError, match="depends on Python-side state"):
            check(apply_fn, networks.draw(0, 4, 3))


@pytest.mark.parametrize("share", [1.0, 1e-3])
@pytest.mark.parametrize("examples", [1, 2, 7])
def test_a_batch_statistic_is_seen_at_a_thousandth_of_the_outputs(share, examples):
    def apply_fn(v, x):
        return x @ v - share * (x @ v).mean(0)

    with pytest.raises(ValueError, match="mixes examples"):
        check(apply_fn, networks.draw(0, examples, 3))


def permuted(x):
    return x[jnp.arange(x.shape[0])[::-1]]


def halves_of_repeats(x):
    first, second = jnp.split(jnp.repeat(x, 2, axis=0), 2)
    return first + second


@pytest.mark.parametrize(
    ("name", "mix"),
    [
        ("rev", lambda x: x[::-1]),
        ("sort", lambda x: jnp.sort(x, axis=0)),
        ("sort", lambda x: x * jnp.argsort(x, axis=0)),
        ("cumsum", lambda x: jnp.cumsum(x, axis=0)),
        ("cumprod", lambda x: jnp.cumprod(x, axis=0)),
        ("cummax", lambda x: jax.lax.cummax(x, axis=0)),
        ("scatter", lambda x: x.at[0].set(1.0)),
        ("scatter-add", lambda x: jnp.zeros_like(x).at[jnp.arange(len(x))[::-1]].add(x)),
        ("gather", permuted),
        ("reduce_max", lambda x: jax.nn.softmax(x, axis=0)),
        ("reduce_sum", lambda x: x - x.mean(0)),
        ("slice", lambda x: jnp.roll(x, 1, axis=0)),
        ("reshape", lambda x: jnp.concatenate([x, x], 0).reshape(len(x), 6)[:, :3]),
        ("slice", lambda x: jnp.concatenate([x, x], 0)[::2]),
    ],
)
def test_what_mixes_examples_is_refused_by_name(name, mix):
    with pytest.raises(ValueError, match=f"^{name} mixes examples"):
        check(lambda v, x: mix(x) @ v, networks.draw(0, 4, 3))


def test_what_moves_only_the_positions_of_an_example_is_read():
    def apply_fn(v, x):
        h = jnp.cumsum(jnp.sort(x[:, ::-1], axis=1), axis=1).at[:, 0].set(1.0)
        return jax.lax.map(lambda row: 2 * row, h) @ v

    assert tracing.trace(apply_fn, jnp.ones((3, 3)), jnp.ones((4, 3))).kernels == ("",)


@pytest.mark.parametrize(
    "apply_fn", [lambda v, x: x @ v["kernels"], lambda v, x: x.kernel @ v["kernel"]]
)
def test_a_model_that_fails_is_a_value_error(apply_fn):
    with pytest.raises(ValueError, match="(KeyError|AttributeError): "):
        tracing.trace(apply_fn, {"kernel": jnp.ones((3, 3))}, jnp.ones((4, 3)))

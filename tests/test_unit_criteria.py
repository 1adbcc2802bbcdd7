"""Every row of the table of unit criteria, against the formulas and the shared suite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import NETWORK, ROUNDING, assert_close
from networks import CLASSES, draw
from unit_networks import UNIT_NETWORKS

from pruning_jax import criteria, curvature, tracing, units
from pruning_jax.criteria import UNIT_CRITERIA, UNIT_OPERANDS
from pruning_jax.criteria.units import weight_norm
from pruning_jax.types import Batch

NAMES = list(UNIT_CRITERIA)
ON_DATA = {"removal", "replacement", "mean_square", "zeros"}
SIZE, EXAMPLES = 6, 11


def required(name):
    return criteria.unit_required(UNIT_CRITERIA[name])


DETERMINISTIC = [name for name in NAMES if "key" not in required(name)]


def operands(seed=0):
    """A value for everything that a criterion may ask for, the units on the axis of SIZE."""
    rng = np.random.default_rng(seed)
    shapes = {
        "kernel": (SIZE, 8),
        "scale": (SIZE,),
        "removal": (EXAMPLES, SIZE),
        "replacement": (EXAMPLES, SIZE),
        "mean_square": (SIZE,),
        "zeros": (SIZE,),
    }
    drawn = {
        name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()
    }
    drawn |= {name: jnp.abs(drawn[name]) % 1 for name in ("mean_square", "zeros")}
    return drawn | {"key": jax.random.key(seed)}


def score(name, given):
    return UNIT_CRITERIA[name](**{of: given[of] for of in required(name)})


def test_there_is_a_value_for_everything_a_criterion_may_ask_for():
    assert operands().keys() == set(UNIT_OPERANDS)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_one_for_each_unit(name):
    scores = score(name, operands())
    assert scores.shape == (SIZE,) and scores.dtype == jnp.float32
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_same_under_jit_and_compiled_once(name):
    traces = []

    @jax.jit
    def jitted(given):
        traces.append(name)
        return score(name, given)

    for seed in range(3):
        given = operands(seed)
        assert_close(jitted(given), score(name, given), ROUNDING)
    assert len(traces) == 1


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_deterministic(name):
    np.testing.assert_array_equal(score(name, operands()), score(name, operands()))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(DETERMINISTIC)))
def test_scores_of_two_keys_differ(name):
    other = operands() | {"key": jax.random.key(99)}
    assert (score(name, operands()) != score(name, other)).any()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_permuting_units_permutes_scores(name):
    order = np.random.default_rng(3).permutation(SIZE)
    given = operands()
    permuted = {
        of: given[of][order] if of == "kernel" else given[of][..., order] for of in required(name)
    }
    assert_close(score(name, permuted), score(name, given)[order], ROUNDING)


def test_the_formulas():
    given = {of: np.asarray(v, np.float64) for of, v in operands().items() if of != "key"}
    kernel, removal, replacement = given["kernel"], given["removal"], given["replacement"]
    expected = {
        "weight_norm": [sum(w * w for w in row) ** 0.5 for row in kernel],
        "weight_norm_l1": [sum(abs(w) for w in row) for row in kernel],
        "rs": [sum(unit) / EXAMPLES for unit in removal.T],
        "mrs": [sum(unit) / EXAMPLES for unit in replacement.T],
        "abs_rs": [sum(abs(x) for x in unit) / EXAMPLES for unit in removal.T],
        "abs_mrs": [sum(abs(x) for x in unit) / EXAMPLES for unit in replacement.T],
        "activation_norm": given["mean_square"] ** 0.5,
        "average_percentage_of_zeros": 1 - given["zeros"],
        "batch_norm_scale": abs(given["scale"]),
    }
    for name, values in expected.items():
        assert_close(score(name, operands()), np.array(values), ROUNDING)


def mlp(variables, x):
    h = jax.nn.relu(x @ variables["w1"] + variables["b1"])
    return jax.nn.relu(h @ variables["w2"] * variables["gamma"]) @ variables["w3"]


def problem(apply_fn, variables, inputs):
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    labels = jax.random.randint(jax.random.key(0), inputs.shape[:1], 0, CLASSES)
    statistics = curvature.unit_statistics(graph, variables, Batch(inputs, labels))
    return graph, statistics


@functools.cache
def mlp_problem():
    variables = {
        "w1": draw(0, 4, SIZE),
        "b1": draw(1, SIZE),
        "w2": draw(2, SIZE, 5),
        "gamma": draw(3, 5),
        "w3": draw(4, 5, CLASSES),
    }
    return variables, *problem(mlp, variables, draw(5, 9, 4))


@functools.cache
def unit_graph(name):
    apply_fn, variables, inputs = UNIT_NETWORKS[name]()
    return variables, units.graph(tracing.trace(apply_fn, variables, inputs))


@pytest.mark.parametrize("name", NAMES)
def test_a_models_scores(name):
    """Of every prunable space, and those that `only` names, by the name of a layer too."""
    variables, graph, statistics = mlp_problem()
    given = {"statistics": statistics, "key": jax.random.key(1)}
    scores = criteria.unit_scores(name, graph, variables, only=["w2"], **given)
    assert list(scores) == ["w2"] and scores["w2"].shape == (5,)
    if "scale" not in required(name):
        every = criteria.unit_scores(name, graph, variables, **given)
        assert list(every) == ["w1", "w2"] and every["w1"].shape == (SIZE,)
        np.testing.assert_array_equal(every["w2"], scores["w2"])
        units.from_scores(every, 0.5)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_permuting_the_hidden_units_of_a_model_permutes_its_scores(name):
    variables, graph, statistics = mlp_problem()
    order = np.random.default_rng(3).permutation(5)
    permuted = {
        "w2": variables["w2"][:, order],
        "gamma": variables["gamma"][order],
        "w3": variables["w3"][order],
    }
    permuted = variables | permuted
    _, other = problem(mlp, permuted, draw(5, 9, 4))
    expected = criteria.unit_scores(name, graph, variables, statistics=statistics, only="w2")
    found = criteria.unit_scores(name, graph, permuted, statistics=other, only="w2")
    assert_close(found["w2"], expected["w2"][order], NETWORK)


def test_the_six_scores_of_the_paper_by_hand():
    variables, graph, statistics = mlp_problem()
    given = {"statistics": statistics}
    removal = np.asarray(statistics.removal["w1"])
    found = {
        name: criteria.unit_scores(name, graph, variables, **given)["w1"]
        for name in ("weight_norm", "rs", "abs_rs", "mrs", "abs_mrs")
    }
    np.testing.assert_allclose(found["weight_norm"], np.linalg.norm(variables["w1"], axis=0), 1e-5)
    assert_close(found["rs"], removal.mean(0), ROUNDING)
    np.testing.assert_allclose(found["abs_rs"], np.abs(removal).mean(0), 1e-5)
    assert (found["abs_rs"] >= np.abs(found["rs"])).all()
    assert (found["abs_mrs"] >= np.abs(found["mrs"])).all()


def test_the_kernels_of_layers_that_produce_the_same_units_are_side_by_side():
    variables, graph = unit_graph("residual")
    params = variables["params"]
    space = graph["params/Conv_0"]
    assert space.layers == ("params/Conv_0", "params/Conv_2")
    joined = np.concatenate(
        [np.asarray(params[layer]["kernel"]).reshape(-1, 6) for layer in ("Conv_0", "Conv_2")]
    )
    (found,) = criteria.unit_scores("weight_norm", graph, variables, only=space.name).values()
    np.testing.assert_allclose(found, np.linalg.norm(joined, axis=0), rtol=1e-5)


def test_the_kernels_of_grouped_and_of_depthwise_layers():
    variables, graph = unit_graph("separable")
    kernels = {
        name: np.abs(np.asarray(leaf["kernel"]))
        for name, leaf in variables["params"].items()
        if name.startswith("Conv")
    }
    found = criteria.unit_scores("weight_norm_l1", graph, variables)
    last = kernels["Conv_3"].sum((0, 1, 2))
    np.testing.assert_allclose(found["params/Conv_3"], last, rtol=1e-5)
    first = graph["params/Conv_0"]
    assert first.size == 6 and first.layers == ("params/Conv_0", "params/Conv_1")
    depthwise = kernels["Conv_1"].sum((0, 1, 2)).reshape(6, 2).sum(1)
    expected = kernels["Conv_0"].sum((0, 1, 2)) + depthwise
    np.testing.assert_allclose(found[first.name], expected, rtol=1e-5)


def test_a_unit_that_fewer_layers_produce_has_fewer_weights():
    variables, graph = unit_graph("padded_shortcut")
    (found,) = criteria.unit_scores("weight_norm_l1", graph, variables).values()
    kernels = [
        np.abs(np.asarray(variables["params"][layer]["kernel"])).sum((0, 1, 2))
        for layer in ("Conv_0", "Conv_1")
    ]
    order = graph["params/Conv_0"].producers
    by_unit = np.zeros(7)
    for sums, layer in zip(kernels, ("Conv_0", "Conv_1"), strict=True):
        (each,) = [s for s in order if s.leaf == f"params/{layer}/kernel"]
        by_unit[each.units.ravel()] += sums
    assert len(kernels[0]) == 4 and len(kernels[1]) == 7
    np.testing.assert_allclose(found, by_unit, rtol=1e-5)


def test_the_scale_is_the_norms_and_of_several_norms_their_mean():
    variables, graph = unit_graph("residual")
    params = variables["params"]
    inner = criteria.unit_scores("batch_norm_scale", graph, variables, only="params/Conv_1")
    np.testing.assert_array_equal(
        inner["params/Conv_1"], np.abs(np.asarray(params["BatchNorm_0"]["scale"]))
    )
    variables, graph = unit_graph("preactivation")
    space = graph["params/Conv_0"]
    leaves = {each.leaf for each in space.producers if each.role == "scale"}
    scales = [leaf["scale"] for name, leaf in variables["params"].items() if "Norm" in name]
    names = [f"params/{name}/scale" for name in variables["params"] if "Norm" in name]
    expected = sum(np.abs(np.asarray(s)) for n, s in zip(names, scales, strict=True) if n in leaves)
    assert len(leaves) > 1
    (found,) = criteria.unit_scores("batch_norm_scale", graph, variables, only=space.name).values()
    np.testing.assert_allclose(found, expected / len(leaves), rtol=1e-6)


def test_equal_scales_are_equal_scores_in_streams_and_inner_spaces():
    variables, graph = unit_graph("residual")
    equal = jax.tree.map(lambda leaf: jnp.full_like(leaf, -0.5), variables)
    for found in criteria.unit_scores("batch_norm_scale", graph, equal).values():
        np.testing.assert_array_equal(found, 0.5)


def test_random_scores_differ_between_spaces_and_do_not_depend_on_only():
    variables, graph = unit_graph("densely_connected")
    key = jax.random.key(5)
    every = criteria.unit_scores("random", graph, variables, key=key)
    drawn = np.concatenate([*every.values()])
    assert len(np.unique(drawn)) == len(drawn)
    assert drawn.min() >= 0 and drawn.max() < 1
    for name, scores in every.items():
        alone = criteria.unit_scores("random", graph, variables, key=key, only=name)
        np.testing.assert_array_equal(alone[name], scores)


def test_half_precision_weights_are_scored_in_single_precision():
    variables, graph, _ = mlp_problem()
    small = jax.tree.map(lambda leaf: (1e-5 * leaf).astype(jnp.float16), variables)
    scores = criteria.unit_scores("weight_norm", graph, small)["w1"]
    assert scores.dtype == jnp.float32 and (scores > 0).all()


def test_scores_under_jit():
    variables, graph, statistics = mlp_problem()

    @jax.jit
    def jitted(variables, statistics):
        return criteria.unit_scores("abs_mrs", graph, variables, statistics=statistics)

    expected = criteria.unit_scores("abs_mrs", graph, variables, statistics=statistics)
    for name, scores in jitted(variables, statistics).items():
        assert_close(scores, expected[name], ROUNDING)


def test_a_function_of_ones_own_is_a_criterion():
    variables, graph, statistics = mlp_problem()

    def weighted(kernel, mean_square, power=1.0):
        return weight_norm(kernel) ** power * mean_square

    assert criteria.unit_required(weighted) == {"kernel", "mean_square"}
    cubed = functools.partial(weighted, power=3.0)
    scores = criteria.unit_scores(cubed, graph, variables, statistics=statistics)
    norm = np.linalg.norm(variables["w1"], axis=0)
    assert_close(scores["w1"], norm**3 * statistics.mean_square["w1"], ROUNDING)


@pytest.mark.parametrize("name", [name for name in NAMES if required(name) & ON_DATA])
def test_a_criterion_without_its_statistics_says_so(name):
    variables, graph, _ = mlp_problem()
    with pytest.raises(ValueError, match="scores of 'w1' need its .* give statistics="):
        criteria.unit_scores(name, graph, variables)


def test_statistics_of_another_graph_are_refused():
    variables, graph, statistics = mlp_problem()
    run = functools.partial(criteria.unit_scores, "rs", graph, variables)
    absent = statistics._replace(removal={"w1": statistics.removal["w1"]})
    with pytest.raises(ValueError, match=r"no array as the removal of 'w2' \(5 units\)"):
        run(statistics=absent)
    narrow = statistics._replace(removal=dict.fromkeys(["w1", "w2"], jnp.ones((9, 5))))
    with pytest.raises(ValueError, match=r"shape \(9, 5\) as the removal of 'w1' \(6 units\)"):
        run(statistics=narrow)
    with pytest.raises(ValueError, match="statistics is a dict; give curvature.unit_statistics"):
        run(statistics=statistics._asdict())


def test_bad_input_is_refused():
    variables, graph, statistics = mlp_problem()
    run = criteria.unit_scores
    with pytest.raises(ValueError, match="unknown unit criterion 'abs_mr'.*'abs_mrs'"):
        run("abs_mr", graph, variables, statistics=statistics)
    with pytest.raises(ValueError, match="scores of 'w1' are random: give key="):
        run("random", graph, variables)
    with pytest.raises(ValueError, match="key must be one random key"):
        run("random", graph, variables, key=3)
    with pytest.raises(ValueError, match=r"'w1' have no norm with a scale.*only=\['w2'\]"):
        run("batch_norm_scale", graph, variables)
    with pytest.raises(ValueError, match="unknown unit space 'w7'"):
        run("weight_norm", graph, variables, only="w7")
    with pytest.raises(ValueError, match="'w3' is not prunable: .*outputs; prunable: w1, w2"):
        run("weight_norm", graph, variables, only=["w1", "w3"])
    with pytest.raises(ValueError, match="graph must be a UnitGraph, of units.graph, not Trace"):
        run("weight_norm", graph.trace, variables)
    with pytest.raises(ValueError, match=r"nothing at 'w1'; they were traced with \(4, 6\)"):
        run("weight_norm", graph, {"w2": variables["w2"]})
    with pytest.raises(ValueError, match="asks for 'gradient'.*kernel, scale, removal"):
        run(lambda gradient: gradient, graph, variables)
    with pytest.raises(ValueError, match=r"gave scores of shape \(\) for 'w1'; .* shape \(6,\)"):
        run(lambda kernel: kernel.sum(), graph, variables)


def test_a_model_without_any_norm_has_no_scale_to_score_by():
    variables, graph = unit_graph("chain")
    with pytest.raises(ValueError, match="have no norm with a scale; no space here has one"):
        criteria.unit_scores("batch_norm_scale", graph, variables)

"""Every row of the table of criteria, against the formulas and the shared suite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import ROUNDING, assert_close, assert_same

from pruning_jax import criteria, trees
from pruning_jax.criteria import WEIGHT_CRITERIA, weights

SHAPES = {"conv": {"bias": (4,), "kernel": (2, 2, 3, 4)}, "dense": {"bias": (6,), "kernel": (4, 6)}}
KERNELS = ("conv/kernel", "dense/kernel")
NAMES = list(WEIGHT_CRITERIA)
DETERMINISTIC = [name for name in NAMES if "key" not in criteria.required(WEIGHT_CRITERIA[name])]
ON_DATA = [name for name in NAMES if criteria.required(WEIGHT_CRITERIA[name]) & {"gradient", "ggn"}]
PENALISED = [name for name in NAMES if criteria.takes_step_penalty(WEIGHT_CRITERIA[name])]


def normal(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def problem(seed=0):
    """The weights, and a value for every statistic there is."""
    statistics = {
        "gradient": normal(seed + 1),
        "ggn": jax.tree.map(jnp.square, normal(seed + 2)),
        "key": jax.random.key(seed),
    }
    return trees.select(normal(seed), KERNELS), statistics


def score(name, params, statistics, **options):
    criterion = WEIGHT_CRITERIA[name]
    needed = {name: statistics[name] for name in criteria.required(criterion)}
    return criterion(params, **needed, **options)


@pytest.mark.parametrize("name", NAMES)
def test_scores_keep_the_structure_and_are_finite(name):
    params, statistics = problem()
    scores = score(name, params, statistics)
    assert jax.tree.structure(scores) == jax.tree.structure(params)
    for leaf, theta in zip(jax.tree.leaves(scores), jax.tree.leaves(params), strict=True):
        assert leaf.shape == theta.shape
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_same_under_jit(name):
    params, statistics = problem()
    jitted = jax.jit(lambda params, statistics: score(name, params, statistics))
    assert_close(jitted(params, statistics), score(name, params, statistics), ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_deterministic(name):
    params, statistics = problem()
    assert_same(score(name, params, statistics), score(name, params, statistics))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(DETERMINISTIC)))
def test_scores_of_two_keys_differ(name):
    params, statistics = problem()
    other = statistics | {"key": jax.random.key(99)}
    first, second = score(name, params, statistics), score(name, params, other)
    assert (first["dense"]["kernel"] != second["dense"]["kernel"]).any()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_permuting_units_permutes_scores(name):
    params, statistics = problem()
    order = np.random.default_rng(3).permutation(6)

    def permute(tree):
        dense = {k: v if v is None else v[..., order] for k, v in tree["dense"].items()}
        return tree | {"dense": dense}

    permuted = {k: v if k == "key" else permute(v) for k, v in statistics.items()}
    actual = score(name, permute(params), permuted)
    assert_close(actual, permute(score(name, params, statistics)), ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_one_compilation(name):
    traces = []

    @jax.jit
    def jitted(params, statistics, step_penalty):
        traces.append(name)
        options = {"step_penalty": step_penalty} if name in PENALISED else {}
        return score(name, params, statistics, **options)

    for seed, step_penalty in enumerate([0.0, 1e-3, 10.0]):
        jitted(*problem(seed), step_penalty)
    assert len(traces) == 1


@pytest.mark.parametrize("name", NAMES)
def test_statistics_may_cover_only_the_weights(name):
    params, statistics = problem()
    selected = {k: v if k == "key" else trees.select(v, KERNELS) for k, v in statistics.items()}
    assert_same(score(name, params, selected), score(name, params, statistics))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", ON_DATA)
def test_a_missing_statistic_names_the_leaf(name, jit):
    params, statistics = problem()
    some = {
        k: v if k == "key" else trees.select(v, ["conv/kernel", "dense/bias"])
        for k, v in statistics.items()
    }

    def run(params):
        return score(name, params, some)

    with pytest.raises(ValueError, match="no values for the weights 'dense/kernel'"):
        (jax.jit(run) if jit else run)(params)


@pytest.mark.parametrize("name", ON_DATA)
def test_a_statistic_of_another_shape_names_the_leaf(name):
    params, statistics = problem()
    odd = {
        k: v if k == "key" else v | {"dense": {"bias": None, "kernel": jnp.ones((4, 1))}}
        for k, v in statistics.items()
    }
    with pytest.raises(ValueError, match=r"'dense/kernel' has shape \(4, 1\).*\(4, 6\)"):
        score(name, params, odd)


@pytest.mark.parametrize("name", PENALISED)
def test_the_step_penalty_is_outside_the_absolute_value(name):
    params, statistics = problem()
    without, with_ = (
        score(name, params, statistics),
        score(name, params, statistics, step_penalty=0.3),
    )
    expected = jax.tree.map(lambda s, theta: s + 0.15 * theta**2, without, params)
    assert_close(with_, expected, ROUNDING)


@pytest.mark.parametrize(
    ("name", "has_gradient", "curvature"),
    [
        ("magnitude", False, "one"),
        ("obd", False, "ggn"),
        ("linear", True, "zero"),
        ("quadratic", True, "ggn"),
    ],
)
def test_the_expression_of_the_paper(name, has_gradient, curvature):
    params, statistics = problem()
    scores = score(name, params, statistics, step_penalty=0.01)
    for leaf in KERNELS:
        theta, g, ggn = (
            np.asarray(trees.named_leaves(tree)[leaf], np.float64)
            for tree in (params, statistics["gradient"], statistics["ggn"])
        )
        big_g = {"one": np.ones_like(ggn), "zero": np.zeros_like(ggn), "ggn": ggn}[curvature]
        inner = -(g if has_gradient else 0 * g) * theta + 0.5 * big_g * theta**2
        expected = np.abs(inner) + 0.5 * 0.01 * theta**2
        assert_close(trees.named_leaves(scores)[leaf], expected, ROUNDING)


def test_gradient_magnitude_is_the_gradients():
    params, statistics = problem()
    scores = weights.gradient_magnitude(params, statistics["gradient"])
    assert_same(scores, jax.tree.map(jnp.abs, trees.select(statistics["gradient"], KERNELS)))


def test_random_scores_are_uniform_and_differ_between_layers():
    scores = weights.random({"a": jnp.zeros(4000), "b": jnp.zeros(4000)}, jax.random.key(0))
    assert (scores["a"] != scores["b"]).mean() > 0.99
    np.testing.assert_allclose(np.mean(scores["a"]), 0.5, atol=0.03)
    assert np.min(scores["a"]) >= 0.0 and np.max(scores["a"]) < 1.0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_weights_are_scored_in_single_precision(dtype):
    small = {"kernel": jnp.asarray([1e-5, 2e-5], dtype)}
    scores = weights.magnitude(small)["kernel"]
    assert scores.dtype == jnp.float32
    assert 0 < scores[0] < scores[1]


def test_required_reads_the_signature():
    assert criteria.required(weights.quadratic) == {"gradient", "ggn"}
    assert criteria.required(weights.magnitude) == frozenset()
    assert criteria.required(weights.random) == {"key"}
    with pytest.raises(ValueError, match="asks for 'hessian'.*gradient, ggn, key"):
        criteria.required(lambda params, hessian: params)


def test_a_partial_is_a_criterion():
    bound = functools.partial(weights.obd, step_penalty=0.5)
    assert criteria.name(bound) == "obd"
    assert criteria.required(bound) == {"ggn"}
    assert not criteria.takes_step_penalty(bound)
    assert criteria.required(functools.partial(weights.obd, ggn=None)) == frozenset()

    def own(params, curvatures):
        return params

    with pytest.raises(ValueError, match="'own' asks for 'curvatures'"):
        criteria.required(functools.partial(own))

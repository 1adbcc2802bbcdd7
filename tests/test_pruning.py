"""Pruning in stages against a plain loop over dense derivatives and a full sort."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import unit_networks

from pruning_jax import criteria, losses, masks, pruning, schedules, tracing, trees, units
from pruning_jax.criteria import WEIGHT_CRITERIA
from pruning_jax.types import Batch

KERNELS = ("first/kernel", "second/kernel")
SIZE = 6 * 5 + 5 * 4
EXAMPLES = 12


def apply_fn(variables, inputs):
    hidden = jnp.tanh(inputs @ variables["first"]["kernel"] + variables["first"]["bias"])
    return hidden @ variables["second"]["kernel"] + variables["second"]["bias"]


def unusable(*_):
    raise AssertionError("something is computed before the check")


def model(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "first": {"kernel": (6, 5), "bias": (5,)},
        "second": {"kernel": (5, 4), "bias": (4,)},
    }
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def examples(stage):
    """Other examples at every stage, in two batches, from a generator."""
    rng = np.random.default_rng(100 + stage)
    inputs = jnp.asarray(rng.standard_normal((EXAMPLES, 6)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 4, EXAMPLES))
    return (Batch(inputs[part], labels[part]) for part in (slice(0, 6), slice(6, None)))


def prune(criterion, sparsity, **options):
    defaults = {"kernels": KERNELS, "batches": examples, "key": jax.random.key(7)}
    return pruning.prune(apply_fn, model(), criterion, sparsity, **(defaults | options))


def flat(tree):
    leaves = trees.named_leaves(tree)
    return np.concatenate([np.asarray(leaves[name]).ravel() for name in KERNELS])


def dense_statistics(variables, stage):
    """The mean gradient and GGN diagonal, from the full Jacobian of the logits."""
    batches = list(examples(stage))
    inputs = jnp.concatenate([batch.inputs for batch in batches])
    labels = jnp.concatenate([batch.labels for batch in batches])

    def mean_loss(variables):
        return -jnp.mean(
            jax.nn.log_softmax(apply_fn(variables, inputs))[jnp.arange(EXAMPLES), labels]
        )

    p = jax.nn.softmax(apply_fn(variables, inputs))
    hessian = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]
    jacobian = jax.jacrev(apply_fn)(variables, inputs)
    ggn = jax.tree.map(
        lambda j: jnp.einsum("nc...,ncd,nd...->...", j, hessian, j) / EXAMPLES, jacobian
    )
    return flat(jax.grad(mean_loss)(variables)), flat(ggn)


def reference(name, sparsity, stages, step_penalty):
    """Algorithm 1 of arXiv 2006.12279 in plain NumPy."""
    variables, kept = model(), np.ones(SIZE, bool)
    for stage in range(stages):
        count = round((1 - (1 - sparsity) ** ((stage + 1) / stages)) * SIZE)
        theta = flat(variables) * kept
        first = theta[:30].reshape(6, 5), theta[30:].reshape(5, 4)
        masked = {
            "first": variables["first"] | {"kernel": jnp.asarray(first[0])},
            "second": variables["second"] | {"kernel": jnp.asarray(first[1])},
        }
        g, ggn = dense_statistics(masked, stage)
        g, ggn = {
            "magnitude": (0 * g, np.ones_like(ggn)),
            "obd": (0 * g, ggn),
            "linear": (g, 0 * ggn),
            "quadratic": (g, ggn),
        }[name]
        scores = np.abs(-g * theta + 0.5 * ggn * theta**2) + 0.5 * step_penalty * theta**2
        scores[~kept] = -np.inf
        kept = np.ones(SIZE, bool)
        kept[np.argsort(scores, kind="stable")[:count]] = False
    return kept


@pytest.mark.parametrize("name", ["magnitude", "obd", "linear", "quadratic"])
@pytest.mark.parametrize(("stages", "step_penalty"), [(1, 0.0), (4, 0.0), (4, 0.1)])
def test_pruning_follows_the_algorithm_of_the_paper(name, stages, step_penalty):
    result = prune(name, 0.8, stages=stages, step_penalty=step_penalty)
    np.testing.assert_array_equal(flat(result), reference(name, 0.8, stages, step_penalty))


@pytest.mark.parametrize("scope", masks.SCOPES)
@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
@pytest.mark.parametrize("name", WEIGHT_CRITERIA)
def test_every_criterion_schedule_and_scope_removes_the_exact_count(name, schedule, scope):
    result = prune(name, 0.7, stages=5, schedule=schedule, scope=scope)
    assert masks.removed(result) == round(0.7 * SIZE)
    assert result["first"]["bias"] is None


@pytest.mark.parametrize("name", WEIGHT_CRITERIA)
def test_pruning_is_deterministic_and_leaves_the_variables(name):
    first, second = (prune(name, 0.6, stages=3) for _ in range(2))
    np.testing.assert_array_equal(flat(first), flat(second))
    variables = model()
    pruning.prune(
        apply_fn, variables, name, 0.6, kernels=KERNELS, batches=examples, key=jax.random.key(0)
    )
    jax.tree.map(np.testing.assert_array_equal, variables, model())


@pytest.mark.parametrize("name", WEIGHT_CRITERIA)
def test_scores_compile_once_for_all_stages(name):
    pruning._score.clear_cache()
    prune(name, 0.9, stages=9)
    assert pruning._score._cache_size() == 1


@pytest.mark.parametrize("name", WEIGHT_CRITERIA)
def test_only_what_a_criterion_requires_is_computed(name, monkeypatch):
    needs = criteria.required(WEIGHT_CRITERIA[name])
    if "gradient" not in needs:
        monkeypatch.setattr(pruning.curvature, "gradient", unusable)
    if "ggn" not in needs:
        monkeypatch.setattr(pruning.curvature, "ggn_diagonal", unusable)
    on_data = needs & {"gradient", "ggn"}
    prune(name, 0.5, batches=examples if on_data else unusable, stages=2)


def test_magnitude_in_every_number_of_stages_is_magnitude_at_once():
    at_once = flat(prune("magnitude", 0.8, batches=None, key=None))
    for stages in (2, 7, 40):
        result = prune("magnitude", 0.8, batches=None, key=None, stages=stages)
        np.testing.assert_array_equal(flat(result), at_once)


def test_random_pruning_follows_the_key():
    first, second = (flat(prune("random", 0.5, key=jax.random.key(seed))) for seed in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize("name", WEIGHT_CRITERIA)
def test_what_a_stage_prunes_stays_pruned(name):
    first = flat(prune(name, 0.3))
    both = flat(prune(name, 0.6, stages=2, schedule="linear"))
    assert not (both & ~first).any()


def test_statistics_are_fresh_at_every_stage_that_removes_something():
    seen = []

    def batches(stage):
        seen.append(stage)
        return next(examples(stage))

    prune("linear", 0.8, batches=batches, stages=4)
    assert seen == [0, 1, 2, 3]
    seen.clear()
    prune("linear", 0.8, batches=batches, stages=4, schedule="one_shot")
    assert seen == [0]


def test_nothing_is_removed_at_sparsity_zero():
    assert flat(prune("quadratic", 0.0, batches=unusable)).all()


def test_another_loss_is_used():
    chosen = flat(prune("linear", 0.5, loss=losses.squared_error))
    assert (chosen != flat(prune("linear", 0.5))).any()


def test_a_function_is_a_criterion():
    def smallest_squares(params, *, step_penalty=0.0):
        return trees.map_selected(jnp.square, params)

    result = prune(smallest_squares, 0.5, batches=None)
    np.testing.assert_array_equal(flat(result), flat(prune("magnitude", 0.5)))


def test_a_partial_keeps_what_it_binds():
    bound = functools.partial(WEIGHT_CRITERIA["linear"], step_penalty=0.7)
    given = prune("linear", 0.8, stages=4, step_penalty=0.7)
    np.testing.assert_array_equal(flat(prune(bound, 0.8, stages=4)), flat(given))
    assert (flat(given) != flat(prune("linear", 0.8, stages=4))).any()


def test_batches_stand_for_the_same_examples_at_every_stage():
    several = list(examples(0))
    expected = flat(prune("quadratic", 0.8, stages=3, batches=lambda stage: several))
    np.testing.assert_array_equal(
        flat(prune("quadratic", 0.8, stages=3, batches=several)), expected
    )
    one = prune("quadratic", 0.8, stages=3, batches=several[0])
    expected = flat(prune("quadratic", 0.8, stages=3, batches=lambda stage: several[0]))
    np.testing.assert_array_equal(flat(one), expected)


def test_variables_of_another_nesting():
    leaves = model()
    variables = [(leaves["first"]["kernel"], None), (leaves["second"]["kernel"], jnp.int32(3))]
    result = pruning.prune(unusable, variables, "magnitude", 0.5, kernels=("0/0", "1/0"))
    assert masks.removed(result) == SIZE // 2
    assert masks.apply(variables, result)[1][1] is variables[1][1]


@pytest.mark.parametrize(
    ("criterion", "sparsity", "options", "message"),
    [
        ("magnitud", 0.5, {}, "unknown criterion 'magnitud' .did you mean 'magnitude'.*valid: "),
        ("linear", 0.5, {"schedule": "lineer"}, "unknown schedule 'lineer' .did you mean 'linear'"),
        ("linear", 0.5, {"scope": "layers"}, "unknown scope 'layers' .did you mean 'layer'"),
        ("linear", -0.1, {}, "sparsity is -0.1"),
        ("linear", 1.2, {}, "sparsity is 1.2"),
        ("linear", float("nan"), {}, "sparsity is nan"),
        ("linear", 0.5, {"stages": 0}, "stages must be an integer of at least 1, not 0"),
        ("linear", 0.5, {"stages": 1.5}, "stages must be an integer, not 1.5"),
        ("linear", 0.5, {"stages": 51}, "51 stages are more than the 25 of 50 weights to remove"),
        ("linear", 0.5, {"stages": 26}, "26 stages are more than the 25 of 50 weights to remove"),
        ("linear", 0.5, {"batches": None}, "'linear' needs gradient, .*not NoneType"),
        ("quadratic", 0.5, {"batches": []}, "needs ggn and gradient, .*not an empty list"),
        ("random", 0.5, {"key": None}, "'random' draws at random: give key"),
        ("random", 0.5, {"step_penalty": 0.1}, "'random' takes no step_penalty"),
        ("linear", 0.5, {"step_penalty": -1.0}, "step_penalty is -1.0"),
        ("linear", 0.5, {"step_penalty": float("nan")}, "step_penalty is nan"),
        ("linear", 0.5, {"kernels": ("third/kernel",)}, "no leaf is named 'third/kernel'"),
        ("linear", 0.5, {"step_penalty": "1"}, "step_penalty must be a number, .*not '1'"),
        ("linear", 0.5, {"step_penalty": True}, "step_penalty must be a number, .*not True"),
        ("linear", True, {}, "sparsity must be a number in .*not True"),
        ("linear", "0.5", {}, "sparsity must be a number in .*not '0.5'"),
        ("random", 0.5, {"key": 0}, "key must be one random key, as jax.random.key.0., not 0"),
        ("linear", 0.5, {"loss": "cross_entropy"}, "not 'cross_entropy'; pass one of losses.cross"),
        ("linear", 0.5, {"kernels": "o"}, "not the text 'o'; for one kernel give .'o'."),
        (
            functools.partial(WEIGHT_CRITERIA["obd"], step_penalty=1.0),
            0.5,
            {"step_penalty": 0.1},
            "'obd' takes no step_penalty, or has it bound already",
        ),
        ("linear", 0.5, {"kernels": ()}, "no leaf with weights to prune"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(criterion, sparsity, options, message):
    defaults = {"kernels": KERNELS, "batches": unusable, "key": jax.random.key(0)}
    with pytest.raises(ValueError, match=message):
        pruning.prune(unusable, model(), criterion, sparsity, **(defaults | options))


def test_an_emptied_layer_is_refused_unless_allowed():
    variables = model()
    variables["second"]["kernel"] *= 1e-3
    run = {"kernels": KERNELS, "stages": 10}
    with pytest.raises(ValueError, match="every weight of second/kernel"):
        pruning.prune(apply_fn, variables, "magnitude", 0.5, **run)
    result = pruning.prune(apply_fn, variables, "magnitude", 0.5, allow_empty_layers=True, **run)
    assert masks.empty_layers(result) == ["second/kernel"]


def test_weights_that_are_not_finite_are_named():
    variables = model()
    variables["first"]["kernel"] = variables["first"]["kernel"].at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="'first/kernel' are not all finite"):
        pruning.prune(apply_fn, variables, "magnitude", 0.5, kernels=KERNELS)


def test_pruning_takes_densities_from_the_trace():
    attention, variables, inputs = unit_networks.UNIT_NETWORKS["attention"]()
    trace = tracing.trace(attention, variables, inputs)
    found = pruning.prune(trace, variables, "magnitude", 0.7, scope="erk")
    scores = jax.tree.map(jnp.abs, trees.select(variables, trace.kernels))
    expected = masks.from_scores(scores, 0.7, scope="erk", trace=trace)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def read_model():
    """A model with the kernels of `model`, read off its function, its trace and its unit graph."""
    inputs = next(examples(0)).inputs
    trace = tracing.trace(apply_fn, model(), inputs)
    return {"function": apply_fn, "trace": trace, "graph": units.graph(trace)}


@pytest.mark.parametrize("kind", ["function", "trace", "graph"])
@pytest.mark.parametrize("name", ["magnitude", "quadratic"])
def test_kernels_are_read_off_the_model(kind, name):
    several = list(examples(0))
    found = pruning.prune(read_model()[kind], model(), name, 0.8, batches=several)
    np.testing.assert_array_equal(flat(found), flat(prune(name, 0.8, batches=several)))


def test_a_trace_needs_no_batches_to_know_its_kernels():
    found = pruning.prune(read_model()["trace"], model(), "magnitude", 0.8)
    np.testing.assert_array_equal(flat(found), flat(prune("magnitude", 0.8)))


def test_batches_that_are_given_once_are_asked_for_once():
    seen = []

    def batches(stage):
        seen.append(stage)
        return examples(stage)

    found = pruning.prune(apply_fn, model(), "quadratic", 0.8, batches=batches, stages=3)
    assert seen == [0, 1, 2]
    np.testing.assert_array_equal(flat(found), flat(prune("quadratic", 0.8, stages=3)))


def half_read(variables, inputs):
    """The kernel of `model`'s second layer is used for something else too."""
    return apply_fn(variables, inputs) * variables["second"]["kernel"].mean()


def test_weights_that_could_not_be_read_are_named_where_the_sparsity_is_asked_for():
    batch = next(examples(0))
    message = (
        "sparsity 0.5 is of the 30 weights of the kernels that were read. 20 weights .40% of all. "
        "could not be read and stay as they are: 'second/kernel', since .*kernels="
    )
    with pytest.warns(UserWarning, match=message) as told:
        found = pruning.prune(half_read, model(), "linear", 0.5, batches=batch)
    assert told[0].filename == __file__
    assert masks.removed(found) == 15 and found["second"]["kernel"] is None
    named = pruning.prune(half_read, model(), "linear", 0.5, batches=batch, kernels=KERNELS)
    assert masks.removed(named) == 25


@pytest.mark.parametrize(
    ("broken", "options", "message"),
    [
        (apply_fn, {}, "which kernels a function has is read .*give batches=, or kernels="),
        (apply_fn, {"batches": []}, "read with the inputs of its first batch, .*not a list"),
        (apply_fn, {"batches": (jnp.ones((2, 6)), jnp.ones(2))}, "first batch, .*not a tuple"),
        (apply_fn, {"batches": lambda stage: [(1, 2)]}, "first batch, .*not a tuple"),
        ("apply_fn", {"kernels": KERNELS}, "a model is a function, a Trace .*, not str"),
    ],
)
def test_a_model_that_cannot_be_read_is_refused(broken, options, message):
    with pytest.raises(ValueError, match=message):
        pruning.prune(broken, model(), "magnitude", 0.5, **options)


def test_variables_of_another_model_are_refused():
    variables = model()
    variables["second"]["kernel"] = jnp.ones((5, 7))
    with pytest.raises(ValueError, match=r"\(5, 7\) at 'second/kernel', and those that were trac"):
        pruning.prune(read_model()["trace"], variables, "magnitude", 0.5)

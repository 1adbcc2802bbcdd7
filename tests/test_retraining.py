"""Retraining: regimes, rewinding step by step, small networks, cycles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import NETWORK, ROUNDING, assert_close, largest

from pruning_jax import (
    masks,
    methods,
    models,
    recipes,
    retraining,
    schedules,
    training,
    trees,
)
from pruning_jax.lab import meshes, replicates
from pruning_jax.recipes import Recipe
from pruning_jax.types import Batch

PRETRAINING = Recipe(200, 100, 0.1, boundaries=(70, 140), factor=0.1)
STEPS = 10


def test_the_original_schedule_is_the_pretraining_recipe():
    plan = retraining.plan("original_schedule", PRETRAINING, STEPS)
    assert plan == (PRETRAINING, 0, False)


def test_fine_tuning_holds_the_last_learning_rate_constant():
    recipe, step, _ = retraining.plan("fine_tuning", PRETRAINING, STEPS, epochs=40)
    assert recipe.learning_rate == pytest.approx(1e-3)
    assert (recipe.epochs, recipe.boundaries, recipe.batch_size, step) == (40, (), 100, 0)


def test_a_boundary_that_pretraining_never_reached_does_not_count():
    plan = retraining.plan("fine_tuning", PRETRAINING._replace(epochs=100), STEPS)
    assert plan.recipe.learning_rate == pytest.approx(1e-2)


@pytest.mark.parametrize("regime", ["learning_rate_rewinding", "weight_rewinding"])
@pytest.mark.parametrize(("asked", "step"), [({"epochs": 40}, 1600), ({"step": 7}, 7), ({}, 0)])
def test_rewinding_goes_back_in_the_same_recipe(regime, asked, step):
    plan = retraining.plan(regime, PRETRAINING, STEPS, **asked)
    assert plan == (PRETRAINING, step, regime == "weight_rewinding")


def test_any_field_can_be_changed():
    plan = retraining.plan(
        "original_schedule", PRETRAINING, STEPS, learning_rate=0.02, boundaries=()
    )
    recipe = plan.recipe
    assert (recipe.learning_rate, recipe.boundaries, recipe.epochs) == (0.02, (), 200)


@pytest.mark.parametrize(
    ("regime", "changes", "named"),
    [
        ("rewind", {}, "learning_rate_rewinding"),
        ("original_schedule", {"epoch": 3}, "epochs"),
        ("fine_tuning", {"step": 3}, "learning_rate_rewinding or weight_rewinding"),
        ("weight_rewinding", {"momentum": 0.1}, "momentum"),
        ("weight_rewinding", {"epochs": 201}, "201 epochs before the end .* 200 epochs"),
        ("learning_rate_rewinding", {"step": 2001}, "step 2001 .* 2000 steps"),
        ("learning_rate_rewinding", {"step": -1}, "step is -1"),
        ("learning_rate_rewinding", {"step": 2.5}, "step is 2.5"),
        ("learning_rate_rewinding", {"step": 3, "epochs": 1}, "give one of them"),
        ("fine_tuning", {"epochs": -1}, "epochs is -1"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(regime, changes, named):
    with pytest.raises(ValueError, match=named):
        retraining.plan(regime, PRETRAINING, STEPS, **changes)


# A network whose training is watched step by step.
MODULE = models.build("mlp", 3, widths=(5,), activation="tanh")
RECIPE = Recipe(4, 8, 0.2, boundaries=(1, 3), factor=0.5, momentum=0.0, weight_decay=0.01)
TASK = training.Task(models.train_fn(MODULE), models.apply_fn(MODULE), RECIPE)
EXAMPLES, OF_AN_EPOCH = 40, 5
KEY = jax.random.key(5)


def toy(seed=0):
    inputs, labels = jax.random.split(jax.random.key(seed))
    return Batch(
        jax.random.normal(inputs, (EXAMPLES, 6)), jax.random.randint(labels, (EXAMPLES,), 0, 3)
    )


def watched(task, progress):
    """Step -> the parameters after it, and the progress at the end."""
    kept = {}

    def call(step, state):
        kept[step] = jax.tree.map(lambda leaf: np.array(leaf[0]), state.params)

    batch = replicates.stack([toy()])
    run = training.fit(
        replicates.stack([progress]), batch, batch, task=task, pause=training.Pause(1, call)
    )
    *_, (_, ended, _) = run
    return kept, replicates.unstack(ended)[0]


@pytest.fixture(scope="module")
def pretraining():
    variables = models.init(MODULE, jax.random.key(1), toy().inputs[:1])
    start = training.start(TASK, variables, KEY, EXAMPLES)
    history, ended = watched(TASK, start)
    history = {step: {"params": params} for step, params in history.items()}
    return {0: jax.tree.map(np.array, variables)} | history, ended


def all_kept(params):
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)


@pytest.mark.parametrize("step", [0, 7])
def test_weights_rewound_without_momentum_replay_pretraining_step_by_step(step, pretraining):
    """With nothing masked, the key of pretraining and no momentum, it is the same run again."""
    history, _ = pretraining
    plan = retraining.plan("weight_rewinding", RECIPE, OF_AN_EPOCH, step=step)
    kept = all_kept(history[0]["params"])
    again = retraining.begin(plan, TASK, history, kept, key=KEY, examples=EXAMPLES)
    replayed, _ = watched(*again)
    assert list(replayed) == list(range(step + 1, 21))
    for at, params in replayed.items():
        assert_close(params, history[at]["params"], NETWORK)


@pytest.mark.parametrize("regime", retraining.REGIMES)
def test_every_step_is_sgd_at_the_rate_of_its_step_of_the_schedule(regime, pretraining):
    """The first update of a run, without momentum behind it, is -rate (gradient + decay)."""
    history, _ = pretraining
    rewinds = retraining.REGIMES[regime].rewinds_rate
    plan = retraining.plan(regime, RECIPE, OF_AN_EPOCH, **({"step": 8} if rewinds else {}))
    kept = all_kept(history[0]["params"])
    task, progress = retraining.begin(plan, TASK, history, kept, key=KEY, examples=EXAMPLES)
    begun = history[8] if plan.rewinds_weights else history[20]
    jax.tree.map(np.testing.assert_array_equal, progress.state.params, begun["params"])
    params, _ = watched(task, progress)
    expected = {"original_schedule": 0.2, "fine_tuning": 0.05}.get(regime, 0.1)
    order = training.steps.programs_of(task, EXAMPLES, 1, meshes.current()).order(
        KEY[None], jnp.array([plan.step // OF_AN_EPOCH])
    )
    index = order[0, plan.step % OF_AN_EPOCH]
    batch = jax.tree.map(lambda leaf: leaf[index], toy())

    def loss(p):
        logits = TASK.apply_fn({"params": p}, batch.inputs)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(8), batch.labels])

    first = begun["params"]
    gradient = jax.tree.map(lambda g, p: g + 0.01 * p, jax.jit(jax.grad(loss))(first), first)
    stepped = jax.tree.map(lambda p, g: p - expected * g, first, gradient)
    assert_close(params[plan.step + 1], stepped, ROUNDING)


def test_the_learning_rate_of_a_rewound_run_is_that_of_pretraining():
    rate = recipes.learning_rate(RECIPE, OF_AN_EPOCH)
    tx = recipes.optimizer(RECIPE._replace(weight_decay=0.0), OF_AN_EPOCH)
    for step in range(20):
        update, _ = tx.update(jnp.ones(()), tx.init(jnp.ones(())), jnp.ones(()), step=step)
        assert float(update) == pytest.approx(-float(rate(step)))


def test_masked_weights_stay_zero_after_rewinding(pretraining):
    history, _ = pretraining
    weights = trees.select(history[0]["params"], ["Dense_0/kernel"])
    kept = jax.tree.map(lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape) % 3 > 0, weights)
    plan = retraining.plan("weight_rewinding", RECIPE, OF_AN_EPOCH, step=6)
    begun = retraining.begin(plan, TASK, history, kept, key=KEY, examples=EXAMPLES)
    for params in watched(*begun)[0].values():
        assert not params["Dense_0"]["kernel"][~np.asarray(kept["Dense_0"]["kernel"])].any()


def test_replicates_of_one_run_are_at_one_step_of_a_schedule_that_they_can_follow():
    params = {"kernel": jnp.ones(2)}
    runs = [training.start(TASK, {"params": params}, KEY, EXAMPLES, step=step) for step in (0, 8)]
    batch = replicates.stack([toy(), toy()])
    with pytest.raises(ValueError, match=r"at steps \[0, 8\]"):
        next(training.fit(replicates.stack(runs), batch, batch, task=TASK))
    few = jax.tree.map(lambda leaf: leaf[None, :9], toy())
    with pytest.raises(ValueError, match="at step 8, past the 4 epochs of 1 steps"):
        next(training.fit(replicates.stack(runs[1:]), few, few, task=TASK))
    none = jax.tree.map(lambda leaf: leaf[None, :7], toy())
    with pytest.raises(ValueError, match="batch_size is 8, more than the 7"):
        training.take_steps(replicates.stack([runs[0].state]), none, 1, task=TASK)


@pytest.mark.parametrize(
    ("kept", "named"),
    [
        ({"other": jnp.ones(2, bool)}, "has a leaf 'other'"),
        ({"kernel": jnp.ones(3, bool)}, r"shape \(3,\) at 'kernel'"),
        ({"kernel": jnp.ones(2)}, "'kernel' is float32"),
    ],
)
def test_masks_that_do_not_fit_are_named(kept, named):
    with pytest.raises(ValueError, match=named):
        training.start(TASK, {"params": {"kernel": jnp.ones(2)}}, KEY, EXAMPLES, kept)


def test_a_step_that_was_not_kept_is_named_with_those_that_were(pretraining):
    history = {step: pretraining[0][step] for step in (0, 5, 20)}
    plan = retraining.plan("weight_rewinding", RECIPE, OF_AN_EPOCH, step=7)
    with pytest.raises(ValueError, match=r"step 7 were not kept; .* 0, 5, 20; the nearest is 5"):
        retraining.begin(plan, TASK, history, all_kept(history[0]["params"]), key=KEY, examples=40)


def test_a_run_cannot_begin_past_its_recipe():
    variables = {"params": {"kernel": jnp.ones(2)}}
    with pytest.raises(ValueError, match="step is 21; it must be 0 to 20"):
        training.start(TASK, variables, KEY, EXAMPLES, step=21)


def test_a_run_resumed_within_an_epoch_takes_the_rest_of_it(pretraining):
    variables = pretraining[0][0]
    state = replicates.stack([training.start(TASK, variables, KEY, EXAMPLES).state])
    batch = replicates.stack([toy()])
    for count in (3, 10):
        state = training.take_steps(state, batch, count, task=TASK)
    (ended,) = replicates.unstack(state.params)
    assert_close(ended, pretraining[0][13]["params"], NETWORK)


def test_survivors_have_the_variance_of_a_small_layer():
    shape = (3, 3, 64, 96)
    kernel = jax.random.normal(jax.random.key(0), shape) * np.sqrt(2 / (9 * 64))
    params = {"kernel": kernel, "bias": jnp.ones(96)}
    scores = {"kernel": jax.random.uniform(jax.random.key(1), shape), "bias": None}
    kept = masks.from_scores(scores, 0.75)
    small = retraining.rescaled(params, kept, output_axis=-1)
    survivors = np.asarray(small["kernel"])[np.asarray(kept["kernel"])]
    assert survivors.var() == pytest.approx(2 / (9 * 64 * 0.25), rel=0.05)
    assert not np.asarray(small["kernel"])[~np.asarray(kept["kernel"])].any()
    np.testing.assert_array_equal(small["bias"], params["bias"])


def test_survivors_of_removed_channels_have_the_variance_of_a_narrow_layer():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 8, 6))
    inputs, outputs = jnp.arange(8) < 2, jnp.arange(6) < 4
    kept = jnp.broadcast_to(inputs[:, None] & outputs, kernel.shape)
    small = retraining.rescaled({"kernel": kernel}, {"kernel": kept}, output_axis=-1)["kernel"]
    np.testing.assert_allclose(small[:, :, :2, :4], 2 * kernel[:, :, :2, :4], rtol=1e-6)
    flipped = retraining.rescaled({"kernel": kernel.T}, {"kernel": kept.T}, output_axis=0)["kernel"]
    np.testing.assert_allclose(flipped, small.T, rtol=1e-6)


def test_a_layer_without_survivors_cannot_be_rescaled():
    with pytest.raises(ValueError, match="'kernel' keeps no weight"):
        retraining.rescaled(
            {"kernel": jnp.ones((2, 2))}, {"kernel": jnp.zeros((2, 2), bool)}, output_axis=-1
        )


def test_cycles_prune_a_share_of_what_remains_and_train_the_survivors():
    variables = {"params": jnp.arange(1.0, 101.0)}
    seen = []

    def prune(variables, sparsity, kept):
        return masks.from_scores(jax.tree.map(jnp.abs, variables), sparsity, masks=kept)

    def retrain(pruned, kept):
        seen.append(int(np.count_nonzero(pruned["params"])))
        return masks.apply(jax.tree.map(lambda leaf: 101 - leaf, pruned), kept)

    sparsities = schedules.compounded(0.2, 3)
    found = list(retraining.iterate(variables, sparsities, prune, retrain))
    assert seen == [80, 64, 51] == [masks.prunable(c.kept) - masks.removed(c.kept) for c in found]
    assert [cycle.sparsity for cycle in found] == pytest.approx([0.2, 0.36, 0.488])
    for before, after in zip(found, found[1:], strict=False):
        assert not (after.kept["params"] & ~before.kept["params"]).any()
    # The largest after the first training were the smallest before it.
    np.testing.assert_array_equal(np.flatnonzero(found[1].kept["params"]), np.arange(20, 84))


@pytest.mark.parametrize(
    ("share", "cycles", "named"), [(0.0, 3, "share is 0"), (1.0, 3, "share is 1"), (0.2, 0, "1")]
)
def test_shares_and_cycles_out_of_range_are_refused(share, cycles, named):
    with pytest.raises(ValueError, match=named):
        schedules.compounded(share, cycles)


def test_an_l1_penalty_adds_its_sign_to_the_gradient_of_the_scales(pretraining):
    history, _ = pretraining
    penalty = methods.build("slimming", strength=0.5, scales=("Dense_0/bias",))
    penalised = TASK._replace(method=penalty)
    steps = {}
    for task in (TASK, penalised):
        state = replicates.stack([training.start(task, history[5], KEY, EXAMPLES).state])
        ended = training.take_steps(state, replicates.stack([toy()]), 1, task=task)
        steps[task] = jax.tree.map(lambda leaf: np.asarray(leaf[0]), ended.params)
    moved = jax.tree.map(lambda a, b: (a - b) / 0.2, steps[TASK], steps[penalised])
    expected = 0.5 * np.sign(history[5]["params"]["Dense_0"]["bias"])
    scale = largest(steps[TASK]["Dense_0"]["bias"]) / 0.2
    assert_close(moved["Dense_0"].pop("bias"), expected, ROUNDING, scale)
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(moved)) == 0


@pytest.mark.parametrize(
    ("names", "strength", "said"),
    [(("scale",), 1e-4, "'scale'"), ((), 1e-4, "one name"), (("kernel",), -1.0, "strength is -1")],
)
def test_a_penalty_that_cannot_be_taken_is_refused(names, strength, said):
    with pytest.raises(ValueError, match=said):
        penalty = methods.slimming(strength=strength, scales=names)
        penalty.penalty({"kernel": jnp.ones(2)}, None, 0)

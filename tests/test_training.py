"""Training against a hand-written optimiser, and the identities that resuming and masks promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import NETWORK, assert_close, assert_same, largest

from pruning_jax import (
    data,
    losses,
    models,
    recipes,
    training,
    trees,
)
from pruning_jax.lab import checkpointing, meshes, replicates
from pruning_jax.training import pieces, steps
from pruning_jax.types import Batch

pytestmark = pytest.mark.usefixtures("optimised")

CLASSES = 3


def toy(seed: int, examples: int = 40, shape=(6,)) -> Batch:
    inputs, labels = jax.random.split(jax.random.key(seed))
    return Batch(
        jax.random.normal(inputs, (examples, *shape)),
        jax.random.randint(labels, (examples,), 0, CLASSES),
    )


def task_of(module, **fields) -> training.Task:
    values = {"epochs": 3, "batch_size": 8, "learning_rate": 0.1, "weight_decay": 0.01}
    recipe = recipes.Recipe(**(values | fields))
    return training.Task(models.train_fn(module), models.apply_fn(module), recipe)


MLP = models.build("mlp", CLASSES, widths=(5,), activation="tanh")


def begin(task, module, batch, seed=0, kept=None):
    variables = models.init(module, jax.random.key(seed), batch.inputs[:1])
    return training.start(task, variables, jax.random.key(seed + 10), len(batch.labels), kept)


def last(task, progress, batch, held, **arguments):
    *_, (_, progress, _) = training.fit(
        replicates.stack([progress]),
        *(replicates.stack([part]) for part in (batch, held)),
        task=task,
        **arguments,
    )
    return replicates.unstack(progress)[0]


def test_an_epoch_is_sgd_with_momentum_and_l2_written_by_hand():
    batch, task = toy(1), task_of(MLP, epochs=1)
    start = begin(task, MLP, batch)
    params = jax.tree.map(np.asarray, start.state.params)
    velocity = jax.tree.map(np.zeros_like, params)
    order = data.batch_order(jax.random.fold_in(start.state.key, 0), 40, 8)
    for index in order:
        x, y = batch.inputs[index], batch.labels[index]

        def loss(p, x=x, y=y):
            (first, second) = p["params"].values() if "params" in p else p.values()
            hidden = jnp.tanh(x @ first["kernel"] + first["bias"])
            logits = hidden @ second["kernel"] + second["bias"]
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(8), y])

        gradient = jax.tree.map(lambda g, p: g + 0.01 * p, jax.grad(loss)(params), params)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
    trained = last(task, start, batch, batch).state
    assert int(trained.step) == 5
    assert_close(trained.params, params, NETWORK)


def test_masked_weights_stay_zero_and_the_others_move():
    batch, task = toy(2), task_of(MLP)
    dense = begin(task, MLP, batch)
    kernels = [name for name in trees.named_leaves(dense.state.params) if "kernel" in name]
    kept = trees.map_selected(
        lambda leaf: jax.random.bernoulli(jax.random.key(leaf.size), 0.5, leaf.shape),
        trees.select(dense.state.params, kernels),
    )
    start = begin(task, MLP, batch, kept=kept)
    initial = jax.tree.map(np.asarray, start.state.params)
    trained = last(task, start, batch, batch).state
    leaves, masks = trees.named_leaves(trained.params), trees.named_leaves(kept)
    for name in kernels:
        assert not np.any(np.asarray(leaves[name])[~np.asarray(masks[name])])
        moved = np.asarray(leaves[name]) != trees.named_leaves(initial)[name]
        assert moved[np.asarray(masks[name])].all()


def test_resumed_training_gives_the_same_bits():
    batch, held, task = toy(3), toy(4), task_of(MLP, epochs=5)
    whole = last(task, begin(task, MLP, batch), batch, held)
    runs = training.fit(
        replicates.stack([begin(task, MLP, batch)]),
        *(replicates.stack([part]) for part in (batch, held)),
        task=task,
    )
    for epoch, progress, _ in runs:
        if epoch == 2:
            stopped = replicates.unstack(jax.tree.map(jnp.array, progress))[0]
            break
    resumed = last(task, stopped, batch, held)
    assert_same(
        jax.tree.map(np.asarray, resumed._replace(state=resumed.state._replace(key=0))),
        jax.tree.map(np.asarray, whole._replace(state=whole.state._replace(key=0))),
    )


class Pauses:
    """A pause that keeps copies of the parameters it was called with, by step."""

    def __init__(self, every):
        self.kept = {}
        self.pause = training.Pause(every, self)

    def __call__(self, step, state):
        assert int(state.step[0]) == step
        self.kept[step] = jax.tree.map(lambda leaf: np.array(leaf[0]), state.params)


def small_conv(**fields):
    module = models.build("small_conv", CLASSES, padding="SAME", widths=(3, 4, 5, 6, 7))
    return module, task_of(module, learning_rate=0.01, **fields), toy(5, 40, (8, 8, 1))


def networks():
    return pytest.mark.parametrize(
        "network", [lambda **f: (MLP, task_of(MLP, **f), toy(3)), small_conv], ids=["mlp", "conv"]
    )


@networks()
@pytest.mark.parametrize("every", [2, 7])
def test_pauses_come_every_so_many_steps_and_change_no_bit(network, every):
    module, task, batch = network(epochs=4)
    plain, paused = Pauses(1), Pauses(every)
    last(task, begin(task, module, batch), batch, batch, pause=plain.pause)
    ended = last(task, begin(task, module, batch), batch, batch, pause=paused.pause)
    assert list(paused.kept) == list(range(every, 21, every))
    for step, params in paused.kept.items():
        assert_close(params, plain.kept[step], NETWORK)
    untouched = last(task, begin(task, module, batch), batch, batch)
    assert_same(ended.state.params, untouched.state.params)
    assert int(ended.best_epoch) == int(untouched.best_epoch)


@networks()
def test_a_run_resumed_between_pauses_gives_the_same_bits_at_each(network):
    module, task, batch = network(epochs=5)
    whole, parts = Pauses(3), Pauses(3)
    last(task, begin(task, module, batch), batch, batch, pause=whole.pause)
    stacked = replicates.stack([batch])
    runs = training.fit(
        replicates.stack([begin(task, module, batch)]),
        stacked,
        stacked,
        task=task,
        pause=parts.pause,
    )
    for epoch, progress, _ in runs:
        if epoch == 2:
            stopped = replicates.unstack(jax.tree.map(jnp.array, progress))[0]
            break
    last(task, stopped, batch, batch, pause=parts.pause)
    assert list(parts.kept) == list(whole.kept)
    assert_same(parts.kept, whole.kept)


def stopped_at(stops, begin, batch, held, folder, **arguments):
    """The last progress and all records of a run stopped after some steps, saved and restored."""
    stacked = [replicates.stack([part]) for part in (batch, held)]
    left, records, progress = sorted(stops), [], replicates.stack([begin()])
    while True:
        run = training.fit(progress, *stacked, handover=lambda: True, **arguments)
        for _, progress, record in run:
            step = training.taken(progress.state)
            records += [] if record is None else [record]
            if left and step >= left[0]:
                left = [stop for stop in left if stop > step]
                checkpointing.save_step(folder, step, progress)
                break
        else:
            return progress, records
        found, progress = checkpointing.latest(folder, replicates.stack([begin()]))
        assert found == step


@networks()
@pytest.mark.parametrize(("every", "stops"), [(3, range(1, 16)), (None, (4, 13))])
def test_a_run_stopped_within_epochs_gives_the_same_bits_and_records(
    network, every, stops, tmp_path, monkeypatch
):
    monkeypatch.setattr(pieces, "SCANNED", 2)
    module, task, batch = network(epochs=3)
    held, begin_ = toy(4, 30, batch.inputs.shape[1:]), lambda: begin(task, module, batch)
    whole, parts = Pauses(every), Pauses(every)
    arguments = [{"task": task, "pause": p.pause if every else None} for p in (whole, parts)]
    splits = [replicates.stack([part]) for part in (batch, held)]
    run = training.fit(replicates.stack([begin_()]), *splits, **arguments[0])
    records = [(progress, record) for _, progress, record in run]
    stopped, found = stopped_at(stops, begin_, batch, held, tmp_path, **arguments[1])
    assert_same(found, [record for _, record in records])
    for one, other in zip(*map(jax.tree.leaves, (stopped, records[-1][0])), strict=True):
        if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(one, other)
    assert list(parts.kept) == list(whole.kept)
    assert_same(parts.kept, whole.kept)


@pytest.mark.parametrize(
    ("whole", "every", "lengths"), [(50, None, {50}), (171, None, {42, 43}), (480, 60, {30})]
)
def test_scanned_steps_come_in_few_lengths_of_50_at_most(whole, every, lengths, monkeypatch):
    monkeypatch.setattr(pieces, "dispatch", None)

    def scan(state, train, order, first):
        return state, (np.zeros(order.shape[:2]), np.zeros(order.shape[:2]))

    programs, order = steps.Programs(None, scan, None, None, None), np.zeros((1, whole, 8), int)
    pause = training.Pause(every, lambda *_: None) if every else None
    taken = pieces.take(programs, True, None, None, order, taken=3 * whole, pause=pause)
    ends = [3 * whole, *(end for end, *_ in taken)]
    assert ends[-1] == 4 * whole and set(np.diff(ends)) == lengths


def test_an_epoch_s_record_is_the_mean_over_the_steps_taken():
    batch, task, first = toy(1), task_of(MLP), 8
    variables = models.init(MLP, jax.random.key(0), batch.inputs[:1])
    start = training.start(task, variables, jax.random.key(10), 40, step=first)
    state, by_hand = start.state, []
    one = jax.jit(functools.partial(training.train_step, task, recipes.optimizer(task.recipe, 5)))
    for step in range(first, 15):
        order = data.batch_order(jax.random.fold_in(state.key, step // 5), 40, 8)
        index = order[step % 5]
        state, measured = one(state, Batch(batch.inputs[index], batch.labels[index]))
        by_hand.append(np.asarray(measured))
    split = replicates.stack([batch])
    run = training.fit(replicates.stack([start]), split, split, task=task)
    for (_, _, record), steps_taken in zip(run, (by_hand[:2], by_hand[2:]), strict=True):
        found = [record["train_loss"][0], record["train_accuracy"][0]]
        np.testing.assert_allclose(found, np.mean(steps_taken, axis=0), rtol=1e-5)


@networks()
def test_steps_alone_are_the_first_steps_of_a_run(network):
    module, task, batch = network(epochs=3)
    run, alone = Pauses(4), Pauses(4)
    last(task, begin(task, module, batch), batch, batch, pause=run.pause)
    start, data_of = (replicates.stack([x]) for x in (begin(task, module, batch).state, batch))
    ended = training.take_steps(start, data_of, 13, task=task, pause=alone.pause)
    assert int(ended.step[0]) == 13 and list(alone.kept) == [4, 8, 12]
    assert_close(alone.kept, {step: run.kept[step] for step in alone.kept}, NETWORK)


def test_steps_under_masks_leave_the_masked_at_zero():
    batch, task = toy(2), task_of(MLP)
    state = begin(task, MLP, batch).state
    kept = jax.tree.map(
        lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape) % 2 > 0, state.params
    )
    start = begin(task, MLP, batch, kept=kept).state
    ended = training.take_steps(*map(lambda x: replicates.stack([x]), (start, batch)), 7, task=task)
    for leaf, mask in zip(*map(jax.tree.leaves, (ended.params, kept)), strict=True):
        assert not np.any(np.asarray(leaf[0])[~np.asarray(mask)])


def test_replicates_together_agree_with_replicates_in_turn():
    task = task_of(MLP)
    batches = [toy(seed) for seed in range(3)]
    turns = [last(task, begin(task, MLP, b, s), b, b) for s, b in enumerate(batches)]
    stacked = replicates.stack([begin(task, MLP, b, s) for s, b in enumerate(batches)])
    data_of = replicates.stack(batches)
    *_, (_, together, record) = training.fit(stacked, data_of, data_of, task=task)
    assert record["train_loss"].shape == (3,)
    for one, other in zip(turns, replicates.unstack(together), strict=True):
        assert_close(one.state.params, other.state.params, NETWORK)


def test_memory_is_of_what_a_replicate_holds_and_of_what_its_steps_compute():
    def bytes_of(tree):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    few, many = toy(0, 16), toy(0, 1_016)

    def needed(train, held_out=few, **fields):
        task = task_of(MLP, **fields)
        return training.memory(begin(task, MLP, train), train, held_out, task=task)

    assert needed(many) - needed(few) == bytes_of(many) - bytes_of(few)
    assert needed(few, many) - needed(few) == bytes_of(many) - bytes_of(few)
    start = begin(task_of(MLP), MLP, few)
    # A step reads a state and writes one, and the best variables may be replaced.
    assert needed(few) >= 2 * bytes_of((start.state, start.best, few))
    assert needed(few, batch_size=16) > needed(few)


def test_dispatched_and_scanned_epochs_agree(monkeypatch):
    module = models.build("small_conv", CLASSES, padding="SAME", batch_norm=True)
    batch, task = toy(5, 16, (8, 8, 1)), task_of(module, epochs=1, learning_rate=0.01)
    dispatched = last(task, begin(task, module, batch), batch, batch).state
    monkeypatch.setattr(steps, "scans", lambda *_: True)
    scanned = last(task, begin(task, module, batch), batch, batch).state
    # Biases before a normalisation have no gradient but the rounding of others'.
    scale = largest(scanned.variables)
    assert_close(dispatched.variables, scanned.variables, NETWORK, scale)


def test_convolutions_are_not_scanned_on_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("the rule is for CPU")
    seen = {}
    for module, shape in [(MLP, (6,)), (models.build("small_conv", CLASSES), (28, 28, 1))]:
        batch, task = toy(6, 8, shape), task_of(module)
        progress = replicates.stack([begin(task, module, batch)])
        train = replicates.stack([batch])
        programs = steps.programs_of(task, 8, 1, meshes.current())
        order = programs.order(progress.state.key, jnp.zeros(1, jnp.int32))
        seen[type(module).__name__] = steps.scans(programs, progress.state, train, order)
    assert list(seen.values()) == [True, False]


def test_the_learning_rate_drops_at_the_boundaries():
    recipe = recipes.Recipe(6, 10, 1.0, boundaries=(2, 4), factor=0.1)
    rate = recipes.learning_rate(recipe, steps_per_epoch=3)
    got = [float(rate(step)) for step in (0, 5, 6, 11, 12, 17)]
    np.testing.assert_allclose(got, [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_adam_is_optax_adam_on_the_decayed_gradient():
    recipe = recipes.Recipe(1, 1, 0.01, optimizer="adam", weight_decay=0.1)
    params, gradient = jnp.array([1.0, -2.0]), jnp.array([0.5, 0.5])
    tx, reference = recipes.optimizer(recipe, 1), optax.adam(0.01)
    updates, _ = tx.update(gradient, tx.init(params), params, step=0)
    expected, _ = reference.update(gradient + 0.1 * params, reference.init(params))
    np.testing.assert_allclose(updates, expected, rtol=1e-6)


def test_a_non_finite_loss_stops_at_its_step():
    batch = toy(7)
    task = task_of(MLP, epochs=4)
    poisoned = batch._replace(inputs=batch.inputs.at[0].set(jnp.nan))
    with pytest.raises(FloatingPointError, match=r"nan at step [0-4] .*learning rate"):
        last(task, begin(task, MLP, batch), poisoned, batch)


@pytest.mark.parametrize("every", [1, 2])
def test_a_non_finite_loss_between_pauses_names_its_step(every):
    batch, task = toy(7), task_of(MLP, epochs=4)
    batch = batch._replace(inputs=batch.inputs.at[5].set(jnp.nan))
    progress = begin(task, MLP, batch)
    order = data.batch_order(jax.random.fold_in(progress.state.key, 0), 40, 8)
    at = int(np.argwhere(np.asarray(order) == 5)[0, 0])
    with pytest.raises(FloatingPointError, match=rf"at step {at} \(epoch 1"):
        last(task, progress, batch, batch, pause=Pauses(every).pause)


def test_the_best_epoch_is_the_first_of_the_most_accurate():
    batch, held, task = toy(8), toy(9, 200), task_of(MLP, epochs=6)
    accuracies, kept = [], []
    for _, progress, record in training.fit(
        replicates.stack([begin(task, MLP, batch)]),
        *(replicates.stack([part]) for part in (batch, held)),
        task=task,
    ):
        accuracies.append(record["validation_accuracy"][0])
        kept.append(jax.tree.map(np.asarray, progress.state.params))
    best = int(np.argmax(accuracies))
    assert int(progress.best_epoch[0]) == best + 1
    assert_same(jax.tree.map(np.asarray, progress.best["params"]), kept[best])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("epochs", 1.5),
        ("batch_size", 0),
        ("batch_size", 41),
        ("learning_rate", float("nan")),
        ("momentum", -0.1),
        ("optimizer", "sdg"),
        ("boundaries", (3, 2)),
    ],
)
def test_bad_recipes_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field.rstrip("s")):
        begin(task_of(MLP, **{field: value}), MLP, toy(1))


def test_squared_error_trains_on_float_targets():
    batch = toy(10)
    targets = batch._replace(labels=jax.nn.one_hot(batch.labels, CLASSES))
    task = task_of(MLP, epochs=2)._replace(loss=losses.squared_error)
    a = last(task, begin(task, MLP, batch), batch, batch).state.params
    b = last(task, begin(task, MLP, targets), targets, targets).state.params
    assert_close(a, b, NETWORK)


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    recipe = recipes.Recipe(10, 10, 2.0, warmup=2, annealing="cosine")
    rate = recipes.learning_rate(recipe, steps_per_epoch=3)
    expected = [min(1, (t + 1) / 6) * (1 + np.cos(np.pi * max(t - 6, 0) / 24)) for t in range(30)]
    np.testing.assert_allclose([rate(t) for t in range(30)], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion", "optax:rmsprop"])
def test_any_optimiser_of_optax_follows_the_rate_of_the_recipe(name):
    recipe = recipes.Recipe(4, 1, 0.1, boundaries=(2,), optimizer=name, decays="kernels")
    recipe = recipe._replace(options=(("eps" if "lion" not in name else "b1", 1e-3),))
    decays = "rmsprop" not in name
    recipe = recipe._replace(weight_decay=0.2 if decays else 0.0)
    recipes.check(recipe)
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    own = {"weight_decay": 0.2, "mask": {"kernel": True, "bias": False}} if decays else {}
    build = getattr(optax, name.removeprefix("optax:"))
    reference = build(lambda count: 0.1 * 0.1 ** (count >= 2), **own, **dict(recipe.options))
    tx = recipes.optimizer(recipe, 1)
    state, other, expected = tx.init(params), reference.init(params), params
    for step in range(4):
        gradient = jax.tree.map(lambda p, step=step: jnp.cos(p * (step + 1)), params)
        moves, state = tx.update(gradient, state, params, step=step)
        wanted, other = reference.update(gradient, other, expected)
        params, expected = (optax.apply_updates(*x) for x in ((params, moves), (expected, wanted)))
        assert_close(params, expected, NETWORK)


def test_weight_decay_can_leave_out_norms_and_biases():
    recipe = recipes.Recipe(1, 1, 1.0, momentum=0.0, weight_decay=0.1, decays="kernels")
    params = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
    tx = recipes.optimizer(recipe, 1)
    moves, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params, step=0)
    assert_close(moves, {"kernel": jnp.full((1, 2), -0.1), "bias": jnp.zeros(2)}, NETWORK, 1.0)


def test_smoothed_labels_are_those_of_optax():
    logits, labels = jax.random.normal(jax.random.key(0), (5, 3)), jnp.arange(5) % 3
    recipe = recipes.Recipe(1, 1, 1.0, label_smoothing=0.2)
    found = recipes.loss(recipe, losses.cross_entropy).value(logits, labels)
    smooth = optax.smooth_labels(jax.nn.one_hot(labels, 3), 0.2)
    assert_close(found, optax.softmax_cross_entropy(logits, smooth), NETWORK)
    assert recipes.loss(recipes.Recipe(1, 1, 1.0), losses.cross_entropy) is losses.cross_entropy


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "adamv"}, "did you mean 'adam"),
        ({"optimizer": "optax:adamv"}, "cannot be imported"),
        ({"optimizer": "adamw", "options": (("beta", 1),)}, "'adamw' cannot be built"),
        ({"options": (("nesterov", True),)}, "takes its momentum alone"),
        ({"warmup": 4}, "warmup is 4 of 4 epochs"),
        ({"annealing": "cosinus"}, "unknown annealing"),
        ({"annealing": "cosine", "boundaries": (1,)}, "a cosine has none"),
        ({"decays": "biases"}, "unknown decays"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
    ],
)
def test_recipes_that_cannot_be_followed_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        recipes.check(recipes.Recipe(4, 1, 0.1)._replace(**changes))

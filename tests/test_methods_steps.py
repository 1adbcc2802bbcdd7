"""What each method does in a step, computed again in NumPy, and what it refuses."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pruning_jax import masks, methods, recipes, tracing, training, units

SHAPES = {"a": (8, 5), "b": (5, 4), "bias": (4,)}
RATE, DECAY, STEPS = 0.1, 0.9, 12
KERNELS = ("a", "b")


def draw(seed):
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, SHAPES.items(), strict=True)}


CURVATURE, TARGET, PARAMS = jax.tree.map(jnp.exp, draw(1)), draw(2), draw(3)


def loss(params):
    parts = jax.tree.map(lambda c, p, t: (c * (p - t) ** 2 / 2).sum(), CURVATURE, params, TARGET)
    return sum(jax.tree.leaves(parts)), None


def slope(seen):
    """The gradient of `loss`, by hand."""
    return {n: np.asarray(CURVATURE[n]) * (seen[n] - np.asarray(TARGET[n])) for n in seen}


def taken(method, tx=None, steps=STEPS, loss=loss, params=PARAMS, masks=None):
    """The runs before every step and after the last."""
    tx = method.optimizer(optax.sgd(RATE, DECAY) if tx is None else tx)
    run = methods.start(method, tx, params, jax.random.key(0), masks)
    step = jax.jit(functools.partial(methods.take_step, method, tx, loss=loss))
    runs = [run]
    for _ in range(steps):
        runs.append(step(runs[-1])[0])
    return runs


class Hand:
    """Momentum by hand, in NumPy, with masks that a method changes."""

    def __init__(self, run):
        self.theta = jax.tree.map(np.array, run.trained)
        self.kept = {n: np.array(m) for n, m in run.state.items() if m is not None}
        self.velocity = jax.tree.map(np.zeros_like, self.theta)

    def seen(self):
        return {n: np.where(self.kept.get(n, True), w, 0) for n, w in self.theta.items()}

    def move(self, dense, masked=True):
        for name, g in dense.items():
            g = np.where(self.kept.get(name, True), g, 0) if masked else g
            self.velocity[name] = DECAY * self.velocity[name] + g
            self.theta[name] = self.theta[name] - np.float32(RATE) * self.velocity[name]

    def change(self, kept, restart=True):
        for name in KERNELS:
            if restart:
                self.velocity[name][kept[name] & ~self.kept[name]] = 0
        self.kept = kept

    def zero(self):
        self.theta = self.seen()

    def check(self, run):
        for name in KERNELS:
            np.testing.assert_array_equal(run.state[name], self.kept[name])
        for name, weights in self.theta.items():
            np.testing.assert_allclose(run.trained[name], weights, rtol=1e-4, atol=1e-5)
            trace = run.opt_state[0].trace[name]
            np.testing.assert_allclose(trace, self.velocity[name], rtol=1e-4, atol=1e-4)


def lowest(scores, count):
    """Masks without the lowest scores of all arrays together, the first of equals first."""
    flat = np.concatenate([scores[n].ravel() for n in KERNELS])
    kept = np.ones(flat.size, bool)
    kept[np.argsort(flat, kind="stable")[:count]] = False
    first = scores["a"].size
    return {"a": kept[:first].reshape(SHAPES["a"]), "b": kept[first:].reshape(SHAPES["b"])}


def test_gradual_pruning_masks_the_smallest_by_the_cube_and_deletes_none():
    method = methods.gradual(0.8, first=2, last=10, every=2, scope="global")
    runs = taken(method)
    hand = Hand(runs[0])
    for step, run in enumerate(runs[1:], 1):
        hand.move(slope(hand.seen()))
        if step in (2, 4, 6, 8, 10):
            share = 0.8 * (1 - (1 - (step - 2) / 8) ** 3)
            hand.change(
                lowest({n: np.abs(hand.theta[n]) for n in KERNELS}, round(share * 60)), False
            )
        hand.check(run)
        for name, seen in methods.finish(method, run).params.items():
            np.testing.assert_allclose(seen, hand.seen()[name], rtol=1e-4, atol=1e-5)
    assert sum(m.size - m.sum() for m in hand.kept.values()) == 48
    assert any((hand.theta[n][~hand.kept[n]] != 0).any() for n in KERNELS)


def test_straight_through_takes_the_gradient_of_the_largest_to_all():
    runs = taken(methods.straight_through(0.5, scope="global"), steps=5)
    hand = Hand(runs[0])
    for run in runs[1:]:
        hand.move(slope(hand.seen()), masked=False)
        hand.change(lowest({n: np.abs(hand.theta[n]) for n in KERNELS}, 30), False)
        hand.check(run)


def test_ac_dc_removes_and_brings_back_and_ends_compressed():
    runs = taken(methods.ac_dc(0.7, first=2, every=3, last=8, scope="global"))
    hand, whole = Hand(runs[0]), {n: np.ones(SHAPES[n], bool) for n in KERNELS}
    for step, run in enumerate(runs[1:], 1):
        hand.move(slope(hand.seen()))
        if step in (2, 8):
            hand.change(lowest({n: np.abs(hand.theta[n]) for n in KERNELS}, 42))
        elif step == 5:
            hand.change(whole)
        hand.zero()
        hand.check(run)
    assert sum(m.sum() for m in hand.kept.values()) == 18


@pytest.mark.parametrize("name", ["rigl", "set"])
def test_exchanged_weights_are_as_many_as_before_and_begin_at_zero(name):
    method = methods.build(name, sparsity=0.6, every=3, last=10, annealing="cosine")
    runs = taken(method)
    hand, moved = Hand(runs[0]), 0
    for step, run in enumerate(runs[1:], 1):
        dense = slope(hand.seen())
        hand.move(dense)
        hand.zero()
        if step in (3, 6, 9):
            after = {}
            for leaf in KERNELS:
                kept, weights = hand.kept[leaf].ravel(), np.abs(hand.theta[leaf]).ravel()
                count = int(0.15 * (1 + math.cos(math.pi * step / 10)) * kept.sum())
                order = [i for i in np.argsort(weights, kind="stable") if kept[i]]
                stay = kept.copy()
                stay[order[:count]] = False
                if name == "rigl":
                    size = np.where(stay, -1, np.abs(dense[leaf]).ravel())
                    stay[np.argsort(-size, kind="stable")[:count]] = True
                else:  # what is drawn is the method's: as many as were dropped, of all others
                    found = np.asarray(run.state[leaf]).ravel()
                    assert (found | ~stay).all() and found.sum() == kept.sum()
                    stay = found
                after[leaf] = stay.reshape(SHAPES[leaf])
                moved += (after[leaf] & ~hand.kept[leaf]).sum()
            hand.change(after)
            hand.zero()
        hand.check(run)
    assert moved > 3
    assert [int(hand.kept[n].sum()) for n in KERNELS] == [16, 8]


def test_adam_begins_anew_with_a_weight_that_is_regrown():
    """It moves as under a fresh Adam; one with its step in common moves too far."""
    slopes = {n: jax.random.normal(jax.random.key(9), (130, *s)) for n, s in SHAPES.items()}
    method = methods.rigl(0.6, every=100, last=101, annealing="constant")

    def steps(tx):
        run = methods.start(method, tx, PARAMS, jax.random.key(0))

        def one(run, slope):
            loss = lambda p: (sum((p[n] * slope[n]).sum() for n in p), None)  # noqa: E731
            run = methods.take_step(method, tx, run, loss)[0]
            return run, (run.trained["a"], run.state["a"])

        return jax.lax.scan(one, run, slopes)[1]

    tx = optax.adam(0.01, b1=0.5)
    (trained, kept), (naive, _) = jax.jit(lambda: (steps(method.optimizer(tx)), steps(tx)))()
    new = np.asarray(kept[99] & ~kept[98])
    assert new.any() and not np.asarray(trained[99])[new].any()
    fresh, state = jnp.zeros(SHAPES["a"]), tx.init(jnp.zeros(SHAPES["a"]))
    for step in range(100, 130):
        update, state = tx.update(slopes["a"][step], state)
        fresh = fresh + update
        np.testing.assert_allclose(trained[step][new], fresh[new], rtol=2e-3, atol=1e-6)
    ordinary = np.abs(trained[100] - trained[99])[np.asarray(kept[99]) & ~new].max()
    assert np.abs(trained[100])[new].max() <= min(0.01 * (1 + 1e-4), ordinary)
    assert np.abs(naive[100])[new].max() > 3 * 0.01


@pytest.mark.parametrize("name", ["static", "gradual", "rigl", "set", "straight_through"])
def test_two_of_four_stay_two_of_four_after_steps_of_adamw(name):
    fields = {"first": 1} if name == "gradual" else {}
    fields |= {"every": 2, "last": 7} if name != "static" else {}
    fields |= {"last": 2} if name == "gradual" else {}
    method = methods.build(name, sparsity=None, pattern=(2, 4), kernels=("a",), **fields)
    for run in taken(method, optax.adamw(0.05, weight_decay=0.1), steps=8)[3:]:
        kept = np.asarray(run.state["a"]).T.reshape(5, 2, 4)
        assert (kept.sum(2) == 2).all()
        seen = np.asarray(methods.finish(method, run).params["a"])
        assert not seen[~np.asarray(run.state["a"])].any() and seen.any()


@pytest.mark.parametrize("scope", masks.SCOPES)
def test_counts_are_those_of_masks_from_scores(scope):
    method = methods.gradual(0.7, first=1, last=3, scope=scope)
    run = taken(method, steps=3)[-1]
    weights = {n: run.trained[n] if n in KERNELS else None for n in SHAPES}
    scores = jax.tree.map(jnp.abs, weights)
    expected = masks.from_scores(scores, 0.7, scope=scope)
    jax.tree.map(np.testing.assert_array_equal, run.state, expected)


def test_a_criterion_takes_its_statistics_on_the_batch():
    method = methods.gradual(0.5, first=1, last=1, criterion="linear", scope="global")
    before, after = taken(method, steps=1)
    dense = slope({n: np.asarray(w) for n, w in before.trained.items()})
    scores = {n: np.abs(dense[n] * np.asarray(after.trained[n])) for n in KERNELS}
    for name, kept in lowest(scores, 30).items():
        np.testing.assert_array_equal(after.state[name], kept)


def model(variables, inputs):
    hidden = jax.nn.relu(inputs @ variables["a"])
    return hidden @ variables["b"] + variables["bias"]


GRAPH = units.graph(tracing.trace(model, PARAMS, jnp.ones((3, 8))))


def test_soft_filters_are_zero_after_every_act_and_stay_so_in_the_end():
    method = methods.soft_filter(0.4, graph=GRAPH, every=3, last=6)
    runs = taken(method, steps=8)
    for step, run in enumerate(runs):
        zero = ~np.asarray(run.trained["a"]).any(axis=0)
        assert zero.sum() == (2 if step in (3, 6, 7, 8) else 0), step
    before = np.asarray(runs[5].trained["a"])
    velocity = np.asarray(runs[6].opt_state[0].trace["a"])
    norms = np.linalg.norm(before - np.float32(RATE) * velocity, axis=0)
    assert set(np.argsort(norms)[:2]) == set(
        np.flatnonzero(~np.asarray(runs[6].trained["a"]).any(0))
    )


def test_scale_factors_move_by_accelerated_proximal_steps():
    strength, rate = 3.0, 0.02
    method = methods.structure_selection(
        strength=strength, learning_rate=rate, momentum=0.5, graph=GRAPH
    )
    runs = taken(method, optax.sgd(0.0), steps=40)
    point, velocity = np.ones(5), np.zeros(5)
    for run in runs[1:]:
        scaled = {**PARAMS, "b": np.asarray(PARAMS["b"]) * point[:, None]}
        g = (slope(scaled)["b"] * np.asarray(PARAMS["b"])).sum(1)
        z = point - rate * g
        z = np.sign(z) * np.maximum(np.abs(z) - rate * strength, 0)
        velocity = z - point + 0.5 * velocity
        point = z + 0.5 * velocity
        found = run.trained.added
        np.testing.assert_allclose(found.point["a"], point, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.sparse["a"], z, rtol=1e-4, atol=1e-5)
    gone = z == 0
    assert 0 < gone.sum() < 5
    pruned = methods.finish(method, runs[-1]).params
    np.testing.assert_array_equal(~np.asarray(pruned["b"]).any(1), gone)
    np.testing.assert_array_equal(~np.asarray(pruned["a"]).any(0), gone)


def test_group_lasso_is_the_sum_of_weighted_norms_and_flat_at_zero():
    method = methods.group_lasso(strength=0.5, graph=GRAPH, threshold=10.0)
    params = {**PARAMS, "a": PARAMS["a"].at[:, 2].set(0)}
    norms = np.linalg.norm(np.asarray(params["a"]), axis=0)
    value, gradient = jax.value_and_grad(method.penalty)(params, (), 0)
    np.testing.assert_allclose(value, 0.5 * math.sqrt(8) * norms.sum(), rtol=1e-5)
    expected = 0.5 * math.sqrt(8) * np.asarray(params["a"]) / np.where(norms, norms, 1)
    np.testing.assert_allclose(gradient["a"], expected, rtol=1e-5)
    finished = methods.finish(
        method, methods.start(method, optax.sgd(1.0), params, jax.random.key(0))
    )
    assert finished.empty == ["a"]  # a threshold that removes every unit


RUN = {"every": 2, "last": 8}


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("static", {"sparsity": 1.0}, "density of 0"),
        ("static", {"sparsity": 0.99}, "leaves no weight of b"),
        ("static", {"sparsity": 0.5, "scope": "uniform"}, "unknown scope 'uniform'"),
        ("static", {"sparsity": 0.5, "kernels": ("c",)}, "no leaf is named 'c'"),
        ("static", {"sparsity": 0.5, "pattern": (2, 4)}, "give one of them"),
        ("gradual", {"sparsity": 0.5, "first": 9, "last": 8}, "would never act"),
        ("gradual", {"sparsity": 0.5, "first": 0, "last": 8}, "first is 0"),
        ("gradual", {"sparsity": 0.5, "first": 1, "schedule": "cubical"} | RUN, "mean 'cubic'"),
        ("gradual", {"sparsity": 0.5, "first": 1, "criterion": "obd"} | RUN, "give trace="),
        ("rigl", {"sparsity": 0.5, "every": 9, "last": 8}, "would never act"),
        ("rigl", {"sparsity": 0.0} | RUN, "keeps every weight"),
        ("rigl", {"sparsity": 0.5, "fraction": 0.0} | RUN, "fraction is 0"),
        ("set", {"sparsity": 0.5, "annealing": "linear"} | RUN, "unknown annealing"),
        ("ac_dc", {"sparsity": 0.5, "first": 2, "last": 5, "every": 3}, "give one of them"),
        ("soft_filter", {"fraction": 1.0, "graph": GRAPH} | RUN, "fraction is 1.0"),
        ("slimming", {"strength": -1.0, "scales": ("bias",)}, "strength is -1.0"),
        ("slimming", {"strength": 1.0}, "no leaf is called scale"),
        ("structure_selection", {"strength": 1.0, "learning_rate": 0.1}, "give either graph="),
        ("group_lasso", {"strength": math.inf, "graph": GRAPH}, "strength is inf"),
        ("variational_dropout", {"weight": math.nan}, "weight is nan"),
        ("variational_dropout", {"weight": 1.0, "first": 5, "last": 4}, "0 <= first <= last"),
        ("l0", {"strength": 1.0, "dropped": 0.0}, "dropped is 0"),
        ("l0", {"strenght": 1.0}, "cannot be built"),
        ("rigle", {}, "did you mean 'rigl'"),
    ],
)
def test_what_cannot_be_is_refused_by_its_value(name, fields, said):
    with pytest.raises(ValueError, match=said):
        methods.start(methods.build(name, **fields), optax.sgd(0.1), PARAMS, jax.random.key(0))


def test_masks_that_a_method_cannot_begin_with_are_refused():
    dense = {n: np.ones(SHAPES[n], bool) for n in KERNELS}
    begin = functools.partial(
        methods.start, tx=optax.sgd(0.1), params=PARAMS, key=jax.random.key(0)
    )
    with pytest.raises(ValueError, match=r"remove 0 weights of a, and sparsity 0\.5"):
        begin(methods.rigl(0.5, **RUN), masks=dense)
    with pytest.raises(ValueError, match="no masks to begin with"):
        begin(methods.variational_dropout(weight=1.0), masks=dense)
    method = methods.static()
    run = begin(method, masks={"a": dense["a"]})
    with pytest.raises(ValueError, match=r"shape \(5, 4\) at 'a'"):
        methods.take_step(method, optax.sgd(0.1), run._replace(state={"a": dense["b"]}), loss)


@pytest.mark.parametrize(
    ("name", "fields", "step", "said"),
    [
        ("rigl", {"sparsity": 0.5, "every": 2, "last": 20}, 0, "acts until step 18, .* 12 steps"),
        ("variational_dropout", {"weight": 1.0, "last": 13}, 0, "until step 13, .* 12 steps"),
        ("gradual", {"sparsity": 0.5, "first": 1, "last": 6}, 8, "it would never act"),
    ],
)
def test_a_training_that_is_too_short_for_a_method_is_refused(name, fields, step, said):
    recipe = recipes.Recipe(3, 10, 0.1)
    task = training.Task(None, None, recipe, method=methods.build(name, **fields))
    with pytest.raises(ValueError, match=said):
        training.start(task, {"params": PARAMS}, jax.random.key(0), 40, step=step)

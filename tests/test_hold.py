"""Removed weights stay zero in any training loop, and what is kept is trained as ever."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import NETWORK, ROUNDING, assert_close
from flax import nnx
from networks import CLASSES, NETWORKS, NNXNet, draw

from pruning_jax import masks, recipes, tracing, training, trees, units
from pruning_jax.recipes import Recipe
from pruning_jax.training import steps
from pruning_jax.types import Batch

STEPS = 6
OPTIMIZERS = {
    "sgd": lambda: optax.chain(
        optax.add_decayed_weights(1e-2), optax.sgd(0.1, momentum=0.9, nesterov=True)
    ),
    "adam": lambda: optax.adam(0.05),
    "adamw": lambda: optax.adamw(0.05, weight_decay=0.1),
}
LIBRARIES = ("linen", "nnx", "equinox")
EVERY = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def network(library):
    """apply_fn of the trained leaves, those leaves, inputs, and half of the kernels' weights."""
    apply_fn, variables, inputs = NETWORKS[library]()
    trace = tracing.trace(apply_fn, variables, inputs)
    scores = jax.tree.map(
        lambda leaf: draw(leaf.size, *leaf.shape), trees.select(variables, trace.kernels)
    )
    kept = masks.from_scores(scores, 0.5)
    if library == "linen":
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        run = lambda params, x: apply_fn({"params": params, **rest}, x)  # noqa: E731
        return run, variables["params"], inputs, kept["params"]
    if library == "nnx":
        module = nnx.merge(nnx.split(NNXNet(nnx.Rngs(0)))[0], variables)
        graph, params, rest = nnx.split(module, nnx.Param, ...)
        kept = nnx.split_state(kept, nnx.Param, ...)[0]
        return lambda p, x: nnx.merge(graph, p, rest)(x), params, inputs, kept
    return apply_fn, variables, inputs, kept


def loss_of(apply_fn, inputs):
    labels = jnp.arange(len(inputs)) % CLASSES

    def loss(params):
        logits = apply_fn(params, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss


def trained(loss, params, tx, *, jit=True, after=lambda params: params, gradient_of=lambda g: g):
    """A training loop as one writes it; yields the parameters after every step."""

    def step(params, state):
        updates, state = tx.update(gradient_of(jax.grad(loss)(params)), state, params)
        return after(optax.apply_updates(params, updates)), state

    step, state = jax.jit(step) if jit else step, tx.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)
        yield params


def check_removed(params, kept):
    leaves = trees.named_leaves(params)
    for name, mask in trees.named_leaves(kept).items():
        assert not np.asarray(leaves[name])[~np.asarray(mask)].any()
        assert np.asarray(leaves[name])[np.asarray(mask)].any()


@EVERY
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_loop_with_hold_is_one_that_masks_after_every_step(library, optimizer):
    apply_fn, params, inputs, kept = network(library)
    loss, tx = loss_of(apply_fn, inputs), OPTIMIZERS[optimizer]()
    held = trained(loss, params, optax.chain(tx, masks.hold(kept)))
    by_hand = trained(loss, params, tx, after=lambda params: masks.apply(params, kept))
    for found, expected in zip(held, by_hand, strict=True):
        check_removed(found, kept)
        assert jax.tree.structure(found) == jax.tree.structure(params)
        assert_close(found, expected, NETWORK)


@EVERY
def test_kept_weights_take_the_updates_that_they_would_have_taken(optimizer):
    """Bit for bit, and leaves without a mask are the same objects."""
    apply_fn, params, inputs, kept = network("linen")
    gradient = jax.grad(loss_of(apply_fn, inputs))(params)
    tx = OPTIMIZERS[optimizer]()
    updates, _ = tx.update(gradient, tx.init(params), params)
    hold = masks.hold(kept)
    found, _ = hold.update(updates, hold.init(params), params)
    for name, step in trees.named_leaves(found).items():
        before, mask = trees.named_leaves(updates)[name], trees.named_leaves(kept).get(name)
        if mask is None:
            assert step is before
        else:
            weights = trees.named_leaves(params)[name]
            np.testing.assert_array_equal(step, np.where(mask, before, -weights))


@pytest.mark.parametrize("jit", [False, True])
def test_weights_that_were_not_zero_are_zero_after_the_first_update(jit):
    apply_fn, params, inputs, kept = network("equinox")
    tx = optax.chain(optax.sgd(0.0), masks.hold(kept))
    first = next(iter(trained(loss_of(apply_fn, inputs), params, tx, jit=jit)))
    jax.tree.map(np.testing.assert_array_equal, first, masks.apply(params, kept))


@pytest.mark.parametrize("weights", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("steps", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_zero_is_exact_in_every_precision(weights, steps):
    largest, smallest = (
        float(getattr(jnp.finfo(weights), n)) for n in ("max", "smallest_subnormal")
    )
    params = {"a": jnp.asarray([largest, -smallest, 1 / 3, -0.0, 7.0], weights)}
    updates = {"a": jnp.asarray([1.0, jnp.nan, jnp.inf, 1.0, 1 / 3], steps)}
    hold = masks.hold({"a": np.arange(5) == 4})
    found, _ = jax.jit(hold.update)(updates, hold.init(params), params)
    after = optax.apply_updates(params, found)["a"]
    np.testing.assert_array_equal(after[:4], 0)
    assert after.dtype == weights
    np.testing.assert_array_equal(after[4], optax.apply_updates(params, updates)["a"][4])


def masked_loop(optimizer):
    """The project's own loop, step by step, and the same with hold in its place."""
    module = nn.Sequential([nn.Dense(12), nn.relu, nn.Dense(CLASSES)])
    batch = Batch(draw(0, 16, 5), jnp.arange(16) % CLASSES)
    variables = module.init(jax.random.key(1), batch.inputs)
    scores = jax.tree.map(lambda leaf: draw(leaf.size, *leaf.shape), variables["params"])
    scores = trees.select(scores, [n for n in trees.named_leaves(scores) if "kernel" in n])
    recipe = Recipe(8, 16, 0.1, boundaries=(2,), momentum=0.9, weight_decay=1e-2)
    recipe = recipe._replace(optimizer=optimizer)
    task = training.Task(lambda v, x, key: (module.apply(v, x), {}), module.apply, recipe)
    return task, variables, batch, masks.from_scores(scores, 0.6)


@pytest.mark.parametrize("optimizer", recipes.OPTIMIZERS)
def test_it_trains_as_the_projects_own_loop_step_for_step(optimizer):
    task, variables, batch, kept = masked_loop(optimizer)
    tx = recipes.optimizer(task.recipe, 1)
    state = training.start(task, variables, jax.random.key(0), 16, kept).state
    held = optax.chain(tx, masks.hold(kept))
    params, opt_state = state.params, held.init(state.params)

    @jax.jit
    def step(params, opt_state, number):
        def loss(params):
            return task.loss.value(task.apply_fn({"params": params}, batch.inputs), batch.labels)

        gradient = jax.grad(lambda params: loss(params).mean())(params)
        updates, opt_state = held.update(gradient, opt_state, params, step=number)
        return optax.apply_updates(params, updates), opt_state

    own = jax.jit(lambda state: steps.train_step(task, tx, state, batch)[0])
    for number in range(STEPS):
        state, (params, opt_state) = own(state), step(params, opt_state, number)
        assert_close(params, state.params, NETWORK)
        check_removed(params, kept)


def test_masks_of_units_hold_a_smaller_network():
    apply_fn, variables, inputs = NETWORKS["linen"]()
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    unit_masks = {space.name: np.arange(space.size) > 0 for space in graph.prunable}
    kept = units.parameter_masks(graph, variables, unit_masks, readers=True)
    tx = optax.chain(optax.adamw(0.05, weight_decay=0.1), masks.hold(kept))
    before = trees.named_leaves(variables)
    for found in trained(loss_of(apply_fn, inputs), variables, tx):
        leaves = trees.named_leaves(found)
        for name, mask in trees.named_leaves(kept).items():
            assert not np.asarray(leaves[name])[~np.asarray(mask)].any()
    bias = "params/Dense_1/bias"
    assert bias not in trees.named_leaves(kept) and (leaves[bias] != before[bias]).any()


def test_clipping_needs_a_masked_gradient():
    apply_fn, params, inputs, kept = network("linen")
    loss = loss_of(apply_fn, inputs)
    clipped = optax.chain(optax.clip_by_global_norm(1e-2), optax.sgd(0.5, momentum=0.9))
    params = masks.apply(params, kept)

    def masked(gradient):
        return masks.apply(gradient, kept)

    held = optax.chain(clipped, masks.hold(kept))
    *_, found = trained(loss, params, held, gradient_of=masked)
    *_, expected = trained(
        loss, params, clipped, gradient_of=masked, after=lambda params: masks.apply(params, kept)
    )
    assert_close(found, expected, NETWORK)
    *_, other = trained(loss, params, held)
    differs = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), found, other)
    assert max(jax.tree.leaves(differs)) > 1e-4


def test_the_optimiser_of_nnx():
    module, inputs = NNXNet(nnx.Rngs(0)), draw(1, 4, 6, 6, 1)
    labels = jnp.arange(4) % CLASSES
    kept = jax.tree.map(lambda leaf: leaf > 0, nnx.state(module, nnx.Param))
    kept = trees.select(kept, ["conv/kernel/value", "dense/kernel/value"])
    tx = optax.chain(optax.adamw(0.05), masks.hold(kept))
    optimizer = nnx.Optimizer(module, tx, wrt=nnx.Param)

    @nnx.jit
    def step(module, optimizer):
        def loss(module):
            logits = module(inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        optimizer.update(module, nnx.grad(loss)(module))

    for _ in range(3):
        step(module, optimizer)
        check_removed(nnx.state(module, nnx.Param), kept)


def test_leaves_that_are_no_arrays_are_passed_over():
    module = eqx.nn.MLP(4, CLASSES, 6, 1, key=jax.random.key(0))
    params, static = eqx.partition(module, eqx.is_inexact_array)
    kept = trees.select(jax.tree.map(lambda leaf: leaf > 0, params), ["layers/0/weight"])
    tx = optax.chain(optax.adamw(0.05), masks.hold(kept))
    loss = loss_of(lambda p, x: jax.vmap(eqx.combine(p, static))(x), draw(0, 5, 4))
    for found in trained(loss, params, tx):
        check_removed(found, kept)


def test_replicates_have_masks_of_their_own():
    params = draw(0, 3, 5)
    kept = draw(1, 3, 5) > 0

    def run(params, kept):
        tx = optax.chain(optax.sgd(0.1, momentum=0.9), masks.hold({"w": kept}))
        state, params = tx.init({"w": params}), {"w": params}
        for _ in range(2):
            updates, state = tx.update({"w": jnp.ones(5)}, state, params)
            params = optax.apply_updates(params, updates)
        return params["w"]

    found = jax.jit(jax.vmap(run))(params, kept)
    assert_close(found, np.where(kept, params - 0.1 - 0.19, 0), ROUNDING)


def test_the_state_can_be_donated_and_the_masks_are_no_constants():
    kept = {"w": jnp.arange(1000) % 2 == 0}
    tx = optax.chain(optax.sgd(0.1), masks.hold(kept))
    step = jax.jit(tx.update, donate_argnums=1)
    params = {"w": jnp.ones(1000)}
    for _ in range(2):
        _, state = step(params, tx.init(params), params)
        step(params, state, params)
    assert not kept["w"].is_deleted()
    lowered = jax.make_jaxpr(tx.update)(params, tx.init(params), params)
    assert not lowered.consts
    specs = optax.tree_map_params(tx, lambda leaf: leaf, tx.init(params))
    assert jax.tree.structure(specs) == jax.tree.structure(tx.init(params))


def test_no_masks_hold_nothing():
    params, updates = {"w": jnp.ones(3)}, {"w": jnp.arange(3.0)}
    for nothing in (None, {"w": None}):
        hold = masks.hold(nothing)
        assert hold.update(updates, hold.init(params), params)[0]["w"] is updates["w"]


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"params": {"w": np.ones(3, bool)}}, r"mask of 'params/w', .* but w; give masks\[.params"),
        ({"v": np.ones(3, bool)}, "a mask of 'v', and the parameters have no such leaf, but w$"),
        ({"w": np.ones(2, bool)}, r"the mask of 'w' has shape \(2,\), and the leaf has \(3,\)"),
    ],
)
def test_masks_unlike_the_parameters_are_refused(kept, message):
    params, hold = {"w": jnp.ones(3)}, masks.hold(kept)
    with pytest.raises(ValueError, match=message):
        hold.update(params, hold.init(params), params)


def test_what_are_no_masks_and_no_parameters_are_refused():
    with pytest.raises(ValueError, match="mask of 'w' is no array of booleans"):
        masks.hold({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match="mask of 'w' is no array of booleans: True"):
        masks.hold({"w": True})
    hold = masks.hold({"w": np.ones(3, bool)})
    params = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"needs the parameters: tx.update\(gradient, opt_state"):
        hold.update(params, hold.init(params))

"""Every method that trains sparsely, by the promises that all of them make."""

import functools
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import NETWORK, assert_close, assert_same

from pruning_jax import methods, recipes, tracing, training, trees, units
from pruning_jax.lab import checkpointing, replicates
from pruning_jax.methods import METHODS
from pruning_jax.training import pieces
from pruning_jax.types import Batch

CLASSES, EXAMPLES, BATCH = 3, 40, 10
STEPS = 12


class Small(nn.Module):
    """Two hidden layers, one of them normalised."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8, use_bias=False)(x))
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(6)(nn.relu(x))))


APPLY = Small().apply


def train_fn(variables, inputs, key):
    return APPLY(variables, inputs, train=True, mutable=["batch_stats"])


def toy(seed):
    inputs, labels = jax.random.split(jax.random.key(seed))
    return Batch(
        jax.random.normal(inputs, (EXAMPLES, 5)),
        jax.random.randint(labels, (EXAMPLES,), 0, CLASSES),
    )


VARIABLES = Small().init(jax.random.key(0), toy(0).inputs)
GRAPH = units.graph(tracing.trace(APPLY, VARIABLES, toy(0).inputs))
ACTS = {"every": 2, "last": 10}
FIELDS = {
    "static": {"sparsity": 0.6, "scope": "erk"},
    "gradual": {"sparsity": 0.6, "first": 2, "criterion": "quadratic", "trace": GRAPH.trace} | ACTS,
    "set": {"sparsity": 0.6} | ACTS,
    "rigl": {"sparsity": 0.6, "scope": "erk"} | ACTS,
    "straight_through": {"sparsity": 0.6},
    "ac_dc": {"sparsity": 0.6, "first": 2, "every": 2, "last": 10, "scope": "global"},
    "soft_filter": {"fraction": 0.5, "graph": GRAPH, "criterion": "abs_mrs"} | ACTS,
    "slimming": {"strength": 1e-2},
    "structure_selection": {"strength": 0.3, "learning_rate": 0.3, "graph": GRAPH},
    "group_lasso": {"strength": 1e-2, "graph": GRAPH, "threshold": 0.4},
    "variational_dropout": {"weight": 1e-2, "last": 4, "log_variance": -2.0},
    "l0": {"strength": 0.3, "dropped": 0.85, "graph": GRAPH},
}
SPARSE = {*FIELDS} - {"slimming"}
"""Those whose networks have zeros, with these fields."""


PAGE = (Path(__file__).parents[1] / "docs" / "add_a_method.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
NAMES: dict = {}
exec(compile(BLOCKS[0], "docs/add_a_method.md", "exec"), NAMES)
OWN = NAMES["soft_threshold"]()
"""A method that is not ours, from the page that shows how to add one."""

EVERY = {name: methods.build(name, **fields) for name, fields in FIELDS.items()} | {
    "own": OWN,
    "l0 of weights": methods.build("l0", strength=1.0, dropped=0.85),
    "variational_dropout of weights": methods.build(
        "variational_dropout", weight=1e-2, noise="weights", log_variance=-2.0
    ),
    "structure_selection of blocks": methods.build(
        "structure_selection",
        strength=0.3,
        learning_rate=0.3,
        blocks={"second": ("Dense_1/kernel", "Dense_1/bias")},
    ),
    "rigl with adam": methods.build("rigl", sparsity=0.6, pattern=None, **ACTS),
}


def task_of(name):
    optimizer = {"optimizer": "adam", "learning_rate": 0.01} if "adam" in name else {}
    recipe = recipes.Recipe(**{"epochs": 3, "batch_size": BATCH, "learning_rate": 0.1} | optimizer)
    recipe = recipe._replace(weight_decay=0.01)
    return training.Task(train_fn, APPLY, recipe, method=EVERY[name])


@functools.cache
def begin(name, seed=0):
    variables = Small().init(jax.random.key(seed), toy(0).inputs)
    return training.start(task_of(name), variables, jax.random.key(seed + 10), EXAMPLES)


def run(name, progress, handover=None):
    """The states after every second step, and the progress where the run ended or stopped."""
    seen = {}

    def call(step, state):
        seen[step] = jax.tree.map(jnp.array, state)

    split = replicates.stack([toy(1), toy(2)])
    fitted = training.fit(
        progress,
        split,
        split,
        task=task_of(name),
        pause=training.Pause(2, call),
        handover=handover,
    )
    for _, reached, record in fitted:
        progress = reached
        if record is None:
            break
    return seen, progress


@pytest.fixture(scope="module")
def whole():
    """Name -> a run of two replicates, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "SCANNED", 2)

        @functools.cache
        def of(name):
            return run(name, replicates.stack([begin(name, 0), begin(name, 1)]))

        yield of


@pytest.fixture(params=EVERY)
def name(request):
    return request.param


def test_every_row_is_in_the_suite():
    assert METHODS.keys() == FIELDS.keys()


def test_the_page_adds_a_method_that_leaves_zeros(capsys):
    exec(compile(BLOCKS[1], "docs/add_a_method.md", "exec"), NAMES)
    sparse = methods.finish(OWN, NAMES["run"]).params["kernel"]
    assert 0 < int((sparse == 0).sum()) < sparse.size
    assert "kernel" in capsys.readouterr().out


def test_what_is_evaluated_is_the_models_parameters_with_positive_zeros(name, whole):
    states, progress = whole(name)
    assert list(states) == [*range(2, STEPS + 1, 2)]
    zeros = []
    for state in states.values():
        params = state.variables["params"]
        assert jax.tree.structure(params) == jax.tree.structure(VARIABLES["params"])
        for leaf in map(np.asarray, jax.tree.leaves(params)):
            assert np.isfinite(leaf).all() and not np.signbit(leaf[leaf == 0]).any()
        kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 2]
        zeros.append(sum(int((leaf == 0).sum()) for leaf in kernels))
    assert (zeros[-1] > 0) == (name.split()[0] in SPARSE | {"own"}), zeros
    assert_same(progress.state.variables, states[STEPS].variables)


def test_a_run_that_was_stopped_and_restored_gives_the_same_bits(name, whole, tmp_path):
    states, ended = whole(name)
    start = replicates.stack([begin(name, 0), begin(name, 1)])
    before, stopped = run(name, start, handover=lambda: True)
    (step,) = before
    checkpointing.save_step(tmp_path, step, stopped)
    like = replicates.stack([begin(name, 0), begin(name, 1)])
    after, again = run(name, checkpointing.latest(tmp_path, like)[1])
    for found, expected in ((after, {s: states[s] for s in after}), (again, ended)):
        for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
                np.testing.assert_array_equal(one, other)


def test_replicates_branch_together(name):
    """A condition on the step stays one: as a selection it would be worked out at every step."""
    task, state = task_of(name), begin(name).state
    tx = training.steps.optimizer(task, EXAMPLES // BATCH)
    step = functools.partial(training.train_step, task, tx)
    batch = jax.tree.map(lambda leaf: leaf[:BATCH], toy(1))
    states, batches = (replicates.stack([each] * 2) for each in (state, batch))
    several = jax.make_jaxpr(jax.vmap(step, (0, 0, None)))(states, batches, jnp.int32(3))
    one = jax.make_jaxpr(step)(state, batch, jnp.int32(3))
    branches = [
        [equation.primitive.name for equation in jaxpr.eqns].count("cond")
        for jaxpr in (several, one)
    ]
    acts = len(task.method.acts) and not name.startswith("variational")
    assert branches == [bool(acts)] * 2


@pytest.mark.parametrize("name", ["gradual", "rigl", "soft_filter", "variational_dropout", "own"])
def test_a_method_in_a_loop_of_ones_own_is_that_of_the_package(name, whole):
    states, _ = whole(name)
    task = task_of(name)
    tx = task.method.optimizer(recipes.optimizer(task.recipe, EXAMPLES // BATCH))
    state = begin(name).state
    held = {"batch_stats": state.model_state["batch_stats"]}
    run = methods.start(
        task.method, tx, Small().init(jax.random.key(0), toy(0).inputs)["params"], state.key
    )
    apply = task.method.model(train_fn)

    @jax.jit
    def step(run, held, batch):
        key = jax.random.split(jax.random.fold_in(run.key, run.step))[0]

        def loss(params):
            logits, new = apply({"params": params} | held, batch.inputs, key)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
            return losses.mean(), new

        return methods.take_step(
            task.method,
            tx,
            run,
            loss,
            batch=batch,
            variables=lambda params: {"params": params} | held,
        )

    order = training.steps.programs_of(task, EXAMPLES, 1, training.meshes.current()).order(
        state.key[None], jnp.zeros(1, jnp.int32)
    )
    for index in order[0][:2]:
        run, held = step(run, held, jax.tree.map(lambda leaf, at=index: leaf[at], toy(1)))
    finished = methods.finish(task.method, run)
    expected = jax.tree.map(lambda leaf: leaf[0], states[2].variables["params"])
    assert_close(finished.params, expected, NETWORK)
    assert trees.named_leaves(finished.masks).keys() == {
        n for n, leaf in trees.named_leaves(expected).items() if leaf.ndim > 1
    }

"""The package's main operations at any size: what `benchmarks.growth` times and weighs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import (
    criteria,
    curvature,
    masks,
    models,
    pruning,
    recipes,
    tracing,
    training,
    trees,
    units,
)
from pruning_jax.analysis import landscape, utility, variants
from pruning_jax.lab import replicates
from pruning_jax.types import Batch, Params, PyTree

CLASSES, SPARSITY, RATIO, FRACTION = 10, 0.9, 0.1, 0.1
HELD_OUT = 100
ENDLESS = 10**6


class Family(NamedTuple):
    """Networks of one kind: the shape of an image, examples a step, layers, fields of a width."""

    model: str
    shape: tuple[int, ...]
    batch_size: int
    layers: int
    fields: Callable[[int], dict[str, Any]]


FAMILIES = {
    "mlp": Family("mlp", (28, 28, 1), 100, 3, lambda n: {"widths": (n, n)}),
    "conv": Family(
        "small_conv", (32, 32, 3), 64, 6, lambda n: {"widths": (n, 2 * n, 4 * n, 16 * n, 4 * n)}
    ),
}
"""`conv` of width 32 is Small Conv, and of width 64 Medium Conv."""


class Case(NamedTuple):
    """An operation at a size.

    Attributes:
      operation: in `OPERATIONS`.
      family: in `FAMILIES`.
      width: of the network.
      examples: of the data.
      count: replicates, stages, points, subsets or variants: what the operation has many of.
    """

    operation: str
    family: str
    width: int
    examples: int
    count: int = 1


class Setting(NamedTuple):
    """What a case works on."""

    module: Any
    variables: Params
    batch: Batch
    case: Case

    @property
    def apply_fn(self) -> Callable:
        return models.apply_fn(self.module)

    @property
    def trace(self) -> tracing.Trace:
        return tracing.trace(self.apply_fn, self.variables, self.batch.inputs[:2])

    @property
    def weights(self) -> Params:
        return trees.select(self.variables, self.trace.kernels)


def setting(case: Case) -> Setting:
    """A network and random examples."""
    family = FAMILIES[case.family]
    module = models.build(family.model, CLASSES, **family.fields(case.width))
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal((case.examples, *family.shape), np.float32))
    labels = jnp.asarray(rng.integers(CLASSES, size=case.examples), jnp.int32)
    variables = _drawn(rng, shapes(case))
    return Setting(module, variables, Batch(inputs, labels), case)


def shapes(case: Case) -> Params:
    """The shapes of the variables of a case's network."""
    family = FAMILIES[case.family]
    module = models.build(family.model, CLASSES, **family.fields(case.width))
    image = jax.ShapeDtypeStruct((1, *family.shape), np.float32)
    return jax.eval_shape(module.init, jax.random.key(0), image)


def _drawn(rng: np.random.Generator, like: PyTree) -> PyTree:
    """Normal noise, of a kernel by its inputs; drawn by the host, so that nothing is compiled."""

    def leaf(shape):
        noise = rng.standard_normal(shape.shape, np.float32)
        return jnp.asarray(noise / np.sqrt(max(np.prod(shape.shape[:-1]), 1.0)), jnp.float32)

    return jax.tree.map(leaf, like)


def prepare(case: Case) -> Callable[[], PyTree]:
    """The operation as a function without arguments, which returns its values as NumPy arrays."""
    run = OPERATIONS[case.operation](setting(case))
    return lambda: jax.tree.map(np.asarray, run())


def _epoch(of: Setting) -> Callable[[], PyTree]:
    """Epochs of training, each the next one; replicates in the groups that the mesh has."""
    family, module = FAMILIES[of.case.family], of.module
    recipe = recipes.Recipe(ENDLESS, family.batch_size, 1e-3, weight_decay=5e-4)
    task = training.Task(models.train_fn(module), of.apply_fn, recipe)
    held_out = jax.tree.map(lambda leaf: leaf[:HELD_OUT], of.batch)
    keys = jax.random.split(jax.random.key(1), of.case.count)
    runs = []
    for group in replicates.groups(list(keys)):
        starts = [training.start(task, of.variables, key, of.case.examples) for key in group]
        train, validation = (
            replicates.stack_on_host([batch] * len(group)) for batch in (of.batch, held_out)
        )
        runs.append(training.fit(replicates.stack(starts), train, validation, task=task))

    def run():
        records = [next(epochs)[2] for epochs in runs]
        return [record["train_loss"] for record in records]

    return run


def _ggn(of: Setting) -> Callable[[], PyTree]:
    return lambda: curvature.ggn_diagonal(of.apply_fn, of.variables, of.batch)


def _pruning(of: Setting) -> Callable[[], PyTree]:
    """Scores by the quadratic model, from a gradient and a diagonal at hand, and the masks."""
    weights, rng = of.weights, np.random.default_rng(1)
    drawn = [_drawn(rng, weights) for _ in range(2)]
    score = jax.jit(criteria.WEIGHT_CRITERIA["quadratic"])
    return lambda: masks.from_scores(score(weights, *drawn), SPARSITY)


def _stages(of: Setting) -> Callable[[], PyTree]:
    """Pruning by the quadratic model: at every stage a gradient, a diagonal, scores and masks."""
    kernels = of.trace.kernels
    return lambda: pruning.prune(
        of.apply_fn,
        of.variables,
        "quadratic",
        SPARSITY,
        kernels=kernels,
        batches=of.batch,
        stages=of.case.count,
        allow_empty_layers=True,
    )


def _landscape(of: Setting) -> Callable[[], PyTree]:
    rng = np.random.default_rng(2)
    plane = landscape.Plane(of.variables, tuple(_drawn(rng, of.variables) for _ in range(2)))
    positions = rng.uniform(-1, 1, (of.case.count, 2))
    return lambda: list(landscape.evaluate(of.apply_fn, plane, positions, of.batch))


def _utilities(of: Setting) -> Callable[[], PyTree]:
    weights, key = of.weights, jax.random.key(3)

    def run():
        subsets = utility.random_subsets(key, weights, of.case.count, ratio=RATIO)
        return utility.measure(of.apply_fn, of.variables, subsets, of.batch).divergence

    return run


def _penalties(of: Setting) -> Callable[[], PyTree]:
    """Variants without a tenth of every layer's units, at random; none shares a part of another."""
    graph, rng = units.graph(of.trace), np.random.default_rng(4)
    several = [
        {s.name: rng.permutation(s.size) >= int(FRACTION * s.size) for s in graph.prunable}
        for _ in range(of.case.count)
    ]

    def run():
        dense, measured = variants.measure(graph, of.variables, of.batch, several)
        return [dense.loss, *(one.zero.loss for one in measured)]

    return run


OPERATIONS: dict[str, Callable[[Setting], Callable[[], PyTree]]] = {
    "training epoch": _epoch,
    "diagonal GGN": _ggn,
    "scores and masks": _pruning,
    "pruning in stages": _stages,
    "landscape": _landscape,
    "utilities": _utilities,
    "penalties": _penalties,
}


def parameters(case: Case) -> int:
    """How many parameters the network of a case has."""
    return trees.size(shapes(case))


def macs(case: Case) -> int:
    """The multiply-accumulates of a forward pass of one example."""
    family = FAMILIES[case.family]
    module = models.build(family.model, CLASSES, **family.fields(case.width))
    images = jax.ShapeDtypeStruct((2, *family.shape), np.float32)
    trace = tracing.trace(models.apply_fn(module), shapes(case), images)
    return sum(layer.macs for layer in trace.layers)

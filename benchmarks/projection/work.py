"""Counted work: networks, what a pass through them costs, and tasks made of passes.

The unit is a forward pass of one example. A backward pass is about twice a forward one: a product
for the inputs' gradient and one for the kernel's, each of as many multiply-accumulates.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pruning_jax import models, tracing, units

FORWARD = 1
TRAINING = GRADIENT = 3
"""Forward passes that a training step is worth an example, or a gradient."""


def ggn(classes: int) -> int:
    """Forward passes that a diagonal GGN is worth: a backward pass for every class."""
    return 1 + 2 * classes


class Data(NamedTuple):
    """A dataset: examples of its two splits, the shape of an image, classes."""

    train: int
    test: int
    shape: tuple[int, ...]
    classes: int


DATASETS = {
    "mnist": Data(60_000, 10_000, (28, 28, 1), 10),
    "cifar10": Data(50_000, 10_000, (32, 32, 3), 10),
}


class Network(NamedTuple):
    """A network, counted.

    Attributes:
      name: of its kind.
      family: ``mlp`` or ``conv``, as in `benchmarks.growth.operations`.
      parameters: all of them.
      weights: in kernels.
      macs: multiply-accumulates of a forward pass of one example.
      layers: dense and convolutional.
      classes: of its output.
    """

    name: str
    family: str
    parameters: int
    weights: int
    macs: int
    layers: int
    classes: int


def network(model: Mapping[str, Any], dataset: str) -> Network:
    """Counts the network of a config's ``model`` on a dataset, from its trace; nothing runs."""
    fields = {key: tuple(v) if isinstance(v, list) else v for key, v in model.items()}
    return _network(dataset, **fields)


@functools.cache
def _network(dataset: str, name: str, **fields: Any) -> Network:
    units_of = graph(dataset, name, **fields)
    shapes = {layer.kernel: layer.kernel_shape for layer in units_of.trace.layers}.values()
    shown = " ".join([name, *(f"{key}={value}" for key, value in sorted(fields.items()))])
    family = "conv" if any(len(shape) > 2 for shape in shapes) else "mlp"
    total = units.counts(units_of).total
    weights = sum(map(math.prod, shapes))
    layers, classes = len(units_of.trace.layers), DATASETS[dataset].classes
    return Network(shown, family, total.parameters, weights, total.macs, layers, classes)


@functools.cache
def graph(dataset: str, name: str, **fields: Any) -> units.UnitGraph:
    """The units of a network on a dataset's images."""
    data = DATASETS[dataset]
    module = models.build(name, data.classes, **fields)
    one, two = (jax.ShapeDtypeStruct((n, *data.shape), np.float32) for n in (1, 2))
    variables = jax.eval_shape(module.init, jax.random.key(0), one)
    return units.graph(tracing.trace(models.apply_fn(module), variables, two))


class Task(NamedTuple):
    """Jobs of one kind that do not wait for each other.

    Attributes:
      what: they do.
      network: that they do it with.
      kind: ``training``, ``ggn`` or ``forward``: whose rate they run at.
      jobs: how many.
      passes: of a job, in forward passes of one example.
      steps: of training that a job takes one after another.
      batch: examples of a step.
      phase: phases of a study follow each other.
      weights: that a job scores and selects from, all its selections together.
      saved: networks that a job keeps on disk.
      spread: what of them a run spreads over the devices of its mesh: ``replicates``, ``points``,
        or ``nothing``.
    """

    what: str
    network: Network
    kind: str
    jobs: int
    passes: int
    steps: int = 0
    batch: int = 0
    phase: int = 0
    weights: int = 0
    saved: int = 0
    spread: str = "nothing"

    @property
    def macs(self) -> float:
        """Multiply-accumulates of all jobs."""
        return float(self.jobs) * self.passes * self.network.macs

    @property
    def trainings(self) -> int:
        """How many training runs the jobs are, an arm of cycles counted as one."""
        return self.jobs if self.steps else 0


def macs(tasks: Sequence[Task], *kinds: str) -> float:
    """Multiply-accumulates of tasks, of some kinds or all."""
    return math.fsum(task.macs for task in tasks if not kinds or task.kind in kinds)

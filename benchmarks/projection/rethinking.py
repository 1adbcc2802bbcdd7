"""The training budgets of S2's table of L1-pruned filters, counted: no study of it is built here.

Rethinking the Value of Network Pruning (arXiv 1810.05270), CIFAR-10: VGG-16, ResNet-56 and
ResNet-110, each unpruned for 160 epochs, and pruned: fine-tuned for 40, from scratch for 160, and
from scratch for 160 times the multiply-accumulates of the unpruned over the pruned network. Batches
are of 64 of the 50,000 training images. The number of trials is not in the text at hand; 5 are
counted, what the project's protocol asks of it.
"""

import math
from typing import NamedTuple

import numpy as np

from benchmarks.projection import work
from benchmarks.projection.work import Network, Task
from pruning_jax import units

DATASET, EPOCHS, FINE_TUNING, BATCH, TRIALS = "cifar10", 160, 40, 64, 5
POOL = "M"
VGG_16 = (64, 64, POOL, 128, 128, POOL, *[256] * 3, POOL, *[512] * 3, POOL, *[512] * 3)
VGG_16_A = (32, 64, POOL, 128, 128, POOL, *[256] * 3, POOL, *[256] * 3, POOL, *[256] * 3)


class Pruned(NamedTuple):
    """A pruned ResNet: the filters that each stage's first convolutions of a block lose.

    Attributes:
      depth: of the network.
      shares: of the filters, a stage each.
      whole: layers that keep theirs, by their number among the convolutions, the stem the first.
    """

    depth: int
    shares: tuple[float, float, float]
    whole: tuple[int, ...]


RESNETS = {
    "ResNet-56-A": Pruned(56, (0.1, 0.1, 0.1), (16, 20, 38, 54)),
    "ResNet-56-B": Pruned(56, (0.6, 0.3, 0.1), (16, 18, 20, 34, 38, 54)),
    "ResNet-110-A": Pruned(110, (0.5, 0.0, 0.0), (36,)),
    "ResNet-110-B": Pruned(110, (0.5, 0.4, 0.3), (36, 38, 74)),
}


def vgg(name: str, layers: tuple[int | str, ...]) -> Network:
    """A VGG of 3x3 convolutions with batch normalisation and one dense layer, counted by hand."""
    data = work.DATASETS[DATASET]
    side, width = data.shape[0], data.shape[-1]
    macs = weights = others = 0
    for layer in layers:
        if layer == POOL:
            side //= 2
            continue
        weights += 9 * width * layer
        macs += 9 * width * layer * side**2
        others += 3 * layer
        width = layer
    dense = width * data.classes
    weights, macs, others = weights + dense, macs + dense, others + data.classes
    depth = 1 + sum(layer != POOL for layer in layers)
    return Network(name, "conv", weights + others, weights, macs, depth, data.classes)


def resnet(name: str, pruned: Pruned | None = None, depth: int = 0) -> Network:
    """A ResNet without some filters of the first convolutions of its blocks, from its trace."""
    depth = pruned.depth if pruned else depth
    graph = work.graph(DATASET, "resnet", depth=depth, shortcut="identity")
    masks, blocks = {}, (depth - 2) // 6
    for block in range(3 * blocks if pruned else 0):
        space = graph[f"params/ResidualBlock_{block}/Conv_0"]
        share = 0.0 if 2 * block + 2 in pruned.whole else pruned.shares[block // blocks]
        masks[space.name] = np.arange(space.size) < math.floor((1 - share) * space.size)
    total, layers = units.counts(graph, masks).total, graph.trace.layers
    weights = sum(layer.parameters for layer in layers)
    own = (total.kept_parameters, weights, total.kept_macs, len(layers))
    return Network(name, "conv", *own, work.DATASETS[DATASET].classes)


def pairs() -> list[tuple[Network, Network]]:
    """Every row's network, unpruned and pruned."""
    rows = [(vgg("VGG-16", VGG_16), vgg("VGG-16-A", VGG_16_A))]
    for name, pruned in RESNETS.items():
        whole = resnet(name.rpartition("-")[0], depth=pruned.depth)
        rows.append((whole, resnet(name, pruned)))
    return rows


def tasks() -> list[Task]:
    """Every training of the table; only fine-tuning waits for another, that of the unpruned."""
    found, unpruned = [], {}
    for whole, pruned in pairs():
        unpruned[whole.name] = whole
        longest = int(EPOCHS * whole.macs / pruned.macs)
        found += [
            _training("fine-tuned", pruned, FINE_TUNING, phase=1),
            _training("scratch-E", pruned, EPOCHS),
            _training("scratch-B", pruned, longest),
        ]
    return [*(_training("unpruned", one, EPOCHS) for one in unpruned.values()), *found]


def _training(what: str, network: Network, epochs: int, phase: int = 0) -> Task:
    data = work.DATASETS[DATASET]
    steps = epochs * (data.train // BATCH)
    passes = work.TRAINING * steps * BATCH + epochs * data.test
    return Task(f"{network.name}, {what}", network, "training", TRIALS, passes, steps, BATCH, phase)

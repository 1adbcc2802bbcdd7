"""Networks cut to half their units on CPU: the time that is saved against the work that is saved.

    python -m benchmarks.compact [network ...]

Half of each space's units go, at random; of a transformer half of the heads and of the MLPs' units.
The compact network and the masked one take turns, forward
and in a training step (value and gradient), each compiled once, first calls excluded; their logits
are compared first. What counts is the ratio of times over the ratio of multiply-accumulates: 1
where time follows the work.
"""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import networks, timing
from pruning_jax import models, tracing, units

CLASSES, TOLERANCE, RUNS = 10, 1e-4, 9
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, ...], int]] = {
    "Medium Conv": ("medium_conv", {}, (32, 32, 3), 64),
    "VGG-11": ("vgg11", {}, (32, 32, 3), 64),
    "ResNet-56": ("resnet", {"depth": 56}, (32, 32, 3), 64),
    "MLP of width 1,024": ("mlp", {"widths": (1024, 1024)}, (16, 16, 4), 256),
}
"""Network -> its model, the model's fields, the shape of an example, and the size of a batch."""

TRANSFORMERS = {"Transformer of width 256": (256, 8, 16), "Transformer of width 768": (768, 12, 4)}
"""Network of two blocks -> its width, heads, and the size of a batch of images of 128x128."""


def case(name: str) -> tuple[Any, Any, jax.Array, Any]:
    """(apply_fn, train_fn, inputs, variables) of a network."""
    keys = jax.random.split(jax.random.key(0), 2)
    if name in TRANSFORMERS:
        width, heads, examples = TRANSFORMERS[name]
        module = networks.ViT(width, heads, blocks=2)
        inputs = jax.random.normal(keys[0], (examples, 128, 128, 3))
        variables = jax.jit(module.init)(keys[1], inputs[:1])
        return module.apply, lambda v, x, key: (module.apply(v, x), {}), inputs, variables
    model, fields, shape, examples = CASES[name]
    module = models.build(model, CLASSES, **fields)
    inputs = jax.random.normal(keys[0], (examples, *shape))
    variables = models.init(module, keys[1], inputs)
    return models.apply_fn(module), models.train_fn(module), inputs, variables


def halves(name: str, graph: units.UnitGraph) -> units.UnitMasks:
    """Half of the units of every space, at random; of width 1 none."""
    random = np.random.default_rng(0)
    width, heads, _ = TRANSFORMERS.get(name, (0, 0, 0))
    return {
        space.name: random.permutation(space.size) >= space.size // 2
        for space in graph.prunable
        if name in CASES or space.size in (heads, 4 * width)
    }


def training_step(train_fn: Any, inputs: jax.Array, labels: jax.Array) -> Any:
    """A function of variables: the mean loss and its gradient, in training mode."""

    def loss(params: Any, variables: Any) -> jax.Array:
        logits, _ = train_fn({**variables, "params": params}, inputs, jax.random.key(0))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    step = jax.jit(jax.value_and_grad(loss))
    return lambda variables: step(variables["params"], variables)


def compare(name: str) -> None:
    """Prints the times of one network."""
    apply_fn, train_fn, inputs, variables = case(name)
    labels = jax.random.randint(jax.random.key(1), (len(inputs),), 0, CLASSES)
    graph = units.graph(tracing.trace(apply_fn, variables, inputs))
    unit_masks = halves(name, graph)
    small = units.compact(graph, variables, unit_masks, train_fn=train_fn)
    masked = units.apply_masks(graph, variables, unit_masks)
    whole_fn, small_fn = jax.jit(apply_fn), jax.jit(small.apply_fn)
    logits, less = whole_fn(masked, inputs), small_fn(small.variables, inputs)
    difference = float(jnp.abs(logits - less).max() / jnp.abs(logits).max())
    if difference > TOLERANCE:
        raise SystemExit(f"{name}: compact and masked differ by {difference:.1e} of the logits")
    work = units.counts(graph, unit_masks).mac_ratio
    steps = [training_step(f, inputs, labels) for f in (train_fn, small.train_fn)]
    sides = {
        "forward": {
            "masked": functools.partial(whole_fn, masked, inputs),
            "compact": functools.partial(small_fn, small.variables, inputs),
        },
        "training step": {
            "masked": functools.partial(steps[0], masked),
            "compact": functools.partial(steps[1], small.variables),
        },
    }
    for what, pair in sides.items():
        times = timing.in_turns(pair, RUNS)
        timing.report(
            f"{name}, {len(inputs)} examples, {what}; logits differ by {difference:.0e}",
            times,
            "masked",
        )
        ratios = [a / b for a, b in zip(times["masked"], times["compact"], strict=True)]
        share = float(np.median(ratios)) / work
        print(f"  {work:.2f} times fewer MACs: {share:.2f} of their ratio is saved in time")


def main() -> None:
    """Compares the networks that are named, or all."""
    print(f"jax {jax.__version__} on {jax.default_backend()}")
    for name in (
        sys.argv[1:] if __name__ == "__main__" and sys.argv[1:] else (*CASES, *TRANSFORMERS)
    ):
        compare(name)


if __name__ == "__main__":
    main()

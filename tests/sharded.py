"""The same computations on any mesh: what `test_meshes` compares between meshes.

``python -m tests.sharded DEVICES FILE MESH...`` makes so many virtual CPU devices and writes what
every mesh, ``devices/replicates``, gives.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import (
    criteria,
    curvature,
    data,
    recipes,
    tracing,
    training,
    trees,
    units,
)
from pruning_jax.analysis import landscape, utility, variants
from pruning_jax.lab import meshes, replicates
from pruning_jax.types import Batch

CLASSES, EXAMPLES, BATCH, SEEDS = 4, 25, 10, (1, 2, 3)


def initial(seed: int) -> dict:
    """The variables of a small convolutional network with batch normalisation."""
    shapes = {"filters": (3, 3, 2, 5), "scale": (5,), "bias": (5,), "out": (5, CLASSES)}
    shapes["last"] = (CLASSES,)
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    params = {
        name: 0.5 * jax.random.normal(key, shape)
        for (name, shape), key in zip(shapes.items(), keys, strict=True)
    }
    return {"params": params, "moments": {"mean": jnp.zeros(5), "variance": jnp.ones(5)}}


def logits(params, moments, convolved):
    normal = (convolved - moments["mean"]) * jax.lax.rsqrt(moments["variance"] + 1e-5)
    hidden = jnp.tanh(normal * params["scale"] + params["bias"])
    return hidden.mean((1, 2)) @ params["out"] + params["last"]


def convolve(params, inputs):
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        inputs, params["filters"], (2, 2), "SAME", dimension_numbers=names
    )


def apply_fn(variables, inputs):
    params = variables["params"]
    return logits(params, variables["moments"], convolve(params, inputs))


def train_fn(variables, inputs, key):
    """Normalises by the batch; its moments are those of all examples, wherever they lie."""
    params = variables["params"]
    convolved = convolve(params, inputs)
    batch = {"mean": convolved.mean((0, 1, 2)), "variance": convolved.var((0, 1, 2))}
    moved = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, variables["moments"], batch)
    noise = 0.1 * jax.random.normal(key, (len(inputs), CLASSES))
    return logits(params, batch, convolved) + noise, {"moments": moved}


def toy(seed: int, examples: int = EXAMPLES) -> Batch:
    generator = np.random.default_rng(seed)
    inputs = generator.standard_normal((examples, 6, 6, 2)).astype(np.float32)
    return Batch(inputs, generator.integers(0, CLASSES, examples))


def trained() -> dict[str, np.ndarray]:
    """Every replicate's weights at the end, its best ones, those of three steps, its records."""
    recipe = recipes.Recipe(
        epochs=2, batch_size=BATCH, learning_rate=0.1, momentum=0.9, augment=True
    )
    task = training.Task(train_fn, apply_fn, recipe)
    found = {}
    for group in replicates.groups(list(SEEDS)):
        batches = [toy(seed) for seed in group]
        held = [toy(100 + seed, 7) for seed in group]
        starts = [
            training.start(task, initial(seed), jax.random.key(10 + seed), EXAMPLES)
            for seed in group
        ]
        examples, validation = map(replicates.stack_on_host, (batches, held))
        state = replicates.stack([start.state for start in starts])
        taken = replicates.unstack(training.take_steps(state, examples, 3, task=task))
        parts = training.fit(replicates.stack(starts), examples, validation, task=task)
        for epoch, progress, record in parts:
            ended = replicates.unstack(progress)
            for name, values in record.items():
                for seed, value in zip(group, values, strict=True):
                    found[f"{seed} {name} {epoch}"] = np.asarray(value)
        for seed, one, after in zip(group, ended, taken, strict=True):
            leaves = {"state": one.state.variables, "best": one.best, "taken": after.variables}
            found |= {
                f"{seed} {name}": np.asarray(leaf)
                for name, leaf in trees.named_leaves(leaves).items()
            }
    return found


def at_points() -> dict[str, np.ndarray]:
    """Five points of a landscape, five utilities, and seven variants without some units."""
    batch, variables = toy(5), initial(0)
    plane = landscape.plane(*(initial(seed)["params"] for seed in range(3)))
    points = np.linspace(-1, 1, 10).reshape(5, 2)
    surface = landscape.evaluate(
        apply_fn, plane, points, batch, state={"moments": variables["moments"]}
    )
    kernels = tracing.trace(apply_fn, variables, batch.inputs[:2])
    prunable = trees.select(variables, kernels.kernels)
    subsets = utility.random_subsets(jax.random.key(1), prunable, 5, ratio=0.2)
    used = utility.measure(apply_fn, variables, subsets, batch)
    graph = units.graph(kernels)
    statistics = curvature.unit_statistics(graph, variables, data.batches(batch, 25)[0])
    scores = criteria.unit_scores("weight_norm", graph, variables)
    several = [units.from_scores(scores, fraction / 10) for fraction in range(1, 8)]
    dense, pruned = variants.measure(graph, variables, batch, several, means=statistics.means)
    losses = [[each.zero.loss, each.mean.loss] for each in pruned]
    return {
        "landscape": np.array([point.loss for point in surface]),
        "utilities": np.asarray(used.divergence),
        "probes": np.array([[dense.loss] * 2, *losses]),
    }


def devices_only(shape: str) -> bool:
    """Whether a mesh shares no batch among devices; points lie on any mesh in the same way."""
    return len(set(shape.split("/"))) == 1


def main(devices: str, file: str, *shapes: str) -> None:
    """Writes what every mesh gives, each name after its mesh."""
    jax.config.update("jax_num_cpu_devices", int(devices))
    found = {}
    for shape in shapes:
        with meshes.use(meshes.make(*map(int, shape.split("/")))):
            shared = trained() | (at_points() if devices_only(shape) else {})
            found |= {f"{shape} {name}": value for name, value in shared.items()}
    np.savez(file, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Small networks that can be built narrower, as (apply_fn, variables, inputs)."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from networks import CLASSES, draw

from pruning_jax import models, tracing, trees, units


def mlp(activation=jax.nn.relu):
    sizes = (5, 7, 6, CLASSES)
    shapes = zip(sizes[:-1], sizes[1:], strict=True)
    variables = [{"w": draw(i, a, b), "b": draw(9 + i, b)} for i, (a, b) in enumerate(shapes)]

    def apply_fn(variables, x):
        for layer in variables[:-1]:
            x = activation(x @ layer["w"] + layer["b"])
        return x @ variables[-1]["w"] + variables[-1]["b"]

    return apply_fn, variables, draw(20, 3, 5)


class Residual(nn.Module):
    stream: int
    inner: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.stream, (3, 3))(x))
        inner = nn.relu(nn.Conv(self.inner, (3, 3))(x))
        x = nn.relu(x + nn.Conv(self.stream, (3, 3))(inner))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Concatenated(nn.Module):
    widths: tuple[int, int, int]

    @nn.compact
    def __call__(self, x):
        a, b, c = self.widths
        left = nn.relu(nn.Conv(a, (3, 3))(x))
        right = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(b, (1, 1))(x)))
        x = jnp.concatenate([left, right], -1)
        x = nn.max_pool(nn.relu(nn.Conv(c, (3, 3), padding="VALID")(x)), (2, 2), (2, 2))
        return nn.Dense(CLASSES)(jnp.concatenate([x.reshape(len(x), -1), left.mean((1, 2))], -1))


class Depthwise(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        x = nn.relu(nn.Conv(self.width, (3, 3), feature_group_count=self.width)(x))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Grouped(nn.Module):
    widths: tuple[int, int]

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.widths[0], (3, 3))(x))
        x = nn.relu(nn.Conv(self.widths[1], (3, 3), feature_group_count=2)(x))
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


class EquinoxCNN(eqx.Module):
    layers: list

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(2, 5, 3, key=keys[0]),
            eqx.nn.Conv2d(5, 4, 3, key=keys[1]),
            eqx.nn.Linear(4 * 2 * 2, CLASSES, key=keys[2]),
        ]

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = jnp.tanh(layer(x))
        return self.layers[-1](x.reshape(-1))


def equinox():
    arrays, static = eqx.partition(EquinoxCNN(jax.random.key(0)), eqx.is_array)

    def apply_fn(variables, inputs):
        return jax.vmap(eqx.combine(variables, static))(inputs)

    return apply_fn, arrays, draw(1, 3, 2, 6, 6)


def linen(module, *shape):
    """Variables from NumPy, whose drawing costs no compilation; all above zero but the kernels."""
    draws = np.random.default_rng(0)
    inputs = draws.normal(size=(3, *shape)).astype(np.float32)

    def leaf(path, shape):
        numbers = draws.normal(size=shape.shape).astype(np.float32)
        is_kernel = trees.path_name(path).endswith("kernel")
        return jnp.asarray(0.3 * numbers if is_kernel else 0.2 + 0.2 * numbers**2)

    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
    return module.apply, jax.tree_util.tree_map_with_path(leaf, shapes), inputs


def small_conv(*widths):
    fields = {"widths": widths, "padding": "SAME", "batch_norm": True}
    return linen(models.build("small_conv", CLASSES, **fields), 8, 8, 2)


def resnet(*widths):
    return linen(models.build("resnet", CLASSES, depth=8, widths=widths), 8, 8, 3)


LINEN = {
    "residual": (lambda *widths: linen(Residual(*widths), 6, 6, 3), (6, 5)),
    "concatenated": (lambda *widths: linen(Concatenated(widths), 6, 6, 2), (3, 5, 4)),
    "depthwise": (lambda width: linen(Depthwise(width), 6, 6, 2), (6,)),
    "grouped": (lambda *widths: linen(Grouped(widths), 4, 4, 2), (6, 4)),
    "small_conv": (small_conv, (3, 4, 5, 6, 7)),
    "resnet": (resnet, (3, 4, 5)),
}
"""A function of widths, and its widths; every space of the network has one of them for its size."""

NETWORKS = {
    "mlp": mlp,
    "sigmoid": lambda: mlp(jax.nn.sigmoid),
    "equinox": equinox,
    **{name: functools.partial(make, *widths) for name, (make, widths) in LINEN.items()},
}


@functools.cache
def network(name):
    return NETWORKS[name]()


@functools.cache
def graph(name):
    return units.graph(tracing.trace(*network(name)))


def mask(space):
    """Some units of a space removed, and some kept; the same for spaces of the same size."""
    kept = np.random.default_rng(space.size).random(space.size) < 0.6
    kept[0], kept[-1] = True, False
    return kept


def masks(name):
    """Masks of all the prunable spaces; of a grouped convolution, the same in each group."""
    spaces = graph(name).prunable
    if name == "grouped":
        return {space.name: np.arange(space.size) % (space.size // 2) > 0 for space in spaces}
    return {space.name: mask(space) for space in spaces}


def narrower(name, unit_masks):
    """The model with as many units as the masks keep, a function of the cut variables."""
    if name not in LINEN:
        return network(name)[0]
    make, widths = LINEN[name]
    kept = {len(mask): int(np.sum(mask)) for mask in unit_masks.values()}
    return make(*(kept.get(width, width) for width in widths))[0]


def cut(graph, variables, unit_masks):
    """The variables of the narrower network: the rows and columns of removed units taken out."""
    kept = {}
    for space in graph.spaces:
        if space.name in unit_masks:
            for each in (*space.producers, *(consumer.slice for consumer in space.consumers)):
                own = np.append(unit_masks[space.name], True)[each.units]
                kept[each.leaf] = kept.get(each.leaf, True) & own

    def smaller(path, leaf):
        keep = np.broadcast_to(kept.get(trees.path_name(path), True), leaf.shape)
        axes = range(leaf.ndim)
        along = [keep.any(axis=tuple(other for other in axes if other != axis)) for axis in axes]
        assert keep.sum() == np.prod([k.sum() for k in along]), "what is kept is no block"
        return np.asarray(leaf)[np.ix_(*along)]

    return jax.tree_util.tree_map_with_path(smaller, variables)


@functools.cache
def read(name):
    """A function of the variables: the arrays where units are read, by number, examples first."""
    _, _, inputs = network(name)
    return jax.jit(lambda variables: reading_arrays(graph(name), variables, inputs))


def reading_arrays(graph, variables, inputs):
    """The arrays where units are read, by number, (examples, *shape of one example)."""
    model = graph.trace.model
    values = {reading.value for space in graph.spaces for reading in space.readings}
    return tracing.over_examples(
        lambda x: tracing.evaluate(model, model.known(variables, x), values), inputs
    )

"""Methods that train a distribution over weights or gates: variational dropout and L0."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import choices, trees
from pruning_jax.methods import gates, local
from pruning_jax.methods.choosing import Where
from pruning_jax.methods.local import Gaussian
from pruning_jax.methods.protocol import OPEN, Method, Taken, refuse_masks
from pruning_jax.types import Array, Extended, Masks, Params, PyTree
from pruning_jax.units import UnitGraph

CLIP = 8.0
"""The largest size of log alpha in training."""

_K1, _K2, _K3 = 0.63576, 1.8732, 1.48695


def kl_divergence(log_alpha: Array) -> Array:
    """The divergence of a weight's posterior from the log-uniform prior, up to a constant.

        KL(alpha) = k1 - k1 sigmoid(k2 + k3 log alpha) + 1/2 log(1 + 1 / alpha)

    Args:
      log_alpha: log of the variance over the squared mean, of any shape.

    Returns:
      The approximation of each, of the same shape, 0 for infinite alpha.

    >>> print(*(f"{kl:.3f}" for kl in pj.methods.kl_divergence(jnp.array([0.0, 8.0]))))
    0.431 0.000

    Source: Molchanov et al., arXiv 1701.05369, equation 14.
    """
    return _K1 - _K1 * jax.nn.sigmoid(_K2 + _K3 * log_alpha) + 0.5 * jax.nn.softplus(-log_alpha)


def variational_dropout(
    *,
    weight: float,
    first: int = 0,
    last: int = 0,
    threshold: float = 3.0,
    log_variance: float = -10.0,
    noise: str = "local",
    **where,
) -> Method:
    """Sparse variational dropout: a mean and a variance a weight; the noisy ones go.

        w ~ N(theta, sigma^2),  log alpha = log sigma^2 - log(theta^2 + 1e-8)
        loss + weight min(1, (t - first) / (last - first)) sum KL(alpha)

    In training log alpha is clipped to +-8 and the variance follows from it; evaluation takes the
    means of the weights whose log alpha, not clipped, is below the threshold.

    Args:
      weight: of the divergence beside the mean loss: 1 over the number of training examples.
      first, last: the steps between which that weight grows from 0; by default it is there at once.
      threshold: of log alpha, from which on a weight is zero in evaluation.
      log_variance: log sigma^2 of every weight at first.
      noise: "local" for noise on what layers put out, read off the equations of the training
        function (`Method.model` wraps it), or "weights" for one draw of the weights a step.
      **where: `kernels` and `trace`, as in `static`.

    Returns:
      The method. What is trained is `Extended` by log sigma^2.

    Raises:
      ValueError: a weight that is negative or not finite; a ramp that ends before it begins; an
        unknown noise.

    >>> method = pj.methods.variational_dropout(weight=1e-4)
    >>> trained, state = method.init({"kernel": jnp.array([[1.0, 1e-3]])}, jax.random.key(0), None)
    >>> method.view(trained, state, 0, None)["kernel"].tolist()
    [[1.0, 0.0]]

    Source: Molchanov et al., arXiv 1701.05369; its constants as in Gale et al., arXiv 1902.09574.
    """
    where = Where(0.0, **where)
    choices.number("weight", weight)
    choices.check("noise", noise, ("local", "weights"))
    if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last):
        raise ValueError(f"the ramp is from step {first} to {last}; give 0 <= first <= last")

    def init(params: Params, key: Array, masks: Masks | None = None) -> tuple[Extended, tuple]:
        refuse_masks(masks, "variational dropout")
        variances = trees.map_selected(
            lambda leaf: jnp.full(leaf.shape, log_variance, leaf.dtype), where.weights(params)
        )
        return Extended(params, variances), ()

    def view(trained: Extended, state: PyTree, step: Array, key: Array | None) -> Params:
        keys = iter(range(len(jax.tree.leaves(trained.added))))

        def seen(variance: Array | None, theta: Array) -> Array | Gaussian:
            if variance is None:
                return theta
            square = theta**2 + 1e-8
            if key is None:
                return jnp.where(variance - jnp.log(square) < threshold, theta, 0)
            # Of clipped log alpha, without its logarithm.
            spread = jnp.clip(jnp.exp(variance), np.exp(-CLIP) * square, np.exp(CLIP) * square)
            if noise == "local":
                return Gaussian(theta, spread)
            draw = jax.random.normal(jax.random.fold_in(key, next(keys)), theta.shape, theta.dtype)
            return theta + jnp.sqrt(spread) * draw

        return jax.tree.map(seen, trained.added, trained.params, is_leaf=lambda x: x is None)

    def penalty(trained: Extended, state: PyTree, step: Array) -> Array:
        total = 0.0
        for variance, theta in _pairs(trained):
            log_alpha = jnp.clip(variance - jnp.log(theta**2 + 1e-8), -CLIP, CLIP)
            total += kl_divergence(log_alpha).sum()
        return weight * jnp.clip((step - first + (last == 0)) / max(last - first, 1), 0, 1) * total

    model = local.reparameterised if noise == "local" else Method.model
    return Method(init, view, penalty, model=model, acts=range(max(last, 1), OPEN))


def _pairs(trained: Extended) -> list[tuple[Array, Array]]:
    named = trees.named_leaves(trained.params)
    return [(leaf, named[name]) for name, leaf in trees.named_leaves(trained.added).items()]


_BETA, _LOW, _HIGH = 2 / 3, -0.1, 1.1
"""Temperature and ends of the hard concrete distribution."""

_LOG_ALPHA = (float(np.log(0.01)), float(np.log(100.0)))
"""What a unit's log alpha is clipped to after every step."""


def hard_concrete(log_alpha: Array, uniform: Array | None = None) -> Array:
    """A gate in [0, 1], 0 and 1 among its values.

        s = sigmoid((log u - log(1 - u) + log alpha) / beta),  or sigmoid(log alpha) without u
        z = min(1, max(0, s (zeta - gamma) + gamma)),   beta, gamma, zeta = 2/3, -0.1, 1.1

    Args:
      log_alpha: of any shape.
      uniform: u, drawn uniformly from [0, 1), of the same shape; ``None`` in evaluation.

    Returns:
      The gates, of the same shape.

    >>> pj.methods.hard_concrete(jnp.array([-9.0, 0.0, 9.0])).tolist()
    [0.0, 0.5, 1.0]

    Source: Louizos et al., arXiv 1712.01312, equations 10, 11 and 13.
    """
    at = log_alpha
    if uniform is not None:
        at = (jnp.log((uniform + 1e-8) / (1 - uniform)) + log_alpha) / _BETA
    return jnp.clip(jax.nn.sigmoid(at) * (_HIGH - _LOW) + _LOW, 0, 1)


def open_probability(log_alpha: Array) -> Array:
    """The probability that a gate is not zero.

        P(z > 0) = sigmoid(log alpha - beta log(-gamma / zeta))

    Args:
      log_alpha: of any shape.

    Returns:
      The probabilities, of the same shape.

    >>> print(f"{pj.methods.open_probability(jnp.array(0.0)):.3f}")
    0.832

    Source: Louizos et al., arXiv 1712.01312, equation 12.
    """
    return jax.nn.sigmoid(log_alpha - _BETA * np.log(-_LOW / _HIGH))


def l0(*, strength: float, dropped: float = 0.5, graph: UnitGraph | None = None, **where) -> Method:
    """A penalty on how many weights are not zero, by random gates on weights or units.

        f(z theta),  z ~ hard concrete(log alpha);   loss + strength sum P(z > 0)

    Args:
      strength: of the penalty beside the mean loss: lambda over the number of training examples.
      dropped: the share that is dropped at first, in (0, 1): log alpha = log((1 - p) / p).
      graph: the model's unit graph, for a gate a unit, on the weights of it that the layers read
        which it enters; each counts as often in the sum as it has such weights, and log alpha
        stays between log .01 and log 100. By default there is a gate a weight.
      **where: `kernels` and `trace`, as in `static`, for gates on weights.

    Returns:
      The method. What is trained is `Extended` by log alpha.

    Raises:
      ValueError: a strength that is negative or not finite; a share outside (0, 1).

    >>> method = pj.methods.l0(strength=1e-5, dropped=0.1)
    >>> trained, state = method.init({"kernel": jnp.ones((2, 2))}, jax.random.key(0), None)
    >>> print(f"{method.view(trained, state, 0, None)['kernel'][0, 0]:.3f}")
    0.980

    Source: Louizos et al., arXiv 1712.01312; a gate a weight as in Gale et al., arXiv 1902.09574.
    """
    where = Where(0.0, **where)
    choices.number("strength", strength)
    choices.number("dropped", dropped, 1)
    if not dropped:
        raise ValueError("dropped is 0, where no gate would ever close; give a share in (0, 1)")
    begin = float(np.log((1 - dropped) / dropped))

    def init(params: Params, key: Array, masks: Masks | None = None) -> tuple[Extended, tuple]:
        refuse_masks(masks, "L0")
        if graph is None:
            weights = where.weights(params)
            gate = trees.map_selected(lambda leaf: jnp.full(leaf.shape, begin, leaf.dtype), weights)
        else:
            sizes = gates.sizes(gates.readers(graph, params))
            gate = {name: jnp.full(size, begin) for name, size in sizes.items()}
        return Extended(params, gate), ()

    def view(trained: Extended, state: PyTree, step: Array, key: Array | None) -> Params:
        keys = iter(range(len(jax.tree.leaves(trained.added))))

        def gate(log_alpha: Array) -> Array:
            if key is None:
                return hard_concrete(log_alpha)
            own = jax.random.fold_in(key, next(keys))
            return hard_concrete(log_alpha, _uniform(own, log_alpha.shape))

        z = jax.tree.map(gate, trained.added)
        if graph is None:
            return _each_times(trained.params, z)
        read = gates.scaled(trained.params, gates.readers(graph, trained.params), z)
        return read if key is not None else gates.without(graph, read, z)

    def penalty(trained: Extended, state: PyTree, step: Array) -> Array:
        probable = jax.tree.map(open_probability, trained.added)
        if graph is not None:
            counts = gates.counts(gates.readers(graph, trained.params), trained.params)
            probable = {name: leaf * counts[name] for name, leaf in probable.items()}
        return strength * sum(leaf.sum() for leaf in jax.tree.leaves(probable))

    def update(trained: Extended, state: PyTree, taken: Taken) -> tuple[Extended, PyTree, None]:
        if graph is not None:
            clipped = jax.tree.map(lambda leaf: jnp.clip(leaf, *_LOG_ALPHA), trained.added)
            trained = trained._replace(added=clipped)
        return trained, state, None

    return Method(init, view, penalty, update)


def _uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Draws from (0, 1) in steps of 2^-16: two of each number, for drawing is what a gate costs."""
    size = math.prod(shape)
    bits = jax.random.bits(key, ((size + 1) // 2,), jnp.uint32)
    halves = jnp.concatenate([bits >> 16, bits & 0xFFFF])[:size].reshape(shape)
    return (halves.astype(jnp.float32) + 0.5) / 2**16


def _each_times(params: Params, gate: PyTree) -> Params:
    """Every weight times its gate; leaves without gates as they are."""

    def one(z: Array | None, weights: Array) -> Array:
        return weights if z is None else gates.times(weights, z)

    return jax.tree.map(one, gate, params, is_leaf=lambda node: node is None)

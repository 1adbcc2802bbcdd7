"""Methods that remove units or blocks: soft filters, and penalties on scales and groups."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax import choices, criteria, curvature, layouts, losses, trees, units
from pruning_jax import masks as masks_
from pruning_jax.criteria import operands
from pruning_jax.losses import Loss
from pruning_jax.methods import gates, masked
from pruning_jax.methods.protocol import Method, Taken, acting, refuse_masks, timetable
from pruning_jax.types import Array, Extended, Masks, Params, PyTree
from pruning_jax.units import UnitGraph


def soft_filter(
    fraction: float,
    *,
    graph: UnitGraph,
    every: int,
    last: int,
    criterion: str | Callable = "weight_norm",
    scope: str = "layer",
    loss: Loss = losses.cross_entropy,
) -> Method:
    """Soft filter pruning: the lowest units are set to zero again and again, and train on.

        theta <- m theta after every so many steps, m of the lowest scores then; from step `last`
        on theta_t = m theta_t

    Args:
      fraction: the share of the units of each space that is set to zero, in [0, 1).
      graph: the model's unit graph.
      every, last: the steps after which units are set to zero; those of the last stay so. The
        source has an epoch's steps, and `last` at the end of training.
      criterion: a row of `criteria.UNIT_CRITERIA`, or a function like one, its statistics taken on
        the batch of the step.
      scope: "layer" or "global", as in `units.from_scores`.
      loss: of those statistics.

    Returns:
      The method; its state are masks of the parameters, that keep everything until `last`.

    Raises:
      ValueError: a fraction outside [0, 1); steps at which it would never act; an unknown
        criterion or scope; masks to begin with.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.ones((3, 2))}
    >>> graph = pj.units.graph(pj.trace(model, variables, jnp.ones((4, 1))))
    >>> list(pj.methods.soft_filter(0.5, graph=graph, every=10, last=20).acts)
    [10, 20]

    Source: He et al. 2018, Soft Filter Pruning (arXiv 1808.06866).
    """
    acts = timetable(every, last, every)
    choices.check("scope", scope, units.SCOPES)
    choices.number("fraction", fraction, 1)
    if not callable(criterion):
        choices.check("unit criterion", criterion, criteria.UNIT_CRITERIA)
        criterion = criteria.UNIT_CRITERIA[criterion]
    on_data = criteria.unit_required(criterion) - {"kernel", "scale", "key"}

    def everything(params: Params) -> Masks:
        ones = {space.name: jnp.ones(space.size, bool) for space in graph.prunable}
        return gates.leaf_masks(graph, params, ones)

    def init(params: Params, key: Array, masks: Masks | None = None) -> tuple[Params, Masks]:
        refuse_masks(masks, "soft filter pruning")
        return params, everything(params)

    def lowest(trained: Params, taken: Taken) -> Masks:
        variables = _with(taken.variables, trained)
        statistics = None
        if on_data:
            statistics = curvature.unit_statistics(graph, variables, taken.batch, loss=loss)
        scores = criteria.unit_scores(
            criterion, graph, variables, statistics=statistics, key=taken.key
        )
        return gates.leaf_masks(graph, trained, units.from_scores(scores, fraction, scope=scope))

    def update(trained: Params, masks: Masks, taken: Taken) -> tuple[Params, Masks, None]:
        found = jax.lax.cond(
            acting(acts, taken.step), lambda: lowest(trained, taken), lambda: masks
        )
        over = taken.step >= acts[-1]
        held = jax.tree.map(lambda mask, now: jnp.where(over, now, mask), masks, found)
        return masks_.apply(trained, found), held, None

    return Method(init, masked._held_view, update=update, acts=acts)


def _with(variables: PyTree, params: Params) -> PyTree:
    """The variables with other parameters."""
    inside = isinstance(variables, Mapping) and layouts.PARAMS in variables
    return {**variables, layouts.PARAMS: params} if inside else params


def slimming(*, strength: float, scales: Iterable[str] | None = None) -> Method:
    """Network slimming: an L1 penalty on the scales of norms, whose units can then be pruned.

        loss + strength sum |gamma|

    Args:
      strength: of the penalty; 1e-4 for VGG and 1e-5 for ResNets in the source.
      scales: the names of the leaves; by default those whose last key is ``scale``.

    Returns:
      The method, which keeps masks as `static` does. What is small in the end is for
      `criteria.units.batch_norm_scale` to remove.

    Raises:
      ValueError: a strength that is negative or not finite; no scales, or a name that is no leaf.

    >>> method = pj.methods.slimming(strength=0.5, scales=("scale",))
    >>> float(method.penalty({"scale": jnp.array([1.0, -2.0])}, None, 0))
    1.5

    Source: Liu et al. 2017, *Network Slimming*, equation 1.
    """
    choices.number("strength", strength)
    if isinstance(scales, str) or (scales is not None and not tuple(scales)):
        raise ValueError(f"scales are {scales!r}; give a tuple with one name or more")
    plain = masked.static()

    def found(params: Params) -> list[Array]:
        names = [n for n in trees.named_leaves(params) if n.split("/")[-1] == "scale"]
        if not (scales or names):
            raise ValueError("no leaf is called scale; name those of norms in scales=")
        return jax.tree.leaves(trees.select(params, scales or names))

    def init(params: Params, key: Array, masks: Masks | None = None) -> tuple[Params, Masks]:
        found(params)
        return plain.init(params, key, masks)

    def penalty(trained: Params, masks: Masks, step: Array) -> Array:
        return strength * sum(jnp.abs(scale).sum() for scale in found(trained))

    return Method(init, plain.view, penalty, plain.update)


def group_lasso(*, strength: float, graph: UnitGraph, threshold: float = 0.0) -> Method:
    """A penalty on the norm of each unit's incoming weights, which brings whole units near zero.

        loss + strength sum_j sqrt(n) ||w_j||_2,   n the weights that enter unit j

    Args:
      strength: of the penalty.
      graph: the model's unit graph.
      threshold: units whose weights have a root mean square of at most this are zero in
        evaluation; 0 leaves the choice to `criteria.units.weight_norm`.

    Returns:
      The method.

    Raises:
      ValueError: a strength or a threshold that is negative or not finite.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.ones((3, 2))}
    >>> graph = pj.units.graph(pj.trace(model, variables, jnp.ones((4, 1))))
    >>> float(pj.methods.group_lasso(strength=1.0, graph=graph).penalty(variables, (), 0))
    3.5

    Source: Wen et al. 2016, Learning structured sparsity in deep neural networks (arXiv
      1608.03665), with the weights of Yuan and Lin 2006.
    """
    choices.number("strength", strength)
    choices.number("threshold", threshold)

    def kernels(params: Params) -> dict[str, Array]:
        variables = gates.variables_of(graph, params)
        return {
            space.name: operands.operand("kernel", graph, space, variables)
            for space in graph.prunable
        }

    def view(trained: Params, state: PyTree, step: Array, key: Array | None) -> Params:
        if key is not None or not threshold:
            return trained
        kept = {
            name: (kernel**2).mean(1) > threshold**2 for name, kernel in kernels(trained).items()
        }
        return masks_.apply(trained, gates.leaf_masks(graph, trained, kept))

    def penalty(trained: Params, state: PyTree, step: Array) -> Array:
        total = 0.0
        for kernel in kernels(trained).values():
            squares = (kernel**2).sum(1)
            # The derivative of a root at zero is infinite; a unit that is zero stays so.
            safe = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
            total += kernel.shape[1] ** 0.5 * jnp.where(squares > 0, safe, 0.0).sum()
        return strength * total

    return Method(view=view, penalty=penalty)


class Scales(NamedTuple):
    """Scale factors: where the gradient is taken, and the last sparse ones."""

    point: PyTree
    sparse: PyTree


def structure_selection(
    *,
    strength: float,
    learning_rate: float | Callable[[Array], Array],
    momentum: float = 0.9,
    graph: UnitGraph | None = None,
    blocks: Any = None,
) -> Method:
    """Sparse structure selection: scale factors of units or blocks, by accelerated proximal steps.

        z = S(lambda - eta dL / dlambda),  S(x) = sign(x) max(|x| - eta strength, 0)
        v <- z - lambda + mu v,   lambda <- z + mu v

    Evaluation takes the sparse factors z, into the weights; at 0 a unit or a block is gone.

    Args:
      strength: of the L1 penalty on the factors.
      learning_rate: eta of the factors, a number or a function of the step; the weights have the
        optimiser's.
      momentum: mu, in [0, 1).
      graph: the model's unit graph, for a factor a unit, on the weights that read it.
      blocks: or for a factor a block: name -> the names of the leaves that scale what it puts out,
        as the kernel and the bias, or the scale and the bias, of its last layer.

    Returns:
      The method. What is trained is `Extended` by `point` and `sparse`, which begin at 1.

    Raises:
      ValueError: neither or both of `graph` and `blocks`; a strength, rate or momentum out of
        range; a block without leaves.

    >>> method = pj.methods.structure_selection(
    ...     strength=0.1, learning_rate=0.1, blocks={"all": ("kernel",)}
    ... )
    >>> trained, state = method.init({"kernel": jnp.ones((1, 2))}, jax.random.key(0), None)
    >>> trained.added.sparse["all"].tolist()
    [1.0]

    Source: Huang and Wang 2018, Data-driven sparse structure selection (arXiv 1707.01213),
      equations 10 to 12.
    """
    choices.number("strength", strength)
    choices.number("momentum", momentum, 1)
    if not callable(learning_rate):
        choices.number("learning_rate", learning_rate)
    if (graph is None) == (blocks is None):
        raise ValueError("give either graph=, for a factor a unit, or blocks=, for one a block")

    def reached(params: Params) -> gates.Reached:
        return gates.readers(graph, params) if graph else gates.blocks(dict(blocks), params)

    def init(params: Params, key: Array, masks: Masks | None = None) -> tuple[Extended, tuple]:
        refuse_masks(masks, "sparse structure selection")
        ones = {name: jnp.ones(size) for name, size in gates.sizes(reached(params)).items()}
        return Extended(params, Scales(ones, jax.tree.map(jnp.array, ones))), ()

    def view(trained: Extended, state: PyTree, step: Array, key: Array | None) -> Params:
        factors = trained.added.sparse if key is None else trained.added.point
        seen = gates.scaled(trained.params, reached(trained.params), factors)
        return gates.without(graph, seen, factors) if graph and key is None else seen

    def optimizer(tx: Any) -> Any:
        return _with_proximal(tx, strength, learning_rate, momentum)

    return Method(init, view, optimizer=optimizer)


class ProximalState(NamedTuple):
    """The state of the weights' optimiser, the steps behind, and the factors' velocity v."""

    inner: PyTree
    step: Array
    velocity: PyTree


def _with_proximal(tx: Any, strength: float, learning_rate: Any, momentum: float) -> Any:
    """The optimiser for the parameters, and accelerated proximal steps for the factors."""
    import optax  # here, for importing it takes a fifth of what jax takes

    tx = optax.with_extra_args_support(tx)

    def init(trained: Extended) -> ProximalState:
        velocity = jax.tree.map(jnp.zeros_like, trained.added.point)
        return ProximalState(tx.init(trained.params), jnp.int32(0), velocity)

    def update(slopes: Extended, state: ProximalState, trained: Extended, **extra: Any):
        moves, inner = tx.update(slopes.params, state.inner, trained.params, **extra)
        step = extra.get("step", state.step)
        rate = learning_rate(step) if callable(learning_rate) else learning_rate

        def sparse(point: Array, slope: Array) -> Array:
            at = point - rate * slope
            return jnp.sign(at) * jnp.maximum(jnp.abs(at) - rate * strength, 0)

        point, before = trained.added
        z = jax.tree.map(sparse, point, slopes.added.point)
        velocity = jax.tree.map(lambda z, p, v: z - p + momentum * v, z, point, state.velocity)
        moved = jax.tree.map(lambda z, v, p: z + momentum * v - p, z, velocity, point)
        added = Scales(moved, jax.tree.map(jnp.subtract, z, before))
        return Extended(moves, added), ProximalState(inner, state.step + 1, velocity)

    return optax.GradientTransformationExtraArgs(init, update)

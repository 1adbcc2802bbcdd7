"""What an optimiser keeps of a weight, begun anew where the weight is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax.types import Array, PyTree


class RestartableState(NamedTuple):
    """The state of `restartable`: the optimiser's, all its steps, and those of each weight."""

    inner: PyTree
    count: Array
    ages: PyTree


def restartable(tx: Any) -> Any:
    """Has Adam, and what else corrects its moments by the step, count the steps of each weight.

    A weight whose moments are set to zero late has them corrected as if they were of the whole
    training: Adam's first update is then (1 - b1) / sqrt(1 - b2) = 3.2 times too large. This is
    the factor that is left, of a weight of age a at step t:

        (1 - b1^t) / (1 - b1^a)  sqrt((1 - b2^a) / (1 - b2^t))

    The decays are read off the optimiser's own moments; one without them is returned as it is.

    Args:
      tx: any optax transformation.

    Returns:
      One whose slots `reset` can set to zero at any step.
    """
    import optax  # here, for importing it takes a fifth of what jax takes

    tx = optax.with_extra_args_support(tx)
    decays = _decays(tx)
    if decays is None:
        return tx

    def init(params: PyTree) -> RestartableState:
        ages = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.int32), params)
        return RestartableState(tx.init(params), jnp.int32(0), ages)

    def update(updates: PyTree, state: RestartableState, params: PyTree = None, **extra: Any):
        updates, inner = tx.update(updates, state.inner, params, **extra)
        count, ages = state.count + 1, jax.tree.map(lambda age: age + 1, state.ages)
        whole = [1 - decay ** count.astype(jnp.float32) for decay in decays]

        def corrected(move: Array, age: Array) -> Array:
            own = [-jnp.expm1(age * jnp.log(jnp.float32(decay))) for decay in decays]
            factor = whole[0] / own[0] * jnp.sqrt(own[1] / whole[1])
            return jnp.where(age == count, move, move * factor.astype(move.dtype))

        return jax.tree.map(corrected, updates, ages), RestartableState(inner, count, ages)

    return optax.GradientTransformationExtraArgs(init, update)


def _decays(tx: Any) -> tuple[float, float] | None:
    """The decays of the first and second moments; of none, ``None``.

    Of a gradient that is always the same, an average that decays by b is 1 + b times as large
    after two steps as after one.
    """
    import optax  # here, for importing it takes a fifth of what jax takes

    with jax.ensure_compile_time_eval():
        nothing, one = jnp.zeros((1, 1)), jnp.ones((1, 1))
        state, seen = tx.init(nothing), []
        for _ in range(2):
            _, state = tx.update(one, state, nothing, step=0)
            found = [optax.tree_utils.tree_get_all_with_path(state, n) for n in ("mu", "nu")]
            if not all(found):
                return None
            seen.append([float(jax.tree.leaves(slots[0][1])[0].ravel()[0]) for slots in found])
    return tuple(round(after / before - 1, 6) for before, after in zip(*seen, strict=True))


def reset(tx: Any, opt_state: PyTree, restart: PyTree) -> PyTree:
    """The optimiser's state with zeros in all it keeps of the weights where `restart` is True."""
    import optax  # here, for importing it takes a fifth of what jax takes

    def zero(slot: Any, new: Array | None) -> Any:
        same = new is not None and getattr(slot, "shape", None) == new.shape
        return jnp.where(new, jnp.zeros((), slot.dtype), slot) if same else slot

    return optax.tree_utils.tree_map_params(
        tx, zero, opt_state, restart, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )

"""Sparsity while training: each method is one function that returns a `Method`, and a row.

A method is a reparameterisation with an update: what is trained, what of it the model is applied
to, what is added to the loss, and what changes after a step of the optimiser. `take_step` takes any
of them, in any training loop; of the package's own loop a task says which.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from pruning_jax import choices
from pruning_jax.methods.masked import ac_dc as ac_dc
from pruning_jax.methods.masked import gradual as gradual
from pruning_jax.methods.masked import rigl as rigl
from pruning_jax.methods.masked import set_ as set_
from pruning_jax.methods.masked import static as static
from pruning_jax.methods.masked import straight_through as straight_through
from pruning_jax.methods.protocol import Finished as Finished
from pruning_jax.methods.protocol import Method as Method
from pruning_jax.methods.protocol import Run as Run
from pruning_jax.methods.protocol import Taken as Taken
from pruning_jax.methods.protocol import check_steps as check_steps
from pruning_jax.methods.protocol import finish as finish
from pruning_jax.methods.protocol import start as start
from pruning_jax.methods.protocol import take_step as take_step
from pruning_jax.methods.stochastic import hard_concrete as hard_concrete
from pruning_jax.methods.stochastic import kl_divergence as kl_divergence
from pruning_jax.methods.stochastic import l0 as l0
from pruning_jax.methods.stochastic import open_probability as open_probability
from pruning_jax.methods.stochastic import variational_dropout as variational_dropout
from pruning_jax.methods.structured import group_lasso as group_lasso
from pruning_jax.methods.structured import slimming as slimming
from pruning_jax.methods.structured import soft_filter as soft_filter
from pruning_jax.methods.structured import structure_selection as structure_selection

__all__ = [
    "METHODS",
    "Finished",
    "Method",
    "Run",
    "Taken",
    "ac_dc",
    "build",
    "check_steps",
    "finish",
    "gradual",
    "group_lasso",
    "hard_concrete",
    "kl_divergence",
    "l0",
    "open_probability",
    "rigl",
    "set_",
    "slimming",
    "soft_filter",
    "start",
    "static",
    "straight_through",
    "structure_selection",
    "take_step",
    "variational_dropout",
]

METHODS: dict[str, Callable[..., Method]] = {
    "static": static,
    "gradual": gradual,
    "set": set_,
    "rigl": rigl,
    "straight_through": straight_through,
    "ac_dc": ac_dc,
    "soft_filter": soft_filter,
    "slimming": slimming,
    "structure_selection": structure_selection,
    "group_lasso": group_lasso,
    "variational_dropout": variational_dropout,
    "l0": l0,
}


def build(name: str, **fields: Any) -> Method:
    """A method by its row's name; equal fields give the same method.

    Programs are compiled for a method, so that one that is built anew would be compiled anew.

    Args:
      name: a row of `METHODS`.
      **fields: what the row's function takes; lists become tuples, and mappings their items.

    Returns:
      The method.

    Raises:
      ValueError: an unknown row; a field that its function does not take, or a value of one.

    >>> one, other = (pj.methods.build("static", sparsity=0.9) for _ in range(2))
    >>> one is other
    True
    """
    choices.check("method", name, METHODS)
    return _built(name, tuple(sorted((key, _hashable(value)) for key, value in fields.items())))


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((name, _hashable(each)) for name, each in sorted(value.items()))
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


@functools.lru_cache(maxsize=256)
def _built(name: str, fields: tuple) -> Method:
    try:
        return METHODS[name](**dict(fields))
    except TypeError as error:
        raise ValueError(f"the method {name!r} cannot be built: {error}") from error

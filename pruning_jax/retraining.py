"""What follows pruning: from which weights, and by which recipe, the survivors are trained again.

A regime says which of the two are rewound. The run itself is `training.fit`; random weights under a
found mask are a rewinding to a step 0 whose weights are drawn anew.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pruning_jax import choices, layouts, masks, recipes, training, trees
from pruning_jax.recipes import Recipe
from pruning_jax.tracing import Trace
from pruning_jax.types import Array, Masks, Params


def original_schedule(recipe: Recipe) -> Recipe:
    """The whole pretraining schedule again, from its first learning rate (S3, section 5)."""
    return recipe


def last_learning_rate(recipe: Recipe) -> Recipe:
    """The learning rate that pretraining ended with, held constant (fine-tuning, S0, section 3)."""
    passed = sum(boundary < recipe.epochs for boundary in recipe.boundaries)
    last = recipe.learning_rate * recipe.factor**passed
    if recipe.annealing == "cosine":  # that of the last epoch's first step, for the end's is 0
        last = float(recipes.learning_rate(recipe, 1)(recipe.epochs - 1))
    return recipe._replace(learning_rate=last, boundaries=(), warmup=0, annealing="steps")


class Regime(NamedTuple):
    """How pruned networks are trained again.

    Attributes:
      recipe: the pretraining recipe -> the one that is followed.
      rewinds_rate: whether the run begins at a later step of its recipe than the first.
      rewinds_weights: whether the weights are those that pretraining had at that step.
    """

    recipe: Callable[[Recipe], Recipe]
    rewinds_rate: bool = False
    rewinds_weights: bool = False


REGIMES: dict[str, Regime] = {
    "original_schedule": Regime(original_schedule),
    "fine_tuning": Regime(last_learning_rate),
    "learning_rate_rewinding": Regime(original_schedule, rewinds_rate=True),
    "weight_rewinding": Regime(original_schedule, rewinds_rate=True, rewinds_weights=True),
}
"""Source: Renda et al. 2020, section 2, for fine-tuning and the two rewindings."""


class Plan(NamedTuple):
    """A retraining run before it begins.

    Attributes:
      recipe: what is followed.
      step: of the recipe at which the run begins.
      rewinds_weights: whether its weights are those of that step of pretraining.
    """

    recipe: Recipe
    step: int
    rewinds_weights: bool


def plan(
    regime: str,
    pretraining: Recipe,
    steps: int,
    *,
    epochs: int | None = None,
    step: int | None = None,
    **changes,
) -> Plan:
    """How a regime trains again.

    Args:
      regime: a name in `REGIMES`.
      pretraining: the recipe that the dense network was trained with, T epochs long.
      steps: of an epoch.
      epochs: how long to train; T by default. Rewinding goes back to epoch T - epochs.
      step: the step that rewinding goes back to, in place of `epochs`.
      **changes: other fields of `Recipe` to replace, where nothing is rewound.

    Raises:
      ValueError: an unknown regime or field, or a rewinding to before the first step or past the
        last one.
    """
    choices.check("retraining regime", regime, REGIMES)
    follows, rewinds, weights = REGIMES[regime]
    if rewinds and changes:
        raise ValueError(f"{regime!r} follows the pretraining recipe; it takes no {min(changes)!r}")
    for field in changes:
        choices.check("retraining field", field, Recipe._fields)
    for name, value in (("steps", steps), ("epochs", epochs), ("step", step)):
        least = int(name == "steps")
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"{name} is {value!r}; it must be an integer, {least} or more")
    if epochs is not None and step is not None:
        raise ValueError(f"epochs is {epochs} and step is {step}; give one of them")
    if not rewinds:
        if step is not None:
            rewinding = [name for name, row in REGIMES.items() if row.rewinds_rate]
            raise ValueError(f"{regime!r} goes back to no step; choose {' or '.join(rewinding)}")
        changes |= {} if epochs is None else {"epochs": epochs}
        return Plan(follows(pretraining)._replace(**changes), 0, weights)
    last = pretraining.epochs * steps
    if step is None:
        step = 0 if epochs is None else last - epochs * steps
    if not 0 <= step <= last:
        given = f"step {step}" if epochs is None else f"{epochs} epochs before the end"
        raise ValueError(
            f"rewinding to {given} is not possible: pretraining has {pretraining.epochs} epochs, "
            f"that is {last} steps"
        )
    return Plan(follows(pretraining), step, weights)


def begin(
    plan: Plan,
    task: training.Task,
    history: Mapping[int, Params],
    kept: Masks,
    *,
    key: Array,
    examples: int,
) -> tuple[training.Task, training.Progress]:
    """A retraining run about to take its first step.

    Args:
      plan: of `plan`.
      task: of pretraining.
      history: pretraining's step -> ``{"params": ..., **model_state}``; the last is the network
        that was pruned.
      kept: masks like the parameters.
      key: of the run; with that of pretraining, a rewound run takes the batches of pretraining.
      examples: of the training split.

    Returns:
      The task that the run follows, and its beginning, for `training.fit`.

    Raises:
      ValueError: weights of a step that was not kept; what `training.start` refuses.
    """
    if not history:
        raise ValueError("history is empty; it holds the network that was pruned, at least")
    step = plan.step if plan.rewinds_weights else max(history)
    if step not in history:
        near = min(history, key=lambda known: abs(known - step))
        raise ValueError(
            f"the weights of step {step} were not kept; steps kept: "
            f"{', '.join(map(str, sorted(history)))}; the nearest is {near}"
        )
    task = task._replace(recipe=plan.recipe)
    return task, training.start(task, history[step], key, examples, kept, step=plan.step)


def rescaled(
    params: Params, kept: Masks, *, trace: Trace | None = None, output_axis: int | None = None
) -> Params:
    """The surviving weights of a small network at initialisation, their variance restored.

        theta <- m theta sqrt(inputs / kept inputs)  of each kernel

    A kernel drawn with variance 2 / n of n inputs then has 2 / (kept inputs) again, where the kept
    inputs are the mean over the outputs that keep any. The inputs of an output are the weights that
    it sums over, those of a convolution at every place of the window.

    Args:
      params: as drawn.
      kept: masks like `params`, drawn at random for a small network.
      trace: of the model; it knows the kernels and which of their axes are outputs.
      output_axis: of every kernel, in place of a trace: -1 in Flax, 0 in Equinox and PyTorch.
        Leaves of two axes and more count as kernels.

    Returns:
      The parameters, removed weights zero; leaves without a mask, and those that are no kernels,
      are not rescaled.

    Raises:
      ValueError: neither or both of `trace` and `output_axis`; masks that do not fit, or that leave
        a layer no weight; a kernel whose outputs the trace does not know.

    >>> params, kept = {"kernel": jnp.ones((4, 1))}, {"kernel": jnp.arange(4)[:, None] < 1}
    >>> rescaled(params, kept, output_axis=-1)["kernel"].ravel().tolist()
    [2.0, 0.0, 0.0, 0.0]

    Source: S0, sections 2.2.1 and 3.
    """
    trees.check_selection("kept", kept, params)
    empty = masks.empty_layers(kept)
    if empty:
        raise ValueError(f"{empty[0]!r} keeps no weight, so none can be rescaled; keep some")

    if (trace is None) == (output_axis is None):
        raise ValueError(
            f"give {'either' if trace is None else 'only one of'} trace= of the model, which knows "
            "which axes of a kernel are outputs, or output_axis=: -1 in Flax, 0 in Equinox and "
            "PyTorch"
        )

    def rescale(path: tuple, mask: Array | None, leaf: Array) -> Array:
        if mask is None:
            return leaf
        outputs = _output_axes(trace, output_axis, trees.path_name(path), mask.shape)
        if outputs is None:
            return leaf
        first = range(len(outputs))
        by_output = jnp.moveaxis(mask, outputs, first)
        by_output = by_output.reshape(math.prod(by_output.shape[axis] for axis in first), -1)
        inputs = by_output.sum() / by_output.any(axis=1).sum()
        return leaf * jnp.sqrt(by_output.shape[1] / inputs).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(
        rescale, kept, masks.apply(params, kept), is_leaf=lambda leaf: leaf is None
    )


def _output_axes(
    trace: Trace | None, output_axis: int | None, name: str, shape: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The axes of a kernel that are not summed over; ``None`` for a leaf that is no kernel."""
    if trace is None:
        return (output_axis,) if len(shape) > 1 else None
    layer = layouts.layer_of(trace, name, shape)
    if layer is None:
        return None
    inputs, outputs = layouts.axes(layer)
    if layer.kind == "conv":
        return outputs
    return tuple(axis for axis in range(len(shape)) if axis not in inputs)


class Cycle(NamedTuple):
    """A network after a cycle: pruned, and trained again."""

    sparsity: float
    kept: Masks
    pruned: Params
    retrained: Params


def iterate(
    variables: Params,
    sparsities: Iterable[float],
    prune: Callable[[Params, float, Masks | None], Masks],
    retrain: Callable[[Params, Masks], Params],
) -> Iterator[Cycle]:
    """Prunes and trains again, in cycles; yields a `Cycle` after each.

    Args:
      variables: of the pretrained network.
      sparsities: of `schedules.compounded`, or any that increase.
      prune: variables, a sparsity and the masks so far -> masks like the variables, that keep no
        weight which those removed.
      retrain: pruned variables and their masks -> the variables after training.
    """
    kept = None
    for sparsity in sparsities:
        kept = prune(variables, sparsity, kept)
        pruned = masks.apply(variables, kept)
        variables = retrain(pruned, kept)
        yield Cycle(sparsity, kept, pruned, variables)

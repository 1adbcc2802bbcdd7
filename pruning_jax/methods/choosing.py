"""Which weights a method removes: from scores to masks, with exact counts inside ``jit`` too."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import choices, criteria, curvature, layouts, selection, trees
from pruning_jax import masks as masks_
from pruning_jax.losses import Loss
from pruning_jax.methods.protocol import Taken
from pruning_jax.tracing import Trace
from pruning_jax.types import Array, Masks, Params, Scores


@dataclasses.dataclass(frozen=True)
class Where:
    """Which weights are prunable, which of them are ranked together, and in what pattern.

    Attributes:
      sparsity: the share of the prunable weights that goes in the end; ``None`` with a pattern.
      scope: "global", "layer" (uniform) or "erk", as in `masks.from_scores`.
      kernels: the names of the prunable leaves; by default those of the trace, or without one all
        leaves of two axes and more.
      trace: of the model, for "erk" and patterns where the axes of kernels are not Flax's.
      pattern: (n, m), to keep n of m neighbours along the inputs; then there is no sparsity.
      axis: of the inputs, for a pattern without a trace.
    """

    sparsity: float | None
    scope: str = "layer"
    kernels: tuple[str, ...] | None = None
    trace: Trace | None = None
    pattern: tuple[int, int] | None = None
    axis: int = -2

    def __post_init__(self) -> None:
        choices.check("scope", self.scope, masks_.SCOPES)
        if (self.sparsity is None) == (self.pattern is None):
            raise ValueError(
                f"sparsity is {self.sparsity} and pattern is {self.pattern}; give one of them"
            )
        if self.pattern is None and choices.check_sparsity(self.sparsity) == 1:
            raise ValueError("sparsity is 1, a density of 0: no weight is left; give less than 1")

    @property
    def final(self) -> float:
        """The share of weights that goes in the end."""
        return self.sparsity if self.pattern is None else 1 - self.pattern[0] / self.pattern[1]

    def weights(self, params: Params) -> Params:
        """The prunable leaves; ``None`` in the place of the others.

        Raises:
          ValueError: a name that is no leaf; no prunable leaf.
        """
        leaves = trees.named_leaves(params)
        names = self.kernels or [name for name, leaf in leaves.items() if leaf.ndim > 1]
        if self.kernels is None and self.trace is not None:
            inside = f"{layouts.PARAMS}/"
            names = [n if n in leaves else n.removeprefix(inside) for n in self.trace.kernels]
        if not names:
            raise ValueError(f"no leaf has two axes, of {', '.join(leaves)}; give kernels=")
        return trees.select(params, names)

    def removed(self, weights: Params, sparsities: Sequence[float]) -> np.ndarray:
        """How many weights are removed at each of some sparsities, shape (sparsities, groups).

        With a pattern (n, m), how many of m.

        Raises:
          ValueError: a layer would lose all its weights; names it.
        """
        if self.pattern is not None:
            n, m = self.pattern
            return np.array([[min(round(share * m), m - n)] for share in sparsities], np.int32)
        layers, shapes = self._layers(weights)
        total, counts = trees.size(weights), []
        for share in sparsities:
            groups = selection.SCOPES[self.scope](shapes, round(share * total))
            for members, count in groups:
                if count >= sum(layers[i].of(jax.tree.leaves(weights)).size for i in members):
                    names = ", ".join(layers[i].name for i in members)
                    raise ValueError(
                        f"sparsity {share:g} leaves no weight of {names}; give a lower one, or "
                        "scope='global'"
                    )
            counts.append([count for _, count in groups])
        return np.array(counts, np.int32)

    def _layers(self, weights: Params) -> tuple[list, list[tuple[int, ...]]]:
        trace = None if self.scope == "global" else self.trace
        return layouts.ranked(self.scope, trace, trees.named_leaves(weights))

    def sizes(self, weights: Params) -> list[int]:
        """The number of weights of each group."""
        layers, _ = self._layers(weights)
        leaves = jax.tree.leaves(weights)
        sizes = [layer.of(leaves).size for layer in layers]
        return [sum(sizes)] if self.scope == "global" else sizes

    def lowest(self, scores: Scores, counts: Sequence[int] | Array) -> Masks:
        """Removes of each group the lowest scores, as many as are counted, whatever the pattern."""
        layers, _ = self._layers(scores)
        leaves = jax.tree.leaves(scores)
        parts = [layer.of(leaves) for layer in layers]
        together = [parts] if self.scope == "global" else [[part] for part in parts]
        kept = [
            mask
            for group, count in zip(together, counts, strict=True)
            for mask in selection.remove_lowest(group, [None] * len(group), count)
        ]
        return jax.tree.unflatten(jax.tree.structure(scores), layouts.together(layers, kept))

    def keep(self, scores: Scores, counts: Sequence[int] | Array) -> Masks:
        """Removes the lowest scores, by counts of `removed`, in the pattern where there is one."""
        if self.pattern is None:
            return self.lowest(scores, counts)
        n, m = self.pattern
        trace, axis = self.trace, None if self.trace is not None else self.axis

        def keep(kept: int) -> Masks:
            return masks_.n_of_m(scores, kept, m, trace=trace, axis=axis)

        if not isinstance(counts[0], jax.core.Tracer):
            return keep(m - int(counts[0]))
        options = [lambda kept=kept: keep(kept) for kept in range(m, n - 1, -1)]
        return jax.lax.switch(counts[0], options)

    def check(self, masks: Masks, weights: Params) -> None:
        """Checks that masks to begin with are of these weights, and remove as many of them.

        Raises:
          ValueError: they do not; names the layers.
        """
        wanted = self.removed(weights, [self.final])[0]
        named, there = trees.named_leaves(masks), trees.named_leaves(weights)
        if named.keys() != there.keys():
            raise ValueError(
                f"the masks are of {', '.join(named)}, and the method prunes {', '.join(there)}"
            )
        if self.pattern is not None or any(
            isinstance(mask, jax.core.Tracer) for mask in named.values()
        ):
            return
        layers, _ = self._layers(weights)
        leaves = [np.asarray(mask) for mask in named.values()]
        removed = [int((~layer.of(leaves)).sum()) for layer in layers]
        names = [layer.name for layer in layers]
        if self.scope == "global":
            removed, names = [sum(removed)], ["all layers"]
        for name, found, count in zip(names, removed, wanted, strict=True):
            if found != count:
                raise ValueError(
                    f"the masks remove {found} weights of {name}, and sparsity {self.final:g} with "
                    f"scope {self.scope!r} removes {count}; give masks of that density"
                )


def spread(weights: Params, masks: Masks) -> Masks:
    """The masks at their leaves, and ``None`` at the others, in the structure of the parameters."""
    named = trees.named_leaves(masks)
    return jax.tree_util.tree_map_with_path(
        lambda path, _: named.get(trees.path_name(path)), weights, is_leaf=lambda x: x is None
    )


def magnitude(weights: Params) -> Scores:
    """The scores of most methods."""
    return trees.map_selected(jnp.abs, weights)


@dataclasses.dataclass(frozen=True)
class Scoring:
    """A criterion of weights, with its statistics taken on the batch of a step.

    Attributes:
      criterion: a row of `criteria.WEIGHT_CRITERIA` by its name, or a function like one.
      model: the trace of the model, for one that takes the curvature.
      loss: whose curvature that is.
    """

    criterion: str | Callable
    model: Trace | None
    loss: Loss

    def __post_init__(self) -> None:
        if not callable(self.criterion):
            choices.check("criterion", self.criterion, criteria.WEIGHT_CRITERIA)
        if "ggn" in criteria.required(self.function) and self.model is None:
            raise ValueError(
                f"criterion {criteria.name(self.function)!r} takes the curvature: give trace= of "
                "the model in evaluation mode"
            )

    @property
    def function(self) -> Callable:
        return self.criterion if callable(self.criterion) else self._row

    @property
    def _row(self) -> Callable:
        return criteria.WEIGHT_CRITERIA[self.criterion]

    def __call__(self, weights: Params, taken: Taken) -> Scores:
        """The scores of weights after a step."""
        needs, given = criteria.required(self.function), {}
        if "key" in needs:
            given["key"] = taken.key
        if "gradient" in needs:
            given["gradient"] = taken.gradient
        if "ggn" in needs:
            found = curvature.ggn_diagonal(self.model, taken.variables, taken.batch, loss=self.loss)
            given["ggn"] = params_of(found, weights)
        return self.function(weights, **given)


def params_of(variables: Any, params: Params) -> Any:
    """The trained leaves of variables, or of a tree like them: all, or their collection."""
    names = trees.named_leaves(params)
    within = trees.named_leaves(variables)
    inside = not names.keys() <= within.keys() and isinstance(variables, dict)
    return variables[layouts.PARAMS] if inside else variables

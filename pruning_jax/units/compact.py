"""Smaller arrays for a network without its removed units, and a function for them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax import tracing, trees
from pruning_jax.tracing import Equations
from pruning_jax.types import ApplyFn, Array, Masks, Params, PyTree
from pruning_jax.units import masks, narrowed, rules
from pruning_jax.units.graph import components
from pruning_jax.units.masks import UnitMasks
from pruning_jax.units.narrowing import Narrowing, narrowing, narrowing_elsewhere
from pruning_jax.units.parameters import same_equations
from pruning_jax.units.spaces import UnitGraph


class Compact(NamedTuple):
    """A network whose arrays are smaller.

    Attributes:
      variables: a tree like the network's, without the removed units; where constants are added, a
        pair of that tree and of them.
      apply_fn: (variables, inputs) -> what the masked network returns.
      train_fn: the same for training; ``None`` where none was given.
      unit_masks: the units that are kept, those that `round_to` keeps among them.
    """

    variables: Params
    apply_fn: ApplyFn
    train_fn: Callable | None
    unit_masks: dict[str, np.ndarray]


def compact(
    graph: UnitGraph,
    variables: Params,
    unit_masks: UnitMasks,
    *,
    round_to: int = 1,
    train_fn: Callable | None = None,
    added: Mapping[int, Array] | None = None,
) -> Compact:
    """Cuts the removed units out of a network.

        f_compact(compact(theta), x) = f(apply_masks(theta), x),   to rounding

    Every leaf is sliced along its axes of units. Where the model's own function does at the
    smaller sizes what it did, it is returned; else its equations are, evaluated at these sizes.

    Args:
      graph: of the model.
      variables: of the shapes that were traced; masked here, folded before if they are to be.
      unit_masks: space -> booleans, shape (size,), True = kept.
      round_to: the kept units of each space become a multiple of it, or all: of the removed ones
        the first stay, with their parameters at zero.
      train_fn: (variables, inputs, ...) -> a tree, the model in training mode, on the same
        variables; run at the smaller sizes too, what it returns of their shapes as well.
      added: value of a layer's product -> a constant to add to it, as `replacement.responses` says
        what the means of removed units come to; kept beside the variables, of which they are then
        the second part.

    Returns:
      The variables and functions of the smaller network.

    Raises:
      ValueError: masks that do not fit the graph or whose values are not known (under ``jit``);
        variables of other shapes, or no arrays; a model that mixes examples or depends on
        Python-side state; both of `added` and `train_fn`, or constants that are not added to a
        product of the model; groups of a grouped convolution left unequal; what cannot be
        narrowed, by name.

    >>> def model(variables, inputs):
    ...     return jax.nn.relu(inputs @ variables["w"]) @ variables["out"]
    >>> variables = {"w": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.ones((3, 2))}
    >>> graph = pj.units.graph(pj.trace(model, variables, jnp.ones((4, 1))))
    >>> small = pj.compact(graph, variables, {"w": jnp.array([True, False, True])})
    >>> small.variables["w"].shape, small.variables["out"].shape
    ((1, 2), (2, 2))
    >>> small.apply_fn(small.variables, jnp.array([[2.0]])).tolist()
    [[3.0, 3.0]]
    """
    masks.check_masks(graph, unit_masks)
    if added and train_fn is not None:
        raise ValueError(
            "give added or train_fn, not both: the constants are for evaluation mode; to train on, "
            "fold the means into biases (replacement.fold_means) and cut then"
        )
    if train_fn is not None and not callable(train_fn):
        raise ValueError(f"train_fn is a function, not {type(train_fn).__name__}")
    tracing.check_variables(graph.trace.model, variables)
    _check_arrays(graph.trace.model, variables)
    _check_added(graph, added or {})
    tracing.check(graph.trace, variables)
    kept = rounded(graph, unit_masks, 1)
    zeros = masks.parameter_masks(graph, variables, kept)
    unit_masks = rounded(graph, kept, round_to)
    cut = _Cut(narrowing(graph, unit_masks))
    smaller = cut(variables, zeros)
    evaluation = _Evaluation(cut, dict(added or {}), graph.trace.apply_fn)
    if added:
        smaller = (smaller, evaluation.constants())
    training = None if train_fn is None else _Training(graph, unit_masks, cut, train_fn)
    return Compact(smaller, evaluation.function(smaller), training, unit_masks)


def _check_arrays(model: Equations, variables: Params) -> None:
    """Checks that variables are arrays of the dtypes that were traced."""
    for name, leaf in trees.named_leaves(variables).items():
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(
                f"the variables have a shape at {name!r}; compact needs arrays. For the shapes of "
                "its own, call it in jax.eval_shape"
            )
        dtypes = jnp.result_type(leaf), model.avals[model.leaves[name]].dtype
        if dtypes[0] != dtypes[1]:
            raise ValueError(
                f"the variables have {dtypes[0]} at {name!r}, and those that were traced "
                f"{dtypes[1]}; take the trace again: tracing.trace(apply_fn, variables, inputs)"
            )


def _check_added(graph: UnitGraph, added: Mapping[int, Array]) -> None:
    """Checks that constants can be added to the products of a graph's layers."""
    model = graph.trace.model
    products = {c.equation for space in graph.spaces for c in space.consumers}
    shapes = {v: model.shape(v) for n in products for v in model.equations[n].outputs}
    for value, array in added.items():
        if value not in shapes or np.shape(array) != shapes[value]:
            raise ValueError(
                f"added has a constant of shape {np.shape(array)} at value {value}, which "
                + (f"has shape {shapes[value]}" if value in shapes else "is no layer's product")
                + "; take it of this model: replacement.responses(graph, variables, means, masks)"
            )


def rounded(graph: UnitGraph, unit_masks: UnitMasks, multiple: int) -> dict[str, np.ndarray]:
    """Unit masks whose kept units are a multiple of a number, or all; the first removed ones stay.

    Raises:
      ValueError: as `compact`.
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise ValueError(f"round_to is {multiple!r}; it must be a whole number, 1 or more")
    if any(isinstance(mask, jax.core.Tracer) for mask in unit_masks.values()):
        raise ValueError("compact needs unit masks whose values are known: call it outside jit")
    kept = {name: np.array(mask) for name, mask in unit_masks.items()}
    for mask in kept.values():
        short = -int(mask.sum()) % multiple
        mask[np.flatnonzero(~mask)[:short]] = True
    return kept


class _Cut:
    """Slices the leaves of variables along their axes of units."""

    def __init__(self, small: Narrowing) -> None:
        self.small, self.grouped = small, narrowed.grouped_kernels(small)

    def __call__(self, variables: Params, kept: Masks) -> Params:
        named = trees.named_leaves(kept)
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._leaf(trees.path_name(path), named, leaf), variables
        )

    def _leaf(self, name: str, kept: dict[str, Array], leaf: Array) -> Array:
        """On the host, where the values are known: a program for every shape takes seconds."""
        value, mask = self.small.model.leaves[name], kept.get(name)
        positions, groups = self.small.of(value), self.grouped.get(value)
        if mask is None and not positions and groups is None:
            return leaf
        traced = isinstance(leaf, jax.core.Tracer)
        array = leaf if traced else np.asarray(leaf)
        if mask is not None:
            array = (jnp if traced else np).where(mask, array, np.zeros((), array.dtype))
        array = narrowed.taken(array, positions)
        if groups is not None:
            array = narrowed.of_groups(array, *groups)
        return jnp.asarray(array)


class _Evaluation:
    """The model at smaller sizes, example by example."""

    def __init__(self, cut: _Cut, added: dict[int, Array], apply_fn: ApplyFn) -> None:
        self.cut, self.small, self.added, self.own = cut, cut.small, added, apply_fn
        self.at = narrowed.handlers(self.small)

    def constants(self) -> dict[str, Array]:
        """What is added to products, at the smaller sizes, by the number of the value."""
        return {
            str(value): narrowed.taken(jnp.asarray(array), self.small.of(value))
            for value, array in self.added.items()
        }

    def function(self, variables: Params) -> ApplyFn:
        """The model's own function where it does the same at these sizes, else its equations."""
        model = self.small.model
        examples = [model.avals[value] for value in model.inputs]
        inputs = jax.tree.unflatten(model.input_structure, examples)
        if self.added:
            return self.with_constants
        return self.own if _does_the_same(self.own, self.small, variables, inputs) else self.run

    def run(self, variables: Params, inputs: PyTree) -> PyTree:
        """What the masked network returns."""
        return self._run(variables, inputs, lambda value, array: array)

    def with_constants(self, variables: Params, inputs: PyTree) -> PyTree:
        """The same with constants added to products."""
        variables, constants = variables

        def edit(value: int, array: Array) -> Array:
            extra = constants.get(str(value))
            return array if extra is None else array + extra.astype(array.dtype)

        return self._run(variables, inputs, edit)

    def _run(self, variables: Params, inputs: PyTree, edit: Callable) -> PyTree:
        model = self.small.model
        return tracing.merged(
            tracing.over_examples(
                lambda x: tracing.run(model, variables, x, edit=edit, at=self.at), inputs
            )
        )


class _Training:
    """A function that trains the model's variables, at smaller sizes; read once for every shape."""

    def __init__(
        self, graph: UnitGraph, unit_masks: UnitMasks, cut: _Cut, train_fn: Callable
    ) -> None:
        self.graph, self.unit_masks, self.cut, self.own = graph, unit_masks, cut, train_fn
        self.programs: dict[Any, Callable] = {}

    def __call__(self, variables: Params, *inputs: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten((variables, inputs))
        avals = tuple(jax.api_util.shaped_abstractify(leaf) for leaf in leaves)
        if (structure, avals) not in self.programs:
            self.programs[structure, avals] = self._read(*jax.tree.unflatten(structure, avals))
        return self.programs[structure, avals](variables, *inputs)

    def _read(self, variables: Params, inputs: PyTree) -> Callable:
        whole = jax.tree_util.tree_map_with_path(self._whole, variables)
        trace = tracing.trace_of(tracing.read(self.own, whole, *inputs), self.own)
        walk = rules.walk(trace)
        units = components(walk.atoms, walk.edges)
        small = narrowing_elsewhere(self.graph, self.unit_masks, walk, units)
        for name, leaf in trees.named_leaves(variables).items():
            shape = small.shape(trace.model.leaves[name])
            if np.shape(leaf) != shape:
                raise ValueError(
                    f"train_fn cannot be run at the smaller sizes: {name!r} would have to be "
                    f"{shape}, and is {np.shape(leaf)}: in training it meets units that it does "
                    "not meet in evaluation mode, as an auxiliary head does; keep all of these "
                    "units, or leave the head out of train_fn"
                )
        if _does_the_same(self.own, small, variables, *inputs):
            return self.own
        at = narrowed.handlers(small)
        return lambda variables, *inputs: tracing.run(trace.model, variables, inputs, at=at)

    def _whole(self, path: tuple, leaf: Any) -> Any:
        model = self.graph.trace.model
        return model.avals[model.leaves[trees.path_name(path)]]


def _does_the_same(
    function: Callable, small: Narrowing, variables: Params, *inputs: PyTree
) -> bool:
    """Whether a function at smaller sizes runs the equations that its own become there.

    Whatever it raises, it does not accept these sizes.

    Raises:
      ValueError: the equations cannot be narrowed.
    """

    def ours(variables: Params, *inputs: PyTree) -> PyTree:
        return tracing.run(small.model, variables, inputs, at=narrowed.handlers(small))

    jax.eval_shape(ours, variables, *inputs)
    narrow = tracing.read(ours, variables, *inputs)
    try:
        return same_equations(narrow, tracing.read(function, variables, *inputs))
    except Exception:  # noqa: BLE001, a library's own errors of shapes are of any kind
        return False

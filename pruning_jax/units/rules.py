"""How each primitive that is not elementwise moves the labels of its operands to its results."""

import math
from collections.abc import Callable, Iterable

import numpy as np

from pruning_jax.tracing import Equation, Trace
from pruning_jax.units import elementwise, labels, products
from pruning_jax.units.labels import NONE, Field, Part
from pruning_jax.units.walk import NORM, Link, Walk


def _common(numbers: Iterable[float | str | None], name: str) -> float | str:
    """The number that all are, or `NORM`; `name` where they differ or one is not known."""
    different = {n if isinstance(n, float) or n == NORM else name for n in numbers}
    return different.pop() if len(different) == 1 else name


def _concatenate(walk: Walk, number: int, equation: Equation) -> None:
    """Follows pieces that are put one after another along an axis."""
    axis, result = equation.params["dimension"], equation.outputs[0]
    every = {value: walk.fields.get(value, ()) for value in equation.inputs}
    if walk.is_data(result):
        for value in equation.inputs:
            if not walk.is_data(value):
                sources = {source for f in every[value] for source, _ in f.sources}
                links = [Link(number, source, "bias") for source in sorted(sources)]
                walk.notes.links.extend(links)
    split = [f for fields in every.values() for f in fields if axis in f.axes and len(f.axes) > 1]
    walk.notes.block(split, "they are concatenated along a part of their axis")
    found = [_beside(walk, equation, axes) for axes in _axes_beside(every.values(), axis)]
    if any((axis,) == f.axes for fields in every.values() for f in fields):
        found.append(_along(walk, equation, axis))
    walk.fields[result] = tuple(found)
    read = [walk.readings[value] for value in equation.inputs if value in walk.readings]
    if read:
        walk.readings[result] = frozenset().union(*read)
    if walk.pooled.intersection(equation.inputs):
        walk.pooled.add(result)


def _axes_beside(every: Iterable[labels.Fields], axis: int) -> list[tuple[int, ...]]:
    return list(dict.fromkeys(f.axes for fields in every for f in fields if axis not in f.axes))


def _beside(walk: Walk, equation: Equation, axes: tuple[int, ...]) -> Field:
    """The labels of an axis that pieces have in common; they hold the same units."""
    every = [walk.fields.get(value, ()) for value in equation.inputs]
    own = [next((f for f in fields if f.axes == axes), None) for fields in every]
    pieces = [field for field in own if field is not None]
    atoms = pieces[0].atoms
    for field in pieces[1:]:
        walk.unite(atoms, field.atoms)
        atoms = np.where(atoms == NONE, field.atoms, atoms)
    numbers = [
        walk.numbers.get(value) if field is None else field.zero
        for value, field in zip(equation.inputs, own, strict=True)
    ]
    rests = [field.rest for field in pieces if (field.atoms == NONE).any()]
    zero = _common([*numbers, *rests], equation.name)
    sources = frozenset().union(*(field.sources for field in pieces))
    return Field(axes, atoms, zero, sources, zero)


def _along(walk: Walk, equation: Equation, axis: int) -> Field:
    """The labels of pieces one after another."""
    atoms, zero, rest, sources = [], [], [], frozenset()
    for value in equation.inputs:
        field = next((f for f in walk.fields.get(value, ()) if f.axes == (axis,)), None)
        if field is None:
            atoms.append(np.full(walk.shape(value)[axis], NONE))
            rest.append(walk.numbers.get(value))
            continue
        atoms.append(field.atoms)
        zero.append(field.zero)
        sources |= field.sources
        if (field.atoms == NONE).any():
            rest.append(field.rest)
    name = equation.name
    rest = _common(rest, name) if rest else 0.0
    return Field((axis,), np.concatenate(atoms), _common(zero, name), sources, rest)


def _axes_moved(place: Callable[[Walk, Equation], dict[int, int]]) -> Callable:
    def rule(walk: Walk, number: int, equation: Equation) -> None:
        source, result = equation.inputs[0], equation.outputs[0]
        kept = place(walk, equation)
        fields = [f for f in walk.fields.get(source, ()) if set(f.axes) <= kept.keys()]
        walk.carry(source, result, labels.moved(tuple(fields), kept.__getitem__))

    return rule


def _transpose(walk: Walk, equation: Equation) -> dict[int, int]:
    return {axis: place for place, axis in enumerate(equation.params["permutation"])}


def _squeeze(walk: Walk, equation: Equation) -> dict[int, int]:
    gone = equation.params["dimensions"]
    rank = len(walk.shape(equation.inputs[0]))
    return {axis: i for i, axis in enumerate(axis for axis in range(rank) if axis not in gone)}


def _broadcast(walk: Walk, equation: Equation) -> dict[int, int]:
    before, after = walk.shape(equation.inputs[0]), equation.params["shape"]
    places = enumerate(equation.params["broadcast_dimensions"])
    return {axis: place for axis, place in places if before[axis] == after[place]}


def _reshape(walk: Walk, number: int, equation: Equation) -> None:
    source, result = equation.inputs[0], equation.outputs[0]
    old, new = walk.shape(source), walk.shape(result)
    found, merged = labels.reshaped(walk.fields.get(source, ()), old, new)
    for fields, before, after in merged:
        if walk.is_data(source):
            walk.notes.block(fields, "a reshape merges their axis with another of units")
        elif (field := _one_leaf(walk, fields, before, old)) is not None and len(after) == 1:
            found.append(field._replace(axes=(after[0],), atoms=field.atoms.ravel()))
    walk.carry(source, result, found)


def _one_leaf(walk: Walk, fields: list[Field], before: list[int], old: tuple) -> Field | None:
    """Several whole axes of one leaf as one field with atoms of its own."""
    sources = [source for field in fields for source, _ in field.sources]
    axes = tuple(axis for source in sources for axis in source.axes)
    whole = len({source.leaf for source in sources}) == 1 and len(axes) == len(before)
    if not whole or list(axes) != sorted(axes) or any(f.zero != 0.0 for f in fields):
        return None
    return walk._whole(sources[0].leaf, axes, tuple(old[axis] for axis in before), 0.0)


def _slice(walk: Walk, number: int, equation: Equation) -> None:
    params = equation.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    parts = [
        slice(*part)
        for part in zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    ]
    fields = walk.fields.get(equation.inputs[0], ())
    walk.carry(equation.inputs[0], equation.outputs[0], labels.taken(fields, parts))


def _split(walk: Walk, number: int, equation: Equation) -> None:
    source, axis, start = equation.inputs[0], equation.params["axis"], 0
    for result, size in zip(equation.outputs, equation.params["sizes"], strict=False):
        parts = [slice(None)] * len(walk.shape(source))
        parts[axis] = slice(start, start + size)
        walk.carry(source, result, labels.taken(walk.fields.get(source, ()), parts))
        start += size


def _rev(walk: Walk, number: int, equation: Equation) -> None:
    source = equation.inputs[0]
    parts = [slice(None)] * len(walk.shape(source))
    for axis in equation.params["dimensions"]:
        parts[axis] = slice(None, None, -1)
    walk.carry(source, equation.outputs[0], labels.taken(walk.fields.get(source, ()), parts))


def _pad(walk: Walk, number: int, equation: Equation) -> None:
    source, value = equation.inputs
    before, added = walk.fields.get(source, ()), walk.numbers.get(value)
    found = []
    wider = labels.padded(before, equation.params["padding_config"])
    for old, field in zip(before, wider, strict=True):
        rests = [added, *([old.rest] if (old.atoms == labels.NONE).any() else [])]
        zero = field.zero if field.zero == added else "pad"
        found.append(field._replace(zero=zero, rest=_common(rests, "pad")))
    walk.carry(source, equation.outputs[0], found)


def _reduced(field: Field, name: str, entries: int | None) -> Field:
    """A field after so many entries of each unit were summed, say; a constant stays one."""

    def of_constant(number: float | str) -> float | str:
        if not isinstance(number, float):
            return number if number == NORM else name
        if name in _KEEPING or (number == 0.0 and name in _SUMMING):
            return number
        return number * entries if entries and name.endswith("_sum") else name

    return field._replace(zero=of_constant(field.zero), rest=of_constant(field.rest))


_KEEPING = frozenset(
    ["reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min", "cummax", "cummin"]
)
"""Primitives that give a constant for that constant alone."""

_SUMMING = frozenset(["reduce_sum", "reduce_prod", "reduce_window_sum", "cumsum", "cumprod"])
"""Primitives that give zero for zeros alone."""


def _reduce(walk: Walk, number: int, equation: Equation) -> None:
    source, result, axes = equation.inputs[0], equation.outputs[0], equation.params["axes"]
    fields = walk.fields.get(source, ())
    kept = [axis for axis in range(len(walk.shape(source))) if axis not in axes]
    inside = [field for field in fields if set(field.axes) & set(axes)]
    if walk.is_data(source):
        walk.notes.mixed.extend((equation.name, field) for field in inside)
        if inside:
            walk.mixed[result] = tuple((equation.name, field.atoms) for field in inside)
    else:
        walk.notes.block(inside, f"{equation.name} takes their parameters")
    entries = math.prod(walk.shape(source)[axis] for axis in axes)
    outside = [_reduced(f, equation.name, entries) for f in fields if f not in inside]
    place = {axis: i for i, axis in enumerate(kept)}
    walk.carry(source, result, labels.moved(tuple(outside), place.__getitem__))
    if outside and walk.is_data(source):
        walk.pooled.add(result)


def _window(walk: Walk, number: int, equation: Equation) -> None:
    source, result = equation.inputs[0], equation.outputs[0]
    sizes = equation.params["window_dimensions"]
    fields = walk.fields.get(source, ())
    across = [field for field in fields if any(sizes[axis] > 1 for axis in field.axes)]
    walk.notes.block(across, f"{equation.name} goes over their axis")
    padded = any(any(pair) for pair in equation.params.get("padding", ()))
    kept = [_reduced(f, equation.name, None if padded else math.prod(sizes)) for f in fields]
    walk.carry(source, result, [f for f in kept if not any(sizes[a] > 1 for a in f.axes)])
    if kept and walk.is_data(source):
        walk.pooled.add(result)


def _beside_others(walk: Walk, number: int, equation: Equation) -> None:
    """Follows what moves or accumulates entries along axes that are not the units'."""
    source, params = equation.inputs[0], equation.params
    if equation.name == "dynamic_slice":
        shape = walk.shape(source)
        touched = {axis for axis, size in enumerate(params["slice_sizes"]) if size != shape[axis]}
    else:
        touched = {params["dimension" if equation.name == "sort" else "axis"]}
    fields = walk.fields.get(source, ())
    across = [field for field in fields if touched.intersection(field.axes)]
    walk.notes.block(across, f"{equation.name} goes over their axis")
    moves = equation.name in ("sort", "dynamic_slice")
    kept = [f if moves else _reduced(f, equation.name, None) for f in fields if f not in across]
    walk.carry(source, equation.outputs[0], kept)


def _gather(walk: Walk, number: int, equation: Equation) -> None:
    """Follows the rows of an embedding, and entries that are taken by their places."""
    if number in walk.layers:
        products.embedding(walk, number, equation)
        return
    source, indices = equation.inputs
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, fields = walk.shape(source), walk.fields.get(source, ())
    left = [axis for axis in range(len(shape)) if axis not in numbers.collapsed_slice_dims]
    left = [axis for axis in left if axis not in numbers.operand_batching_dims]
    place = {
        axis: result
        for axis, result in zip(left, numbers.offset_dims, strict=True)
        if sizes[axis] == shape[axis]
    }
    whole = [field for field in fields if set(field.axes) <= place.keys()]
    result = list(labels.moved(tuple(whole), place.__getitem__))
    for field in fields:
        if field not in whole:
            taken = _taken(walk, equation, field, walk.known(indices))
            walk.notes.block([field] * (taken is None), "gather takes them by unknown places")
            result += [taken] * (taken is not None)
    walk.carry(source, equation.outputs[0], result)


def _taken(
    walk: Walk, equation: Equation, field: Field, indices: np.ndarray | None
) -> Field | None:
    """The labels of entries taken along one axis, at places that are known and in bounds."""
    numbers = equation.params["dimension_numbers"]
    if indices is None or indices.ndim != 2 or tuple(numbers.start_index_map) != field.axes:
        return None
    (axis,), places = field.axes, indices[:, 0]
    size = len(field.atoms)
    single = tuple(numbers.collapsed_slice_dims) == (axis,) and not numbers.operand_batching_dims
    if not single or places.min(initial=0) < 0 or places.max(initial=0) >= size:
        return None
    rank = len(walk.shape(equation.outputs[0]))
    (at,) = (axis for axis in range(rank) if axis not in numbers.offset_dims)
    return field._replace(axes=(at,), atoms=field.atoms[places])


RULES: dict[str, Callable[[Walk, int, Equation], None]] = {
    "transpose": _axes_moved(_transpose),
    "squeeze": _axes_moved(_squeeze),
    "broadcast_in_dim": _axes_moved(_broadcast),
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "rev": _rev,
    "pad": _pad,
    "concatenate": _concatenate,
    **dict.fromkeys(["reduce_sum", "reduce_max", "reduce_min", "reduce_prod"], _reduce),
    **dict.fromkeys(
        ["reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum"], _window
    ),
    "dot_general": products.dot_general,
    "conv_general_dilated": products.convolution,
    "gather": _gather,
    "dynamic_slice": _beside_others,
    **dict.fromkeys(["sort", "cumsum", "cumprod", "cummax", "cummin"], _beside_others),
}
"""Primitive -> how it is followed."""


def walk(trace: Trace, unmasked: frozenset[Part] = frozenset()) -> Walk:
    """Follows every equation of a model.

    Args:
      trace: the model.
      unmasked: the axes of leaves that stay as they are when units are removed.
    """
    walked = Walk(trace, unmasked)
    for number, equation in enumerate(trace.model.equations):
        name = equation.name
        walked.note_maker(number, equation)
        body = name if name in elementwise.ELEMENTWISE else None
        if body is None and name not in RULES:
            body = elementwise.body_of(equation)
        if body is not None:
            walked.elementwise(number, equation, body)
        elif name in RULES:
            RULES[name](walked, number, equation)
        else:
            walked.refuse(equation, f"{name} is not understood")
        walked.follow_mixing(number, equation, body is not None)
    for output in trace.model.outputs:
        for name, atoms in walked.mixed.get(output, ()):
            walked.notes.blocked.append((f"{name} mixes them into the network's outputs", atoms))
        walked.notes.block(walked.fields.get(output, ()), "they are the network's outputs")
    return walked

"""How each primitive that is not elementwise moves the labels of its operands to its results."""

from collections.abc import Callable

from pruning_jax.tracing import Trace
from pruning_jax.tracing.equations import Equation
from pruning_jax.units import bodies, joining, layer_rules, zeros
from pruning_jax.units import fields as labels
from pruning_jax.units.fields import Field
from pruning_jax.units.walk import Walk


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
        found.append(field._replace(zero=zero, rest=joining.common(rests, "pad")))
    walk.carry(source, equation.outputs[0], found)


def _known(field: Field, name: str, stays: Callable[[float | str], bool]) -> Field:
    """A field whose numbers are not known after a primitive, but for those that stay."""
    zero, rest = (number if stays(number) else name for number in (field.zero, field.rest))
    return field._replace(zero=zero, rest=rest)


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
    sums = equation.name == "reduce_sum"
    outside = [
        _known(f, equation.name, lambda number: not sums or number == 0.0)
        for f in fields
        if f not in inside
    ]
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
    name = equation.name
    largest, sums = name == "reduce_window_max", name == "reduce_window_sum"
    kept = [_known(f, name, lambda number: largest or (sums and number == 0.0)) for f in fields]
    walk.carry(source, result, [f for f in kept if not any(sizes[a] > 1 for a in f.axes)])
    if kept and walk.is_data(source):
        walk.pooled.add(result)


RULES: dict[str, Callable[[Walk, int, Equation], None]] = {
    "transpose": _axes_moved(_transpose),
    "squeeze": _axes_moved(_squeeze),
    "broadcast_in_dim": _axes_moved(_broadcast),
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "rev": _rev,
    "pad": _pad,
    "concatenate": joining.concatenate,
    **dict.fromkeys(["reduce_sum", "reduce_max", "reduce_min", "reduce_prod"], _reduce),
    **dict.fromkeys(
        ["reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum"], _window
    ),
    "dot_general": layer_rules.dot_general,
    "conv_general_dilated": layer_rules.convolution,
    "gather": layer_rules.gather,
}
"""Primitive -> how it is followed."""


def walk(trace: Trace, unmasked: frozenset[str] = frozenset()) -> Walk:
    """Follows every equation of a model.

    Args:
      trace: the model.
      unmasked: the leaves that stay as they are when units are removed.
    """
    walked = Walk(trace, unmasked)
    for number, equation in enumerate(trace.model.equations):
        name = equation.name
        if number in walked.layers or not walked.made.isdisjoint(equation.inputs):
            walked.made.update(equation.outputs)
        body = name if name in zeros.ELEMENTWISE else None
        if body is None and name not in RULES:
            body = bodies.elementwise(equation)
        if body is not None:
            walked.elementwise(number, equation, body)
        elif name in RULES:
            RULES[name](walked, number, equation)
        else:
            walked.refuse(equation, f"{name} is not understood")
        walked.follow_mixing(number, equation, body is not None)
    for name, atoms in walked.mixed.get(trace.model.output, ()):
        walked.notes.blocked.append((f"{name} mixes them into the network's outputs", atoms))
    outputs = walked.fields.get(trace.model.output, ())
    walked.notes.block(outputs, "they are the network's outputs")
    return walked

"""How products meet units: what enters a layer, what it produces, and what data make of data."""

import math
from collections.abc import Callable

import numpy as np

from pruning_jax.tracing import Equation
from pruning_jax.units import labels
from pruning_jax.units.labels import NONE, Field, Number, Source, Zeros
from pruning_jax.units.walk import NORM, Entry, Link, Meeting, Walk

UNREAD = "a kernel that cannot be read multiplies them in {}"


def _enter(
    walk: Walk,
    number: int,
    data: tuple[int, int],
    kernel: tuple[int, int],
    labelled: bool = True,
) -> None:
    """Notes that a kernel's input axis multiplies an axis of the data: (value, axis) of both."""
    layer, value = walk.layers[number], data[0]
    ours, theirs = (labels.on(walk.fields.get(v, ()), axis) for v, axis in (data, kernel))
    ours = ours if labelled else []
    fields = [walk.fields[value][index] for index in ours]
    weight = walk.fields[kernel[0]][theirs[0]] if len(theirs) == 1 else None
    source = _own(weight, layer.kernel) if weight is not None else None
    if source is None or any(len(field.axes) > 1 for field in (weight, *fields)):
        walk.block(fields, UNREAD.format(layer.name))
        return
    if not fields:
        walk.entries.append(Entry(number, layer.name, source, value, None))
    for index, field in zip(ours, fields, strict=True):
        part, atoms = source, weight.atoms
        if len(fields) > 1:
            names, places = np.unique(field.atoms, return_inverse=True)
            if NONE in names:
                walk.block([field], "their axis is merged with another of units")
                continue
            digits = np.full(weight.atoms.size, NONE)
            digits[weight.atoms - source.start] = places
            part = walk.part(source, digits)
            atoms = part.start + places
        walk.unite(field.atoms, atoms)
        walk.entries.append(Entry(number, layer.name, part, value, index))


def _own(field: Field, leaf: str) -> Source | None:
    """The axis of a kernel's leaf that a field's labels are."""
    return next((source for source, _ in sorted(field.sources) if source.leaf == leaf), None)


def _produce(walk: Walk, number: int, place: tuple[int, int], axes: tuple, role: str) -> Field:
    """Notes what a kernel's output axis, (value, field), makes; returns its labels there."""
    layer, field = walk.layers[number], walk.fields[place[0]][place[1]]
    for source, _ in sorted(field.sources):
        own = source.leaf == layer.kernel
        link = Link(number, source, role if own else "scale", layer.name if own else None)
        walk.links.append(link)

    def at_zero(zeros: Zeros) -> tuple[Number, Number]:
        zero = zeros[place[0]][place[1]][0]
        return zero if zero in (0.0, NORM) else role, role

    return field._replace(axes=axes, at_zero=at_zero)


def _carried(field: Field, place: tuple[int, int], name: str) -> Field:
    """A field along which a product does nothing but scale zeros."""

    def at_zero(zeros: Zeros) -> tuple[Number, Number]:
        numbers = zeros[place[0]][place[1]]
        return tuple(n if n in (0.0, NORM) else name for n in numbers)

    return field._replace(at_zero=at_zero)


def dot_general(walk: Walk, number: int, equation: Equation) -> None:
    """Follows a product of data with a kernel, with other data, or with a constant."""
    data = [value for value in equation.inputs if walk.is_data(value)]
    constant = [v for v in equation.inputs if not walk.is_data(v) and v not in walk.parametric]
    if constant:
        _beside_constant(walk, equation, constant[0])
    elif len(data) == 2:
        _between_data(walk, number, equation)
    elif _readable(walk, number, equation):
        _layer(walk, number, equation)


def _readable(walk: Walk, number: int, equation: Equation) -> bool:
    """Whether an equation is a layer; if not, what enters it may not be pruned."""
    data = sum(walk.is_data(value) for value in equation.inputs)
    if data != 1:
        what = "takes their parameters" if not data else "multiplies them with data"
        walk.refuse(equation, f"{equation.name} {what}")
    elif number not in walk.layers:
        walk.refuse(equation, UNREAD.format(equation.name))
    return data == 1 and number in walk.layers


def _layer(walk: Walk, number: int, equation: Equation) -> None:
    side = 0 if walk.is_data(equation.inputs[0]) else 1
    value, kernel = equation.inputs[side], equation.inputs[1 - side]
    contracted, batched = equation.params["dimension_numbers"]
    walk.split(value, (*contracted[side], *batched[side]))
    walk.split(kernel, (*contracted[1 - side], *batched[1 - side]))
    for axis, other in zip(contracted[side], contracted[1 - side], strict=True):
        begins = value in walk.model.states  # a loop, with zeros of any units, or with no units
        if not begins or walk.numbers.get(value) != 0.0:
            _enter(walk, number, (value, axis), (kernel, other), labelled=not begins)
    found = []
    for place, (axis, other) in enumerate(zip(batched[side], batched[1 - side], strict=True)):
        ours, theirs = (
            labels.on(walk.fields.get(v, ()), a) for v, a in ((value, axis), (kernel, other))
        )
        fields = [walk.fields[value][index] for index in ours]
        if len(ours) == len(theirs) == 1:
            result = _produce(walk, number, (kernel, theirs[0]), (place,), "scale")
            walk.unite(fields[0].atoms, result.atoms)
            found.append(result._replace(sources=result.sources | fields[0].sources))
        elif fields:
            walk.block(fields, UNREAD.format(walk.layers[number].name))
    for which in (side, 1 - side):
        for index, field in _free(walk, equation, which):
            place = equation.inputs[which], index
            found.append(
                _carried(field, place, equation.name)
                if which == side
                else _produce(walk, number, place, field.axes, "kernel")
            )
    walk.fields[equation.outputs[0]] = tuple(found)


def _free(walk: Walk, equation: Equation, side: int) -> list[tuple[int, Field]]:
    """The fields along an operand's free axes, with their numbers, as those of the result."""
    contracted, batched = equation.params["dimension_numbers"]
    used = {*contracted[side], *batched[side]}
    free = [axis for axis in range(len(walk.shape(equation.inputs[side]))) if axis not in used]
    first = len(batched[0])
    if side == 1:
        first += len(walk.shape(equation.inputs[0])) - len(contracted[0]) - len(batched[0])
    places = {axis: (first + i, None) for i, axis in enumerate(free)}
    fields = enumerate(walk.fields.get(equation.inputs[side], ()))
    return [(i, labels.moved(f, places)) for i, f in fields if set(f.axes) <= places.keys()]


def _between_data(walk: Walk, number: int, equation: Equation) -> None:
    """Follows a product of data: axes that meet hold the same units, as heads and channels do."""
    pairs = equation.params["dimension_numbers"]
    for side, value in enumerate(equation.inputs):
        walk.split(value, (*pairs[0][side], *pairs[1][side]))
    found = []
    for batched, axes in enumerate(pairs):
        for place, both in enumerate(zip(*axes, strict=True)):
            ends = list(zip(equation.inputs, both, strict=True))
            on = [labels.on(walk.fields.get(value, ()), axis) for value, axis in ends]
            fields = [
                [walk.fields[v][i] for i in found] for (v, _), found in zip(ends, on, strict=True)
            ]
            alike = not all(on) or len(on[0]) == len(on[1])
            if not alike or any(len(f.axes) > 1 for side in fields for f in side):
                walk.block([*fields[0], *fields[1]], "their axis is split in two ways")
                continue
            for i in range(max(map(len, on))):
                met = [(v, o[i]) for (v, _), o in zip(ends, on, strict=True) if o]
                field = _met(walk, met)
                if batched:
                    at_zero = _multiplied(met, equation.name)
                    found.append(field._replace(axes=(place,), at_zero=at_zero))
                else:
                    walk.meetings.append(Meeting(number, tuple(met)))
    for side, value in enumerate(equation.inputs):
        found += [_carried(f, (value, i), equation.name) for i, f in _free(walk, equation, side)]
    walk.fields[equation.outputs[0]] = tuple(found)


def _met(walk: Walk, met: list[tuple[int, int]]) -> Field:
    """The field of axes of data that hold the same units."""
    first, *others = (walk.fields[value][index] for value, index in met)
    for other in others:
        atoms = walk.unite(first.atoms, other.atoms)
        first = first._replace(atoms=atoms, sources=first.sources | other.sources)
    return first


def _multiplied(met: list[tuple[int, int]], name: str) -> Callable:
    """What products are of entries of one operand with those of the other."""

    def at_zero(zeros: Zeros) -> tuple[Number, Number]:
        pairs = zip(*(zeros[value][index] for value, index in met), strict=True)
        return tuple(
            0.0 if 0.0 in pair and not any(n != n for n in pair) else name for pair in pairs
        )

    return at_zero


def _product(factors: tuple[Number, ...], name: str) -> Number:
    return math.nan if any(n != n for n in factors) else 0.0 if 0.0 in factors else name


def _beside_constant(walk: Walk, equation: Equation, constant: int) -> None:
    """Follows a product with a constant, which mixes positions but not units: a resizing, say."""
    side = 1 - equation.inputs.index(constant)
    value = equation.inputs[side]
    contracted, batched = (axes[side] for axes in equation.params["dimension_numbers"])
    used = {*contracted, *batched}
    across = [field for field in walk.fields.get(value, ()) if used.intersection(field.axes)]
    walk.block(across, f"{equation.name} multiplies them with a constant")
    walk.fields[equation.outputs[0]] = tuple(
        _carried(field, (value, index), equation.name)
        for index, field in _free(walk, equation, side)
    )


def convolution(walk: Walk, number: int, equation: Equation) -> None:
    """Follows a convolution of data with a kernel."""
    if not _readable(walk, number, equation):
        return
    value, kernel = equation.inputs
    spec, groups = equation.params["dimension_numbers"], equation.params["feature_group_count"]
    features, (output, inputs) = spec.lhs_spec[1], spec.rhs_spec[:2]
    ours, theirs = walk.fields.get(value, ()), walk.fields.get(kernel, ())
    data, made = labels.on(ours, features), labels.on(theirs, output)
    walk.block(
        [f for i, f in enumerate(ours) if i not in data], "a convolution goes over their axis"
    )
    field = ours[data[0]] if len(data) == 1 and len(ours[data[0]].axes) == 1 else None
    single = len(made) == 1 and len(theirs[made[0]].axes) == 1
    depthwise = groups > 1 and walk.shape(kernel)[inputs] == 1
    if groups == 1:
        if data or labels.on(theirs, inputs):
            _enter(walk, number, (value, features), (kernel, inputs))
    elif data and field is None or depthwise and data and not single:
        walk.block([ours[i] for i in data], UNREAD.format(walk.layers[number].name))
    elif depthwise and data:
        outputs = theirs[made[0]].atoms
        walk.unite(np.repeat(field.atoms, len(outputs) // len(field.atoms)), outputs)
    elif data:
        _enter_groups(walk, number, (value, data[0]), (kernel, spec.rhs_spec), groups)
    walk.fields[equation.outputs[0]] = ()
    if single:
        role = "depthwise" if depthwise and data else "kernel"
        result = _produce(walk, number, (kernel, made[0]), (spec.out_spec[1],), role)
        if depthwise and field is not None:
            result = result._replace(sources=result.sources | field.sources)
        walk.fields[equation.outputs[0]] = (result,)


def _enter_groups(
    walk: Walk, number: int, data: tuple[int, int], kernel: tuple, groups: int
) -> None:
    """Notes the entry into a grouped convolution, whose kernel's inputs are those of each group."""
    layer, (value, index), (weight, spec) = walk.layers[number], data, kernel
    theirs, axes = walk.fields.get(weight, ()), []
    for axis in (spec[1], spec[0]):
        fields = [theirs[i] for i in labels.on(theirs, axis)]
        source = _own(fields[0], layer.kernel) if len(fields) == 1 else None
        whole = source is not None and len(source.axes) == len(fields[0].axes) == 1
        if whole and np.array_equal(fields[0].atoms, source.atoms(fields[0].atoms.size)):
            axes.append(source)
    if len(axes) < 2:
        walk.block([walk.fields[value][index]], UNREAD.format(layer.name))
        return
    walk.entries.append(Entry(number, layer.name, axes[0], value, index, groups, axes[1]))


def embedding(walk: Walk, number: int, equation: Equation) -> None:
    """Follows the rows of an embedding."""
    table, numbers = equation.inputs[0], equation.params["dimension_numbers"]
    if len(walk.shape(table)) != 2:
        walk.refuse(equation, "gather is not understood")
        return
    for index in labels.on(walk.fields.get(table, ()), 1):
        if len(walk.fields[table][index].axes) == 1:
            axes = (numbers.offset_dims[-1],)
            result = _produce(walk, number, (table, index), axes, "embedding")
            walk.fields[equation.outputs[0]] = (result,)

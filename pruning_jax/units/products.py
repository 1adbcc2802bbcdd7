"""How the kernels of layers meet units: what enters a layer, and what it produces."""

import numpy as np

from pruning_jax.tracing import Equation
from pruning_jax.units import labels
from pruning_jax.units.labels import NONE, Field, Source
from pruning_jax.units.walk import NORM, Entry, Link, Walk

UNREAD = "a kernel that cannot be read multiplies them in {}"


def _own(field: Field, leaf: str) -> Source | None:
    """The axis of a kernel's leaf that a field's labels are."""
    return next((source for source, _ in sorted(field.sources) if source.leaf == leaf), None)


def _enter(walk: Walk, number: int, value: int, data: Field | None, kernel: Field | None) -> None:
    """Notes that a kernel's input axis multiplies an axis of the data."""
    layer = walk.layers[number]
    source = _own(kernel, layer.kernel) if kernel is not None else None
    plain = all(field is None or len(field.axes) == 1 for field in (data, kernel))
    if source is None or not plain:
        walk.notes.block(filter(None, [data]), UNREAD.format(layer.name))
        return
    zero = 0.0 if data is None else data.zero
    atoms, lost = None, walk.made.get(value)
    if data is not None:
        atoms = data.atoms
        both = atoms != NONE
        walk.notes.same(atoms[both], kernel.atoms[both])
    walk.notes.entries.append(Entry(number, layer.name, source, atoms, zero, value, lost))


def _produce(walk: Walk, number: int, field: Field, axes: tuple[int, ...], role: str) -> Field:
    """Notes what a kernel's output axis makes; returns its labels in the result."""
    layer = walk.layers[number]
    for source, _ in sorted(field.sources):
        own = source.leaf == layer.kernel
        link = Link(number, source, role if own else "scale", layer.name if own else None)
        walk.notes.links.append(link)
    zero = field.zero if field.zero in (0.0, NORM) else role
    return Field(axes, field.atoms, zero, field.sources, rest=role)


def _carried(data: Field, axes: tuple[int, ...], name: str) -> Field:
    zero, rest = (n if n in (0.0, NORM) else name for n in (data.zero, data.rest))
    return data._replace(axes=axes, zero=zero, rest=rest)


def _readable(walk: Walk, number: int, equation: Equation) -> bool:
    """Whether an equation is a layer; if not, what enters it may not be pruned."""
    data = [value for value in equation.inputs if walk.is_data(value)]
    if not data:
        walk.refuse(equation, f"{equation.name} takes their parameters")
    if len(data) > 1:
        walk.refuse(equation, f"{equation.name} multiplies them with data")
    elif data and number not in walk.layers:
        walk.refuse(equation, UNREAD.format(equation.name))
    return len(data) == 1 and number in walk.layers


def _constant_side(walk: Walk, equation: Equation) -> int | None:
    """Which operand of a product is a constant, beside one that has labels."""
    for side, value in enumerate(equation.inputs):
        if not walk.is_data(value) and value not in walk.parametric:
            return side
    return None


def dot_general(walk: Walk, number: int, equation: Equation) -> None:
    """Follows a product of data with a kernel, or with a constant along other axes."""
    constant = _constant_side(walk, equation)
    if constant is not None:
        _beside_constant(walk, equation, 1 - constant)
        return
    if not _readable(walk, number, equation):
        return
    side = 0 if walk.is_data(equation.inputs[0]) else 1
    value, kernel = equation.inputs[side], equation.inputs[1 - side]
    contracted, batched = equation.params["dimension_numbers"]
    ours, theirs = walk.fields.get(value, ()), walk.fields.get(kernel, ())
    for axis, other in zip(contracted[side], contracted[1 - side], strict=True):
        data, weight = labels.on(ours, axis), labels.on(theirs, other)
        if data is not None or weight is not None:
            _enter(walk, number, value, data, weight)
    found = []
    for place, (axis, other) in enumerate(zip(batched[side], batched[1 - side], strict=True)):
        data, weight = labels.on(ours, axis), labels.on(theirs, other)
        if data is not None and weight is not None and len(data.axes) == len(weight.axes) == 1:
            walk.notes.same(data.atoms, weight.atoms)
            result = _produce(walk, number, weight, (place,), "scale")
            found.append(result._replace(sources=result.sources | data.sources))
        elif data is not None:
            walk.notes.block([data], UNREAD.format(walk.layers[number].name))
    for which, fields in ((side, ours), (1 - side, theirs)):
        for field in _free(walk, equation, which, fields):
            found.append(
                _carried(field, field.axes, equation.name)
                if which == side
                else _produce(walk, number, field, field.axes, "kernel")
            )
    walk.fields[equation.outputs[0]] = tuple(found)
    walk.read(equation.outputs[0])


def _free(walk: Walk, equation: Equation, side: int, fields: labels.Fields) -> labels.Fields:
    """The fields along an operand's free axes, as those of the result."""
    contracted, batched = equation.params["dimension_numbers"]
    used = {*contracted[side], *batched[side]}
    free = [axis for axis in range(len(walk.shape(equation.inputs[side]))) if axis not in used]
    first = len(batched[0])
    if side == 1:
        first += len(walk.shape(equation.inputs[0])) - len(contracted[0]) - len(batched[0])
    place = {axis: first + i for i, axis in enumerate(free)}
    whole = tuple(field for field in fields if set(field.axes) <= place.keys())
    return labels.moved(whole, place.__getitem__)


def _beside_constant(walk: Walk, equation: Equation, side: int) -> None:
    """Follows a product with a constant, which mixes positions but not units: a resizing, say."""
    value = equation.inputs[side]
    contracted, batched = (axes[side] for axes in equation.params["dimension_numbers"])
    fields = walk.fields.get(value, ())
    across = [field for field in fields if {*contracted, *batched}.intersection(field.axes)]
    walk.notes.block(across, f"{equation.name} multiplies them with a constant")
    kept = [
        _carried(field, field.axes, equation.name) for field in _free(walk, equation, side, fields)
    ]
    walk.carry(value, equation.outputs[0], kept)
    walk.numbers.pop(equation.outputs[0], None)
    if kept and walk.is_data(value):
        walk.pooled.add(equation.outputs[0])


def convolution(walk: Walk, number: int, equation: Equation) -> None:
    """Follows a convolution of data with a kernel."""
    if not _readable(walk, number, equation):
        return
    value, kernel = equation.inputs
    spec, groups = equation.params["dimension_numbers"], equation.params["feature_group_count"]
    ours, theirs = walk.fields.get(value, ()), walk.fields.get(kernel, ())
    data = labels.on(ours, spec.lhs_spec[1])
    walk.notes.block([f for f in ours if f is not data], "a convolution goes over their axis")
    inputs, outputs = labels.on(theirs, spec.rhs_spec[1]), labels.on(theirs, spec.rhs_spec[0])
    if groups == 1:
        if data is not None or inputs is not None:
            _enter(walk, number, value, data, inputs)
    elif data is not None:
        if walk.shape(kernel)[spec.rhs_spec[1]] > 1:
            _enter_groups(walk, number, value, data, (inputs, outputs), groups)
        elif outputs is None or len(data.axes) > 1:
            walk.notes.block([data], UNREAD.format(walk.layers[number].name))
        else:
            repeated = np.repeat(data.atoms, len(outputs.atoms) // len(data.atoms))
            both = repeated != NONE
            walk.notes.same(repeated[both], outputs.atoms[both])
    found = []
    if outputs is not None and len(outputs.axes) == 1:
        depthwise = groups > 1 and walk.shape(kernel)[spec.rhs_spec[1]] == 1 and data is not None
        role = "depthwise" if depthwise else "kernel"
        result = _produce(walk, number, outputs, (spec.out_spec[1],), role)
        if depthwise:
            result = result._replace(sources=result.sources | data.sources)
        found = [result]
    walk.fields[equation.outputs[0]] = tuple(found)
    walk.read(equation.outputs[0])


def _enter_groups(
    walk: Walk, number: int, value: int, data: Field, kernel: tuple, groups: int
) -> None:
    """Notes the entry into a grouped convolution, whose kernel's inputs are those of each group."""
    layer = walk.layers[number]
    axes = [None if field is None else _own(field, layer.kernel) for field in kernel]
    whole = all(
        source is not None
        and len(source.axes) == 1
        and np.array_equal(field.atoms, source.start + np.arange(len(field.atoms)))
        for field, source in zip(kernel, axes, strict=True)
    )
    if not whole or len(data.axes) > 1:
        walk.notes.block([data], UNREAD.format(layer.name))
        return
    lost = walk.made.get(value)
    walk.notes.entries.append(
        Entry(number, layer.name, axes[0], data.atoms, data.zero, value, lost, groups, axes[1])
    )


def embedding(walk: Walk, number: int, equation: Equation) -> None:
    """Follows the rows of an embedding."""
    table, numbers = equation.inputs[0], equation.params["dimension_numbers"]
    if len(walk.shape(table)) != 2:
        walk.refuse(equation, "gather is not understood")
        return
    field = labels.on(walk.fields.get(table, ()), 1)
    if field is not None and len(field.axes) == 1:
        result = _produce(walk, number, field, (numbers.offset_dims[-1],), "embedding")
        walk.fields[equation.outputs[0]] = (result,)
        walk.read(equation.outputs[0])

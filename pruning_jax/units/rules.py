"""What a walk does at each primitive."""

import math
from collections.abc import Callable, Iterable

import numpy as np

from pruning_jax.tracing import Equation, Trace
from pruning_jax.units import elementwise, labels, moves, products
from pruning_jax.units.labels import NONE, Field, Fields, Number, Zeros
from pruning_jax.units.walk import NORM, Link, Mixing, Walk


def _common(numbers: Iterable[Number], name: str) -> Number:
    """The number that all are, or `NORM`; `name` where they differ or one is not known."""
    different = {n if isinstance(n, float) or n == NORM else name for n in numbers}
    return different.pop() if len(different) == 1 else name


def _reduced(name: str, entries: int | None, number: Number) -> Number:
    """What so many equal entries come to, summed or otherwise; ``None``: so many are not known."""
    if not isinstance(number, float):
        return number if number == NORM else name
    if name.endswith(("max", "min")) or (number == 0.0 and name != "reduce_window"):
        return number
    return number * entries if entries and name.endswith("_sum") else name


def _move(walk: Walk, number: int, equation: Equation) -> None:
    """Follows a primitive that moves axes, reduces others, or goes over them."""
    name, inputs = equation.name, equation.inputs
    results: list[list[Field]] = [[] for _ in equation.outputs]
    for operand, result, places in moves.moves(walk.model, equation):
        value, lost = inputs[operand], []
        if name in moves.REDUCTIONS and walk.is_data(value):
            walk.split(value, set(range(len(walk.shape(value)))) - places.keys())
        for index, field in enumerate(walk.fields.get(value, ())):
            if set(field.axes) <= places.keys():
                at_zero = _moved(walk, equation, value, index)
                new = labels.moved(field, places)._replace(at_zero=at_zero)
                results[result].append(new)
            else:
                lost.append(field)
        if name in moves.LOSING:
            walk.block(lost, f"{name} {moves.LOSING[name]}")
        elif name in moves.REDUCTIONS and walk.is_data(value):
            walk.mixings.extend(Mixing(number, field) for field in lost)
        elif name in moves.REDUCTIONS:
            walk.block(lost, f"{name} takes their parameters")
    for result, fields in zip(equation.outputs, results, strict=True):
        walk.fields[result] = tuple(fields)
        if inputs[0] in walk.numbers and name not in ("pad", *moves.LOSING, *moves.POOLING):
            walk.numbers[result] = walk.numbers[inputs[0]]


def _moved(walk: Walk, equation: Equation, value: int, index: int) -> Callable:
    """What becomes of the entries of a field that is moved, reduced or padded."""
    name, params = equation.name, equation.params
    if name == "pad":
        added = walk.numbers.get(equation.inputs[1])
        beside = (walk.fields[value][index].atoms == NONE).any()

        def padded(zeros: Zeros) -> tuple[Number, Number]:
            zero, rest = zeros[value][index]
            rests = [added, *([rest] if beside else [])]
            return zero if zero == added else "pad", _common(rests, "pad")

        return padded
    if name not in moves.POOLING and not name.startswith("cum"):
        return labels.same(value, index)
    entries = None
    if "window_dimensions" in params and not any(map(any, params.get("padding", ()))):
        entries = math.prod(params["window_dimensions"])
    elif "axes" in params:
        entries = math.prod(walk.shape(value)[axis] for axis in params["axes"])
    return lambda zeros: tuple(_reduced(name, entries, n) for n in zeros[value][index])


def _concatenate(walk: Walk, number: int, equation: Equation) -> None:
    """Follows pieces that are put one after another along an axis."""
    along, result = equation.params["dimension"], equation.outputs[0]
    joined: dict[tuple, dict[int, int]] = {}
    atoms: dict[tuple, np.ndarray] = {}
    sources: dict[tuple, frozenset] = {}
    for operand, _, places in moves.moves(walk.model, equation):
        value = equation.inputs[operand]
        for index, field in enumerate(walk.fields.get(value, ())):
            if along in field.axes and len(field.axes) > 1:
                walk.block([field], "they are concatenated along a part of their axis")
                continue
            before = [f.axes for f in walk.fields[value][:index]].count(field.axes)
            key, piece = (field.axes, before), labels.moved(field, places).atoms
            joined.setdefault(key, {})[operand] = index
            atoms[key] = walk.unite(atoms.get(key, piece), piece)
            sources[key] = sources.get(key, frozenset()) | field.sources
            if walk.is_data(result) and not walk.is_data(value):
                linked = (Link(number, source, "bias") for source, _ in sorted(field.sources))
                walk.links.extend(linked)
    walk.fields[result] = tuple(
        Field(key[0], atoms[key], sources[key], _at_joint(walk, equation, key[0], pieces))
        for key, pieces in joined.items()
    )


def _at_joint(walk: Walk, equation: Equation, axes: tuple[int, ...], pieces: dict) -> Callable:
    """What the entries of pieces are that lie along an axis, or beside one another."""
    along, name = equation.params["dimension"] in axes, equation.name
    fields = []
    for operand, value in enumerate(equation.inputs):
        index = pieces.get(operand)
        beside = index is not None and (walk.fields[value][index].atoms == NONE).any()
        fields.append((value, index, bool(beside)))

    def at_zero(zeros: Zeros) -> tuple[Number, Number]:
        units = [zeros[v][i][0] for v, i, _ in fields if i is not None]
        rests = [zeros[v][i][1] for v, i, beside in fields if beside]
        rests += [walk.numbers.get(v) for v, i, _ in fields if i is None]
        if along:
            return _common(units, name), _common(rests, name) if rests else 0.0
        return (_common([*units, *rests], name),) * 2

    return at_zero


def _reshape(walk: Walk, number: int, equation: Equation) -> None:
    """Follows entries to axes that were merged or split."""
    (value, *_), result = equation.inputs, equation.outputs[0]
    old, new = walk.shape(value), walk.shape(result)
    groups = labels.groups(old, new) if math.prod(old) else []
    for before, after in groups:
        if [old[axis] for axis in before] != [new[axis] for axis in after]:
            across = (f for f in walk.fields.get(value, ()) if not set(f.axes) <= set(before))
            walk.split(value, {axis for field in across for axis in field.axes} & set(before))
    fields, found = walk.fields.get(value, ()), []
    for before, after in groups:
        inside = [i for i, f in enumerate(fields) if set(f.axes) & set(before)]
        whole = [old[axis] for axis in before] == [new[axis] for axis in after]
        places = {axis: (place, None) for axis, place in zip(before, after, strict=False)}
        merged = not walk.is_data(value) and not whole and _one_leaf(walk, fields, before, old)
        if merged and len(after) == 1:
            found.append(merged._replace(axes=(after[0],), atoms=merged.atoms.ravel()))
            continue
        for index in inside:
            field = fields[index]._replace(at_zero=labels.same(value, index))
            if whole and set(field.axes) <= set(before):
                found.append(labels.moved(field, places))
            elif not whole and field.atoms.size > 1 and set(field.axes) <= set(before):
                found.append(labels.spread(field, (before, after), old, new))
            elif walk.is_data(value):
                walk.block([field], "a reshape merges their axis with another of units")
    walk.fields[result] = tuple(field for field in found if field.axes)
    if value in walk.numbers:
        walk.numbers[result] = walk.numbers[value]


def _one_leaf(walk: Walk, fields: Fields, before: list[int], old: tuple) -> Field | None:
    """Several whole axes of one leaf as one field with atoms of its own."""
    several = [f for f in fields if set(f.axes) & set(before) and f.atoms.size > 1]
    sources = [source for field in several for source, _ in field.sources]
    axes = tuple(axis for source in sources for axis in source.axes)
    whole = len(axes) == len([axis for axis in before if old[axis] > 1]) > 1
    if not whole or len({source.leaf for source in sources}) > 1 or list(axes) != sorted(axes):
        return None
    return walk.whole(sources[0].leaf, axes, tuple(old[axis] for axis in before if old[axis] > 1))


def _gather(walk: Walk, number: int, equation: Equation) -> None:
    if number in walk.layers:
        products.embedding(walk, number, equation)
    else:
        _move(walk, number, equation)


RULES: dict[str, Callable[[Walk, int, Equation], None]] = {
    "dot_general": products.dot_general,
    "conv_general_dilated": products.convolution,
    "gather": _gather,
    "reshape": _reshape,
    "concatenate": _concatenate,
}
"""Primitive -> how it is followed; the others move axes, are elementwise or are refused."""


def walk(trace: Trace) -> Walk:
    """Follows every equation of a model."""
    walked = Walk(trace)
    for number, equation in enumerate(trace.model.equations):
        name = equation.name
        if not walked.parametric.isdisjoint(equation.inputs):
            walked.parametric.update(equation.outputs)
        if name in elementwise.ELEMENTWISE:
            walked.elementwise(number, equation, name)
        elif name in RULES:
            RULES[name](walked, number, equation)
        elif name in moves.MOVES:
            _move(walked, number, equation)
        elif (body := elementwise.body_of(equation)) is not None:
            walked.elementwise(number, equation, body)
        else:
            walked.refuse(equation, f"{name} is not understood")
    for output in trace.model.outputs:
        walked.block(walked.fields.get(output, ()), "they are the network's outputs")
    return walked

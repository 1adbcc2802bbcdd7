"""Which axis holds the examples in the result of one equation, from a single reading of a model.

What a single reading leaves open is never guessed: it raises, and the model is read again.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

from pruning_jax.tracing.flattening import Equation, Flattening
from pruning_jax.tracing.layouts import BatchAxis, Step

ELEMENTWISE = frozenset(
    [
        *("add", "add_any", "sub", "mul", "div", "rem", "max", "min", "pow", "integer_pow"),
        *("neg", "abs", "sign", "square", "sqrt", "rsqrt", "cbrt", "floor", "ceil", "round"),
        *("exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "sinh", "cosh"),
        *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "asinh", "acosh", "atanh"),
        *("erf", "erfc", "erf_inv", "lgamma", "digamma", "nextafter", "is_finite"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor"),
        *("select_n", "clamp", "convert_element_type", "reduce_precision", "copy"),
        *("stop_gradient", "sharding_constraint"),
        *("shift_left", "shift_right_logical", "shift_right_arithmetic", "population_count"),
    ]
)
"""Primitives whose result has at every position a function of the operands there."""

REDUCING = frozenset(
    [
        *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
        *("argmax", "argmin"),
    ]
)
WINDOWS = frozenset(
    ["reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"]
)
CUMULATIVE = frozenset(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"])

SIZED = frozenset(["broadcast_in_dim", "reshape", "slice", "split", "pad"])
"""Primitives whose result has sizes that its operands do not give."""

Multiples = Sequence[int]
Rule = Callable[[Step, Multiples], int | None]
"""(step, axes of the result that are multiples of the examples) -> the examples' axis, if sure."""


def telling(sizes: Iterable[int]) -> int:
    """A number of examples that tells their axis: a prime that divides none of the sizes."""
    sizes = [size for size in sizes if size]
    return next(
        number
        for number in itertools.count(19)
        if all(number % d for d in range(2, number)) and all(size % number for size in sizes)
    )


def _same(step: Step, multiples: Multiples) -> int:
    return step.source.axis


def _broadcast_in_dim(step: Step, multiples: Multiples) -> int:
    return step.equation.params["broadcast_dimensions"][step.source.axis]


def _reshape(step: Step, multiples: Multiples) -> int | None:
    plain = step.equation.params.get("dimensions") is None and len(multiples) == 1
    return multiples[0] if plain else None


def _transpose(step: Step, multiples: Multiples) -> int:
    return step.equation.params["permutation"].index(step.source.axis)


def _without(axis: int, dropped: Sequence[int]) -> int | None:
    return None if axis in dropped else axis - sum(other < axis for other in dropped)


def _squeeze(step: Step, multiples: Multiples) -> int | None:
    return _without(step.source.axis, step.equation.params["dimensions"])


def _reduce(step: Step, multiples: Multiples) -> int | None:
    return _without(step.source.axis, step.equation.params["axes"])


def _whole(step: Step, multiples: Multiples) -> int | None:
    """The same axis, where none of it is left out."""
    axis = step.source.axis
    whole = step.shape(step.value)[axis] == step.shape(step.operands[0])[axis]
    return axis if whole else None


def _concatenate(step: Step, multiples: Multiples) -> int | None:
    return None if step.equation.params["dimension"] == step.source.axis else step.source.axis


def _conv(step: Step, multiples: Multiples) -> int | None:
    params = step.equation.params
    numbers = params["dimension_numbers"]
    plain = step.source.axis == numbers.lhs_spec[0] and params["batch_group_count"] == 1
    return numbers.out_spec[0] if plain else None


def _gather(step: Step, multiples: Multiples) -> int | None:
    """Of rows of a table, by indices that depend on the inputs."""
    numbers, indices = step.equation.params["dimension_numbers"], step.equation.inputs[1]
    if step.operands != [indices] or numbers.operand_batching_dims:
        return None
    rank = len(step.shape(step.value))
    places = [axis for axis in range(rank) if axis not in numbers.offset_dims]
    axis = step.source.axis
    return places[axis] if axis < len(step.shape(indices)) - 1 else None


def _dot_general(step: Step, multiples: Multiples) -> int | None:
    contracting, batching = step.equation.params["dimension_numbers"]
    inputs = step.equation.inputs
    sides = [side for side in (0, 1) if inputs[side] in step.operands]
    places = set()
    for side in sides:
        axis = step.batch[inputs[side]].axis
        free = [
            a
            for a in range(len(step.shape(inputs[side])))
            if a not in (*contracting[side], *batching[side])
        ]
        if axis in batching[side] and len(sides) == 2:
            places.add(batching[side].index(axis))
        elif axis in free and len(sides) == 1:
            left = len(step.shape(inputs[0])) - len(contracting[0]) if side else len(batching[0])
            places.add(left + free.index(axis))
        else:
            return None
    return places.pop() if len(places) == 1 else None


RULES: dict[str, Rule] = {
    **dict.fromkeys([*ELEMENTWISE, *CUMULATIVE, "rev"], _same),
    **dict.fromkeys(REDUCING, _reduce),
    **dict.fromkeys([*WINDOWS, "slice", "split", "pad"], _whole),
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "concatenate": _concatenate,
    "conv_general_dilated": _conv,
    "gather": _gather,
    "dot_general": _dot_general,
}
"""Primitive -> where it takes the examples; what is not here is read twice."""

MEETING = ELEMENTWISE | {"concatenate"}
"""Primitives whose operands have the examples on one axis, constants of their number too."""

PAIRS = frozenset(["dot_general", "gather"])
"""Primitives whose rule looks at both operands."""

KEEPING = (
    MEETING | CUMULATIVE | REDUCING | {"rev", "transpose", "squeeze", "concatenate", "dot_general"}
)
"""Primitives whose result, of arrays of fixed sizes, has fixed sizes."""


class Single:
    """One reading of a model, followed equation by equation.

    An array that does not depend on the inputs is taken to be of a fixed size, unless a size is a
    multiple of the examples. Such an array is one of every example if it is a constant spread
    along one new axis, and meets there the examples' axis of an array that does depend on them.

    Attributes:
      flat: the reading.
      examples: their number.
      open: constant -> the axis along which it was spread, before it met the examples.
    """

    def __init__(self, flat: Flattening, examples: int) -> None:
        self.flat, self.examples = flat, examples
        self.open: dict[int, int] = {}

    def _shape(self, value: int) -> tuple[int, ...]:
        return self.flat.avals[value].shape

    def _multiples(self, value: int) -> list[int]:
        return [a for a, size in enumerate(self._shape(value)) if size % self.examples == 0]

    def unclear(self, equation: Equation) -> ValueError:
        return ValueError(f"{equation.name} may follow the examples, or not")

    def grown(
        self, equation: Equation, value: int, operands: list[int], batch: dict[int, BatchAxis]
    ) -> BatchAxis | None:
        """The axis of a result that holds the examples, its repeats as `after`.

        Args:
          equation: the equation.
          value: the result.
          operands: the operands that depend on the inputs.
          batch: value -> where the examples are, of all values before; constants are added.

        Raises:
          ValueError: a single reading does not tell.
        """
        if not operands:
            return self._constant(equation, value, batch)
        name, multiples = equation.name, self._multiples(value)
        step = Step(equation, value, None, operands, batch, self.flat.avals)
        axis = RULES[name](step, multiples) if name in RULES else None
        others = name in SIZED and any(other != axis for other in multiples)
        if name in MEETING:
            alone = len({batch[operand].axis for operand in operands}) == 1
        else:
            alone = name in PAIRS or operands == [equation.inputs[0]]
        if axis is None or axis not in multiples or others or not alone:
            raise self.unclear(equation)
        for other in set(equation.inputs) - set(operands):
            self._beside(equation, other, axis, batch)
        return BatchAxis(axis, 1, self._shape(value)[axis] // self.examples)

    def _beside(
        self, equation: Equation, value: int, axis: int, batch: dict[int, BatchAxis]
    ) -> None:
        """Checks a constant operand beside one with the examples; settles it where it is open."""
        shape = self._shape(value)
        if equation.name not in MEETING or len(shape) <= axis or shape[axis] == 1:
            self.fixed(equation, [value], batch)
        elif value not in batch:
            if self.open.pop(value, None) != axis:
                raise self.unclear(equation)
            batch[value] = BatchAxis(axis, 1, shape[axis] // self.examples)
        elif batch[value].axis != axis:
            raise self.unclear(equation)

    def fixed(self, equation: Equation, values: Iterable[int], batch: dict[int, BatchAxis]) -> None:
        """Raises ValueError unless the sizes of these constants do not follow the examples."""
        for value in values:
            written = value in self.flat.constants and self._multiples(value)
            if written or value in self.open or value in batch:
                raise self.unclear(equation)

    def close(self) -> None:
        """Raises ValueError where a constant was spread that never met the examples."""
        if self.open:
            raise ValueError(f"values {sorted(self.open)} may hold the examples, or not")

    def _constant(self, equation: Equation, value: int, batch: dict[int, BatchAxis]) -> None:
        self.fixed(equation, equation.inputs, batch)
        multiples = self._multiples(value)
        if not multiples or equation.name in KEEPING:
            return
        if equation.name == "broadcast_in_dim":
            source = self._shape(equation.inputs[0])
            kept = dict(zip(equation.params["broadcast_dimensions"], source, strict=True))
            multiples = [a for a in multiples if kept.get(a) != self._shape(value)[a]]
            if len(multiples) == 1:
                self.open[value] = multiples[0]
        if multiples and value not in self.open:
            raise self.unclear(equation)

"""Where the examples are in every array of a model, from one reading or from two."""

from typing import NamedTuple

from pruning_jax.tracing import layouts, mixing
from pruning_jax.tracing.flattening import Equation, Flattening
from pruning_jax.tracing.growth import Single
from pruning_jax.tracing.layouts import BatchAxis, Step


def _scaled_axis(shape: tuple, doubled: tuple, examples: int) -> BatchAxis | None:
    """The axis that grew with the examples. Raises ValueError when more than one did."""
    axes = [axis for axis, (a, b) in enumerate(zip(shape, doubled, strict=True)) if a != b]
    if not axes:
        return None
    axis = axes[0]
    if len(axes) > 1 or doubled[axis] != 2 * shape[axis] or shape[axis] % examples:
        raise ValueError(f"an array of shape {shape} does not keep the examples on one axis")
    return BatchAxis(axis, 1, shape[axis] // examples)


class Graph(NamedTuple):
    """A flat jaxpr at a number of examples, and at twice as many where one does not tell.

    Attributes:
      once: the reading at `examples`.
      examples: their number.
      twice: the reading at twice as many; ``None`` to go by the rules of the primitives alone.
    """

    once: Flattening
    examples: int
    twice: Flattening | None = None

    def follow(
        self, equations: tuple[Equation, ...], sources: dict[int, BatchAxis], outputs: tuple
    ) -> tuple[frozenset[int], dict[int, BatchAxis]]:
        """The values that depend on the sources, and where the examples are in every value.

        Raises:
          ValueError: a result depends on several examples, or cannot be followed.
        """
        needed = set(outputs).union(*(equation.inputs for equation in equations))
        twins = {e.outputs: e for e in self.twice.equations} if self.twice is not None else {}
        single = Single(self.once, self.examples)
        data, batch = set(sources), dict(sources)
        known = mixing.Known(self.once.constants, equations)
        for equation in equations:
            operands = [value for value in equation.inputs if value in data and value in batch]
            if operands:
                mixing.check(equation, operands, batch, self.once.avals, known)
            inner = self._inside(equation, twins, operands, single, batch)
            for value in needed.intersection(equation.outputs):
                if self.twice is not None:
                    found = self._scaled(value)
                else:
                    found = inner.get(value) or single.grown(equation, value, operands, batch)
                step = Step(equation, value, found, operands, batch, self.once.avals)
                if not operands and found is not None:
                    batch[value] = layouts.settle_constant(step)
                elif found is not None:
                    batch[value] = inner.get(value) or layouts.settle(step)
                elif operands:
                    raise mixing.refusal(equation, self.once.avals[value].shape)
                if operands:
                    data.add(value)
        single.close()
        return frozenset(data), batch

    def _scaled(self, value: int) -> BatchAxis | None:
        shapes = [flat.avals[value].shape for flat in (self.once, self.twice)]
        return _scaled_axis(*shapes, self.examples)

    def _inside(
        self,
        equation: Equation,
        twins: dict[tuple, Equation],
        operands: list[int],
        single: Single,
        batch: dict[int, BatchAxis],
    ) -> dict[int, BatchAxis]:
        """Follows the body of a call that keeps a derivative rule of its own."""
        calls = [equation, twins[equation.outputs]] if twins else [equation]
        bodies = [call.params.get("call_jaxpr") for call in calls]
        if None in bodies or not operands:
            return {}
        if not twins:
            single.fixed(equation, set(equation.inputs) - set(operands), batch)
        flats, results = [Flattening() for _ in bodies], []
        for flat, body in zip(flats, bodies, strict=True):
            jaxpr = getattr(body, "jaxpr", body)
            arguments = [flat.value(variable.aval) for variable in jaxpr.invars]
            results = flat.read(jaxpr, getattr(body, "consts", []), arguments)
        if len({len(flat.equations) for flat in flats}) > 1:
            return {}
        sources = {
            position: batch[value]
            for position, value in enumerate(equation.inputs)
            if value in operands
        }
        inner = Graph(flats[0], self.examples, *flats[1:])
        _, found = inner.follow(tuple(flats[0].equations), sources, tuple(results))
        return {
            value: found[result]
            for value, result in zip(equation.outputs, results, strict=True)
            if result in found
        }

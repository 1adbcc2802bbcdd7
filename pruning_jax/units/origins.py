"""Where units were read, and what made an array: the ways back from where they enter something."""

import functools
import math

from pruning_jax.tracing import LINEAR, Equation
from pruning_jax.units import moves
from pruning_jax.units.walk import Walk


class Origins:
    """Ways back along a walk."""

    def __init__(self, walked: Walk) -> None:
        self.walk, self.model = walked, walked.model
        self.made_by = {v: n for n, e in enumerate(self.model.equations) for v in e.outputs}
        self.readings = functools.cache(self._readings)

    def _equation(self, value: int) -> Equation | None:
        return self.model.equations[self.made_by[value]] if value in self.made_by else None

    def _data(self, equation: Equation) -> list[int]:
        return [value for value in equation.inputs if self.walk.is_data(value)]

    def _readings(self, value: int) -> tuple[frozenset[int], bool]:
        """The values in which the units of a value were read last, and whether these are pooled.

        That is behind a layer, norm or function, and before pooling and what only moves entries.
        """
        equation = self._equation(value)
        data = [] if equation is None else self._data(equation)
        if not data:
            return frozenset(), False
        before = [self.readings(operand) for operand in data]
        pooled = [numbers for numbers, is_pooled in before if is_pooled]
        if equation.name in LINEAR and not self._moves_positions(equation, value):
            return frozenset([value]), False
        if equation.name in (*moves.MOVES, "reshape", "dot_general"):
            pooling = equation.name in (*moves.POOLING, "dot_general")
            return frozenset().union(*(numbers for numbers, _ in before)), pooling or bool(pooled)
        labelled = all(self.walk.fields.get(operand) for operand in data)
        if labelled and len(pooled) == len(data) and len(set(pooled)) == 1 and pooled[0]:
            return pooled[0], True
        return frozenset([value]), False

    def _moves_positions(self, equation: Equation, value: int) -> bool:
        """Whether entries are gathered, or weighted by a constant, and so resized."""
        if self.made_by[value] in self.walk.layers or equation.name == "conv_general_dilated":
            return False
        others = [v for v in equation.inputs if not self.walk.is_data(v)]
        return equation.name == "gather" or bool(others) and others[0] not in self.walk.parametric

    def maker(self, value: int) -> str | None:
        """What made a value of data and variables: nothing, a layer (""), or an unread kernel."""
        found, ahead, seen = [], [value], set()
        parametric = self.walk.parametric - self.model.from_inputs
        while ahead:
            value = ahead.pop()
            equation = self._equation(value)
            if equation is None or value in seen:
                continue
            seen.add(value)
            kernels = [v for v in equation.inputs if v in parametric]
            if self.made_by[value] in self.walk.layers:
                found.append("")
            elif equation.name in LINEAR and kernels:
                found.append(self._leaf(kernels[0]))
            else:
                ahead.extend(self._data(equation))
        return max(found, default=None)

    def _leaf(self, value: int) -> str:
        """The largest leaf of which a value is made."""
        before = {value}
        for equation in reversed(self.model.equations):
            if before.intersection(equation.outputs):
                before.update(equation.inputs)
        leaves = [leaf for leaf, number in self.model.leaves.items() if number in before]
        return max(leaves, key=lambda leaf: math.prod(self.model.shape(self.model.leaves[leaf])))

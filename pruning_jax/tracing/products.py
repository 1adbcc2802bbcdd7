"""Multiply-accumulates of products: one multiplication and one addition are one, not two."""

import math
from collections.abc import Sequence
from typing import Any

PRODUCTS = frozenset(["dot_general", "conv_general_dilated"])

Shape = Sequence[int]


def macs(name: str, params: Any, operands: Sequence[Shape], result: Shape) -> int:
    """Multiply-accumulates of one product: entries of the result x entries that each sums.

    A transposed convolution is counted from its inputs: each is multiplied with the whole kernel.
    Its zeros between the inputs are no work.

    Args:
      name: of the primitive; one that is no product has none.
      params: its parameters.
      operands, result: their shapes.
    """
    if name not in PRODUCTS or 0 in result:
        return 0
    if name == "dot_general":
        contracted = params["dimension_numbers"][0][0]
        return math.prod(result) * math.prod(operands[0][axis] for axis in contracted)
    numbers, kernel = params["dimension_numbers"], operands[1]
    if max(params["lhs_dilation"], default=1) > 1:
        groups = params["feature_group_count"]
        return math.prod(operands[0]) * math.prod(kernel) // kernel[numbers.rhs_spec[1]] // groups
    return math.prod(result) * math.prod(kernel) // kernel[numbers.rhs_spec[0]]


def inside(name: str, params: Any) -> int | None:
    """Multiply-accumulates in the body of a loop, branch or call; ``None`` where nobody knows.

    A scan has its body's times its length, a branch those of the largest one; how often a while
    loop runs is not known.
    """
    totals = []
    for parameter in params.values():
        bodies = parameter if isinstance(parameter, tuple | list) else [parameter]
        for body in bodies:
            body = getattr(body, "jaxpr", body)
            if hasattr(body, "eqns"):
                totals.append(_of_body(body))
    if None in totals:
        return None
    largest = max(totals, default=0)
    if name == "while":
        return None if largest else 0
    return largest * (params["length"] if name == "scan" else 1)


def _of_body(body: Any) -> int | None:
    total = 0
    for equation in body.eqns:
        shapes = [variable.aval.shape for variable in equation.invars]
        result = equation.outvars[0].aval.shape if equation.outvars else ()
        work = macs(equation.primitive.name, equation.params, shapes, result)
        more = inside(equation.primitive.name, equation.params)
        if more is None:
            return None
        total += work + more
    return total

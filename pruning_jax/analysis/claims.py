"""A paper's claim, the numbers that decide it, and the verdict."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from numpy.typing import ArrayLike

from pruning_jax.analysis import statistics
from pruning_jax.analysis.statistics import Alternative, Interval

VERDICTS = ("holds", "fails", "inconclusive", "not tested")

LEVEL = 0.05
"""The adjusted p-value below which a claim, or its opposite, is taken to be shown."""


class Claim(NamedTuple):
    """One row of the claims table.

    Attributes:
      id: the claim's code, for example ``"L1"``.
      statement: what is claimed, in a sentence.
      source: the paper and the place in it.
      workload: network and data, for example ``"A: MLP-300-100, MNIST"``.
      published: the paper's figures, as text.
      n: replicates, that is seeds; 0 where nothing was run.
      estimate: our figure, or None.
      ci: its 95 % confidence interval (low, high), or None.
      p_value: of the claim, adjusted for its family, or None.
      verdict: one of `VERDICTS`.
      note: what a reader needs in order not to misread the row.
    """

    id: str
    statement: str
    source: str
    workload: str
    published: str
    n: int
    estimate: float | None
    ci: tuple[float, float] | None
    p_value: float | None
    verdict: str
    note: str = ""


class PairedTest(NamedTuple):
    """One pair of an order: its mean difference, and p-values adjusted over the pairs.

    Attributes:
      label: the pair, for example ``"QM < MP"``.
      interval: the mean difference and its 95 % interval.
      p_value: one-sided, for the side claimed.
      p_opposite: one-sided, for the other side.
    """

    label: str
    interval: Interval
    p_value: float
    p_opposite: float


class Order(NamedTuple):
    """Several paired differences that a claim says lie on one side of zero.

    Attributes:
      tests: one for each pair, in the order given.
      deciding: the pair that the verdict rests on: the clearest contradiction where the claim
        fails, otherwise the pair with the weakest evidence.
      verdict: ``holds``, ``fails`` or ``inconclusive``.
      n: replicates.
    """

    tests: tuple[PairedTest, ...]
    deciding: PairedTest
    verdict: str
    n: int


def paired_order(
    pairs: Mapping[str, ArrayLike], *, alternative: Alternative = "less", level: float = LEVEL
) -> Order:
    """Decides an order claimed among methods, from differences paired by seed.

    Each pair has an exact one-sided sign-flip test; Holm's adjustment runs over the pairs. The
    claim holds when every adjusted p < level, and fails when a pair's mean lies on the other side
    of zero with an adjusted opposite p < level. Anything else is inconclusive.

    Args:
      pairs: a label -> one difference a seed, shape (n,), the same n in every pair.
      alternative: the side of zero that the claim names.
      level: of the test.

    Returns:
      Every pair's test, the deciding pair and the verdict. With m pairs the smallest adjusted p is
      m / 2^n: two pairs need n >= 6, twelve n >= 8.

    Raises:
      ValueError: no pair, pairs of different n, or a sample that `statistics` refuses.
    """
    if not pairs:
        raise ValueError("pairs is empty; an order needs at least one pair of methods")
    opposite: Alternative = "greater" if alternative == "less" else "less"
    p_values = statistics.holm([statistics.sign_flip_test(d, alternative) for d in pairs.values()])
    p_opposite = statistics.holm([statistics.sign_flip_test(d, opposite) for d in pairs.values()])
    lengths = {label: len(differences) for label, differences in pairs.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"pairs have different numbers of seeds: {lengths}; run the missing seeds")
    tests = tuple(
        PairedTest(label, statistics.mean_interval(differences), float(p), float(q))
        for (label, differences), p, q in zip(pairs.items(), p_values, p_opposite, strict=True)
    )
    weakest = max(tests, key=lambda test: test.p_value)
    contradiction = min(tests, key=lambda test: test.p_opposite)
    if contradiction.p_opposite < level:
        deciding, verdict = contradiction, "fails"
    else:
        deciding, verdict = weakest, "holds" if weakest.p_value < level else "inconclusive"
    return Order(tests, deciding, verdict, next(iter(lengths.values())))


def check(claim: Claim) -> Claim:
    """Returns `claim`, or says what is wrong with it.

    Raises:
      ValueError: an empty text, an unknown verdict, a number that is not finite, an interval whose
        ends are exchanged, a p-value outside [0, 1], or a verdict that the numbers cannot carry.
    """
    where = f"claim {claim.id!r}"
    for field in ("id", "statement", "source", "workload"):
        if not getattr(claim, field):
            raise ValueError(f"{where}: {field} is empty; a row without it cannot be read")
    if claim.verdict not in VERDICTS:
        raise ValueError(
            f"{where}: verdict is {claim.verdict!r}; choose from {', '.join(VERDICTS)}"
        )
    if claim.n < 0:
        raise ValueError(f"{where}: n is {claim.n}; it counts seeds, so it is at least 0")
    if claim.ci is not None and len(claim.ci) != 2:
        raise ValueError(f"{where}: ci is {claim.ci}; it must be (low, high)")
    numbers = [claim.estimate, claim.p_value, *(claim.ci or ())]
    if not all(math.isfinite(number) for number in numbers if number is not None):
        raise ValueError(f"{where}: a number is not finite; put None where there is none")
    if claim.ci is not None and claim.ci[0] > claim.ci[1]:
        raise ValueError(f"{where}: ci is {claim.ci}; low must not exceed high")
    if claim.p_value is not None and not 0 <= claim.p_value <= 1:
        raise ValueError(f"{where}: p_value is {claim.p_value}; a p-value lies in [0, 1]")
    if claim.verdict in ("holds", "fails") and (claim.n < 2 or claim.estimate is None):
        raise ValueError(
            f"{where}: {claim.verdict!r} needs an estimate from at least 2 seeds; "
            "say 'inconclusive' or 'not tested'"
        )
    return claim


def to_dict(claim: Claim) -> dict[str, object]:
    """The claim as ``claims.json`` holds it: plain JSON values.

    Raises:
      ValueError: as `check` does.
    """
    fields = check(claim)._asdict()
    return fields | {"ci": None if claim.ci is None else list(claim.ci)}


def from_dict(fields: Mapping[str, object]) -> Claim:
    """The claim that `to_dict` wrote.

    Raises:
      ValueError: a field that is missing or unknown, or as `check` does.
    """
    missing = sorted(set(Claim._fields) - set(Claim._field_defaults) - set(fields))
    unknown = sorted(set(fields) - set(Claim._fields))
    if missing or unknown:
        raise ValueError(
            f"claim {fields.get('id')!r}: fields missing: {missing}, unknown: {unknown}; "
            f"a claim has {', '.join(Claim._fields)}"
        )
    ci = fields["ci"]
    return check(Claim(**{**fields, "ci": None if ci is None else tuple(ci)}))

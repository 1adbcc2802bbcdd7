"""A paper's claim, the gates it must pass, the numbers that decide it, and the verdict.

A claim is a conjunction of parts, each decided by one of five rules. It agrees with the paper where
the largest p of its parts is small (intersection-union, so nothing is adjusted); it contradicts it
where the opposite of any part is shown, with Holm's adjustment over the parts.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pruning_jax.analysis import statistics
from pruning_jax.analysis.statistics import Interval

VERDICTS = ("agrees", "contradicts", "undecided")

FIDELITIES = ("matched", "proxy", "unfit")
"""How near the run is to the paper's: its own network, data and schedule; a stand-in; a workload on
which the question cannot be put, as a gate says."""

LEVEL = 0.05
"""The p-value below which a claim, or its opposite, is taken to be shown."""

LEAST_SHARE, LEAST_LEAD, MOST_GAIN, MOST_OVERFITTING = 0.5, 2.0, 1.0, 10.0
"""Of the gates: the share of the dense accuracy above chance; pp over random pruning; pp by
training for twice as long; pp of training over held-out accuracy."""


class Part(NamedTuple):
    """One of the statements that a claim is made of.

    Attributes:
      label: the statement, for example ``"QM - MP < 0"``.
      values: one a seed, in the paper's quantity.
      bound: what they are compared with.
      sign: 1 where the claim says that they lie above it, -1 below, 0 that they are 0 within it.
      p_value: one-sided, of the statement.
      p_opposite: of its opposite.
    """

    label: str
    values: tuple[float, ...]
    bound: float
    sign: int
    p_value: float
    p_opposite: float

    @property
    def interval(self) -> Interval:
        """The mean of the seeds and its 95 % interval."""
        return statistics.mean_interval(self.values)


def above(label: str, values: ArrayLike, bound: float = 0.0) -> Part:
    """The values lie above a bound, by an exact sign-flip test: rules ordered and ratio."""
    values = np.asarray(values, float)
    tests = (statistics.sign_flip_test(values - bound, side) for side in ("greater", "less"))
    return Part(label, tuple(values.tolist()), bound, 1, *tests)


def below(label: str, values: ArrayLike, bound: float = 0.0) -> Part:
    """The values lie below a bound, by an exact sign-flip test: rules ordered and ratio."""
    values = np.asarray(values, float)
    tests = (statistics.sign_flip_test(values - bound, side) for side in ("less", "greater"))
    return Part(label, tuple(values.tolist()), bound, -1, *tests)


def no_worse(label: str, values: ArrayLike, margin: float) -> Part:
    """The mean lies above ``-margin``, by Student's t: the lower bound of non-inferiority."""
    values = np.asarray(values, float)
    shown, opposite = (statistics.one_sided_test(sign * (values + margin)) for sign in (1, -1))
    return Part(label, tuple(values.tolist()), -margin, 1, shown, opposite)


def equal(label: str, values: ArrayLike, margin: float) -> Part:
    """The mean lies within ``margin`` of 0, by two one-sided t tests (TOST)."""
    values = np.asarray(values, float)
    shown = statistics.equivalence_test(values, margin)
    beyond = min(statistics.one_sided_test(sign * values - margin) for sign in (1, -1))
    return Part(label, tuple(values.tolist()), margin, 0, shown, min(1.0, 2 * beyond))


def identity(label: str, values: ArrayLike, tolerance: float) -> Part:
    """Every value lies within a tolerance of 0; no test, as a proof has none."""
    values = np.asarray(values, float)
    holds = bool((np.abs(values) <= tolerance).all())
    return Part(label, tuple(values.tolist()), tolerance, 0, 0.0 if holds else 1.0, float(holds))


class Gate(NamedTuple):
    """What must be so of a workload for its rows to say anything, as a number.

    Attributes:
      name: such as ``"alive"``.
      value: what was measured; ``None`` where it was not.
      rule: what it must be, in words.
      met: whether it is; ``None`` where it was not measured.
      unfits: whether a workload that does not meet it is unfit; otherwise the claim is undecided.
    """

    name: str
    value: float | None
    rule: str
    met: bool | None
    unfits: bool = True


def alive(best: float, dense: float, chance: float) -> Gate:
    """The best method keeps enough of the dense accuracy above chance; all in %."""
    share = (best - chance) / (dense - chance) if dense > chance else 0.0
    rule = f"the best keeps at least {LEAST_SHARE:g} of the dense accuracy above chance"
    return Gate("alive", share, rule, share >= LEAST_SHARE)


def sensitive(best: float, random: float) -> Gate:
    """The best method beats random pruning; both accuracies in %."""
    rule = f"the best beats random pruning by {LEAST_LEAD:g} pp"
    return Gate("sensitive", best - random, rule, best - random >= LEAST_LEAD)


def converged(gain: float | None) -> Gate:
    """The dense network gains little by training twice as long; in pp, ``None`` if not measured."""
    rule = f"the dense network trained twice as long gains less than {MOST_GAIN:g} pp"
    return Gate("converged", gain, rule, None if gain is None else gain < MOST_GAIN)


def not_overfitted(train: float, held_out: float) -> Gate:
    """Training accuracy lies little above held-out accuracy; both in %."""
    rule = f"training less held-out accuracy is below {MOST_OVERFITTING:g} pp"
    return Gate("not overfitted", train - held_out, rule, train - held_out < MOST_OVERFITTING)


def equally_long(one: int, other: int) -> Gate:
    """What is compared was trained for as many epochs."""
    rule = "what is compared was trained for as many epochs (difference)"
    return Gate("equally long", float(other - one), rule, one == other)


def resolution(part: Part) -> Gate:
    """An interval is narrow enough to tell the margin."""
    half = part.interval.high - part.interval.estimate
    rule = f"the interval's half-width is below the margin, {abs(part.bound):g}"
    return Gate("resolution", half, rule, half < abs(part.bound), unfits=False)


def fresh(is_fresh: bool) -> Gate:
    """The question was put before these rows were seen."""
    rule = "the question was put before these rows were seen"
    return Gate("fresh", float(is_fresh), rule, is_fresh, unfits=False)


class Claim(NamedTuple):
    """One row of the claims table.

    Attributes:
      id: the claim's code, for example ``"L1"``.
      statement: what is claimed, in a sentence.
      source: the paper and the place in it.
      workload: network and data, for example ``"A: MLP-300-100, MNIST"``.
      published: the paper's figures, as text.
      here: ours, in the paper's quantity and unit, as text.
      unit: of the parts' values.
      parts: what it is made of; none where nothing was run.
      gates: what the workload must meet.
      fidelity: one of `FIDELITIES`.
      verdict: one of `VERDICTS`.
      note: what a reader needs in order not to misread the row.
    """

    id: str
    statement: str
    source: str
    workload: str
    published: str
    here: str
    unit: str
    parts: tuple[Part, ...]
    gates: tuple[Gate, ...]
    fidelity: str
    verdict: str
    note: str = ""

    @property
    def n(self) -> int:
        """Replicates, that is seeds; 0 where nothing was run."""
        return len(self.parts[0].values) if self.parts else 0

    @property
    def deciding(self) -> Part | None:
        """What the verdict rests on: the clearest contradiction, or the weakest evidence."""
        if not self.parts:
            return None
        if self.verdict == "contradicts":
            return min(self.parts, key=lambda part: part.p_opposite)
        return max(self.parts, key=lambda part: part.p_value)

    @property
    def standing(self) -> str:
        """What is said of it in a word: its verdict, or that it is unfit or absent."""
        return "absent" if not self.parts else "unfit" if self.fidelity == "unfit" else self.verdict


def verdict_of(parts: Sequence[Part], gates: Iterable[Gate] = (), level: float = LEVEL) -> str:
    """The verdict on a conjunction of parts, and on gates that were not met.

    Raises:
      ValueError: no part, or parts of different n.
    """
    if not parts:
        raise ValueError("parts is empty; a claim is made of one at least")
    lengths = {part.label: len(part.values) for part in parts}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"parts have different numbers of seeds: {lengths}; run the missing seeds")
    if any(gate.met is False for gate in gates):
        return "undecided"
    if max(part.p_value for part in parts) < level:
        return "agrees"
    opposites = statistics.holm([part.p_opposite for part in parts])
    return "contradicts" if opposites.min() < level else "undecided"


def check(claim: Claim) -> Claim:
    """Returns `claim`, or says what is wrong with it.

    Raises:
      ValueError: an empty text, an unknown verdict or fidelity, a number that is not finite, a
        p-value outside [0, 1], or a verdict that the parts and gates do not carry.
    """
    where = f"claim {claim.id!r}"
    for field in ("id", "statement", "source", "workload"):
        if not getattr(claim, field):
            raise ValueError(f"{where}: {field} is empty; a row without it cannot be read")
    for field, valid in (("verdict", VERDICTS), ("fidelity", FIDELITIES)):
        if getattr(claim, field) not in valid:
            raise ValueError(
                f"{where}: {field} is {getattr(claim, field)!r}; choose from {', '.join(valid)}"
            )
    for part in claim.parts:
        if not all(map(math.isfinite, (*part.values, part.bound))):
            raise ValueError(f"{where}: a number of {part.label!r} is not finite")
        if not all(0 <= p <= 1 for p in (part.p_value, part.p_opposite)):
            raise ValueError(f"{where}: a p-value of {part.label!r} lies outside [0, 1]")
    allowed = verdict_of(claim.parts, claim.gates) if claim.parts else "undecided"
    if claim.verdict != allowed:
        raise ValueError(f"{where}: its parts and gates say {allowed!r}, not {claim.verdict!r}")
    unfit = any(gate.met is False and gate.unfits for gate in claim.gates)
    if unfit != (claim.fidelity == "unfit"):
        raise ValueError(f"{where}: fidelity is {claim.fidelity!r}, and its gates say otherwise")
    return claim


def to_dict(claim: Claim) -> dict[str, object]:
    """The claim as ``claims.json`` holds it: plain JSON values.

    Raises:
      ValueError: as `check` does.
    """
    parts = [part._asdict() | {"values": list(part.values)} for part in check(claim).parts]
    return claim._asdict() | {"parts": parts, "gates": [gate._asdict() for gate in claim.gates]}


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
    parts = tuple(Part(**{**part, "values": tuple(part["values"])}) for part in fields["parts"])
    gates = tuple(Gate(**gate) for gate in fields["gates"])
    return check(Claim(**{**fields, "parts": parts, "gates": gates}))

"""Sweeps: which configs to run, as pure functions from a config to a list of sets of overrides.

A set of overrides is a dict from a field's dotted name to its value, such as
``{"workload.seeds": (1,)}``; a sweep is a list of them, one a run:

    product(seeds("workload.seeds", (1, 2, 3)), each("workload.stages", (1, 14)))   # six runs
"""

import copy
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from pruning_jax import choices

Overrides = dict[str, Any]
Sweep = list[Overrides]

_DIGITS = 12


class Run(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: the hash of its config.
      overrides: what it changes.
      config: the whole config.
    """

    name: str
    overrides: Overrides
    config: ConfigDict


def each(field: str, values: Iterable[Any]) -> Sweep:
    """One run for each of a field's values."""
    return [{field: value} for value in values]


def seeds(field: str, values: Iterable[Any]) -> Sweep:
    """One run for each value of a field that holds several, such as seeds: each is a tuple of one.

    So ``seeds("workload.seeds", (1, 2))`` is ``[{"workload.seeds": (1,)}, {"workload.seeds":
    (2,)}]``.
    """
    return each(field, [(value,) for value in values])


def product(*sweeps: Sweep) -> Sweep:
    """Every run of the first sweep with every run of the next, and so on; the last varies fastest.

    Raises:
      ValueError: two of the sweeps give one field different values.
    """
    return [functools.reduce(_merge, sets, {}) for sets in itertools.product(*sweeps)]


def zipped(*sweeps: Sweep) -> Sweep:
    """The first runs of all sweeps as one run, the second ones as the next, and so on.

    Raises:
      ValueError: the sweeps differ in length, or two of them give one field different values.
    """
    lengths = [len(sweep) for sweep in sweeps]
    if len(set(lengths)) > 1:
        raise ValueError(f"sweeps of {lengths} runs cannot be zipped; give as many runs in each")
    return [functools.reduce(_merge, sets, {}) for sets in zip(*sweeps, strict=True)]


def chain(*sweeps: Sweep) -> Sweep:
    """The runs of all sweeps, one sweep after the other."""
    return list(itertools.chain.from_iterable(sweeps))


def _merge(first: Overrides, second: Overrides) -> Overrides:
    for field in first.keys() & second.keys():
        if first[field] != second[field]:
            raise ValueError(
                f"a sweep sets {field} twice in one run, to {first[field]!r} and to "
                f"{second[field]!r}; set it once"
            )
    return first | second


def apply(config: ConfigDict, overrides: Overrides) -> ConfigDict:
    """A copy of `config` with some fields changed.

    Raises:
      ValueError: there is no such field, or it holds values of another type.
    """
    changed = copy.deepcopy(config)
    for field, value in overrides.items():
        section, place = changed, "the config"
        *parents, last = field.split(".")
        for parent in parents:
            section, place = _field(section, parent, place), f"{place}.{parent}".split(".", 1)[-1]
        _field(section, last, place)
        try:
            section[last] = value
        except TypeError as error:
            raise ValueError(f"{field} cannot be {value!r}: {error}") from error
    return changed


def _field(section: Any, name: str, place: str) -> Any:
    if not isinstance(section, ConfigDict):
        raise ValueError(f"{place} is a value and has no field {name!r}")
    choices.check(f"field of {place}", name, section)
    return section[name]


def name(config: ConfigDict | Mapping[str, Any]) -> str:
    """The name of a config's run: 12 hexadecimal digits of the SHA-256 of the config as JSON.

    Equal configs have equal names, whatever the order of their fields, and lists count as tuples.

    Raises:
      ValueError: a value that JSON cannot hold.
    """
    values = config.to_dict() if isinstance(config, ConfigDict) else config
    try:
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    except TypeError as error:
        raise ValueError(f"a config's values must be such as JSON holds: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def resolve(config: ConfigDict, sweep: Sweep) -> list[Run]:
    """The runs of a sweep over a config, in its order.

    Raises:
      ValueError: there are none, two have the same config, or `apply` or `name` refuses one.
    """
    runs: dict[str, Run] = {}
    for overrides in sweep:
        changed = apply(config, overrides)
        run = Run(name(changed), dict(overrides), changed)
        if run.name in runs:
            raise ValueError(
                f"two runs of the sweep have the same config, {run.name}: "
                f"{describe(runs[run.name].overrides)} and {describe(overrides)}"
            )
        runs[run.name] = run
    if not runs:
        raise ValueError("the sweep has no runs")
    return list(runs.values())


def describe(overrides: Overrides) -> str:
    """A set of overrides in a line."""
    return " ".join(f"{field}={value!r}" for field, value in overrides.items()) or "no overrides"

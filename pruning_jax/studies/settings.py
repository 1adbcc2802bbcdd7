"""The settings of studies: frozen dataclasses, read from a config and checked as they are built.

    @setting
    class Sizes:
        densities: Shares = ()
        bands: Count = 0

A field's annotation says what it may hold. A section that is empty in a config asks for nothing and
has its defaults; of any other every field must be there.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pruning_jax import choices

Check = Callable[[str, Any], object]
"""A field's name and value -> nothing; raises `ValueError` for one that cannot be."""
Section = TypeVar("Section")


def rule(meaning: str, fits: Callable[[Any], bool]) -> Check:
    """Holds what fits; the meaning says what that is."""

    def check(name: str, value: Any) -> None:
        if not fits(value):
            raise ValueError(f"{name} is {value!r}; it must be {meaning}")

    return check


def one_of(kind: str, valid: Iterable[str]) -> Check:
    """Holds a name of a table."""
    return lambda name, value: choices.check(kind, value, valid)


def several(check: Check, *, least: int = 1) -> Check:
    """Holds some values, each once."""

    def each(name: str, values: Any) -> None:
        if not isinstance(values, tuple):
            raise ValueError(f"{name} is {values!r}; give a tuple")
        if len(values) < least:
            raise ValueError(f"{name} is empty; give at least one")
        for value in values:
            check(name, value)
        if len({*values}) < len(values):
            raise ValueError(f"{name} is {values!r}; give none twice")

    return each


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


COUNT = rule("an integer of 1 or more", lambda of: type(of) is int and of >= 1)
NUMBER = rule("a finite number, not negative", lambda of: _is_real(of) and 0 <= of < math.inf)
SHARE = rule("a share, in (0, 1]", lambda of: _is_real(of) and 0 < of <= 1)
NAME = rule("a name", lambda of: isinstance(of, str))

Count = Annotated[int, COUNT]
Number = Annotated[float, NUMBER]
Counts = Annotated[tuple[int, ...], several(COUNT)]
Shares = Annotated[tuple[float, ...], several(SHARE)]
Numbers = Annotated[tuple[float, ...], several(NUMBER)]
Names = Annotated[tuple[str, ...], several(NAME)]
FewNames = Annotated[tuple[str, ...], several(NAME, least=0)]
FewCounts = Annotated[tuple[int, ...], several(COUNT, least=0)]


@typing.dataclass_transform(frozen_default=True)
def setting(section: type[Section]) -> type[Section]:
    """Makes a frozen dataclass of a class, which checks its fields unless all have their default.

    Raises:
      ValueError: when one is built with a value that its field cannot hold.
    """

    def check(self: Any) -> None:
        fields = dataclasses.fields(self)
        if any(getattr(self, field.name) != field.default for field in fields):
            _check(section, vars(self))

    section.__post_init__ = check
    section.__bool__ = lambda self: any(vars(self).values())  # whether it asks for anything
    return dataclasses.dataclass(frozen=True)(section)


def _check(section: type, values: Mapping[str, Any], prefix: str = "") -> None:
    for name, kind in typing.get_type_hints(section, include_extras=True).items():
        for check in getattr(kind, "__metadata__", ()):
            check(prefix + name, values[name])


def read(
    section: type[Section], values: Any, where: str, *, prefix: str = "", known: Iterable[str] = ()
) -> Section:
    """A section of a config.

    Args:
      section: a `setting`; a field of it may be one too, or a dict of them.
      values: the config's, name -> value.
      where: what the section is called.
      prefix: what the names of its fields begin with in messages.
      known: names that something else reads.

    Raises:
      ValueError: a field that is missing, unknown, which is named with the nearest, or that holds
        what it cannot.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}; give its fields")
    fields = {field.name: field for field in dataclasses.fields(section)}
    for name in values:
        choices.check(f"field of {where}", name, (*known, *fields))
    needed = fields if values else [n for n, f in fields.items() if f.default is f.default_factory]
    for name in needed:
        if name not in values:
            raise ValueError(f"{where} has no field {name!r}; it has {', '.join(fields)}")
    kinds = typing.get_type_hints(section, include_extras=True)
    own = {name: _read(kinds[name], values[name], prefix + name) for name in fields if values}
    if own:
        _check(section, own, prefix)
    return section(**own)


def _read(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return read(kind, value, where, prefix=f"{where}.")
    inner = typing.get_args(kind)
    if inner and dataclasses.is_dataclass(inner[-1]):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}; give its fields")
        return {name: _read(inner[-1], of, f"{where}.{name}") for name, of in value.items()}
    return tuple(value) if isinstance(value, list) else value

"""Checks of what a user chooses: a row of a table by its name, a sparsity."""

import difflib
import hashlib
import importlib
import math
import numbers
import operator
import pathlib
import re
from collections.abc import Callable, Iterable

import numpy as np


def check(kind: str, name: object, valid: Iterable[str]) -> None:
    """Checks that `name` is one of the `valid` names of a `kind` of thing.

    Raises:
      ValueError: it is not; the message gives the nearest valid name and all of them.
    """
    valid = tuple(valid)
    if isinstance(name, str) and name in valid:
        return
    near = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"unknown {kind} {name!r}{hint}; valid: {', '.join(valid)}")


_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_path(name: object) -> bool:
    """Whether a name is an import path, ``"my_package.my_module:build"``."""
    return isinstance(name, str) and _PATH.fullmatch(name) is not None


def imported(kind: str, path: str) -> Callable:
    """The function that an import path names.

    Raises:
      ValueError: the module cannot be imported, or has no such function.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ValueError(
            f"the {kind} {path!r} cannot be imported: {type(error).__name__}: {error}; give "
            "'my_package.my_module:function' of an installed package"
        ) from error
    if not callable(found):
        raise ValueError(f"the {kind} {path!r} is a {type(found).__name__}; give a function")
    return found


def digest(path: str) -> str:
    """A digest of the source file that an import path leads to."""
    file = importlib.import_module(path.partition(":")[0]).__file__
    return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()[:16] if file else "unknown"


def check_sparsity(sparsity: object) -> float:
    """Returns `sparsity` as a Python float.

    Raises:
      ValueError: it is no number in [0, 1], or its value is not known (a tracer).
    """
    try:
        if isinstance(sparsity, (bool, np.bool_, str, bytes)):
            raise TypeError("neither a text nor a boolean is a number")
        value = float(sparsity)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"sparsity must be a number in [0, 1], known outside jit, not {sparsity!r}"
        ) from error
    if not 0.0 <= value <= 1.0:
        nearest = "" if math.isnan(value) else f": the nearest valid value is {float(value > 1.0)}"
        raise ValueError(
            f"sparsity is {value}; it is the share of weights to remove, in [0, 1]{nearest}"
        )
    return value


def whole(name: str, value: object, what: str) -> int:
    """A number of things, 1 or more.

    Raises:
      ValueError: it is no integer, or below 1; the message has its name and what it counts.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError("a boolean is no count")
        number = operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} is {value!r}; it must be an integer, 1 {what} or more") from error
    if number < 1:
        raise ValueError(f"{name} is {number}; it must be 1 {what} or more")
    return number


def number(name: str, value: object, below: float = math.inf) -> None:
    """Checks a finite number from 0 to `below`, which is left out.

    Raises:
      ValueError: it is none, a boolean or a text among them.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
    if not real or not 0 <= value < below:
        rule = "finite and not negative" if below == math.inf else f"from 0 to below {below:g}"
        raise ValueError(f"{name} is {value!r}; it must be a number, {rule}")

"""Strict JSON, records of one line each, and files that are written whole or not at all.

A float that is not finite is written as the string "NaN", "Infinity" or "-Infinity"; a string of
those letters gets an apostrophe before it.
"""

import errno
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

Record = dict[str, Any]

_ADVICE = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "free some space or choose a folder that can be written, and run again",
    ),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP),
        "something else has this name; remove it, or choose a folder of another name",
    ),
}
_TEMPORARY = ".writing"
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode(value: Any) -> Any:
    """`value` in the types that JSON has: arrays become lists, keys strings.

    Raises:
      ValueError: a value of another type.
    """
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return encode(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str):
        return f"'{value}" if value.lstrip("'") in _NON_FINITE else value
    if value is None or isinstance(value, bool | int | float):
        return value
    raise ValueError(
        f"{value!r} is of type {type(value).__name__}, which JSON cannot hold; "
        "give a number, a string, a boolean, None, or lists and dicts of them"
    )


def decode(value: Any) -> Any:
    """Reads the strings of `encode` as floats again."""
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, str) or value.lstrip("'") not in _NON_FINITE:
        return value
    return _NON_FINITE.get(value, value[1:])


def dotted(value: Any, name: str) -> dict[str, str]:
    """Every field of nested records by its dotted name, as it is shown."""
    if not isinstance(value, dict) or not value:
        return {name: repr(value)}
    fields = {}
    for key, item in value.items():
        fields |= dotted(item, f"{name}.{key}")
    return fields


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as strict JSON with a line's end."""
    return json.dumps(encode(value), allow_nan=False, indent=indent) + "\n"


def to_lines(records: Iterable[Mapping]) -> str:
    """One line a record."""
    return "".join(map(to_json, records))


def parse(text: bytes | str) -> Any:
    """What JSON says.

    Raises:
      ValueError: it is not JSON, or nested too deeply to be read.
    """
    try:
        return decode(json.loads(text))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path, default: Any) -> Any:
    """The content of a JSON file, or `default` where there is none.

    Raises:
      ValueError: the file is not JSON.
    """
    try:
        content = parse(path.read_bytes())
        if default is not None and not isinstance(content, type(default)):
            raise ValueError(f"it holds a {type(content).__name__}")
        return content
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise ValueError(f"the file {path} is damaged ({error}); restore or delete it") from error


def read_lines(path: Path) -> list[Record]:
    """The records of a file, none where there is no file.

    A last line without its end is one that is being written, and is left out.

    Raises:
      ValueError: another line is not JSON.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse(line)
            if not isinstance(record, dict):
                raise ValueError("it is no record")
            records.append(record)
        except ValueError as error:
            place = f"line {number} of the file {path}"
            message = f"{place} is damaged ({error}); restore it or delete the line"
            raise ValueError(message) from error
    return records


def append(path: Path, lines: str, *, synced: bool = False) -> None:
    """Appends lines in one write, and waits for the disk where they are to be `synced`.

    Raises:
      OSError: the disk is full, read-only or fails; the file is as it was.
    """
    data = lines.encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if synced:
                    os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unwritten(path, error) from error


def drop_torn_line(path: Path) -> None:
    """Drops a last line that was cut short by a kill."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file so that a reader finds all of it, or what was there before.

    Raises:
      OSError: the disk is full, read-only or fails; `path` is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _discard(temporary)
        raise unwritten(path, error) from error


def leftovers(folder: Path) -> list[Path]:
    """What killed processes left of files they were writing in `folder`."""
    return [entry for entry in folder.glob(f".*{_TEMPORARY}") if entry.is_file()]


def remove_leftovers(folder: Path) -> None:
    """Removes the `leftovers`; only for the one process that writes in `folder`."""
    for entry in leftovers(folder):
        _discard(entry)


def unwritten(path: Path, error: Exception) -> OSError:
    """The error of a write that failed, with the path and what to do."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
    known = (code for code in codes if os.strerror(code) in str(error))
    code = getattr(error, "errno", None) or next(known, errno.EIO)
    reason = os.strerror(code)
    if code == errno.EIO:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
    advice = _ADVICE.get(code, "choose a folder that can be written, and run again")
    return OSError(code, f"not written: {reason}; {advice}", str(path))


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return

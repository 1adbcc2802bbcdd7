"""Arrays in one file, in the format safetensors: no pickle, written whole or not at all.

    8 bytes: the length of the header | the header: JSON | the arrays' bytes, one after another

The header says of every array its type, its shape and its place. Beside them it holds texts: here
what is noted of the arrays, and the SHA-256 of all the rest, which the format does not ask for. The
format is spelled out here so that the core needs no package more; the library `safetensors` reads
the same files.

Source: https://github.com/huggingface/safetensors, "Format".
"""

import difflib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
CODES = {name: code for code, name in _TYPES.items()}
"""The types that arrays may have: NumPy's name -> the format's."""

_NOTE, _CHECKSUM, _METADATA = "pruning_jax", "sha256", "__metadata__"


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], note: dict[str, Any]) -> None:
    """Writes arrays and what is noted of them to a file, whole or not at all.

    Args:
      path: of the file; one that is there is replaced.
      arrays: name -> array, of the types of `CODES`.
      note: what JSON can hold.

    Raises:
      OSError: as `saving.save`.
    """
    header, end = {_METADATA: {_NOTE: json.dumps(note)}}, 0
    # The widest first, so that each lies at a multiple of its width.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    buffers = [np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8) for name in names]
    for name, buffer in zip(names, buffers, strict=True):
        begin, end = end, end + buffer.size
        header[name] = {
            "dtype": CODES[arrays[name].dtype.name],
            "shape": arrays[name].shape,
            "data_offsets": [begin, end],
        }
    header[_METADATA][_CHECKSUM] = _digest(header, buffers)
    encoded = _encoded(header)
    write_whole(path, [len(encoded).to_bytes(8, "little"), encoded, *buffers])


def write_whole(path: str | os.PathLike, parts: Iterable[Any]) -> None:
    """Writes bytes to a file, which appears whole or not at all; raises as `write`."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the path of a file")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """The arrays of a file by their names, and what `write` noted; ``None`` of another program's.

    Raises:
      FileNotFoundError, ValueError: as `saving.load`.
    """
    if not path.exists():
        beside = sorted(each.name for each in path.parent.glob("*") if each.is_file())
        near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.4)
        hint = f"; there is {', '.join(near)}" if near else ""
        raise FileNotFoundError(f"there is no file {path}{hint}")
    with path.open("rb") as file:
        try:
            size = path.stat().st_size - 8
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= size:
                raise ValueError(f"a header of {length} bytes does not fit into it")
            header = json.loads(file.read(length))
            texts, entries = header.pop(_METADATA, {}), _entries(header, size - length)
            buffers = [np.empty(entry.size, np.uint8) for entry in entries]
            for buffer in buffers:
                file.readinto(buffer)
            if _NOTE in texts:
                checksum = texts.pop(_CHECKSUM)
                if checksum != _digest({**header, _METADATA: texts}, buffers):
                    raise ValueError("its bytes are not those that were written")
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged, truncated or no safetensors file: {error}"
            ) from error
    arrays = {
        entry.name: buffer.view(entry.dtype).reshape(entry.shape)
        for entry, buffer in zip(entries, buffers, strict=True)
    }
    return arrays, json.loads(texts[_NOTE]) if _NOTE in texts else None


class _Entry(NamedTuple):
    """An array of a file."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    size: int


def _entries(header: dict[str, Any], size: int) -> list[_Entry]:
    """The arrays of a header, in the order of their bytes, which must fill the size."""
    entries, end = [], 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"{name!r} is of an unknown type {entry['dtype']!r}")
        dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        sizes = all(type(n) is int and n >= 0 for n in shape)
        if not sizes or entry["data_offsets"] != [begin, end]:
            raise ValueError(f"the bytes of {name!r} are not where the array before it ends")
        entries.append(_Entry(name, dtype, shape, end - begin))
    if end != size:
        raise ValueError(f"its arrays take {end} bytes, and {size} are there")
    return entries


def _encoded(header: dict[str, Any]) -> bytes:
    """A header as bytes, the same for the same header, up to a multiple of 8."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _digest(header: dict[str, Any], buffers: list[np.ndarray]) -> str:
    digest = hashlib.sha256(_encoded(header))
    for buffer in buffers:
        digest.update(buffer)
    return digest.hexdigest()

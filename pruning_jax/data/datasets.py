"""Image-classification datasets as they are stored: read and decoded, not yet split by seed."""

import contextlib
import difflib
import functools
import glob
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pruning_jax import choices
from pruning_jax.types import Batch

_DECODED_AT_ONCE = 1_000
_DEFAULT_DIR = "~/tensorflow_datasets"


class Stored(NamedTuple):
    """Images as stored, in NumPy arrays that are shared and must not be written to.

    Attributes:
      train: inputs uint8, shape (examples, height, width, channels); labels int32, (examples,).
      test: the same.
      classes: how many labels there are.
    """

    train: Batch
    test: Batch
    classes: int


def read(name: str, data_dir: str | None = None) -> Stored:
    """Reads a dataset; the second time in a process it comes from memory.

    Args:
      name: a row of `EMBEDDED`, the import path of a function that returns (train, test, classes),
        or a dataset of TensorFlow Datasets that is prepared.
      data_dir: where TensorFlow Datasets are; by default `TFDS_DATA_DIR`, or else their default.

    Raises:
      ValueError: the name is unknown, or the dataset is not prepared, or it does not classify
        images of one size.
    """
    there = data_dir is None or os.path.isdir(os.path.expanduser(data_dir))
    if not there and (name in EMBEDDED or choices.is_path(name)):
        raise ValueError(f"data_dir is {data_dir!r}, and there is no such folder")
    if name in EMBEDDED:
        return EMBEDDED[name]()
    if choices.is_path(name):
        return _own(name)
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or _DEFAULT_DIR
    return _prepared(name, os.path.abspath(os.path.expanduser(chosen)))


@functools.lru_cache(maxsize=16)
def fingerprint(name: str, data_dir: str | None = None) -> str:
    """A digest of a dataset as it is stored."""
    digest = hashlib.sha256()
    for batch in read(name, data_dir)[:2]:
        for array in (batch.inputs, batch.labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=4)
def _own(path: str) -> Stored:
    """A user's own arrays: what the function of an import path returns."""
    found = choices.imported("dataset", path)()
    try:
        train, test, classes = found
        stored = Stored(*(Batch(*map(np.asarray, split)) for split in (train, test)), int(classes))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the dataset {path!r} returns a {type(found).__name__}; it must return (train, test, "
            "classes), each split as (images, labels)"
        ) from error
    for split in stored[:2]:
        if split.inputs.ndim != 4:
            raise ValueError(
                f"the dataset {path!r} has images of shape {split.inputs.shape}; they must be "
                "(examples, height, width, channels)"
            )
    return stored


@functools.lru_cache(maxsize=1)
def _digits() -> Stored:
    *pixels, labels = _digits_table().T
    images = np.stack(pixels, axis=1).reshape(-1, 8, 8, 1).astype(np.uint8)
    labels = labels.astype(np.int32)
    test = np.arange(len(labels)) % 5 == 0
    return Stored(Batch(images[~test], labels[~test]), Batch(images[test], labels[test]), 10)


def _digits_table() -> np.ndarray:
    """64 pixels and a label a row: scikit-learn's own file, without the seconds of its import."""
    folder = importlib.util.find_spec("sklearn").submodule_search_locations[0]
    file = os.path.join(folder, "datasets", "data", "digits.csv.gz")
    if os.path.exists(file):
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.column_stack([images, labels])


@functools.lru_cache(maxsize=1)
def _enlarged_digits() -> Stored:
    """Digits for networks of large colour images: 8x8 pixels a pixel, three equal channels."""

    def enlarged(batch: Batch) -> Batch:
        tiles = batch.inputs.repeat(8, axis=1).repeat(8, axis=2)
        return Batch(tiles.repeat(3, axis=3), batch.labels)

    stored = _digits()
    return Stored(enlarged(stored.train), enlarged(stored.test), stored.classes)


EMBEDDED: dict[str, Callable[[], Stored]] = {
    "digits": _digits,
    "digits_64x64x3": _enlarged_digits,
}
"""The datasets that need no file and no network."""


@functools.lru_cache(maxsize=4)
def _prepared(name: str, data_dir: str) -> Stored:
    with _named(name, data_dir):
        builder = _builder(name, data_dir)
        classes = _classes(name, builder.info.features)
    if not builder.is_prepared():
        raise ValueError(
            f"dataset {name!r} is not prepared in {data_dir}; give the data_dir where it is, or "
            f"prepare it, with a network and the extra [prepare]: {_command(name, data_dir)}"
        )
    splits = builder.info.splits
    test = "test" if "test" in splits else "validation"
    if "train" not in splits or test not in splits:
        raise ValueError(
            f"dataset {name!r} has the splits {', '.join(sorted(splits))}; it needs 'train', and "
            f"'test' or 'validation'"
        )
    with _named(name, data_dir):
        return Stored(_decoded(name, builder, "train"), _decoded(name, builder, test), classes)


class _Refused(ValueError):
    """What is wrong has been said."""


@contextlib.contextmanager
def _named(name: str, data_dir: str) -> Iterator[None]:
    """Says of which dataset a file is missing, cut short or garbled, whatever reads it."""
    try:
        yield
    except _Refused:
        raise
    except Exception as error:
        words = str(error).strip().splitlines()
        raise ValueError(
            f"the dataset {name!r} in {data_dir} cannot be read: {type(error).__name__}: "
            f"{words[0] if words else 'no more is known'}; prepare it again: "
            f"{_command(name, data_dir)}"
        ) from error


def _builder(name: str, data_dir: str) -> Any:
    """The builder of a dataset, with no attempt to reach a network."""
    import tensorflow_datasets as tfds

    known = [*EMBEDDED, *tfds.list_builders(with_community_datasets=False)]
    base = re.split("[:/]", name)[0]
    if base not in known and not os.path.isdir(os.path.join(data_dir, base)):
        where = "" if os.path.isdir(data_dir) else f"; there is no folder {data_dir} with one"
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise _Refused(
            f"unknown dataset {name!r} (did you mean {nearest!r}?); valid: "
            f"{', '.join(EMBEDDED)}, and the names of TensorFlow Datasets{where}"
        )
    _check_features(name, os.path.join(data_dir, base))
    try:
        return tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError) as error:
        raise _Refused(
            f"dataset {name!r} has no such version or configuration: {str(error).splitlines()[0]}"
        ) from error


def _check_features(name: str, folder: str) -> None:
    """Refuses a dataset whose info would import anything but TensorFlow Datasets' own features."""
    for path in glob.glob(os.path.join(folder, "**", "features.json"), recursive=True):
        with open(path, encoding="utf-8") as stream:
            left = [json.load(stream)]
        while left:
            value = left.pop()
            if not isinstance(value, dict | list):
                continue
            left += value.values() if isinstance(value, dict) else value
            asked = value.get("pythonClassName", "") if isinstance(value, dict) else ""
            if asked and not str(asked).startswith("tensorflow_datasets."):
                raise _Refused(
                    f"{path} of the dataset {name!r} names the class {asked!r}; only those of "
                    "tensorflow_datasets are read"
                )


def _classes(name: str, features: Any) -> int:
    """How many classes the labels of a dataset have, if it classifies images of one size."""
    import tensorflow_datasets as tfds

    image, label = (dict(features).get(key) for key in ("image", "label"))
    if not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
        raise _Refused(
            f"dataset {name!r} has the features {', '.join(sorted(features))}; to classify images "
            f"it needs an 'image' and a class 'label', as 'mnist' and 'cifar10' have"
        )
    if None in image.shape or image.np_dtype != np.uint8:
        raise _Refused(
            f"the images of dataset {name!r} have shape {image.shape} and type "
            f"{np.dtype(image.np_dtype)}; they must all have one shape, and be uint8"
        )
    return label.num_classes


def _check_image(name: str, split: str, number: int, image: np.ndarray, shape: tuple) -> None:
    """Refuses an image that would be spread or cut to fit."""
    if image.shape != shape or image.dtype != np.uint8:
        raise _Refused(
            f"image {number} of the split {split!r} of dataset {name!r} has shape {image.shape} "
            f"and type {image.dtype}; its info says {shape} and uint8"
        )


def _command(name: str, data_dir: str) -> str:
    return (
        f'python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}, '
        f"data_dir={data_dir!r}, file_format='array_record').download_and_prepare()\""
    )


def _decoded(name: str, builder: Any, split: str) -> Batch:
    try:
        source = builder.as_data_source(split)
    except NotImplementedError as error:
        raise _Refused(
            f"dataset {name!r} is prepared as {builder.info.file_format.value}, which only "
            f"TensorFlow reads; prepare it as array_record, in another data_dir: "
            f"{_command(name, 'DIRECTORY')}"
        ) from error
    shape, count = builder.info.features["image"].shape, builder.info.splits[split].num_examples
    if len(source) != count:
        raise _Refused(
            f"the split {split!r} of dataset {name!r} holds {len(source)} records, and its info "
            f"says {count}; prepare it again"
        )
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int32)
    for start in range(0, len(source), _DECODED_AT_ONCE):
        stop = min(start + _DECODED_AT_ONCE, len(source))
        records = source.__getitems__(range(start, stop))
        for number, record in enumerate(records, start):
            _check_image(name, split, number, record["image"], shape)
        images[start:stop] = [record["image"] for record in records]
        labels[start:stop] = [record["label"] for record in records]
    return Batch(images, labels)

"""Image-classification datasets as device arrays, their order, and their augmentation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruning_jax.data import datasets
from pruning_jax.types import Array, Batch


class Dataset(NamedTuple):
    """A dataset, split and standardised.

    Attributes:
      train: the training examples; inputs float32 (examples, height, width, channels) with mean 0
        and variance 1 in each channel, labels int32 (examples,).
      validation: examples held out of the training examples, on the training scale.
      test: the test examples, on the training scale.
      classes: how many labels there are.
      name: the dataset's name.
    """

    train: Batch
    validation: Batch
    test: Batch
    classes: int
    name: str


def on_host(dataset: Dataset) -> Dataset:
    """The same dataset in the host's memory, as NumPy arrays."""
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    return dataset._replace(**jax.tree.map(np.asarray, splits))


def load(
    name: str,
    *,
    seed: int,
    validation: int | float = 0.1,
    subset: int | None = None,
    data_dir: str | None = None,
) -> Dataset:
    """Loads a dataset, and draws its splits by `seed`.

    One permutation of the stored training examples gives both splits: the first `validation` of it
    are held out, and the next `subset` (or all others) train. The draw is uniform, not balanced by
    class, and a smaller subset of one seed is part of a larger one. Every split is standardised
    with the mean and the standard deviation of each channel over the training examples drawn.

    Args:
      name: `digits` (scikit-learn's 1,797 images of 8x8; its test split is every fifth image,
        the first included), `digits_64x64x3` (the same, enlarged, in colour), the import path
        ``"my_package.my_module:function"`` of one that returns (train, test, classes), or any
        image-classification dataset of TensorFlow Datasets that is prepared (its test split is
        `test`, or `validation` where there is none).
      seed: draws the validation split and the subset, 0 or more.
      validation: how many training examples are held out: a count (int) or a fraction (float).
      subset: how many training examples to keep; all by default.
      data_dir: where TensorFlow Datasets are; by default `TFDS_DATA_DIR`, or else their default.

    Returns:
      The dataset, on the default device. The decoded images stay in memory, so that another seed
      does not decode them again.

    Raises:
      ValueError: the name is unknown, or the dataset is not prepared, or it does not classify
        images of one size, or a split is larger than what is there.
    """
    stored = datasets.read(name, data_dir)
    for split in (stored.train, stored.test):
        check_batch(split, stored.classes)
    train, held_out = _split(len(stored.train.labels), seed, validation, subset)
    moments = _moments(stored.train.inputs[train])
    return Dataset(
        train=_standardised(_taken(stored.train, train), *moments),
        validation=_standardised(_taken(stored.train, held_out), *moments),
        test=_standardised(stored.test, *moments),
        classes=stored.classes,
        name=name,
    )


def fingerprint(name: str, data_dir: str | None = None) -> str:
    """A digest of a dataset's images and labels, as they are stored.

    Raises:
      ValueError: as `load`.
    """
    return datasets.fingerprint(name, data_dir)


def check_batch(batch: Batch, classes: int) -> None:
    """Checks that a batch can be classified: as many labels as inputs, in range, inputs finite.

    Raises:
      ValueError: it cannot; the message names the first example at fault.
    """
    inputs, labels = np.asarray(batch.inputs), np.asarray(batch.labels)
    if labels.shape != inputs.shape[:1]:
        raise ValueError(
            f"labels have shape {labels.shape}; inputs of shape {inputs.shape} need one each, "
            f"shape {inputs.shape[:1]}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}; they must be integers, 0 to {classes - 1}")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"the label of example {at} is {labels[at]}; {classes} classes have labels "
            f"0 to {classes - 1}"
        )
    if jnp.issubdtype(inputs.dtype, jnp.inexact) and not np.isfinite(inputs).all():
        examples = np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1)
        at = int(np.argmin(examples))
        raise ValueError(f"the input of example {at} is not finite; remove it or repair it")


def augment(key: Array, inputs: Array, *, pad: int = 4) -> Array:
    """Shifts and mirrors every image at random.

    Each image is padded by `pad` zeros (the training mean, once standardised) on every side,
    cropped to its own size at a place drawn uniformly, and mirrored left to right with probability
    one half (He et al. 2016, section 4.2).

    Args:
      key: the only source of randomness.
      inputs: images, shape (examples, height, width, channels).
      pad: zeros on each side, 0 or more.

    Returns:
      Images, shape and dtype of `inputs`.
    """
    examples, height, width, _ = inputs.shape
    crop_key, flip_key = jax.random.split(key)
    top, left = jax.random.randint(crop_key, (2, examples, 1), 0, 2 * pad + 1)
    flip = jax.random.bernoulli(flip_key, shape=(examples, 1))
    rows = top + jnp.arange(height)
    columns = left + jnp.where(flip, jnp.arange(width)[::-1], jnp.arange(width))
    padded = jnp.pad(inputs, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    which = jnp.arange(examples)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]]


def batch_order(key: Array, examples: int, batch_size: int) -> Array:
    """Draws the order of one epoch: a permutation of the examples, cut into equal batches.

    Where `batch_size` does not divide `examples`, the last `examples % batch_size` of the
    permutation sit this epoch out; which examples those are is drawn anew by every key.

    Args:
      key: the only source of randomness.
      examples: how many examples there are.
      batch_size: examples in a batch, 1 to `examples`.

    Returns:
      Indices, int32, shape (examples // batch_size, batch_size), no two the same.

    Raises:
      ValueError: the batch size is out of range.
    """
    if not 1 <= batch_size <= examples:
        raise ValueError(f"batch_size is {batch_size}; it must be 1 to {examples}, the examples")
    steps = examples // batch_size
    order = jax.random.permutation(key, examples)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(jnp.int32)


def batches(batch: Batch, size: int) -> list[Batch]:
    """Cuts a batch into consecutive ones of `size` examples; the last holds what remains.

    Raises:
      ValueError: the size is below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}; a batch needs 1 example or more")
    starts = range(0, len(batch.labels), size)
    return [jax.tree.map(lambda leaf, s=s: leaf[s : s + size], batch) for s in starts]


def sample(key: Array, batch: Batch, n: int) -> Batch:
    """Draws `n` different examples of a batch, uniformly.

    Raises:
      ValueError: the batch has fewer than `n` examples, or `n` is below 1.
    """
    examples = len(batch.labels)
    if not 1 <= n <= examples:
        raise ValueError(f"n is {n}; it must be 1 to {examples}, the examples of the batch")
    drawn = jax.random.permutation(key, examples)[:n]
    return jax.tree.map(lambda leaf: leaf[drawn], batch)


def _split(
    examples: int, seed: int, validation: int | float, subset: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the validation examples, each in increasing order."""
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more")
    share = validation if isinstance(validation, float) else validation / examples
    if not 0 <= share < 1:
        raise ValueError(
            f"validation is {validation}; it must be a count from 0 to {examples - 1}, or a "
            f"fraction from 0.0 to below 1.0, of the {examples} training examples"
        )
    count = round(share * examples)
    rest = examples - count
    if subset is not None and not 1 <= subset <= rest:
        raise ValueError(
            f"subset is {subset}; it must be 1 to {rest}, the training examples that validation "
            f"leaves"
        )
    order = np.random.default_rng(seed).permutation(examples)
    return np.sort(order[count:][:subset]), np.sort(order[:count])


def _moments(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel; a constant channel has deviation 1."""
    axes, pieces = (0, 1, 2), np.array_split(inputs, -(-len(inputs) // 1_000))
    pixels = inputs[..., 0].size
    mean = sum(piece.sum(axis=axes, dtype=np.float64) for piece in pieces) / pixels
    variance = sum(np.square(piece - mean).sum(axis=axes) for piece in pieces) / pixels
    return mean, np.where(variance > 0, np.sqrt(variance), 1.0)


def _taken(batch: Batch, indices: np.ndarray) -> Batch:
    return Batch(batch.inputs[indices], batch.labels[indices])


def _standardised(batch: Batch, mean: np.ndarray, deviation: np.ndarray) -> Batch:
    scaled = batch.inputs.astype(np.float32)
    scaled -= mean.astype(np.float32)
    scaled /= deviation.astype(np.float32)
    return Batch(jnp.asarray(scaled), jnp.asarray(batch.labels, jnp.int32))

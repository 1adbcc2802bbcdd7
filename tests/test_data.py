"""Splits, standardisation, order and augmentation, and what `data.load` refuses."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import ROUNDING, assert_close, largest

from pruning_jax import data
from pruning_jax.data import datasets
from pruning_jax.types import Batch


def rows(batch):
    """The examples of a batch as a multiset."""
    return sorted(np.asarray(batch.inputs).reshape(len(batch.labels), -1).tolist())


def numbered(examples, size=6, channels=2):
    """Images that hold a different number at every pixel, none of them zero."""
    shape = (examples, size, size, channels)
    return jnp.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)


@pytest.fixture
def stored(monkeypatch):
    """Stands a small dataset in for the stored one, each image filled with its own number."""
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    labels = (np.arange(100) % 4).astype(np.int32)
    test = Batch(images[:5] + np.uint8(100), labels[:5])
    made = datasets.Stored(Batch(images, labels), test, 4)
    monkeypatch.setattr(datasets, "read", lambda name, data_dir: made)
    return made


def numbers_of(dataset, split):
    """Which stored images a split holds, undoing the standardisation."""
    whole = data.load("numbered", seed=0, validation=0)
    train = np.asarray(getattr(dataset, split).inputs)[:, 0, 0, 0]
    test = np.asarray(dataset.test.inputs)[:2, 0, 0, 0]
    assert whole.test.inputs.shape == dataset.test.inputs.shape
    return np.rint(100 + (train - test[0]) / (test[1] - test[0])).astype(int).tolist()


def assert_standardised(inputs):
    """In double precision, so that what is compared is the rounding of the inputs alone."""
    inputs = np.asarray(inputs, np.float64)
    channels = np.ones(inputs.shape[-1])
    assert_close(inputs.mean((0, 1, 2)), 0 * channels, ROUNDING, scale=largest(inputs))
    assert_close(inputs.std((0, 1, 2)), channels, ROUNDING, scale=largest(inputs))


def test_digits_are_whole_and_standardised():
    dataset = data.load("digits", seed=0, validation=137)
    assert dataset.train.inputs.shape == (1300, 8, 8, 1)
    assert dataset.validation.inputs.shape == (137, 8, 8, 1)
    assert dataset.test.inputs.shape == (360, 8, 8, 1)
    assert dataset.classes == 10 and dataset.name == "digits"
    assert dataset.train.inputs.dtype == jnp.float32 and dataset.train.labels.dtype == jnp.int32
    assert_standardised(dataset.train.inputs)


def test_digits_match_their_labels():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    dataset = data.load("digits", seed=0, validation=0)
    kept = np.arange(len(labels)) % 5 != 0
    mean, deviation = images[kept].mean(), images[kept].std()
    expected = (images[kept] - mean) / deviation
    assert_close(dataset.train.inputs.reshape(-1, 64), expected, ROUNDING)
    np.testing.assert_array_equal(dataset.train.labels, labels[kept])
    np.testing.assert_array_equal(dataset.test.labels, labels[~kept])


def test_splits_are_disjoint_and_cover_everything(stored):
    dataset = data.load("numbered", seed=3, validation=30)
    train, held_out = numbers_of(dataset, "train"), numbers_of(dataset, "validation")
    assert len(train) == 70 and len(held_out) == 30
    assert sorted(train + held_out) == list(range(100))
    np.testing.assert_array_equal(dataset.train.labels, np.array(train) % 4)
    np.testing.assert_array_equal(dataset.validation.labels, np.array(held_out) % 4)


def test_a_fraction_holds_out_as_many(stored):
    assert len(data.load("numbered", seed=0, validation=0.25).validation.labels) == 25


def test_splits_are_a_function_of_the_seed(stored):
    first, again, other = (data.load("numbered", seed=seed, validation=30) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert numbers_of(first, "validation") != numbers_of(other, "validation")


def test_subsets_are_nested_and_never_touch_validation(stored):
    small, large, all_of_it = (
        data.load("numbered", seed=1, validation=30, subset=count) for count in (10, 40, None)
    )
    drawn = [set(numbers_of(each, "train")) for each in (small, large, all_of_it)]
    assert [len(each) for each in drawn] == [10, 40, 70]
    assert drawn[0] < drawn[1] < drawn[2]
    assert not drawn[2] & set(numbers_of(small, "validation"))
    assert_standardised(small.train.inputs)


def test_a_constant_channel_stays_finite(stored):
    stored.train.inputs[..., 1] = 7
    dataset = data.load("numbered", seed=0, validation=10)
    assert bool(jnp.isfinite(dataset.train.inputs).all())
    assert not bool(dataset.train.inputs[..., 1].any())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"validation": 100}, "validation is 100; it must be a count from 0 to 99"),
        ({"validation": -1}, "validation is -1"),
        ({"validation": 1.0}, "fraction from 0.0 to below 1.0"),
        ({"validation": float("nan")}, "validation is nan"),
        ({"validation": 30, "subset": 71}, "subset is 71; it must be 1 to 70"),
        ({"subset": 0}, "subset is 0"),
    ],
)
def test_impossible_splits_are_refused(stored, arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load("numbered", **{"seed": 0, **arguments})


def test_stored_labels_are_checked(stored):
    stored.test.labels[2] = -1
    with pytest.raises(ValueError, match="label of example 2 is -1; 4 classes have labels 0 to 3"):
        data.load("numbered", seed=0)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((3, 2)), np.array([0, 4, 1]), "label of example 1 is 4"),
        (np.zeros((3, 2)), np.array([0, 1]), "labels have shape"),
        (np.zeros((3, 2)), np.array([0.0, 1.0, 2.0]), "they must be integers"),
        (np.array([[0.0], [np.nan], [1.0]]), np.array([0, 1, 2]), "input of example 1"),
        (jnp.array([[0.0], [1.0], [jnp.inf]]), jnp.array([0, 1, 2]), "input of example 2"),
    ],
)
def test_check_batch_names_the_fault(inputs, labels, message):
    with pytest.raises(ValueError, match=message):
        data.check_batch(Batch(inputs, labels), classes=4)


def test_check_batch_accepts_what_is_right():
    data.check_batch(Batch(jnp.ones((3, 2), jnp.bfloat16), jnp.array([0, 1, 2])), classes=3)


def test_the_enlarged_digits_are_the_digits_eight_times_as_large():
    small, large = (datasets.read(name) for name in ("digits", "digits_64x64x3"))
    for few, many in zip(small[:2], large[:2], strict=True):
        assert many.inputs.shape == (len(few.labels), 64, 64, 3) and many.inputs.dtype == np.uint8
        np.testing.assert_array_equal(many.labels, few.labels)
        for row, column, channel in ((0, 0, 0), (7, 7, 1), (3, 4, 2)):
            np.testing.assert_array_equal(
                many.inputs[:, row::8, column::8, channel], few.inputs[..., 0]
            )


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        data.load("digit", seed=0)
    with pytest.raises(ValueError, match="there is no folder /nowhere with one"):
        data.load("my_own_images", seed=0, data_dir="/nowhere")
    with pytest.raises(ValueError, match="did you mean 'cifar10'"):
        data.load("cifar-10", seed=0)


def test_an_unprepared_dataset_gets_its_command(tmp_path):
    folder = tmp_path / "none"
    with pytest.raises(ValueError) as raised:
        data.load("cifar10", seed=0, data_dir=str(folder))
    message = str(raised.value)
    assert f"not prepared in {folder}" in message and "[prepare]" in message
    command = message[message.index("tfds.builder") : message.index(".download_and_prepare()")]
    assert (
        command == f"tfds.builder('cifar10', data_dir={str(folder)!r}, file_format='array_record')"
    )
    assert not folder.exists()


def test_the_environment_says_where_datasets_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="elsewhere"):
        data.load("mnist", seed=0)


@pytest.mark.parametrize("name", ["mnist:9.9.9", "mnist/none", "mnist/", "huggingface:mnist", ""])
def test_a_name_with_no_dataset_behind_it_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="dataset"):
        data.load(name, seed=0, data_dir=str(tmp_path))


def test_a_dataset_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has the features label, text; to classify images"):
        data.load("imdb_reviews", seed=0, data_dir=str(tmp_path))


def test_images_of_many_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must all have one shape"):
        data.load("food101", seed=0, data_dir=str(tmp_path))


def test_mnist_and_cifar10_load(tfds_dir):
    for name, shape, validation, train, subset in (
        ("mnist", (28, 28, 1), 10_000, 50_000, {}),
        ("cifar10", (32, 32, 3), 1_000, 5_000, {"subset": 5_000}),
    ):
        dataset = data.load(name, seed=0, validation=validation, data_dir=tfds_dir, **subset)
        assert dataset.train.inputs.shape == (train, *shape)
        assert dataset.validation.inputs.shape == (validation, *shape)
        assert dataset.test.inputs.shape == (10_000, *shape)
        counts = np.bincount(np.concatenate([b.labels for b in dataset[:3]]))
        assert dataset.classes == 10 and counts.sum() == train + validation + 10_000
        assert_standardised(dataset.train.inputs)


@pytest.mark.parametrize("wrong", ["cut", "empty", "garbled", "absent", "info", "class"])
def test_a_dataset_whose_files_are_damaged_is_named(tfds_dir, tmp_path, wrong):
    (version,) = (p for p in pathlib.Path(tfds_dir, "mnist").iterdir() if p.is_dir())
    folder = tmp_path / wrong / "mnist" / version.name
    folder.mkdir(parents=True)
    for file in version.iterdir():
        (folder / file.name).symlink_to(file)
    shard = next(folder.glob("*train*"))
    content, name = shard.read_bytes(), shard
    if wrong == "info":
        name, content = folder / "dataset_info.json", b"{"
    elif wrong == "class":
        name = folder / "features.json"
        content = name.read_bytes().replace(b"tensorflow_datasets.core", b"my_own.evil", 1)
    else:
        half = len(content) // 2
        content = {"cut": content[:half], "empty": b"", "garbled": b"?" * half}.get(wrong)
    name.unlink()
    if content is not None:
        name.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        data.load("mnist", seed=0, data_dir=str(tmp_path / wrong))
    assert "'mnist'" in str(caught.value) and str(tmp_path / wrong) in str(caught.value)
    assert wrong != "class" or "my_own.evil" in str(caught.value)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    table = np.column_stack(load_digits(return_X_y=True))
    np.testing.assert_array_equal(data.datasets._digits_table(), table)


def test_a_fingerprint_is_of_the_stored_data():
    assert data.fingerprint("digits") == data.fingerprint("digits", None)
    assert data.fingerprint("digits") != data.fingerprint("digits_64x64x3")
    with pytest.raises(ValueError, match="no such folder"):
        data.load("digits", seed=0, data_dir="/nowhere")


def test_augment_is_a_function_of_its_key():
    inputs = numbered(16)
    first = data.augment(jax.random.key(0), inputs)
    np.testing.assert_array_equal(first, data.augment(jax.random.key(0), inputs))
    np.testing.assert_array_equal(first, jax.jit(data.augment)(jax.random.key(0), inputs))
    assert not np.array_equal(first, data.augment(jax.random.key(1), inputs))
    assert first.shape == inputs.shape and first.dtype == inputs.dtype


def test_augment_is_a_shifted_window_of_the_padded_image():
    inputs, pad, size = np.asarray(numbered(64)), 2, 6
    outputs = np.asarray(data.augment(jax.random.key(0), jnp.asarray(inputs), pad=pad))
    padded = np.pad(inputs, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    found = set()
    for image, output in zip(padded, outputs, strict=True):
        matches = [
            (top, left, flip)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for flip in (1, -1)
            if np.array_equal(image[top : top + size, left : left + size][:, ::flip], output)
        ]
        assert len(matches) == 1
        found.add(matches[0])
    assert {flip for _, _, flip in found} == {1, -1}
    assert {top for top, _, _ in found} == {left for _, left, _ in found} == set(range(5))


def test_augment_without_padding_only_mirrors():
    inputs = numbered(32)
    outputs = data.augment(jax.random.key(0), inputs, pad=0)
    same = (outputs == inputs).all(axis=(1, 2, 3))
    mirrored = (outputs == inputs[:, :, ::-1]).all(axis=(1, 2, 3))
    assert bool((same ^ mirrored).all()) and 0 < int(same.sum()) < 32


@pytest.mark.parametrize(("examples", "size"), [(12, 4), (13, 4), (5, 5), (7, 1)])
def test_batch_order_is_a_cut_permutation(examples, size):
    order = data.batch_order(jax.random.key(0), examples, size)
    assert order.shape == (examples // size, size) and order.dtype == jnp.int32
    drawn = np.asarray(order).ravel()
    assert len(set(drawn)) == len(drawn) and drawn.min() >= 0 and drawn.max() < examples


def test_batch_order_changes_with_the_key_and_leaves_out_others():
    orders = [data.batch_order(jax.random.key(k), 10, 4) for k in range(20)]
    assert len({tuple(np.asarray(order).ravel()) for order in orders}) == 20
    assert set(np.concatenate(orders).ravel().tolist()) == set(range(10))


@pytest.mark.parametrize("size", [0, 11])
def test_batch_order_refuses_impossible_sizes(size):
    with pytest.raises(ValueError, match=f"batch_size is {size}; it must be 1 to 10"):
        data.batch_order(jax.random.key(0), 10, size)


def test_batches_cover_all_in_order():
    batch = Batch(numbered(10), jnp.arange(10))
    cut = data.batches(batch, 4)
    assert [len(piece.labels) for piece in cut] == [4, 4, 2]
    np.testing.assert_array_equal(jnp.concatenate([piece.inputs for piece in cut]), batch.inputs)
    np.testing.assert_array_equal(jnp.concatenate([piece.labels for piece in cut]), batch.labels)
    with pytest.raises(ValueError, match="size is 0"):
        data.batches(batch, 0)


def test_sample_draws_different_examples_with_their_labels():
    batch = Batch(numbered(10), jnp.arange(10))
    drawn = data.sample(jax.random.key(0), batch, 7)
    assert len(set(np.asarray(drawn.labels).tolist())) == 7
    np.testing.assert_array_equal(drawn.inputs, batch.inputs[drawn.labels])
    assert rows(data.sample(jax.random.key(0), batch, 10)) == rows(batch)
    for n in (0, 11):
        with pytest.raises(ValueError, match=f"n is {n}; it must be 1 to 10"):
            data.sample(jax.random.key(0), batch, n)

"""Images of the sizes of known datasets, where what they show does not matter: no file is read."""

import numpy as np


def _images(train, test, *shape):
    splits = []
    for count in (train, test):
        images = np.resize(np.arange(251, dtype=np.uint8), (count, *shape))
        splits.append((images, np.arange(count, dtype=np.int32) % 10))
    return *splits, 10


def mnist():
    return _images(60_000, 10_000, 28, 28, 1)


def cifar10():
    return _images(50_000, 10_000, 32, 32, 3)

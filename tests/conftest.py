"""What several test modules share."""

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def tfds_dir() -> str:
    """Where prepared TensorFlow Datasets are; skips the test where they are absent."""
    beside = pathlib.Path(__file__).parents[2] / "shared" / "tfds"
    folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or beside)
    for name in ("mnist", "cifar10"):
        if not list(folder.glob(f"{name}/*/dataset_info.json")):
            pytest.skip(f"{name} is not prepared in {folder}; set TFDS_DATA_DIR to where it is")
    return str(folder)

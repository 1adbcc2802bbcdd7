"""The config of a run of a sweep, as it was when the sweep was written.

``--config=launch/written.py:DIR/configs/NAME.json``; NAME is the hash of what the file holds.
"""

from pathlib import Path

from ml_collections import ConfigDict

from pruning_jax.lab import records, sweeps


def get_config(path: str) -> ConfigDict:
    """The config that a file holds.

    Raises:
      ValueError: there is none, or it is not the one of the file's name.
    """
    file = Path(path)
    values = tupled(records.read_json(file, {}))
    found = sweeps.name(values)
    if found != file.stem:
        raise ValueError(
            f"the file {path} holds the config of {found}, so it is not as the sweep wrote it; put "
            "it back, or begin a sweep in another folder"
        )
    return ConfigDict(values)


def tupled(value: object) -> object:
    """What JSON gives back, with tuples for lists, as configs have them."""
    if isinstance(value, dict):
        return {key: tupled(item) for key, item in value.items()}
    return tuple(map(tupled, value)) if isinstance(value, list) else value

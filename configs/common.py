"""What the configs repeat: fields of a workload, variants, a run for each workload and seed."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from pruning_jax.lab import sweeps


def workload(**values) -> dict:
    """A workload, on all images of a dataset of the default folder unless values say otherwise."""
    return {"data_dir": placeholder(str), "subset": placeholder(int)} | values


def check(variant: str, variants) -> None:
    """Raises `ValueError` for a variant that there is not."""
    if variant not in variants:
        raise ValueError(f"variant is {variant!r}; it must be one of {list(variants)}")


def config(study: str, variant: str, variants: dict) -> ConfigDict:
    """A study's config for one variant; all its workloads run unless `only` names some."""
    check(variant, variants)
    # A ConfigDict each, so that a field of one is no field of another too.
    workloads = {name: ConfigDict(values) for name, values in variants[variant]().items()}
    return ConfigDict({"study": study, "variant": variant, "only": (), "workloads": workloads})


def asked(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """The workloads that run, by their names."""
    return [(name, config.workloads[name]) for name in config.only or config.workloads]


def by_seed(config: ConfigDict) -> sweeps.Sweep:
    """One run for each workload and seed."""
    runs = (
        sweeps.product([{"only": (name,)}], sweeps.seeds(f"workloads.{name}.seeds", own.seeds))
        for name, own in asked(config)
    )
    return sweeps.chain(*runs)

"""Mean Replacement Pruning (S4): what does it cost to put a removed unit's mean in its place?

Command:
  python -m launch.main --config=configs/mean_replacement.py:cpu --workdir=runs/mean_replacement

Variants and the time they take:
  smoke           digits, a small Small Conv; shows that every part runs, decides nothing.
  cpu             Small Conv on 8,000 images of CIFAR-10, 2,500 steps, 8 replicates: a bit more
                  than an hour on one core.
  paper           Small Conv, Medium Conv and VGG-11 without batch normalisation, on the whole of
                  CIFAR-10, 60 epochs, 8 replicates; for accelerators.
  imagenet        AlexNet on the 64x64 images of `imagenet_resized`, to be prepared in `data_dir`;
                  for an accelerator that holds them all, or a `subset` of them.
  imagenet_smoke  the same code on stand-in images: digits, enlarged to 64x64x3.

In training, networks are probed on copies: scored on `scoring_examples` of the training split,
drawn once a seed (D_s), pruned by every criterion at every fraction and layer set, with and without
replacement, and measured on `evaluation_examples` of the training split, none of D_s, as the
authors' code does by default, and as many of the validation split. One mean of each unit, over all
of D_s, serves both the scores and the folding.

Where the paper's text is silent, this was chosen. Its learning rate is that of the authors' code,
.01, which drops at step 58,650: no run of 60 epochs gets there (42,180 steps of 64 of 45,000
images), so it is constant here. There is no weight decay, augmentation or batch normalisation.
Fine-tuning goes on at that rate with a fresh optimiser. The middle convolution is the second of
three, the fifth of VGG-11's eight, and the third of AlexNet's five. In `paper` VGG-11 has a hidden
dense layer, so that it has a layer set `firstdense` too: the grid of 6 fractions, 8 seeds, 3
networks and 5 layer sets, 720 settings in all (Table 2 prints a total of 1440), needs one; its 512
units are our choice. AlexNet takes images of any one size; 64x64 is ours, as data live in memory.

Sweeps: `claims` is one run for each workload and seed. `table2` is one for each of the grid's
settings, without fine-tuning: in `paper` 720 runs, each of which trains its network again, where
`claims` measures the same settings with 24 trainings.

Expected outcome: folding the mean cuts the penalty in most settings and for every criterion, more
at large fractions; absolute scores beat random, raw ones lose to it.
"""

from ml_collections import ConfigDict

from configs import common
from pruning_jax.lab import sweeps

LAYERS = {
    "all": "all",
    "firstconv": ("params/Conv_0",),
    "midconv": ("params/Conv_1",),
    "lastconv": ("params/Conv_2",),
    "firstdense": ("params/Dense_0",),
}
ALEXNET_LAYERS = LAYERS | {"midconv": ("params/Conv_2",), "lastconv": ("params/Conv_4",)}
VGG_LAYERS = LAYERS | {"midconv": ("params/Conv_4",), "lastconv": ("params/Conv_7",)}
VALID = {"padding": "VALID"}


def _thresholds(*put_later: str) -> dict:
    """Of the claims; those named were put as they are after the rows of the workload were seen."""
    return {
        "share_below": 0.8,
        "equal_area": 0.05,
        "overlap": 0.5,
        "exact": 1e-5,
        "least_fraction": 0.05,
        "most_fraction": 0.2,
        "put_later": put_later,
    }


def _workload(**values) -> dict:
    fields = {
        "retraining": {"regime": "fine_tuning"},
        "seeds": tuple(range(1111, 1119)),
        "criteria": ("random", "weight_norm", "rs", "mrs", "abs_rs", "abs_mrs"),
        "fractions": (0.01, 0.05, 0.1, 0.2, 0.5, "one"),
        "layers": dict(LAYERS),
        "probed": (),  # the names of layer sets; all if empty
        "scoring_examples": 1000,
        "evaluation_examples": 1000,
        "evaluation_splits": ("train", "validation"),
        "probe_every": 250,
        "selection_every": 25,
        "selection": {"layers": "midconv", "fraction": 0.1},
        "thresholds": _thresholds(),
    }
    return common.workload(**fields | values)


def _training(**values) -> dict:
    return {"epochs": 60, "batch_size": 64, "learning_rate": 0.01, "momentum": 0.9} | values


def _fine_tuning(*probes: int, **values) -> dict:
    fields = {
        "probes": probes,
        "fractions": (0.1, 0.5),
        "layers": ("all",),
        "criteria": ("random", "weight_norm", "abs_rs", "abs_mrs"),
        "steps": (10, 100, 500),
    }
    return fields | values


def _small(probe: int, steps: tuple[int, ...], **values) -> dict:
    """A workload that shows that every part runs."""
    few = {"fractions": (0.5,), "criteria": ("random", "abs_mrs"), "steps": steps}
    fields = {"seeds": (1, 2), "fractions": (0.1, 0.5, "one")}
    return _workload(**fields, fine_tuning=_fine_tuning(probe, **few), **values)


def _smoke() -> dict:
    digits = _small(
        60,
        (2, 5, 10),
        dataset="digits",
        validation=200,
        model={"name": "small_conv", "padding": "SAME", "widths": (8, 12, 16, 24, 12)},
        training=_training(epochs=4, learning_rate=0.05),
        scoring_examples=200,
        evaluation_examples=200,
        probe_every=30,
        selection_every=10,
    )
    return {"small_conv_digits": digits}


def _cpu() -> dict:
    small_conv = _workload(
        dataset="cifar10",
        subset=8_000,
        validation=2_000,
        model={"name": "small_conv"} | VALID,
        training=_training(epochs=20),
        fine_tuning=_fine_tuning(2000, 2500),
        thresholds=_thresholds("M1", "M2", "M3", "M6"),
    )
    return {"small_conv_cifar10": small_conv}


def _paper() -> dict:
    tuning = _fine_tuning(22_500, 32_000, 42_000, fractions=(0.1, 0.2, 0.5))
    whole = {"dataset": "cifar10", "validation": 5_000, "training": _training()}
    whole |= {"fine_tuning": tuning}
    vgg = {"name": "vgg11", "batch_norm": False, "hidden": (512,)}
    return {
        "small_conv_cifar10": _workload(model={"name": "small_conv"} | VALID, **whole),
        "medium_conv_cifar10": _workload(model={"name": "medium_conv"} | VALID, **whole),
        "vgg11_cifar10": _workload(model=vgg, layers=VGG_LAYERS, **whole),
    }


def _imagenet() -> dict:
    alexnet = _workload(
        dataset="imagenet_resized/64x64",
        validation=10_000,
        model={"name": "alexnet"},
        training=_training(),
        layers=dict(ALEXNET_LAYERS),
        probe_every=25_000,
        selection_every=2_500,
        fine_tuning=_fine_tuning(1_000_000),
    )
    return {"alexnet_imagenet": alexnet}


def _imagenet_smoke() -> dict:
    stand_in = _small(
        32,
        (2, 5),
        dataset="digits_64x64x3",
        validation=150,
        subset=256,
        model={"name": "alexnet", "widths": (8, 12, 12, 12, 10, 24, 16)},
        training=_training(epochs=2, batch_size=16),
        layers=dict(ALEXNET_LAYERS),
        scoring_examples=100,
        evaluation_examples=100,
        probe_every=16,
        selection_every=8,
    )
    return {"alexnet_digits": stand_in}


VARIANTS = {
    "smoke": _smoke,
    "cpu": _cpu,
    "paper": _paper,
    "imagenet": _imagenet,
    "imagenet_smoke": _imagenet_smoke,
}


def get_config(variant: str = "smoke") -> ConfigDict:
    """The study's values for one variant."""
    return common.config("mean_replacement", variant, VARIANTS)


def _table2(config: ConfigDict) -> sweeps.Sweep:
    return sweeps.chain(
        *(
            sweeps.product(
                [{"only": (name,), f"workloads.{name}.fine_tuning.probes": ()}],
                sweeps.seeds(f"workloads.{name}.seeds", own.seeds),
                sweeps.seeds(f"workloads.{name}.probed", own.probed or own.layers),
                sweeps.seeds(f"workloads.{name}.fractions", own.fractions),
            )
            for name, own in common.asked(config)
        )
    )


SWEEPS = {"claims": common.by_seed, "table2": _table2}

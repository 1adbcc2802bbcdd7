"""An Empirical Study of a Pruning Mechanism (S0): do networks use large weights, and is pruning
and retraining a walk within the basin that pretraining found?

Command:
  python -m launch.main --config=configs/pruning_mechanism.py:cpu --workdir=runs/pruning_mechanism

Variants and the time they take:
  smoke  digits, small networks; shows that every part runs, decides nothing.
  cpu    ResNet-8, 8 replicates, and Small Conv with and without batch normalisation, 5 each: about
         an hour and a half on one core.
  paper  ResNet-20 and Small Conv on the whole of CIFAR-10, 200 epochs, 5 cycles of 200 more; for
         accelerators.

Sweep: `claims` is one run for each workload and seed; planes are drawn of the seeds that the whole
study draws them of.

The proxies of `cpu`. The paper's ResNet-20 on 50,000 images becomes ResNet-8 with a first
convolution of stride 2 (16x16 activations) on 4,000, without augmentation, and its 200 epochs
become 6 of batches of 32; its "vanilla CNN", whose layers we do not know, becomes Small Conv on
5,000 images, and its 200 epochs 10. Schedules keep their shape: the learning rate starts at .1 and
drops tenfold after half and after (about) three quarters of the epochs. Utilities are means over
128 training examples instead of all; the 500 subsets are the paper's.

Where the paper's text is silent, this was chosen. Ratios of ablation beside .05 and .1: .2, .4 and
.8, so that a number of weights is a ratio of every network. Channels are ranked by their batch-norm
scale (of a residual stream, the mean over its norms) over all layers together, and lose the weights
that read them too.
The harsher channel arm removes half of the channels that remain, three times. Small networks of an
arm follow the whole schedule once for every cycle and once more. Fine-tuning and rewinding last as
long as pretraining, as in the paper, so that rewinding is the whole schedule again. Planes have the
pretrained network as their origin; they are drawn with its batch statistics and with those that are
estimated at every point, and barriers are read off the latter.

Expected outcome: utilities grow in training and spread; curves collapse by ratio; rewinding beats
fine-tuning clearly for channels, and by little for weights.
"""

from ml_collections import ConfigDict

from configs import common
from pruning_jax.lab import sweeps


def _workload(**values) -> dict:
    fields = {
        "dataset": "cifar10",
        "validation": 5_000,
        "retraining": {"regime": "fine_tuning"},
        "utility": {"subsets": 500, "examples": 2_000},
        "during_training": {},
        "sizes": {},
        "one_shot": {},
        "arms": {},
        "paths": {},
        "surfaces": {},
        "thresholds": {
            "range": 20.0,
            "distance_ratio": 0.5,
            "barrier": 2.0,
            "fall": 10.0,
            "put_later": (),
        },
    }
    return common.workload(**fields | values)


def _arm(prunes: str, share: float, cycles: int, epochs: int, **values) -> dict:
    fields = {
        "prunes": prunes,
        "share": share,
        "cycles": cycles,
        "compared": min(cycles, 5),
        "epochs": epochs,
        "regimes": ("fine_tuning", "learning_rate_rewinding", "small"),
        "scale_l1": 0.0,
    }
    return fields | values


def _arms(epochs: int) -> dict:
    return {
        "weight": _arm("weights", 0.3, 6, epochs),
        "channel": _arm("channels", 0.2, 5, epochs),
        "harsh_channel": _arm(
            "channels", 0.5, 3, epochs, regimes=("fine_tuning", "learning_rate_rewinding")
        ),
    }


def _plain(epochs: int, boundaries: tuple[int, ...], **values) -> dict:
    """Training without momentum and decay (S0, section 2.1.2)."""
    fields = {"epochs": epochs, "boundaries": boundaries, "batch_size": 64}
    return fields | {"learning_rate": 0.1, "momentum": 0.0} | values


def _residual(epochs: int, boundaries: tuple[int, ...], **values) -> dict:
    """Training with momentum and decay (S0, section 3)."""
    return _plain(epochs, boundaries, momentum=0.9, weight_decay=1e-4, **values)


def _during_training(*epochs: int) -> dict:
    return {"epochs": epochs, "ratios": (0.05, 0.1, 0.2)}


SIZES = {
    "densities": (0.5, 0.25),
    "ratios": (0.05, 0.1, 0.2, 0.4, 0.8),
    "numbers": (0.05, 0.1, 0.2),
    "bands": 10,
}


def _surfaces(side: int, **values) -> dict:
    fields = {
        "seeds": 1,
        "shape": (side, side),
        "margin": 0.3,
        "arms": ("weight", "channel"),
        "moments": ("kept", "estimated"),
    }
    return fields | values


def _vanilla(**values) -> dict:
    """The stand-in for the paper's vanilla CNN, and with batch normalisation."""
    model = {"name": "small_conv", "padding": "VALID"}
    values |= {"prunable": "kernels"}
    return {
        "small_conv": _workload(model=model, **values),
        "small_conv_bn": _workload(model=model | {"batch_norm": True}, **values),
    }


def _smoke() -> dict:
    digits = {"dataset": "digits", "validation": 200, "subset": 512, "seeds": (1, 2)}
    digits |= {"utility": {"subsets": 10, "examples": 64}}
    small_conv = _workload(
        model={"name": "small_conv", "padding": "SAME", "widths": (8, 12, 16, 24, 12)},
        prunable="kernels",
        training=_plain(2, ()),
        during_training=_during_training(1, 2),
        **digits,
    )
    resnet = _workload(
        model={"name": "resnet", "depth": 8, "widths": (4, 6, 8)},
        prunable="convolutions",
        training=_residual(2, (1,)),
        sizes=SIZES | {"densities": (0.5, 0.25), "ratios": (0.1, 0.2, 0.4), "numbers": (0.1,)},
        one_shot={"densities": (0.5,), "ratios": (0.1,)},
        arms={
            "weight": _arm("weights", 0.3, 2, 2),
            "channel": _arm("channels", 0.2, 1, 2, scale_l1=1e-4),
        },
        paths={"positions": 3, "examples": 64},
        surfaces=_surfaces(3, examples=64),
        **digits,
    )
    return {"small_conv": small_conv, "resnet8": resnet}


def _cpu() -> dict:
    utility = {"subsets": 500, "examples": 128}
    small = {
        "subset": 5_000,
        "validation": 2_000,
        "seeds": tuple(range(1111, 1116)),
        "training": _plain(10, (5, 8)),
        "during_training": _during_training(1, 2, 4, 7, 10),
        "utility": utility,
    }
    resnet = _workload(
        model={"name": "resnet", "depth": 8, "stem_stride": 2},
        subset=4_000,
        validation=2_000,
        prunable="convolutions",
        seeds=tuple(range(1111, 1119)),
        training=_residual(6, (3, 5), batch_size=32),
        utility=utility,
        sizes=SIZES,
        one_shot={"densities": (0.5, 0.25), "ratios": (0.1, 0.2)},
        arms=_arms(6),
        paths={"positions": 21, "examples": 1_000},
        surfaces=_surfaces(25, examples=500),
    )
    return _vanilla(**small) | {"resnet8": resnet}


def _paper() -> dict:
    epochs = {"epochs": (1, 10, 25, 50, 75, 100, 150, 200), "ratios": (0.05, 0.1, 0.2)}
    vanilla = {
        "seeds": tuple(range(1111, 1119)),
        "training": _plain(200, (100, 150), batch_size=128),
        "during_training": epochs,
    }
    resnet = _workload(
        model={"name": "resnet", "depth": 20},
        prunable="convolutions",
        seeds=tuple(range(1111, 1119)),
        training=_residual(200, (100, 150), batch_size=128, augment=True),
        during_training=epochs,
        sizes=SIZES,
        one_shot={"densities": (0.75, 0.5, 0.25), "ratios": (0.05, 0.1, 0.2)},
        arms=_arms(200),
        paths={"positions": 51, "examples": 10_000},
        surfaces=_surfaces(51, examples=10_000, arms=("weight", "channel", "harsh_channel")),
    )
    return _vanilla(**vanilla) | {"resnet20": resnet}


VARIANTS = {"smoke": _smoke, "cpu": _cpu, "paper": _paper}


def get_config(variant: str = "smoke") -> ConfigDict:
    """The study's values for one variant."""
    return common.config("pruning_mechanism", variant, VARIANTS)


def _claims(config: ConfigDict) -> sweeps.Sweep:
    runs = []
    for name, own in common.asked(config):
        for place, seed in enumerate(own.seeds):
            run = {"only": (name,), f"workloads.{name}.seeds": (seed,)}
            if own.surfaces and place < own.surfaces.seeds:
                run[f"workloads.{name}.surfaces.seeds"] = 1
            elif own.surfaces:
                run[f"workloads.{name}.surfaces"] = {}
            runs.append(run)
    return runs


SWEEPS = {"claims": _claims}

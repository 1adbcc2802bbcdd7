"""Revisiting Loss Modelling for Unstructured Pruning (S3): does the loss model matter?

Command:
  python -m launch.main --config=configs/loss_modelling.py:cpu --workdir=runs/loss_modelling

Variants and the time they take:
  smoke   digits, a small MLP, under a minute; shows that every part runs, decides nothing.
  cpu     MNIST with MLP-300-100 as published (800 epochs, 8 replicates, sparsity .98847) and
          Small Conv on 10,000 images of CIFAR-10 (6 replicates, sparsity .956): some two hours
          on one core.
  fresh   MNIST on 20 other seeds, every pruning (L1 to L3, L5), and on 5,000 of its images, where
          every pruning is fine-tuned (L4): not run yet, some hours on two cores.
  paper   the three networks of the paper at its own scale, 5 seeds; for accelerators.

Sweep: `claims` is one run for each workload. Seeds are not split: step penalties and stages are
selected on the tuning seeds for all the others, so every run would have to repeat that.

Where the paper's text is silent, or two cores are too few, this was chosen. Step penalties and
numbers of stages are selected on tuning seeds that no claim counts. Fine-tuning repeats the
original schedule: for 800 epochs in `paper`, for 200 in `cpu` (6 of 12 for Small Conv). Early
networks are pruned in 14 stages. Small Conv is pruned in at most 5 stages, with 500 examples a
stage and three step penalties.

Expected outcome: right after pruning, on MNIST, loss gaps near the published 2.02 (magnitude), 1.83
(OBD), 1.17 (linear) and 1.05 (quadratic); more stages help the linear and quadratic models most.
"""

from ml_collections import ConfigDict

from configs import common
from pruning_jax.lab import sweeps

PENALTIES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def _seen(*claims: str) -> dict:
    """Thresholds of a workload whose rows were seen before these claims were put as they are."""
    return {"excess": 0.0115, "tolerance": 0.3, "margin": 0.5, "put_later": claims}


def _workload(**values) -> dict:
    fields = {
        "criteria": ("magnitude", "obd", "linear", "quadratic", "random"),
        "retrained": ("magnitude", "obd", "linear", "quadratic"),
        "schedule": "exponential",
        "scope": "global",
        "statistics_examples": 1000,
        "early_stages": (),
        "early_epochs": (),
        "thresholds": _seen(),
    }
    return common.workload(**fields | values)


def _training(epochs: int, **values) -> dict:
    fields = {"batch_size": 100, "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
    return {"epochs": epochs} | fields | values


def _again(**values) -> dict:
    return {"regime": "original_schedule"} | values


def _mlp_mnist(**values) -> dict:
    fields = {
        "dataset": "mnist",
        "validation": 10_000,
        "model": {"name": "mlp", "widths": (300, 100), "activation": "tanh"},
        "training": _training(800),
        "retraining": _again(),
        "sparsity": 0.98847,
        "stages": (1, 14, 140),
        "step_penalties": PENALTIES,
        "early_stages": (14,),
        "early_epochs": (5, 100),
    }
    return _workload(**fields | values)


def _smoke() -> dict:
    digits = _workload(
        dataset="digits",
        validation=200,
        model={"name": "mlp", "widths": (32, 16), "activation": "tanh"},
        training={"epochs": 12, "batch_size": 100, "learning_rate": 0.1, "momentum": 0.9},
        retraining=_again(epochs=4),
        sparsity=0.8,
        seeds=(1, 2, 3),
        tuning_seeds=(11,),
        stages=(1, 3),
        step_penalties=(0.0, 0.1),
        statistics_examples=200,
        early_stages=(3,),
        early_epochs=(2, 8),
    )
    return {"mlp_digits": digits}


def _cpu() -> dict:
    small_conv = _workload(
        dataset="cifar10",
        subset=10_000,
        validation=2_000,
        model={"name": "small_conv", "padding": "VALID"},
        training=_training(12, batch_size=64, boundaries=(9,)),
        retraining=_again(epochs=6, boundaries=(4,)),
        sparsity=0.956,
        seeds=tuple(range(1111, 1117)),
        tuning_seeds=(2111,),
        stages=(1, 5),
        statistics_examples=500,
        step_penalties=(0.0, 1e-2, 1e-1),
        thresholds=_seen("L2", "L3"),
    )
    return {
        "mlp_mnist": _mlp_mnist(
            seeds=tuple(range(1111, 1119)),
            tuning_seeds=(2111, 2112),
            retraining=_again(epochs=200),
            thresholds=_seen("L2", "L3"),
        ),
        "small_conv_cifar10": small_conv,
    }


def _fresh() -> dict:
    """Seeds that no question was put after; hyper-parameters are chosen on the other seeds."""
    return {
        "mlp_mnist": _mlp_mnist(
            seeds=tuple(range(1119, 1139)),
            tuning_seeds=(),
            training=_training(300),
            retrained=(),
        ),
        "mlp_mnist_5k": _mlp_mnist(
            subset=5_000,
            seeds=tuple(range(1119, 1127)),
            tuning_seeds=(),
            training=_training(300),
            retraining=_again(epochs=100),
            early_stages=(),
            early_epochs=(),
        ),
    }


def _paper() -> dict:
    seeds = {"seeds": tuple(range(1111, 1116)), "tuning_seeds": (2111, 2112, 2113)}
    conv = {
        "dataset": "cifar10",
        "validation": 5_000,
        "retraining": _again(),
        "sparsity": 0.956,
        "stages": (1, 14, 140),
        "step_penalties": PENALTIES,
        **seeds,
    }
    vgg = _training(300, boundaries=(60, 120, 180, 240), augment=True)
    resnet = _training(200, learning_rate=0.1, boundaries=(70, 140), augment=True)
    return {
        "mlp_mnist": _mlp_mnist(**seeds),
        "vgg11_cifar10": _workload(model={"name": "vgg11"}, training=vgg, **conv),
        "preact_resnet18_cifar10": _workload(
            model={"name": "preact_resnet18"}, training=resnet, **conv
        ),
    }


VARIANTS = {"smoke": _smoke, "cpu": _cpu, "fresh": _fresh, "paper": _paper}


def get_config(variant: str = "smoke") -> ConfigDict:
    """The study's values for one variant."""
    return common.config("loss_modelling", variant, VARIANTS)


def _claims(config: ConfigDict) -> sweeps.Sweep:
    return sweeps.seeds("only", config.only or config.workloads)


SWEEPS = {"claims": _claims}

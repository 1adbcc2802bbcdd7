"""Every weight criterion at five sparsities on scikit-learn's digits; needs no download.

Command:
  python -m launch.main --config=configs/digits.py --workdir=runs/digits

Variants: `smoke` (one seed, two sparsities, a few epochs) and `cpu` (the default: 3 seeds).

Sweeps: `seeds` (one run a seed) and `grid` (one a criterion and sparsity, with every seed).

Expected time: under two minutes on two cores.
Expected outcome: a dense test accuracy of some 97 %; after pruning, magnitude and the loss models
stay near it at moderate sparsity where random falls to chance; retraining closes most of the gap.
"""

from ml_collections import ConfigDict

from configs import common
from pruning_jax.criteria import WEIGHT_CRITERIA
from pruning_jax.lab import sweeps


def get_config(variant: str = "cpu") -> ConfigDict:
    """The study's values for one variant."""
    common.check(variant, ("smoke", "cpu"))
    smoke = variant == "smoke"
    return ConfigDict(
        {
            "study": "comparison",
            "variant": variant,
            "workload": common.workload()
            | {
                "dataset": "digits",
                "validation": 200,
                "model": {"name": "mlp", "widths": (300, 100), "activation": "tanh"},
                "training": {
                    "epochs": 5 if smoke else 60,
                    "batch_size": 50,
                    "learning_rate": 0.02,
                    "boundaries": (),
                    "momentum": 0.9,
                    "weight_decay": 5e-4,
                },
                "retraining": {"regime": "original_schedule", "epochs": 2 if smoke else 20},
                "criteria": tuple(WEIGHT_CRITERIA),
                "sparsities": (0.5, 0.9) if smoke else (0.5, 0.8, 0.9, 0.95, 0.98),
                "stages": 1 if smoke else 14,
                "schedule": "exponential",
                "scope": "global",
                "statistics_examples": 500,
                "seeds": (1,) if smoke else (1, 2, 3),
            },
        }
    )


def _seeds(config: ConfigDict) -> sweeps.Sweep:
    return sweeps.seeds("workload.seeds", config.workload.seeds)


def _grid(config: ConfigDict) -> sweeps.Sweep:
    return sweeps.product(
        sweeps.seeds("workload.criteria", config.workload.criteria),
        sweeps.seeds("workload.sparsities", config.workload.sparsities),
    )


SWEEPS = {"seeds": _seeds, "grid": _grid}

"""A step of every method that trains sparsely, against the plain step, updates included.

python -m benchmarks.methods
"""

import jax

from benchmarks import timing
from benchmarks.training import Loop, started
from pruning_jax import methods, tracing, units

STEPS = {"mlp": 200, "small_conv": 10}
"""Timed together; masks change once or twice in them."""

NETWORKS = {
    "MLP-300-100, batch 100": ("mlp", 100, (28, 28, 1), {"widths": (300, 100)}),
    "Small Conv 32x32, batch 64": ("small_conv", 64, (32, 32, 3), {"batch_norm": True}),
}


def fields(graph: units.UnitGraph, steps: int) -> dict[str, dict]:
    """What methods are built with: masks of the MLP change every 100 steps, as in RigL's source."""
    every = steps // 2
    at = {"every": every, "last": steps}
    return {
        "static": {"sparsity": 0.9},
        "gradual": {"sparsity": 0.9, "first": every} | at,
        "set": {"sparsity": 0.9} | at,
        "rigl": {"sparsity": 0.9} | at,
        "straight_through": {"sparsity": 0.9, "every": 1},
        "ac_dc": {"sparsity": 0.9, "first": 1, "every": every, "last": 1 + 2 * every},
        "soft_filter": {"fraction": 0.3, "graph": graph} | at,
        "slimming": {"strength": 1e-4},
        "structure_selection": {"strength": 1e-4, "learning_rate": 0.01, "graph": graph},
        "group_lasso": {"strength": 1e-4, "graph": graph},
        "variational_dropout": {"weight": 1e-5},
        "l0": {"strength": 1e-5},
    }


def every_method(title: str, name: str, batch: int, shape: tuple[int, ...], **more) -> None:
    """Times the steps of every method on one network; the plain step's losses come first."""
    steps = STEPS[name]
    task, progress, train = started(name, steps * batch, batch, shape, **more)
    graph = units.graph(tracing.trace(task.apply_fn, progress.state.variables, train.inputs[:1]))
    sides = {"plain": Loop(*started(name, steps * batch, batch, shape, **more)).run}
    for method, given in fields(graph, steps).items():
        if method == "slimming" and not more.get("batch_norm"):
            continue
        built = methods.build(method, **given)
        loop = Loop(*started(name, steps * batch, batch, shape, method=built, **more))
        sides[method] = loop.run
    losses = {side: float(run()[0].mean()) for side, run in sides.items()}
    print(f"\nmean loss of {steps} steps: " + ", ".join(f"{n} {v:.3f}" for n, v in losses.items()))
    times = timing.in_turns(sides)
    timing.report(f"{steps} steps, {title}", times, "plain")


def main() -> None:
    """Prints the times of both networks."""
    print(f"jax {jax.__version__} on {jax.default_backend()}")
    for title, (name, batch, shape, more) in NETWORKS.items():
        every_method(title, name, batch, shape, **more)


if __name__ == "__main__":
    main()

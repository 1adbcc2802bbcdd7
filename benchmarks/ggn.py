"""Exact diagonal GGN, batch 128, on CPU: ours against BackPACK's DiagGGNExact.

    python -m benchmarks.ggn

Both sides run in this process, on the same weights and data, with two threads each. The values of
both are compared with BackPACK's in double precision; then the two take turns, first calls
excluded. BackPACK's pass yields the gradient as well, and so does ours.
"""

import importlib.util
from collections.abc import Callable

import jax
import numpy as np

from benchmarks import timing
from pruning_jax import curvature, models
from pruning_jax.types import Batch

EXAMPLES, CLASSES, THREADS = 128, 10, 2
# Sums through a few layers and back are off by some five steps of float32 where there are no ties.
TOLERANCE = 256 * float(np.finfo(np.float32).eps)
SHAPES = {"lenet_300_100": (28, 28, 1), "small_conv": (32, 32, 3)}


def _sides(name: str, examples: int) -> tuple[Callable, Callable, Callable]:
    """Our pass, BackPACK's, and how far the diagonal of each is off."""
    import torch
    from backpack import backpack, extend
    from backpack.extensions import DiagGGNExact

    from benchmarks.pytorch import channels_first, network

    module = models.build(name, CLASSES)
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (examples, *SHAPES[name]))
    batch = Batch(inputs, jax.random.randint(keys[1], (examples,), 0, CLASSES))
    variables, apply_fn = models.init(module, keys[2], inputs), models.apply_fn(module)

    torch.set_num_threads(THREADS)
    single, double = torch.float32, torch.float64
    net, wide = (extend(network(variables["params"]).to(dtype)) for dtype in (single, double))
    loss = extend(torch.nn.CrossEntropyLoss())
    x = torch.from_numpy(channels_first(np.array(inputs)))
    y = torch.from_numpy(np.array(batch.labels)).long()

    def ours() -> dict:
        gradient, ggn = curvature.gradient_and_ggn(apply_fn, variables, batch)
        return jax.block_until_ready({"gradient": gradient, "ggn": ggn})

    def backward(net, x) -> list[np.ndarray]:
        net.zero_grad()
        with backpack(DiagGGNExact()):
            loss(net(x), y).backward()
        return [parameter.diag_ggn_exact.numpy() for parameter in net.parameters()]

    def theirs() -> list[np.ndarray]:
        return backward(net, x)

    def differences() -> dict[str, float]:
        exact = backward(wide, x.to(double))
        # The diagonal has the weights' layout, so the network of it has PyTorch's.
        converted = network(ours()["ggn"]["params"]).parameters()
        sides = {"ours": [leaf.detach().numpy() for leaf in converted], "BackPACK": theirs()}
        return {side: _largest(found, exact) for side, found in sides.items()}

    return ours, theirs, differences


def _largest(found: list[np.ndarray], exact: list[np.ndarray]) -> float:
    pairs = zip(found, exact, strict=True)
    return float(np.max([np.abs(a - b).max() / np.abs(b).max() for a, b in pairs]))


def largest_difference(name: str, examples: int = EXAMPLES) -> float:
    """How far an entry of ours is from double precision, relative to the largest of its leaf."""
    return _sides(name, examples)[2]()["ours"]


def main() -> None:
    """Prints the comparison, or why there is none."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("backpack") is None:
        print("GGN against BackPACK: skipped, PyTorch or backpack-for-pytorch is not installed")
        return
    print(f"jax {jax.__version__} on {jax.default_backend()}, {THREADS} threads")
    for name in SHAPES:
        ours, theirs, differences = _sides(name, EXAMPLES)
        off = differences()
        if not off["ours"] <= TOLERANCE:
            raise SystemExit(f"{name}: ours is off by {off['ours']:.1e}, over {TOLERANCE:.1e}")
        times = timing.in_turns({"ours": ours, "BackPACK": theirs})
        timing.report(
            f"gradient and exact diagonal GGN, {name}, batch {EXAMPLES}; off double precision by "
            f"{off['ours']:.0e} (ours), {off['BackPACK']:.0e} (BackPACK)",
            times,
            "BackPACK",
        )


if __name__ == "__main__":
    main()

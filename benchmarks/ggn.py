"""Exact diagonal GGN, batch 128, on CPU: ours against BackPACK's DiagGGNExact.

    python -m benchmarks.ggn

Both sides run in this process, on the same weights and data, with two threads each. Values are
compared first; then the two take turns, first calls excluded. BackPACK's pass yields the gradient
as well, so ours is timed with its gradient.
"""

import importlib.util
from collections.abc import Callable

import jax
import numpy as np

from benchmarks import timing
from pruning_jax import curvature, models
from pruning_jax.types import Batch

EXAMPLES, CLASSES, THREADS, TOLERANCE = 128, 10, 2, 1e-4
SHAPES = {"lenet_300_100": (28, 28, 1), "small_conv": (32, 32, 3)}


def _sides(name: str, examples: int) -> tuple[Callable, Callable, Callable]:
    """Our pass, BackPACK's, and the largest relative difference of their diagonals."""
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
    net, loss = extend(network(variables["params"])), extend(torch.nn.CrossEntropyLoss())
    x = torch.from_numpy(channels_first(np.array(inputs)))
    y = torch.from_numpy(np.array(batch.labels)).long()

    def ours() -> dict:
        gradient = curvature.gradient(apply_fn, variables, batch)
        ggn = curvature.ggn_diagonal(apply_fn, variables, batch)
        return jax.block_until_ready({"gradient": gradient, "ggn": ggn})

    def theirs() -> None:
        net.zero_grad()
        with backpack(DiagGGNExact()):
            loss(net(x), y).backward()

    def difference() -> float:
        theirs()
        # The diagonal has the weights' layout, so the network of it has PyTorch's.
        converted = network(ours()["ggn"]["params"])
        pairs = zip(converted.parameters(), net.parameters(), strict=True)
        pairs = [(p.detach().numpy(), q.diag_ggn_exact.numpy()) for p, q in pairs]
        return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs)

    return ours, theirs, difference


def largest_difference(name: str, examples: int = EXAMPLES) -> float:
    """The largest difference of an entry, relative to the largest entry of its leaf."""
    return _sides(name, examples)[2]()


def main() -> None:
    """Prints the comparison, or why there is none."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("backpack") is None:
        print("GGN against BackPACK: skipped, PyTorch or backpack-for-pytorch is not installed")
        return
    print(f"jax {jax.__version__} on {jax.default_backend()}, {THREADS} threads")
    for name in SHAPES:
        ours, theirs, difference = _sides(name, EXAMPLES)
        found = difference()
        if found > TOLERANCE:
            raise SystemExit(f"{name}: the diagonals differ by {found:.1e}, over {TOLERANCE}")
        times = timing.in_turns({"ours": ours, "BackPACK": theirs})
        timing.report(
            f"gradient and exact diagonal GGN, {name}, batch {EXAMPLES}; values differ by "
            f"{found:.0e}",
            times,
            "BackPACK",
        )


if __name__ == "__main__":
    main()

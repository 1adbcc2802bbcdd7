"""Exact diagonal GGN, batch 128, on CPU: ours against BackPACK's DiagGGNExact.

    python -m benchmarks.ggn

Both sides run in this process, on the same weights and data, with two threads each. Values are
compared first; then the two take turns, first calls excluded. Each side computes the diagonal for
kernels and biases from the inputs and the labels; BackPACK's own pass also yields the gradient,
which ours is therefore timed with.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from pruning_jax import curvature, models
from pruning_jax.types import Batch

EXAMPLES, CLASSES, RUNS, THREADS, TOLERANCE = 128, 10, 9, 2, 1e-4
NETWORKS = {"lenet_300_100": (28, 28, 1), "small_conv": (32, 32, 3)}


def _torch_network(layers: dict):
    """The same network in PyTorch, with the same weights."""
    from torch import from_numpy, nn

    parts = []
    dense = [layer for layer in layers if layers[layer]["kernel"].ndim == 2]
    flat_channels = None
    for layer, arrays in layers.items():
        kernel, bias = np.array(arrays["kernel"]), np.array(arrays["bias"])
        if kernel.ndim == 4:
            module = nn.Conv2d(kernel.shape[2], kernel.shape[3], kernel.shape[:2])
            weight, flat_channels = kernel.transpose(3, 2, 0, 1), kernel.shape[3]
            parts += [module, nn.ReLU(), nn.MaxPool2d(2)]
        else:
            module = nn.Linear(*kernel.shape)
            if layer == dense[0]:
                parts.append(nn.Flatten())
                kernel = _channels_first(kernel, flat_channels)
            weight = kernel.T
            parts += [module, nn.ReLU()] if layer != dense[-1] else [module]
        module.weight.data = from_numpy(np.ascontiguousarray(weight))
        module.bias.data = from_numpy(bias)
    return nn.Sequential(*parts)


def _channels_first(kernel: np.ndarray, channels: int | None) -> np.ndarray:
    """Reorders the rows of a dense kernel from (height, width, channels) to channels first."""
    if channels is None:
        return kernel
    side = round((kernel.shape[0] // channels) ** 0.5)
    return kernel.reshape(side * side, channels, -1).swapaxes(0, 1).reshape(kernel.shape)


def _their_side(layers: dict, batch: Batch) -> tuple[Callable, Callable]:
    """BackPACK's pass, and its diagonals by layer as (kernel, bias) in PyTorch's layout."""
    import torch
    from backpack import backpack, extend
    from backpack.extensions import DiagGGNExact

    torch.set_num_threads(THREADS)
    network, loss = extend(_torch_network(layers)), extend(torch.nn.CrossEntropyLoss())
    inputs = np.array(batch.inputs)
    convolutional = any(arrays["kernel"].ndim == 4 for arrays in layers.values())
    inputs = inputs.transpose(0, 3, 1, 2) if convolutional else inputs.reshape(len(inputs), -1)
    x = torch.from_numpy(np.ascontiguousarray(inputs))
    y = torch.from_numpy(np.array(batch.labels)).long()

    def run() -> None:
        network.zero_grad()
        with backpack(DiagGGNExact()):
            loss(network(x), y).backward()

    def values() -> list[np.ndarray]:
        return [parameter.diag_ggn_exact.numpy() for parameter in network.parameters()]

    return run, values


class _Case(NamedTuple):
    """Both sides, ready to run, and a function that compares what they find."""

    ours: Callable
    theirs: Callable
    difference: Callable[[], float]


def _case(name: str, examples: int) -> _Case:
    module = models.build(name, CLASSES)
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (examples, *NETWORKS[name]))
    batch = Batch(inputs, jax.random.randint(keys[1], (examples,), 0, CLASSES))
    variables, apply_fn = models.init(module, keys[2], inputs), models.apply_fn(module)
    order = _in_order(variables["params"])
    theirs, their_values = _their_side({n: variables["params"][n] for n in order}, batch)

    def ours() -> dict:
        results = {
            "gradient": curvature.gradient(apply_fn, variables, batch),
            "ggn": curvature.ggn_diagonal(apply_fn, variables, batch),
        }
        return jax.block_until_ready(results)

    def difference() -> float:
        theirs()
        found = ours()["ggn"]["params"]
        converted = _torch_network({layer: found[layer] for layer in order})
        pairs = zip(converted.parameters(), their_values(), strict=True)
        return max(
            float(np.max(np.abs(p.detach().numpy() - b)) / np.max(np.abs(b))) for p, b in pairs
        )

    return _Case(ours, theirs, difference)


def largest_difference(name: str, examples: int) -> float:
    """The largest difference of an entry, relative to the largest entry of its leaf."""
    return _case(name, examples).difference()


def _times(sides: dict[str, Callable]) -> dict[str, list[float]]:
    """Milliseconds of every run; the sides take turns."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(RUNS):
        for side, run in sides.items():
            start = time.perf_counter()
            run()
            times[side].append(1e3 * (time.perf_counter() - start))
    return times


def _compare(name: str) -> None:
    case = _case(name, EXAMPLES)
    difference = case.difference()
    if difference > TOLERANCE:
        raise SystemExit(f"{name}: the diagonals differ by {difference:.1e} > {TOLERANCE}")
    times = _times({"ours": case.ours, "BackPACK": case.theirs})
    for side, values in times.items():
        print(
            f"{name:<14} {side:<9} {min(values):9.1f} {statistics.median(values):9.1f}"
            f" {max(values):9.1f}"
        )
    best = min(times["BackPACK"]) / min(times["ours"])
    median = statistics.median(times["BackPACK"]) / statistics.median(times["ours"])
    print(
        f"{name:<14} speed over BackPACK: best {best:.2f}, median {median:.2f}; "
        f"values differ by {difference:.0e}"
    )


def _in_order(params: dict) -> list[str]:
    """Convolutions before dense layers, each by number."""
    return sorted(params, key=lambda layer: (not layer.startswith("Conv"), layer))


def main() -> None:
    """Prints the table, or why there is none."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("backpack") is None:
        print("skipped: PyTorch and backpack-for-pytorch are not installed")
        return
    print(f"jax {jax.__version__}, batch {EXAMPLES}, {THREADS} threads, {RUNS} runs each, ms")
    print(f"{'network':<14} {'side':<9} {'best':>9} {'median':>9} {'worst':>9}")
    for name in NETWORKS:
        _compare(name)


if __name__ == "__main__":
    main()

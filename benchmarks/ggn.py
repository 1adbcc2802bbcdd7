"""Exact diagonal GGN on CPU: against BackPACK's DiagGGNExact, and against a loop over positions.

    python -m benchmarks.ggn

Both sides run in this process, on the same weights and data, with two threads each. The values are
compared first; then the two take turns, first calls excluded. BackPACK's pass yields the gradient
as well, and so does ours; both are compared with BackPACK's in double precision. Of a language
model with a label at every position, the other side takes the diagonal of one position's logits at
a time, by one compiled function of the position.
"""

import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import networks, timing
from pruning_jax import curvature, models
from pruning_jax.types import Batch

EXAMPLES, CLASSES, THREADS = 128, 10, 2
# Sums through a few layers and back are off by some five steps of float32 where there are no ties.
TOLERANCE = 256 * float(np.finfo(np.float32).eps)
DECODER = {"vocabulary": 256, "width": 64, "blocks": 2}
SENTENCES, LENGTH = 4, 16
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


def _by_position() -> tuple[Callable, Callable]:
    """The diagonal of a language model with labels at every position, at once and in a loop."""
    module = networks.Decoder(**DECODER)
    keys = jax.random.split(jax.random.key(0), 3)
    tokens, labels = jax.random.randint(keys[0], (2, SENTENCES, LENGTH), 0, DECODER["vocabulary"])
    variables = jax.jit(module.init)(keys[1], tokens)

    def at_one(variables: dict, inputs: dict) -> jax.Array:
        logits = module.apply(variables, inputs["tokens"])
        return jnp.take_along_axis(logits, inputs["position"][:, None, None], 1)[:, 0]

    def at_once() -> dict:
        return jax.block_until_ready(
            curvature.ggn_diagonal(module.apply, variables, Batch(tokens, labels))
        )

    def in_a_loop() -> dict:
        parts = []
        for position in range(LENGTH):
            inputs = {"tokens": tokens, "position": jnp.full(SENTENCES, position)}
            batch = Batch(inputs, labels[:, position])
            parts.append(curvature.ggn_diagonal(at_one, variables, batch))
        return jax.block_until_ready(jax.tree.map(lambda *each: sum(each) / LENGTH, *parts))

    return at_once, in_a_loop


def _compare_positions() -> None:
    sides = dict(zip(("at once", "loop"), _by_position(), strict=True))
    values = [jax.tree.leaves(side()) for side in sides.values()]
    # Softmax does not see the bias of the keys, whose diagonal is rounding alone.
    seen = [pair for pair in zip(*values, strict=True) if pair[1].max() > 1e-9]
    off = _largest(*zip(*seen, strict=True))
    if not off <= TOLERANCE:
        raise SystemExit(f"labels at every position: off by {off:.1e}, over {TOLERANCE:.1e}")
    timing.report(
        f"exact diagonal GGN, {LENGTH} labels of {DECODER['vocabulary']} each, decoder of "
        f"{DECODER['blocks']} blocks of width {DECODER['width']}; off by {off:.0e}",
        timing.in_turns(sides, runs=5),
        "loop",
    )


def main() -> None:
    """Prints the comparisons, or why there is none with BackPACK."""
    print(f"jax {jax.__version__} on {jax.default_backend()}")
    _compare_positions()
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("backpack") is None:
        print("GGN against BackPACK: skipped, PyTorch or backpack-for-pytorch is not installed")
        return
    print(f"\nagainst BackPACK with {THREADS} threads")
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

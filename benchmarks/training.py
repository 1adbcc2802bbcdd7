"""Training on CPU: a Small Conv step against PyTorch eager, an MLP epoch against its own products.

python -m benchmarks.training
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from pruning_jax import methods, models, recipes, training
from pruning_jax.lab import meshes, replicates
from pruning_jax.training import pieces, steps
from pruning_jax.training.steps import STATIC
from pruning_jax.types import Batch

THREADS, CLASSES = 2, 10
STEPS, BATCH, EPOCHS = 10, 64, 1_000
EPOCH_EXAMPLES, EPOCH_BATCH, WIDTHS = 50_000, 100, (784, 300, 100, 10)


def started(
    name: str,
    examples: int,
    batch_size: int,
    shape: tuple[int, ...],
    method: methods.Method = STATIC,
    **fields,
):
    """A task, its beginning and its examples, of normal inputs and random labels."""
    module = models.build(name, CLASSES, **fields)
    keys = jax.random.split(jax.random.key(0), 3)
    train = Batch(
        jax.random.normal(keys[0], (examples, *shape)),
        jax.random.randint(keys[1], (examples,), 0, CLASSES),
    )
    recipe = recipes.Recipe(EPOCHS, batch_size, 0.01, weight_decay=5e-4)
    task = training.Task(models.train_fn(module), models.apply_fn(module), recipe, method=method)
    variables = models.init(module, keys[2], train.inputs[:1])
    return task, training.start(task, variables, keys[2], examples), train


class Loop:
    """Our loop over one epoch of a training split, again and again."""

    def __init__(self, task, progress, train):
        self.programs = steps.programs_of(task, len(train.labels), 1, meshes.current())
        self.state, self.train = replicates.stack([progress.state]), replicates.stack([train])
        self.order = self.programs.order(self.state.key, jnp.zeros(1, jnp.int32))
        self.scans = steps.scans(self.programs, self.state, self.train, self.order)

    def run(self):
        if self.scans:
            self.state, record = self.programs.scan(self.state, self.train, self.order, np.int32(0))
        else:
            self.state, record = pieces.dispatch(
                self.programs, self.state, self.train, self.order, 0
            )
        return jax.block_until_ready((self.state, record))[1]


def _pytorch_steps(variables, train: Batch, order: np.ndarray):
    """The same steps in PyTorch eager, with its SGD; returns the losses."""
    import torch

    from benchmarks.pytorch import channels_first, network

    torch.set_num_threads(THREADS)
    net = network(variables["params"])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    loss_fn = torch.nn.CrossEntropyLoss()
    x = torch.from_numpy(channels_first(np.array(train.inputs)))
    y = torch.from_numpy(np.array(train.labels)).long()
    indices = [torch.from_numpy(np.array(index)).long() for index in order]

    def run():
        losses = []
        for index in indices:
            optimizer.zero_grad()
            loss = loss_fn(net(x[index]), y[index])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return np.array([float(loss) for loss in losses])

    return run


def small_conv_steps() -> None:
    """Ten steps of Small Conv at batch 64, SGD with momentum and decay, the same on both sides."""
    task, progress, train = started("small_conv", STEPS * BATCH, BATCH, (32, 32, 3))
    variables = jax.tree.map(np.array, progress.state.variables)
    ours = Loop(task, progress, train)
    sides = {"ours": ours.run}
    if importlib.util.find_spec("torch") is None:
        print("\nPyTorch is not installed: ours alone")
    else:
        sides["PyTorch eager"] = _pytorch_steps(variables, train, np.asarray(ours.order[0]))
        # A rounding may decide which of two pooled values is the larger, and where a gradient goes:
        # losses of some 2.3 then differ by 1e-5 of them or more, and by 1e-7 before.
        np.testing.assert_allclose(ours.run()[0][0], sides["PyTorch eager"](), rtol=1e-3)
    times = timing.in_turns(sides)
    title = f"{STEPS} training steps, Small Conv 32x32, batch {BATCH}"
    timing.report(title, times, list(sides)[-1])
    print(f"  ours: {1e3 * STEPS * BATCH / min(times['ours']):,.0f} images/s at best")


def _products():
    """The matrix products of one MLP epoch, scanned: forward, kernels' and inputs' gradients."""
    pairs = list(zip(WIDTHS[:-1], WIDTHS[1:], strict=True))
    keys = jax.random.split(jax.random.key(0), 3)
    kernels = [jax.random.normal(keys[0], pair) for pair in pairs]
    inputs = [jax.random.normal(keys[1], (EPOCH_BATCH, a)) for a, _ in pairs]
    outputs = [jax.random.normal(keys[2], (EPOCH_BATCH, b)) for _, b in pairs]

    def step(carry, _):
        scale = 1.0 + carry * 1e-30
        total = 0.0
        for layer, (kernel, x, d) in enumerate(zip(kernels, inputs, outputs, strict=True)):
            products = [(x * scale) @ kernel, x.T @ (d * scale)]
            products += [(d * scale) @ kernel.T] if layer else []
            total += sum(product[0, 0] for product in map(jax.lax.optimization_barrier, products))
        return total * 1e-30, None

    steps = EPOCH_EXAMPLES // EPOCH_BATCH
    return jax.jit(lambda: jax.lax.scan(step, 0.0, length=steps)[0])


def mlp_epoch() -> None:
    """An epoch of MLP-300-100 against the same multiply-accumulates as plain products."""
    task, progress, train = started(
        "mlp", EPOCH_EXAMPLES, EPOCH_BATCH, (28, 28, 1), widths=WIDTHS[1:-1], activation="tanh"
    )
    ours, products = Loop(task, progress, train), _products()
    times = timing.in_turns({"our epoch": ours.run, "its matrix products": products})
    timing.report(
        f"an epoch of MLP-300-100, {EPOCH_EXAMPLES:,} examples, batch {EPOCH_BATCH}",
        times,
        "its matrix products",
    )
    macs = EPOCH_EXAMPLES * (
        3 * sum(a * b for a, b in zip(WIDTHS[:-1], WIDTHS[1:], strict=True)) - 784 * 300
    )
    print(f"  products: {2e-6 * macs / min(times['its matrix products']):,.0f} GFLOP/s at best")


def main() -> None:
    """Prints both comparisons."""
    print(f"jax {jax.__version__} on {jax.default_backend()}, {THREADS} threads")
    small_conv_steps()
    mlp_epoch()


if __name__ == "__main__":
    main()

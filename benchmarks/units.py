"""Units on CPU: the graphs of large networks, unit scores, and one whole probe against PyTorch.

    python -m benchmarks.units

A graph is compared with `jax.make_jaxpr` of the same function, which is traced anew every time;
the scores with one forward and backward pass; the probe (12 curves, 6 fractions, 5 layer sets,
1,000 examples, Small Conv) with the same work in PyTorch eager, one variant after another. The
penalties of both sides are compared before the times.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks import networks, timing
from pruning_jax import criteria, curvature, losses, models, tracing, units
from pruning_jax.analysis import variants
from pruning_jax.types import Batch

CLASSES, EXAMPLES, THREADS, TOLERANCE = 10, 1_000, 2, 1e-4
CRITERIA = ("random", "weight_norm", "rs", "mrs", "abs_rs", "abs_mrs")
FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5, "one")
LAYERS = ("params/Conv_0", "params/Conv_1", "params/Conv_2", "params/Dense_0", "params/Dense_1")
SETS = {
    "all": LAYERS,
    "firstconv": LAYERS[:1],
    "midconv": LAYERS[1:2],
    "lastconv": LAYERS[2:3],
    "firstdense": LAYERS[3:4],
}


def graph_of(name: str) -> None:
    """Prints how the trace and unit graph of a large network compare with its jaxpr."""
    module, variables, inputs = networks.shapes(name)

    def anew() -> Callable:
        """A function that JAX has no jaxpr of yet."""
        return lambda variables, inputs: module.apply(variables, inputs)

    def jaxpr() -> None:
        jax.make_jaxpr(anew())(variables, inputs)

    def graph() -> None:
        units.graph(tracing.trace(anew(), variables, inputs))

    times = timing.in_turns({"trace and unit graph": graph, "jax.make_jaxpr": jaxpr})
    timing.report(name, times, "jax.make_jaxpr")


def small_conv(examples: int) -> tuple[Any, Any, Batch]:
    """Small Conv with biases that are not zero, and random examples."""
    module = models.build("small_conv", CLASSES)
    keys = jax.random.split(jax.random.key(0), 4)
    inputs = jax.random.normal(keys[0], (examples, 32, 32, 3))
    labels = jax.random.randint(keys[1], (examples,), 0, CLASSES)
    variables = models.init(module, keys[2], inputs)
    noise = jax.random.normal(keys[3])
    variables = jax.tree.map(lambda p: p + 0.1 * noise if p.ndim == 1 else p, variables)
    return models.apply_fn(module), variables, Batch(inputs, labels)


def scores(examples: int = EXAMPLES) -> None:
    """Prints how all six unit scores compare with one forward and backward pass."""
    apply_fn, variables, batch = small_conv(examples)
    graph = units.graph(tracing.trace(apply_fn, variables, batch.inputs[:2]))

    def loss(variables: Any) -> jax.Array:
        logits = apply_fn(variables, batch.inputs)
        return losses.cross_entropy.value(logits, batch.labels).mean()

    both = jax.jit(jax.value_and_grad(loss))

    def six() -> list:
        statistics = curvature.unit_statistics(graph, variables, batch)
        key = jax.random.key(0)
        return [
            criteria.unit_scores(name, graph, variables, statistics=statistics, key=key)
            for name in CRITERIA
        ]

    times = timing.in_turns({"six scores": six, "forward and backward": lambda: both(variables)})
    timing.report(f"Small Conv, {examples:,} examples", times, "forward and backward")


class Probe:
    """One probe on both sides."""

    def __init__(self, examples: int = EXAMPLES) -> None:
        import torch

        from benchmarks.pytorch import channels_first, network

        torch.set_num_threads(THREADS)
        self.apply_fn, self.variables, self.batch = small_conv(examples)
        self.graph = units.graph(
            tracing.trace(self.apply_fn, self.variables, self.batch.inputs[:2])
        )
        self.net = network(self.variables["params"])
        self.x = torch.from_numpy(channels_first(np.array(self.batch.inputs)))
        self.y = torch.from_numpy(np.array(self.batch.labels)).long()
        self.random = criteria.unit_scores(
            "random", self.graph, self.variables, key=jax.random.key(1)
        )

    def variants(self, scored: dict[str, dict]) -> Iterator[dict[str, np.ndarray]]:
        """The unit masks of every criterion, layer set and fraction."""
        for score in scored.values():
            for layers in SETS.values():
                own = {name: score[name] for name in layers}
                for fraction in FRACTIONS:
                    if fraction == "one":
                        kept = units.from_scores(own, count=1, scope="global", normalise=True)
                    else:
                        kept = units.from_scores(own, fraction)
                    yield {name: np.asarray(mask) for name, mask in kept.items()}

    def ours(self) -> np.ndarray:
        """Losses without and with replacement, shape (variants, 2)."""
        statistics = curvature.unit_statistics(self.graph, self.variables, self.batch)
        scored = {
            name: criteria.unit_scores(name, self.graph, self.variables, statistics=statistics)
            for name in CRITERIA[1:]
        }
        _, measured = variants.measure(
            self.graph,
            self.variables,
            self.batch,
            self.variants({"random": self.random} | scored),
            means=statistics.means,
        )
        return np.array([(m.zero.loss, m.mean.loss) for m in measured])

    def theirs(self) -> np.ndarray:
        """The same in PyTorch, each variant by itself."""
        import torch

        scored, means = self._scored()
        found = []
        with torch.no_grad():
            state = {k: v.clone() for k, v in self.net.state_dict().items()}
            for kept in self.variants({"random": self.random} | scored):
                for replaced in (False, True):
                    self._prune(kept, means if replaced else None)
                    loss = torch.nn.functional.cross_entropy(self.net(self.x), self.y)
                    found.append(float(loss))
                    self.net.load_state_dict(state)
        return np.array(found).reshape(-1, 2)

    def _layers(self) -> list:
        return [m for m in self.net if hasattr(m, "weight")]

    def _scored(self) -> tuple[dict[str, dict], dict]:
        import torch

        kept, hooks = [], []
        for module in self.net:
            if isinstance(module, torch.nn.ReLU):
                hooks.append(module.register_forward_hook(lambda m, i, out: kept.append(out)))
        total = torch.nn.functional.cross_entropy(self.net(self.x), self.y, reduction="sum")
        gradients = torch.autograd.grad(total, kept)
        for hook in hooks:
            hook.remove()
        scored: dict[str, dict] = {name: {} for name in CRITERIA[1:]}
        means = {}
        layers = zip(LAYERS, self._layers(), kept, gradients, strict=False)
        for name, layer, a, g in layers:
            places = tuple(range(2, a.ndim))
            mean = a.mean((0, *places), keepdim=True)
            removal, shift = -a * g, (mean - a) * g
            if places:
                removal, shift = removal.mean(places), shift.mean(places)
            rows = {
                "weight_norm": layer.weight.flatten(1).norm(dim=1),
                "rs": removal.mean(0),
                "mrs": shift.mean(0),
                "abs_rs": removal.abs().mean(0),
                "abs_mrs": shift.abs().mean(0),
            }
            for criterion, row in rows.items():
                scored[criterion][name] = jax.numpy.asarray(row.detach().numpy())
            means[name] = mean.flatten().detach()
        return scored, means

    def _prune(self, kept: dict[str, np.ndarray], means: dict | None) -> None:
        import torch

        layers = self._layers()
        for place, name in enumerate(LAYERS):
            if name not in kept or kept[name].all():
                continue
            keep = torch.from_numpy(np.array(kept[name]))
            if means is not None:
                following = layers[place + 1]
                weight = (
                    following.weight.flatten(2).sum(2)
                    if following.weight.ndim > 2
                    else (following.weight.reshape(len(following.weight), len(keep), -1).sum(2))
                )
                following.bias += weight @ (means[name] * ~keep)
        for place, name in enumerate(LAYERS):
            if name in kept:
                keep = torch.from_numpy(np.array(kept[name]))
                layers[place].weight[~keep] = 0.0
                layers[place].bias[~keep] = 0.0


def largest_difference(examples: int = EXAMPLES) -> float:
    """The largest relative difference of a loss between the two sides of a probe."""
    probe = Probe(examples)
    ours, theirs = probe.ours(), probe.theirs()
    return float(np.max(np.abs(ours - theirs) / np.abs(theirs)))


def probe(examples: int = EXAMPLES, runs: int = 3) -> None:
    """Prints how a probe compares with PyTorch, or why it is not compared."""
    if importlib.util.find_spec("torch") is None:
        print("probe against PyTorch: skipped, PyTorch is not installed")
        return
    sides = Probe(examples)
    difference = float(np.max(np.abs(sides.ours() / sides.theirs() - 1)))
    if difference > TOLERANCE:
        raise SystemExit(f"the losses differ by {difference:.1e}, over {TOLERANCE}")
    times = timing.in_turns({"ours": sides.ours, "PyTorch eager": sides.theirs}, runs)
    count = math.prod(map(len, (CRITERIA, FRACTIONS, SETS)))
    title = f"a probe of {2 * count} variants, {examples:,} examples; losses differ by "
    timing.report(title + f"{difference:.0e}", times, "PyTorch eager")


def main() -> None:
    """Prints the three comparisons."""
    print(f"jax {jax.__version__} on {jax.default_backend()}")
    for name in networks.NETWORKS:
        graph_of(name)
    scores()
    probe()


if __name__ == "__main__":
    main()

"""Global selection among 25 million scores, against a full sort and against a bare partition.

    python -m benchmarks.selection

The results are compared first, then the methods are timed in turns. `jnp.sort` and
`numpy.partition` find the threshold alone; the package also checks that the scores are finite,
makes the masks, breaks ties and refuses empty layers.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from pruning_jax import masks, selection

SPARSITY = 0.9


def methods(scores: jax.Array, count: int) -> dict[str, Callable[[], jax.Array | np.ndarray]]:
    """Ways to the masks without the `count` lowest scores, or to their threshold alone."""

    @jax.jit
    def by_sort(scores: jax.Array) -> jax.Array:
        return jnp.sort(scores)[count - 1]

    return {
        "masks.from_scores": lambda: masks.from_scores({"a": scores}, SPARSITY)["a"],
        "bit by bit, on the device": lambda: selection.count_bitwise(
            [scores], [None], jnp.uint32(count)
        )[0],
        "numpy.partition": lambda: np.partition(np.asarray(scores), count - 1)[count - 1],
        "jnp.sort": lambda: by_sort(scores),
    }


def main(argv: list[str] | None = None) -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=25_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(argv)

    rank = np.random.default_rng(0).permutation(arguments.size).astype(np.uint32)
    host = (rank + np.float32(1.0).view(np.uint32)).view(np.float32)
    scores, count = jnp.asarray(host), round(SPARSITY * arguments.size)
    runs = methods(scores, count)
    for name, run in runs.items():
        result = np.asarray(run())
        mask = result if result.dtype == bool else host > result
        if not np.array_equal(mask, rank >= count):
            raise SystemExit(f"{name} removes other weights than the {count:,} lowest")
    print(f"{arguments.size:,} scores, the same {count:,} removed by every method")

    timing.report(
        f"the threshold among {arguments.size:,} scores",
        timing.in_turns(runs, arguments.repeats),
        "jnp.sort",
    )


if __name__ == "__main__":
    main()

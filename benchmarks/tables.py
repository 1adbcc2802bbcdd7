"""What a job costs on top of its work, by how many rows there are: `python -m benchmarks.tables`.

A job asks whether it is done, adds its row, and logs an epoch of its training; a training that is
continued forgets what it logged beyond its checkpoint, where there is nothing.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pruning_jax.lab import records, results
from pruning_jax.lab.tables import Row

ROWS = (100, 1_000, 10_000, 100_000)
JOBS = 200


def job(number: int) -> records.Record:
    """One of many, named as a pruning is."""
    own = {"criterion": "quadratic", "sparsity": 0.98847, "stages": 140, "schedule": "exponential"}
    return {"phase": "pruned", "workload": "mlp_mnist", "seed": number, "epoch": "best", **own}


FOUND = {f"{split}_{what}": 0.123456789 for split in ("train", "test") for what in ("loss", "acc")}


def milliseconds(rows: int) -> list[float]:
    """What each of `JOBS` jobs takes in a run that has so many rows of both kinds."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("results.jsonl", "metrics.jsonl"):
            lines = (Row(job(number), FOUND)._asdict() for number in range(rows))
            (Path(folder) / name).write_text(records.to_lines(lines))
        (Path(folder) / "config.json").write_text('{"config": {}, "study": "s"}')
        found = []
        with results.open_run(folder, {}, study="s") as run:
            for number in range(rows, rows + JOBS):
                begin = time.perf_counter()
                if job(number) not in run.table:
                    run.forget([job(number) | {"step": 2}])
                    run.log(job(number) | {"step": 1}, FOUND)
                    run.add([Row(job(number), FOUND)])
                found.append(1e3 * (time.perf_counter() - begin))
        return found


def main(_: Sequence[str] = ()) -> None:
    """Prints a line a number of rows."""
    print("what a job costs on top of its work, by the rows there are")
    for rows in ROWS:
        found = sorted(milliseconds(rows))
        most = found[int(0.95 * len(found))]
        print(f"  {rows:>7,} rows {statistics.median(found):6.2f} ms median, 95 % under {most:.2f}")


if __name__ == "__main__":
    main()

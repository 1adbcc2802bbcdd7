"""Every benchmark, one after another: `python -m benchmarks`."""

from benchmarks import ggn, selection, training

for benchmark in (ggn, training, selection):
    benchmark.main()
    print()

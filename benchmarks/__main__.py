"""Every benchmark, one after another: `python -m benchmarks`."""

from benchmarks import ggn, selection, training, units

for benchmark in (ggn, training, selection, units):
    benchmark.main()
    print()

"""Every benchmark, one after another: `python -m benchmarks`."""

from benchmarks import ggn, landscape, selection, training, units

for benchmark in (ggn, training, selection, units, landscape):
    benchmark.main()
    print()

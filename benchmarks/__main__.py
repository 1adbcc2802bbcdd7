"""Every benchmark, one after another: `python -m benchmarks`."""

from benchmarks import compact, ggn, importing, landscape, selection, training, units
from benchmarks.growth import command as growth

for benchmark in (importing, ggn, training, selection, units, compact, landscape, growth):
    benchmark.main()
    print()

"""Every benchmark, one after another: `python -m benchmarks`."""

from benchmarks import (
    compact,
    ggn,
    importing,
    landscape,
    methods,
    selection,
    tables,
    training,
    units,
)
from benchmarks.growth import command as growth

EVERY = (importing, ggn, training, methods, selection, units, compact, landscape, tables, growth)

for benchmark in EVERY:
    benchmark.main()
    print()

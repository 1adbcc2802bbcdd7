"""Every benchmark, one after another: `python -m benchmarks`."""

from benchmarks import ggn, selection, training

if __name__ == "__main__":
    for benchmark in (ggn, training, selection):
        benchmark.main()
        print()

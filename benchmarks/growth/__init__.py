"""How time and memory grow with the work: `python -m benchmarks.growth`."""

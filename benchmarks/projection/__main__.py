"""`python -m benchmarks.projection`: see the package."""

from benchmarks import projection

if __name__ == "__main__":
    raise SystemExit(projection.main())

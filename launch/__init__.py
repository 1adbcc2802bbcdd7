"""Command lines, run from the repository's root as ``python -m launch.NAME``."""

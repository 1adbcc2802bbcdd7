"""Sweeps of runs: here or on Slurm, watched and gathered; `launch.sweep` is their command line."""

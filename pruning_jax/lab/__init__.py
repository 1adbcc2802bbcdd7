"""Running things: jobs and trainings, tables, run directories, checkpoints, meshes, sweeps."""

"""Running things: run directories, checkpoints, meshes, replicates, blocks, processes, sweeps."""

"""Asking Slurm: steps, batch options, the queue, the allocation. Knows nothing of experiments under way."""

"""Deployments that the matcher chooses from simulation alone, beside the best that were published."""

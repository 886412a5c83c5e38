"""Simulation held to published measurements of real deployments, row by row."""

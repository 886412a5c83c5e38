"""Deployments alive: the controller, its jobs, and the processes of one experiment."""

"""A results folder to things that are handed around: pictures, pages, notebooks, deployments."""

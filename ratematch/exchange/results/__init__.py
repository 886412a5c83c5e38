"""Measurements of other tools, in and out."""

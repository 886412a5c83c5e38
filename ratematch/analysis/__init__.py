"""A results folder to its analysis: rows, fronts, and two folders side by side."""

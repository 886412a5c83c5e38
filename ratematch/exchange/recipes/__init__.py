"""Recipes of other tools to sweep files."""

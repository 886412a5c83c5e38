"""Analyses to pictures and tables: Pareto plots, CSV and JSON, terminal views."""

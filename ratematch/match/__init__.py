"""Figures to decisions: curves, ctx:gen ratio, fronts, gap, speed-up. Pure."""

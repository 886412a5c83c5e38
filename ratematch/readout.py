"""A results folder to its Analysis: what ``ratematch pareto`` shows and what the end-to-end stage is chosen from."""

from __future__ import annotations

from dataclasses import replace

from ratematch.errors import ResultsError
from ratematch.match.analysis import analyze
from ratematch.match.points import Analysis
from ratematch.plan.constraints import Constraints, Percentile
from ratematch.store import Results, read_json, write_json

LIMITS = "limits.json"


def write_limits(results: Results, name: str, constraints: Constraints, max_gpus: int) -> None:
    """Keep what an analysis needs of the sweep file, so that the folder can be read without the file."""
    content = {
        "name": name,
        "max_gpus": max_gpus,
        "ttft_ms": constraints.ttft_ms,
        "tpot_ms": constraints.tpot_ms,
        "percentile": constraints.percentile,
    }
    write_json(results.path / LIMITS, content)


def analyze_results(
    results: Results,
    *,
    ttft_ms: float | None = None,
    tpot_ms: float | None = None,
    percentile: Percentile | None = None,
    max_gpus: int | None = None,
) -> Analysis:
    """Match and compare all that was measured; limits that are given replace the sweep's.

    Raises:
        ResultsError: no limits.json, nothing measured yet, or emulated and real results in one folder.
    """
    file = results.path / LIMITS
    if not file.exists():
        raise ResultsError(f"{results.path}: no {LIMITS} here; give a folder that `ratematch sweep` made")
    kept = read_json(file)
    constraints = Constraints(kept["ttft_ms"], kept["tpot_ms"], kept["percentile"])
    if ttft_ms is not None:
        constraints = replace(constraints, ttft_ms=ttft_ms)
    if tpot_ms is not None:
        constraints = replace(constraints, tpot_ms=tpot_ms)
    if percentile is not None:
        constraints = replace(constraints, percentile=percentile)
    measured = results.measured()
    if not measured:
        raise ResultsError(f"{results.path}: no load is measured yet; run `ratematch sweep` again to go on")
    return analyze(measured, sweep=kept["name"], constraints=constraints, max_gpus=max_gpus or kept["max_gpus"])

"""A results folder to its figures and its Analysis: what ``ratematch pareto`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ratematch.errors import ResultsError
from ratematch.loadgen.recordfile import read_records
from ratematch.match.analysis import analyze
from ratematch.match.points import Analysis
from ratematch.measure.measurement import Measurement, measure_load, to_json
from ratematch.measure.records import RequestRecord
from ratematch.plan.constraints import Constraints, Percentile
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load
from ratematch.store import Results, read_json, write_json

LIMITS = "limits.json"

ACCEPTANCE_EDGE = 0.02
"""How near to 1 (nothing accepted) or to MTP + 1 (everything) an acceptance length is not believed."""

EMULATOR_LATE = 0.05
"""Share of its busy time by which the emulator may end steps late before its figures are not believed."""


def measure_run(
    records: Sequence[RequestRecord], load: Load, experiment: Experiment, run: dict[str, Any]
) -> Measurement:
    """The figures of one load: its records, judged together with what ``loadrun.json`` says of the servers.

    An emulator that could not keep its own step times makes the load not valid: the figures would be this
    machine's, not those of the GPU it stands for.
    """
    figures = measure_load(records, load, experiment.workload)
    late = [
        f"the emulator {name} ended its steps {spent['late_s'] + spent['lost_s']:.2f} s late "
        f"in {spent['busy_s']:.2f} s: this machine is too slow for the load"
        for name, spent in run.get("emulator", {}).items()
        if spent["late_s"] + spent["lost_s"] > EMULATOR_LATE * spent["busy_s"]
    ]
    warnings = (*figures.warnings, *_doubt_acceptance(experiment, figures))
    return replace(figures, valid=figures.valid and not late, reasons=(*figures.reasons, *late), warnings=warnings)


def _doubt_acceptance(experiment: Experiment, figures: Measurement) -> list[str]:
    """Known trouble: MTP that accepts nothing, or everything, which no real text does (contract, section 9)."""
    mtp, measured = experiment.deployment.mtp, figures.acceptance_length
    if not mtp or experiment.stage == "ctx" or not figures.num_ok:
        return []
    if measured is None:
        return ["MTP is on and the server does not tell how many drafts it accepts"]
    if measured < 1 + ACCEPTANCE_EDGE or measured > mtp + 1 - ACCEPTANCE_EDGE:
        told = f"MTP {mtp} yields {measured:.2f} tokens an iteration"
        return [f"{told}: nothing or everything is accepted; check the draft layers and the prompts"]
    return []


def remeasure(results: Results) -> int:
    """Compute every finished load's figures anew from its records; returns how many loads that were.

    Raises:
        ResultsError: records that cannot be read. DiskFull: no room for the new figures (the old ones stay).
    """
    count = 0
    for folder in results.folders():
        experiment = folder.read()
        for stored in folder.loads():
            records = read_records(stored.folder / "records.parquet")
            figures = measure_run(records, stored.load, experiment, stored.run)
            write_json(stored.folder / "measurement.json", to_json(figures))
            count += 1
    return count


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

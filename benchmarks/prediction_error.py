"""How far predictions are from end-to-end runs, before and after calibration: the table of docs/rate-matching.md.

    python benchmarks/prediction_error.py             run benchmarks/prediction.yaml on the emulator (three minutes)
    python benchmarks/prediction_error.py RESULTS     of a sweep that is there already

Prints a table in Markdown and root mean squares. Each run is predicted at its own concurrency; after calibration with
factors fitted to the other runs.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from ratematch.analysis.analyze import analyze_results
from ratematch.match.points import Calibration, CalibrationRow
from ratematch.store.folder import Results

SWEEP = Path(__file__).with_name("prediction.yaml")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("results", nargs="?", type=Path)
    asked = options.parse_args()
    if asked.results is not None:
        print_tables(asked.results)
        return
    with tempfile.TemporaryDirectory(prefix="ratematch-") as folder:
        results = Path(folder) / "prediction"
        command = [sys.executable, "-m", "ratematch", "sweep", str(SWEEP), "-o", str(results)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        print_tables(results)


def print_tables(results: Path) -> None:
    analysis = analyze_results(Results.open(results))
    kind = "EMULATED, not measured on GPUs" if analysis.emulated else "measured"
    for workload in analysis.workloads:
        found = workload.calibration
        if found is None:
            print(f"{workload.workload}: no end-to-end run of servers measured apart")
            continue
        print(f"{analysis.model} on {analysis.gpu}, ISL/OSL {workload.workload} ({kind})\n")
        print_table(found)


def print_table(found: Calibration) -> None:
    print("| deployment | N | tok/s/GPU | before | after | TPOT ms | before | after |")
    print("|---|---|---|---|---|---|---|---|")
    for row in sorted(found.rows, key=lambda row: (row.label, row.concurrency)):
        speed = f"{row.tok_s_gpu:.1f} | {off(row.tok_s_gpu_before, row.tok_s_gpu)} | "
        speed += off(row.tok_s_gpu_after, row.tok_s_gpu)
        tpot = f"{row.tpot_ms:.2f} | {off(row.tpot_before_ms, row.tpot_ms)} | {off(row.tpot_after_ms, row.tpot_ms)}"
        print(f"| {row.label} | {row.concurrency:.0f} | {speed} | {tpot} |")
    rms = [
        root_mean_square(found.rows, lambda row: row.tok_s_gpu_before / row.tok_s_gpu - 1),
        root_mean_square(found.rows, lambda row: row.tok_s_gpu_after / row.tok_s_gpu - 1),
        root_mean_square(found.rows, lambda row: row.tpot_before_ms / row.tpot_ms - 1),
        root_mean_square(found.rows, lambda row: row.tpot_after_ms / row.tpot_ms - 1),
    ]
    print(f"| root mean square | | | {rms[0]:.1%} | {rms[1]:.1%} | | {rms[2]:.1%} | {rms[3]:.1%} |")
    print(f"\nctx x {found.ctx:.2f}, gen x {found.gen:.3f}, bunching {found.bunching:.2f}\n")


def off(predicted: float, measured: float) -> str:
    return f"{predicted / measured - 1:+.1%}"


def root_mean_square(rows: Sequence[CalibrationRow], of: Callable[[CalibrationRow], float]) -> float:
    return math.sqrt(fmean(of(row) ** 2 for row in rows))


if __name__ == "__main__":
    main()

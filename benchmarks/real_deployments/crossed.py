"""What the learnt values are worth on deployments that they were not fitted on: either half simulated from the other.

    python -m benchmarks.real_deployments.crossed [--rows FILE]

Blackwell rows of up to 22 million output tokens at ten requests a slot, about a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from ratematch.emulator.efficiency import Efficiency
from ratematch.plan.model import Gpu, Model

from .compare import FIGURES
from .fit import BLACKWELL, SETS, blackwell_values, efficiency, fit, halves
from .learntfile import FORMATS, Value, Vector
from .simulated import REQUESTS_PER_SLOT, simulate
from .table import ROWS, Row, read_rows

MOST_TOKENS = 22e6


def _fitted(
    values: Sequence[Value], x: Vector, gpu: Gpu, model: Model, precision: str, backend: str = "", dp: bool = False
) -> Efficiency:
    """In place of :func:`ratematch.emulator.efficiency.efficiency_of`: one half's values."""
    usual = next(usual for gpus, usual, _, _ in SETS if gpu.name in gpus)
    name = (backend.upper() or usual[precision]) + ("" if dp else "_TP")
    return efficiency(values, x, {there: here for here, there in FORMATS.items()}[precision], name)


def ratios(rows: Sequence[Row]) -> list[list[float]]:
    """Predicted over measured figures of each row, with the values of the package."""
    found = [(row, simulate(row)) for row in rows if row.concurrency * row.osl * REQUESTS_PER_SLOT <= MOST_TOKENS]
    return [[getattr(ours, name) / getattr(row, name) for name in FIGURES] for row, ours in found]


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate either half of the deployments by the other's values.")
    parser.add_argument("--rows", type=Path, default=ROWS, help="a table of measured rows")
    rows = [row for row in read_rows(parser.parse_args().rows) if row.gpu in BLACKWELL]
    values, parts = blackwell_values(), halves(rows)
    crossed: list[list[float]] = []
    for place, part in enumerate(parts):
        x = fit(parts[1 - place], values)
        with patch("ratematch.emulator.assembly.efficiency_of", partial(_fitted, values, x)):
            crossed += ratios(part)
    for what, found in (("fitted on the other half", crossed), ("fitted on all", ratios(rows))):
        errors = abs(np.array(found) - 1)
        said = [
            f"{name} {middle:.1%}, p90 {most:.0%}"
            for name, middle, most in zip(
                FIGURES, np.median(errors, 0), np.quantile(errors, 0.9, axis=0), strict=True
            )
        ]
        print(f"{what}, {len(found)} rows: median {'; '.join(said)}")


if __name__ == "__main__":
    main()

"""What loads of dense bf16 models on H200s say of the constants of a step: ``ratematch/data/efficiency-dense.yaml``.

    python -m benchmarks.real_deployments.dense [--results FOLDER]... [--write]

Four values, fitted on the ctx and gen loads of results folders: the share of memory bandwidth that reads of weights
and caches reach, the fixed times of a layer and of a step (one factor on both, which loads of one size of step cannot
tell apart), and the share of the peak that matrix products reach. None is of one model: each folder's model is also
predicted from a fit on the others. Loads of aggregated servers are predicted, not fitted.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from unittest.mock import patch

import numpy as np

from ratematch.emulator.efficiency import Efficiency
from ratematch.plan.experiment import DEFAULT_STEP_TIMES
from ratematch.simulate.calibrationpoints import MeasuredSpeed, log_measured_over
from ratematch.simulate.forecasts import forecast_experiment

from .carried import FOLDERS, Measured, read_folder
from .fit import HOPPER, PRIOR, TIME_PRIOR, minimise
from .learntfile import Vector

TARGET = Path(str(resources.files("ratematch.data").joinpath("efficiency-dense.yaml")))
VALUES = ("memory", "gemm", "layer_s", "step_s")
HEAD = """\
# What kernels reach with dense models (grouped-query attention, MLPs without experts), by weight format, where loads
# that ratematch measured say it. Everything not named here keeps the default of ratematch/emulator/efficiency.py.
# `value` is used; `between`: the lowest and highest of fits without one of the models.
# Written by: python -m benchmarks.real_deployments.dense --write
"""


def efficiency(x: Vector) -> Efficiency:
    """``x``: logs of factors on the memory share, on fixed times and on the share of matrix products."""
    memory, fixed, gemm = (float(each) for each in np.exp(x))
    plain = Efficiency()
    return replace(
        plain,
        memory=plain.memory * memory,
        layer_s=plain.layer_s * fixed,
        step_s=plain.step_s * fixed,
        gemm=plain.gemm * gemm,
    )


def logs(speeds: Sequence[MeasuredSpeed], x: Vector) -> Vector:
    """Log of measured over predicted speed of each load."""
    with patch("ratematch.emulator.assembly.efficiency_of", lambda *_: efficiency(x)):
        forecasts = [forecast_experiment(each.experiment, each.cluster, DEFAULT_STEP_TIMES) for each in speeds]
    return np.array([log_measured_over(each, said[each.load]) for each, said in zip(speeds, forecasts, strict=True)])


def fit(folders: Sequence[Measured]) -> Vector:
    """Robust fit of the three logs, each drawn towards its default as if one load said so."""
    speeds = [speed for one in folders for speed in one.speeds]
    priors = np.array([PRIOR, TIME_PRIOR, PRIOR])
    return minimise(lambda x: np.concatenate([logs(speeds, x), priors * x]), 3, np.log([1.6, 4.0, 1.5]))


def without_it(one: Measured, x: Vector) -> list[str]:
    """How far ``one`` is from predictions by the defaults, and by ``x``, a fit on the others only."""
    stages = {stage: [each for each in one.speeds if each.experiment.stage == stage] for stage in ("ctx", "gen")}
    lines = []
    for stage, speeds in {**stages, "aggregated": list(one.aggregated)}.items():
        if speeds:
            before, after = (abs(np.expm1(-logs(speeds, each))) for each in (np.zeros(3), x))
            words = [f"{np.median(each):.1%} (worst {max(each):.1%})" for each in (before, after)]
            lines.append(f"{one.model}, {len(speeds)} {stage} loads: {words[0]} to {words[1]}")
    return lines


def written(used: Efficiency, others: Sequence[Efficiency], models: Sequence[str]) -> str:
    """The file."""
    source = (
        f"Loads of {', '.join(models)} with bf16 weights on one H200 each, by vLLM (results/README.md): request "
        "rates of context servers and TPOT of generation servers. Between: without one of the models."
    )
    lines = [HEAD + f"- gpus: [{', '.join(HOPPER)}]", "  models: dense", "  source: >-"]
    lines += textwrap.wrap(source, 110, initial_indent="    ", subsequent_indent="    ")
    lines.append("  bf16:")
    for name in VALUES:
        value, *between = (f"{getattr(each, name):.3g}" for each in (used, *others))
        low, high = min(between, key=float), max(between, key=float)
        lines.append(f"    {name}: {{value: {value}, between: [{low}, {high}]}}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit what dense models in bf16 reach on H200s.")
    parser.add_argument("--results", type=Path, action="append", help="a results folder; several times [the H200's]")
    parser.add_argument("--write", action="store_true", help=f"write {TARGET.name}")
    args = parser.parse_args()
    folders = [read_folder(folder) for folder in args.results or FOLDERS]
    others = []
    for one in folders:
        x = fit([other for other in folders if other is not one])
        others.append(efficiency(x))
        print("\n".join(without_it(one, x)), flush=True)
    text = written(efficiency(fit(folders)), others, [one.model for one in folders])
    print(text)
    if args.write:
        TARGET.write_text(text)


if __name__ == "__main__":
    main()

"""A calibration as a file: what ``ratematch calibrate`` writes and ``--calibration`` reads."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ratematch.engines.steptimes import PARTS, correction_of
from ratematch.errors import UserError
from ratematch.inputs.textfile import read_text_file
from ratematch.plan.experiment import DEFAULT_STEP_TIMES
from ratematch.plan.memory import default_precision
from ratematch.plan.numbers import shorten
from ratematch.plan.precision import with_precision
from ratematch.plan.sweep import Sweep
from ratematch.simulate.calibration import Calibration

FORMAT = 2
MOST_BYTES = 4_000_000


def calibration_to_json(calibration: Calibration) -> dict[str, Any]:
    """Everything of a calibration as plain JSON values, and what follows from it for those who read the file."""
    return {
        "calibration": FORMAT,
        "step_times": calibration.correction.name,
        "intervals": {part: list(calibration.factor_interval(part)) for part in PARTS},
        "families": [asdict(each) | {"words": each.words} for each in calibration.families],
        **asdict(calibration),
    }


def read_calibration(path: Path) -> Calibration:
    """The calibration in the file at ``path``.

    Raises:
        UserError: it cannot be read, or is none; one line says what is wrong.
    """
    text = read_text_file(path, MOST_BYTES)
    right = "give what `ratematch calibrate -o FILE` wrote"
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("calibration") != FORMAT:
            raise ValueError("no calibration of a form that this version knows")
        calibration = msgspec.convert(content, Calibration)
        _check(calibration)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shorten(str(path))}: {str(error).splitlines()[0]} ({right})") from None
    return calibration


def _check(calibration: Calibration) -> None:
    size = len(PARTS) + len(calibration.correction.families)
    covariance = calibration.covariance
    if len(covariance) != size or {len(row) for row in covariance} != {size}:
        raise ValueError(f"covariance is not of {size} factors")
    matrix = np.array(covariance)
    sds = np.array([*asdict(calibration.deviations).values(), calibration.scale, calibration.widened])
    if not np.isfinite(matrix).all() or np.linalg.eigvalsh(matrix).min() < -1e-9:
        raise ValueError("covariance is not that of a calibration")
    if not np.isfinite(sds).all() or sds.min() <= 0:
        raise ValueError("deviations, scale and widened are not those of a calibration")
    if not np.isfinite([*calibration.correction.factors, *dict(calibration.correction.families).values()]).all():
        raise ValueError("a factor is no number")
    if correction_of(calibration.correction.name) is None:
        raise ValueError("gpu, model and precision are no names, or a factor is negative")


def calibrated_sweep(sweep: Sweep, path: Path) -> tuple[Sweep, Calibration]:
    """``sweep`` with the step times of the calibration in the file at ``path``, and the calibration.

    Raises:
        UserError: the file is none, is of another GPU, model, weight format or engine, or the environment names a
            step-time model already.
    """
    calibration = read_calibration(path)
    correction, engine = calibration.correction, sweep.engine.computing
    if calibration.engine not in ("", engine):
        raise UserError(
            f"{path}: the loads behind it are of {calibration.engine}, and this sweep is of {engine}, whose kernels "
            "are others: calibrate by loads of its own"
        )
    if sweep.step_times not in (DEFAULT_STEP_TIMES, correction.name):
        raise UserError(f"{path}: the step-time model {sweep.step_times} is set in the environment: leave one away")
    for precision in dict.fromkeys(workload.precision for workload in sweep.workloads):
        model = with_precision(sweep.model, precision)
        try:
            correction.refuse_other(sweep.cluster.gpu, model.name, default_precision(model, sweep.gpu))
        except ValueError as error:
            other = f"; for the same kinds of layers: ratematch calibrate ... --for-model {model.name}"
            raise UserError(f"{path}: {error}{other if model.name != correction.model else ''}") from None
    return replace(sweep, step_times=correction.name), calibration

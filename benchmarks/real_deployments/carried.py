"""What three measured points of one model are worth for another on the same GPU: each way between results folders.

    python -m benchmarks.real_deployments.carried [--results FOLDER]... [--draws N] [-o docs/accuracy.md]

Every ctx and gen load of each folder is predicted with nothing learnt, from one ctx load and two gen loads of each
other folder's model, and from three other loads of its own. Loads of aggregated servers, which nothing is calibrated
by, are predicted the same ways.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np

from ratematch.emulator import efficiency
from ratematch.engines.steptimes import Correction
from ratematch.inputs.catalog import model_of
from ratematch.plan.experiment import DEFAULT_STEP_TIMES
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import family_name
from ratematch.simulate.calibration import Calibration
from ratematch.simulate.calibrationpoints import (
    MeasuredSpeed,
    calibrate_speeds,
    forecast_slopes,
    log_measured_over,
    speeds_in,
)
from ratematch.simulate.carrying import carry_over
from ratematch.simulate.forecasts import forecast_experiment
from ratematch.store.folder import Results

from .marks import write_between

FOLDERS = [Path("results") / f"h200-qwen3-{size}" for size in ("4b", "8b", "14b", "32b")]
BEGIN, END = "<!-- carried: begin -->", "<!-- carried: end -->"


@dataclass(frozen=True)
class Measured:
    """A results folder: its ctx and gen loads, and those of its aggregated servers."""

    folder: Path
    speeds: tuple[MeasuredSpeed, ...]
    aggregated: tuple[MeasuredSpeed, ...]

    @property
    def model(self) -> str:
        return self.speeds[0].experiment.model


@dataclass(frozen=True)
class Outcome:
    """Log of measured over predicted speed of one load, and what 95 % of such should stay within."""

    log: float
    within: float


@contextmanager
def dense_values_unknown() -> Iterator[None]:
    """As if ``ratematch/data/efficiency-dense.yaml``, which is of these very loads, were not there."""
    others = [entry for entry in efficiency._entries() if entry.get("models") != "dense"]
    with patch.object(efficiency, "_entries", lambda: others):
        efficiency.learnt_for.cache_clear()
        yield
    efficiency.learnt_for.cache_clear()


def read_folder(folder: Path) -> Measured:
    results = Results.open(folder)
    aggregated = [
        MeasuredSpeed(
            stored.experiment, stored.folder.cluster(), each.load, figures.req_s, figures.tpot_ms.mean / 1000
        )
        for stored in results.now().experiments
        for each in stored.loads
        if stored.experiment.stage == "ifb"
        and isinstance(each.load, Concurrency)
        and (figures := each.measurement).valid
        and figures.tpot_ms
    ]
    return Measured(folder, tuple(speeds_in(results)), tuple(aggregated))


def predict(speed: MeasuredSpeed, calibration: Calibration | None) -> Outcome:
    """``speed`` beside its prediction; no calibration: with nothing learnt."""
    steps = DEFAULT_STEP_TIMES if calibration is None else calibration.correction.name
    log = log_measured_over(speed, forecast_experiment(speed.experiment, speed.cluster, steps)[speed.load])
    if calibration is None:
        return Outcome(log, math.nan)
    correction: Correction = calibration.correction
    slopes = forecast_slopes(speed.experiment, speed.cluster, speed.load, correction)
    aggregated = speed.experiment.stage == "ifb"
    stage = "gen" if aggregated else speed.experiment.stage
    family = family_name(stage, speed.experiment.deployment.groups[-1].mapping.label)
    common = calibration.common_sd(slopes, family)
    return Outcome(log, 1.96 * math.hypot(common, calibration.server_sd(aggregated)))


def from_three(
    speed: MeasuredSpeed, source: Measured, rng: np.random.Generator, calibrated: dict[tuple[int, ...], Calibration]
) -> Outcome:
    """From one ctx load and two gen loads of ``source``, none of them ``speed`` itself."""
    ctx, gen = (
        [place for place, each in enumerate(source.speeds) if each.experiment.stage == stage and each is not speed]
        for stage in ("ctx", "gen")
    )
    first, second = sorted(int(place) for place in rng.permutation(len(gen))[:2])
    chosen = ctx[int(rng.integers(len(ctx)))], gen[first], gen[second]
    if chosen not in calibrated:
        calibrated[chosen] = calibrate_speeds([source.speeds[place] for place in chosen], str(source.folder))
    measured, other = model_of(source.speeds[0].experiment), model_of(speed.experiment)
    return predict(speed, carry_over(calibrated[chosen], measured, other))


def run(folders: Sequence[Measured], draws: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    yield from measured_lines(folders)
    yield ""
    yield f"| loads of | nothing learnt | {' | '.join(f'three points of {one.model}' for one in folders)} |"
    yield "|---|---|" + "---|" * len(folders)
    known: dict[str, dict[tuple[int, ...], Calibration]] = {one.model: {} for one in folders}
    for kind in ("ctx and gen", "aggregated"):
        for target in folders:
            speeds = target.speeds if kind == "ctx and gen" else target.aggregated
            if not speeds:
                continue
            cells = [_cell([predict(each, None) for each in speeds])]
            for source in folders:
                drawn = [from_three(each, source, rng, known[source.model]) for each in speeds for _ in range(draws)]
                cells.append(_cell(drawn))
            yield f"| {target.model}, {len(speeds)} {kind} | {' | '.join(cells)} |"


def measured_lines(folders: Sequence[Measured]) -> Iterator[str]:
    """How far off predictions with nothing learnt are, by model and stage: mean and spread over loads."""
    yield "| measured over predicted speed | ctx | gen | aggregated |"
    yield "|---|---|---|---|"
    for one in folders:
        cells = []
        for stage in ("ctx", "gen", "ifb"):
            speeds = (
                one.aggregated if stage == "ifb" else [each for each in one.speeds if each.experiment.stage == stage]
            )
            ratios = [math.exp(predict(each, None).log) for each in speeds]
            said = (
                f"{np.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} loads)"
                if ratios
                else ""
            )
            cells.append(said or "not measured")
        yield f"| {one.model} | {' | '.join(cells)} |"


def _cell(outcomes: Sequence[Outcome]) -> str:
    errors = [abs(math.expm1(-each.log)) for each in outcomes]
    said = f"**{np.median(errors):.1%}** ({max(errors):.0%})"
    if math.isnan(outcomes[0].within):
        return said
    inside = np.mean([abs(each.log) <= each.within for each in outcomes])
    return f"{said}, {inside:.0%} within ±{np.median([math.expm1(each.within) for each in outcomes]):.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Predict loads of one model from three points of another.")
    parser.add_argument("--results", type=Path, action="append", help="a results folder; several times [the H200's]")
    parser.add_argument("--draws", type=int, default=5, help="choices of three points for each load")
    parser.add_argument("-o", "--output", type=Path, help="write the tables between the marks of this page")
    args = parser.parse_args()
    with dense_values_unknown():
        text = "\n".join(run([read_folder(folder) for folder in args.results or FOLDERS], args.draws))
    print(text)
    if args.output:
        write_between(args.output, BEGIN, END, f"{text}\n")


if __name__ == "__main__":
    main()

"""What three measured points of other deployments are worth: leave-deployment-out, by GPU type and weight format.

    python -m benchmarks.real_deployments.calibrated [--rows FILE] [--results FOLDER] [--draws N] [--simulate]

Blackwell rows, predicted from step times of which three things are known: the values learnt from all other
deployments (fitted anew without those that are predicted, in folds), those learnt from other GPU types and formats
only, and none. A calibration gets three points of other disaggregated deployments of the same GPU type and format:
one request rate that context servers kept up, where a row says one, and a TPOT at few and one at many requests a
rank. Drawn several times. ``--simulate``: rows of up to 22 million output tokens in virtual time too, of the first
draw, for tok/s/GPU; some minutes. ``--results``: loads of a results folder from three of them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from ratematch.emulator.efficiency import Efficiency, corrected, learnt_for
from ratematch.engines.steptimes import Correction
from ratematch.inputs.catalog import load_gpu
from ratematch.plan.experiment import DEFAULT_STEP_TIMES
from ratematch.plan.model import Gpu, Model
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.precision import read_precision
from ratematch.simulate.calibration import Calibration, CalibrationPoint, calibrate, prior_sds, speed_slopes
from ratematch.simulate.calibrationpoints import calibrate_speeds, forecast_slopes, log_measured_over, speeds_in
from ratematch.simulate.forecasts import forecast_experiment
from ratematch.store.folder import Results

from .crossed import MOST_TOKENS, _fitted
from .fit import (
    BLACKWELL,
    _ctx_kernels,
    _gen_kernels,
    blackwell_values,
    ctx_rate,
    efficiency,
    fit,
    generating,
    generation_full,
    prompts_wait,
    request_rate,
    tpot_ms,
)
from .learntfile import Value, Vector
from .setup import setup_of
from .simulated import REQUESTS_PER_SLOT, simulate
from .table import ROWS, Row, read_rows

FOLDS = 6
"""Parts of the deployments that are left out together, so that values are fitted six times only."""


@dataclass(frozen=True)
class Base:
    """Learnt values of a fold: what is corrected."""

    values: Sequence[Value]
    x: Vector

    def of(self, row: Row, backend: str, correction: Correction) -> Efficiency:
        return corrected(efficiency(self.values, self.x, row.precision, backend), correction)

    def log_tpot_speed(self, row: Row, correction: Correction) -> float:
        """Log of predicted tokens/s of a user."""
        return -math.log(tpot_ms(row, self.of(row, _gen_kernels(row), correction)))

    def log_ctx_rate(self, row: Row, correction: Correction) -> float:
        """Log of predicted requests/s of the context servers."""
        assert row.ctx is not None
        return math.log(ctx_rate(row, row.ctx, self.of(row, _ctx_kernels(row, row.ctx), correction)))


def kind_of(row: Row) -> Correction:
    """The correction of 1 for the row's GPU type and format."""
    return Correction(row.gpu, "deepseek-r1", read_precision(row.precision, load_gpu(row.gpu)))


def tells_ctx(row: Row) -> bool:
    """Whether the row's request rate is what its context servers reach: requests wait for them, and not for room in
    generation."""
    return row.ctx is not None and not generation_full(row) and prompts_wait(row, row.ctx)


def tpot_point(row: Row, base: Base) -> CalibrationPoint:
    return CalibrationPoint(
        f"line {row.line} TPOT", row.deployment, lambda c: -math.log(row.tpot_ms) - base.log_tpot_speed(row, c)
    )


def ctx_point(row: Row, base: Base) -> CalibrationPoint:
    return CalibrationPoint(
        f"line {row.line} ctx",
        f"{row.deployment} ctx",
        lambda c: math.log(request_rate(row)) - base.log_ctx_rate(row, c),
    )


def draw(rows: Sequence[Row], base: Base, rng: np.random.Generator) -> list[CalibrationPoint]:
    """Three points of ``rows``: a ctx rate where one is there, a TPOT of the emptier and of the fuller half."""
    served = [row for row in rows if row.ctx is not None]
    telling = [row for row in served if tells_ctx(row)]
    ordered = sorted(served if len(served) > 1 else rows, key=_each_rank)
    halves = ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]
    points = [ctx_point(telling[int(rng.integers(len(telling)))], base)] if telling else []
    return points + [tpot_point(half[int(rng.integers(len(half)))], base) for half in halves]


def _each_rank(row: Row) -> float:
    return generating(row) / parse_mapping(row.gen.mapping).dp_ranks


def priors(rows: Sequence[Row]) -> Vector:
    """Of the shipped intervals of what these rows run."""
    sets = {}
    for row in rows:
        setup, precision = setup_of(row), kind_of(row).precision
        for backend, label in ((setup.gen_backend, setup.gen_mapping), (setup.ctx_backend, setup.ctx_mapping)):
            if label:
                each = learnt_for(row.gpu, True, precision, backend, parse_mapping(label).attention_dp)
                sets[each.label] = each
    return prior_sds(sets.values())


@dataclass(frozen=True)
class Outcome:
    """Log of predicted over measured, without and with the calibration, and what 95 % of them should stay within."""

    row: Row
    before: float
    after: float
    within: float


def log_tpot(row: Row, base: Base, correction: Correction) -> float:
    return -base.log_tpot_speed(row, correction) - math.log(row.tpot_ms)


def spread_of(row: Row, calibration: Calibration, log_speed: Callable[[Row, Correction], float]) -> float:
    sd = calibration.factors_sd(speed_slopes(partial(log_speed, row), calibration.correction))
    return 1.96 * math.hypot(sd, calibration.server_sd(row.ctx is None))


def held_out(row: Row, base: Base, calibration: Calibration) -> Outcome:
    return Outcome(
        row,
        log_tpot(row, base, kind_of(row)),
        log_tpot(row, base, calibration.correction),
        spread_of(row, calibration, base.log_tpot_speed),
    )


def _corrected_fit(
    base: Base,
    correction: Correction,
    gpu: Gpu,
    model: Model,
    precision: str,
    backend: str = "",
    dp: bool = False,
) -> Efficiency:
    return corrected(_fitted(base.values, base.x, gpu, model, precision, backend, dp), correction)


def simulated(row: Row, base: Base, calibration: Calibration) -> dict[str, Outcome]:
    """tok/s/GPU and TPOT in virtual time."""
    logs: dict[str, list[float]] = {"tok_s_gpu": [], "tpot_ms": []}
    for correction in (kind_of(row), calibration.correction):
        with patch("ratematch.emulator.assembly.efficiency_of", partial(_corrected_fit, base, correction)):
            ours = simulate(row)
        for name, values in logs.items():
            values.append(math.log(getattr(ours, name) / getattr(row, name)))
    within = spread_of(row, calibration, base.log_tpot_speed)
    if row.ctx is not None:
        within = max(within, spread_of(row, calibration, base.log_ctx_rate))
    return {name: Outcome(row, values[0], values[1], within) for name, values in logs.items()}


def name_of(row: Row) -> str:
    return f"{row.gpu} {row.precision} {row.deployment}"


def group_of(row: Row) -> str:
    return f"{row.gpu} {row.precision}"


def parts_of(rows: Sequence[Row], known: str) -> Iterator[tuple[Base, list[Row]]]:
    """Rows to predict, and the step times that are corrected for them."""
    values = blackwell_values()
    if known == "nothing":
        yield Base((), np.array([])), list(rows)
        return
    name = name_of if known == "other deployments" else group_of
    names = sorted({name(row) for row in rows})
    number = FOLDS if known == "other deployments" else len(names)
    for place in range(number):
        left_out = names[place::number]
        base = Base(values, fit([row for row in rows if name(row) not in left_out], values))
        yield base, [row for row in rows if name(row) in left_out]


def run(rows: Sequence[Row], known: str, draws: int, simulate_too: bool) -> dict[str, list[Outcome]]:
    """Outcomes by figure: TPOT of the step at the measured number in flight, and the simulated ones."""
    outcomes: dict[str, list[Outcome]] = {}
    for base, left_out in parts_of(rows, known):
        for name in sorted({name_of(row) for row in left_out}):
            wanted = [row for row in left_out if name_of(row) == name]
            group = [row for row in rows if group_of(row) == group_of(wanted[0]) and name_of(row) != name]
            prior = prior_sds([]) if known == "nothing" else priors(group)
            rng = np.random.default_rng(wanted[0].line)
            for number in range(draws):
                calibration = calibrate(draw(group, base, rng), kind_of(wanted[0]), prior)
                for row in wanted:
                    outcomes.setdefault("TPOT", []).append(held_out(row, base, calibration))
                    small = row.concurrency * row.osl * REQUESTS_PER_SLOT <= MOST_TOKENS
                    if simulate_too and number == 0 and small:
                        for figure, outcome in simulated(row, base, calibration).items():
                            outcomes.setdefault(f"simulated {figure}", []).append(outcome)
    return outcomes


def say(outcomes: Sequence[Outcome]) -> None:
    """Medians and coverage by GPU type and format, by kind, and of all."""
    groups: dict[str, list[Outcome]] = {}
    for each in outcomes:
        for name in (group_of(each.row), f"all {each.row.kind}", "all rows"):
            groups.setdefault(name, []).append(each)
    for name, those in sorted(groups.items(), key=lambda item: (item[0].startswith("all"), item[0])):
        before = np.median([abs(math.expm1(each.before)) for each in those])
        after = np.median([abs(math.expm1(each.after)) for each in those])
        inside = np.mean([abs(each.after) <= each.within for each in those])
        width = np.median([math.expm1(each.within) for each in those])
        number = len({each.row.line for each in those})
        print(f"  {name} ({number} rows): {before:.1%}, {after:.1%}; {inside:.0%} within +-{width:.0%}")


def say_results(folder: Path, draws: int) -> None:
    """Loads of a results folder, each predicted from one ctx load and two gen loads of other servers and lengths."""
    speeds = speeds_in(Results.open(folder))
    rng = np.random.default_rng(0)
    before, after, inside = [], [], []
    for speed in speeds:
        others = [each for each in speeds if each.experiment.id != speed.experiment.id]
        ctx = [each for each in others if each.experiment.stage == "ctx"]
        gen = [each for each in others if each.experiment.stage == "gen"]
        for _ in range(draws):
            chosen = [ctx[int(rng.integers(len(ctx)))], *(gen[int(place)] for place in rng.permutation(len(gen))[:2])]
            calibration = calibrate_speeds(chosen, str(folder))
            slopes = forecast_slopes(speed.experiment, speed.cluster, speed.load, calibration.correction)
            within = 1.96 * math.hypot(calibration.factors_sd(slopes), calibration.own_sd)
            logs = [
                log_measured_over(speed, forecast_experiment(speed.experiment, speed.cluster, name)[speed.load])
                for name in (DEFAULT_STEP_TIMES, calibration.correction.name)
            ]
            before.append(abs(math.expm1(-logs[0])))
            after.append(abs(math.expm1(-logs[1])))
            inside.append(abs(logs[1]) <= within)
    print(
        f"{folder}, {len(speeds)} loads: median error {np.median(before):.1%}, from three loads "
        f"{np.median(after):.1%} (worst {max(after):.0%}); {np.mean(inside):.0%} inside the 95 % interval"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Predict deployments from three points of others.")
    parser.add_argument("--rows", type=Path, default=ROWS, help="a table of measured rows")
    parser.add_argument("--results", type=Path, help="a results folder with loads of ctx and gen servers")
    parser.add_argument("--draws", type=int, default=5, help="choices of three points for each deployment")
    parser.add_argument("--simulate", action="store_true", help="in virtual time too")
    args = parser.parse_args()
    rows = [row for row in read_rows(args.rows) if row.gpu in BLACKWELL]
    print("median error before, calibrated; share inside the 95 % interval, and its median half width")
    for known in ("other deployments", "other GPU types and formats", "nothing"):
        simulate_too = args.simulate and known == "other deployments"
        for figure, outcomes in run(rows, known, args.draws, simulate_too).items():
            print(f"learnt before: {known}; {figure}")
            say(outcomes)
    if args.results:
        say_results(args.results, args.draws)


if __name__ == "__main__":
    main()

"""What three measured points are worth: leave-deployment-out and leave-loads-out, by where the points are from.

    python -m benchmarks.real_deployments.calibrated [--rows FILE] [--results FOLDER] [--draws N] [--known KNOWN]
        [--simulate] [-o docs/accuracy.md]

Blackwell rows, predicted from step times of which three things are known: the values learnt from all other
deployments (fitted anew without those that are predicted, in folds), those learnt from other GPU types and formats
only, and none. :mod:`benchmarks.real_deployments.protocols` says which points a calibration gets. What servers
deviate by is estimated without the half of the deployments that is predicted. ``--simulate``: rows of up to 12
million output tokens in virtual time too, of the first draw, with learnt values; some minutes. ``--results``: loads
of a results folder from three of them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from ratematch.engines.steptimes import Correction
from ratematch.plan.experiment import DEFAULT_STEP_TIMES
from ratematch.simulate.calibration import Calibration, calibrate, speed_slopes
from ratematch.simulate.calibrationpoints import (
    MeasuredSpeed,
    calibrate_speeds,
    speeds_in,
)
from ratematch.simulate.deviations import Deviations
from ratematch.store.folder import Results

from .bases import Base, Known, ctx_family, gen_family, kind_of, parts_of
from .carried import dense_values_unknown, predict
from .compare import FIGURES
from .crossed import _fitted
from .deviations import crossed, observe
from .fit import BLACKWELL
from .marks import write_between
from .protocols import DRAWN, PROTOCOLS, own_constants
from .simulated import REQUESTS_PER_SLOT, simulate
from .table import ROWS, Row, read_rows

KNOWN: tuple[Known, ...] = ("other deployments", "other GPU types and formats", "nothing")
BEGIN, END = "<!-- calibrated: begin -->", "<!-- calibrated: end -->"
TITLES = {"tok_s_gpu": "tok/s/GPU", "tpot_ms": "TPOT", "ttft_ms": "TTFT", "step": "TPOT of the step alone"}
MOST_TOKENS = 12e6
SIMULATED = ("three of any other deployments", "three of those most like it", "its own other loads")


@dataclass(frozen=True)
class Outcome:
    """Log of predicted over measured, without and with the calibration, and what 95 % of them should stay within
    (``nan``: nothing is said)."""

    row: Row
    before: float
    after: float
    within: float


Outcomes = dict[tuple[Known, str, str], list[Outcome]]
"""By what was known, protocol and figure."""


def log_gen(row: Row, base: Base, correction: Correction) -> float:
    """Log of predicted tokens/s of a user, family and all."""
    return base.log_tpot_speed(row, correction) + math.log(correction.family("gen", row.gen.mapping))


def spread_of(row: Row, base: Base, calibration: Calibration, ctx: bool = False) -> float:
    speed = base.log_ctx_rate if ctx else base.log_tpot_speed
    slopes = speed_slopes(partial(speed, row), calibration.correction)
    common = calibration.common_sd(slopes, ctx_family(row) if ctx else gen_family(row))
    return 1.96 * math.hypot(common, calibration.server_sd(row.ctx is None))


def held_out(row: Row, base: Base, calibration: Calibration) -> Outcome:
    before, after = (-log_gen(row, base, c) - math.log(row.tpot_ms) for c in (kind_of(row), calibration.correction))
    return Outcome(row, before, after, spread_of(row, base, calibration))


@cache
def _figures(row: Row, base: Base, steps: str) -> tuple[float, ...]:
    with patch("ratematch.emulator.assembly.efficiency_of", partial(_fitted, base.values, base.x)):
        ours = simulate(row, steps)
    return tuple(math.log(getattr(ours, name) / getattr(row, name)) for name in FIGURES)


def simulated(row: Row, base: Base, calibration: Calibration) -> Iterator[tuple[str, Outcome]]:
    """Figures in virtual time, as a sweep with the calibration has them."""
    before, after = (_figures(row, base, steps) for steps in (DEFAULT_STEP_TIMES, calibration.correction.name))
    within = spread_of(row, base, calibration)
    if row.ctx is not None:
        within = max(within, spread_of(row, base, calibration, ctx=True))
    for name, old, new in zip(FIGURES, before, after, strict=True):
        yield name, Outcome(row, old, new, math.nan if name == "ttft_ms" else within)


def known_deviations(
    rows: Sequence[Row], bases: Sequence[tuple[Base, list[Row]]], state: str
) -> dict[int, Deviations]:
    """By line, from the half of the deployments that it is not in."""
    return crossed([each for base, part in bases for row in part for each in observe(row, base)], state)


def run(rows: Sequence[Row], known: Known, draws: int, simulate_too: bool) -> Outcomes:
    bases = list(parts_of(rows, known))
    believed = known_deviations(rows, bases, "unlearnt" if known == "nothing" else "learnt")
    outcomes: Outcomes = {}
    for base, left_out in bases:
        for row in left_out:
            small = row.concurrency * row.osl * REQUESTS_PER_SLOT <= MOST_TOKENS
            for protocol, draw in PROTOCOLS.items():
                if known == KNOWN[1] and protocol not in DRAWN:
                    continue
                rng = np.random.default_rng(row.line)
                for number in range(draws if protocol in DRAWN else 1):
                    if not (points := draw(row, rows, base, rng)):
                        continue
                    calibration = calibrate(points, kind_of(row), believed[row.line])
                    outcomes.setdefault((known, protocol, "step"), []).append(held_out(row, base, calibration))
                    if simulate_too and small and protocol in SIMULATED and number == 0:
                        for figure, outcome in simulated(row, base, calibration):
                            outcomes.setdefault((known, protocol, figure), []).append(outcome)
    return outcomes


def lines_of(outcomes: Outcomes) -> Iterator[str]:
    """A table: median, mean and 90th percentile of errors, and coverage."""
    yield "| learnt before | points | figure | disaggregated | aggregated |"
    yield "|---|---|---|---|---|"
    for (known, protocol, figure), those in outcomes.items():
        cells = [
            _cell([each for each in those if (each.row.ctx is None) == aggregated]) for aggregated in (False, True)
        ]
        yield f"| {known} | {protocol} | {TITLES[figure]} | {' | '.join(cells)} |"


def _cell(those: Sequence[Outcome]) -> str:
    if not those:
        return "none"
    before, after = (np.abs(np.expm1([getattr(each, name) for each in those])) for name in ("before", "after"))
    rows = len({each.row.line for each in those})
    said = f"{rows}: {_middle_and_more(before)} to {_middle_and_more(after)}"
    if math.isnan(those[0].within):
        return said
    inside = np.mean([abs(each.after) <= each.within for each in those])
    return f"{said}, {inside:.0%} within ±{np.median([math.expm1(each.within) for each in those]):.0%}"


def _middle_and_more(errors: np.ndarray) -> str:
    return f"**{np.median(errors):.1%}** ({np.mean(errors):.1%}, {np.quantile(errors, 0.9):.0%})"


def limits_of(outcomes: Outcomes) -> Iterator[str]:
    """What constants with hindsight leave."""
    for figure in ("step", "tpot_ms", "tok_s_gpu"):
        those = outcomes.get((KNOWN[0], "all of other deployments" if figure == "step" else SIMULATED[0], figure), [])
        logs = {each.row.line: (each.row, each.before) for each in those if each.row.ctx is not None}
        if logs:
            said = [f"{left:.1%} by one for {name}" for name, left in own_constants(list(logs.values()))]
            what = f"{TITLES[figure]}, {len(logs)} disaggregated rows"
            yield f"* Best constants with hindsight, {what}: {', '.join(said)}."


def results_lines(folder: Path, draws: int) -> Iterator[str]:
    """Loads of a results folder, each predicted from one ctx load and two gen loads: of other servers (other lengths,
    another block size), or of loads that may be of its own."""
    speeds = speeds_in(Results.open(folder))
    for title, own in (("other servers and lengths", False), ("other loads, its own server's too", True)):
        rng = np.random.default_rng(0)
        before, after, inside = [], [], []
        for speed in speeds:
            others = [e for e in speeds if (e is not speed if own else e.experiment.id != speed.experiment.id)]
            for _ in range(draws):
                old, new, within = _from_three(speed, others, folder, rng)
                before.append(abs(math.expm1(-old)))
                after.append(abs(math.expm1(-new)))
                inside.append(abs(new) <= within)
        yield (
            f"* {len(speeds)} loads of `{folder}`, where nothing was learnt, from one ctx and two gen loads of "
            f"{title}: {np.median(before):.1%} to **{np.median(after):.1%}** (p90 {np.quantile(after, 0.9):.1%}, "
            f"worst {max(after):.0%}); {np.mean(inside):.0%} inside the 95 % interval."
        )


def _from_three(
    speed: MeasuredSpeed, others: Sequence[MeasuredSpeed], folder: Path, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Logs of measured over predicted speed, without and with, and what 95 % should stay within."""
    ctx, gen = ([each for each in others if each.experiment.stage == stage] for stage in ("ctx", "gen"))
    chosen = [ctx[int(rng.integers(len(ctx)))], *(gen[int(place)] for place in rng.permutation(len(gen))[:2])]
    calibration = calibrate_speeds(chosen, str(folder))
    new = predict(speed, calibration)
    return predict(speed, None).log, new.log, new.within


def main() -> None:
    parser = argparse.ArgumentParser(description="Predict deployments from three points.")
    parser.add_argument("--rows", type=Path, default=ROWS, help="a table of measured rows")
    parser.add_argument("--results", type=Path, help="a results folder with loads of ctx and gen servers")
    parser.add_argument("--draws", type=int, default=3, help="choices of three points for each row")
    parser.add_argument("--known", action="append", choices=KNOWN, help="what is known before; several times [all]")
    parser.add_argument("--simulate", action="store_true", help="in virtual time too")
    parser.add_argument("-o", "--output", type=Path, help="write the table between the marks of this page")
    args = parser.parse_args()
    rows = [row for row in read_rows(args.rows) if row.gpu in BLACKWELL]
    outcomes: Outcomes = {}
    for known in args.known or KNOWN:
        outcomes |= run(rows, known, args.draws, args.simulate and known == KNOWN[0])
    lines = [*lines_of(outcomes), "", *limits_of(outcomes)]
    if args.results:
        with dense_values_unknown():
            lines += results_lines(args.results, args.draws)
    text = "\n".join(lines)
    print(text)
    if args.output:
        write_between(args.output, BEGIN, END, f"{text}\n")


if __name__ == "__main__":
    main()

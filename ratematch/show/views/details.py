"""How sure an analysis is, what its gaps are made of, and how many GPUs a request rate needs: for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from ratematch.match.points import Analysis, Calibration, Gap, Interval, Point, WorkloadAnalysis
from ratematch.show import style
from ratematch.show.console import print_table, show_value, thin_front
from ratematch.show.files import one_line

MOST_SERVING = 5
"""Smallest deployments listed for a request rate; the JSON has all."""


MOST_TIES = 10
MOST_COLUMNS = 6


def print_details(analysis: Analysis, console: Console, *, request_rate: float | None, limits: str) -> None:
    """Intervals and ties, comparison with IFB, gap parts, calibration, and the answer for ``request_rate``."""
    for workload in analysis.workloads:
        console.print()
        _print_sure(workload, console)
        for line in _comparison_lines(workload):
            _print_line(console, f"{workload.workload}: {line}")
        _print_gap_parts(workload.gaps, console)
        if workload.calibration is not None:
            _print_calibration(workload.calibration, workload.calibrated, console)
        if request_rate is not None:
            _print_serving(workload, request_rate, limits, console)


def _print_line(console: Console, line: str) -> None:
    console.print(Text(one_line(line)))


def _print_sure(workload: WorkloadAnalysis, console: Console) -> None:
    known = [point for point in thin_front(workload.rate_matched) if point.front_chance is not None]
    if not known:
        return
    rows = [_sure_row(point, "front") for point in known]
    rows += [_sure_row(point, "tied") for point in workload.ties[:MOST_TIES]]
    columns = ("deployment", "tok/s/user", "tok/s/GPU", "95 %: low", "high", "", "chance")
    print_table(
        f"{workload.workload}: rate-matched front, and what the noise cannot tell from it", columns, rows, console
    )
    if len(workload.ties) > MOST_TIES:
        _print_line(console, f"{len(workload.ties) - MOST_TIES} more ties, less likely ones, in analysis.json")
    console.print()


def _sure_row(point: Point, place: str) -> tuple[str | float | None, ...]:
    chance = f"{point.front_chance or 0:.0%}"
    return (
        point.label,
        point.tok_s_user,
        point.tok_s_gpu,
        point.tok_s_gpu_low,
        point.tok_s_gpu_high,
        place,
        chance,
    )


def _span(ends: tuple[float | None, float | None] | Interval | None) -> str:
    if ends is None or ends[0] is None or ends[1] is None:
        return "interval not known"
    return f"95 %: {show_value(ends[0])} to {show_value(ends[1])}"


def _comparison_lines(workload: WorkloadAnalysis) -> Iterable[str]:
    for row in workload.comparisons:
        name = style.KINDS[row.kind].name
        yield (
            f"{name} over IFB: hypervolume {show_value(row.hypervolume_ratio)} ({_span(row.hypervolume_interval)}), "
            f"area on the overlap {show_value(row.area_ratio)} ({_span(row.area_interval)})"
        )
        if row.interactivity:
            best = max(row.interactivity, key=lambda gain: gain.ratio)
            yield (
                f"{name} over IFB at equal tok/s/GPU: up to {best.ratio:.2f}x tok/s/user "
                f"({_span((best.ratio_low, best.ratio_high))}), at {show_value(best.tok_s_gpu)} tok/s/GPU"
            )


def _print_gap_parts(gaps: Iterable[Gap], console: Console) -> None:
    """A table for each deployment, a column for each concurrency: parts that most columns share stand once."""
    by_label: dict[str, list[Gap]] = {}
    for gap in gaps:
        if gap.parts and gap.ideal is not None:
            by_label.setdefault(gap.label, []).append(gap)
    for label, gaps_of_label in by_label.items():
        for first in range(0, len(gaps_of_label), MOST_COLUMNS):
            shown = sorted(gaps_of_label, key=lambda gap: gap.concurrency or 0)[first : first + MOST_COLUMNS]
            lost = {part.name for gap in shown for part in gap.parts if part.tok_s_gpu}
            names = [name for name in dict.fromkeys(part.name for gap in shown for part in gap.parts) if name in lost]
            parts = [{part.name: part.tok_s_gpu for part in gap.parts} for gap in shown]
            rows: list[tuple[str | float | None, ...]] = [("ideal ratio", *(gap.ideal for gap in shown))]
            rows += [(f"- {name}", *(parts_of_gap.get(name) for parts_of_gap in parts)) for name in names]
            rows.append(("= measured", *(gap.end_to_end for gap in shown)))
            columns = ("in flight", *(f"{gap.concurrency:.0f}" for gap in shown))
            print_table(f"{label}: what the gap to the ideal is made of, tok/s/GPU", columns, rows, console)
            console.print()


def _print_calibration(fit: Calibration, applied: bool, console: Console) -> None:
    def factor(value: float, spread: float | None, num: int) -> str:
        few = " (one run)" if num == 1 else " (too few for a spread)"
        return f"x {value:.3f}" + (f" (spread {spread:.1%})" if spread is not None else few)

    state = "applied to the predictions above" if applied else "not applied; --calibrate does"
    for pair in fit.pairs:
        name = f"{pair.label}, " if len(fit.pairs) > 1 else ""
        ctx, gen = factor(pair.ctx, pair.ctx_spread, pair.num), factor(pair.gen, pair.gen_spread, pair.num)
        _print_line(
            console,
            f"together against apart, {name}{pair.num} end-to-end runs: ctx {ctx}, gen {gen}, prompts in bunches of "
            f"{pair.bunching:.0%} of all in flight; {state}",
        )
    if fit.piece_us is not None:
        _print_line(
            console, f"posting a piece of a KV transfer took {fit.piece_us:.2f} us by the servers' counters; {state}"
        )
    held_out = " (from other runs)" if fit.held_out else ""
    columns = ("deployment", "N", "tok/s/GPU", "before", "after", "TPOT ms", "before", "after")
    rows = [
        (
            row.label,
            round(row.concurrency),
            row.tok_s_gpu,
            _off(row.tok_s_gpu_before, row.tok_s_gpu),
            _off(row.tok_s_gpu_after, row.tok_s_gpu),
            row.tpot_ms,
            _off(row.tpot_before_ms, row.tpot_ms),
            _off(row.tpot_after_ms, row.tpot_ms),
        )
        for row in fit.rows
    ]
    title = f"measured, and how far off predictions are, before and after calibration{held_out}"
    print_table(title, columns, rows, console)


def _off(predicted: float, measured: float) -> str:
    return f"{predicted / measured - 1:+.1%}"


def _print_serving(workload: WorkloadAnalysis, req_s: float, limits: str, console: Console) -> None:
    console.print()
    if not workload.serving:
        _print_line(console, f"{workload.workload}: no measured pair serves {req_s:g} requests/s within {limits}")
        return
    best = workload.serving[0]
    at = limits.split(" ", 1)[0] if limits.startswith(("p", "mean")) else "mean"
    over = "" if best.within else " (more than the budget's)"
    _print_line(
        console,
        f"{workload.workload}: {req_s:g} requests/s within {limits} need {best.gpus} GPUs{over}: {best.label}",
    )
    columns = ("deployment", "GPUs", "TTFT ms", at, "TPOT ms", at, "ctx load", "gen load")
    rows = [
        (
            plan.label,
            plan.gpus,
            plan.ttft_ms,
            plan.ttft_limit_ms,
            plan.tpot_ms,
            plan.tpot_limit_ms,
            f"{plan.ctx_load:.0%}",
            f"{plan.gen_load:.0%}",
        )
        for plan in workload.serving[:MOST_SERVING]
    ]
    print_table("", columns, rows, console)
    for flag in sorted({flag for plan in workload.serving[:MOST_SERVING] for flag in plan.flags}):
        _print_line(console, f"note: {flag}")

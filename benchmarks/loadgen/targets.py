"""What the load generator is meant to reach, as ratios to the best peer of the same scenario and run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

HOLDS = 0.8
"""A peer counts when it holds so much of the load: a light load flatters every clock."""

Row = dict[str, Any]


def print_targets(rows: Sequence[Row]) -> None:
    print(f"\n### targets (best peer: of those that hold at least {HOLDS:.0%} of the load)\n")
    print("| scenario | what | ratematch | best peer | ratio | target | |")
    print("|---|---|---|---|---|---|---|")
    for scenario in sorted({row["scenario"] for row in rows}):
        own = [row for row in rows if row["scenario"] == scenario]
        ours = next((row for row in own if row["client"] == "ratematch" and not row["trouble"]), None)
        if ours is None:
            continue
        peers = [row for row in own if row["client"] != "ratematch" and not row["trouble"]]
        holding = [row for row in peers if row["held"] >= HOLDS]
        _print_scenario(scenario, ours, holding, peers)


def _print_scenario(scenario: str, ours: Row, holding: Sequence[Row], peers: Sequence[Row]) -> None:
    def ratio(what: str, key: str, most: float, best: Callable[[Sequence[Row]], Row], least: bool = False) -> None:
        known = [row for row in (holding or peers) if row[key] is not None]
        if not known:
            _line(scenario, what, ours[key], None, None, f"<= {most:g}x", None)
            return
        peer = best(known)
        value = ours[key] / peer[key] if peer[key] else None
        met = None if value is None else (value >= most if least else value <= most)
        name = peer["client"] + ("" if holding else ", holds too little")
        bound = f"{'>=' if least else '<='} {most:g}x"
        _line(scenario, what, ours[key], f"{peer[key]:.2f} ({name})", value, bound, met)

    def bound(what: str, value: float, limit: float, least: bool = False) -> None:
        sign = ">=" if least else "<="
        _line(scenario, what, value, None, None, f"{sign} {limit:g}", value >= limit if least else value <= limit)

    def lowest(key: str) -> Callable[[Sequence[Row]], Row]:
        return lambda rows: min(rows, key=lambda row: abs(float(row[key])))

    if scenario == "e":
        for aiperf in (row for row in peers if row["client"] == "AIPerf"):
            bound("requests in flight at AIPerf, of those asked for", aiperf["held"], 0.98, least=True)
            bound("TPOT as reported, apart from AIPerf's", abs(ours["tpot_ms"] / aiperf["tpot_ms"] - 1), 0.01)
            bound("tok/s as reported, apart from AIPerf's", abs(ours["tok_s"] / aiperf["tok_s"] - 1), 0.01)
        return
    ratio("CPU ms per 1,000 tokens", "cpu", 0.75 if scenario == "d" else 0.5, lowest("cpu"))
    ratio("memory, MB", "memory_mb", 0.7, lowest("memory_mb"))
    bound("start to first request, s", ours["start_s"], 2.0)
    if scenario == "b":
        bound("TTFT error from the send, mean ms", ours["ttft_mean"], 2.0)
        bound("TTFT error from the send, p99 ms", ours["ttft_p99"], 5.0)
        ratio("TTFT error from before the call, mean ms", "intended_mean", 0.2, lowest("intended_mean"))
        ratio("ITL p99 error, ms", "itl_p99", 0.06, lowest("itl_p99"))
        bound("requests in flight, of those asked for", ours["held"], 0.98, least=True)
    if scenario == "c":
        bound("TTFT error from the send, p99 ms", ours["ttft_p99"], 30.0)
        bound("requests in flight, of those asked for", ours["held"], 0.95, least=True)
    if scenario == "d":
        ratio(
            "tok/s", "true_tok_s", 2.0, lambda rows: max(rows, key=lambda row: float(row["true_tok_s"])), least=True
        )
    else:
        bound("TPOT error, mean ms", abs(ours["tpot_mean"]), 0.1)


def _line(
    scenario: str,
    what: str,
    ours: float | None,
    peer: str | None,
    ratio: float | None,
    target: str,
    met: bool | None,
) -> None:
    verdict = "-" if met is None else "met" if met else "MISSED"
    shown = "-" if ours is None else f"{ours:.3f}"
    times = "-" if ratio is None else f"{ratio:.2f}x"
    print(f"| {scenario} | {what} | {shown} | {peer or '-'} | {times} | {target} | {verdict} |")

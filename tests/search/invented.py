"""Servers with invented speeds."""

from __future__ import annotations

from ratematch.search.candidates import Candidate, Rate, Space

LADDER = (1, 4, 16, 64, 256)


def gen(
    name: str, family: str, gpus: int, mtp: int = 0, base_s: float = 0.01, per_request_s: float = 1e-4
) -> Candidate:
    rates = {}
    for load in LADDER:
        tpot_s = (base_s + per_request_s * load) / (1 + 0.6 * mtp)
        rates[load] = Rate(load / (100 * tpot_s), 0.01, tpot_s)
    return Candidate(name, name, "gen", family, gpus, mtp, rates)


def ctx(name: str, family: str, gpus: int, req_s: float, mtp: int = 0) -> Candidate:
    rates = {load: Rate(req_s * min(1.0, load / 4), max(1.0, load / 4) * 4 / req_s, 0.0) for load in LADDER}
    return Candidate(name, name, "ctx", family, gpus, mtp, rates)


SERVERS = (
    ctx("ctx-a", "ctx DEP", 4, 10.0),
    ctx("ctx-b", "ctx TEP", 4, 5.0),
    gen("gen-small", "gen TEP", 4, base_s=0.008, per_request_s=3e-4),
    gen("gen-wide", "gen DEP", 16, base_s=0.015, per_request_s=2e-5),
    gen("gen-wide-mtp1", "gen DEP", 16, mtp=1, base_s=0.020, per_request_s=2.5e-5),
    gen("gen-beaten", "gen TP", 16, base_s=0.05, per_request_s=1e-3),
)


def space(**changes: object) -> Space:
    fields = {"osl": 100.0, "max_gpus": 64, "start_h": 0.33, "load_h": 0.05, "ttft_s": 5.0, **changes}
    return Space(SERVERS, **fields)  # type: ignore[arg-type]


def measure(candidate: Candidate, loads: tuple[int, ...], factor: float = 1.0) -> dict[int, Rate]:
    """What is known of a server once ``loads`` are measured: ``factor`` times what was forecast."""
    return {load: candidate.forecasts[load].times(factor) for load in loads}

"""The same rates as a table and as a sweep: one way through matching, so one answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.match.analysis import analyze
from ratematch.match.noise import Noise
from ratematch.match.points import Point, Speedup
from ratematch.match.question import Question
from ratematch.match.table import TableRow
from ratematch.match.tablematch import TableOptions, match_table
from ratematch.measure.measured import Measured
from tests.support.invented import WORKLOAD, ctx_rows, gen_rows, ifb_rows

OSL = WORKLOAD.osl
DECODED = OSL - 1
"""A table says tok/s of all output tokens, a sweep of those decoded. With an OSL of one less in the table both
ask gen for the same tokens, and tok/s/GPU differ by OSL / (OSL - 1)."""

LOADS = (1, 3, 7, 12, 20, 33)
"""No load is the geometric mean of two others: figures at equal tok/s/user are then not read at a step of a front."""


@dataclass(frozen=True)
class Server:
    """Rates of one configuration by concurrency: requests/s (ctx), tok/s (gen), or (TPOT ms, TTFT ms) of IFB."""

    gpus: int
    mtp: int
    rates: dict[int, float]


sizes = st.sampled_from([1, 2, 3, 4, 8])
rates = st.floats(1.0, 9.0).map(lambda value: value**1.5)


@st.composite
def servers(draw: st.DrawFn, scale: float, rising: bool) -> list[Server]:
    """Up to three configurations, each (size, MTP) once."""
    kinds = draw(st.lists(st.tuples(sizes, st.integers(0, 3)), min_size=1, max_size=3, unique=True))
    made = []
    for gpus, mtp in kinds:
        loads = sorted(draw(st.sets(st.sampled_from(LOADS), min_size=2, max_size=4)))
        values = [scale * draw(rates) for _ in loads]
        if rising:  # a table takes what lies beyond the best ctx row for overload, a sweep pools it
            values = [sum(values[: k + 1]) for k in range(len(values))]
        made.append(Server(gpus, mtp, dict(zip(loads, values, strict=True))))
    return made


@dataclass(frozen=True)
class Case:
    ctx: list[Server]
    gen: list[Server]
    ifb: list[Server]
    apart: float
    """The gen rows of the first configuration were measured twice, this share above and below; 0: nothing was."""

    def noise(self, runs: int) -> Noise | None:
        """Of a mean over so many runs: two that are ``apart`` off deviate by sqrt(2) times that."""
        dof = len(self.gen[0].rates)
        return Noise(self.apart * math.sqrt(2 / runs), dof) if self.apart else None


questions = st.builds(
    Question,
    ttft_ms=st.none() | st.floats(400.0, 20_000.0),
    tpot_ms=st.none() | st.floats(10.0, 200.0),
    max_gpus=st.integers(8, 24),
    objective=st.sampled_from(["per_used_gpu", "per_allocated_gpu", "tok_s_in_budget"]),
    gpus_per_node=st.sampled_from([3, 4, 8]),
    nodes=st.none() | st.integers(2, 5),
    share_nodes=st.booleans(),
    draws=st.just(24),
)
cases = st.builds(
    Case,
    ctx=servers(1.0, rising=True),
    gen=servers(200.0, rising=False),
    ifb=servers(0.5, rising=False),
    apart=st.sampled_from([0.0, 0.01, 0.05]),
)


def as_sweep(case: Case) -> list[Measured]:
    """Rows in the order in which matching takes configurations: by id."""
    ctx = [ctx_rows(f"TP{each.gpus}", each.rates, mtp=each.mtp) for each in case.ctx]
    gen = [gen_rows(f"TP{each.gpus}", each.rates, mtp=each.mtp) for each in case.gen]
    repeated = {row.experiment.id for row in gen[0]}
    ifb = [ifb_rows(f"TP{each.gpus}", _latencies(each)) for each in case.ifb[:1]]
    rows = [row for group in sorted([*ctx, *gen], key=lambda group: group[0].experiment.id) for row in group]
    rows += [row for group in ifb for row in group]
    return [replace(row, noise=case.noise(2 if row.experiment.id in repeated else 1)) for row in rows]


def _latencies(server: Server) -> dict[int, tuple[float, float]]:
    """(TPOT ms, TTFT ms) that grow with the load."""
    total, latencies = 0.0, {}
    for load, value in server.rates.items():
        total += value
        latencies[load] = (total, 10 * total)
    return latencies


def as_table(case: Case, measured: Sequence[Measured]) -> list[TableRow]:
    """The rows of ``measured``, those of the first gen configuration twice."""
    repeated = (f"TP{case.gen[0].gpus}", case.gen[0].mtp)
    rows: list[TableRow] = []
    for row in measured:
        deployment, figures = row.experiment.deployment, row.measurement
        (group,) = deployment.groups
        req_s = figures.req_s or 0.0
        assert figures.ttft_ms is not None
        known = TableRow(
            row=0,
            role="ctx" if deployment.ctx else "gen" if deployment.gen else "ifb",
            label=group.mapping.label,
            gpus=group.mapping.gpus,
            mtp=group.mtp,
        )
        if known.role == "ctx":
            known = replace(known, req_s=req_s, ttft_ms=figures.ttft_ms.mean)
        else:
            assert figures.tpot_ms is not None
            load = req_s * DECODED * figures.tpot_ms.mean / 1000
            known = replace(known, osl=DECODED, concurrency=load, tok_s=req_s * DECODED)
        if known.role == "ifb":
            assert figures.tpot_ms is not None
            known = replace(known, tpot_ms=figures.tpot_ms.mean, ttft_ms=figures.ttft_ms.mean)
        twice = case.apart and known.role == "gen" and (known.label, known.mtp) == repeated
        for factor in (1 - case.apart, 1 + case.apart) if twice else (1.0,):
            number = len(rows) + 2
            scaled = None if known.tok_s is None else known.tok_s * factor
            rows.append(replace(known, row=number, rows=(number,), tok_s=scaled))
    return rows


def names(point: Point) -> tuple[object, ...]:
    """What a point is."""
    servers = (point.ctx, point.gen, point.ctx_mapping, point.gen_mapping, point.mtp, point.gpus, point.nodes)
    return (*servers, point.limit, point.ratio, point.clamped, point.flags)


def figures(point: Point, factor: float = 1.0) -> list[float | None]:
    """What a point does. ``factor``: of its output tokens."""
    per_gpu = (point.tok_s_gpu, point.tok_s_gpu_low, point.tok_s_gpu_high)
    others = (point.req_s, point.tok_s_user, point.ttft_ms, point.concurrency, point.ratio_low, point.ratio_high)
    return [*(value and value * factor for value in per_gpu), *others, point.front_chance]


def ratios(row: Speedup) -> list[float | None]:
    ends = (row.step_low, row.step_high, row.linear_low, row.linear_high)
    return [row.tok_s_user, row.step, row.linear, *ends]


def close(values: Sequence[Sequence[float | None]]) -> object:
    return [[None if value is None else pytest.approx(value, rel=1e-6) for value in row] for row in values]


@given(cases, questions)
@settings(deadline=None, max_examples=80)
def test_the_same_rates_give_the_same_fronts_ratios_and_intervals(case: Case, question: Question) -> None:
    measured = as_sweep(case)
    (workload,) = analyze(measured, question, sweep="s").workloads
    if not workload.rate_matched and not workload.ifb:
        return  # a table with nothing to match is refused
    table = match_table(as_table(case, measured), question, TableOptions(DECODED), name="t")
    factor = OSL / DECODED
    assert [names(point) for point in table.front] == [names(point) for point in workload.rate_matched]
    assert [figures(point, factor) for point in table.front] == close([figures(p) for p in workload.rate_matched])
    servers = [each.point for each in table.ifb_front]
    assert [p.gpus for p in servers] == [p.gpus for p in workload.ifb]
    assert [p.tok_s_user for p in servers] == pytest.approx([p.tok_s_user for p in workload.ifb])
    assert [p.tok_s_gpu * factor for p in servers] == pytest.approx([p.tok_s_gpu for p in workload.ifb])
    speedups = [row for row in workload.speedups if row.kind == "rate_matched"]
    assert [ratios(row) for row in table.speedup] == close([ratios(row) for row in speedups])

"""Times of requests from every source: files of each form, answers, ``/perf_metrics``; nulls, joins, oddities."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ratematch.engines import find_engine
from ratematch.engines.trtllm_serve.reporting import reporting
from ratematch.engines.trtllm_serve.requesttimes import ASK, read_breakdown, read_times, times_sources, trim_record
from ratematch.engines.trtllm_serve.times import breakdown_apart
from ratematch.plan.load import Concurrency, breakdown_loads
from tests.support.invented import AGG, PAIR, experiment

ENGINE = find_engine("trtllm-serve")
Json = dict[str, Any]

# Every stage has another length: dispatch 1 + 32 ms, ctx queue 2, prefill 4, transfer 8, gen queue 16, decode 64.
STAGES = (0.033, 0.002, 0.004, 0.008, 0.016, 0.064)


def instants(at: float) -> tuple[Json, Json]:
    """Times of the ctx and the gen server of a request that reached the orchestrator at ``at`` s."""
    ctx = {
        "arrival_time": at + 0.001,
        "first_scheduled_time": at + 0.003,
        "first_token_time": at + 0.007,
        "last_token_time": at + 0.007,
        "server_arrival_time": at + 0.0005,
        "kv_cache_transfer_start": None,
        "kv_cache_transfer_end": None,
    }
    gen = {
        "arrival_time": at + 0.039,
        "kv_cache_transfer_start": at + 0.040,
        "kv_cache_transfer_end": at + 0.048,
        "first_scheduled_time": at + 0.063,
        "first_token_time": at + 0.070,
        "last_token_time": at + 0.127,
        "kv_cache_size": 4096,
    }
    return ctx, gen


def worker(server: str, number: int, timing: Json, **more: Any) -> Json:
    return {
        "server": server,
        "request_id": 7,
        "disagg_request_id": number,
        "status": "complete",
        "perf_metrics": {"timing_metrics": timing},
        **more,
    }


def own(number: int, at: float, ctx: Json | None, gen: Json | None) -> Json:
    record: Json = {
        "server": "disagg/perf_metrics-disagg-h-1-x.jsonl",
        "ctx_server": "c:1",
        "gen_server": "g:1",
        "disagg_server_arrival_time": at,
        "disagg_ctx_dispatch_time": at + 0.0004,
        "disagg_server_first_token_time": at + 0.072,
        "status": "complete",
        "disagg_request_id": number,
    }
    for name, timing in (("ctx", ctx), ("gen", gen)):
        if timing is not None:
            record[f"{name}_perf_metrics"] = {"request_id": "", "perf_metrics": {"timing_metrics": timing}}
    return record


def from_files(number: int, at: float) -> list[Json]:
    """As the orchestrator's and the workers' files have it: the former without the instants of the transfer."""
    ctx, gen = instants(at)
    sent = {name: gen[name] for name in gen if not name.startswith("kv_")}
    return [
        own(number, at, ctx, sent),
        worker("ctx/perf_metrics-server-h-2-x.jsonl", number, ctx, ctx_request_id=3),
        worker("gen/perf_metrics-server-h-3-x.jsonl", number, gen),
    ]


def from_route(number: int, at: float) -> list[Json]:
    ctx, gen = instants(at)
    record = own(number, at, ctx, gen)
    del record["disagg_request_id"], record["status"]
    for name in ("ctx", "gen"):
        record[f"{name}_perf_metrics"]["ctx_request_id"] = number
    return [record]


def from_phases(number: int, at: float) -> list[Json]:
    """The form with ``schema_version`` 1."""
    ctx, gen = instants(at)
    disagg = {"timing_metrics": {"server_arrival_time": at, "ctx_dispatch_time": None}, "ctx_server": "c"}
    phases = {"disagg": disagg, "ctx": {"timing_metrics": ctx}, "gen": {"timing_metrics": gen}}
    return [
        {"schema_version": 1, "request_id": "x", "disagg_request_id": number, "status": "complete", "phases": phases}
    ]


def from_phases_of_each(number: int, at: float) -> list[Json]:
    """The same, where each server wrote its own part."""
    ctx, gen = instants(at)
    base = {"schema_version": 1, "request_id": "1", "disagg_request_id": number, "status": "complete"}
    own_times = {"timing_metrics": {"server_arrival_time": at}}
    return [
        {**base, "server": "any", "phases": {"server": {"timing_metrics": ctx}}},
        {**base, "server": "any", "phases": {"server": {"timing_metrics": gen}}},
        {**base, "server": "any", "phases": {"disagg": own_times}},
    ]


def from_answer(number: int, at: float, *, twice: bool = False) -> list[Json]:
    ctx, gen = instants(at)
    timing = ["disagg_queue;dur=1.000000", "disagg_ttft;dur=72.0"]
    instant = []
    for name, phase in (("ctx", ctx), ("gen", gen)):
        begin = phase["arrival_time"]
        for part, key in (
            ("queue", "first_scheduled_time"),
            ("ttft", "first_token_time"),
            ("e2e", "last_token_time"),
        ):
            timing.append(f"{name}_{part};dur={(phase[key] - begin) * 1e3:.6f}")
        instant += [f"{name}-start;ts={begin:.9f}", f"{name}-end;ts={phase['last_token_time']:.9f}"]
    timing.append("gen_kv_transfer;dur=8.000000")
    repeat = 2 if twice else 1
    fields = {"Server-Timing": ", ".join(timing * repeat), "X-TRTLLM-Start-End-Time": ", ".join(instant * repeat)}
    return [{"request": number, "times": {**fields, "X-TRTLLM-Step-Metrics": "gen-step-3-forward;dur=2.1"}}]


SOURCES = [from_files, from_route, from_phases, from_phases_of_each, from_answer]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("backwards", [False, True])
def test_every_source_gives_the_stages_of_each_request(source: Any, backwards: bool) -> None:
    records = [record for number in range(5) for record in source(2**40 + number, 100.0 + number)]
    if backwards:
        records.reverse()
    times = read_times(records)
    assert len(times) == 5
    for one in times:
        assert one.stages() == pytest.approx(STAGES, abs=1e-6)
    breakdown = read_breakdown(records, skip_first=2, skip_last=1)
    assert breakdown is not None and breakdown.num == 2
    assert breakdown.total_s == pytest.approx(sum(STAGES), abs=1e-6)
    assert read_breakdown(records, skip_first=3, skip_last=1) is None, "one request is no mean"


def test_a_list_that_stands_there_twice_is_read_once() -> None:
    (times,) = read_times(from_answer(1, 100.0, twice=True))
    assert times.stages() == pytest.approx(STAGES, abs=1e-6)


@pytest.mark.parametrize("nothing", [None, 0, 0.0, "soon", float("nan"), True, 1e300, 10**400])
@pytest.mark.parametrize("name", ["arrival_time", "first_scheduled_time", "first_token_time"])
def test_what_did_not_happen_is_no_instant(name: str, nothing: object) -> None:
    (record,) = from_route(1, 100.0)
    record["ctx_perf_metrics"]["perf_metrics"]["timing_metrics"][name] = nothing
    assert [times.stages() for times in read_times([record])] == [None]
    del record["ctx_perf_metrics"]["perf_metrics"]["timing_metrics"][name]
    assert [times.stages() for times in read_times([record])] == [None]


def test_without_the_orchestrator_the_way_to_ctx_is_not_counted() -> None:
    records = from_files(1, 100.0)[1:]
    (times,) = read_times(records)
    assert times.arrival_s is None and times.stages() == pytest.approx((0.032, *STAGES[1:]), abs=1e-6)


def test_requests_that_share_an_id_are_left_out() -> None:
    ctx, gen = instants(100.0)
    alike = [
        worker(f"{role}/x", 0, timing, ctx_request_id=1, disagg_request_id=None)
        for role, timing in (("ctx", ctx), ("gen", gen))
    ]
    assert len(read_times(alike)) == 1
    assert read_times([*alike, alike[0]]) == []
    # Whole records stand for themselves: ids of context servers may be alike.
    whole = [*from_route(1, 100.0), *from_route(1, 101.0)]
    assert len(read_times(whole)) == 2


def test_ids_join_over_each_other() -> None:
    ctx, gen = instants(100.0)
    records = [
        worker("ctx/x", 2**40, ctx, ctx_request_id=5),
        {**worker("gen/x", 0, gen, ctx_request_id=5), "disagg_request_id": None},
        own(2**40, 100.0, None, None) | {"ctx_perf_metrics": {}},
    ]
    (times,) = read_times(records)
    assert times.stages() == pytest.approx(STAGES, abs=1e-6) and times.id == str(2**40)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"phases": 1},
        {"phases": {"ctx": []}, "disagg_request_id": 1},
        {"times": {"Server-Timing": 3}},
        {"times": {"Server-Timing": "ctx_queue;dur=soon, ;dur=, =", "X-TRTLLM-Start-End-Time": "ctx-start;ts=inf"}},
        {"perf_metrics": {"timing_metrics": None}, "ctx_request_id": 1},
        {"perf_metrics": None, "ctx_request_id": 1},
        {"ctx_perf_metrics": None, "gen_perf_metrics": {"ctx_request_id": [1]}},
        {"ctx_perf_metrics": {"perf_metrics": 7}, "gen_perf_metrics": "x", "disagg_request_id": True},
        {**from_files(1, 100.0)[0], "status": "error"},
    ],
)
def test_records_that_say_nothing_cost_nothing(record: Json) -> None:
    assert all(times.stages() is None for times in read_times([record]))
    good = from_files(9, 100.0)
    assert sum(times.stages() is not None for times in read_times([record, *good])) == 1


def test_lists_of_steps_are_not_kept() -> None:
    steps = {"time_breakdown_metrics": {"step_metrics": [1] * 1000}, "metrics_headers": {"a": "b"}}
    (record,) = from_route(1, 100.0)
    for name in ("ctx_perf_metrics", "gen_perf_metrics"):
        record[name] |= steps
    assert trim_record(json.dumps(record | steps).encode()) == from_route(1, 100.0)[0]
    (record,) = from_phases(1, 100.0)
    record["phases"]["gen"] |= steps
    assert trim_record(json.dumps(record).encode()) == from_phases(1, 100.0)[0]
    with pytest.raises(ValueError):
        trim_record(b"[1]")


# ----------------------------------------------------------------------------------------------- where they come from


@pytest.mark.parametrize(
    ("version", "times", "late", "ranks", "costs"),
    [
        ("1.2", "route", False, False, False),
        ("1.2.1", "route", False, False, False),
        ("1.3.0rc14", "route", False, False, True),
        ("1.3.0rc17", "route", False, True, True),
        ("1.3.0rc21", "either", False, True, True),
        ("v1.3.0rc27", "either", True, True, True),
        ("1.3.0", "either", True, True, True),
        ("1.3", "either", False, True, True),
        ("1.4.0rc4", "answer", True, True, True),
        ("main", "answer", True, True, True),
    ],
)
def test_how_a_version_reports(version: str, times: str, late: bool, ranks: bool, costs: bool) -> None:
    how = reporting(version)
    assert (how.times, how.late, how.rows_per_rank, how.collector_costs) == (times, late, ranks, costs)


PLAIN = (Concurrency(8, 64, 2), Concurrency(16, 128, 4))
APART = breakdown_loads(PLAIN)


@pytest.mark.parametrize("version", ["1.3", "1.3.0rc22", "main"])
def test_measured_loads_run_without_the_collector_from_1_3_on(version: str) -> None:
    measured = times_sources(experiment("e2e", PAIR, loads=PLAIN, version=version))
    assert (measured.files, measured.ask, measured.route) == (None, None, None)
    assert "breakdown load" in measured.why_none
    whole = experiment("e2e", PAIR, loads=(*PLAIN, *APART), version=version)
    assert times_sources(whole) == measured, "what the experiment as a whole is asked about are its measured loads"
    plain, apart = whole.launches()
    assert (plain.loads, apart.loads) == (PLAIN, APART)
    collecting = times_sources(apart)
    assert collecting.ask == ASK and not collecting.why_none
    late = version == "main"
    assert collecting.files == ("perf_metrics/*/perf_metrics-*.jsonl" if late else None)
    assert collecting.route == (None if late else "/perf_metrics")


def test_1_2_collects_in_every_load() -> None:
    assert times_sources(experiment("e2e", PAIR, loads=PLAIN)).route == "/perf_metrics"
    assert not breakdown_apart("1.2", PAIR)


def test_a_user_who_sets_the_collector_decides() -> None:
    assert PAIR.ctx is not None and PAIR.gen is not None
    on = replace(
        PAIR,
        ctx=replace(PAIR.ctx, options={"return_perf_metrics": True}),
        gen=replace(PAIR.gen, options={"return_perf_metrics": True}),
    )
    assert not breakdown_apart("main", on) and breakdown_apart("main", PAIR)
    assert times_sources(experiment("e2e", on, loads=PLAIN, version="main")).ask == ASK
    one = replace(PAIR, ctx=on.ctx)
    assert times_sources(experiment("e2e", one, loads=PLAIN, version="main")).why_none


@pytest.mark.parametrize("version", ["1.2", "1.3", "1.3.0rc27", "main"])
@pytest.mark.parametrize(("stage", "deployment"), [("e2e", PAIR), ("ifb", AGG)])
def test_files_of_both_kinds_of_launch_are_valid(version: str, stage: Any, deployment: Any) -> None:
    from ratematch.plan.placement import place
    from tests.support.invented import LAPTOP

    for loads in (PLAIN, APART):
        asked = experiment(stage, deployment, loads=loads, version=version)
        where = place(deployment, LAPTOP, ["a", "b", "c", "d", "e"], 8000)
        plan = ENGINE.plan_launch(asked, where, LAPTOP, 60.0)
        assert ENGINE.check_launch(plan, asked) == []

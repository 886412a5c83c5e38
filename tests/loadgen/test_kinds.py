"""Loads of every kind against a server: conversations, limits, durations, early ends, a stall, many failures."""

import asyncio
import itertools
import threading
from collections import Counter

import numpy as np
import pytest

from ratematch.loadgen import LoadControl, Progress, Target, drive
from ratematch.loadgen.send import send_load
from ratematch.loadgen.shards import LoadJob
from ratematch.measure.early import EarlyRules
from ratematch.measure.goodput import parse_goodput
from ratematch.measure.measurement import measure_load
from ratematch.plan.load import Concurrency, Rate
from ratematch.plan.workload import Workload, keep_making, make_requests

from .sse_server import Reply, answer_normally, full_stream, serve


async def slow(reply: Reply) -> None:
    await answer_normally(reply, gap_s=0.01)


def test_turns_wait_for_one_another_and_for_the_thinking() -> None:
    workload = Workload(60, 2, turns=3, think_s=0.05)
    requests = make_requests(workload, 9, 32000, 0)
    with serve() as (url, seen):
        result = drive(Target(url, "m"), Concurrency(3, 9), requests)
    by_session: dict[int, list[tuple[int, int]]] = {}
    for record in result.records:
        assert record.session is not None and record.turn is not None and record.sent_ns and record.end_ns
        by_session.setdefault(record.session, []).append((record.sent_ns, record.end_ns))
    assert [len(turns) for turns in by_session.values()] == [3, 3, 3]
    for turns in by_session.values():
        assert all(after[0] - before[1] >= 50_000_000 for before, after in itertools.pairwise(turns))
    assert sorted(Counter(headers["x-session-id"] for headers in seen.headers).values()) == [3, 3, 3]
    prompts = {tuple(body["prompt"]) for body in seen.bodies}
    assert any(long[: len(short)] == short for short in prompts for long in prompts if len(long) > len(short))


def test_a_limit_in_flight_holds_and_its_wait_counts() -> None:
    with serve(slow) as (url, seen):
        load = Rate(1000.0, 30, "constant", max_in_flight=4)
        result = drive(Target(url, "m"), load, make_requests(Workload(8, 4), 30, 32000, 0))
    assert seen.max_in_flight <= 4 == result.health.max_in_flight
    last = result.records[-1]
    assert last.intended_ns - result.start_ns == 29_000_000
    assert (last.sent_ns or 0) - last.intended_ns > 100_000_000, "seven waves of 40 ms went before it"


def test_a_load_that_lasts_for_a_time_begins_nothing_after_it_and_finishes_what_it_began() -> None:
    with serve(slow) as (url, _):
        load = Concurrency(4, 0, seconds=0.4)
        result = drive(Target(url, "m"), load, keep_making(Workload(8, 4), 32000, 0))
    begun = [record.intended_ns - result.start_ns for record in result.records]
    assert len(begun) > 4 and max(begun) < 400_000_000
    assert {record.outcome for record in result.records} == {"ok"} and result.aborted is None
    assert [record.seq for record in result.records] == list(range(len(begun)))


def test_drain_waits_for_what_is_in_flight() -> None:
    drain = threading.Event()

    def look(progress: Progress) -> None:
        if progress.done >= 8:
            drain.set()

    with serve(slow) as (url, _):
        requests = make_requests(Workload(8, 4), 4000, 32000, 0)
        control = LoadControl(drain=drain, on_progress=look, progress_s=0.05)
        result = drive(Target(url, "m"), Concurrency(4, 4000), requests, control=control)
    assert 8 <= len(result.records) < 4000
    assert {record.outcome for record in result.records} == {"ok"} and result.aborted is None


def test_a_narrow_interval_ends_a_load_early_and_leaves_it_valid() -> None:
    with serve(slow) as (url, _):
        job = LoadJob(Target(url, "m"), Concurrency(4, 4000), Workload(8, 4), 32000)
        result = send_load(job, job.source(), rules=EarlyRules(target_ci=0.2))
    assert result.ended_early is not None and result.ended_early.startswith("enough: tok/s ±")
    assert len(result.records) < 4000 and result.aborted is None
    measured = measure_load(result.records, job.load, job.workload)
    assert measured.valid, measured.reasons


def test_a_hopeless_objective_ends_a_load_early() -> None:
    with serve(slow) as (url, _):
        job = LoadJob(Target(url, "m"), Concurrency(4, 4000), Workload(8, 4), 32000)
        result = send_load(job, job.source(), rules=EarlyRules(slo=parse_goodput("tpot<=0.1")))
    assert result.ended_early is not None and "are over tpot<=0.1 ms" in result.ended_early
    assert len(result.records) < 4000


def test_a_stall_of_one_second_shows_fully_in_open_loop() -> None:
    """Coordinated omission: requests that were due while the server stood still waited for it, and must say so."""
    release = threading.Event()

    async def stall(reply: Reply) -> None:
        if reply.number == 20:  # the whole server stands still, as a stalled engine does
            release.wait(1.0)
        await answer_normally(reply)

    load = Rate(100.0, 200, "constant")
    with serve(stall) as (url, _):
        result = drive(Target(url, "m"), load, make_requests(Workload(8, 2), 200, 32000, 0))
    ttft_ms = np.array([(record.first_token_ns or 0) - record.intended_ns for record in result.records]) / 1e6
    measured = measure_load(result.records, load, Workload(8, 2))
    assert measured.ttft_ms is not None
    # 100 requests were due within that second; the k-th of them waited for what was left of it.
    assert (ttft_ms > 500).sum() >= 50 and (ttft_ms > 100).sum() >= 89
    assert ttft_ms.max() >= 1000
    assert all(ttft_ms[20 + k] >= 1000 - 10 * k - 20 for k in range(90))
    assert {record.outcome for record in result.records} == {"ok"}


@pytest.mark.slow
def test_ten_thousand_requests_one_in_ten_failing_keep_ten_thousand_records() -> None:
    async def every_tenth_fails(reply: Reply) -> None:
        match reply.number % 10, reply.number % 40:
            case 3, 3:
                await reply.json(500, {"detail": "Internal server error"})
            case 3, 13:
                reply.reset()
            case 3, 23:
                await reply.head()
                reply.close()
            case 3, 33:
                await reply.head()
                await reply.chunk(b"data: {]\n\n")
                await reply.end()
            case _:
                await reply.head()
                await reply.chunk(full_stream(reply.body))
                await reply.end()
        await asyncio.sleep(0)

    with serve(every_tenth_fails) as (url, _):
        requests = make_requests(Workload(8, 2), 10_000, 32000, 0)
        result = drive(
            Target(url, "m"), Concurrency(64, 10_000), requests, control=LoadControl(backlog_bytes=100_000)
        )
    assert [record.seq for record in result.records] == list(range(10_000))
    outcomes = Counter(record.outcome for record in result.records)
    assert outcomes["ok"] == 9000
    assert outcomes["http_error"] == outcomes["reset"] == outcomes["truncated"] == 250
    assert outcomes["bad_stream"] == 250
    assert all(record.error for record in result.records if record.outcome != "ok")

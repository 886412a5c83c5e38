"""Times of requests after a load: from the first source that has any, of its own requests; or why there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ratematch.engines.trtllm_serve.requesttimes import trim_record
from ratematch.loadgen import limits
from ratematch.measure.records import RequestRecord
from ratematch.measure.requesttimes import AskTimes, TimesSources
from ratematch.run import requesttimes
from ratematch.run.requesttimes import CollectedTimes, collect_times, mark_times

from .test_telemetry import Answers, plan, server

ASK = AskTimes(("X-Ask", "1"), ("Server-Timing",), "times")
FILES = "perf_metrics/*/perf_metrics-*.jsonl"
EVERY = TimesSources(files=FILES, ask=ASK, route="/perf_metrics")
NOBODY = plan()
RECORDS = [RequestRecord(number, 0, times='{"Server-Timing": "a;dur=1"}') for number in range(2)]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requesttimes, "FILES_S", 0.0)


def write(launch: Path, kind: str, *lines: bytes) -> None:
    folder = launch / "perf_metrics" / kind
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "perf_metrics-server-h-1-x.jsonl").open("ab") as file:
        file.write(b"".join(lines))


def line(number: int, **more: Any) -> bytes:
    return json.dumps({"request_id": number, **more}).encode() + b"\n"


def collect(launch: Path, sources: TimesSources, records: list[RequestRecord], marks: Any = None) -> CollectedTimes:
    return collect_times(NOBODY, launch, sources, marks or {}, records, trim_record)


def test_only_lines_of_this_load_are_read_and_each_says_whose_it_is(tmp_path: Path) -> None:
    write(tmp_path, "gen", line(1))
    marks = mark_times(NOBODY, tmp_path, EVERY)
    write(tmp_path, "gen", line(2, time_breakdown_metrics=[1, 2], server="liar"), line(3)[:-4])
    write(tmp_path, "ctx", line(4))
    times = collect(tmp_path, EVERY, [], marks)
    assert (times.source, times.note) == ("files", None)
    assert [json.loads(one) for one in times.lines] == [
        {"request_id": 4, "server": "ctx/perf_metrics-server-h-1-x.jsonl"},
        {"request_id": 2, "server": "gen/perf_metrics-server-h-1-x.jsonl"},
    ]


def test_lines_that_are_no_records_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requesttimes, "TIMES_LINE_BYTES", 1000)
    write(tmp_path, "gen", b"garbage\n", b"[1]\n", b"\xff\xfe\n", b'{"a": "' + b"x" * 5000 + b'"}\n', line(5))
    times = collect(tmp_path, EVERY, [])
    assert [json.loads(one)["request_id"] for one in times.lines] == [5]
    assert times.note == "4 lines in files of times are no records"


def test_files_without_end_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requesttimes, "TIMINGS_BYTES", 200)
    write(tmp_path, "gen", *(line(number) for number in range(100)))
    times = collect(tmp_path, EVERY, [])
    assert 0 < len(times.lines) < 100 and times.note and "the rest was left out" in times.note
    assert limits.TIMES_LINE_BYTES < limits.TIMINGS_BYTES


def test_lines_that_are_still_to_come_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requesttimes, "FILES_S", 60.0)
    write(tmp_path, "gen", line(0), line(1))
    write(tmp_path, "disagg", line(0))
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            write(tmp_path, "disagg", line(1))

    monkeypatch.setattr("ratematch.run.requesttimes.time.sleep", sleep)
    assert len(collect(tmp_path, EVERY, RECORDS).lines) == 4
    assert len(naps) == 3


def test_the_next_source_stands_in_for_one_that_has_nothing(tmp_path: Path) -> None:
    answers: Answers = {"/perf_metrics": [[{"gen_server": "x"}]]}
    with server(answers) as port:
        front = plan(("orchestrator", "orchestrator", port))
        times = collect_times(front, tmp_path, EVERY, {}, RECORDS, trim_record)
        assert (times.source, [json.loads(one) for one in times.lines]) == (
            "route",
            [{"server": "orchestrator", "gen_server": "x"}],
        )
    with server({}) as port:
        front = plan(("orchestrator", "orchestrator", port))
        times = collect_times(front, tmp_path, EVERY, {}, RECORDS, trim_record)
        assert times.source == "answers" and not times.problems
        assert [json.loads(one) for one in times.lines] == [
            {"request": number, "times": {"Server-Timing": "a;dur=1"}} for number in range(2)
        ]
        nothing = collect_times(front, tmp_path, EVERY, {}, [RequestRecord(0, 0)], trim_record)
        assert nothing.source is None and nothing.note is not None
        for why in (f"no file {FILES} has any", "404", "no answer carried any"):
            assert why in nothing.note


def test_why_there_are_none_is_noted_and_nobody_is_asked(tmp_path: Path) -> None:
    times = collect(tmp_path, TimesSources(why_none="off"), RECORDS)
    assert times == CollectedTimes((), None, "off", {})
    assert mark_times(NOBODY, tmp_path, TimesSources(why_none="off")) == {}

"""What servers tell while a load runs, read from small servers that say what a test wants them to say."""

from __future__ import annotations

import http.server
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ratematch.engines.trtllm_serve.metrics import ROUTES, read_iterations
from ratematch.engines.vllm import metrics as vllm_metrics
from ratematch.measure.servermetrics import Iteration
from ratematch.plan.launchplan import LaunchPlan, ProcessSpec, ReadyProbe
from ratematch.run.iterations import (
    COLUMNS,
    KEPT,
    IterationLog,
    WorkerIteration,
    acceptance_length,
    prefix_hit_rate,
    summarise,
    write_iterations,
)
from ratematch.run.telemetry import Telemetry, read_perf_metrics
from ratematch.store.rowlog import RowLog
from tests.support.processes import wait_until

Answers = dict[str, list[Any]]


@contextmanager
def server(answers: Answers) -> Iterator[int]:
    """Answers each GET of a path with the next of its bodies (bytes as they are, else JSON), 404 when it has none."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            bodies = answers.get(self.path)
            if bodies is None:
                self.send_error(404)
                return
            body = bodies.pop(0) if bodies else []
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made.server_address[1]
        made.shutdown()
        thread.join()


def plan(*servers: tuple[str, str, int]) -> LaunchPlan:
    return LaunchPlan(
        (),
        tuple(
            ProcessSpec(name, role, (), (), (), (), "127.0.0.1", port, f"{name}.log", ReadyProbe("", 1.0))  # type: ignore[arg-type]
            for name, role, port in servers
        ),
        "",
    )


def listen(asked: LaunchPlan, period_s: float = 1.0) -> Telemetry:
    return Telemetry(asked, ROUTES, lambda: read_iterations, period_s)


def iteration(number: int, accepted: int = 3, drafted: int = 4) -> dict[str, Any]:
    return {
        "iter": number,
        "iterLatencyMS": 12.5,
        "numActiveRequests": 4,
        "kvCacheStats": {"usedNumBlocks": 7, "unknown": {"to": "us"}},
        "specDecodingStats": {
            "numDraftTokens": 8,
            "numAcceptedTokens": accepted,
            "numRequestsWithDraftTokens": drafted,
        },
        "requestStats": [],
    }


def test_iterations_are_drained_once_and_kept_compactly(tmp_path: Path) -> None:
    told = {"/metrics": [[iteration(1), iteration(2, 1)], [iteration(3, 0, 0)]]}
    with server(told) as port, listen(plan(("gen-0", "gen", port)), period_s=0.05) as telemetry:
        wait_until(lambda: not told["/metrics"], "both answers to be read", 10)
        rows = telemetry.take().iterations
        assert [row.iteration.iter for row in rows] == [1, 2, 3]
        assert list(telemetry.take().iterations) == []
        assert telemetry.reporting == {"gen-0"} and not telemetry.blind and telemetry.problems() == {}
    assert acceptance_length(rows) == pytest.approx(1 + (3 + 1) / (4 + 4)), "steps without drafts do not count"
    write_iterations(tmp_path / "iterations.parquet", rows)
    table = pq.read_table(tmp_path / "iterations.parquet")
    assert table.column_names == [name for name, _ in COLUMNS]
    assert table["server"].to_pylist() == ["gen-0"] * 3
    assert table["kv_used_blocks"].to_pylist() == [7.0] * 3 and table["step_ms"].to_pylist() == [12.5] * 3
    assert table["scheduled"].to_pylist() == [None] * 3, "what a server does not tell is not 0"


VLLM = """
vllm:iteration_tokens_total_count{engine="0"} %d
vllm:prompt_tokens_total{engine="0"} %d
vllm:prefix_cache_queries_total{engine="0"} %d
vllm:prefix_cache_hits_total{engine="0"} %d
"""


def test_iterations_and_samples_on_one_route_are_read_by_one_reader() -> None:
    def counters(number: int) -> bytes:
        return (VLLM % (number, 100 * number, 100 * number, 75 * number)).encode()

    answers: Answers = {"/metrics": [counters(number) for number in range(1, 1000)]}
    with server(answers) as port:
        servers = plan(("gen-0", "gen", port))
        with Telemetry(servers, vllm_metrics.ROUTES, vllm_metrics.IterationReader, period_s=0.02) as telemetry:
            telemetry.take()
            wait_until(lambda: len(answers["/metrics"]) < 980, "some answers", 10)
            reports = telemetry.take()
        url = telemetry.prometheus_url("gen-0")
    steps = [row.iteration.iter for row in reports.iterations]
    assert steps == list(range(steps[0], steps[0] + len(steps))), "every answer was an iteration's"
    assert prefix_hit_rate(reports.iterations, {"gen-0"}) == 0.75
    assert prefix_hit_rate(reports.iterations, {"gen-1"}) is None
    first, last = reports.samples.rows[0], reports.samples.rows[-1]
    growth, elapsed_s = reports.samples.growth(url, first.read_ns, last.read_ns)
    assert growth['vllm:iteration_tokens_total_count{engine="0"}'] >= len(steps), "from the end of the take before"
    assert elapsed_s == (last.read_ns - first.read_ns) / 1e9


def test_nothing_told_makes_an_empty_table_and_no_acceptance(tmp_path: Path) -> None:
    write_iterations(tmp_path / "iterations.parquet", [])
    assert pq.read_table(tmp_path / "iterations.parquet").num_rows == 0
    assert acceptance_length([]) is None


@pytest.mark.parametrize("answers", [{}, {"/metrics": [b"<html>"] * 9}], ids=["no route", "garbage"])
def test_a_server_that_tells_nothing_is_noted_and_left_alone(answers: Answers) -> None:
    with server(answers) as port, listen(plan(("gen-0", "gen", port)), period_s=0.01) as telemetry:
        wait_until(lambda: telemetry.blind, "the server to be given up", 10)
        assert list(telemetry.take().iterations) == []
        assert "gen-0" in telemetry.problems()


def test_one_bad_answer_does_not_blind_the_reader() -> None:
    told = {"/metrics": [b"nonsense", [iteration(1)]]}
    with server(told) as port, listen(plan(("gen-0", "gen", port)), period_s=0.01) as telemetry:
        wait_until(lambda: telemetry.reporting, "the good answer", 10)
        assert [row.iteration.iter for row in telemetry.take().iterations] == [1]
        assert telemetry.problems() == {}


def test_the_end_does_not_wait_for_a_route_that_hangs() -> None:
    gate = threading.Event()

    class Slow(list[Any]):
        def pop(self, index: Any = -1) -> Any:
            gate.wait(30)
            return []

        def __bool__(self) -> bool:
            return True

    with server({"/metrics": Slow()}) as port:
        began = time.monotonic()
        with listen(plan(("gen-0", "gen", port))) as telemetry:
            assert list(telemetry.take().iterations) == []
        ended = time.monotonic()
        gate.set()
    assert ended - began < 10, "an idle server holds its answer back; nobody waits for it"


def test_request_timings_come_from_the_orchestrator_where_there_is_one() -> None:
    worker, front = {"/perf_metrics": [[{"request_id": 1}]]}, {"/perf_metrics": [[{"gen_server": "x"}]]}
    with server(worker) as one, server(front) as two, server({}) as silent:
        assert [json.loads(line) for line in read_perf_metrics(plan(("gen-0", "gen", one)), "/perf_metrics")[0]] == [
            {"server": "gen-0", "request_id": 1}
        ]
        both = plan(("gen-0", "gen", one), ("orchestrator", "orchestrator", two))
        assert [json.loads(line)["server"] for line in read_perf_metrics(both, "/perf_metrics")[0]] == [
            "orchestrator"
        ]
        lines, problems = read_perf_metrics(plan(("agg-0", "agg", silent)), "/perf_metrics")
        assert lines == [] and "404" in problems["agg-0"]


@pytest.mark.parametrize("count", [0, 1, 700])
def test_iterations_that_were_spilt_give_the_same_file_and_figures(tmp_path: Path, count: int) -> None:
    def figures(server: str, number: int) -> WorkerIteration:
        own = random.Random(f"{server} {number}")
        values = [own.choice([None, own.random() * 1e3, float(own.randrange(9))]) for _ in range(13)]
        return WorkerIteration(server, 1000 * number, Iteration(number, own.choice([None, 0, 3]), *values))

    rows = [figures(server, number) for server in ("gen-0", "gen-1") for number in range(count)]
    logs = []
    for server in ("gen-0", "gen-1"):
        logs.append(RowLog(KEPT, tmp_path, 1))
        logs[-1].extend((row.server, row.read_ns, *row.iteration) for row in rows if row.server == server)
    spilt = IterationLog(logs)
    assert list(spilt) == rows and len(spilt) == len(rows)
    write_iterations(tmp_path / "plain", rows)
    write_iterations(tmp_path / "spilt", spilt)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "spilt").read_bytes()
    span = (100_000, 600_000)
    assert summarise(spilt, *span) == summarise(rows, *span)
    assert acceptance_length(spilt) == acceptance_length(rows)
    assert prefix_hit_rate(spilt, {"gen-1"}) == prefix_hit_rate(rows, {"gen-1"})

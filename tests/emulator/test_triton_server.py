"""The real ``tritonserver`` with stand-ins for its engines: what a load sees of it, and how it fails.

One server for all of it, because a start takes seconds; what kills a model comes last.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ratematch.cli import main
from ratematch.engines import find_engine, read_metrics
from ratematch.engines.triton.derive import COUNT
from ratematch.loadgen import LoadControl, Progress, Target, drive
from ratematch.loadgen.http import get, server_version
from ratematch.measure.records import RequestRecord
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.requestapi import Api
from ratematch.plan.workload import Workload, make_requests
from ratematch.run.probes import probe
from tests.support import triton
from tests.support.processes import processes_with, wait_until

pytestmark = [pytest.mark.slow, triton.needed]

BLS = "disaggregated_serving_bls"
OSL = 6
INSTANCES = 2


def planned() -> Experiment:
    """A pair whose orchestrator has two instances, though the load keeps six requests in flight: forced."""
    ctx, gen = (
        ServerGroup(role, parse_mapping("TP1"), max_batch_size=8, max_num_tokens=8192, options={"max_seq_len": 9000})  # type: ignore[arg-type]
        for role in ("ctx", "gen")
    )
    deployment = Deployment(ctx=ctx, gen=gen, orchestrator={COUNT: INSTANCES}, unchecked=(COUNT,))
    engine = EngineRef("triton", "1.2")
    loads = (Concurrency(6, 6),)
    return Experiment(
        "e2e", "llama-3.3-70b", "llama-3.3-70b", engine, "gb200", "laptop", True, deployment, Workload(64, OSL), loads
    )


def send(
    server: triton.Server,
    model: str,
    number: int = 2,
    *,
    api: Api = "generate-ids",
    osl: int = OSL,
    extra: Mapping[str, Any] | None = None,
    at_once: int = 1,
    stall_s: float = 30.0,
    control: LoadControl | None = None,
) -> list[RequestRecord]:
    target = Target(server.url, model, api, extra_body=extra or {}, stall_s=stall_s)
    requests = make_requests(Workload(64, osl), number, 32000, 0)
    return list(drive(target, Concurrency(at_once, number), requests, control=control or LoadControl()).records)


def check_loads(server: triton.Server) -> None:
    """Whole loads, with ids and with texts; the server is known for an emulated one."""
    for model in (BLS, "context", "generation"):
        for record in send(server, model):
            assert (record.outcome, record.osl, record.isl_reported) == ("ok", OSL, 64), record.error
            assert len(record.chunk_ns) == OSL, "each response has its instant"
    for record in send(server, "ensemble", api="generate"):
        assert (record.outcome, record.osl, record.isl_reported) == ("ok", OSL, 64), record.error
    assert server_version("127.0.0.1", server.spec.port).emulated
    words = f"load {server.url} --api generate-ids --model {BLS} --concurrency 2 --num-requests 12 --isl 64 --osl 6"
    metrics = f"http://127.0.0.1:{server.spec.metrics_port}/metrics"
    done = CliRunner().invoke(main, [*words.split(), "--server-metrics", metrics, "--json"], catch_exceptions=False)
    (row,) = json.loads(done.stdout)["loads"]
    assert row["emulated"] is True and row["num_ok"] == 12 and row["osl_mean"] == OSL


def check_stair(server: triton.Server) -> None:
    """Six requests at once and two instances: three turns. No first token of a turn comes before an end of the one
    before it, and the requests that wait are counted where the metrics say so."""
    waiting: list[float] = []

    def look(progress: Progress) -> None:
        body = get(f"http://127.0.0.1:{server.spec.metrics_port}/metrics", 5).body
        waiting.append(read_metrics(body)[0]["queued"])

    control = LoadControl(on_progress=look, progress_s=0.05)
    records = send(server, BLS, 6, at_once=6, osl=24, control=control)
    assert [record.outcome for record in records] == ["ok"] * 6
    firsts = sorted(record.first_token_ns or 0 for record in records)
    lasts = sorted(record.last_token_ns or 0 for record in records)
    for turn in (1, 2):
        for place in range(INSTANCES):
            assert firsts[turn * INSTANCES + place] > lasts[(turn - 1) * INSTANCES + place]
    assert max(waiting) >= 1


def check_errors(server: triton.Server) -> None:
    """Before the first token: HTTP 400 with the words of the half that failed. After it: an error with HTTP 200
    where the server hands it on, silence where its Python backend does not; a named failure both times."""
    for name, half in (("ratematch_fault", "Generation"), ("ratematch_fault_ctx", "Context")):
        for record in send(server, BLS, extra={name: "before"}):
            assert record.outcome == "http_error" and record.status == 400
            assert f"{half} model" in str(record.error) and "before the first response" in str(record.error)
    for record in send(server, "generation", extra={"ratematch_fault": "after"}):
        assert record.outcome == "bad_stream" and record.status == 200 and len(record.chunk_ns) == 3
        assert str(record.error).startswith(f"the server reports after 3 of {OSL} tokens: an injected fault")
    for record in send(server, BLS, INSTANCES, extra={"ratematch_fault": "after"}, stall_s=1.0):
        assert record.outcome in ("bad_stream", "timeout") and len(record.chunk_ns) == 3, record.error
        assert "after 3 of" in str(record.error) or "stalled: no bytes for 1 s" in str(record.error)


def check_killed_model(server: triton.Server) -> None:
    """kill -9 of a model's process in the middle of a stream: health stays 200, the stream hangs, and later requests
    are told; the cause has a name."""
    (record,) = send(server, "context", 1, extra={"ratematch_fault": "die"}, osl=64, stall_s=1.0)
    assert record.outcome == "timeout" and "stalled: no bytes for 1 s" in str(record.error)
    assert probe(server.spec.ready.url) is None, "the server says nothing of it"
    (later,) = send(server, "context", 1, stall_s=5.0)
    assert later.outcome == "http_error" and "Stub process 'context_0_0" in str(later.error)
    known = find_engine("triton").diagnose([str(later.error)])
    assert known is not None and known.name == "triton-stub-died"


def check_cut_at_stop(server: triton.Server) -> None:
    """The server is stopped under a long stream: it is cut, cleanly or not, and never counts as whole."""
    begun = threading.Event()
    kept: list[RequestRecord] = []

    def look(progress: Progress) -> None:
        if progress.in_flight:
            begun.set()

    def load() -> None:
        control = LoadControl(on_progress=look, progress_s=0.05)
        kept.extend(send(server, "generation", 1, osl=4000, control=control))

    thread = threading.Thread(target=load)
    thread.start()
    assert begun.wait(30)
    os.killpg(server.process.pid, signal.SIGTERM)
    thread.join(60)
    (record,) = kept
    assert record.outcome in ("truncated", "reset") and record.osl != 4000
    assert "of 4000 tokens" in str(record.error) or "closed" in str(record.error) or "reset" in str(record.error)


def test_a_load_sees_it_whole_and_every_failure_has_a_name(tmp_path: Path) -> None:
    experiment = planned()
    with triton.running(experiment, tmp_path) as server:
        assert server.shared()
        check_loads(server)
        check_stair(server)
        check_errors(server)
        check_killed_model(server)
        check_cut_at_stop(server)
        wait_until(lambda: server.process.poll() is not None, "the server to end", 30)
    assert server.shared() == [], "shared memory is clean"
    assert list(processes_with(f"RATEMATCH_RUN={server.mark}")) == []

"""Servers of ours are reached directly, whatever proxy the site has set for the outside world."""

from __future__ import annotations

import asyncio
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratematch.loadgen.client import Target
from ratematch.loadgen.http import server_version
from ratematch.loadgen.ladder import run_ladder
from ratematch.loadgen.options import LoadOptions
from ratematch.loadgen.send import Senders, send_load
from ratematch.loadgen.servermetrics import MetricsPoller
from ratematch.loadgen.shards import LoadJob
from ratematch.loadgen.warming import warm_prompts
from ratematch.measure.loadrun import EmulatorTime
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload
from ratematch.run import render
from ratematch.run.iterations import prefix_hit_rate
from ratematch.run.probes import probe
from ratematch.run.telemetry import read_emulator_times, read_perf_metrics
from ratematch.run.warmup import warm_connections
from tests.emulator.servers import post
from tests.emulator.test_orchestrator import STREAM, Cluster
from tests.emulator.test_vllm_server import ASK, handed_over
from tests.emulator.vllm_servers import DECODE, PREFILL, make_server, serving
from tests.engines.test_vllm_proxy import Side, keeps, proxied, streams
from tests.loadgen.sse_server import Reply, serve
from tests.ports import free_port
from tests.run.test_telemetry import Answers, iteration, listen, plan, server
from tests.support.invented import LAPTOP, PAIR, experiment
from tests.support.processes import wait_until

ACCOUNT = {"emulated": {"busy_s": 1.0, "late_s": 0.0, "lost_s": 0.0}}


def set_dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable that names a proxy names a port where nobody listens."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For urllib too, which reads the variables once in the life of a process."""
    set_dead_proxy(monkeypatch)
    urllib.request.install_opener(None)  # type: ignore[arg-type]
    yield
    urllib.request.install_opener(None)  # type: ignore[arg-type]


def test_the_proxy_of_these_tests_would_be_asked() -> None:
    # Not urlopen: it keeps the opener, and so the proxies, of its first call in this process.
    with server({"/version": [{"version": "1.2"}]}) as port, pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.build_opener().open(f"http://127.0.0.1:{port}/version", timeout=5)


def test_pollers_and_probes_reach_a_server() -> None:
    answers: Answers = {
        "/metrics": [[iteration(1)]] * 100,
        "/version": [{"version": "1.2"}],
        "/health": [{}],
        "/perf_metrics": [[{"request_id": 1}]],
        "/server_info": [ACCOUNT],
    }
    with server(answers) as port:
        servers = plan(("gen-0", "gen", port))
        assert probe(f"http://127.0.0.1:{port}/health") is None
        assert server_version("127.0.0.1", port).version == "1.2"
        assert read_emulator_times(servers) == {"gen-0": EmulatorTime(**ACCOUNT["emulated"])}
        assert len(read_perf_metrics(servers, "/perf_metrics")[0]) == 1
        with listen(servers, period_s=0.02) as telemetry:
            wait_until(lambda: telemetry.reporting, "an iteration", 10)
        with MetricsPoller([f"http://127.0.0.1:{port}/metrics"], period_s=0.02) as poller:
            wait_until(lambda: poller.rows, "a sample", 10)
        assert poller.notes == []


def test_prefix_hits_are_read() -> None:
    found = {"iter": 1, "numContextTokens": 10, "kvCacheStats": {"cacheHitRate": 0.5}}
    found["inflightBatchingStats"] = {"numCtxTokens": 10}
    with server({"/metrics": [[found]]}) as port, listen(plan(("gen-0", "gen", port)), period_s=0.02) as telemetry:
        wait_until(lambda: telemetry.reporting, "an iteration", 10)
        assert prefix_hit_rate(telemetry.take().iterations, {"gen-0"}) == 0.5


@pytest.mark.parametrize("processes", [1, 2])
def test_loads_and_what_goes_before_them_are_sent(processes: int) -> None:
    with serve() as (url, seen):
        job = LoadJob(Target(url, "m"), Concurrency(2, 8, 2), Workload(8, 4), 32_000, distinct=2)
        assert warm_prompts(job, job.source(), threading.Event()).failed == 0
        result = send_load(job, job.source(), senders=Senders(processes))
        assert {record.outcome for record in result.records} == {"ok"} and len(result.records) == 8
    assert len(seen.bodies) == 2 + 2 + 8


def test_connections_are_opened() -> None:
    async def at_once(reply: Reply) -> None:
        await reply.json(200, {"choices": [{"text": "a", "finish_reason": "length"}], "usage": {}})

    with serve(at_once) as (url, seen):
        done = warm_connections(Target(url, "m"), experiment("e2e", PAIR), 32_000, 0, threading.Event())
    assert done is not None and len(seen.bodies) == done.requests


def test_a_ladder_with_the_servers_own_metrics() -> None:
    with serve() as (url, _), server({"/metrics": [[iteration(1)]] * 100}) as port:
        address = f"http://127.0.0.1:{port}/metrics"
        options = LoadOptions(
            url, "m", concurrency="2", num_requests=8, isl=8, osl=4, processes=1, server_metrics=(address,)
        )
        (row,) = run_ladder(options, None, lambda load, progress: None)
    assert len(row.result.records) == 8
    assert row.samples["server_metrics.jsonl"] and not any("metrics" in note for note in row.notes)


def test_orchestrators_reach_their_workers() -> None:
    async def go() -> None:
        async with Cluster() as address:
            assert (await post(address, STREAM))[0] == 200
        async with proxied([Side("p", keeps)], [Side("d", streams)]) as (address, _):
            assert (await post(address, {"model": "m", "prompt": [1, 2], "max_tokens": 3, "stream": True}))[0] == 200
        left, right = make_server({"kv-transfer-config": PREFILL}), make_server({"kv-transfer-config": DECODE})
        async with serving(left, right) as (prefill, decode):
            assert (await handed_over(prefill, decode, ASK))[0] == 200

    asyncio.run(go())


def test_rendered_scripts_ask_around_it(tmp_path: Path) -> None:
    (found,) = render.render(experiment("e2e", PAIR), LAPTOP, allocated=False, port_base=25300)
    asks = re.findall(r"^.*\b(?:curl|wget)\b.*$", found.files["run.sh"], re.MULTILINE)
    assert asks and all("curl --noproxy '*'" in line for line in asks)
    with server({"/health": [{}] * 3}) as port:
        script = found.files["run.sh"].partition("\n# send OPTION")[0]
        (tmp_path / "ready.sh").write_text(f"{script}\nWORK=.\nready agg-0 http://127.0.0.1:{port}/health 5\n")
        began = time.monotonic()
        done = subprocess.run(
            ["bash", tmp_path / "ready.sh"], capture_output=True, text=True, timeout=20, check=False
        )
    assert (done.returncode, done.stdout) == (0, "agg-0 is ready\n"), done.stderr
    assert time.monotonic() - began < 5

"""What servers and GPUs tell meanwhile: read in step, summed over the window, silent where there is nothing."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ratematch.engines import read_metrics
from ratematch.loadgen.gpu import GpuSampler
from ratematch.loadgen.servermetrics import MetricSamples, MetricsPoller
from ratematch.measure.servermetrics import doubt_iterations, parse_prometheus
from ratematch.plan.workload import Workload
from ratematch.store import rowlog

PROMETHEUS = """
# HELP total_requests requests
total_requests_total{role="gen"} %d
DCGM_FI_DEV_POWER_USAGE{gpu="0"} 412.5
latency_bucket{le="1"} 4
latency_sum 2.5e1
odd NaN
"""


@contextmanager
def metrics_server(bodies: Any) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = next(bodies)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_prometheus_text() -> None:
    assert parse_prometheus(PROMETHEUS % 7) == {
        'total_requests_total{role="gen"}': 7.0,
        'DCGM_FI_DEV_POWER_USAGE{gpu="0"}': 412.5,
        "latency_sum": 25.0,
    }


def counted() -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        yield (PROMETHEUS % number).encode()


def test_gauges_are_averaged_and_counters_are_their_growth() -> None:
    begin = time.monotonic_ns()
    with metrics_server(counted()) as url, MetricsPoller([url], period_s=0.02) as poller:
        while len(poller.rows) < 5:
            time.sleep(0.01)
    summary = poller.samples.summarise(begin, time.monotonic_ns())
    assert summary is not None and poller.notes == []
    assert summary[url]['DCGM_FI_DEV_POWER_USAGE{gpu="0"}'] == 412.5
    assert summary[url]['total_requests_total{role="gen"}'] == summary[url]["samples"] - 1
    assert poller.samples.summarise(0, begin - 1) is None


def test_answers_are_read_by_what_the_caller_passes() -> None:
    def read(body: bytes) -> list[dict[str, float]]:
        return [{"size": float(len(body))}, {"size": 0.0}]

    with metrics_server(counted()) as url, MetricsPoller([url], period_s=0.01, read=read) as poller:
        while not poller.rows:
            time.sleep(0.01)
    sizes = [values["size"] for _, _, values in poller.rows]
    assert sizes[0] == len(PROMETHEUS % 1) and sizes[1] == 0.0, "one row a map"


def test_an_address_that_does_not_answer_is_one_note() -> None:
    with MetricsPoller(["http://127.0.0.1:9/metrics"], period_s=0.01) as poller:
        time.sleep(0.1)
    assert len(poller.notes) == 1 and "127.0.0.1:9" in poller.notes[0]
    assert poller.samples.summarise(0, time.monotonic_ns()) is None


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ({"queued": 4.0, "active": 8.0}, "4.0 requests waited"),
        ({"kv_used": 99.0, "kv_max": 100.0}, "KV cache was full"),
        ({"paused": 2.0}, "paused"),
        ({"cache_hit_rate": 0.3}, "prefix cache answered 30.0%"),
    ],
)
def test_what_servers_throw_doubt_on(figures: dict[str, float], says: str) -> None:
    assert any(says in text for text in doubt_iterations("gen0", figures, Workload(8, 8)))
    assert (
        doubt_iterations("gen0", {"queued": 0.1, "active": 8.0, "kv_used": 5.0, "kv_max": 9.0}, Workload(8, 8)) == []
    )


def test_cache_hits_that_are_wanted_are_not_doubted() -> None:
    assert doubt_iterations("gen0", {"cache_hit_rate": 0.3}, Workload(8, 8, prefix_share=0.5)) == []


def grown_hits() -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        yield (
            f"vllm:prefix_cache_queries_total {1000 * number}\nvllm:prefix_cache_hits_total {300 * number}\n"
            "vllm:num_requests_waiting 50\nvllm:num_requests_running 1\n"
        ).encode()


def test_counters_are_judged_by_their_growth_also_over_a_span_between_two_samples() -> None:
    with metrics_server(grown_hits()) as url, MetricsPoller([url], period_s=0.01, read=read_metrics) as poller:
        while len(poller.rows) < 4:
            time.sleep(0.01)
    first, second = poller.rows[1].read_ns, poller.rows[2].read_ns
    for span in ((first, second), (first + 1, second - 1)):
        findings = list(poller.judge(poller.samples.summarise(*span), span, Workload(8, 8)))
        assert any(severe and "its prefix cache answered 30.0%" in text for severe, text in findings)
        assert any(not severe and "50.0 requests waited" in text for severe, text in findings)


def invented_nvml(count: int = 2) -> Any:
    return SimpleNamespace(
        NVML_CLOCK_SM=1,
        nvmlDeviceGetCount=lambda: count,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetPowerUsage=lambda handle: 300_000 + 100_000 * handle,
        nvmlDeviceGetClockInfo=lambda handle, kind: 1980,
        nvmlDeviceGetUtilizationRates=lambda handle: (_ for _ in ()).throw(RuntimeError("not told")),
    )


def test_energy_per_token_is_the_power_of_all_gpus_over_the_rate() -> None:
    begin = time.monotonic_ns()
    with GpuSampler(invented_nvml()) as sampler:
        while len(sampler.samples) < 6:
            time.sleep(0.02)
    summary = sampler.summarise(begin, time.monotonic_ns(), tok_s=1400.0)
    assert summary is not None
    assert summary.power_w == 700.0 and summary.joules_per_output_token == 0.5
    written = asdict(summary)
    assert written["gpus"]["1"] == {"power_w": 400.0, "sm_mhz": 1980.0, "utilisation": None}
    assert json.loads(json.dumps(written, allow_nan=False)) == written


def test_without_gpus_nothing_is_sampled() -> None:
    with GpuSampler() as sampler:
        time.sleep(0.15)
    assert sampler.samples == [] and sampler.summarise(0, time.monotonic_ns(), 1.0) is None
    assert all(note.startswith("no GPU is sampled") for note in sampler.notes)


@pytest.mark.parametrize("period", [1, 1000])
def test_samples_that_were_spilt_give_the_same_lines_and_figures(
    monkeypatch: pytest.MonkeyPatch, period: int
) -> None:
    """Whether a batch is a sample or all of them fit into one."""
    monkeypatch.setattr(rowlog, "HOLD_B", 1)
    monkeypatch.setattr(rowlog, "_ROWS", period)
    samples = MetricSamples(lambda body: [json.loads(body)])
    told = [{"a": 0.1 * k, "b_total": 3.0 * k, **({"odd": 1.0} if k % 2 else {})} for k in range(60)]
    for k, figures in enumerate(told):
        samples.add("u" if k % 3 else "v", json.dumps(figures).encode(), 10 * k)
    assert [row.values for row in samples.rows] == told and samples.urls == ["v", "u"]
    lines = list(samples.lines())
    assert lines[1] == {"read_ns": 10, "url": "u", **told[1]} and len(lines) == len(samples) == 60
    inside = [told[k] for k in range(60) if k % 3 and 95 <= 10 * k <= 405]
    summary = samples.summarise(95, 405)
    assert summary is not None and list(summary) == ["u", "v"]
    assert summary["u"] == {
        "samples": len(inside),
        "a": float(np.mean([figures["a"] for figures in inside])),
        "b_total": inside[-1]["b_total"] - inside[0]["b_total"],
        "odd": 1.0,
    }
    grown = {"b_total": told[41]["b_total"] - told[8]["b_total"], "a": told[41]["a"], "odd": 1.0}
    assert samples.growth("u", 95, 405) == (grown, (410 - 80) / 1e9)
    assert samples.growth("u", 0, 10**9)[1] == (590 - 10) / 1e9 and samples.growth("w", 0, 9) == ({}, 0.0)
    taken = samples.take()
    assert len(taken) == 60 and [row.read_ns for row in samples.rows] == [570, 590] and samples.urls == ["v", "u"]
    samples.add("u", b"{}", 600)
    assert len(taken) == 60 and len(samples) == 3

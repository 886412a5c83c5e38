"""Open-loop waits against theory and simulation, and the deployments planned with them."""

from __future__ import annotations

import heapq
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ratematch.match.analysis import analyze
from ratematch.match.feasibility import Links, egress_b_s, ingress_b_s, kv_transfer_s
from ratematch.match.points import ServingPlan
from ratematch.match.question import Question
from ratematch.match.servicetime import open_loop_wait, wait_share
from ratematch.plan.model import Gpu, Mla, Model
from ratematch.plan.parallelism import Parallelism, parse_mapping
from tests.support.invented import ctx_rows, gen_rows, ifb_rows

CTX = ctx_rows("TEP4", {1: 8.0, 4: 12.0})
GEN = gen_rows("DEP8", {32: 4000.0, 64: 6400.0, 128: 8000.0})


def simulate(req_s: float, service_s: float, servers: int, routing: str, num: int = 60_000) -> np.ndarray:
    """Waits of Poisson arrivals, event by event."""
    rng = np.random.default_rng(3)
    times = np.cumsum(rng.exponential(1 / req_s, num))
    free = [0.0] * servers
    waits = []
    for k, now in enumerate(times):
        if routing == "shared":
            start = max(now, heapq.heappop(free))
            heapq.heappush(free, start + service_s)
        else:
            at = k % servers if routing == "round_robin" else int(rng.integers(servers))
            start = max(now, free[at])
            free[at] = start + service_s
        waits.append(start - now)
    return np.array(waits[num // 10 :])


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.8), (3, 0.8), (8, 0.9)])
@pytest.mark.parametrize("routing", ["shared", "random"])
def test_waits_are_those_of_a_simulation(servers: int, load: float, routing: str) -> None:
    wait = open_loop_wait(load * servers / 0.5, 0.5, servers, routing)  # type: ignore[arg-type]
    assert wait is not None
    seen = simulate(load * servers / 0.5, 0.5, servers, routing)
    assert wait.mean_s == pytest.approx(seen.mean(), rel=0.12)
    for percentile in (90, 99):
        assert wait.at(percentile) == pytest.approx(np.percentile(seen, percentile), rel=0.12)


def test_round_robin_waits_less_than_random_and_more_than_shared() -> None:
    waits = [open_loop_wait(7.0, 0.5, 4, routing) for routing in ("shared", "round_robin", "random")]
    means = [wait.mean_s for wait in waits if wait is not None]
    assert len(means) == 3
    assert means == sorted(means)
    assert means[1] == pytest.approx(simulate(7.0, 0.5, 4, "round_robin").mean(), rel=0.35)


def test_the_md1_median_has_its_closed_form() -> None:
    # P(W = 0) = 1 - rho; within the first service time P(W <= t) = (1 - rho) exp(rho t).
    assert wait_share(0.0, 0.4, 1) == pytest.approx(0.6)
    assert wait_share(0.5, 0.4, 1) == pytest.approx(0.6 * np.exp(0.2))


def test_a_server_that_is_too_busy_has_no_wait() -> None:
    assert open_loop_wait(2.0, 0.5, 1, "shared") is None
    assert open_loop_wait(2.0, 0.5, 2, "shared") is not None


def serve(req_s: float, **limits: float | int) -> list[ServingPlan]:
    question = Question(max_gpus=64, draws=0, request_rate=req_s, **limits)  # type: ignore[arg-type]
    analysis = analyze([*CTX, *GEN], question, sweep="s")
    return list(analysis.workloads[0].serving)


def test_how_many_gpus_for_40_requests_a_second() -> None:
    (plan,) = serve(40.0, ttft_ms=2000.0, tpot_ms=16.0, percentile=99)
    # gen: 8000 decoded tokens/s = 40 x 200 fill one instance to the brim, and a p99 batch does not fit: two.
    assert plan.gen == 2
    # ctx: 40/12 = 3.3 instances' worth of work; four keep p99 TTFT.
    assert plan.ctx == 4
    assert plan.gpus == 4 * 4 + 2 * 8
    assert plan.ctx_load == pytest.approx(40 / 48)
    assert plan.ttft_ms < plan.ttft_limit_ms <= 2000
    assert plan.tpot_limit_ms <= 16
    assert plan.within
    assert plan.concurrency == pytest.approx(40 * (plan.ttft_ms + 200 * plan.tpot_ms) / 1000)


def test_a_tighter_limit_needs_more_gpus() -> None:
    plans = [serve(40.0, ttft_ms=limit, percentile=99)[0] for limit in (3000.0, 400.0, 200.0)]
    assert [b.ctx >= a.ctx for a, b in pairwise(plans)] == [True, True]
    assert plans[-1].ctx > plans[0].ctx
    assert serve(40.0, ttft_ms=100.0, percentile=99) == []  # a lone prompt takes 125 ms
    assert serve(40.0, tpot_ms=5.0) == []  # the smallest batch measured takes 8 ms
    assert not serve(4000.0, ttft_ms=2000.0)[0].within


MLA = Model(
    "m", layers=61, hidden=7168, vocab=1000, heads=128, kv_heads=128, head_dim=128, ffn=1, max_seq_len=9000,
    mla=Mla(1536, 512, 64, 128, 128),
)  # fmt: skip
H200 = Gpu("h200", 141e9, 4.8e12, {"fp8": 1e15}, nvlink_b_s=450e9, network_b_s=50e9, nvlink_domain=8, precision="fp8")


def test_g7_transfer_bandwidth() -> None:
    links = Links(MLA, H200, "fp8", isl=8192)
    dep4, tep4 = parse_mapping("DEP4"), Parallelism(tp=4)
    assert egress_b_s(links, 4.0, dep4, 0) == pytest.approx(0.287834112e9)
    assert ingress_b_s(links, 18.0, dep4, 0) == pytest.approx(1.295253504e9)
    assert ingress_b_s(links, 18.0, tep4, 0) == pytest.approx(5.181014016e9)
    # One request sits on one GPU under attention DP; the network carries it beyond the NVLink domain.
    assert kv_transfer_s(links, dep4, dep4, 0, 16) == pytest.approx(0.287834112e9 / 50e9)
    assert kv_transfer_s(links, dep4, dep4, 0, 8) == pytest.approx(0.287834112e9 / 450e9)


def test_what_the_links_cannot_carry_is_left_out_and_said() -> None:
    slow = Gpu(
        "slow", 141e9, 4.8e12, {"fp8": 1e15}, nvlink_b_s=1e8, network_b_s=1e8, nvlink_domain=8, precision="fp8"
    )
    question = Question(max_gpus=32)
    free = analyze([*CTX, *GEN], question, sweep="s").workloads[0]
    tight = analyze([*CTX, *GEN], question, sweep="s", links=Links(MLA, slow, "fp8")).workloads[0]
    assert 0 < len(tight.plans) < len(free.plans)
    assert any("GB/s egress of a ctx GPU" in note or "GB/s ingress of a gen GPU" in note for note in tight.notes)
    question = replace(question, segment_gpus=4)
    narrow = analyze([*CTX, *GEN], question, sweep="s", links=Links(MLA, H200, "fp8")).workloads[0]
    assert not narrow.plans
    assert any("exceeds one segment" in note for note in narrow.notes)


def test_what_aggregated_serving_would_take_stands_beside_the_answer() -> None:
    """At 16 in flight 16 / (0.1 + 200 x 10 ms) = 7.6 requests/s, at 64 over the limit: six servers of four GPUs."""
    rows = [*CTX, *GEN, *ifb_rows("TEP4", {16: (10.0, 100.0), 64: (40.0, 300.0)})]
    question = Question(max_gpus=64, draws=0, request_rate=40.0, ttft_ms=2000.0, tpot_ms=16.0)
    (workload,) = analyze(rows, question, sweep="s").workloads
    (note,) = [note for note in workload.notes if "aggregated serving" in note]
    assert "takes 24 GPUs at least for 40 requests/s: 6 x TEP4" in note
    for other in (replace(question, request_rate=None), replace(question, tpot_ms=5.0)):
        (workload,) = analyze(rows, other, sweep="s").workloads
        assert not [note for note in workload.notes if "aggregated serving" in note]

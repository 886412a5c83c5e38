"""Which GPUs tok/s/GPU is over, and what nodes and links leave of the plans."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratematch.match.analysis import analyze
from ratematch.match.feasibility import Links
from ratematch.match.matching import Objective
from ratematch.match.points import WorkloadAnalysis
from ratematch.match.question import Question
from ratematch.plan.model import Gpu, Mla, Model
from tests.support.invented import ctx_rows, e2e_rows, gen_rows, group, ifb_rows

ROWS = [
    *ctx_rows("TEP4", {1: 8.0, 4: 12.0}),
    *gen_rows("DEP8", {32: 4000.0, 64: 6400.0, 128: 8000.0}),
    *ifb_rows("TP4", {8: (6, 80), 32: (12, 200)}),
    *e2e_rows(group("ctx", "TEP4", 3), group("gen", "DEP8"), {96: (14, 100)}),
]
USED = Question(max_gpus=32)
ON_NODES = replace(USED, gpus_per_node=8, nodes=4, share_nodes=False)


def analyzed(question: Question, links: Links | None = None) -> WorkloadAnalysis:
    return analyze(ROWS, question, sweep="s", links=links).workloads[0]


def over(question: Question, objective: Objective) -> WorkloadAnalysis:
    return analyzed(replace(question, objective=objective))


def test_over_allocated_gpus_whole_nodes_count_everywhere() -> None:
    used = over(ON_NODES, "per_used_gpu")
    found = over(ON_NODES, "per_allocated_gpu")
    for point in found.plans:
        assert point.gpus_allocated == 8 * (point.nodes or 0) >= point.gpus
        assert point.tok_s_gpu == pytest.approx(point.tok_s / point.gpus_allocated)
    # 3 ctx of 4 GPUs take two nodes that they do not share with gen: 24 GPUs for 20 in use.
    measured = next(point for point in found.measured if point.kind == "end_to_end")
    same = next(point for point in used.measured if point.kind == "end_to_end")
    assert measured.tok_s_gpu == pytest.approx(same.tok_s_gpu * 20 / 24)
    # Aggregated servers of 4 GPUs fill their node in pairs.
    assert [p.tok_s_gpu for p in found.ifb] == [p.tok_s_gpu for p in used.ifb]
    assert max(p.tok_s_gpu for p in found.rate_matched) < max(p.tok_s_gpu for p in used.rate_matched)
    assert all(point.gpus % 8 == 0 for point in found.rate_matched)  # nothing idle on the best ones here


def test_in_a_budget_all_of_its_gpus_count() -> None:
    found = over(Question(max_gpus=30), "tok_s_in_budget")
    for point in found.plans:
        assert point.tok_s_gpu == pytest.approx(point.tok_s / 30)
    best = max(found.rate_matched, key=lambda point: point.tok_s_gpu)
    assert best.tok_s == pytest.approx(max(point.tok_s for point in found.plans))
    # Seven aggregated servers of 4 GPUs fit 30 GPUs, one deployment of 20 does.
    ifb = max(found.ifb, key=lambda point: point.tok_s_gpu)
    assert ifb.tok_s_gpu == pytest.approx(ifb.tok_s * 7 / 30)
    assert found.end_to_end[0].tok_s_gpu == pytest.approx(found.end_to_end[0].tok_s / 30)


def test_what_is_larger_than_the_budget_is_on_no_front() -> None:
    found = over(Question(max_gpus=16), "tok_s_in_budget")
    assert not found.end_to_end
    measured = next(point for point in found.measured if point.kind == "end_to_end")
    assert "over the budget of 16 GPUs" in measured.flags


def test_gaps_stay_over_used_gpus() -> None:
    (gap,) = over(ON_NODES, "per_allocated_gpu").gaps
    (same,) = over(ON_NODES, "per_used_gpu").gaps
    assert (gap.end_to_end, gap.parts, gap.ratio) == (same.end_to_end, same.parts, same.ratio)
    assert gap.front is None


def test_too_few_nodes_leave_plans_out() -> None:
    two = analyzed(replace(ON_NODES, nodes=2))
    assert {(point.ctx, point.gen) for point in two.plans} == {(1, 1), (2, 1)}


SLOW = Gpu("slow", 141e9, 4.8e12, {"fp8": 1e15}, nvlink_b_s=5e9, network_b_s=1e9, nvlink_domain=8, precision="fp8")
MODEL = Model(
    "m", layers=61, hidden=7168, vocab=1000, heads=128, kv_heads=128, head_dim=128, ffn=1, max_seq_len=9000,
    mla=Mla(1536, 512, 64, 128, 128),
)  # fmt: skip


def test_the_kv_transfer_is_inside_the_predicted_ttft() -> None:
    bare = analyzed(USED)
    found = analyzed(USED, Links(MODEL, SLOW, "fp8"))
    # 1,024 tokens of 35,136 bytes; TEP4 sends from four GPUs, one DEP8 GPU receives them at 1 GB/s.
    transfer_ms = 1024 * 35136 / 1e9 * 1000
    for point, other in zip(found.plans, bare.plans, strict=True):
        assert point.ttft_ms == pytest.approx(other.ttft_ms + transfer_ms)
        assert point.concurrency == pytest.approx(other.concurrency + point.req_s * transfer_ms / 1000)
        assert point.osl is not None and point.little is None
        latency_s = (point.ttft_ms + (point.osl - 1) * point.tpot_ms) / 1000
        assert point.concurrency == pytest.approx(point.req_s * latency_s)
    assert any("36 ms for the KV transfer" in note for note in found.notes)


def test_a_ctx_row_may_be_over_the_limit_only_with_its_transfer() -> None:
    def capacities(ttft_ms: float, links: Links | None) -> float:
        found = analyzed(replace(USED, ttft_ms=ttft_ms), links)
        return max((point.req_s / point.ctx for point in found.plans), default=0.0)

    links = Links(MODEL, SLOW, "fp8")
    assert capacities(340, None) == pytest.approx(12)  # 4 prompts in flight at 12/s: 333 ms
    assert capacities(340, links) == pytest.approx(8)  # and 36 ms more
    assert capacities(150, links) == 0

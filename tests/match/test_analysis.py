from __future__ import annotations

from dataclasses import replace

import pytest

from ratematch.analysis.joined import join_precisions
from ratematch.errors import ResultsError
from ratematch.match.analysis import analyze
from ratematch.match.gaps import predict_at
from ratematch.match.points import Point, WorkloadAnalysis
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.plan.deployment import Deployment
from ratematch.plan.load import Constraints
from ratematch.plan.workload import Workload
from tests.support.invented import WORKLOAD, ctx_rows, e2e_rows, experiment, gen_rows, group, ifb_rows, measurement

CTX = ctx_rows("TEP4", {1: 8.0, 4: 12.0})
GEN = gen_rows("DEP8", {32: 4000.0, 64: 6400.0, 128: 8000.0})
IFB = ifb_rows("TP8", {8: (6, 80), 32: (12, 200), 128: (40, 400)})
NO_LIMIT = Constraints()


def ask(limits: Constraints, max_gpus: int) -> Question:
    return Question(limits.ttft_ms, limits.tpot_ms, limits.percentile, max_gpus)


def one(measured: list[Measured], constraints: Constraints = NO_LIMIT, max_gpus: int = 32) -> WorkloadAnalysis:
    analysis = analyze(measured, ask(constraints, max_gpus), sweep="s")
    assert len(analysis.workloads) == 1
    return analysis.workloads[0]


def find(points: tuple[Point, ...], x: int, y: int) -> list[Point]:
    return [point for point in points if (point.ctx, point.gen) == (x, y)]


def test_a_ctx_limited_plan_is_read_at_the_throttled_point() -> None:
    row = find(one([*CTX, *GEN]).plans, 3, 1)[-1]
    # 3 x 12 requests/s of 200 decoded tokens: T' = 7200, C* = 96, TPOT = 96/7200 s; 201 output tokens on 20 GPUs.
    assert row.limit == "ctx"
    assert row.gpus == 20
    assert row.req_s == pytest.approx(36)
    assert row.tpot_ms == pytest.approx(40 / 3)
    assert row.tok_s_user == pytest.approx(75)
    assert row.tok_s_gpu == pytest.approx(36 * 201 / 20)
    assert row.ttft_ms == pytest.approx(1000 * 4 / 12)
    assert row.concurrency == pytest.approx(3 * 4 + 96)
    assert row.ratio == "10/3"
    assert row.label == "ctx3xTEP4-gen1xDEP8-mtp0"
    assert row.emulated


def test_every_row_obeys_littles_law_and_stays_below_the_bound() -> None:
    rows = one([*CTX, *GEN, *IFB, *e2e_rows(group("ctx", "TEP4", 3), group("gen", "DEP8"), {96: (14, 100)})])
    points = [*rows.plans, *rows.bound, *rows.measured]
    assert {point.kind for point in points} == {"rate_matched", "bound", "ifb", "end_to_end"}
    for point in points:
        assert point.osl == pytest.approx(201)
        latency_s = (point.ttft_ms + (point.osl - 1) * point.tpot_ms) / 1000
        assert point.concurrency == pytest.approx(point.req_s * latency_s)
        planned = point.kind in ("rate_matched", "bound")
        assert point.little is None if planned else point.little == pytest.approx(1)
        assert point.tok_s_user == pytest.approx(1000 / point.tpot_ms)
    for point in rows.rate_matched:
        assert max(b.tok_s_gpu for b in rows.bound if b.tok_s_user >= point.tok_s_user * (1 - 1e-9)) >= (
            point.tok_s_gpu * (1 - 1e-9)
        )


def test_fronts_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = [*CTX, *ctx_rows("TP2", {1: 3.0, 4: 4.0}), *GEN, *IFB]
    assert one(rows).rate_matched == one(rows[::-1]).rate_matched
    assert one(rows).bound == one(rows[::-1]).bound
    assert one(rows).ifb == one(rows[::-1]).ifb


def test_the_ttft_limit_decides_which_ctx_row_may_be_used() -> None:
    rows = [*ctx_rows("TEP4", {1: 8.0, 4: 12.0}, tail=2.0), *GEN]
    free = find(one(rows).plans, 3, 1)[-1].req_s
    assert free == pytest.approx(36)
    # 333 ms on average, 667 ms at p99: the second limit leaves only the row at concurrency 1 (250 ms at p99).
    assert find(one(rows, Constraints(ttft_ms=500)).plans, 3, 1)[-1].req_s == pytest.approx(36)
    assert find(one(rows, Constraints(ttft_ms=500, percentile=99)).plans, 3, 1)[-1].req_s == pytest.approx(24)
    none = one(rows, Constraints(ttft_ms=10))
    assert not none.plans
    assert any("no ctx measurement within TTFT 10 ms" in note for note in none.notes)


def test_the_tpot_limit_filters_after_throttling() -> None:
    # The full batch has 16 ms; throttled by three ctx instances it has 13.3 ms and stays.
    rows = find(one([*CTX, *GEN], Constraints(tpot_ms=14)).plans, 3, 1)
    assert rows[-1].tpot_ms == pytest.approx(40 / 3)
    tails = [*CTX, *gen_rows("DEP8", {32: 4000.0, 64: 6400.0, 128: 8000.0}, tail=1.2)]
    assert rows[-1] in one(tails, Constraints(tpot_ms=14)).plans or True
    kept = find(one(tails, Constraints(tpot_ms=14, percentile=99)).plans, 3, 1)
    assert kept
    assert all(row.tpot_ms * 1.2 <= 14 for row in kept)


def test_measured_rows_over_a_limit_are_not_on_the_front() -> None:
    result = one(IFB, Constraints(tpot_ms=20))
    assert [round(point.tpot_ms) for point in result.ifb] == [12, 6]
    over = [point for point in result.measured if point.tpot_ms > 20]
    assert len(over) == 1
    assert over[0].flags == ("over the TPOT limit: 40 ms > 20 ms",)


def test_mtp_is_paired_and_a_missing_one_is_flagged() -> None:
    mtp1 = gen_rows("DEP8", {64: 9000.0}, mtp=1)
    mtp3 = gen_rows("DEP8", {64: 12000.0}, mtp=3)
    ctx1 = ctx_rows("TEP4", {4: 10.0}, mtp=1)
    plans = one([*CTX, *ctx1, *mtp1, *mtp3]).plans
    measured_with = {(point.mtp, flag) for point in plans for flag in point.flags if flag.startswith("ctx measured")}
    assert {point.mtp for point in plans} == {1, 3}
    assert measured_with == {(3, "ctx measured with mtp=1, not 3")}
    assert [p.req_s for p in plans if (p.mtp, p.ctx, p.gen) == (1, 1, 1)] == [pytest.approx(10)]


def test_several_gen_instances_are_brought_to_one() -> None:
    single = one([*CTX, *GEN]).rate_matched
    double = one([*CTX, *gen_rows("DEP8", {32: 4000.0, 64: 6400.0, 128: 8000.0}, instances=2)]).rate_matched
    assert [(p.ctx, p.gen) for p in double] == [(p.ctx, p.gen) for p in single]
    assert [p.tok_s_gpu for p in double] == pytest.approx([p.tok_s_gpu for p in single])


def test_several_ctx_instances_are_brought_to_one() -> None:
    deployment = Deployment(ctx=group("ctx", "TEP4", 2))
    both = [
        replace(
            row,
            experiment=experiment("ctx", deployment, WORKLOAD),
            measurement=measurement(req_s=2 * rate, osl=1, ttft_ms=1000 * c / rate, tpot_ms=None),
        )
        for row, (c, rate) in zip(CTX, {1: 8.0, 4: 12.0}.items(), strict=True)
    ]
    single, double = one([*CTX, *GEN]).plans, one([*both, *GEN]).plans
    assert [p.label for p in double] == [p.label for p in single]
    assert [p.ttft_ms for p in double] == pytest.approx([p.ttft_ms for p in single])
    assert [p.req_s for p in double] == pytest.approx([p.req_s for p in single])


def test_repeats_are_averaged() -> None:
    groups = group("ctx", "TEP4", 3), group("gen", "DEP8")
    rows = [*e2e_rows(*groups, {96: (14, 100)}), *e2e_rows(*groups, {96: (16, 200)}, repeat=1)]
    (point,) = one(rows).end_to_end
    assert point.tpot_ms == pytest.approx(15)
    assert point.ttft_ms == pytest.approx(150)
    assert point.flags == ("mean of 2 repeats",)


def test_a_gap_is_against_the_same_deployment_and_the_front() -> None:
    e2e = e2e_rows(group("ctx", "TEP4", 6), group("gen", "DEP8", 2), {200: (14, 100)})
    (gap,) = one([*CTX, *GEN, *e2e]).gaps
    # Below the lowest predicted interactivity (75 tok/s/user) the deployment is predicted at its full rate.
    assert gap.rate_matched == pytest.approx(36 * 201 / 20)
    assert gap.ratio == pytest.approx(gap.end_to_end / gap.rate_matched)
    assert gap.front is not None
    assert gap.front >= gap.rate_matched - 1e-9
    (other,) = one([*CTX, *GEN, *e2e_rows(group("ctx", "TP2"), group("gen", "DEP8"), {9: (14, 100)})]).gaps
    assert other.rate_matched is None
    assert other.ratio is None


def test_a_prediction_is_not_extrapolated() -> None:
    curve = [(75.0, 360.0), (100.0, 320.0)]
    assert predict_at(curve, 50) == 360
    assert predict_at(curve, 87.5) == pytest.approx(340)
    assert predict_at(curve, 101) is None
    assert predict_at([], 50) is None


def test_speed_ups_lie_on_the_overlap() -> None:
    result = one([*CTX, *GEN, *IFB])
    low = max(result.rate_matched[0].tok_s_user, result.ifb[0].tok_s_user)
    high = min(result.rate_matched[-1].tok_s_user, result.ifb[-1].tok_s_user)
    us = [row.tok_s_user for row in result.speedups]
    assert us == sorted(us)
    assert (us[0], us[-1]) == (pytest.approx(low), pytest.approx(high))
    assert all(row.step is not None and row.linear is not None for row in result.speedups)


def test_emulated_and_real_results_are_refused_together() -> None:
    real = [replace(row, experiment=replace(row.experiment, emulated=False)) for row in CTX]
    with pytest.raises(ResultsError) as failure:
        one([*real, *GEN])
    assert f"{real[0].experiment.folder} (real)" in str(failure.value)
    assert f"{GEN[0].experiment.folder} (emulated)" in str(failure.value)


def test_two_models_are_refused_together() -> None:
    other = experiment("gen", Deployment(gen=group("gen", "DEP8")), WORKLOAD, model="other")
    with pytest.raises(ResultsError, match="models never share a front"):
        one([*CTX, replace(GEN[0], experiment=other)])


def test_two_step_time_models_of_the_emulator_are_refused_together_and_one_is_named() -> None:
    kernels = [replace(row, experiment=replace(row.experiment, step_times="kernels")) for row in GEN]
    with pytest.raises(ResultsError, match=r"engines or step-time models never share a front.*step times: kernels"):
        one([*CTX, *kernels])
    other = [replace(row, experiment=replace(row.experiment, step_times="kernels")) for row in CTX]
    found = analyze([*other, *kernels], Question(max_gpus=64), sweep="both")
    assert found.engine == "trtllm-serve 1.2, step times: kernels"


def test_what_is_not_valid_is_left_out_with_its_reasons() -> None:
    bad = measurement(req_s=1, osl=201, ttft_ms=10, tpot_ms=1, valid=False)
    result = one([*CTX, *GEN, replace(IFB[0], measurement=bad)])
    assert result.ifb == ()
    assert result.left_out == ((IFB[0].experiment.label, IFB[0].load.label, ("invented reason",)),)


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        (GEN, "no valid ctx measurement"),
        (CTX, "no valid gen measurement"),
        ([*CTX, *GEN], "no valid IFB measurement"),
        ([CTX[0], GEN[0]], "no valid end-to-end"),
        (IFB[:1], "no valid gen measurement"),
    ],
)
def test_what_is_missing_becomes_a_note(rows: list[Measured], note: str) -> None:
    result = one(rows)
    assert any(note in text for text in result.notes)
    assert bool(result.rate_matched) == ({row.experiment.stage for row in rows} >= {"ctx", "gen"})


def test_too_small_a_budget_becomes_a_note() -> None:
    assert "no deployment of up to 8 GPUs" in one([*CTX, *GEN], max_gpus=8).notes


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ResultsError, match="nothing is measured"):
        analyze([], Question(max_gpus=8), sweep="s")


def test_ctx_runs_of_the_same_isl_serve_every_osl() -> None:
    short = ctx_rows("TEP4", {1: 8.0, 4: 12.0}, workload=Workload(WORKLOAD.isl, 1))
    assert one([*short, *GEN]).rate_matched
    other = ctx_rows("TEP4", {1: 8.0}, workload=Workload(2 * WORKLOAD.isl, 1))
    assert not one([*other, *GEN]).rate_matched


def test_demand_below_the_measured_curve_is_clamped_and_flagged() -> None:
    rows = find(one([*ctx_rows("TEP4", {1: 2.0}), *GEN]).plans, 1, 1)
    assert [row.clamped for row in rows] == [True]
    assert rows[0].tpot_ms == pytest.approx(1000 * 32 / 4000)
    assert "demand below the smallest gen concurrency" in rows[0].flags[0]


def in_fp8(rows: list[Measured]) -> list[Measured]:
    """The same figures from servers with weights in FP8."""
    return [
        replace(row, experiment=replace(row.experiment, workload=replace(row.experiment.workload, precision="fp8")))
        for row in rows
    ]


def test_two_precisions_share_no_front_and_no_pair() -> None:
    """FP8 and FP4 of one model in one folder: each is as if the other were not there."""
    alone = one([*CTX, *GEN, *IFB])
    both = analyze([*CTX, *GEN, *IFB, *in_fp8([*GEN, *IFB])], ask(NO_LIMIT, 32), sweep="s")
    four, eight = both.workloads
    assert (four.workload, eight.workload) == (WORKLOAD.label, f"{WORKLOAD.label}~fp8")
    assert (four.rate_matched, four.ifb, four.plans) == (alone.rate_matched, alone.ifb, alone.plans)
    assert eight.plans == ()  # no ctx server with FP8 weights was measured
    assert [point.tok_s_gpu for point in eight.ifb] == [point.tok_s_gpu for point in alone.ifb]
    assert {source for point in eight.ifb for source in point.sources}.isdisjoint(
        source for point in four.ifb for source in point.sources
    )
    fed = analyze([*CTX, *GEN, *in_fp8([*CTX, *GEN])], ask(NO_LIMIT, 32), sweep="s")
    assert [len(workload.plans) for workload in fed.workloads] == [len(alone.plans)] * 2


def test_a_ctx_run_of_the_same_isl_feeds_only_its_own_precision() -> None:
    ctx = ctx_rows("TEP4", {1: 8.0, 4: 12.0}, workload=replace(WORKLOAD, osl=1))
    assert one([*ctx, *GEN]).plans
    assert not one([*in_fp8(ctx), *GEN]).plans
    assert one([*in_fp8(ctx), *in_fp8(GEN)]).plans


def test_precisions_share_a_front_when_that_is_asked_for() -> None:
    rows = [*CTX, *GEN, *in_fp8([*CTX, *GEN, *IFB])]
    joined = join_precisions(rows)
    assert [row.experiment.id for row in joined] == [row.experiment.id for row in rows]
    whole = one(joined)
    labels = " ".join(point.label for point in whole.plans)
    for servers in ("TEP4+fp8-gen1xDEP8-", "TEP4+fp8-gen1xDEP8+fp8-"):  # of two ctx servers alike, one is kept
        assert servers in labels
    assert {len({*point.sources}) for point in whole.plans} == {2}
    assert len(whole.plans) == 2 * len(one([*CTX, *GEN]).plans)
    assert whole.ifb

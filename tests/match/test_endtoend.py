"""End-to-end runs beside what was predicted: the closed loop, the calibration, and what a gap is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.match.analysis import analyze, find_pairs
from ratematch.match.calibration import Fit, apply_calibration, calibrated
from ratematch.match.closedloop import Loaded, derate, operate, settle_all
from ratematch.match.curves import make_curve
from ratematch.match.figures import collect_figures, measured_point
from ratematch.match.gaps import attribute, describe_transfer, find_gaps
from ratematch.match.matching import bound_tok_s_gpu
from ratematch.match.pairs import pair_options, predict_deployment
from ratematch.match.points import Calibration
from ratematch.match.question import Question
from ratematch.measure.breakdown import Breakdown
from ratematch.measure.measured import Measured
from ratematch.plan.load import Constraints
from tests.support.invented import WORKLOAD, ctx_rows, e2e_rows, gen_rows, group

CTX = ctx_rows("TEP4", {1: 8.0, 4: 12.0})
GEN = gen_rows("DEP8", {32: 4000.0, 64: 6400.0, 128: 8000.0})
FREE = Constraints()
TOKENS = WORKLOAD.osl - 1

(PAIR,) = find_pairs(collect_figures([*CTX, *GEN], FREE)[0], FREE)
sizes = st.integers(1, 5)
shares = st.floats(0.0, 0.9)


@given(sizes, sizes, st.floats(0.5, 2000.0), shares, st.floats(0, 0.5))
@settings(deadline=None)
def test_the_closed_loop_obeys_littles_law_and_its_limit(
    x: int, y: int, concurrency: float, bunching: float, handover_s: float
) -> None:
    pair = replace(PAIR, bunching=bunching, handover_s=handover_s)
    at = operate(pair, x, y, concurrency)
    assert at.req_s * (at.ttft_s + TOKENS * at.tpot_s) == pytest.approx(concurrency)
    assert at.req_s <= min(12.0 * x, 8000 / TOKENS * y) * (1 + 1e-9)
    assert at.ttft_s >= handover_s + 0.125 * (1 - 1e-6)
    more = operate(pair, x, y, concurrency * 1.5)
    assert more.req_s >= at.req_s * (1 - 1e-9) or bunching > 0
    assert operate(PAIR, x, y, concurrency).req_s >= at.req_s * (1 - 1e-9)


def test_beyond_the_limit_surplus_requests_only_wait() -> None:
    at, more = operate(PAIR, 3, 1, 200.0), operate(PAIR, 3, 1, 236.0)
    assert (at.limit, more.limit) == ("ctx", "ctx")
    assert (at.req_s, at.tpot_s) == (more.req_s, more.tpot_s) == (pytest.approx(36), pytest.approx(96 / 7200))
    assert more.ttft_s - at.ttft_s == pytest.approx(1.0)  # 36 more at 36 requests/s


curves = st.lists(st.tuples(st.floats(0.5, 300.0), st.floats(1.0, 20.0)), min_size=1, max_size=6)
posting = st.sampled_from([0.0, 0.0, 0.004, 0.02, -0.001])


@given(
    curves,
    curves,
    posting,
    st.tuples(st.floats(0, 0.5), st.floats(0.7, 1.2), shares),
    st.lists(st.tuples(sizes, sizes, st.floats(0.5, 2000.0), st.floats(0.8, 1.1)), min_size=1, max_size=4),
)
@settings(deadline=None)
def test_many_settle_as_each_alone(
    ctx_points: list[tuple[float, float]],
    gen_points: list[tuple[float, float]],
    extra_s: float,
    factors: tuple[float, float, float],
    deployments: list[tuple[int, int, float, float]],
) -> None:
    handover_s, ctx, bunching = factors
    ctx_curve = make_curve(ctx_points)
    gen_curve = make_curve([(load, rate * 300) for load, rate in gen_points])
    ctx_rates = replace(PAIR.ctx.rates, curve=ctx_curve, capacities=(ctx_curve.max_rate,))
    gen_rates = replace(PAIR.gen.rates, curve=gen_curve, extra_s=extra_s)
    pair = replace(
        PAIR,
        ctx=replace(PAIR.ctx, rates=ctx_rates),
        gen=replace(PAIR.gen, rates=gen_rates),
        handover_s=handover_s,
    )
    loaded = Loaded(*(np.array(column, dtype=float) for column in zip(*deployments, strict=True)))
    got = settle_all(pair, loaded, ctx=np.array([1.0, ctx]), bunching=np.array([0.0, bunching, 1.0]))
    assert got.shape == (len(deployments), 2, 3)
    for (x, y, concurrency, gen), rates in zip(deployments, got[:, 1, 1], strict=True):
        alone = operate(replace(derate(pair, ctx, gen), bunching=bunching), x, y, concurrency)
        assert rates == pytest.approx(alone.req_s, rel=1e-8)


TRUTHS = [(1, 1), (2, 1), (3, 1), (1, 2)]


def run_together(truth: Fit, noise: float = 0.0, seed: int = 0) -> list[Measured]:
    """End-to-end runs of deployments whose real ctx and gen are ``truth`` times what they were apart."""
    rng = np.random.default_rng(seed)
    pair = calibrated(PAIR, truth)
    rows: list[Measured] = []
    for x, y in TRUTHS:
        points = {}
        for concurrency in (20, 60, 160):
            at = operate(pair, x, y, concurrency)
            factor = float(np.exp(rng.normal(0, noise)))
            points[concurrency] = (at.tpot_s * 1000 * factor, at.ttft_s * 1000 * factor)
        rows += e2e_rows(group("ctx", "TEP4", x), group("gen", "DEP8", y), points)
    return rows


def fitted(rows: list[Measured]) -> Calibration:
    found = analyze([*CTX, *GEN, *rows], Question(max_gpus=32, draws=0), sweep="s")
    calibration = found.workloads[0].calibration
    assert calibration is not None
    return calibration


@pytest.mark.parametrize(
    "truth",
    [
        Fit(ctx=0.8, gen=0.9, bunching=0.0),
        Fit(ctx=1.0, gen=0.95, bunching=0.4),
        Fit(ctx=0.9, gen=1.0, bunching=0.25),
    ],
)
def test_the_fit_finds_the_truth_and_predicts_runs_it_has_not_seen(truth: Fit) -> None:
    found = fitted(run_together(truth))
    assert found.gen == pytest.approx(truth.gen, abs=0.01)
    assert found.ctx == pytest.approx(truth.ctx, abs=0.03)  # drawn a little towards 1
    assert found.bunching == pytest.approx(truth.bunching, abs=0.1)
    assert found.held_out
    for row in found.rows:
        assert row.tok_s_gpu_after == pytest.approx(row.tok_s_gpu, rel=0.05)
        assert row.tpot_after_ms == pytest.approx(row.tpot_ms, rel=0.03)
    assert any(abs(row.tok_s_gpu_before / row.tok_s_gpu - 1) > 0.08 for row in found.rows)


def test_noise_alone_is_not_taken_for_a_slow_ctx() -> None:
    for seed in range(5):
        found = fitted(run_together(Fit(1.0, 1.0, 0.0), noise=0.03, seed=seed))
        assert found.ctx == pytest.approx(1, abs=0.06)
        assert found.gen == pytest.approx(1, abs=0.03)


def test_one_run_tells_little_and_says_so() -> None:
    found = fitted(run_together(Fit(0.8, 0.9, 0.0))[:1])
    assert (found.ctx_spread, found.gen_spread, found.held_out, found.num) == (None, None, False, 1)


def test_a_calibrated_prediction_is_flagged_and_obeys_littles_law() -> None:
    rows = run_together(Fit(0.85, 0.9, 0.3))
    question = Question(max_gpus=32, draws=0)
    plain = analyze([*CTX, *GEN, *rows], question, sweep="s").workloads[0]
    found = analyze([*CTX, *GEN, *rows], replace(question, calibrate=True), sweep="s").workloads[0]
    assert found.calibrated
    assert not plain.calibrated
    assert max(p.tok_s_gpu for p in found.rate_matched) < max(p.tok_s_gpu for p in plain.rate_matched)
    for point in found.plans:
        latency_s = (point.ttft_ms + (point.osl - 1) * point.tpot_ms) / 1000
        assert point.concurrency == pytest.approx(point.req_s * latency_s) and point.little is None
        assert any("calibrated: ctx x" in flag for flag in point.flags)
    # What is planned at a concurrency is what the closed loop predicts there.
    assert found.calibration is not None
    (pair,) = apply_calibration([PAIR], found.calibration)
    for point in predict_deployment(pair, 2, 1, workload="w", constraints=FREE):
        at = operate(pair, 2, 1, point.concurrency)
        assert at.req_s == pytest.approx(point.req_s, rel=1e-6)
        assert at.ttft_s * 1000 == pytest.approx(point.ttft_ms, rel=1e-6)


def test_a_limit_that_only_bunches_break_is_flagged() -> None:
    rows = run_together(Fit(1.0, 1.0, 0.5))
    question = Question(ttft_ms=400.0, max_gpus=32, draws=0)  # 4 prompts in flight take 333 ms
    plain = analyze([*CTX, *GEN, *rows], question, sweep="s").workloads[0]
    found = analyze([*CTX, *GEN, *rows], replace(question, calibrate=True), sweep="s").workloads[0]
    assert not any("bunches" in flag for point in plain.plans for flag in point.flags)
    for point in found.plans:
        assert (point.ttft_ms > 400) == any("over the limit of 400 ms" in flag for flag in point.flags)
    assert any(point.ttft_ms > 400 for point in found.plans)
    assert any("beyond bunches of" in note for note in found.notes)


seconds = st.floats(0.0, 3.0)


@given(
    *[seconds] * 6,
    st.floats(0.01, 2.0),
    st.floats(1.0, 30.0),
    st.integers(1, 4),
    st.integers(1, 3),
    st.floats(0, 0.2),
    st.booleans(),
)
@settings(deadline=None)
def test_the_parts_of_a_gap_add_up_whatever_was_measured(
    dispatch: float,
    queue: float,
    prefill: float,
    transfer: float,
    gen_queue: float,
    decode: float,
    ttft_s: float,
    tpot_ms: float,
    x: int,
    y: int,
    handover_s: float,
    told: bool,
) -> None:
    (row,) = collect_figures(
        e2e_rows(group("ctx", "TEP4", x), group("gen", "DEP8", y), {48: (tpot_ms, ttft_s * 1000)}), FREE
    )[0]
    point = measured_point(row, "end_to_end", FREE)
    pair = replace(PAIR, handover_s=handover_s)
    at = operate(pair, x, y, point.concurrency)
    breakdown = Breakdown(40, dispatch, queue, prefill, transfer, gen_queue, decode) if told else None
    parts = attribute(point, at, pair, breakdown)
    ideal = bound_tok_s_gpu(WORKLOAD.osl, 4, 12.0, 8, min(at.req_s / y, 40.0))
    assert sum(part.tok_s_gpu for part in parts) == pytest.approx(ideal - point.tok_s_gpu, abs=1e-6)
    # The figures obey Little's law, so whole instances and time explain all of the gap.
    assert parts[-1].name == "residual"
    assert abs(parts[-1].tok_s_gpu) <= 1e-6 * ideal
    assert parts[0].tok_s_gpu >= -1e-9 * ideal
    assert parts[1].tok_s_gpu >= -1e-9 * ideal
    # No part is larger than the gap, and none has the other sign.
    gap = ideal - point.tok_s_gpu
    for part in parts[2:]:
        assert -1e-6 * ideal <= part.tok_s_gpu / (1 if gap > 0 else -1) <= abs(gap) + 1e-6 * ideal
    assert sum(part.tok_s_gpu for part in parts[:2]) <= gap + 1e-6 * ideal or gap < 0


def test_each_part_is_what_alone_went_wrong() -> None:
    """Measured as predicted but for 100 ms of KV transfer: that is the whole gap to the plan."""
    at = operate(PAIR, 2, 1, 30.0)
    assert at.limit is None
    rows = e2e_rows(group("ctx", "TEP4", 2), group("gen", "DEP8"), {30: (at.tpot_s * 1000, at.ttft_s * 1000 + 100)})
    point = measured_point(collect_figures(rows, FREE)[0][0], "end_to_end", FREE)
    told = Breakdown(40, 0.0, at.ttft_s - 0.125, 0.125, 0.1, 0.0, at.tpot_s * TOKENS)
    parts = {part.name: part.tok_s_gpu for part in attribute(point, at, PAIR, told)}
    plan = at.req_s * WORKLOAD.osl / point.gpus
    assert parts.pop("KV transfer") == pytest.approx(plan - point.tok_s_gpu)
    # Two ctx instances, of which one and a fraction would do at this load.
    needed = at.req_s / 12.0
    assert 1 < needed < 2
    ideal = at.req_s * WORKLOAD.osl / (4 * needed + 8)
    assert parts.pop("integer rounding") == pytest.approx(ideal - plan)
    assert all(abs(value) < 1e-6 for value in parts.values())


def test_spare_ctx_instances_are_told_from_rounding() -> None:
    at = operate(PAIR, 4, 1, 30.0)
    rows = e2e_rows(group("ctx", "TEP4", 4), group("gen", "DEP8"), {30: (at.tpot_s * 1000, at.ttft_s * 1000)})
    point = measured_point(collect_figures(rows, FREE)[0][0], "end_to_end", FREE)
    parts = {part.name: part.tok_s_gpu for part in attribute(point, at, PAIR, None)}
    tok_s = at.req_s * WORKLOAD.osl
    assert parts["spare ctx at this load"] == pytest.approx(tok_s / 16 - tok_s / 24)  # two of the four would do
    assert parts["integer rounding"] == pytest.approx(tok_s / (4 * at.req_s / 12 + 8) - tok_s / 16)


def test_posting_kv_transfers_between_decode_steps_is_told_from_a_slow_gen() -> None:
    """A quarter of the gen servers' time went into posting: decode is as much longer, and that is the whole gap."""
    at = operate(PAIR, 2, 1, 30.0)
    decode_s = at.tpot_s * TOKENS / 0.75
    rows = e2e_rows(group("ctx", "TEP4", 2), group("gen", "DEP8"), {30: (at.tpot_s * 1000 / 0.75, at.ttft_s * 1000)})
    point = measured_point(collect_figures(rows, FREE)[0][0], "end_to_end", FREE)
    told = Breakdown(40, 0.0, at.ttft_s - 0.125, 0.125, 0.0, 0.0, decode_s, kv_posting=0.25)
    parts = {part.name: part.tok_s_gpu for part in attribute(point, at, PAIR, told)}
    plan = at.req_s * WORKLOAD.osl / point.gpus
    assert parts.pop("KV transfer posted between decode steps") == pytest.approx(plan - point.tok_s_gpu)
    assert parts["gen slow-down"] == pytest.approx(0, abs=1e-6) and parts["residual"] == pytest.approx(0, abs=1e-6)


def test_a_predicted_wait_that_moved_is_not_a_part_beside_what_took_its_place() -> None:
    """ctx was predicted to be the limit, with a long queue; posting made gen the limit, and the queue did not come
    about. What is lost is the difference, and the words say what the pair would reach."""
    predicted = operate(PAIR, 1, 1, 150.0)
    assert predicted.limit == "ctx"
    req_s = 0.85 * predicted.req_s
    decode_s = 150 / req_s - 0.4
    rows = e2e_rows(group("ctx", "TEP4", 1), group("gen", "DEP8"), {150: (decode_s / TOKENS * 1000, 400)})
    told = Breakdown(40, 0.0, 0.1, 0.2, 0.1, 0.0, decode_s, kv_posting=0.9, kv_descriptors=9216.0)
    figures = [replace(row, breakdown=told) for row in collect_figures(rows, FREE)[0]]
    (gap,) = find_gaps(figures, [PAIR], (), FREE)
    assert gap.ideal is not None
    parts = {part.name: part.tok_s_gpu for part in gap.parts}
    lost = gap.ideal - gap.end_to_end
    assert parts["ctx slow-down"] == 0  # it was -8 s of queue
    assert 0.5 * lost < parts["KV transfer posted between decode steps"] <= lost
    note = describe_transfer([gap], figures)
    assert note is not None and "without it the pair would reach its ctx limit, " in note and "(+18%)" in note


@pytest.mark.parametrize(
    ("kv_s", "posting", "pieces", "said"),
    [
        (0.1, 0.25, 9216.0, "in 9,216 pieces of 32.8 kB: larger KV blocks make fewer"),
        (0.1, 0.25, 300.0, "100 ms a request"),
        (0.0, 0.0, 9216.0, None),
    ],
)
def test_what_kv_transfers_cost_is_put_into_words_where_it_is_worth_it(
    kv_s: float, posting: float, pieces: float, said: str | None
) -> None:
    at = operate(PAIR, 2, 1, 30.0)
    tpot_ms, ttft_ms = at.tpot_s * 1000 / (1 - posting), (at.ttft_s + kv_s) * 1000
    rows = e2e_rows(group("ctx", "TEP4", 2), group("gen", "DEP8"), {30: (tpot_ms, ttft_ms)})
    told = Breakdown(
        *(40, 0.0, at.ttft_s - 0.125, 0.125, kv_s, 0.0, tpot_ms * TOKENS / 1000),
        kv_posting=posting,
        kv_descriptors=pieces,
        kv_b=pieces * 32768,
    )
    figures = [replace(row, breakdown=told) for row in collect_figures(rows, FREE)[0]]
    note = describe_transfer(find_gaps(figures, [PAIR], (), FREE), figures)
    assert note is None if said is None else said in (note or "")
    if pieces < 1000:
        assert "pieces" not in (note or "")


def test_servers_of_different_kv_layouts_are_not_put_together() -> None:
    ctx = [replace(PAIR.ctx, layout=layout) for layout in ("16", "128")]
    gen = [replace(PAIR.gen, layout=layout) for layout in ("16", "128", "64")]
    found = pair_options(ctx, gen)
    assert [(pair.ctx.layout, pair.gen.layout) for pair in found] == [("16", "16"), ("128", "128")]


def test_pairs_that_differ_have_factors_of_their_own_and_say_nothing_of_a_third() -> None:
    other = replace(GEN[0].experiment.deployment.gen, options={"block_size": 128}, tag="block_size=128")
    third = replace(other, options={"block_size": 64}, tag="block_size=64")
    gens = [*GEN]
    for own in (other, third):
        gens += [
            replace(row, experiment=replace(row.experiment, deployment=replace(row.experiment.deployment, gen=own)))
            for row in GEN
        ]
    runs: list[Measured] = []
    for gen, truth in ((GEN[0].experiment.deployment.gen, 0.7), (other, 1.0)):
        points = {}
        for concurrency in (20, 60, 160):
            at = operate(calibrated(PAIR, Fit(1.0, truth, 0.0)), 1, 1, concurrency)
            points[concurrency] = (at.tpot_s * 1000, at.ttft_s * 1000)
        runs += e2e_rows(group("ctx", "TEP4", 1), replace(gen, instances=1), points)
    question = Question(max_gpus=32, draws=0, calibrate=True)
    found = analyze([*CTX, *gens, *runs], question, sweep="s").workloads[0]
    assert found.calibration is not None
    assert [round(pair.gen, 2) for pair in found.calibration.pairs] == [0.7, 1.0]
    assert [pair.label for pair in found.calibration.pairs] == ["TEP4 + DEP8", "TEP4 + DEP8+block_size=128"]
    assert not found.calibration.agree
    flags = {flag for point in found.plans for flag in point.flags}
    assert any("gen x 0.700" in flag for flag in flags) and any("gen x 1.000" in flag for flag in flags)
    assert any("not calibrated: no run is of this pair" in flag for flag in flags)
    for row in found.calibration.rows:  # neither pair spoils the other's prediction
        assert row.tok_s_gpu_after == pytest.approx(row.tok_s_gpu, rel=0.02)


def test_what_a_piece_takes_is_learnt_from_what_servers_counted() -> None:
    counted = Breakdown(9, 0.0, 0.0, 0.1, 0.05, 0.0, 1.0, 0.2, 9216.0, 3e8, kv_post_s=0.0304)
    rows = [replace(row, breakdown=counted) for row in run_together(Fit(1.0, 1.0, 0.0))]
    assert fitted(rows).piece_us == pytest.approx(3.2986, rel=1e-3)
    assert fitted(run_together(Fit(1.0, 1.0, 0.0))).piece_us is None

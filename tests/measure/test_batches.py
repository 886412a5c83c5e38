"""Intervals that cover, change points that are found, and quiet runs that lose nothing."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.errors import UserError
from ratematch.measure.batches import batch_series, drift, half_width, settled_from, student_975
from ratematch.measure.early import EarlyRules, EarlyStop
from ratematch.measure.goodput import Goodput, good, parse_goodput
from ratematch.measure.measurement import measure_load
from ratematch.plan.load import Concurrency, Rate
from ratematch.plan.workload import Workload
from tests.support.invented import MS, closed_loop, lengths, record


@pytest.mark.parametrize(
    ("dof", "value"), [(1, 12.706), (3, 3.182), (15, 2.131), (19, 2.093), (60, 2.0), (500, 1.965)]
)
def test_student_is_never_too_small(dof: int, value: float) -> None:
    assert value - 1e-9 <= student_975(dof) <= value * 1.03


def test_intervals_cover_the_mean_of_a_correlated_series() -> None:
    covered = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 1, 800)
        series = 100 + np.convolve(noise, np.ones(8) / 8, mode="valid") * 4  # neighbours depend on one another
        width = half_width(batch_series(series, wave=32))
        assert width is not None
        covered += abs(series.mean() / 100 - 1) <= width
    assert covered >= 0.9 * 300


@given(st.integers(0, 200), st.integers(1, 12))
def test_a_quiet_run_loses_nothing(seed: int, wave: int) -> None:
    values = np.random.default_rng(seed).normal(100, 1, 200)
    assert settled_from(values, wave) == 0
    assert drift(values, wave) is None or abs(drift(values, wave) or 0) < 0.05


@given(st.integers(0, 200), st.integers(20, 80))
def test_a_slow_start_is_cut_off_and_never_more_than_half(seed: int, length: int) -> None:
    values = np.random.default_rng(seed).normal(100, 2, 200)
    values[:length] += 40
    assert length - 5 <= settled_from(values, 5) <= 100


def test_a_trend_is_told() -> None:
    values = np.random.default_rng(0).normal(100, 1, 400) + np.linspace(0, 30, 400)
    assert drift(values) == pytest.approx(0.14, abs=0.02)


def test_the_window_leaves_the_unsettled_part_out_and_says_so() -> None:
    slow = closed_loop(4, lengths(80, 81, 101), ttft_ms=400)
    begin = max(each.end_ns or 0 for each in slow) / MS
    fast = closed_loop(4, lengths(400, 81, 101), ttft_ms=20)
    for each in fast:
        each.seq += len(slow)
        for name in ("intended_ns", "sent_ns", "first_token_ns", "last_token_ns", "end_ns"):
            setattr(each, name, getattr(each, name) + round(begin * MS))
        each.chunk_ns = [instant + round(begin * MS) for instant in each.chunk_ns]
    result = measure_load([*slow, *fast], Concurrency(4, 480), Workload(100, 101, 0.8))
    assert result.window is not None and "MSER-5" in result.window.rule
    assert result.ttft_ms is not None and result.ttft_ms.mean == pytest.approx(20, rel=0.05)


def test_intervals_and_goodput_stand_in_the_figures() -> None:
    records = closed_loop(4, lengths(400, 51, 101))
    result = measure_load(
        records, Concurrency(4, 400), Workload(100, 101, 0.5), goodput=parse_goodput("ttft<=60,e2el<=450")
    )
    assert result.tok_s_ci is not None and 0 < result.tok_s_ci < 0.1
    assert result.ttft_ci == pytest.approx(0, abs=1e-6)
    assert result.goodput == "ttft<=60,e2el<=450"
    assert result.good_share is not None and 0.4 < result.good_share < 0.8  # 50 + 5 x 80 ms: of lengths 51 to 81
    assert result.req_s is not None and result.goodput_req_s is not None
    assert result.goodput_req_s / result.req_s == pytest.approx(result.good_share, abs=0.05)
    assert result.ttst_ms is not None and result.ttst_ms.mean == pytest.approx(5.0)
    assert result.tokens_per_chunk == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("ttft<=1000,tpot<=50", (("ttft", 1000.0), ("tpot", 50.0))),
        ("ttft:1000 tpot:50", (("ttft", 1000.0), ("tpot", 50.0))),
        ("TTFT<=1.5s".lower(), (("ttft", 1500.0),)),
        ("e2el_ms <= 20", (("e2el", 20.0),)),
    ],
)
def test_goodput_expressions(text: str, limits: object) -> None:
    assert parse_goodput(text).limits == limits


@pytest.mark.parametrize("text", ["", "ttft", "latency<=3", "ttft>=3", "ttft<=1.2.3"])
def test_what_is_no_goodput_expression(text: str) -> None:
    with pytest.raises(UserError, match="goodput"):
        parse_goodput(text)


def test_each_limit_counts_and_failures_are_never_good() -> None:
    records = [record(0), record(1, ttft_ms=90), record(2, tpot_ms=9), record(3)]
    records[3].outcome = "reset"
    assert good(records, Goodput((("ttft", 60.0), ("tpot", 6.0)))).tolist() == [True, False, False, False]
    assert good(records, Goodput((("itl", 6.0),))).tolist() == [True, True, False, False]
    assert good(records, Goodput((("ttst", 6.0),))).tolist() == [True, True, False, False]


@dataclass(frozen=True)
class Answer:
    intended_ns: int
    sent_ns: int
    first_ns: int
    last_ns: int
    tokens: int = 11


def answers(number: int, every_ms: float, life_ms: float, due_ms: float | None = None) -> list[Answer]:
    made = []
    for k in range(number):
        end = round((k * every_ms + life_ms) * MS)
        start = round((k * (every_ms if due_ms is None else due_ms)) * MS)
        made.append(Answer(start, start, end - 10 * MS, end))
    return made


def test_an_overloaded_open_loop_is_given_up_and_a_busy_one_is_not() -> None:
    rules = EarlyRules(saturated=True)
    assert EarlyStop(rules, Rate(100, 1000)).observe(answers(200, 10, 100)) is None
    told = EarlyStop(rules, Rate(100, 1000)).observe(answers(200, 10, 100, due_ms=5))
    assert told is not None and told.startswith("given up: 200 requests/s arrive, 1")


def test_nothing_is_judged_early_without_rules_or_with_few_answers() -> None:
    assert EarlyStop(EarlyRules(), Rate(100, 1000)).observe(answers(500, 10, 100)) is None
    strict = EarlyRules(target_ci=0.5, slo=parse_goodput("e2el<=1"))
    assert EarlyStop(strict, Rate(100, 1000)).observe(answers(20, 10, 100)) is None
    assert EarlyStop(strict, Rate(100, 1000)).observe(answers(64, 10, 100)) is not None


@pytest.mark.parametrize("concurrency", [1, 16])
def test_a_short_closed_loop_in_waves_is_as_sure_of_its_rate_as_of_its_latency(concurrency: int) -> None:
    """Six waves of requests of one token in lock-step: when a wave happens to end says nothing of the rate."""
    load = Concurrency(concurrency, 6 * concurrency * (8 if concurrency == 1 else 1), 1)
    lives = 50.0 * concurrency * (1 + 0.002 * np.random.default_rng(1).standard_normal(load.num_requests))
    records = []
    for k, life_ms in enumerate(lives):
        sent_ms = (k // concurrency) * 50.3 * concurrency
        records.append(record(k, sent_ms=sent_ms, ttft_ms=float(life_ms), osl=1))
    figures = measure_load(records, load, Workload(100, 1))
    assert figures.tok_s_ci is not None and figures.ttft_ci is not None
    assert figures.tok_s_ci == pytest.approx(figures.ttft_ci, rel=0.01)
    assert figures.tok_s_ci < 0.01

"""Iteration lines of every version, however they are framed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.emulator.iteration import Step
from ratematch.emulator.steptime import RankLoad
from ratematch.emulator.trtllm.metrics import iteration_line
from ratematch.engines.trtllm_serve.iterlog import (
    IterationLine,
    StepTime,
    parse_line,
    read_span,
    read_step_time,
)
from ratematch.measure.serverlog import log_tok_s

STATES = "states = {'num_ctx_requests': 0, 'num_ctx_tokens': 0, 'num_generation_tokens': 256}"
V10 = (
    "iter = 812, global_rank = 0, rank = 0, currank_total_requests = 0/64, elapsed_time = 0.0214s, "
    f"timestamp = 2026-01-15 10:00:00, num_scheduled_requests: 64, {STATES}"
)
V12 = (
    "0: [01/15/2026-10:00:00] [TRT-LLM] [RANK 0] [I] iter = 812, global_rank = 0, rank = 0, "
    "currank_total_requests = 0/64, "
    "host_step_time = 21.4ms, prev_device_step_time = 20.9ms, timestamp = 2026-01-15 10:00:00, "
    f"num_scheduled_requests: 64, {STATES}"
)
MAIN = (
    "[I] iter = 812, global_rank = 0, rank = 0, num_scheduled_requests = 64, kv_cache_util = 0.412, "
    "currank_total_requests = 0/64, host_step_time = 21.4ms, prev_device_step_time = 20.9ms, "
    f"timestamp = 2026-01-15 10:00:00, {STATES[:-1]}, 'cached_kv_tokens': 9}}"
)


@pytest.mark.parametrize(
    ("line", "device_ms", "util"),
    [(V10, None, None), (V12, 20.9, None), (MAIN, 20.9, 0.412)],
    ids=["1.0", "1.2", "main"],
)
def test_the_three_formats(line: str, device_ms: float | None, util: float | None) -> None:
    assert parse_line(line) == IterationLine(812, 0, 64, 0, 0, 256, pytest.approx(21.4), device_ms, util)


def test_the_first_iteration_has_no_device_time() -> None:
    found = parse_line(V12.replace("prev_device_step_time = 20.9ms", "prev_device_step_time = N/A"))
    assert found is not None and found.prev_device_step_ms is None


@pytest.mark.parametrize(
    "line", ["", "INFO: Application startup complete.", "iter = 3", "num_scheduled_requests: 3", "iter"]
)
def test_other_lines_are_none(line: str) -> None:
    assert parse_line(line) is None


@given(st.text())
def test_garbage_never_raises(text: str) -> None:
    parse_line(text)
    parse_line(text + V12)


@given(st.permutations(V12.split(": ", 1)[1].split(", ")[0:1] + V12.split(", ")[1:8]))
def test_the_order_of_fields_does_not_matter(parts: list[str]) -> None:
    found = parse_line(", ".join(parts) + ", " + STATES)
    assert found is not None
    assert (found.num_scheduled, found.host_step_ms, found.prev_device_step_ms) == (64, 21.4, 20.9)


def steps(
    count: int, *, scheduled: int = 8, tokens: int = 16, device_ms: float = 10.0, first: int = 1
) -> list[IterationLine]:
    return [
        IterationLine(first + k, 0, scheduled, 0, 0, tokens, device_ms + 1, device_ms if k else None, None)
        for k in range(count)
    ]


def test_device_time_belongs_to_the_iteration_before() -> None:
    context = IterationLine(4, 0, 9, 1, 1024, 16, 91.0, 10.0, None)
    after = IterationLine(5, 0, 8, 0, 0, 16, 11.0, 90.0, None)
    more = [IterationLine(6 + k, 0, 8, 0, 0, 16, 11.0, 10.0, None) for k in range(3)]
    found = read_step_time([*steps(3), context, after, *more])
    assert found is not None
    assert found.step_ms == 10.0, "90 ms is the context step's, told one line later"


def test_only_full_batches_of_rank_0_count() -> None:
    half = steps(5, scheduled=4, tokens=8, device_ms=6.0, first=20)
    other_rank = [IterationLine(k, 1, 64, 0, 0, 128, 99.0, 99.0, None) for k in range(50)]
    found = read_step_time([*steps(6), *half, *other_rank])
    assert found == StepTime(10.0, 5, 8, 10.0)


def test_long_spans_lose_their_ends() -> None:
    slow_start = steps(50, device_ms=50.0)
    found = read_step_time([*slow_start, *steps(200, device_ms=10.0, first=51)])
    assert found is not None and found.step_ms == 10.0
    assert found.iterations == 249 - 60, "50 and 10 of 249 steps are left out"


def test_the_expected_batch_counts_as_full_when_it_was_seen() -> None:
    """One uneven batch of 9 must not stand for the 8 that were asked for."""
    lines = [*steps(20), *steps(5, scheduled=9, tokens=18, device_ms=12.0, first=21)]
    asked = read_step_time(lines, expected=8)
    assert asked is not None and (asked.num_scheduled, asked.step_ms) == (8, 10.0)
    for unseen in (None, 7):
        found = read_step_time(lines, expected=unseen)
        assert found is not None and (found.num_scheduled, found.step_ms) == (9, 12.0)


def test_under_attention_dp_one_rank_stands_for_all() -> None:
    text = "\n".join(f"0: [I] {V12.partition('[I] ')[2].replace('812', str(k))}" for k in range(812, 832))
    span = read_span(text, dp_ranks=4, in_flight=256)
    assert span is not None and (span.in_flight, span.step_ms) == (256, 20.9)
    whole = read_span(text, dp_ranks=1)
    assert whole is not None and whole.in_flight == 64
    few = read_span(text.replace("num_scheduled_requests: 64", "num_scheduled_requests: 1"), dp_ranks=4, in_flight=2)
    assert few is not None and few.in_flight == 2, "two requests are on two ranks, not on all four"
    assert read_span("nothing here", 4) is None


def test_both_published_formulas() -> None:
    """Median (saturated lines) and mean step: one slow step in ten moves only the second."""
    lines = [*steps(11), IterationLine(12, 0, 8, 0, 0, 16, 11.0, 65.0, None)]
    found = read_step_time(lines)
    assert found is not None and found.iterations == 11
    assert found.step_ms == 10.0 and found.mean_ms == pytest.approx((10 * 10 + 65) / 11)
    assert log_tok_s(8, found.step_ms, 1.8) == pytest.approx(8 * 1.8 / 0.010)


def test_no_generation_no_step_time() -> None:
    assert read_step_time([]) is None
    assert read_step_time([IterationLine(1, 0, 4, 4, 4096, 0, 80.0, None, None)] * 3) is None


@pytest.mark.parametrize("version", ["1.2", "main"])
def test_what_the_emulator_writes_is_read(version: str) -> None:
    load = RankLoad(ctx_requests=1, ctx_tokens=1024, gen_requests=3, query_tokens=2)
    step = Step(7, 0.0, 0.01, ([],), (load,), 4, 0)
    line = iteration_line(version, step, step_s=0.0123, previous_s=0.011, kv_util=0.25, fetched=(1, 4))
    found = parse_line(f"[01/15/2026-10:00:00] [TRT-LLM] [RANK 0] [I] {line}")
    assert found == IterationLine(7, 0, 4, 1, 1024, 6, 12.3, 11.0, 0.25 if version == "main" else None)


@pytest.mark.parametrize(
    "count",
    [
        "tensor(256)",
        "tensor(256, device='cuda:0')",
        "tensor([256])",
        "np.int64(256)",
        "numpy.int32(256)",
        "256.",
        "256",
    ],
)
@pytest.mark.parametrize("line", [V12, MAIN])
def test_a_count_is_read_however_it_prints(line: str, count: str) -> None:
    found = parse_line(line.replace("256", count))
    assert found is not None and found.num_generation_tokens == 256
    zeros = parse_line(line.replace("'num_ctx_tokens': 0", f"'num_ctx_tokens': {count.replace('256', '0')}"))
    assert zeros is not None and zeros.num_ctx_tokens == 0 and zeros.num_scheduled == 64


def steps_of(line: str) -> str:
    return "\n".join(line.replace("iter = 812", f"iter = {number}") for number in range(800, 806))


@pytest.mark.parametrize("rest", ["", ", 'num_generation_tokens': None", ", 'num_generation_tokens': tensor([])"])
def test_without_a_count_of_generation_tokens_steps_without_prompts_generate(rest: str) -> None:
    line = MAIN.replace(", 'num_generation_tokens': 256", rest)
    found = parse_line(line)
    assert found is not None and found.num_generation_tokens is None
    span = read_span(steps_of(line), 1)
    assert span is not None and (span.step_ms, span.in_flight) == (20.9, 64)
    prefill = line.replace("'num_ctx_requests': 0, 'num_ctx_tokens': 0", "'num_ctx_requests': 2, 'num_ctx_tokens': 9")
    assert read_span(steps_of(prefill), 1) is None


def test_lines_without_any_count_of_prompts_give_no_step_time() -> None:
    assert read_span(steps_of(MAIN.replace(MAIN[MAIN.index("states") :], "states = {}")), 1) is None

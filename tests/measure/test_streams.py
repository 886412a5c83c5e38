"""The verdict on how answers were streamed: exact, bounded, or not valid, each for its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.measure.measurement import Measurement, measure_load
from ratematch.measure.records import CONTRADICTS, UNKNOWN_FIELDS, RequestRecord
from ratematch.measure.streams import judge_streams
from ratematch.plan.load import Concurrency, Load, Rate
from ratematch.plan.workload import Workload
from tests.support.invented import MS


def answer(at_ms: list[float], osl: int, **more: object) -> RequestRecord:
    """Sent at 0; ``at_ms``: when each chunk came."""
    stamps = [round(at * MS) for at in at_ms]
    record = RequestRecord(
        0, 0, 0, stamps[0], stamps[-1], stamps[-1], stamps, 100, 100, osl, osl, 0, "length", status=200
    )
    return replace(record, **more)  # type: ignore[arg-type]


def measure(record: RequestRecord, load: Load | None = None, count: int = 12) -> Measurement:
    """A load of ``count`` such answers, one after another."""
    assert record.end_ns is not None
    records = [_moved(record, number, number * record.end_ns) for number in range(count)]
    return measure_load(records, load or Concurrency(1, count), Workload(100, record.osl or 1))


def _moved(record: RequestRecord, seq: int, shift: int) -> RequestRecord:
    names = ("intended_ns", "sent_ns", "first_token_ns", "last_token_ns", "end_ns", "other_first_ns", "other_last_ns")
    moved = {name: value + shift for name in names if (value := getattr(record, name)) is not None}
    return replace(record, seq=seq, **moved, chunk_ns=[stamp + shift for stamp in record.chunk_ns])


def steady(first: float, count: int, gap: float = 10.0) -> list[float]:
    return [first + gap * k for k in range(count)]


def means(figures: Measurement) -> tuple[float, float | None]:
    assert figures.ttft_ms is not None
    return figures.ttft_ms.mean, figures.tpot_ms.mean if figures.tpot_ms else None


PLAIN = answer(steady(30, 32), 32)


def test_a_plain_stream_needs_no_word() -> None:
    figures = measure(PLAIN)
    assert figures.valid and figures.warnings == () and means(figures) == (30, 10)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_a_stream_that_a_proxy_holds_back_is_not_valid(size: int) -> None:
    held = [30 + 10 * (min(32, k // size * size + size) - 1) for k in range(32)]
    figures = measure(answer([float(at) for at in held], 32))
    (reason,) = figures.reasons
    assert "a proxy holds the stream back" in reason and f"TTFT is at most {held[0]:.1f} ms" in reason


def test_packets_of_one_write_that_come_microseconds_apart_came_at_once() -> None:
    figures = measure(answer([340 + 0.02 * (k // 11) for k in range(32)], 32))
    assert "came at once" in figures.reasons[0]


def test_one_chunk_with_all_tokens_has_no_tpot_and_is_not_valid() -> None:
    figures = measure(answer([340.0], 32, later_tokens=0))
    assert figures.tpot_ms is None and figures.tok_s_user is None
    assert figures.reasons[0].startswith("100% of the answers came at once")


def test_answers_so_fast_that_it_makes_no_difference_may_come_at_once() -> None:
    assert measure(answer([0.4] * 8, 8)).valid


def test_few_chunks_that_arrived_together_are_bounded() -> None:
    at_ms = steady(30, 32)
    at_ms[0] = at_ms[1] = at_ms[2] = 50.0
    figures = measure(answer(at_ms, 32, later_tokens=29))
    assert figures.valid and means(figures) == (50, 10)
    assert "TTFT is at most 50.0 ms, TPOT at least" in figures.warnings[0]


def test_chunks_that_arrive_together_now_and_then_are_no_matter() -> None:
    at_ms = steady(300, 128)
    at_ms[60] = at_ms[61]
    assert measure(answer(at_ms, 128)).warnings == ()


def test_a_flat_out_stream_read_in_batches_is_valid() -> None:
    at_ms = [0.2 + 0.5 * (k // 7) for k in range(2048)]
    figures = measure(answer(at_ms, 2048))
    assert figures.valid and not any("together" in text for text in figures.warnings)


# --------------------------------------------------------------------------------------- several tokens in a chunk


def test_a_first_chunk_of_many_tokens_counts_what_came_after_it_where_the_stream_tells() -> None:
    figures = measure(answer(steady(30, 17), 32, later_tokens=16))
    assert means(figures) == (30, 10) and figures.valid
    assert figures.little == pytest.approx(1)
    assert figures.tok_s_user == pytest.approx(100)
    assert any("the first chunk holds 16.0 tokens" in text for text in figures.warnings)


def test_where_it_does_not_tell_tpot_is_a_bound() -> None:
    figures = measure(answer(steady(30, 17), 32))
    assert figures.valid
    assert any("1.9 tokens a chunk" in text and "TPOT at least 5.16 ms" in text for text in figures.warnings)


def test_hidden_tokens_before_the_first_make_ttft_a_bound_too() -> None:
    figures = measure(answer(steady(190, 16), 32))
    assert any("TTFT is at most 190.0 ms, TPOT at least 4.84 ms" in text for text in figures.warnings)


def test_drafts_that_the_stream_counts_are_exact() -> None:
    figures = measure(answer(steady(30, 17, 20.0), 33, later_tokens=32))
    assert means(figures) == (30, 10) and figures.valid
    assert all("at least" not in text for text in figures.warnings)


def test_drafts_of_a_server_that_sends_a_chunk_an_iteration_need_no_wide_bound() -> None:
    at_ms = steady(30, 401, 25.0)
    counted = measure(answer(at_ms, 1001, decoded_per_iter=1001 / 401))
    assert all("at least" not in text for text in counted.warnings) and counted.valid
    assert any("at least" in text for text in measure(answer(at_ms, 1001)).warnings)


# ------------------------------------------------------------------------------------------------- two readings


def test_an_empty_chunk_that_may_be_a_token_is_bounded() -> None:
    figures = measure(answer([2.0, *steady(32, 31)], 32, other_first_ns=32 * MS))
    assert figures.valid and any("TTFT is at most 32.0 ms" in text for text in figures.warnings)


def test_an_answer_that_ends_long_after_its_last_token_is_not_valid() -> None:
    late = replace(PLAIN, end_ns=(PLAIN.end_ns or 0) + 500 * MS)
    figures = measure(late)
    assert means(figures) == (30, 10)
    assert any("answers ended 500.0 ms after their last token" in text for text in figures.reasons)
    open_loop = measure(late, Rate(1.0, 12))
    assert any("after their last token" in text for text in open_loop.warnings)
    assert measure(replace(PLAIN, end_ns=(PLAIN.end_ns or 0) + 5 * MS)).valid


# ------------------------------------------------------------------------------------- contradictions, unknown fields


def test_a_running_count_that_contradicts_itself_is_not_believed() -> None:
    figures = measure(replace(PLAIN, stream_note=f"{CONTRADICTS}: it goes down"))
    assert figures.reasons == (f"12 of 12 answers: {CONTRADICTS}: it goes down",)


def test_unknown_fields_that_would_change_figures_are_not_believed() -> None:
    last = answer([340.0], 32, later_tokens=0)
    note = f"{UNKNOWN_FIELDS}: musings"
    figures = measure(replace(last, stream_note=note, other_first_ns=30 * MS, other_last_ns=340 * MS))
    assert figures.reasons == (f"12 of 12 answers: {note}; whether they carry tokens is not known",)


def test_unknown_fields_that_change_nothing_are_said() -> None:
    record = replace(PLAIN, stream_note=f"{UNKNOWN_FIELDS}: sources")
    figures = measure(replace(record, other_first_ns=record.first_token_ns, other_last_ns=record.last_token_ns))
    assert figures.valid and "sources" in figures.warnings[0]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (replace(PLAIN, osl=0, first_token_ns=None, chunk_ns=[]), "0 tokens, by its usage"),
        (replace(PLAIN, first_token_ns=None, chunk_ns=[]), "no chunk that carries a token"),
        (replace(PLAIN, osl=None), "no usage chunk"),
    ],
)
def test_answers_without_tokens_say_why(record: RequestRecord, reason: str) -> None:
    assert reason in measure(record).reasons[0]
    some = [_moved(record if k % 4 == 0 else PLAIN, k, k * (PLAIN.end_ns or 0)) for k in range(12)]
    reasons = measure_load(some, Concurrency(1, 12), Workload(100, 32)).reasons
    assert any(text.startswith("3 of 12 answers") for text in reasons)


def test_an_older_record_keeps_its_tpot() -> None:
    at_ms = [30.0, 30.0, *steady(50, 30)]
    figures = measure(answer(at_ms, 32))
    assert figures.tpot_ms is not None and figures.tpot_ms.mean == pytest.approx(310 / 31)


def _coalesced(hidden: int, together: bool = False) -> list[float]:
    """Arrivals of 256 tokens, ``hidden`` of them in chunks of two; one chunk microseconds after another."""
    at_ms = steady(100.0, 256 - hidden, 10.0 * 255 / (255 - hidden))
    return [*at_ms[:100], at_ms[99] + 0.01, *at_ms[101:]] if together else at_ms


@pytest.mark.parametrize(
    ("at_ms", "osl", "with_ttft", "without"),
    [
        # One chunk of two tokens may be the first one: 10 ms of TTFT, and nothing of TPOT.
        (_coalesced(1), 256, "and which of them hold several is not known: TTFT is at most 100.0 ms, TPOT at", None),
        (
            _coalesced(8),
            256,
            "is not known: TTFT is at most 100.0 ms, TPOT at",
            "is not known: TPOT is at least 10.00 ms",
        ),
        # A chunk that came with the one before is not what makes it unsure.
        (
            _coalesced(8, together=True),
            256,
            "chunks are fewer than tokens",
            "is not known: TPOT is at least 10.00 ms",
        ),
        ([100.0, 120.0, 140.0, 160.0], 64, "tokens a chunk", "tokens a chunk"),
        (steady(100.0, 64), 64, None, None),
    ],
)
def test_where_ttft_is_no_figure_no_bound_of_it_is_given(
    at_ms: list[float], osl: int, with_ttft: str | None, without: str | None
) -> None:
    records = [answer(at_ms, osl)]
    for ttft, wanted in ((True, with_ttft), (False, without)):
        texts = [text for _, text in judge_streams(records, records, closed=True, ttft=ttft)]
        assert (wanted in "".join(texts)) if wanted else texts == []
        assert ttft or "TTFT" not in "".join(texts)


@pytest.mark.parametrize(
    "text",
    [
        "0 tokens, by its usage",
        "no chunk that carries a token",
        CONTRADICTS,
        UNKNOWN_FIELDS,
        "of the token chunks arrived together with the one before",
        "of the answers came at once",
        "after their last token",
        "tokens a chunk",
        "which may have waited for one another",
        "which have no text, carry tokens is not known",
        "chunks are fewer than tokens",
        "TTFT is at most",
        "its prefix cache answered",
        "came through its KV connector",
        "waited for a first token",
    ],
)
def test_every_finding_stands_on_the_page_of_verdicts(text: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "verdicts.md").read_text("utf-8")
    assert text in page

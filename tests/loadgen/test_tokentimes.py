"""Which chunks carried the first and the last token, from what a stream says."""

from __future__ import annotations

import pytest

from ratematch.loadgen.tokentimes import EMPTY, FINISH, TEXT, Chunks, TokenTimes, time_tokens

MS = 1_000_000
KINDS = {"t": TEXT, "e": EMPTY, "f": FINISH}


def chunks(kinds: str, at_ms: list[float] | None = None, counts: list[int] | None = None, **more: object) -> Chunks:
    """A chunk a letter, 10 ms apart unless ``at_ms`` says when; ``counts``: running usage in each."""
    stamps = [round(at * MS) for at in at_ms] if at_ms else [10 * MS * (k + 1) for k in range(len(kinds))]
    running = list(enumerate(counts or [], 1))
    return Chunks(stamps, bytearray(KINDS[kind] for kind in kinds), running, **more)  # type: ignore[arg-type]


def ms(times: TokenTimes) -> list[float]:
    return [stamp / MS for stamp in times.stamps]


# ------------------------------------------------------------------------------------------- chunks without text


def test_a_plain_stream_is_what_it_is() -> None:
    assert time_tokens(chunks("tttt"), 4) == TokenTimes([10 * MS, 20 * MS, 30 * MS, 40 * MS])


@pytest.mark.parametrize("kinds", ["etttt", "eetttt", "ettttf", "ttttf", "tettt", "tttte"])
def test_without_need_of_them_chunks_without_text_carry_no_token(kinds: str) -> None:
    times = time_tokens(chunks(kinds), 4)
    assert ms(times) == [10 * (k + 1) for k, kind in enumerate(kinds) if kind == "t"]
    assert (times.other_first_ns, times.other_last_ns) == (None, None)


def test_as_many_chunks_as_tokens_carry_one_each() -> None:
    """Incomplete characters, and the token that ends an answer, have no text."""
    assert ms(time_tokens(chunks("tett"), 4)) == [10, 20, 30, 40]
    times = time_tokens(chunks("tttf"), 4)
    assert ms(times) == [10, 20, 30, 40] and times.other_last_ns is None, "it comes when a token would"


def test_an_empty_first_chunk_that_may_be_a_token_has_two_readings() -> None:
    times = time_tokens(chunks("ettt", [2, 30, 40, 50]), 4)
    assert times.stamps[0] == 2 * MS and times.other_first_ns == 30 * MS
    several = time_tokens(chunks("ettt", [2, 30, 40, 50]), 9)
    assert several.stamps[0] == 30 * MS and several.other_first_ns == 2 * MS


def test_a_late_finish_chunk_that_may_be_a_token_has_two_readings() -> None:
    times = time_tokens(chunks("tttf", [30, 40, 50, 550]), 4)
    assert times.stamps[-1] == 550 * MS and times.other_last_ns == 50 * MS
    several = time_tokens(chunks("tttf", [30, 40, 50, 550]), 9)
    assert several.stamps[-1] == 50 * MS and several.other_last_ns == 550 * MS


def test_of_too_many_chunks_those_at_the_ends_carry_none() -> None:
    assert ms(time_tokens(chunks("etetf", [1, 30, 40, 50, 51]), 3)) == [30, 40, 50]


def test_zero_tokens_have_no_instants() -> None:
    assert time_tokens(chunks("ttf"), 0).stamps == []


# ------------------------------------------------------------------------------------------------ running usage


def test_a_running_count_says_how_many_came_first() -> None:
    times = time_tokens(chunks("tttt", counts=[16, 17, 18, 19]), 19)
    assert (ms(times), times.later) == ([10, 20, 30, 40], 3)


def test_tokens_that_are_counted_and_not_sent_have_instants_too() -> None:
    times = time_tokens(chunks("eeett", counts=[1, 2, 3, 4, 5]), 5)
    assert (ms(times), times.later) == ([10, 20, 30, 40, 50], 4)


def test_a_chunk_at_which_the_count_does_not_grow_carries_none() -> None:
    times = time_tokens(chunks("ettttf", counts=[0, 1, 2, 3, 4, 4]), 4)
    assert ms(times) == [20, 30, 40, 50]


def test_what_arrived_with_the_first_chunk_is_not_later() -> None:
    times = time_tokens(chunks("tttt", [30, 30, 30, 40], counts=[1, 2, 3, 4]), 4)
    assert times.later == 1


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ([1, 2, 1, 4], "goes down"),
        ([1, 2, 9, 10], "beyond the total"),
        ([5, 5, 5, 5], "does not grow while text comes"),
        ([1, 1, 2, 2], "ends below the total"),
        ([0, 0, 1, 5], "is 0 while text comes"),
    ],
)
def test_a_count_that_contradicts_itself_is_named_and_not_used(counts: list[int], says: str) -> None:
    times = time_tokens(chunks("tttt", counts=counts), 5)
    assert says in str(times.contradiction) and ms(times) == [10, 20, 30, 40]


@pytest.mark.parametrize("counts", [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 0, 4]])
def test_place_holders_and_counts_behind_by_one_are_no_counts(counts: list[int]) -> None:
    assert time_tokens(chunks("tttt", counts=counts), 4) == time_tokens(chunks("tttt"), 4)


def test_usage_in_some_chunks_only_is_no_running_count() -> None:
    partly = chunks("tttt")
    partly.counts = [(1, 1), (2, 2)]
    assert time_tokens(partly, 4) == time_tokens(chunks("tttt"), 4)


# ------------------------------------------------------------------------------------- together, hidden, token ids


def test_all_at_once_leaves_nothing_later() -> None:
    assert time_tokens(chunks("tttt", [30, 30, 30, 30]), 4).later == 0
    assert time_tokens(chunks("t"), 4).later == 0


def test_with_a_token_a_chunk_those_that_came_with_the_first_are_known() -> None:
    assert time_tokens(chunks("tttt", [30, 30, 40, 50]), 4).later == 2
    assert time_tokens(chunks("tttt", [30, 30, 40, 50]), 8).later is None


def test_reasoning_that_usage_counts_and_nobody_sent_came_before() -> None:
    assert time_tokens(chunks("tttt", hidden=16), 20).later == 3
    assert time_tokens(chunks("tttt", hidden=16, reasoned=True), 20).later is None
    assert time_tokens(chunks("tttt", hidden=19), 20).later is None, "more chunks than tokens shown: it cannot be"


def test_token_ids_count_where_they_add_up() -> None:
    assert time_tokens(chunks("ttt", ids=[5, 1, 1]), 7).later == 2
    assert time_tokens(chunks("ttt", ids=[5, 1, 1]), 9).later is None

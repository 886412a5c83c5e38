import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ratematch.loadgen.answer import Answer, read_stream, read_whole


def event(content: object) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def text(value: str, **more: object) -> bytes:
    return event({"choices": [{"index": 0, "text": value, **more}]})


def delta(**content: object) -> bytes:
    return event({"choices": [{"index": 0, "delta": content, "finish_reason": None}]})


USAGE = event(
    {
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}},
    }
)
DONE = b"data: [DONE]\n\n"


def read(*events: bytes) -> Answer:
    """Every event in a read of its own, at 10, 20, 30 ... ns."""
    ends = [sum(map(len, events[: k + 1])) for k in range(len(events))]
    return read_stream(b"".join(events), ends, [10 * (k + 1) for k in range(len(events))])


def test_tokens_come_from_usage_and_arrivals_from_chunks() -> None:
    answer = read(text("a"), text("b c", finish_reason="length"), USAGE, DONE)
    assert answer == Answer("ok", None, [10, 20], 7, 3, 2, "length")


def test_without_usage_the_length_is_unknown() -> None:
    answer = read(text("a"), text("b"), DONE)
    assert (answer.outcome, answer.osl, answer.isl) == ("ok", None, None)


def test_usage_null_in_chunks_is_no_usage() -> None:
    answer = read(event({"choices": [{"text": "a"}], "usage": None}), USAGE, DONE)
    assert (answer.osl, answer.chunk_ns) == (3, [10])


def test_empty_text_while_tokens_arrive_counts() -> None:
    answer = read(text("", token_ids=[5]), text(""), text("é"), USAGE, DONE)
    assert answer.chunk_ns == [10, 20, 30]


def test_chat_role_only_chunk_is_no_token() -> None:
    answer = read(
        delta(role="assistant", content=""), delta(content="a"), delta(content=""), delta(reasoning_content="b"), DONE
    )
    assert answer.chunk_ns == [20, 30, 40]


def test_chat_first_chunk_with_role_and_content_is_a_token() -> None:
    assert read(delta(role="assistant", content="a"), DONE).chunk_ns == [10]


def test_chat_finish_chunk_counts() -> None:
    answer = read(delta(content="a"), event({"choices": [{"delta": {}, "finish_reason": "stop"}]}), DONE)
    assert (answer.chunk_ns, answer.finish_reason) == ([10, 20], "stop")


def test_continuous_usage_takes_the_last() -> None:
    chunks = [
        event({"choices": [{"text": "a"}], "usage": {"prompt_tokens": 7, "completion_tokens": k}}) for k in (1, 3, 4)
    ]
    assert read(*chunks, DONE).osl == 4


def test_cut_stream_is_truncated_and_keeps_what_came() -> None:
    answer = read(text("a"), text("b"))
    assert (answer.outcome, answer.chunk_ns) == ("truncated", [10, 20])
    assert "2 chunks" in str(answer.error)


def test_stream_cut_inside_an_event_is_truncated() -> None:
    assert read(text("a"), text("b")[:-9]).outcome == "truncated"


def test_done_without_its_empty_line_is_the_end() -> None:
    assert read(text("a"), USAGE, b"data: [DONE]").outcome == "ok"


@pytest.mark.parametrize(
    "error", [{"error": {"message": "KV cache full"}}, {"object": "error", "message": "KV cache full", "code": 500}]
)
def test_error_object_in_the_stream(error: dict[str, object]) -> None:
    answer = read(text("a"), event(error), DONE)
    assert (answer.outcome, answer.chunk_ns) == ("bad_stream", [10])
    assert "KV cache full" in str(answer.error)


def test_json_that_is_no_chunk_is_a_bad_stream() -> None:
    assert read(b"data: 17\n\n", DONE).outcome == "bad_stream"


def test_whole_answer() -> None:
    answer = read_whole(
        b'{"choices":[{"text":"abc","finish_reason":"length"}],"usage":{"prompt_tokens":4,"completion_tokens":3}}'
    )
    assert (answer.outcome, answer.isl, answer.osl, answer.finish_reason, answer.chunk_ns) == (
        "ok",
        4,
        3,
        "length",
        [],
    )
    assert read_whole(b"<html>").outcome == "bad_stream"
    assert read_whole(b'{"choices":[]}').outcome == "bad_stream"


PARTS = (
    delta(role="assistant", content=""),
    text("a b", token_ids=[1]),
    b": keep-alive\n\n",
    delta(content="é"),
    text("", finish_reason="length").replace(b"\n", b"\r\n"),
    USAGE,
    DONE,
)
STREAM = b"".join(PARTS)
TOKEN_ENDS = [len(b"".join(PARTS[:k]) + PARTS[k].rstrip()) for k in (1, 3, 4)]


@given(st.sets(st.sampled_from([*range(1, len(STREAM)), *TOKEN_ENDS])))
@example(set(TOKEN_ENDS))
def test_any_split_of_a_stream_reads_the_same(cuts: set[int]) -> None:
    ends = [*sorted(cuts), len(STREAM)]
    answer = read_stream(STREAM, ends, ends)
    assert (answer.outcome, answer.osl, answer.isl, answer.finish_reason) == ("ok", 3, 7, "length")
    # Each token chunk is stamped with the first read that completes its line.
    assert answer.chunk_ns == [next(end for end in ends if end >= known) for known in TOKEN_ENDS]


def test_the_last_running_mean_of_decoded_tokens_counts() -> None:
    chunks = [
        b'{"choices":[{"text":"a","avg_decoded_tokens_per_iter":1.0}]}',
        b'{"choices":[{"text":"b","avg_decoded_tokens_per_iter":1.75,"finish_reason":"length"}]}',
        b'{"choices":[],"usage":{"completion_tokens":7}}',
    ]
    body = b"".join(b"data: " + chunk + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    assert read_stream(body, [len(body)], [1]).decoded_per_iter == 1.75
    assert read_whole(chunks[1]).decoded_per_iter == 1.75


# ------------------------------------------------------------------------------- what is odd, and can mean one thing


def usage(count: object, **more: object) -> dict[str, object]:
    return {"prompt_tokens": 7, "completion_tokens": count, **more}


@pytest.mark.parametrize("written", [3, 3.0, "3"])
def test_whole_numbers_of_tokens_are_taken_however_they_are_written(written: object) -> None:
    end = event({"choices": [], "usage": usage(written, prompt_tokens_details={"cached_tokens": 2.0})})
    answer = read(text("a"), text("b"), text("c"), end, DONE)
    assert (answer.outcome, answer.osl, answer.cached_tokens) == ("ok", 3, 2)


@pytest.mark.parametrize("written", [3.5, -1, "many", 1e300, "3.0"])
def test_what_is_no_number_of_tokens_is_refused(written: object) -> None:
    answer = read(text("a"), event({"choices": [], "usage": usage(written)}), DONE)
    assert answer.outcome == "bad_stream" and f"its usage counts {written!r} tokens" in str(answer.error)


@pytest.mark.parametrize("line", [b": PING", b": processing request", b"[PING]", b"keep-alive", b"null", b"ping"])
def test_a_keep_alive_wrapped_in_data_is_a_comment(line: bytes) -> None:
    answer = read(b"data: " + line + b"\n\n", text("a"), b"data:" + line + b"\n\n", USAGE, DONE)
    assert (answer.outcome, answer.chunk_ns) == ("ok", [20])


def test_hits_under_the_name_of_another_api() -> None:
    end = event({"choices": [], "usage": usage(1, prompt_cache_hit_tokens=6, prompt_cache_miss_tokens=1)})
    assert read(text("a"), end, DONE).cached_tokens == 6


# ----------------------------------------------------------------------------------------------------------- errors

DIED = "engine died"


@pytest.mark.parametrize(
    "broken",
    [
        b'event: error\ndata: {"message": "engine died", "type": "InternalServerError"}\n\n',
        b'event: error\ndata: {"error": {"message": "engine died"}}\n\n',
        b"event: error\ndata: engine died\n\n",
        b'event: error\ndata: "engine died"\n\n',
        b"event: error\n: engine died\n\n",
        b": engine died\nevent:error\n\n",
        b"event: Server_Error\r\ndata: engine died\r\n\r\n",
        event({"message": DIED, "code": 500}),
        event({"detail": DIED}),
        event({"code": 500, "error_msg": DIED}),
        event({"error": DIED}),
        event({"choices": [{"index": 0, "text": "", "finish_reason": "error", "error": {"message": DIED}}]}),
        event({"choices": [{"index": 0, "delta": {}, "error": {"code": 502, "message": DIED}}]}),
    ],
)
@pytest.mark.parametrize("ends_well", [True, False])
def test_an_error_in_the_stream_fails_the_request_in_the_servers_words(broken: bytes, ends_well: bool) -> None:
    answer = read(text("a"), broken, *((USAGE, DONE) if ends_well else ()))
    assert answer.outcome == "bad_stream" and f"the server reports in its stream: {DIED}" in str(answer.error)


def test_an_error_event_without_a_word_is_one_all_the_same() -> None:
    answer = read(text("a"), b"event: error\n\n", USAGE, DONE)
    assert answer.outcome == "bad_stream" and "without a word" in str(answer.error)


def test_other_named_events_are_no_errors() -> None:
    perf = b'event: server.timings\ndata: [1, 2]\n\nevent: note\ndata: {"message": "warm"}\n\n'
    answer = read(
        b"event: message\n" + text("a"), perf, b"event: ping\ndata: x\n\n", text("event: error"), USAGE, DONE
    )
    assert (answer.outcome, answer.chunk_ns) == ("ok", [10, 40])


@pytest.mark.parametrize("empty", ["", {}, [], False, 0, {"code": 0, "message": ""}])
def test_an_empty_error_beside_an_answer_is_none(empty: object) -> None:
    """As gateways write it into every chunk; without an answer beside it, it is an error all the same."""
    chunks = [event({"choices": [{"index": 0, "text": "a", "error": empty}], "error": empty})] * 3
    answer = read(*chunks, USAGE, DONE)
    assert (answer.outcome, answer.osl, answer.chunk_ns) == ("ok", 3, [10, 20, 30])
    assert read(text("a"), event({"error": empty}), DONE).outcome == "bad_stream"
    assert read(event({"choices": [{"text": "a", "error": empty, "finish_reason": "error"}]}), DONE).error is not None


def test_an_error_behind_the_end_changes_nothing() -> None:
    assert read(text("a"), USAGE, DONE, b"event: error\ndata: x\n\n").outcome == "ok"


# --------------------------------------------------------------------------------------------------- unknown fields


@pytest.mark.parametrize("name", ["thinking", "function_call", "refusal"])
def test_these_fields_hold_tokens_too(name: str) -> None:
    value = {"arguments": "a"} if name == "function_call" else "a"
    answer = read(delta(role="assistant", content=""), *[delta(**{name: value})] * 3, USAGE, DONE)
    assert (answer.chunk_ns, answer.stream_note) == ([20, 30, 40], None)


@pytest.mark.parametrize(
    "content",
    [{"musings": "a"}, {"role": "assistant", "musings": "a"}, {"content": "", "role": "assistant", "musings": ["a"]}],
)
def test_chunks_with_unknown_fields_are_named_with_the_instants_they_came_at(content: dict[str, object]) -> None:
    end = event({"choices": [{"delta": {}, "finish_reason": "length"}]})
    answer = read(delta(role="assistant", content=""), *[delta(**content)] * 2, end, USAGE, DONE)
    assert answer.stream_note == "chunks with unknown fields only: musings"
    assert (answer.chunk_ns, answer.other_first_ns, answer.other_last_ns) == ([40], 20, 40)


def test_an_unknown_field_of_a_completion() -> None:
    answer = read(
        event({"choices": [{"index": 0, "speech": {"words": "a"}}]}), text("b"), text("c"), text("d"), USAGE, DONE
    )
    assert answer.stream_note == "chunks with unknown fields only: speech" and answer.other_first_ns == 10


def test_fields_that_describe_an_answer_are_nothing_unknown() -> None:
    chunks = [
        delta(role="assistant", provider="x", note="y"),
        delta(obfuscation="zz"),
        delta(tool_calls=[], name="n"),
    ]
    answer = read(*chunks, delta(content="a", musings="b"), delta(content="c"), delta(content="d"), USAGE, DONE)
    assert (answer.stream_note, answer.chunk_ns) == (None, [40, 50, 60])


def test_reasoning_that_was_shown_was_not_hidden() -> None:
    end = event({"choices": [], "usage": usage(12, completion_tokens_details={"reasoning_tokens": 8})})
    words = [delta(content="a"), delta(content="b")]
    assert read(delta(reasoning_content="r"), *words, end, DONE).later_tokens is None
    assert read(delta(role="assistant", content=""), *words, end, DONE).later_tokens == 3


def test_usage_between_the_chunks_is_a_running_count() -> None:
    counts = [event({"choices": [], "usage": usage(number)}) for number in (5, 6, 7)]
    answer = read(text("a"), counts[0], text("b"), counts[1], text("c"), counts[2], DONE)
    assert (answer.chunk_ns, answer.later_tokens, answer.osl) == ([10, 30, 50], 2, 7)


def test_tokens_that_are_counted_before_the_first_is_shown_came_before() -> None:
    hidden = [event({"choices": [], "usage": usage(number)}) for number in (1, 2, 3)]
    words = [event({"choices": [{"text": "a"}], "usage": usage(number)}) for number in (4, 5, 6)]
    answer = read(*hidden, *words, event({"choices": [], "usage": usage(6)}), DONE)
    assert (answer.chunk_ns, answer.later_tokens) == ([40, 50, 60], 2)

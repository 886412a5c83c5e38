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

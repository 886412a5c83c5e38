from hypothesis import given
from hypothesis import strategies as st

from ratematch.loadgen.answer import read_stream
from ratematch.loadgen.sse import split_events


def payloads(body: bytes) -> list[bytes]:
    return [payload for payload, _ in split_events(body)]


def test_plain_stream() -> None:
    assert list(split_events(b"data: ab\n\ndata: [DONE]\n\n")) == [(b"ab", 8), (b"[DONE]", 22)]


def test_line_ends_comments_and_other_fields() -> None:
    assert payloads(b": ping\r\n\r\nevent: x\r\nid: 3\r\ndata: a\r\n\r\ndata: b\r\rdata:c\n\n\n\ndata: d") == [
        b"a",
        b"b",
        b"c",
        b"d",
    ]


def test_multi_line_data_and_trailing_space() -> None:
    assert payloads(b'data: {"a":\ndata: 1} \n\ndata: x \n\n') == [b'{"a":\n1}', b"x"]


def test_byte_order_mark_and_empty_data() -> None:
    assert payloads(b"\xef\xbb\xbfdata: a\n\ndata:\n\ndata\n\ndata: b\n\n") == [b"a", b"b"]


line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
word = st.binary(min_size=1, max_size=12).map(
    lambda b: b"v" + b.replace(b"\r", b"").replace(b"\n", b"").strip() + b"v"
)


@given(st.lists(word, max_size=8), line_ends, st.booleans())
def test_any_line_end_gives_the_same_payloads(words: list[bytes], end: bytes, comment: bool) -> None:
    body = b"".join((b": c" + end if comment else b"") + b"data: " + w + end + end for w in words)
    assert payloads(body) == words
    for payload, stop in split_events(body):
        assert body[:stop].endswith(payload)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_never_raise(noise: bytes) -> None:
    list(split_events(noise))
    read_stream(noise, [len(noise)], [1])


@given(
    st.lists(st.sampled_from([b"data: ", b"data:", b"\n", b"\r\n", b"\r", b"{", b'"choices":', b"[{}]", b"}", b":"]))
)
def test_almost_events_never_raise(parts: list[bytes]) -> None:
    body = b"".join(parts)
    list(split_events(body))
    read_stream(body, [len(body)], [1])

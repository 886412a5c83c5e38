"""What is no format is refused on one line; nothing is guessed into a prompt."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.plan.dataset import DatasetError, Making, parse_dataset, pick_requests, summarise
from ratematch.plan.dataset.fields import KNOWN
from ratematch.plan.workload import Workload


def lines(*items: object) -> str:
    return "\n".join(json.dumps(item) for item in items) + "\n"


def refusal(text: str) -> str:
    with pytest.raises(DatasetError) as caught:
        parse_dataset(text)
    return caught.value.in_file("set.jsonl")


UNREADABLE = [
    ({"promt": "x", "osl": 4}, "did you mean 'prompt' for 'promt'"),
    ({"mesages": [{"role": "user", "content": "x"}]}, "did you mean 'messages'"),
    ({"inputids": [1, 2]}, "did you mean 'input_ids'"),
    ({"input_lenght": 40, "output_length": 3}, "did you mean 'input_length'"),
    ({"prompt": "x", "ouput_tokens": 3}, "did you mean 'output_tokens'"),
    ({"prompt": "x", "maxTokens": 3}, "did you mean 'max_tokens'"),
    ({"input_length": 40, "timestmp": 3}, "did you mean 'timestamp'"),
    ({"input_length": 40, "hash_id": [1]}, "did you mean 'hash_ids'"),
    ({"input_length": 40, "promt": "the real prompt"}, "did you mean 'prompt'"),
    ({"input_length": 40, "question": "the real prompt"}, "call it prompt"),
    ({"question": "why?", "answer": "because"}, "(question, answer)"),
    ({"hash_ids": [1, 2], "output_length": 5}, "has hash_ids and no input_length"),
    ({"output_length": 5}, "no prompt is read from its fields (output_length)"),
    ({"timestamp": 5}, "no prompt is read from its fields (timestamp)"),
    ({}, "an object without fields"),
    ({"prompt": ""}, "prompt is empty"),
    ({"prompt": {"a": 1}}, "prompt is an object of a, not a text"),
    ({"prompt": ["a", "b"]}, "prompt[0] is 'a', not a token id"),
    ({"prompt": "\ud800"}, "surrogate"),
    ({"input_ids": [1, -2]}, "input_ids[1] is -2"),
    ({"input_ids": [1, 2.5]}, "input_ids[1] is 2.5"),
    ({"input_ids": []}, "input_ids is []"),
    ({"prompt": "a", "text": "b"}, "has both prompt and text"),
    ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "has both messages and prompt"),
    ({"prompt": "a", "hash_ids": [1], "input_length": 4}, "has hash_ids beside prompt"),
    ({"prompt": "a", "system_prompt": "b"}, "system_prompt beside a prompt is not sent"),
    ({"prompt": "a", "image": "cat.png"}, "images, audio and video are not sent"),
    ({"texts": ["a", "b"]}, "batch of prompts"),
    ({"isl": True}, "isl is True"),
    ({"isl": 2.5}, "isl is 2.5, not a whole number"),
    ({"isl": 10**12}, "isl is a length of 1000000000000 tokens"),
    ({"isl": 4, "timestamp": "2024-05-10 00:00:00"}, "timestamp is '2024-05-10 00:00:00', not a number"),
    ({"isl": 4, "timestamp": 5, "delay": 5}, "has both timestamp and delay"),
    ({"isl": 4, "session_id": "a", "delay": 2}, "delays between turns in an unknown unit"),
    ({"isl": 4, "hash_ids": [1.5]}, "hash_ids is [1.5]"),
    ({"messages": []}, "messages is []"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0] has the role 'robot'"),
    ({"messages": [{"role": "user"}]}, "messages[0] has no content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only text is sent"),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "last message is the assist",
    ),
    ({"messages": [{"role": "user", "content": "a"}], "message_mode": "delta"}, "message_mode delta"),
    ({"custom_id": "a", "url": "/v1/embeddings", "body": {"input": "x"}}, "url /v1/embeddings"),
    ({"custom_id": "a", "body": {"model": "m"}}, "body: no prompt is read from its fields (model)"),
    ({"custom_id": "a", "body": {"prompt": "x", "n": 2}}, "body.n is 2"),
    ({"custom_id": "a", "response": {"body": {}}}, "no prompt is read from its fields (custom_id, response)"),
    ({"instruction": "do", "input": "it", "output": "done"}, "input is 'it', not an object"),
    ({"input": {"messages": None}}, "input has no messages"),
    ({"conversations": [{"from": "human"}, {"from": "gpt", "value": "x"}]}, "conversations[0] has no value"),
    ({"turns": ["first", "second"]}, "turns is a list of texts"),
    ({"id": 1, "requests": [{"in": 5}]}, "requests[0]: has no out"),
    ({"requests": [{"in": 5, "out": 4, "hash_ids": [1]}]}, "no session_id or id"),
    ({"id": 1, "requests": [{"in": 5, "out": 4}]}, "requests[0]: has no hash_ids"),
]


@pytest.mark.parametrize(("item", "says"), UNREADABLE, ids=[says[:40] for _, says in UNREADABLE])
def test_what_is_not_read_is_refused_on_one_line(item: object, says: str) -> None:
    said = refusal(json.dumps(item) + "\n")
    assert says in said and "\n" not in said
    assert said.startswith("set.jsonl:1: ") or says.startswith("delays")


def test_two_formats_in_one_file_are_refused_with_the_line() -> None:
    said = refusal(lines({"prompt": "a"}, {"prompt": "b"}, {"messages": [{"role": "user", "content": "c"}]}))
    assert said == "set.jsonl:3: is of OpenAI messages, and line 1 of prompt lines: one format a file"
    assert "one format a file" in refusal(lines({"prompt": "a"}, {"isl": 4}))
    bailian = {"chat_id": 1, "parent_chat_id": -1, "timestamp": 1.0, "input_length": 16, "hash_ids": [1]}
    assert "one format a file" in refusal(lines(bailian, {"timestamp": 2000, "input_length": 16, "hash_ids": [1]}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompt,output_len\nhello,4\n", "a table? write each row as a JSON object"),
        ('{"prompt": "a"}\n{"prompt": \n', "set.jsonl:2: no JSON"),
        ("[" * 3000, "nested too deep"),
        ('{"isl": ' + "[" * 100_000 + "\n", "nested too deep"),
        ('{"isl": NaN}\n', "NaN is no number of JSON"),
        ('[{"isl": 4}, 7]', "set.jsonl: item 2: is 7, not an object"),
        ('{"isl": 0, "osl": 4}\n', "holds no request (1 have no prompt token)"),
    ],
)
def test_files_that_are_none(text: str, says: str) -> None:
    assert says in refusal(text)


SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 700), st.floats(), st.text(max_size=5)),
    *(st.just(2**70), st.just("12"), st.just("\ud800"), st.just(1e308)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inside: st.one_of(
        st.lists(inside, max_size=3),
        st.dictionaries(
            st.sampled_from([*KNOWN, "role", "content", "from", "value", "in", "out", "t", "type", "x"]),
            inside,
            max_size=4,
        ),
    ),
    max_leaves=8,
)
ITEMS = st.dictionaries(st.sampled_from([*KNOWN, "id", "promt", "url", "question"]), VALUES, max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(ITEMS, VALUES), min_size=1, max_size=3))
def test_whatever_a_line_holds_it_is_a_prompt_of_its_own_or_refused(items: list[object]) -> None:
    """Never another kind of error, and never a prompt that the line does not hold."""
    try:
        data = parse_dataset("\n".join(json.dumps(item) for item in items))
        specs = pick_requests(data, Workload(1000, 500), 100, Making(32000, 1, chat=True)).requests
    except DatasetError:
        return
    for spec in specs:
        assert 1 <= spec.osl <= 500
        assert spec.isl >= 1 or spec.text or spec.chat
    for entry in data.entries:
        assert entry.fixed or (entry.isl or 0) >= 1
    summarise(data)

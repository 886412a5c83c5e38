"""The formats that people have: each is read right, or refused with its line; nothing is guessed into a prompt."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ratematch.plan.dataset import Dataset, DatasetError, Entry, Making, parse_dataset, pick_requests, summarise
from ratematch.plan.workload import RequestSpec, Workload

WORKLOAD = Workload(8192, 512)


def lines(*items: object) -> str:
    return "\n".join(json.dumps(item) for item in items) + "\n"


def made(data: Dataset, workload: Workload = WORKLOAD, seed: int = 1, **more: Any) -> list[RequestSpec]:
    return pick_requests(data, workload, 100, Making(32000, seed, **more)).requests


def refusal(text: str, **options: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        parse_dataset(text, **options)
    return caught.value.in_file("set.jsonl")


@pytest.mark.parametrize("name", ["input_ids", "logits", "prompt_token_ids", "prompt"])
def test_token_ids_are_sent_as_they_are(name: str) -> None:
    (spec,) = made(parse_dataset(lines({"task_id": 7, name: [5, 6, 7, 8], "output_tokens": 9})))
    assert (spec.prompt.tolist(), spec.osl, spec.text) == ([5, 6, 7, 8], 9, None)


def test_trtllm_bench_takes_the_ids_where_the_text_is_there_too() -> None:
    (spec,) = made(parse_dataset(lines({"task_id": 0, "prompt": "one two", "input_ids": [1, 2], "output_tokens": 3})))
    assert spec.prompt.tolist() == [1, 2] and spec.text is None


@pytest.mark.parametrize(
    "name",
    [
        *("output_tokens", "output_tokens_count", "output_length", "osl", "max_tokens", "max_completion_tokens"),
        *("max_new_tokens", "completion_tokens", "output_len", "expected_output_len", "num_output_tokens"),
        *("response_tokens", "response_length", "generated_tokens", "num_decode_tokens", "n_predict"),
    ],
)
def test_output_lengths_under_every_name(name: str) -> None:
    (spec,) = made(parse_dataset(lines({"prompt": "write a poem", name: 24})))
    assert (spec.text, spec.osl) == ("write a poem", 24)


@pytest.mark.parametrize("holder", ["sampling_params", "parameters", "extra"])
def test_output_lengths_among_sampling_parameters(holder: str) -> None:
    (spec,) = made(parse_dataset(lines({"text": "write a poem", holder: {"max_new_tokens": 24, "temperature": 0}})))
    assert spec.osl == 24
    said = refusal(lines({"text": "a", "osl": 4, holder: {"max_new_tokens": 24}}))
    assert f"says two output lengths: osl 4, {holder}.max_new_tokens 24" in said


def test_two_names_of_one_length_must_agree() -> None:
    assert made(parse_dataset(lines({"prompt": "a", "osl": 4, "max_tokens": 4})))[0].osl == 4
    assert "set.jsonl:1: says two output lengths: osl 4, max_tokens 5" in refusal(
        lines({"prompt": "a", "osl": 4, "max_tokens": 5})
    )


def test_guidellm_lines_and_its_data_list() -> None:
    rows = [
        {"prompt": "p", "prompt_tokens_count": 12, "output_tokens_count": 5},
        {"prompt": "q", "output_tokens_count": 6},
    ]
    for text in (
        lines(*rows),
        json.dumps({"data": rows}),
        json.dumps(rows),
        json.dumps({"version": "1", "data": rows}, indent=1),
    ):
        assert [(spec.text, spec.osl) for spec in made(parse_dataset(text))] == [("p", 5), ("q", 6)]
    summary = summarise(parse_dataset(lines(*rows)))
    assert summary.isl is not None and (summary.isl.least, summary.isl.number) == (12, 1)


def test_messages_are_sent_as_they_are_and_one_of_the_user_as_text_too() -> None:
    several = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]
    data = parse_dataset(lines({"messages": several, "max_tokens": 8}))
    assert data.wants_chat
    (spec,) = made(data, chat=True)
    assert json.loads(spec.chat or "") == {"messages": several} and spec.osl == 8 and spec.isl == 0
    with pytest.raises(ValueError, match="--api chat"):
        made(data)
    (alone,) = made(parse_dataset(lines({"messages": [{"role": "user", "content": "why?"}]})))
    assert (alone.text, alone.chat) == ("why?", None)


def test_tools_and_parts_of_text_stay_in_a_chat() -> None:
    item = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    (spec,) = made(parse_dataset(lines(item)), chat=True)
    assert json.loads(spec.chat or "") == item


def test_batch_lines_of_openai_and_payloads_of_aiperf() -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 7}
    first = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat}
    (spec,) = made(parse_dataset(lines(first)), chat=True)
    assert json.loads(spec.chat or "") == {"messages": chat["messages"]} and spec.osl == 7
    text = lines(
        {"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": {"prompt": "ho", "max_tokens": 3}},
        {"payload": {"prompt": [4, 5], "max_tokens": 2}},
    )
    assert [(s.text, s.prompt.tolist(), s.osl) for s in made(parse_dataset(text))] == [
        ("ho", [], 3),
        (None, [4, 5], 2),
    ]
    assert refusal(lines(first) + text).startswith("set.jsonl:2: goes to another API than the first request")


def test_trtllm_custom_says_how_long_its_prompt_is() -> None:
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "one"}]
    item = {"input": {"messages": messages, "max_tokens": 9, "num_tokens": 9000}}
    assert pick_requests(parse_dataset(lines(item)), WORKLOAD, 5, Making(32000, 0)).too_long == 1


def test_conversations_of_sharegpt_and_sglang() -> None:
    rows = [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a" * 40}]},
        {"conversations": [{"role": "user", "content": "r"}, {"role": "assistant", "content": "b" * 8}]},
        {"conversations": [{"from": "gpt", "value": "I begin"}, {"from": "human", "value": "no"}]},
        {"conversations": []},
    ]
    for text in (lines(*rows), json.dumps(rows), json.dumps(rows, indent=2)):
        data = parse_dataset(text)
        assert data.entries == [Entry(text="q", osl=10), Entry(text="r", osl=2)]
        assert sum("left out" in note for note in data.notes) == 2
    counted = made(parse_dataset(lines(*rows)), encode=lambda text: [ord(letter) for letter in text])
    assert [spec.osl for spec in counted] == [40, 8], "a tokenizer counts the recorded answers"


def test_one_turn_of_aiperf_is_read_and_several_need_the_answers() -> None:
    (spec,) = made(parse_dataset(lines({"session_id": "s", "turns": [{"text": "hello", "output_length": 5}]})))
    assert (spec.text, spec.osl) == ("hello", 5)
    said = refusal(lines({"session_id": "s", "turns": [{"text": "a"}, {"text": "b", "delay": 500}]}))
    assert said.startswith("set.jsonl:1: has 2 turns") and "messages" in said


CALLS = [
    {"t": 0.0, "type": "s", "model": "x", "in": 130, "out": 20, "hash_ids": [1, 2, 3], "api_time": 2.0},
    {"t": 5.0, "type": "n", "model": "x", "in": 180, "out": 10, "hash_ids": [1, 2, 4], "api_time": 1.0},
    {"t": 9.5, "type": "n", "model": "x", "in": 192, "out": 10, "hash_ids": [1, 2, 4], "think_time": 0.25},
]


def test_recorded_sessions_keep_their_order_waits_and_shared_blocks() -> None:
    session = {"id": "one", "models": ["x"], "block_size": 64, "hash_id_scope": "local", "requests": CALLS}
    for text in (lines(session, {**session, "id": "two"}), json.dumps([session, {**session, "id": "two"}], indent=1)):
        data = parse_dataset(text)
        assert (data.format, data.block, data.time_unit, data.timed) == ("session traces", 64, "s", False)
        specs = made(data)
        assert [(s.isl, s.osl, s.session, s.turn, s.delay_s) for s in specs[:3]] == [
            (130, 20, 0, 0, 0.0),
            (180, 10, 0, 1, 3.0),
            (192, 10, 0, 2, 0.25),
        ]
        assert specs[3].session == 1
        assert np.array_equal(specs[0].prompt[:128], specs[1].prompt[:128])
        assert not np.array_equal(specs[0].prompt[128:130], specs[1].prompt[128:130])
        assert not np.array_equal(specs[0].prompt[:64], specs[3].prompt[:64]), "ids mean nothing in another session"


def test_sessions_whose_last_block_is_not_whole_and_calls_without_tokens() -> None:
    calls = [
        {"t": 0.0, "in": 40, "out": 5, "hash_ids": [], "api_time": 9.0},
        {"t": 1.0, "in": 150, "out": 5, "hash_ids": [1, 2]},
        {"t": 12.0, "in": 150, "out": 0, "hash_ids": [1, 2]},
        {"t": 13.0, "in": 170, "out": 5, "hash_ids": [1, 2]},
    ]
    data = parse_dataset(lines({"session_id": 4, "block_size": 64, "requests": calls}))
    first, second, third = made(data)
    assert [spec.isl for spec in (first, second, third)] == [40, 150, 170]
    assert np.array_equal(second.prompt[:128], third.prompt[:128])
    assert not np.array_equal(second.prompt[128:150], third.prompt[128:150]), "what has no id is a request's own"
    for note in ("whole blocks only", "1 requests have no input or no output token", "overlapped within a session"):
        assert any(note in line for line in data.notes), data.notes


def test_traces_that_name_whole_blocks_only() -> None:
    rows = [
        {"input_length": isl, "output_length": 2, "hash_ids": list(range(ids))} for isl, ids in ((1000, 15), (127, 1))
    ]
    assert parse_dataset(lines(*rows)).block == 64
    assert parse_dataset(lines(*rows), block=64).block == 64
    assert [spec.isl for spec in made(parse_dataset(lines(*rows)))] == [1000, 127]


def test_a_session_inside_a_session_is_refused() -> None:
    nested = {"t": 1.0, "type": "subagent", "agent_id": "a", "requests": CALLS}
    said = refusal(lines({"id": "one", "block_size": 64, "requests": [CALLS[0], nested]}))
    assert said.startswith("set.jsonl:1: requests[1]: is a session inside the session")


def trace(*instants: float, **more: Any) -> str:
    return lines(*({"timestamp": at, "input_length": 100, "output_length": 5, **more} for at in instants))


def test_the_unit_of_time_is_taken_only_where_nothing_else_makes_sense() -> None:
    for instants in ((0, 0, 3000), (27000, 27000, 30500), (1_700_000_000_000, 1_700_000_004_000), (0,), (5, 5)):
        data = parse_dataset(trace(*instants))
        assert data.time_unit == "ms"
        assert any("taken for ms" in note for note in data.notes) == (len(set(instants)) > 1)
    for instants in ((0, 2, 4, 6), (0.5, 1.25), (60.0, 62.0), (1_700_000_000, 1_700_000_060), (10**18, 2 * 10**18)):
        data = parse_dataset(trace(*instants))
        assert data.time_unit is None and data.why_no_unit and data.timed
        assert any("unit of its timestamps is not known" in note for note in summarise(data).notes)
        assert summarise(data).duration_s is None


def test_the_unit_of_time_by_option_and_by_the_names_of_fields() -> None:
    assert [spec.due_s for spec in made(parse_dataset(trace(0.5, 1.25), "s"))] == [0.0, 0.75]
    assert [spec.due_s for spec in made(parse_dataset(trace(0, 250), "ms"))] == [0.0, 0.25]
    named = lines({"timestamp_s": 2, "isl": 4}, {"timestamp_s": 3, "isl": 4})
    assert [spec.due_s for spec in made(parse_dataset(named))] == [0.0, 1.0]
    digits = lines({"timestamp": "1753780607550317897", "isl": 4}, {"timestamp": "1753780607650317897", "isl": 4})
    assert [spec.due_s for spec in made(parse_dataset(digits, "ns"))] == [0.0, pytest.approx(0.1)]


def test_bailian_traces_are_in_seconds_with_16_tokens_a_block() -> None:
    rows = [
        {"chat_id": k, "parent_chat_id": -1, "timestamp": 61.5 + 2 * k, "input_length": 40, "output_length": 3}
        | {"type": "text", "turn": 1, "hash_ids": [9, 10 * k + 1, 10 * k + 2]}
        for k in range(4)
    ]
    data = parse_dataset(lines(*rows))
    specs = made(data)
    assert (data.format, data.block, [spec.due_s for spec in specs]) == (
        "Qwen-Bailian trace",
        16,
        [0.0, 2.0, 4.0, 6.0],
    )
    assert all(np.array_equal(specs[0].prompt[:16], spec.prompt[:16]) for spec in specs)
    assert len({tuple(spec.prompt[16:32]) for spec in specs}) == 4
    summary = summarise(data)
    assert (summary.duration_s, summary.shared) == (6.0, 3 * 16 / 160)
    wrong = [{**rows[0], "input_length": 4000}]
    assert "4000 input tokens are 250 blocks of 16 tokens (by the file), and there are 3 hash_ids" in refusal(
        lines(*wrong)
    )


@pytest.mark.parametrize(
    ("block", "isl", "ids"), [(512, 1100, 3), (64, 300, 5), (128, 1000, 8), (16, 33, 3), (48, 48, 1)]
)
def test_the_block_length_is_what_agrees_with_every_line(block: int, isl: int, ids: int) -> None:
    rows = [
        {
            "timestamp": 1000 * k,
            "input_length": isl,
            "output_length": 2,
            "hash_ids": [0, *range(100 * k, 100 * k + ids - 1)],
        }
        for k in range(1, 4)
    ]
    data = parse_dataset(lines(*rows))
    assert data.block == block if ids > 1 else data.block >= isl
    assert [spec.isl for spec in made(data)] == [isl] * 3


def test_a_block_length_that_cannot_be_is_refused_with_its_line() -> None:
    fine = {"input_length": 1000, "output_length": 1, "hash_ids": [1, 2]}
    odd = {"input_length": 9000, "output_length": 1, "hash_ids": [3]}
    said = refusal(lines(fine, odd))
    assert said.startswith("set.jsonl:1: its hash_ids are blocks of 999 tokens at most, and those of line 2 of 9000")
    assert "--hash-block" in said
    assert refusal(lines(fine), block=64).startswith("set.jsonl:1: 1000 input tokens are 16 blocks of 64 tokens")
    assert parse_dataset(lines(fine), block=600).block == 600
    said = refusal(lines({**fine, "block_size": 64}))
    assert "(by the file), and there are 2 hash_ids" in said
    unclear = [
        {"input_length": 99_000, "hash_ids": list(range(100))},
        {"input_length": 98_990, "hash_ids": list(range(100))},
    ]
    assert "blocks of 990 to 999 tokens agree" in refusal(lines(*unclear))


@pytest.mark.parametrize(("isl", "ids"), [(9000, 2), (6755, 1), (40_000, 3)])
def test_ids_that_cover_the_beginning_of_a_prompt_only_are_refused(isl: int, ids: int) -> None:
    rows = [
        {"input_length": isl, "output_length": 1, "hash_ids": [0, *range(10 * k, 10 * k + ids - 1)]} for k in (1, 2)
    ]
    said = refusal(lines(*rows))
    assert said.startswith(f"set.jsonl:1: {isl} input tokens and {ids} hash_ids: blocks of {-(-isl // ids)} tokens")
    assert parse_dataset(lines(*rows), block=-(-isl // ids)).block == -(-isl // ids)


def test_lines_out_of_order_are_replayed_in_the_order_of_their_time() -> None:
    data = parse_dataset(trace(3000, 1000, 2000))
    assert [spec.due_s for spec in made(data)] == [0.0, 1.0, 2.0]
    assert any("not in the order" in note for note in data.notes)


def test_text_of_other_scripts_and_line_ends_of_other_systems() -> None:
    item = json.dumps({"prompt": "one\u2028two\u0085three"}, ensure_ascii=False)
    assert [spec.text for spec in made(parse_dataset(f"\ufeff{item}\r\n{item}\r\n"))] == [
        "one\u2028two\u0085three"
    ] * 2


def test_fields_that_look_like_lengths_are_named_and_others_pass() -> None:
    data = parse_dataset(lines({"prompt": "a", "answer_tokens": 5, "id": 3, "temperature": 0.5, "category": "x"}))
    assert any(note.startswith("answer_tokens looks like a length and is not read") for note in data.notes)
    assert any("no request says how many tokens to answer with" in note for note in data.notes)
    assert not any("temperature" in note for note in data.notes)


def test_lines_without_tokens_are_left_out_and_counted() -> None:
    data = parse_dataset(lines({"isl": 4, "osl": 0}, {"isl": 5, "osl": 2}, {"isl": 0, "osl": 2}))
    assert [spec.isl for spec in made(data)] == [5]
    assert sum("left out" in note for note in data.notes) == 2


def test_prompts_of_lengths_differ_with_the_seed_and_with_the_rung() -> None:
    data = parse_dataset(lines({"input_length": 600, "hash_ids": [1, 2]}, {"input_length": 40}))
    first, again, other, rung = (made(data, seed=seed, rung=rung) for seed, rung in ((1, 0), (1, 0), (2, 0), (1, 1)))
    assert all(np.array_equal(a.prompt, b.prompt) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].prompt[:16], other[0].prompt[:16])
    assert not np.array_equal(first[0].prompt[:16], rung[0].prompt[:16])
    assert not data.fixed


def test_what_a_summary_says_of_shared_beginnings() -> None:
    same = parse_dataset(lines(*({"input_ids": [*range(160)]} for _ in range(4))))
    assert summarise(same).shared == 0.75 and summarise(same).fixed
    text = "the same beginning of sixty-four letters and a few more than that, "
    assert summarise(parse_dataset(lines({"prompt": text + "a"}, {"prompt": text + "b"}))).shared == pytest.approx(
        0.47, abs=0.02
    )
    assert summarise(parse_dataset(lines({"isl": 9}, {"isl": 9}))).shared == 0


@pytest.mark.parametrize("fields", [{}, {"osl": 4}, {"osl": 4, "timestamp": 500}], ids=["isl", "osl", "instants"])
def test_random_prompts_share_nothing_however_many_there_are(fields: dict[str, int]) -> None:
    data = parse_dataset(lines(*({"isl": 100, **fields} for _ in range(200))))
    assert summarise(data).shared == 0

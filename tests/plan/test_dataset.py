"""Files of others to requests."""

import json

import numpy as np
import pytest

from ratematch.plan.dataset import HASH_BLOCK, Dataset, Entry, Making, parse_dataset, pick_requests
from ratematch.plan.dataset.pick import Encode, Picked
from ratematch.plan.workload import Workload

WORKLOAD = Workload(4096, 512)


def lines(*items: object) -> str:
    return "\n".join(json.dumps(item) for item in items) + "\n"


def pick(
    dataset: Dataset,
    workload: Workload,
    number: int,
    vocab_size: int,
    seed: int,
    first_seq: int = 0,
    encode: Encode | None = None,
) -> Picked:
    return pick_requests(dataset, workload, number, Making(vocab_size, seed, encode), first_seq)


MOONCAKE = lines(
    {"timestamp": 27_000, "input_length": 1100, "output_length": 50, "hash_ids": [7, 8, 9]},
    {"timestamp": 27_000, "input_length": 1200, "output_length": 20, "hash_ids": [7, 8, 10]},
    {"timestamp": 30_500, "input_length": 9000, "output_length": 20, "hash_ids": list(range(50, 68))},
    {"timestamp": 31_000, "input_length": 300, "output_length": 5, "hash_ids": [11]},
)


def test_a_mooncake_trace_keeps_lengths_instants_and_shared_blocks() -> None:
    picked = pick(parse_dataset(MOONCAKE), WORKLOAD, 10, 32000, seed=1)
    assert [(spec.isl, spec.osl, spec.due_s) for spec in picked.requests] == [
        (1100, 50, 0.0),
        (1200, 20, 0.0),
        (300, 5, 4.0),
    ]
    assert picked.too_long == 1
    one, other, _ = (spec.prompt for spec in picked.requests)
    same = one[: 2 * HASH_BLOCK + 76] == other[: 2 * HASH_BLOCK + 76]
    assert same[: 2 * HASH_BLOCK].all() and not same[2 * HASH_BLOCK :].all()
    again = pick(parse_dataset(MOONCAKE), WORKLOAD, 10, 32000, seed=1)
    assert all((a.prompt == b.prompt).all() for a, b in zip(picked.requests, again.requests, strict=True))


def test_context_servers_make_one_token_of_every_request_of_a_file() -> None:
    picked = pick(parse_dataset(MOONCAKE), Workload(4096, 1), 10, 32000, seed=1)
    assert [spec.osl for spec in picked.requests] == [1, 1, 1]


def test_trtllm_custom_is_sent_as_text_or_as_ids() -> None:
    text = lines(
        {
            "input": {
                "messages": [{"role": "system", "content": ""}, {"role": "user", "content": "one two"}],
                "max_tokens": 9,
            }
        },
        {
            "input": {
                "messages": [{"role": "system", "content": ""}, {"role": "user", "content": "three"}],
                "max_tokens": 4,
            }
        },
    )
    entries = parse_dataset(text)
    plain = pick(entries, WORKLOAD, 5, 32000, 0).requests
    assert [(spec.text, spec.isl, spec.osl) for spec in plain] == [("one two", 0, 9), ("three", 0, 4)]
    counted = pick(entries, WORKLOAD, 5, 32000, 0, encode=lambda words: [len(word) for word in words.split()])
    assert [(spec.text, spec.prompt.tolist()) for spec in counted.requests] == [(None, [3, 3]), (None, [5])]


def test_sharegpt_takes_the_first_question_and_the_length_of_its_answer() -> None:
    text = json.dumps(
        [
            {"id": "a", "conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "x" * 40}]},
            {"id": "b", "conversations": [{"from": "human", "value": "nobody answers"}]},
        ]
    )
    assert parse_dataset(text).entries == [Entry(text="hello", osl=10)]


def test_lengths_alone_and_sessions() -> None:
    text = lines(
        {"isl": 40, "osl": 3, "session_id": "s"},
        {"isl": 50, "session_id": "t"},
        {"isl": 60, "osl": 2, "session_id": "s", "delay": 250},
    )
    made = pick(parse_dataset(text), WORKLOAD, 5, 500, 0, first_seq=10).requests
    assert [(s.seq, s.isl, s.osl, s.session, s.turn, s.delay_s) for s in made] == [
        (10, 40, 3, 10, 0, 0.0),
        (11, 50, 512, 11, 0, 0.0),
        (12, 60, 2, 10, 1, 0.25),
    ]
    assert len({spec.prompt[:32].tobytes() for spec in made}) == 3
    assert all(np.all((spec.prompt >= 100) & (spec.prompt < 500)) for spec in made)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no request"),
        ('{"isl": 4}\n{"isl": ]\n', "line 2: no JSON"),
        ('{"isl": 4}\n{"isl": "many"}\n', "line 2: isl is 'many', not a number of tokens"),
        ('{"isl": -4}\n', "line 1: isl is a length of -4 tokens"),
        ('[{"conversations": [{}, {}]}]', "item 1: conversations[0] has no value"),
        ("[1,", "no JSON list"),
        ("7\n", "line 1: is 7, not an object"),
    ],
)
def test_mistakes_name_their_line(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("[", r"\[")):
        parse_dataset(text)

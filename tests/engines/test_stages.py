"""Stage times of requests: the same from a whole record and from the part of it that is looked at."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from ratematch.engines import find_engine
from ratematch.engines.trtllm_serve.stages import TimedRequest, read_breakdown

NAMES = ("arrival_time", "first_scheduled_time", "first_token_time", "last_token_time")
TRANSFER = ("kv_cache_transfer_start", "kv_cache_transfer_end")


def _server(rng: random.Random, at: float) -> dict[str, Any]:
    instants = {name: at + rng.random() for name in (*NAMES, *TRANSFER)}
    return {"server": "x", "perf_metrics": {"first_iter": None, "timing_metrics": instants, "kv_cache_metrics": {}}}


def _record(rng: random.Random, odd: float) -> dict[str, Any]:
    """A record as an orchestrator joins it; with probability ``odd`` a part is missing, null, or of another type."""
    record: dict[str, Any] = {
        "request_id": rng.randrange(2**63),
        "disagg_server_arrival_time": rng.choice([rng.random(), 7]),
        "ctx_perf_metrics": _server(rng, 1.0),
        "gen_perf_metrics": _server(rng, 2.0),
    }
    if rng.random() < odd:
        place: Any = record
        for name in rng.choice([(), ("ctx_perf_metrics",), ("gen_perf_metrics", "perf_metrics", "timing_metrics")]):
            place = place[name]
        name = rng.choice(sorted(place))
        place[name] = rng.choice([None, "text", "1.5", [], {}, 3, True])
        if rng.random() < 0.3:
            del place[name]
    return record


@pytest.mark.parametrize("odd", [0.0, 0.1, 0.9])
def test_a_part_of_a_record_gives_the_same_stages_as_all_of_it(odd: float) -> None:
    rng = random.Random(odd)
    fitting = 0
    for _ in range(60):
        records = [_record(rng, odd) for _ in range(rng.randint(0, 12))]
        lines = [msgspec.json.encode(record) for record in records]
        try:
            parts = [msgspec.json.decode(line, type=TimedRequest) for line in lines]
        except msgspec.ValidationError:  # then the whole records are read
            continue
        fitting += 1
        for skip in (0, 2):
            whole = read_breakdown(records, skip_first=skip, skip_last=skip)
            assert read_breakdown(parts, skip_first=skip, skip_last=skip) == whole
    assert fitting > 5


def test_the_engine_says_what_is_looked_at() -> None:
    assert find_engine("trtllm-serve").timed_request is TimedRequest
    assert read_breakdown([TimedRequest(), {}, {"ctx_perf_metrics": 5}], skip_first=0, skip_last=0) is None

"""What an engine's servers answer on their metrics addresses, read into figures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ratematch.engines import read_metrics
from ratematch.engines.trtllm_serve.metrics import read_iterations, read_samples


def iteration(queued: int = 0, active: int = 8, used: int = 50, hit: float = 0.0) -> dict[str, Any]:
    return {
        "iter": 1,
        "iterLatencyMS": 20.0,
        "numQueuedRequests": queued,
        "numActiveRequests": active,
        "kvCacheStats": {"usedNumBlocks": used, "maxNumBlocks": 100, "cacheHitRate": hit},
    }


def test_iterations_give_what_they_tell() -> None:
    drafts = {"specDecodingStats": {"acceptanceLength": 2.5}, "inflightBatchingStats": {"numPausedRequests": 1}}
    told = read_samples(json.dumps([iteration(queued=3) | drafts, {"iter": 2}]).encode())
    assert told is not None
    assert told[0] == {
        "queued": 3,
        "active": 8,
        "step_ms": 20.0,
        "kv_used": 50,
        "kv_max": 100,
        "cache_hit_rate": 0.0,
        "paused": 1,
        "acceptance_length": 2.5,
    }
    assert told[1] == {}


def test_both_readers_of_an_answer_agree() -> None:
    body = json.dumps([iteration(queued=3, active=7, used=49, hit=0.25)]).encode()
    (step,), (figures,) = read_iterations(body, 0), read_samples(body) or []
    assert (step.queued, step.active, step.step_ms) == (figures["queued"], figures["active"], figures["step_ms"])
    assert (step.kv_used_blocks, step.kv_max_blocks) == (figures["kv_used"], figures["kv_max"])
    assert step.cache_hit_rate == figures["cache_hit_rate"]


def test_an_answer_of_any_server_is_read_by_its_own_format() -> None:
    assert read_metrics(b" [" + json.dumps(iteration()).encode() + b"]")[0]["active"] == 8
    assert read_metrics(b"requests_total 4\n") == [{"requests_total": 4.0}]
    assert read_samples(b"requests_total 4\n") is None
    for broken in (b"[1, 2", b'[{"iterLatencyMS": 1}]'):
        with pytest.raises(ValueError):
            read_metrics(broken)

"""Prompts that are asked again and again, each sent once before the clock."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from ratematch.errors import UserError
from ratematch.loadgen.client import Target
from ratematch.loadgen.shards import LoadJob, prepare, read_job
from ratematch.loadgen.warming import count_distinct, expected_hits
from ratematch.plan.load import Concurrency, Rate
from ratematch.plan.workload import Workload

JOB = LoadJob(Target("http://127.0.0.1:1", "m"), Concurrency(4, 10, 3), Workload(64, 8), 32_000, seed=7, distinct=4)


def test_a_load_of_distinct_prompts_asks_them_in_turn_and_its_warm_up_too() -> None:
    source = JOB.source()
    requests, warmup = JOB.make_requests(source)
    sent = list(requests)
    prompts = [request.prompt.tobytes() for request in JOB.make_distinct(source)]
    assert len(set(prompts)) == 4
    assert [request.prompt.tobytes() for request in sent] == [prompts[k % 4] for k in range(10)]
    assert [request.seq for request in sent] == list(range(10)), "every request has a number of its own"
    assert [request.prompt.tobytes() for request in warmup] == prompts[:3]
    assert not {request.seq for request in warmup} & {request.seq for request in sent}


def test_a_load_that_lasts_for_a_time_never_runs_out_of_them() -> None:
    job = replace(JOB, load=Concurrency(4, 10, 3, seconds=1.0))
    source = job.source()
    requests, _ = job.make_requests(source)
    assert len({request.prompt.tobytes() for request in islice(requests, 100)}) == 4


def test_several_senders_share_the_same_prompts(tmp_path) -> None:  # type: ignore[no-untyped-def]
    prepare(tmp_path, JOB, 2)
    job, count = read_job(tmp_path)
    assert (job, count) == (JOB, 2)


def test_as_many_prompts_as_are_in_flight() -> None:
    assert count_distinct(Concurrency(128, 512, 8)) == 128
    with pytest.raises(UserError, match="closed loads only"):
        count_distinct(Rate(2.0, 100))


@pytest.mark.parametrize(
    ("lengths", "block", "share"),
    [
        ([2048], 16, 2032 / 2048),
        ([2048], 128, 1920 / 2048),
        ([2049], 128, 2048 / 2049),
        ([1024, 2048], 128, (896 + 1920) / 3072),
        ([8], 16, 0.0),
        ([0], 16, None),
        ([], 16, None),
    ],
)
def test_whole_blocks_are_hits_and_the_last_token_never_is(
    lengths: list[int], block: int, share: float | None
) -> None:
    assert expected_hits(lengths, block) == share


@pytest.mark.parametrize(
    ("isl", "block", "sent", "found"),
    [(2048, 128, 2049, 2048), (2048, 16, 2049, 2048), (2049, 128, 2049, 2048), (2060, 128, 2049, 2048)],
)
def test_warmed_prompts_end_with_one_token_in_a_new_block(isl: int, block: int, sent: int, found: int) -> None:
    """So that a server computes one token of each, as in service, and not a whole block."""
    job = replace(JOB, workload=Workload(isl, 8), block=block)
    prompts = job.make_distinct(job.source())
    assert {prompt.isl for prompt in prompts} == {sent}
    assert expected_hits([prompt.isl for prompt in prompts], block) == pytest.approx(found / sent)
    plain = replace(job, block=0).make_distinct(job.source())
    shared = min(isl, sent)
    assert all((a.prompt[:shared] == b.prompt[:shared]).all() for a, b in zip(prompts, plain, strict=True))


def test_prompts_that_would_change_by_much_stay_as_the_workload_has_them() -> None:
    job = replace(JOB, workload=Workload(2000, 8), block=128)  # 1,921 would be another workload
    assert {prompt.isl for prompt in job.make_distinct(job.source())} == {2000}

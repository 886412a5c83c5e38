"""Several senders: one schedule, every request once, one clock; and what happens when one of them is lost."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.errors import UserError
from ratematch.loadgen import LoadControl, Progress, Target
from ratematch.loadgen.schedule import Shard, take_part
from ratematch.loadgen.shards import HEADERS_ENV, LoadJob, count_processes, drive_in_processes, prepare
from ratematch.plan.load import Concurrency, Load, Rate, due_times_s
from ratematch.plan.workload import RequestSpec, Workload, make_requests

from .sse_server import Reply, answer_normally, serve


async def slow(reply: Reply) -> None:
    await answer_normally(reply, gap_s=0.005)


@given(
    number=st.integers(0, 60),
    count=st.integers(1, 5),
    turns=st.integers(1, 3),
    closed=st.booleans(),
    seed=st.integers(0, 9),
)
def test_shares_together_are_the_whole_schedule(number: int, count: int, turns: int, closed: bool, seed: int) -> None:
    load: Load = Concurrency(10, number) if closed else Rate(50.0, number)
    requests = make_requests(Workload(24, 4, turns=turns), number, 32000, seed)

    def encode(spec: RequestSpec) -> bytes:
        return b"%d" % spec.seq

    parts = [take_part(load, requests, encode, seed, Shard(k, count)) for k in range(count)]
    whole = take_part(load, requests, encode, seed, Shard(0, 1))
    chains = [list(part.chains) for part in parts]
    sent = sorted(spec.seq for some in chains for chain in some for spec, _ in chain)
    assert sent == list(range(number))
    assert all(int(body) == spec.seq for some in chains for chain in some for spec, body in chain)
    if closed:
        assert sum(len(part.slot_offsets_ns) for part in parts) <= 10
    else:
        assert sorted(due for part in parts for due in part.due_ns) == list(whole.due_ns)


def test_two_processes_send_one_schedule() -> None:
    load = Rate(200.0, 60)
    seen_progress: list[Progress] = []
    with serve(slow) as (url, seen):
        job = LoadJob(
            Target(url, "m", headers=(("Authorization", "Bearer sk-1234"),)), load, Workload(8, 4), 32000, 7
        )
        result = drive_in_processes(job, 2, LoadControl(on_progress=seen_progress.append))
    assert [record.seq for record in result.records] == list(range(60))
    assert {record.outcome for record in result.records} == {"ok"}
    due = [record.intended_ns - result.start_ns for record in result.records]
    assert np.abs(np.array(due) - due_times_s(load, 7) * 1e9).max() <= 1
    assert {headers["authorization"] for headers in seen.headers} == {"Bearer sk-1234"}
    assert result.health.processes == 2 and result.aborted is None and result.notes == ()
    assert seen_progress[-1].done == 60
    assert sum(len(progress.ended) for progress in seen_progress) == 60


def test_slots_and_warm_up_are_shared_out() -> None:
    with serve(slow) as (url, seen):
        job = LoadJob(Target(url, "m"), Concurrency(9, 36, warmup=9), Workload(8, 4), 32000)
        result = drive_in_processes(job, 2)
    assert (len(result.records), len(result.warmup)) == (36, 9)
    assert result.health.max_in_flight == 9 and seen.max_in_flight <= 9
    prompts = [tuple(body["prompt"]) for body in seen.bodies]
    assert len(set(prompts)) == 45


def test_a_lost_sender_ends_the_load_and_keeps_the_others_records() -> None:
    async def endless(reply: Reply) -> None:
        await answer_normally(reply, gap_s=0.05)

    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if progress.phase == "load" and progress.done >= 4 and not killed:
            killed.append(_senders_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    with serve(endless) as (url, _):
        job = LoadJob(Target(url, "m"), Concurrency(4, 400), Workload(8, 4), 32000)
        result = drive_in_processes(job, 2, LoadControl(on_progress=kill_one))
    assert result.aborted == "1 of 2 senders ended without a result"
    assert any(record.outcome == "ok" for record in result.records)
    assert _senders_of(os.getpid()) == []


def _senders_of(parent: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "ratematch.loadgen.shards" in line]


def test_stop_reaches_every_sender() -> None:
    stop = threading.Event()
    with serve(slow) as (url, _):
        job = LoadJob(Target(url, "m"), Concurrency(4, 100_000), Workload(8, 4), 32000)
        begun = time.monotonic()
        control = LoadControl(stop, on_progress=lambda progress: stop.set() if progress.done else None)
        result = drive_in_processes(job, 2, control)
    assert result.aborted == "stopped on request"
    assert 0 < len(result.records) < 100_000
    assert time.monotonic() - begun < 60


def test_what_keeps_a_sender_from_beginning_is_said() -> None:
    job = LoadJob(Target("http://127.0.0.1:9", "m"), Concurrency(2, 4), Workload(8, 4, file="/no/such/file"), 32000)
    with pytest.raises(UserError, match="/no/such/file"):
        drive_in_processes(job, 2)


def test_the_folder_holds_no_header(tmp_path: Path) -> None:
    target = Target("http://h", "m", headers=(("Authorization", "Bearer sk-1234"),), extra_body={"top_k": 1})
    prepare(tmp_path, LoadJob(target, Concurrency(2, 4), Workload(8, 4), 32000), 2)
    content = (tmp_path / "job.json").read_text()
    assert "sk-1234" not in content and json.loads(content)["target"]["extra_body"] == {"top_k": 1}
    assert HEADERS_ENV not in os.environ


@pytest.mark.parametrize(
    ("load", "cores", "count"),
    [
        (Concurrency(512, 1), 8, 1),
        (Concurrency(2048, 1), 8, 2),
        (Concurrency(2048, 1), 1, 1),
        (Concurrency(20_000, 1), 64, 20),
        (Rate(10.0, 1), 8, 1),
        (Rate(1000.0, 1), 8, 4),
    ],
)
def test_senders_are_chosen_by_streams_and_tokens(load: Load, cores: int, count: int) -> None:
    assert count_processes(load, Workload(1024, 128), cores) == count


def test_shards_of_endless_requests_do_not_overlap() -> None:
    def numbers(index: int) -> Sequence[int]:
        from ratematch.plan.workload import keep_making

        part = take_part(
            Concurrency(4, 8, seconds=1.0),
            keep_making(Workload(8, 4), 32000, 0),
            lambda spec: b"",
            0,
            Shard(index, 2),
        )
        return [next(part.chains)[0][0].seq for _ in range(50)]

    assert sorted([*numbers(0), *numbers(1)]) == list(range(100))

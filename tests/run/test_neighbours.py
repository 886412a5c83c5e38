"""Experiments on GPUs of one machine: what runs beside a load is known, and where cores are few they take turns."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.plan.cluster import Cluster
from ratematch.run.neighbours import KEPT, Presence, Stretch, describe_host, doing_now, starts_beside
from ratematch.run.stopping import Interrupted

LOCAL = Cluster("local", "h200", gpus_per_node=2, nodes=1)


def always(gpu: int) -> bool:
    return True


def never(others: Sequence[Stretch]) -> bool:
    raise AssertionError(f"waited for {others}")


def give_up(others: Sequence[Stretch]) -> bool:
    return True


def test_where_cores_are_few_a_start_and_a_measurement_wait_for_each_other(tmp_path: Path) -> None:
    one, two = (Presence(tmp_path, (gpu,), always, beside=False) for gpu in (0, 1))
    one.take_turn("starting", "a", never)
    two.take_turn("starting", "b", never)  # two starts disturb nobody
    with pytest.raises(Interrupted, match="while b waited for others on this machine"):
        two.take_turn("measuring", "b", give_up)
    # b waits and no longer starts, so a may go on: no two wait for each other.
    one.take_turn("measuring", "a", never)
    two.take_turn("measuring", "b", never)
    assert [(each.label, each.phase) for each in doing_now(tmp_path, always)] == [
        ("a", "measuring"),
        ("b", "measuring"),
    ]
    one.enter("ended", "")
    waited: list[str] = []

    def until_b_ends(others: Sequence[Stretch]) -> bool:
        waited.extend(other.label for other in others)
        two.enter("ended", "")
        return False

    one.take_turn("starting", "c", until_b_ends)
    assert waited == ["b"]


def test_where_they_suffice_nobody_waits_and_each_load_knows_what_ran_beside_it(tmp_path: Path) -> None:
    one, two = (Presence(tmp_path, (gpu,), always) for gpu in (0, 1))
    begin = time.time()
    one.take_turn("measuring", "a", never)
    two.take_turn("starting", "b", never)
    two.take_turn("measuring", "b", never)
    two.enter("measuring", "c")
    end = time.time()
    assert one.during(begin, end) == ("b on GPU 1: starting, measuring", "c on GPU 1: measuring")
    assert two.during(begin, end) == ("a on GPU 0: measuring",)
    assert one.during(begin - 9, begin - 8) == ()


def test_what_a_killed_process_left_is_over(tmp_path: Path) -> None:
    gone = Presence(tmp_path, (0,), always)
    gone.enter("starting", "a")
    with (tmp_path / "use-0.jsonl").open("a") as file:
        file.write('{"label": "half')
    beside = Presence(tmp_path, (1,), lambda gpu: gpu != 0, beside=False)
    time.sleep(0.01)
    beside.take_turn("measuring", "b", never)
    assert beside.others_now() == [] and beside.during(time.time(), time.time() + 1) == ()


def test_the_account_of_a_gpu_does_not_grow_for_ever(tmp_path: Path) -> None:
    line = json.dumps({"label": "x", "gpus": [0], "phase": "ended", "at": 1.0})
    (tmp_path / "use-0.jsonl").write_text(f"{line}\n" * (KEPT + 5))
    Presence(tmp_path, (0,), always)
    assert len((tmp_path / "use-0.jsonl").read_text().splitlines()) == KEPT // 2


@pytest.mark.parametrize(
    ("starts", "cpus", "beside", "why"),
    [
        ("auto", 32, True, "32 cores for 2 GPUs, at least 8 a GPU"),
        ("auto", 16, True, "16 cores for 2 GPUs, at least 8 a GPU"),
        ("auto", 15, False, "15 cores for 2 GPUs, fewer than 8 a GPU"),
        ("beside", 2, True, "starts: beside of cluster profile local"),
        ("apart", 64, False, "starts: apart of cluster profile local"),
    ],
)
def test_cores_decide_unless_the_profile_does(starts: str, cpus: int, beside: bool, why: str) -> None:
    assert starts_beside(replace(LOCAL, starts=starts), cpus) == (beside, why)  # type: ignore[arg-type]


def test_it_is_said_before_a_sweep_runs() -> None:
    text = describe_host(replace(LOCAL, starts="apart"))
    assert text.startswith(
        "as many experiments at a time as its 2 GPUs take; a start and a measurement wait for each"
    )

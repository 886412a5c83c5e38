"""How a job's end is classified, and which ends are worth another try."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ratematch.campaign.jobs.sent import classify_ending
from ratematch.engines import ENGINES, find_engine
from ratematch.run.failure import RETRIES, Failure, tries_left
from ratematch.slurm.queue import Ending
from ratematch.store.outcome import Outcome

LOGS = Path("job")


def outcome(**changes: Any) -> Outcome:
    return Outcome(ok=False, error="it broke", **changes)


@pytest.mark.parametrize(
    ("state", "outcomes", "kind"),
    [
        ("CANCELLED", [outcome(kind="ServerDied")], "cancelled"),
        ("TIMEOUT", [], "time limit"),
        ("NODE_FAIL", [], "node failure"),
        ("PREEMPTED", [], "preempted"),
        ("COMPLETED", [outcome(interrupted=True, signal="SIGUSR2")], "time limit"),
        ("COMPLETED", [outcome(interrupted=True, signal="SIGTERM")], "preempted"),
        ("COMPLETED", [outcome(kind="ServerDied")], "server died"),
        ("COMPLETED", [outcome(kind="Stalled")], "server hung"),
        ("COMPLETED", [outcome(kind="NotReady")], "not ready"),
        ("COMPLETED", [outcome(kind="DiskFull")], "disk full"),
        ("FAILED", [], "driver ended"),
        (None, [], "driver ended"),
        (None, [outcome(kind="PortInUse")], "port in use"),
    ],
)
def test_the_class_of_an_end(state: str | None, outcomes: list[Outcome], kind: str) -> None:
    assert classify_ending("7", Ending(state), outcomes, LOGS).kind == kind


@pytest.mark.parametrize("kind", RETRIES)
def test_every_class_is_tried_a_bounded_number_of_times(kind: Any) -> None:
    earlier: list[Failure] = []
    failure = Failure(kind, "why", progress=1)
    while tries_left(failure, earlier):
        earlier.append(failure)
        assert len(earlier) <= 10
    assert len(earlier) == RETRIES[failure.kind]


def test_a_time_limit_without_progress_is_met_twice_and_not_a_third_time() -> None:
    failure = Failure("time limit", "met its time limit", progress=0)
    assert tries_left(failure, []) > 0
    assert tries_left(failure, [failure]) == 0


def test_what_a_new_start_would_meet_again_is_not_started_again() -> None:
    assert tries_left(Failure("server died", "agg-0 ended: insufficient GPU memory for the KV cache"), []) == 0
    assert tries_left(Failure("server died", "agg-0 was killed by SIGKILL"), []) == 1


@pytest.mark.parametrize(
    ("line", "tries"),
    [
        ("ValueError: Unknown architecture for AutoModelForCausalLM: DeepseekV9ForCausalLM", 0),
        ("OSError: You are trying to access a gated repo.", 0),
        ("OSError: [Errno 28] No space left on device", 0),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", 1),
        ("slurmstepd: error: *** STEP 7.0 ON n0 CANCELLED AT 2026-10-14T04:00:00 DUE TO NODE FAILURE ***", 1),
    ],
)
def test_the_cause_in_the_log_says_whether_a_new_start_would_meet_it_again(line: str, tries: int) -> None:
    for engine in ENGINES:
        known = find_engine(engine).diagnose([line])
        assert tries_left(Failure("server died", f"agg-0 ended with exit code 1: {known}"), []) == tries

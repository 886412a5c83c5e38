"""The wall clock against the monotonic one, also when somebody sets the former."""

import time

import pytest

from ratematch.loadgen import clocks


def test_the_offset_turns_wall_instants_into_monotonic_ones() -> None:
    clock = clocks.KernelClock()
    offset_ns = clock.offset_ns()
    assert offset_ns is not None
    before = time.monotonic_ns()
    wall = time.time_ns()
    after = time.monotonic_ns()
    assert before - 50_000 <= wall - offset_ns <= after + 50_000


def test_a_wall_clock_that_is_set_is_noticed_once_and_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = clocks.KernelClock()
    before_set = clock.offset_ns()
    monkeypatch.setattr(clocks, "time_ns", lambda: time.time_ns() - 3_000_000_000)
    assert clock.offset_ns() is None, "what arrived meanwhile may bear the old time or the new one"
    after = clock.offset_ns()
    assert before_set is not None and after is not None
    assert abs(before_set - after - 3_000_000_000) < 1_000_000

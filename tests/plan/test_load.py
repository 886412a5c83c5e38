"""Schedules: the right rate, the right process, and the same instants for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.plan.experiment import load_from_json, load_to_json
from ratematch.plan.load import Arrival, Concurrency, Load, Rate, Trace, due_times_s

ARRIVALS: tuple[Arrival, ...] = ("poisson", "constant", "gamma")


@given(
    arrival=st.sampled_from(ARRIVALS),
    req_s=st.floats(0.1, 1000),
    number=st.integers(1, 300),
    burstiness=st.floats(0.05, 20),
    end=st.one_of(st.just(0.0), st.floats(0.1, 1000)),
    seed=st.integers(0, 2**31),
)
def test_instants_ascend_from_zero_and_repeat_bit_for_bit(
    arrival: Arrival, req_s: float, number: int, burstiness: float, end: float, seed: int
) -> None:
    load = Rate(req_s, number, arrival, burstiness=burstiness, end_req_s=end)
    due = due_times_s(load, seed)
    assert due.shape == (number,) and due[0] == 0.0
    assert (np.diff(due) >= 0).all() and np.isfinite(due).all()
    assert due.tobytes() == due_times_s(load, seed).tobytes()


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_gaps_have_the_mean_and_the_spread_of_the_load(burstiness: float) -> None:
    gaps = np.diff(due_times_s(Rate(20.0, 40_000, "gamma", burstiness=burstiness), 3))
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(1 / np.sqrt(burstiness), rel=0.05)


def test_gamma_of_shape_one_is_poisson() -> None:
    gaps = np.sort(np.diff(due_times_s(Rate(1.0, 20_000, "gamma"), 1)))
    expected = -np.log1p(-(np.arange(gaps.size) + 0.5) / gaps.size)
    assert np.abs(np.cumsum(gaps) / gaps.size - np.cumsum(expected) / gaps.size).max() < 0.05


@given(first=st.floats(1, 50), last=st.floats(1, 50), number=st.integers(20, 400))
def test_a_ramp_follows_its_rate(first: float, last: float, number: int) -> None:
    due = due_times_s(Rate(first, number, "constant", end_req_s=last), 0)
    seconds = 2 * number / (first + last)
    arrived = first * due + (last - first) / (2 * seconds) * due**2
    assert arrived == pytest.approx(np.arange(number), abs=1e-6 * number)


@pytest.mark.parametrize(
    ("load", "label"),
    [
        (Concurrency(4, 40), "c4-n40"),
        (Concurrency(4, 40, 2, 1), "c4-n40-w2-r1"),
        (Concurrency(4, 40, seconds=60, stagger_s=2, target_ci=0.02), "c4-t60s-stagger2s"),
        (Rate(0.5, 60), "poisson0.5-n60"),
        (Rate(2, 60, "gamma", burstiness=0.5, end_req_s=8, max_in_flight=32), "gamma0.5-2to8-n60-m32"),
        (Trace(100, 2.0), "trace2x-n100"),
    ],
)
def test_labels_name_what_differs_and_loads_survive_json(load: Load, label: str) -> None:
    assert load.label == label
    assert load_from_json(load_to_json(load)) == load


def test_loads_stored_before_a_key_existed_are_read() -> None:
    old = {"kind": "rate", "req_s": 2.0, "num_requests": 9, "arrival": "poisson", "warmup": 1, "repeat": 0}
    assert load_from_json(old) == Rate(2.0, 9, "poisson", 1)

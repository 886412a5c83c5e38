"""Requests and schedules: exact lengths, nothing shared, reproducible."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ratematch.plan.load import Rate, due_times_s
from ratematch.plan.workload import Workload, make_requests


@given(isl=st.integers(1, 64), osl=st.integers(1, 64), ratio=st.floats(0.05, 1.0), seed=st.integers(0, 2**31))
def test_lengths_are_exact_and_the_seed_decides(isl: int, osl: int, ratio: float, seed: int) -> None:
    workload = Workload(isl, osl, ratio)
    first, second = (make_requests(workload, 20, 1000, seed) for _ in range(2))
    for one, same in zip(first, second, strict=True):
        assert one.prompt.shape == (isl,)
        assert workload.osl_min <= one.osl <= osl
        assert one.prompt.min() >= 0 and one.prompt.max() < 1000
        assert np.array_equal(one.prompt, same.prompt) and one.osl == same.osl


def test_no_two_prompts_begin_alike() -> None:
    load = make_requests(Workload(32, 4), 3000, 1000, seed=1)
    warmup = make_requests(Workload(32, 4), 300, 1000, seed=2, first_seq=3000)
    heads = {tuple(request.prompt[:3].tolist()) for request in [*load, *warmup]}
    assert len(heads) == 3300


def test_mean_output_length_is_the_middle_of_the_range() -> None:
    workload = Workload(8, 100, 0.5)
    lengths = [request.osl for request in make_requests(workload, 20000, 1000, seed=3)]
    assert workload.mean_osl == 75
    assert abs(np.mean(lengths) - 75) < 0.5
    assert {min(lengths), max(lengths)} == {50, 100}


def test_constant_arrivals_have_equal_gaps_and_poisson_ones_do_not() -> None:
    constant = due_times_s(Rate(4.0, 9, "constant"), seed=0)
    assert np.allclose(constant, np.arange(9) / 4)
    poisson = due_times_s(Rate(4.0, 20000, "poisson"), seed=0)
    gaps = np.diff(poisson)
    assert poisson[0] == 0
    assert abs(gaps.mean() - 0.25) < 0.01
    assert abs(gaps.std() - 0.25) < 0.01, "exponential gaps have equal mean and deviation"
    assert np.array_equal(poisson, due_times_s(Rate(4.0, 20000, "poisson"), seed=0))
    assert not np.array_equal(poisson, due_times_s(Rate(4.0, 20000, "poisson"), seed=1))

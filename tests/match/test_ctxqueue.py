"""The queue in front of ctx servers, held to prompts that are simulated one by one."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.match.ctxqueue import LOADS, CtxSteps, find_arrivals, read_steps, solve_queue
from ratematch.match.curves import make_curve

AROUND_S = 0.02
STEPS = {
    "one prompt a step": CtxSteps((0.25,), AROUND_S),
    "ranks": CtxSteps((0.3, 0.35, 0.41, 0.47), AROUND_S),
    "stairs": CtxSteps((0.08, 0.08, 0.085, 0.09, 0.11, 0.12, 0.13, 0.145), AROUND_S),
}
each_server = pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)


class Server:
    """Takes what waits, a full step at most, into its next step. ``done``: (instant, request) of what has ended."""

    def __init__(self, steps: CtxSteps):
        self.steps = steps
        self.waiting: deque[int] = deque()
        self.step: list[int] = []

    def begin(self) -> float | None:
        """How long the next step takes; ``None`` where nobody waits or one is under way."""
        if self.step or not self.waiting:
            return None
        most = min(len(self.waiting), len(self.steps.seconds))
        self.step = [self.waiting.popleft() for _ in range(most)]
        return self.steps.seconds[most - 1]


def serve(
    steps: CtxSteps, servers: int, first: Sequence[float], again: Sequence[float] = (), num: int = 0
) -> np.ndarray:
    """TTFT of requests that come at ``first``, to the servers in turn. ``again``: after how long each comes again, up
    to ``num`` requests in all; empty: not at all."""
    pool = [Server(steps) for _ in range(servers)]
    came = list(first)
    events: list[tuple[float, int, int, int]] = [(at, 1, k, 0) for k, at in enumerate(first)]
    heapq.heapify(events)
    ttft: dict[int, float] = {}
    turn = 0
    while events:
        now, arrives, which, slot = heapq.heappop(events)
        if arrives:
            server = pool[turn % servers]
            turn += 1
            server.waiting.append(which)
        else:
            server = pool[slot]
            for request in server.step:
                ttft[request] = now + steps.around_s - came[request]
                if len(again) and len(came) < num:
                    came.append(now + steps.around_s + again[len(came) % len(again)])
                    heapq.heappush(events, (came[-1], 1, len(came) - 1, 0))
            server.step = []
        took = server.begin()
        if took is not None:
            heapq.heappush(events, (now + took, 0, 0, pool.index(server)))
    return np.array([ttft[k] for k in sorted(ttft)])


def poisson(rate: float, num: int) -> list[float]:
    return np.cumsum(np.random.default_rng(5).exponential(1 / rate, num)).tolist()


@each_server
@pytest.mark.parametrize("load", [0.1, 0.4, 0.75])
@pytest.mark.parametrize("servers", [1, 2])
def test_arrivals_take_what_a_simulation_of_each_says(steps: CtxSteps, load: float, servers: int) -> None:
    rate = load * steps.max_rate
    seen = serve(steps, servers, poisson(rate * servers, 20_000))[1000:]
    found = find_arrivals(steps, rate, servers)
    assert found.mean_s + AROUND_S == pytest.approx(seen.mean(), rel=0.04)
    for percentile in (50, 90, 99):
        assert found.at(percentile / 100) + AROUND_S == pytest.approx(np.percentile(seen, percentile), rel=0.1)


@each_server
def test_three_in_turn_lie_on_the_line_through_one_and_two(steps: CtxSteps) -> None:
    queue = solve_queue(steps, "mean")
    for load in (0.3, 0.8):
        rate = load * steps.max_rate * 3
        seen = serve(steps, 3, poisson(rate, 12_000))[1000:]
        found = queue.ttft_s(np.array([rate]), np.array([3.0]), np.array([1e9]))[0]
        assert found == pytest.approx(seen.mean(), rel=0.06)


@each_server
@pytest.mark.parametrize(("requests", "life"), [(30, 24.0), (120, 24.0), (400, 40.0)])
def test_few_requests_wait_less_than_many_would(steps: CtxSteps, requests: int, life: float) -> None:
    """Each comes again ``life`` after it was answered, a tenth more or less: never more of them than there are."""
    rng = np.random.default_rng(3)
    again = life * rng.uniform(0.9, 1.1, 4999)
    first = (life * np.arange(requests) / requests).tolist()
    ttft = serve(steps, 2, first, again.tolist(), num=40 * requests)[5 * requests :]
    rate = requests / (life + ttft.mean())
    load = rate / 2 / steps.max_rate
    if load > 0.85:  # what a server cannot take at once comes back as evenly as it left: less wait than predicted
        return
    queue = solve_queue(steps, "mean")
    few, many = queue.ttft_s(np.full(2, rate), np.full(2, 2.0), np.array([requests, 1e9]))
    assert few == pytest.approx(ttft.mean(), rel=0.08)
    assert few <= many


def alone(steps: CtxSteps, in_flight: int) -> tuple[float, float]:
    """(prompts in flight, requests/s) of one server that is measured alone: a request is sent when one ends."""
    num = 200 * in_flight
    ttft = serve(steps, 1, [1e-4 * k for k in range(in_flight)], [1e-4], num=num)[num // 10 :]
    return float(in_flight), in_flight / (ttft.mean() + 1e-4)


@each_server
def test_steps_are_read_from_a_server_measured_alone(steps: CtxSteps) -> None:
    full = len(steps.seconds)
    loads = sorted({1, 2, 4, 2 * full, 4 * full, *(2**k for k in range(5) if 2**k < 2 * full)})
    found = read_steps(make_curve([alone(steps, n) for n in loads]))
    assert found is not None
    assert len(found.seconds) == full
    assert found.seconds == pytest.approx(steps.seconds, rel=0.08)  # on lines between what was measured
    assert found.around_s == pytest.approx(AROUND_S, abs=0.001)
    assert found.max_rate == pytest.approx(steps.max_rate, rel=0.01)


def test_one_load_tells_nothing_of_the_queue() -> None:
    assert read_steps(make_curve([(4.0, 10.0)])) is None


@each_server
def test_ttft_grows_with_the_rate_from_that_of_a_prompt_alone(steps: CtxSteps) -> None:
    queue = solve_queue(steps, "mean")
    rates = np.linspace(1e-6, 1.0, 400) * steps.max_rate
    for servers, requests in ((1, 1e9), (1, 50), (4, 400), (12, 1e9)):
        ttft = queue.ttft_s(rates * servers, np.full(400, float(servers)), np.full(400, float(requests)))
        assert ttft[0] == pytest.approx(steps.seconds[0] + AROUND_S, rel=0.02)
        assert np.all(np.diff(ttft) >= -1e-9)
        assert np.all(np.isfinite(ttft))
    one_request = queue.ttft_s(rates, np.ones(400), np.ones(400))
    assert one_request == pytest.approx(steps.seconds[0] + AROUND_S, rel=0.02)


@each_server
def test_more_servers_and_fewer_requests_wait_less(steps: CtxSteps) -> None:
    queue = solve_queue(steps, "mean")
    for load in LOADS:
        rate = load * steps.max_rate
        servers = np.array([1.0, 2.0, 3.0, 8.0])
        assert np.all(np.diff(queue.ttft_s(rate * servers, servers, np.full(4, 1e6))) <= 1e-9)
        requests = np.array([10.0, 30.0, 100.0, 1e4])
        assert np.all(np.diff(queue.ttft_s(np.full(4, rate), np.ones(4), requests)) >= -1e-9)


def test_one_prompt_a_step_is_the_known_queue() -> None:
    """M/D/1: mean wait S load / (2 (1 - load))."""
    steps = STEPS["one prompt a step"]
    for load in (0.2, 0.6, 0.9):
        wait_s = 0.25 * load / (2 * (1 - load))
        assert find_arrivals(steps, load / 0.25, 1).mean_s == pytest.approx(0.25 + wait_s, rel=0.01)


def test_percentiles_are_in_order() -> None:
    queues = [solve_queue(STEPS["ranks"], percentile) for percentile in (50, 90, 99)]
    rates, one, many = LOADS * STEPS["ranks"].max_rate, np.ones(LOADS.size), np.full(LOADS.size, 1e6)
    ttft = np.array([queue.ttft_s(rates, one, many) for queue in queues])
    assert np.all(np.diff(ttft, axis=0) >= 0)


def test_steps_of_hundreds_of_prompts_are_looked_at_in_groups() -> None:
    steps = CtxSteps(tuple(0.05 + 0.0008 * k for k in range(300)), AROUND_S)
    queue = solve_queue(steps, "mean")
    for load in (0.2, 0.7):
        rate = load * steps.max_rate
        seen = serve(steps, 1, poisson(rate, 10_000))[1000:]
        found = queue.ttft_s(np.array([rate]), np.ones(1), np.array([1e9]))[0]
        assert found == pytest.approx(seen.mean(), rel=0.12)


@given(st.lists(st.floats(0.01, 2.0), min_size=2, max_size=5), st.floats(0.5, 50.0))
@settings(deadline=None, max_examples=10)
def test_any_measured_server_has_a_queue_that_grows_with_the_rate(rises: list[float], first: float) -> None:
    """Rates that stand still or jump with the load too: what is noise of a measurement."""
    rates = first * np.cumsum([1.0, *rises])
    steps = read_steps(make_curve([(float(2**k), float(rate)) for k, rate in enumerate(rates)]))
    assert steps is not None
    assert all(0 < a <= b for a, b in pairwise(steps.seconds)) or len(steps.seconds) == 1
    queue = solve_queue(steps, "mean")
    at = np.linspace(0.01, 1.0, 50) * steps.max_rate
    ttft = queue.ttft_s(at, np.ones(50), np.full(50, 200.0))
    assert np.all(np.isfinite(ttft))
    assert np.all(np.diff(ttft) >= -0.02 * ttft[:-1])
    assert np.all(ttft >= steps.alone_s * (1 - 1e-9))

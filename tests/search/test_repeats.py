"""Longer runs: only for loads that what is on the front depends on, until their interval is narrow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratematch.plan.load import Concurrency
from ratematch.search.candidates import Candidate, Rate, Space
from ratematch.search.repeats import MAX_RUNS, KnownLoad, LongerRunOffer, find_longer_run, pool
from ratematch.search.space import lengthen, shorten
from ratematch.search.view import View
from tests.search.invented import ctx, gen, measure, space
from tests.support.invented import FIGURES

FEEDER = ctx("ctx-a", "ctx DEP", 4, 100.0)
RIVALS = (gen("gen-one", "gen DEP", 8), gen("gen-other", "gen TEP", 8, base_s=0.01005))
SHORT = KnownLoad(0.05, 1, 60)
LOAD_H = 0.002
"""What is known for sure of servers that are nearly alike is worth little, so it must cost little."""


def find(
    known: dict[str, dict[int, Rate]],
    measured: dict[int, KnownLoad],
    *,
    of: Space,
    each: Candidate = RIVALS[0],
    hours: float | None = None,
) -> LongerRunOffer | None:
    requests = dict.fromkeys(each.forecasts, (100, 100))
    targets = dict.fromkeys(each.forecasts, 0.02)
    return find_longer_run(View(of, known, {}), of.find(each.id), measured, requests, hours, targets)


@pytest.fixture
def close() -> tuple[Space, dict[str, dict[int, Rate]]]:
    """Two servers that are nearly alike at every load, and all of it measured."""
    of = replace(space(load_h=LOAD_H), candidates=(FEEDER, *RIVALS))
    return of, {each.id: measure(each, tuple(each.forecasts)) for each in (FEEDER, *RIVALS)}


def test_a_load_that_decides_which_server_leads_is_measured_for_longer(close) -> None:  # type: ignore[no-untyped-def]
    of, known = close
    longer = find(known, dict.fromkeys(RIVALS[0].forecasts, SHORT), of=of)
    assert longer is not None
    assert longer.gain > 0
    assert longer.gpu_hours == pytest.approx(8 * LOAD_H)
    assert "±5.0%" in longer.why


def test_a_narrow_interval_needs_no_longer_run(close) -> None:  # type: ignore[no-untyped-def]
    of, known = close
    loads = tuple(RIVALS[0].forecasts)
    assert find(known, dict.fromkeys(loads, KnownLoad(0.015, 1, 60)), of=of) is None
    # Of several, the one that is not narrow.
    mixed = dict.fromkeys(loads, KnownLoad(0.015, 1, 60)) | {loads[-1]: SHORT}
    longer = find(known, mixed, of=of)
    assert longer is not None
    assert longer.load == loads[-1]
    # Nor one that was measured so often already.
    assert find(known, mixed | {loads[-1]: replace(SHORT, runs=MAX_RUNS)}, of=of) is None


def test_a_load_too_short_to_tell_is_measured_for_longer_once(close) -> None:  # type: ignore[no-untyped-def]
    of, known = close
    load = tuple(RIVALS[0].forecasts)[-1]
    longer = find(known, {load: KnownLoad(None, 1, 60)}, of=of)
    assert longer is not None
    assert "not told" in longer.why
    assert find(known, {load: KnownLoad(None, 2, 160)}, of=of) is None


def test_a_server_that_leads_by_far_in_the_only_ratio_there_is_stays_short() -> None:
    slow = gen("gen-slow", "gen TEP", 8, base_s=0.05, per_request_s=5e-4)
    of = replace(space(max_gpus=12), candidates=(FEEDER, RIVALS[0], slow))
    known = {each.id: measure(each, tuple(each.forecasts)) for each in of.candidates}
    assert find(known, dict.fromkeys(RIVALS[0].forecasts, SHORT), of=of) is None
    # Neither does the server that is beaten everywhere.
    assert find(known, dict.fromkeys(slow.forecasts, SHORT), of=of, each=slow) is None


def test_a_ctx_server_whose_rate_decides_the_ratio_is_measured_for_longer() -> None:
    feeder = ctx("ctx-a", "ctx DEP", 4, 10.0)
    of = replace(space(load_h=LOAD_H), candidates=(feeder, *RIVALS))
    known = {each.id: measure(each, tuple(each.forecasts)) for each in of.candidates}
    longer = find(known, dict.fromkeys(feeder.forecasts, SHORT), of=of, each=feeder)
    assert longer is not None
    best = max(known["ctx-a"].values(), key=lambda rate: rate.req_s)
    assert known["ctx-a"][longer.load].req_s == pytest.approx(best.req_s)


def test_a_longer_run_must_fit_and_be_worth_its_hours(close) -> None:  # type: ignore[no-untyped-def]
    of, known = close
    wide = dict.fromkeys(RIVALS[0].forecasts, SHORT)
    assert find(known, wide, of=of, hours=4 * LOAD_H) is None
    dear = replace(of, least_price=50.0)
    assert find(known, wide, of=dear) is None
    assert find(known, wide, of=of) == find(known, wide, of=of)


def test_intervals_of_runs_are_pooled_as_their_mean_is() -> None:
    run = replace(FIGURES, valid=True, tok_s_ci=0.3, ttft_ci=0.04, num_requests=60)
    assert pool([run]) == KnownLoad(0.04, 1, 60)
    both = pool([run, replace(run, ttft_ci=0.03, num_requests=100)])
    assert both.interval == pytest.approx((0.04**2 + 0.03**2) ** 0.5 / 2)
    assert (both.runs, both.requests) == (2, 160)
    no_interval = replace(run, ttft_ci=None)
    assert pool([no_interval]).interval is None
    assert pool([no_interval, run]).interval == pytest.approx(0.04 / 2**0.5)
    # One that is not valid is in no mean, and was measured all the same.
    assert pool([run, replace(run, valid=False)]) == KnownLoad(0.04, 2, 60)


def test_longer_runs_never_take_the_name_of_another() -> None:
    for load in (Concurrency(4, 100, 1), Concurrency(64, 128, 16), Concurrency(8, 100, 2, seconds=60.0)):
        names = [shorten(load).label]
        for _ in range(3):
            names.append(lengthen(load, names).label)
        assert len(set(names)) == 4
        assert lengthen(load).num_requests >= max(load.num_requests, 6 * load.concurrency)
    # What a grid would ask for is measured, and not again by a grid that goes on from here; nor after a grid.
    grid = Concurrency(4, 100, 1)
    assert lengthen(grid) == grid
    assert lengthen(grid, {grid.label}) == replace(grid, repeat=1)

"""One sweep against another: equal fronts are equal, a sunk front is a regression, noise is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratematch.match.change import find_changes, pair_draws
from ratematch.match.points import Analysis, Point, WorkloadAnalysis
from tests.show.invented import make_analysis, make_few, make_many

MANY = make_many()


def sink(points: tuple[Point, ...], factor: float) -> tuple[Point, ...]:
    """The same front with ``factor`` times the rate: tok/s/user and tok/s/GPU both move with it."""
    return tuple(
        replace(p, tok_s_user=p.tok_s_user * factor, tok_s_gpu=p.tok_s_gpu * factor, tpot_ms=p.tpot_ms / factor)
        for p in points
    )


def noisy(workload: WorkloadAnalysis, rel: float) -> WorkloadAnalysis:
    """With 40 draws of the end-to-end front, spread evenly ``rel`` to both sides."""
    steps = [1 + rel * (2 * k / 39 - 1) for k in range(40)]
    drawn = tuple(tuple((p.tok_s_user, p.tok_s_gpu * step) for p in workload.end_to_end) for step in steps)
    return replace(workload, drawn=(("end_to_end", drawn),))


def lower(workload: WorkloadAnalysis, factor: float) -> WorkloadAnalysis:
    return replace(
        workload, end_to_end=tuple(replace(p, tok_s_gpu=p.tok_s_gpu * factor) for p in workload.end_to_end)
    )


def analysed(*workloads: WorkloadAnalysis) -> Analysis:
    return make_analysis(*workloads)


def test_a_sweep_against_itself_is_all_ones() -> None:
    change = find_changes(analysed(MANY), analysed(MANY))
    assert change.regressions == () and {front.kind for front in change.fronts} == {
        "end_to_end",
        "rate_matched",
        "ifb",
    }
    for front in change.fronts:
        assert all(row.step == row.linear == pytest.approx(1.0) for row in front.speedups)
        assert all(ratio.value == 1.0 for ratio in front.ends)
        assert front.whole is not None and front.whole.hypervolume_ratio == pytest.approx(1.0)


@pytest.mark.parametrize(("factor", "regressed"), [(0.98, False), (0.96, True), (1.2, False)])
def test_what_loses_more_than_allowed_is_a_regression(factor: float, regressed: bool) -> None:
    change = find_changes(analysed(MANY), analysed(lower(MANY, factor)), max_regression=0.03)
    assert bool(change.regressions) is regressed
    if regressed:
        assert "end-to-end front" in change.regressions[0] and "0.960 of before" in change.regressions[0]


def test_a_loss_that_the_noise_explains_is_told_and_is_none() -> None:
    before, after = noisy(MANY, 0.1), noisy(lower(MANY, 0.95), 0.1)
    (front,) = [f for f in find_changes(analysed(before), analysed(after)).fronts if f.kind == "end_to_end"]
    assert front.regressions == () and front.within_noise
    before, after = noisy(MANY, 0.005), noisy(lower(MANY, 0.95), 0.005)
    (front,) = [f for f in find_changes(analysed(before), analysed(after)).fronts if f.kind == "end_to_end"]
    assert front.regressions and all("95 %" in text for text in front.regressions)


def test_draws_of_two_sweeps_are_independent_though_their_seeds_are_one() -> None:
    pairs = pair_draws(noisy(MANY, 0.1), noisy(MANY, 0.1), "end_to_end")
    equal = sum(a == b for a, b in pairs)
    assert len(pairs) == 40 and equal < 5


def test_speed_lost_at_equal_throughput_is_a_regression_too() -> None:
    change = find_changes(analysed(MANY), analysed(replace(MANY, ifb=sink(MANY.ifb, 0.9))))
    assert any("IFB front, most tok/s/user: 0.900" in text for text in change.regressions)


def test_a_front_that_is_gone_and_workloads_without_counterpart_are_told() -> None:
    change = find_changes(analysed(MANY, make_few()), analysed(replace(MANY, end_to_end=())))
    assert any("the end-to-end front is gone" in text for text in change.regressions)
    assert change.only_before == ("8192/1024",) and change.only_after == ()
    new = find_changes(analysed(replace(MANY, end_to_end=())), analysed(MANY))
    assert new.regressions == ()

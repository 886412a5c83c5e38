from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.match.compare import compare_fronts
from ratematch.match.pareto import (
    extract_front,
    find_overlap,
    hypervolume,
    interactivity_at,
    linear_at,
    log_grid,
    not_beaten,
    overlap_area_ratio,
    speed_up,
    step_at,
)

Rows = list[tuple[float, float]]
values = st.integers(1, 12).map(float)
tables = st.lists(st.tuples(values, values), min_size=1, max_size=25)


def itself(row: tuple[float, float]) -> tuple[float, float]:
    return row


@given(tables, st.integers(0, 1000))
def test_a_front_holds_exactly_the_undominated_rows_whatever_their_order(rows: Rows, seed: int) -> None:
    front = extract_front(rows, itself)
    undominated = {(u, p) for u, p in rows if not any(a >= u and b >= p and (a, b) != (u, p) for a, b in rows)}
    assert set(front) == undominated
    assert len(front) == len(undominated)
    assert list(front) == sorted(front)
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    assert extract_front(shuffled, itself) == front


@given(st.permutations([("b", 8), ("a", 8), ("c", 4)]))
def test_of_equal_rows_the_preferred_one_stays(rows: list[tuple[str, int]]) -> None:
    assert extract_front(rows, lambda row: (1.0, 2.0), prefer=lambda row: (row[1], row[0])) == (("c", 4),)


@given(tables, values)
def test_the_step_front_is_what_some_row_achieves(rows: Rows, u: float) -> None:
    reached = [p for row_u, p in rows if row_u >= u]
    assert step_at(extract_front(rows, itself), u) == (max(reached) if reached else None)


@given(tables, tables)
def test_speed_up_is_given_on_the_overlap_only(a_rows: Rows, b_rows: Rows) -> None:
    a, b = extract_front(a_rows, itself), extract_front(b_rows, itself)
    overlap = find_overlap(a, b)
    for u in (0.5, *range(1, 13), 12.5):
        step, linear = speed_up(a, b, u)
        inside = overlap is not None and overlap[0] <= u <= overlap[1]
        assert (step is not None) == (linear is not None) == inside


@given(tables, tables)
def test_hypervolume_never_shrinks_with_more_rows(rows: Rows, more: Rows) -> None:
    assert hypervolume(extract_front(rows + more, itself)) >= hypervolume(extract_front(rows, itself))


def test_one_point_and_none() -> None:
    assert extract_front([], itself) == ()
    assert step_at((), 1.0) is None
    assert linear_at((), 1.0) is None
    assert linear_at([(5.0, 7.0)], 5.0) == 7.0
    assert speed_up([(5.0, 8.0)], [(5.0, 4.0)], 5.0) == (2.0, 2.0)
    assert speed_up([], [(5.0, 4.0)], 5.0) == (None, None)
    assert overlap_area_ratio([(5.0, 8.0)], [(5.0, 4.0)]) is None
    assert hypervolume([]) == 0


def test_the_dual_reads_interactivity() -> None:
    front = [(20.0, 800.0), (60.0, 600.0), (100.0, 200.0)]
    assert interactivity_at(front, 600) == 60
    assert interactivity_at(front, 601) == 20
    assert interactivity_at(front, 900) is None


def test_hypervolume_against_a_reference() -> None:
    assert hypervolume([(2.0, 4.0), (3.0, 2.0)], (1.0, 1.0)) == pytest.approx(1 * 3 + 1 * 1)


def test_a_grid_stays_inside_its_range() -> None:
    grid = log_grid(3.3, 77.7, 9)
    assert (grid[0], grid[-1], len(grid)) == (3.3, 77.7, 9)
    assert list(log_grid(2.0, 2.0, 9)) == [2.0]


points = st.floats(1.0, 1000.0)


@given(
    st.lists(st.tuples(points, points), min_size=1, max_size=30),
    st.lists(st.tuples(points, points), min_size=1, max_size=9),
)
def test_a_front_is_read_as_all_of_its_points_say(
    rows: list[tuple[float, float]], others: list[tuple[float, float]]
) -> None:
    a, b = (extract_front(each, itself) for each in (rows, others))
    assert extract_front([rows[k] for k in not_beaten(rows)], itself) == a
    us, ps = zip(*a, strict=True)
    for at in {*us, *ps, *(u for u, _ in b), *(p for _, p in b)}:
        assert interactivity_at(a, at) == max((u for u, p in a if p >= at), default=None)
        assert step_at(a, at) == max((p for u, p in a if u >= at), default=None)
        assert linear_at(a, at) == (float(np.interp(at, us, ps)) if us[0] <= at <= us[-1] else None)
    speedups = compare_fronts("rate_matched", a, b)
    overlap = find_overlap(a, b)
    if overlap is None:
        assert not speedups
        return
    everywhere = [(linear, u) for u, _ in (*a, *b) if (linear := speed_up(a, b, u)[1]) is not None]
    for worst, of in ((min(everywhere), min), (max(everywhere), max)):
        assert of(row.linear for row in speedups if row.linear is not None) == pytest.approx(worst[0])

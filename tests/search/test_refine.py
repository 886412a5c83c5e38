"""A load is added where a measured front has a step at a speed that is to be chosen at, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.campaign.refine import MOST_ADDED, Refining
from ratematch.campaign.turn import Turn
from ratematch.inputs.find import read_sweep
from ratematch.measure.measured import Measured
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Rate
from ratematch.plan.sweep import E2ePlan, Sweep
from ratematch.search.refine import CLOSE, FALL, NEAR, find_refinement
from ratematch.store.folder import Results
from tests.support.invented import e2e_rows, group, ifb_rows

COARSE = {1: (5.3, 53.0), 16: (7.8, 469.0), 64: (20.2, 650.0), 128: (38.3, 659.0)}
"""TPOT and TTFT by concurrency, of an aggregated Qwen3-8B on one H200: nothing between 49 and 129 tok/s/user."""


def test_a_load_is_added_between_the_points_around_a_speed_to_choose_at() -> None:
    found = find_refinement(ifb_rows("TP1", COARSE), 100)
    assert found is not None and len(found.loads) == 1
    (load,) = found.loads
    assert 16 < load.concurrency < 64 and load.num_requests >= 2 * load.concurrency
    assert "between 49.5 and 128 tok/s/user" in found.why and "chosen at 100" in found.why
    nearer = find_refinement(ifb_rows("TP1", COARSE), 60)
    assert nearer is not None and load.concurrency < nearer.loads[0].concurrency < 64


@pytest.mark.parametrize("at", [10, 26, 49.0, 50.0, 128, 189, 250])
def test_none_where_a_point_is_near_or_the_front_ends(at: float) -> None:
    assert find_refinement(ifb_rows("TP1", COARSE), at) is None


def test_none_where_the_points_are_close_or_nobody_could_measure_between() -> None:
    fine = {20: (10.0, 100.0), 23: (11.2, 105.0)}
    assert find_refinement(ifb_rows("TP1", fine), 95) is None
    assert find_refinement(ifb_rows("TP1", {1: (5.0, 50.0), 2: (9.0, 900.0)}), 150) is None  # none between 1 and 2
    opened = [replace(row, load=Rate(2.0, 100)) for row in ifb_rows("TP1", COARSE)]
    assert find_refinement(opened, 100) is None
    invalid = [replace(row, measurement=replace(row.measurement, valid=False)) for row in ifb_rows("TP1", COARSE)]
    assert find_refinement(invalid, 100) is None


def test_of_several_servers_the_one_whose_line_is_highest_there() -> None:
    weak = ifb_rows("TP2", {1: (4.0, 60.0), 16: (7.0, 500.0), 64: (19.0, 650.0)})
    strong = ifb_rows("TP1", COARSE)
    found = find_refinement([*weak, *strong], 100)
    assert found is not None and found.experiment == strong[0].experiment.id
    pair = e2e_rows(group("ctx", "TP1"), group("gen", "TP1"), {16: (6.4, 150.0), 64: (9.8, 815.0)})
    repeats = [
        *pair,
        *(replace(row, load=replace(row.load, repeat=1)) for row in pair if isinstance(row.load, Concurrency)),
    ]
    both = find_refinement(repeats, 125)
    assert both is not None and [load.repeat for load in both.loads] == [0, 1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 512), st.floats(3, 60), st.floats(20, 3000)), min_size=2, max_size=7),
    st.floats(5, 300),
)
def test_what_is_added_lies_between_two_loads_of_its_server(
    points: list[tuple[int, float, float]], at: float
) -> None:
    tpots = sorted(tpot for _, tpot, _ in points)
    slots = sorted({slots for slots, _, _ in points})
    rows = ifb_rows("TP1", {n: (tpot, ttft) for n, tpot, (_, _, ttft) in zip(slots, tpots, points, strict=False)})
    found = find_refinement(rows, at)
    if found is None:
        return
    (load,) = found.loads
    speeds = {row.load.concurrency: 1000 / row.measurement.tpot_ms.mean for row in rows}  # type: ignore[union-attr]
    below = max(n for n in speeds if n < load.concurrency)
    above = min(n for n in speeds if n > load.concurrency)
    assert speeds[above] < at < speeds[below] and above > CLOSE * below
    assert all(abs(speed - at) > NEAR * at for speed in (speeds[above], speeds[below]))
    assert FALL == 0.1


class Folder:
    """A results folder by its rows alone."""

    def __init__(self, rows: list[Measured], asked: Experiment) -> None:
        self.rows, self.asked = rows, asked

    def turn(self, at: Path, busy: tuple[Experiment, ...] = (), failed: frozenset[str] = frozenset()) -> Turn:
        rows, asked = self.rows, self.asked

        class Known(Turn):
            def rows(self) -> list[Measured]:
                return rows

            def experiment(self, name: str) -> Experiment | None:
                return asked if name == asked.id else None

        return Known(Results(at).snapshot(), busy, failed)


def choosing(*at: float, refine: bool = True) -> Sweep:
    sweep, _ = read_sweep("quickstart")
    return replace(sweep, e2e=E2ePlan(choose_at=at, refine=refine))


def test_a_sweep_adds_it_while_the_servers_are_up_and_says_so(tmp_path: Path) -> None:
    rows = ifb_rows("TP1", COARSE)
    asked = replace(rows[0].experiment, loads=tuple(row.load for row in rows))
    folder, notes = Folder(rows, asked), []  # type: ignore[var-annotated]
    refining = Refining(choosing(100.0), "ifb", notes.append)
    assert refining.num_further(asked) == MOST_ADDED
    assert refining.decide_further(folder.turn(tmp_path), "another") is None
    assert refining.decide_next(folder.turn(tmp_path, busy=(asked,))) is None  # what is under way may bring it
    more = refining.decide_further(folder.turn(tmp_path), asked.id)
    assert more is not None and more.id == asked.id and more.loads[:-1] == asked.loads
    assert len(notes) == 1 and more.loads[-1].label in notes[0]
    folder.asked = more
    assert refining.decide_next(folder.turn(tmp_path)) is None  # asked for, and not there: it is not asked for twice
    folder.asked = asked
    assert refining.decide_next(folder.turn(tmp_path, failed=frozenset({asked.id}))) is None
    assert refining.decide_next(folder.turn(tmp_path)) is not None
    assert refining.decide_next(folder.turn(tmp_path)) is None and len(notes) == MOST_ADDED


@pytest.mark.parametrize("sweep", [choosing(), choosing(100.0, refine=False), choosing(50.0)])
def test_it_adds_nothing_unasked(sweep: Sweep, tmp_path: Path) -> None:
    rows = ifb_rows("TP1", COARSE)
    asked = replace(rows[0].experiment, loads=tuple(row.load for row in rows))
    assert Refining(sweep, "ifb", print).decide_next(Folder(rows, asked).turn(tmp_path)) is None
    assert isinstance(sweep.cluster, Cluster)

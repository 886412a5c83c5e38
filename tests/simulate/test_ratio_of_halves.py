"""Ratios from servers simulated alone against a grid of whole deployments: a part of the benchmark, and its parts."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest

from benchmarks.ratio_of_halves.cases import CASES
from benchmarks.ratio_of_halves.grid import (
    At,
    Simulated,
    Target,
    answer,
    apart,
    predict_ttfts,
    questions,
    read,
    simulate_case,
)
from benchmarks.ratio_of_halves.page import Asked, holds, to_markdown, write_page
from benchmarks.real_deployments.page import BEGIN, END

SMALL = replace(next(case for case in CASES if case.ctx == case.gen == "TP4"), gen_batch=8, budget=16)


@pytest.fixture(scope="module")
def done() -> Simulated:
    return simulate_case(SMALL)


def test_the_ratio_chosen_from_halves_is_the_best_of_the_grid(done):
    answered = [each for target in questions(done) if (each := answer(done, target)) is not None]
    assert len(done.whole) == 5  # 1+1, 1+2, 1+3, 2+1, 3+1
    assert len(answered) >= 15
    assert all(holds(each) for each in answered), [each for each in answered if not holds(each)]
    assert {each.chosen for each in answered} >= {(1, 2), (1, 3)}


def test_the_page_has_a_line_a_case_and_names_what_is_off(tmp_path, done):
    answered = [each for target in questions(done)[:6] if (each := answer(done, target)) is not None]
    off = replace(answered[0], chosen=(9, 1), gives=answered[0].most * 0.9, servers=4)
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\nafter\n")
    asked = [Asked(False, 2.0, None, "ctx", [*answered, off]), Asked(True, 2.0, 2.0, "deployment", answered)]
    write_page(page, to_markdown([done], asked), "command")
    text = page.read_text()
    assert f"| {SMALL.label}, 16 GPUs | 5 |" in text
    assert "| spread | x 2 | none | - |" in text and "| at once | x 2 | 2 x ctx alone | `deployment` |" in text
    assert "9 + 1" in text and text.endswith("after\n")
    assert "| 0.8 L to L | 10% to 30% |" in text


def test_ttft_in_service_is_that_of_whole_deployments(done):
    found = predict_ttfts(done)
    assert len(found) >= 20
    assert all(0.8 < each.ratio < 1.3 for each in found), found
    assert 0.95 < median(each.ratio for each in found if each.ctx_load < 0.85) < 1.05


def test_a_deployment_is_read_on_the_line_between_its_loads():
    curve = (At(1, 100.0, 10.0, 50.0), At(2, 80.0, 20.0, 150.0), At(4, 80.0, 20.0, 950.0))
    assert read(curve, Target(8, 0.0)) == 20
    assert read(curve, Target(8, 90.0)) == pytest.approx(15, rel=0.02)
    assert read(curve, Target(8, 0.0, 100.0)) == pytest.approx(15, rel=0.2)
    assert read(curve, Target(8, 110.0)) == 0


def test_copies_of_a_deployment_are_no_step_away(done):
    assert apart(done, 64, (1, 2), (2, 4)) == 0
    assert apart(done, 64, (1, 2), (2, 5)) == 1
    assert apart(done, 28, (1, 2), (2, 5)) == 1  # two copies of the first, on 24 GPUs
    assert apart(done, 20, (1, 2), (2, 3)) == 2  # of which no two copies fit

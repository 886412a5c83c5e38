"""The search for deployments better than published ones: one small group, and its parts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.beat_the_dashboard.choose import Answer, answers, pick_published, promising, speed
from benchmarks.beat_the_dashboard.group import Chosen, Group, groups_of, key_of
from benchmarks.beat_the_dashboard.page import interval, to_markdown
from benchmarks.beat_the_dashboard.search import FAST_ENOUGH, Candidate, Search
from benchmarks.real_deployments.compare import compare
from benchmarks.real_deployments.table import read_rows
from ratematch.plan.parallelism import parse_mapping

ROWS = read_rows()
LINES = {row.line: row for row in ROWS}
GROUP = Group((LINES[14], LINES[32]))  # B200 FP4 8192/1024: 4 in flight on one server, 15 on six


@pytest.fixture(scope="module")
def search() -> Search:
    search = Search(GROUP, requests_per_slot=3)
    search.forecast()
    return search


def test_the_search_finds_what_is_as_fast_and_no_worse_than_what_was_published(search):
    answered = answers(search)
    assert [answer.at.line for answer in answered] == [14, 32]
    for answer in answered:
        assert answer.chosen is not None
        assert answer.chosen.tok_s_user >= speed(answer.at) * FAST_ENOUGH
        assert answer.chosen.chosen.gpus <= GROUP.budget == 44
        assert answer.chosen.tok_s_gpu > 0.9 * answer.best.tok_s_gpu  # a short run gives less
        low, high = interval(answer.chosen)
        assert low < answer.chosen.tok_s_gpu < high
    new = promising(search, answered)
    assert 1 < len(new) <= 5
    assert not {each.candidate.chosen.key for each in new} & {key_of(row) for row in GROUP.rows}
    assert [each.gain for each in new] == sorted((each.gain for each in new), reverse=True)
    text = to_markdown([(search, answered, new)], [], [LINES[84]])
    assert text.count("| b200 fp4 8192/1024 | 14 |") == 1 and "SIMULATED" in text
    assert "Lines 84 are in no group: TTFT of seconds" in text


def test_servers_stay_inside_a_node_where_nvlink_ends_there():
    assert "DEP32" not in GROUP.mappings("gen")
    assert "DEP32" in Group((LINES[61],)).mappings("gen")
    assert all(parse_mapping(name).gpus <= 8 for role in ("ctx", "gen", "agg") for name in GROUP.mappings(role))


def test_regret_is_what_the_measured_rows_of_the_deployment_chosen_miss():
    fast, slow = LINES[29], LINES[30]
    one = Candidate(Chosen(1, "DEP4", 5, "TEP8", 0, 20), 150.0, 60.0, 200.0, 66.0)
    assert one.chosen.key == key_of(fast) == key_of(slow)
    assert Answer(slow, slow, (one,), (fast, slow)).regret == 0
    missed = Answer(slow, slow, (one,), (fast,)).regret
    assert missed == pytest.approx(1 - fast.tok_s_gpu / slow.tok_s_gpu)
    assert Answer(slow, slow, (), ()).regret is None


def test_among_published_rows_the_best_is_picked():
    rows = [LINES[29], LINES[32], replace(LINES[29], line=999, tok_s_gpu=10.0, concurrency=3)]
    picked = pick_published(compare(rows, "roofline", 3), Group((rows[0], rows[2])))
    assert {each.at.line for each in picked} == {29, 999}
    assert next(each for each in picked if each.at.line == 29).regret == 0


def test_suspect_rows_are_in_no_group():
    groups, left_out = groups_of(ROWS)
    assert sum(len(group.rows) for group in groups) == 82
    assert {row.gpu for row in left_out} == {"h100"}

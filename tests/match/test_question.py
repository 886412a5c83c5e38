from __future__ import annotations

import pytest

from ratematch.match.packing import Packing
from ratematch.match.question import Question
from ratematch.plan.load import Constraints

SWEEP = Question(ttft_ms=500.0, tpot_ms=50.0, percentile=99, max_gpus=64, gpus_per_node=8)


def test_what_a_question_leaves_open_is_the_sweeps() -> None:
    asked = Question(tpot_ms=20.0, calibrate=True, objective="tok_s_in_budget").filled_in(SWEEP)
    assert asked.constraints == Constraints(500.0, 20.0, 99)
    assert (asked.budget_gpus, asked.packing) == (64, Packing(8, None, True))
    assert (asked.calibrate, asked.objective) == (True, "tok_s_in_budget")
    assert asked.filled_in(SWEEP) == asked


def test_the_largest_deployment_fits_the_nodes_that_are_given() -> None:
    assert Question(nodes=3).filled_in(SWEEP).budget_gpus == 24
    assert Question(nodes=3, gpus_per_node=4).filled_in(SWEEP).budget_gpus == 12
    assert Question(nodes=3, max_gpus=16).filled_in(SWEEP).budget_gpus == 16
    assert Question(nodes=3).filled_in(Question(max_gpus=64)).budget_gpus == 64  # the size of a node is not known


def test_limits_are_judged_at_the_mean_when_nobody_says() -> None:
    assert Question().constraints == Constraints(None, None, "mean")


def test_a_question_without_a_size_cannot_be_answered() -> None:
    with pytest.raises(ValueError, match="max_gpus"):
        _ = Question().budget_gpus

"""Streams of which it is known when each token was generated: figures are exact or bounded, or the load not valid."""

from __future__ import annotations

import os

from tests.loadgen.streamcases import ODDITIES, make_case, run

CASES = int(os.environ.get("RATEMATCH_STREAM_CASES", "600"))
"""A hundred thousand take some minutes."""


def test_no_wrong_figure_passes_and_no_well_behaved_stream_is_doubted() -> None:
    table, failures = run(CASES)
    assert failures == [], table


def test_the_cases_hold_every_oddity() -> None:
    drawn = [make_case(seed) for seed in range(400)]
    assert {case.oddity for case in drawn} == set(ODDITIES)
    assert sum(case.well_behaved for case in drawn) > 60

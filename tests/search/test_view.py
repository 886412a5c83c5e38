"""What a front is worth to the search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ratematch.search.fronts import GRID
from ratematch.search.view import View
from tests.search.invented import space


def worth_of_five_percent_at(speed: float, *choose_at: float) -> float:
    """More of the reachable front around a tok/s/user, in value."""
    view = View(replace(space(), choose_at=choose_at), {}, {})
    front = np.maximum.reduce([view.front(each, frozenset(each.forecasts)) for each in view.rates.gens])
    better = np.where(np.abs(np.log(GRID / speed)) < 0.05, 1.05, 1.0) * front
    return view.value(better) - view.value(front)


def test_front_where_a_deployment_will_be_chosen_is_worth_more() -> None:
    assert worth_of_five_percent_at(50.0, 50.0) > 2 * worth_of_five_percent_at(50.0)
    # Elsewhere a little less, for all of it is shares.
    assert worth_of_five_percent_at(80.0, 50.0) < worth_of_five_percent_at(80.0)
    # Of several, each has its part.
    assert worth_of_five_percent_at(50.0, 50.0, 100.0) < worth_of_five_percent_at(50.0, 50.0)


def test_a_speed_that_nothing_reaches_changes_nothing() -> None:
    assert worth_of_five_percent_at(50.0, 1900.0) == pytest.approx(worth_of_five_percent_at(50.0))

"""One price for servers and end-to-end runs: what is kept for runs, and the chance that a deployment stays good."""

from __future__ import annotations

import pytest

from ratematch.search.price import Pricing, price_hours, settle_price
from ratematch.search.view import View
from tests.search.invented import SERVERS, measure, space


def view(known: dict[str, dict[int, object]] | None = None) -> View:
    return View(space(), known or {}, {})  # type: ignore[arg-type]


def test_runs_that_are_worth_any_price_are_kept_for_and_others_are_not() -> None:
    prices_tried: list[float] = []

    def dear(pricing: Pricing) -> float:
        prices_tried.append(pricing.price)
        return 3.0

    pricing, kept = settle_price(view(), 20.0, dear)
    assert kept == pytest.approx(3.0)
    assert pricing.price == price_hours(view(), 17.0).price
    assert settle_price(view(), 20.0, lambda pricing: 0.0)[1] == 0.0
    # What was kept before and still holds is not settled anew.
    prices_tried.clear()
    assert settle_price(view(), 20.0, dear, 3.0)[1] == pytest.approx(3.0)
    assert len(prices_tried) == 1


def test_hours_are_dearer_where_there_are_few_of_them() -> None:
    prices = [price_hours(view(), hours).price for hours in (3.0, 8.0, 30.0, 200.0)]
    assert prices == sorted(prices, reverse=True)
    assert prices[0] > 1
    assert prices[-1] == space().least_price
    # Hours that no server can be started in are worth nothing to servers.
    assert price_hours(view(), 0.5).price == space().least_price


def test_more_is_kept_where_hours_are_cheap() -> None:
    def cost(pricing: Pricing) -> float:
        return 4.0 if pricing.price < 0.5 else 1.0

    assert settle_price(view(), 3.0, cost)[1] == pytest.approx(1.0)
    assert settle_price(view(), 200.0, cost)[1] == pytest.approx(4.0)


def test_a_run_that_leaves_no_hours_for_its_servers_is_not_kept_for() -> None:
    pricing, kept = settle_price(view(), 5.0, lambda pricing: 5.0 if pricing.plan.parts else 0.0)
    assert pricing.plan.parts
    assert kept < 5.0


def test_rates_are_expected_of_what_is_planned_and_not_measured() -> None:
    known = {"ctx-a": measure(SERVERS[0], (4, 16)), "gen-wide": measure(SERVERS[3], (64,))}
    pricing = price_hours(view(known), 100.0)
    rates = {(each.id, load): rate for each, load, rate in pricing.expected_rates()}
    assert ("gen-wide", 64) not in rates
    assert not any(name.startswith("ctx") for name, _ in rates)
    planned = {(name, load) for name, offer in pricing.plan.parts.items() for load in offer.loads}
    assert planned <= set(rates)
    # Before a ctx server is measured, the likeliest one stands for it.
    names = {each.id for each, _, _ in price_hours(view(), 100.0).expected_rates() if each.stage == "ctx"}
    assert names == {"ctx-a"}


def test_the_chance_to_stay_on_the_front_falls_with_what_is_planned_above_a_deployment() -> None:
    known = {"ctx-a": measure(SERVERS[0], (4, 16))}
    pricing = price_hours(view(known), 100.0)
    at = 40.0
    chances = [pricing.chance_on_front(at, tok_s_gpu) for tok_s_gpu in (1.0, 20.0, 30.0, 40.0, 60.0, 1e4)]
    assert chances == sorted(chances)
    assert chances[0] < 0.01
    assert chances[-1] == 1.0
    assert pricing.chance_on_front(1e5, 1.0) == 1.0
    nothing = price_hours(view(known), 0.0)
    assert not nothing.plan.parts
    assert nothing.chance_on_front(at, 1.0) == 1.0

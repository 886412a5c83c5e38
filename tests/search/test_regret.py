"""What is lost on average by choosing by a rate that is not sure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratematch.search.candidates import Candidate, Space
from ratematch.search.rates import Rates
from ratematch.search.regret import Choices
from ratematch.search.view import View
from tests.search.invented import ctx, gen, measure, space

FEEDER = ctx("ctx-a", "ctx DEP", 4, 100.0)
LEADER = gen("gen-leader", "gen DEP", 8)
LOAD = 64


def known(*candidates: Candidate, **changes: object) -> View:
    of: Space = replace(space(**changes), candidates=candidates)
    return View(of, {each.id: measure(each, tuple(each.forecasts)) for each in candidates}, {})


def lost(view: View, each: Candidate, width: float) -> float:
    return Choices(view, {}).regret(each, LOAD, width)


def test_nothing_is_lost_where_nothing_else_could_be_chosen() -> None:
    """One ratio alone fits, and nothing comes near."""
    slow = gen("gen-slow", "gen TEP", 8, base_s=0.05, per_request_s=5e-4)
    view = known(FEEDER, LEADER, slow, max_gpus=12)
    assert lost(view, LEADER, 0.05) < 1e-9
    assert lost(view, slow, 0.05) < 1e-9


def test_the_nearer_a_rival_and_the_wider_the_interval_the_more_is_lost() -> None:
    def beside(factor: float, width: float) -> float:
        rival = gen("gen-rival", "gen TEP", 8, base_s=0.01 * factor, per_request_s=1e-4 * factor)
        return lost(known(FEEDER, LEADER, rival, max_gpus=12), LEADER, width)

    assert beside(1.001, 0.05) > beside(1.02, 0.05) > beside(1.2, 0.05) == 0.0
    assert beside(1.001, 0.05) > beside(1.001, 0.02) > 0.0
    # At most what the rate itself may be off by.
    assert beside(1.001, 0.05) < 0.05


def test_a_rate_below_the_front_may_be_one_that_is_on_it() -> None:
    rival = gen("gen-rival", "gen TEP", 8, base_s=0.0101, per_request_s=1.01e-4)
    view = known(FEEDER, LEADER, rival, max_gpus=12)
    assert lost(view, rival, 0.05) > 0.0


def test_a_ctx_rate_that_is_not_sure_costs_by_the_ratio_that_is_chosen_for_it() -> None:
    tight = ctx("ctx-b", "ctx DEP", 4, 10.0)
    view = known(tight, LEADER)
    load = max(tight.forecasts, key=lambda load: tight.forecasts[load].req_s)
    assert Choices(view, {}).regret(tight, load, 0.05) > 0.0


def derived(rates: Rates) -> list[object]:
    """Everything that a decision asks of rates."""
    each_gen = [rates.gen_side(gen, gen.forecasts, z) for gen in rates.gens for z in (0.0, 1.0)]
    each_ctx = [rates.capacity(ctx, ctx.forecasts) for ctx in rates.ctxs]
    feeders = [rates.feeders(mtp) for mtp in (0, 1)]
    return [repr(each_gen), each_ctx, repr(feeders), [rates.started(each) for each in rates.space.candidates]]


@pytest.mark.parametrize("server", [FEEDER, LEADER], ids=["ctx", "gen"])
def test_rates_assumed_derive_nothing_from_those_before(server: Candidate) -> None:
    before = known(FEEDER, LEADER).rates
    unchanged = derived(before)
    rate = before.at(server, LOAD).times(2.0)
    after = before.assuming(server, LOAD, rate)
    fresh = Rates(before.space, {**before.known, server.id: {**before.known[server.id], LOAD: rate}}, {}, {
        each.id: before.corrections[each.id] for each in before.space.candidates
    })  # fmt: skip
    assert derived(after) == derived(fresh) != unchanged
    assert derived(before) == unchanged

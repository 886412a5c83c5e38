"""What generating sequences will do is known ahead: the books agree with counting, and a seed with its draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.emulator.acceptance import DraftAcceptance
from ratematch.emulator.kvgrowth import KvGrowth
from ratematch.emulator.lookahead import fill_between
from ratematch.emulator.scheduler import Scheduler, SchedulerConfig, Sequence
from ratematch.emulator.steptime import ConstantStepTime, RankLoad, RooflineStepTime, StepBatch
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.parallelism import parse_mapping

RANKS, BLOCK = 3, 32

sequences = st.lists(
    st.tuples(
        st.integers(0, RANKS - 1),
        st.integers(0, 40),  # iterations after the one before it
        st.lists(st.integers(0, 4), min_size=1, max_size=300),
        st.integers(1, 200),
        st.one_of(st.none(), st.integers(0, 300)),  # taken back after so many iterations
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=50, deadline=None)
@given(sequences, st.integers(1, 40))
def test_the_outlook_is_what_counting_each_sequence_gives(wanted, stride):
    outlook = KvGrowth(RANKS)
    plain: dict[tuple[int, int], tuple[int, int]] = {}
    now = 0
    for rank, later, gains, kv_len, taken_back in wanted:
        now += later
        first = now
        outlook.enter(rank, first, np.array(gains), kv_len, BLOCK)
        kept = gains[:taken_back]
        if len(kept) < len(gains):
            now += len(kept)  # what was before may be forgotten
            outlook.enter(rank, now, np.array(gains[len(kept) :]), kv_len + sum(kept), BLOCK, sign=-1)
        held = kv_len
        for k, gain in enumerate(kept):
            tokens, blocks = plain.get((rank, first + k), (0, 0))
            filled = -(-(held + gain) // BLOCK) - -(-held // BLOCK)
            plain[rank, first + k] = (tokens + gain, blocks + filled)
            held += gain
    for begin in range(now, now + 700, stride):
        expected = [
            [[plain.get((rank, begin + k), (0, 0))[what] for k in range(stride)] for what in (0, 1)]
            for rank in range(RANKS)
        ]
        assert outlook.read(begin, stride).tolist() == expected


@pytest.mark.parametrize("mtp", [1, 2, 3])
def test_a_draft_is_accepted_when_its_draw_lies_below_the_probability_of_so_many(mtp):
    rates = (0.8, 0.6, 0.5)
    luck = np.random.default_rng(11).random(500)
    at_least = np.cumprod(rates[:mtp])
    expected = [1 + sum(bool(each < bound) for bound in at_least) for each in luck]
    assert DraftAcceptance(mtp, rates, None, 11).draw(500).tolist() == expected


@pytest.mark.parametrize(("mtp", "forced"), [(0, None), (1, None), (3, None), (3, 1.5), (3, 3.0)])
def test_draws_reach_the_tokens_and_tell_by_how_much_the_last_passes_them(mtp, forced):
    acceptance = DraftAcceptance(mtp, (0.8, 0.6, 0.5), forced, 7)
    for tokens in range(1, 200):
        gains, beyond = acceptance.draw_until(tokens)
        assert int(gains.sum()) == tokens + beyond
        assert 0 <= beyond < gains[-1]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 400), st.floats(1e-3, 0.1), st.floats(0.0, 1e-4))
def test_what_is_straight_is_filled_as_linspace_does(count, first, slope):
    """The figures of a seed rest on the last bit of these."""
    filled = fill_between(lambda k: first + k * slope, count)
    expected, middle = np.empty(count), (count - 1) // 2
    for low, high in ((0, middle), (middle, count - 1)):
        expected[low : high + 1] = np.linspace(first + low * slope, first + high * slope, high - low + 1)
    if count > 2:
        assert filled.tolist() == expected.tolist()
    else:
        assert filled.tolist() == [first, first + slope]


loads = st.lists(
    st.builds(
        RankLoad,
        ctx_requests=st.integers(0, 2),
        ctx_tokens=st.integers(0, 4000),
        ctx_attended=st.integers(0, 10**6),
        gen_requests=st.sampled_from([0, 1, 7, 7.5, 64]),
        query_tokens=st.just(4),
        kv_read_tokens=st.integers(0, 10**6),
    ),
    min_size=4,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(loads, min_size=2, max_size=6), st.sampled_from(["DEP4", "TP2PP2"]))
def test_a_step_takes_as_long_whatever_ran_before_it(batches, mapping):
    def fresh() -> RooflineStepTime:
        return RooflineStepTime(load_model("deepseek-r1"), load_gpu("gb200"), parse_mapping(mapping), "nvfp4")

    used = fresh()
    ranks = parse_mapping(mapping).dp_ranks
    for batch in [*batches, *batches]:
        step = StepBatch(tuple(batch[:ranks]))
        assert used.seconds(step) == fresh().seconds(step)


def test_a_transfer_that_is_over_within_the_iteration_ends_the_step_with_it():
    shape = parse_mapping("DEP4")
    config = SchedulerConfig(shape, 4, 600, 4096, kv_tokens=20_000)
    scheduler = Scheduler(config, ConstantStepTime(0.5))
    scheduler.add(Sequence(0, 100, 300, kind="generation_only"), 0.0)
    first = scheduler.begin(0.0, ahead=100)
    assert first.count == 100
    assert first.end_s == pytest.approx(50.0)
    first = scheduler.cut(first, 0.4)
    scheduler.finish(first, first.end_s, all_tokens=False)
    for transfer_s, count in ((0.2, 1), (0.5, 1), (0.6, 2)):
        begin_s = first.end_s
        scheduler.add(
            Sequence(round(10 * transfer_s), 100, 300, kind="generation_only", transfer_s=transfer_s), begin_s
        )
        step = scheduler.begin(begin_s, ahead=100)
        assert step.count == count
        assert step.end_s == pytest.approx(begin_s + 0.5 * count)
        scheduler.finish(step, step.end_s, all_tokens=False)
        first = step

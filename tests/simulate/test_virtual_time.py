"""Virtual time gives what real time would: the same tokens at the same planned instants, in far fewer events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.emulator.iteration import AttentionDpBalance
from ratematch.emulator.scheduler import Scheduler, SchedulerConfig, Sequence
from ratematch.emulator.steptime import RooflineStepTime, StepBatch
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.parallelism import parse_mapping
from ratematch.simulate.server import Server
from ratematch.simulate.timeline import LAST, Timeline


def make(mapping: str = "DEP4", mtp: int = 0, **changes: object) -> Scheduler:
    fields = {
        "max_batch_size": 4,
        "max_num_tokens": 600,
        "max_seq_len": 4096,
        "kv_tokens": 20_000,
        "mtp": mtp,
        "acceptance": (0.8, 0.6, 0.5),
        **changes,
    }
    shape = parse_mapping(mapping)
    step_time = RooflineStepTime(load_model("deepseek-r1"), load_gpu("gb200"), shape, "nvfp4")
    return Scheduler(SchedulerConfig(shape, **fields), step_time, seed=5)


def run_step_by_step(
    scheduler: Scheduler, arrivals: list[tuple[float, Sequence]]
) -> tuple[dict[int, list[float]], dict[int, int]]:
    """The plain loop, one iteration at a time: when each sequence got tokens, and how many in all."""
    waiting = sorted(arrivals, key=lambda pair: pair[0])
    times: dict[int, list[float]] = {}
    tokens: dict[int, int] = {}
    now_s = 0.0
    while True:
        while waiting and waiting[0][0] <= now_s:
            when_s, sequence = waiting.pop(0)
            scheduler.add(sequence, when_s)
        step = scheduler.begin(now_s)
        if step is None:
            coming = [when for when in (scheduler.wake_s(), waiting[0][0] if waiting else None) if when is not None]
            if not coming:
                return times, tokens
            now_s = max(now_s, min(coming))
            continue
        now_s = step.end_s
        for emission in scheduler.finish(step, now_s):
            times.setdefault(emission.seq.id, []).append(now_s)
            tokens[emission.seq.id] = tokens.get(emission.seq.id, 0) + emission.tokens


def run_in_virtual_time(
    scheduler: Scheduler, arrivals: list[tuple[float, Sequence]]
) -> tuple[dict[int, list[float]], dict[int, int]]:
    timeline = Timeline()
    server = Server("one", scheduler, timeline)
    times: dict[int, list[float]] = {}
    tokens: dict[int, int] = {}
    left = {sequence.id for _, sequence in arrivals}

    def submit(sequence: Sequence) -> None:
        def tell(emission: object) -> None:
            tokens[sequence.id] = tokens.get(sequence.id, 0) + emission.tokens  # type: ignore[attr-defined]
            if emission.first and sequence.kind == "full":  # type: ignore[attr-defined]
                times[sequence.id] = [timeline.now_s]
            if emission.finished:  # type: ignore[attr-defined]
                left.discard(sequence.id)
                times.setdefault(sequence.id, []).extend(server.token_times(sequence).tolist())

        server.submit(sequence, tell)

    for when_s, sequence in arrivals:
        timeline.at(when_s, lambda sequence=sequence: submit(sequence))  # type: ignore[misc]
    assert timeline.run(lambda: not left)
    return times, tokens


requests = st.lists(
    st.tuples(
        st.floats(0.0, 3.0),
        st.integers(1, 500),
        st.integers(1, 200),
        st.sampled_from(["full", "generation_only"]),
        st.sampled_from([0.0, 0.004]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=25, deadline=None)
@given(
    requests,
    st.integers(0, 3),
    st.sampled_from(
        [
            {"balance": AttentionDpBalance(timeout_iters=60, batching_wait_iters=0)},
            {"balance": AttentionDpBalance(timeout_iters=5, batching_wait_iters=3)},
            {"chunked_prefill": True, "max_num_tokens": 96},
            {"chunked_prefill": True, "max_num_tokens": 96, "balance": AttentionDpBalance(6, 1)},
        ]
    ),
)
def test_a_tuned_aggregated_server_is_taken_ahead_no_further_than_it_may(wanted, mtp, changes):
    """Balancing counts iterations while it holds prompts back, and pieces of prompts change every step."""

    def arrivals() -> list[tuple[float, Sequence]]:
        return [(when, Sequence(k, isl, osl)) for k, (when, isl, osl, _, _) in enumerate(wanted)]

    plain_times, plain_tokens = run_step_by_step(make("DEP4", mtp, **changes), arrivals())
    times, tokens = run_in_virtual_time(make("DEP4", mtp, **changes), arrivals())
    assert tokens == plain_tokens
    for each, instants in plain_times.items():
        assert times[each] == pytest.approx(instants, rel=2e-4)


@settings(max_examples=60, deadline=None)
@given(requests, st.sampled_from(["DEP4", "TEP4"]), st.integers(0, 3), st.booleans())
def test_every_token_comes_when_it_would_in_single_steps(wanted, mapping, mtp, tight):
    def arrivals() -> list[tuple[float, Sequence]]:
        return [
            (when, Sequence(k, isl, osl, kind=kind, transfer_s=transfer))
            for k, (when, isl, osl, kind, transfer) in enumerate(wanted)
        ]

    changes = {"kv_tokens": 1500} if tight else {}
    plain_times, plain_tokens = run_step_by_step(make(mapping, mtp, **changes), arrivals())
    times, tokens = run_in_virtual_time(make(mapping, mtp, **changes), arrivals())
    assert tokens == plain_tokens
    assert times.keys() == plain_times.keys()
    for key, expected in plain_times.items():
        assert len(times[key]) == len(expected)
        np.testing.assert_allclose(times[key], expected, rtol=2e-4, atol=1e-6)


def test_a_long_decode_is_few_events():
    scheduler = make("DEP4", 0)
    timeline = Timeline()
    events = 0
    server = Server("one", scheduler, timeline)
    ends = []
    for k in range(8):
        server.submit(Sequence(k, 100, 3000), lambda emission: ends.append(emission.finished))

    def count() -> bool:
        nonlocal events
        events += 1
        return ends.count(True) == 8

    assert timeline.run(count)
    assert scheduler.iter >= 3000
    assert events < 20


def test_counters_are_the_same_whichever_way_it_ran():
    plain, virtual = make("DEP4", 3), make("DEP4", 3)
    arrivals = [(0.01 * k, (k, 50 + k, 40 + 3 * k)) for k in range(12)]
    run_step_by_step(plain, [(when, Sequence(*what)) for when, what in arrivals])
    run_in_virtual_time(virtual, [(when, Sequence(*what)) for when, what in arrivals])
    for name in ("num_completed", "draft_tokens", "accepted_tokens", "kv_used_blocks", "num_active", "iter"):
        assert getattr(plain, name) == getattr(virtual, name), name
    assert plain.accepted_tokens / (plain.draft_tokens / 3) == pytest.approx(0.8 + 0.48 + 0.24, rel=0.1)


def test_memory_use_follows_the_single_steps():
    scheduler = make("TEP4", 2)
    scheduler.add(Sequence(0, 100, 300), 0.0)
    step = scheduler.begin(0.0)
    scheduler.finish(step, step.end_s, all_tokens=False)
    step = scheduler.begin(step.end_s, ahead=50)
    assert step.count == 50
    scheduler.finish(step, step.end_s, all_tokens=False)
    gains = next(iter(scheduler._ranks[0].gen)).gains
    held = 100 + int(gains[:50].sum())
    assert scheduler.kv_used_blocks == -(-held // 32)


def test_a_step_of_many_can_be_cut_at_a_boundary():
    scheduler = make("TEP4")
    scheduler.add(Sequence(0, 100, 300), 0.0)
    step = scheduler.begin(0.0)
    scheduler.finish(step, step.end_s, all_tokens=False)
    many = scheduler.begin(step.end_s, ahead=1000)
    assert many.count == 299
    middle = float(many.ends_s[100]) - 1e-4
    cut = scheduler.cut(many, middle)
    assert cut.count == 101
    assert cut.end_s == pytest.approx(float(many.ends_s[100]))
    with pytest.raises(ValueError, match="returns only what begins or ends"):
        scheduler.finish(cut, cut.end_s)


def test_merged_ranks_take_as_long_as_each_of_them_in_turn():
    from ratematch.emulator.steptime import RankLoad

    step_time = RooflineStepTime(load_model("deepseek-r1"), load_gpu("gb200"), parse_mapping("DEP8"), "nvfp4")
    loads = [RankLoad(0, 0, 0.0, 4, 4, 1000 * k) for k in range(6)]
    loads += [RankLoad(1, 50, 1000.0, 3, 4, 700, 1), RankLoad(2, 90, 2000.0, 3, 4, 800, 1)]
    merged = step_time.seconds(StepBatch(tuple(loads)))
    worst = [load._replace(kv_read_tokens=5000) if load.gen_requests == 4 else load for load in loads]
    assert merged == pytest.approx(step_time.seconds(StepBatch(tuple(worst))), rel=1e-12)


def test_events_of_one_instant_keep_their_order():
    timeline, seen = Timeline(), []
    timeline.at(1.0, lambda: seen.append("last"), LAST)
    timeline.at(1.0, lambda: seen.append("a"))
    timeline.at(0.5, lambda: timeline.at(0.1, lambda: seen.append("late")))
    timeline.at(1.0, lambda: seen.append("b"))
    assert not timeline.run(lambda: False)
    assert seen == ["late", "a", "b", "last"]
    assert timeline.now_s == 1.0

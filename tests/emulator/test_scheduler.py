"""In-flight batching: limits hold in every iteration, every sequence gets its tokens, nothing starves or leaks."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.emulator.iteration import BlockRouting, PromptGathering
from ratematch.emulator.scheduler import AttentionDpBalance, Scheduler, SchedulerConfig, Sequence
from ratematch.emulator.steptime import ConstantStepTime
from ratematch.plan.parallelism import Parallelism, parse_mapping

STEP_S = 0.01


def limits(mapping="TP1", **changes):
    defaults = {
        "max_batch_size": 8,
        "max_num_tokens": 64,
        "max_seq_len": 512,
        "kv_tokens": 4096,
        "tokens_per_block": 8,
    }
    return SchedulerConfig(parse_mapping(mapping), **{**defaults, **changes})


def make(config, seed=0):
    return Scheduler(config, ConstantStepTime(STEP_S), seed)


def run(scheduler, now_s=0.0, steps=None, each=None):
    """Drive until nothing can run any more (or ``steps`` iterations); returns emissions and the time."""
    emissions = []
    for _ in itertools.count() if steps is None else range(steps):
        step = scheduler.begin(now_s)
        if step is None:
            wake_s = scheduler.wake_s()
            if wake_s is None:
                break
            now_s = max(now_s, wake_s)
            continue
        if each:
            each(step)
        now_s = step.end_s
        emissions += scheduler.finish(step, now_s)
    return emissions, now_s


def tokens_of(emissions, seq):
    return sum(emission.tokens for emission in emissions if emission.seq is seq)


# ------------------------------------------------------------------------------------------------ invariants

configs = st.builds(
    lambda tp, pp, adp, **fields: SchedulerConfig(Parallelism(tp=tp, pp=pp, ep=tp, attention_dp=adp), **fields),
    tp=st.sampled_from([1, 2, 4]),
    pp=st.sampled_from([1, 2]),
    adp=st.booleans(),
    max_batch_size=st.integers(1, 6),
    max_num_tokens=st.integers(8, 64),
    max_seq_len=st.just(128),
    kv_tokens=st.integers(64, 400),
    tokens_per_block=st.sampled_from([2, 16]),
    mtp=st.integers(0, 3),
    acceptance=st.just((0.8, 0.6, 0.5)),
    chunked_prefill=st.booleans(),
    block_reuse=st.booleans(),
    balance=st.sampled_from([None, AttentionDpBalance(3, 2)]),
    routing=st.sampled_from([None, BlockRouting()]),
)
requests = st.lists(
    st.tuples(
        st.integers(1, 60),
        st.integers(1, 40),
        st.sampled_from(["full", "full", "context_only", "generation_only"]),
        st.integers(0, 30),  # arrives before this iteration
        st.sampled_from([0.0, 0.05]),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(configs, requests, st.integers(0, 5))
def test_limits_hold_and_everyone_is_served(config, wanted, seed):
    scheduler = make(config, seed)
    sequences = [
        Sequence(
            k, isl, osl, kind=kind, transfer_s=transfer_s, prompt_hash=tuple(range(isl // config.tokens_per_block))
        )
        for k, (isl, osl, kind, _, transfer_s) in enumerate(wanted)
    ]
    arrivals = {k: start for k, (*_, start, _) in enumerate(wanted)}
    admissible = [seq for seq in sequences if scheduler.refusal(seq) is None]
    got = dict.fromkeys(admissible, 0)
    firsts = dict.fromkeys(admissible, 0)
    finished = []
    now_s = 0.0
    waiting = sorted(admissible, key=lambda seq: arrivals[seq.id])
    for tick in range(20_000):
        while waiting and arrivals[waiting[0].id] <= tick:
            scheduler.add(waiting.pop(0), now_s)
        step = scheduler.begin(now_s)
        assert all(reserved <= config.kv_blocks for reserved in scheduler.kv_reserved_blocks)
        assert 0 <= scheduler.kv_used_blocks <= sum(scheduler.kv_reserved_blocks)
        if step is None:
            if scheduler.wake_s() is None and not waiting:
                break
            now_s += STEP_S
            continue
        for counts in step.ranks:
            assert counts.num_ctx_tokens + counts.num_generation_tokens <= config.token_budget
            assert counts.num_scheduled <= config.max_batch_size * config.mapping.pp
        now_s = step.end_s
        for emission in scheduler.finish(step, now_s):
            got[emission.seq] += emission.tokens
            firsts[emission.seq] += emission.first
            if emission.finished:
                finished.append(emission.seq)
                if emission.seq.kind == "context_only":
                    assert scheduler.release(emission.seq.id)
    assert sorted(seq.id for seq in finished) == [seq.id for seq in admissible]
    assert all(got[seq] == (1 if seq.kind == "context_only" else seq.max_tokens) for seq in admissible)
    assert all(count == 1 for count in firsts.values())
    assert scheduler.num_completed == len(admissible)
    assert (scheduler.num_active, scheduler.num_queued, scheduler.num_held) == (0, 0, 0)
    assert scheduler.kv_used_blocks == 0
    assert not any(scheduler.kv_reserved_blocks)
    assert scheduler.num_paused == 0


@settings(max_examples=150, deadline=None)
@given(configs, requests, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 24)), max_size=15), st.booleans())
def test_cancelling_at_any_moment_frees_everything(config, wanted, cancels, during_step):
    scheduler = make(config)
    for k, (isl, osl, kind, _, transfer_s) in enumerate(wanted):
        seq = Sequence(k, isl, osl, kind=kind, transfer_s=transfer_s)
        if scheduler.refusal(seq) is None:
            scheduler.add(seq, 0.0)
    now_s, cancelled = 0.0, set()
    for tick in range(20_000):
        due = [seq_id for when, seq_id in cancels if when == tick]
        if not during_step:
            cancelled |= {seq_id for seq_id in due if scheduler.cancel(seq_id)}
        step = scheduler.begin(now_s)
        if during_step:
            cancelled |= {seq_id for seq_id in due if scheduler.cancel(seq_id)}
        if step is None:
            if scheduler.wake_s() is None and tick > 40:
                break
            now_s += STEP_S
            continue
        now_s = step.end_s
        for emission in scheduler.finish(step, now_s):
            assert emission.seq.id not in cancelled
            if emission.finished:
                scheduler.release(emission.seq.id)
    assert (scheduler.num_active, scheduler.num_queued, scheduler.num_held) == (0, 0, 0)
    assert scheduler.kv_used_blocks == 0
    assert not any(scheduler.kv_reserved_blocks)


def test_a_sequence_cancelled_during_a_step_gets_no_token_of_it():
    loads = []

    class Recorder:
        def seconds(self, batch, overlap=True):
            loads.append(batch.ranks[0])
            return STEP_S

    scheduler = Scheduler(limits(), Recorder())
    for k in range(2):
        scheduler.add(Sequence(k, 10, 20), 0.0)
    run(scheduler, steps=3)
    step = scheduler.begin(1.0)
    assert loads[-1].kv_read_tokens == 2 * (10 + 2)
    assert scheduler.cancel(0)
    assert not scheduler.cancel(0)
    assert [emission.seq.id for emission in scheduler.finish(step, step.end_s)] == [1]
    scheduler.begin(2.0)
    assert (loads[-1].gen_requests, loads[-1].kv_read_tokens) == (1, 13)
    assert scheduler.num_cancelled == 1


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 30)), min_size=2, max_size=30), st.booleans())
def test_first_come_first_served(lengths, chunked):
    scheduler = make(limits(kv_tokens=256, max_batch_size=4, chunked_prefill=chunked))
    sequences = [Sequence(k, isl, osl) for k, (isl, osl) in enumerate(lengths)]
    for seq in sequences:
        scheduler.add(seq, 0.0)
    run(scheduler)
    starts = [seq.first_scheduled_s for seq in sequences]
    assert starts == sorted(starts)
    firsts = [seq.first_token_s for seq in sequences]
    assert firsts == sorted(firsts)


def test_a_large_prompt_is_not_starved_by_sequences_that_bring_their_kv():
    scheduler = make(limits(max_batch_size=64, max_num_tokens=64))
    now_s, ids = 0.0, itertools.count(1)
    big = Sequence(0, 64, 4)  # needs a step without generation
    for _ in range(3):
        scheduler.add(Sequence(next(ids), 8, 20, kind="generation_only"), now_s)
    scheduler.add(big, now_s)
    for _ in range(200):
        scheduler.add(Sequence(next(ids), 8, 20, kind="generation_only"), now_s)
        step = scheduler.begin(now_s)
        now_s = step.end_s
        scheduler.finish(step, now_s)
    assert big.finished_s is not None
    assert big.first_token_s <= 40 * STEP_S


# ------------------------------------------------------------------------------------------------ prompts


def test_prompts_share_a_step_up_to_the_token_limit():
    scheduler = make(limits(max_num_tokens=64))
    for k in range(3):
        scheduler.add(Sequence(k, 30, 2), 0.0)
    first = scheduler.begin(0.0)
    assert (first.ranks[0].num_ctx_requests, first.ranks[0].num_ctx_tokens) == (2, 60)
    assert [emission.seq.id for emission in scheduler.finish(first, first.end_s)] == [0, 1]
    second = scheduler.begin(first.end_s)
    assert second.ranks[0] == (1, 30, 2, 2)
    assert (second.iter, second.num_active, second.num_queued) == (2, 3, 0)


def test_a_prompt_above_the_token_limit_is_refused_unless_chunked():
    scheduler = make(limits(max_num_tokens=64))
    with pytest.raises(
        ValueError, match=r"prompt length \(100.0\), query length \(0\) should not exceed max_num_tokens \(64\)"
    ):
        scheduler.add(Sequence(0, 100, 4), 0.0)
    scheduler.add(Sequence(0, 100, 4, kind="generation_only"), 0.0)  # brings its KV, computes no prompt

    chunked = make(limits(max_num_tokens=64, chunked_prefill=True))
    seq = Sequence(0, 100, 4)
    chunked.add(seq, 0.0)
    pieces = []
    run(chunked, each=lambda step: pieces.append(step.ranks[0].num_ctx_tokens))
    assert pieces == [64, 36, 0, 0, 0]
    assert seq.first_token_s == pytest.approx(2 * STEP_S)


def test_a_token_limit_below_one_block_still_makes_progress():
    scheduler = make(limits(max_num_tokens=6, tokens_per_block=8, chunked_prefill=True))
    scheduler.add(Sequence(0, 20, 2), 0.0)
    pieces = []
    run(scheduler, each=lambda step: pieces.append(step.ranks[0].num_ctx_tokens))
    assert pieces == [6, 6, 6, 2, 0]


def test_sequences_that_never_fit_are_refused_with_the_reason():
    scheduler = make(limits(kv_tokens=128))
    assert "max_seq_len (512)" in scheduler.refusal(Sequence(0, 60, 500))
    assert "KV blocks" in scheduler.refusal(Sequence(0, 60, 100))
    assert "at least 1" in scheduler.refusal(Sequence(0, 0, 10))
    scheduler.add(Sequence(7, 10, 10), 0.0)
    with pytest.raises(ValueError, match="7 is in use"):
        scheduler.add(Sequence(7, 10, 10), 0.0)


def test_no_sequence_is_admitted_that_could_run_out_of_kv():
    scheduler = make(limits(kv_tokens=128, max_batch_size=8))  # 16 blocks of 8
    for k in range(3):
        scheduler.add(Sequence(k, 8, 56), 0.0)  # 8 blocks each when complete
    step = scheduler.begin(0.0)
    assert (step.num_active, step.num_queued) == (2, 1)
    assert scheduler.kv_reserved_blocks == (16,)
    assert scheduler.kv_max_blocks == 16


def test_repeated_prompts_skip_their_cached_blocks():
    hashes = tuple(range(6))
    scheduler = make(limits(block_reuse=True))
    for k in range(2):
        seq = Sequence(k, 50, 2, prompt_hash=hashes)
        scheduler.add(seq, 0.0)
        computed = []
        run(scheduler, each=lambda step, computed=computed: computed.append(step.ranks[0].num_ctx_tokens))
        assert sum(computed) == (50 if k == 0 else 2)
    assert (scheduler.missed_blocks, scheduler.reused_blocks, seq.reused) == (6, 6, 48)

    without = make(limits())
    for k in range(2):
        without.add(Sequence(k, 50, 2, prompt_hash=hashes), 0.0)
        run(without)
    assert without.reused_blocks == 0


@pytest.mark.parametrize(("routing", "reused"), [(None, 0), (BlockRouting(), 6), (BlockRouting(match_rate=1.1), 0)])
def test_a_prompt_goes_to_the_rank_that_keeps_its_blocks_where_the_engine_looks_for_them(routing, reused):
    scheduler = make(limits("DEP2", block_reuse=True, routing=routing))
    first, other = Sequence(0, 50, 2, prompt_hash=tuple(range(6))), Sequence(1, 50, 40)
    scheduler.add(first, 0.0)
    _, now_s = run(scheduler)
    scheduler.add(other, now_s)  # on the rank of the first prompt, which is now the busier one
    run(scheduler, now_s, steps=2)
    again = Sequence(2, 50, 2, prompt_hash=tuple(range(6)))
    scheduler.add(again, now_s)
    run(scheduler, now_s)
    assert (first.rank, other.rank, scheduler.reused_blocks) == (0, 0, reused)


def test_a_rank_takes_no_more_than_its_fair_share_for_the_blocks_it_keeps():
    hashes = tuple(range(6))
    scheduler = make(limits("DEP4", block_reuse=True, routing=BlockRouting()))
    scheduler.add(Sequence(0, 50, 2, prompt_hash=hashes), 0.0)
    _, now_s = run(scheduler)
    alike = [Sequence(1 + k, 50, 30, prompt_hash=hashes) for k in range(8)]
    for seq in alike:
        scheduler.add(seq, now_s)
    run(scheduler, now_s)
    assert 1 <= sum(seq.rank == 0 for seq in alike) <= 5, "twice the even share, as far as it was known then"


# ------------------------------------------------------------------------------------------------ disaggregated


def test_context_only_gives_one_token_and_holds_its_kv_until_released():
    scheduler = make(limits(kv_tokens=64))  # 8 blocks
    for k in range(2):
        scheduler.add(Sequence(k, 40, 100, kind="context_only"), 0.0)  # 6 blocks with its one token
    emissions, now_s = run(scheduler)
    assert [(emission.seq.id, emission.tokens, emission.finished) for emission in emissions] == [(0, 1, True)]
    assert (scheduler.num_held, scheduler.num_active, scheduler.num_queued) == (1, 0, 1)
    assert scheduler.kv_used_blocks == 5
    assert scheduler.release(0)
    assert not scheduler.release(0)
    emissions, _ = run(scheduler, now_s)
    assert [emission.seq.id for emission in emissions] == [1]


def test_generation_only_waits_for_its_kv_and_computes_no_prompt():
    scheduler = make(limits())
    seq = Sequence(0, 40, 5, kind="generation_only", ready_s=0.5)
    scheduler.add(seq, 0.1)
    assert scheduler.begin(0.1) is None
    assert scheduler.wake_s() == 0.5
    seen = []
    emissions, now_s = run(scheduler, 0.5, each=seen.append)
    assert sum(step.ranks[0].num_ctx_tokens for step in seen) == 0
    assert [emission.tokens for emission in emissions] == [2, 1, 1, 1]  # the first brings the token it came with
    assert now_s == pytest.approx(0.5 + 4 * STEP_S)


def test_a_transfer_that_needs_room_starts_when_there_is_some():
    scheduler = make(limits(max_batch_size=1))
    scheduler.add(Sequence(0, 8, 11), 0.0)
    late = Sequence(1, 8, 4, kind="generation_only", transfer_s=0.03)
    scheduler.add(late, 0.0)
    run(scheduler)
    assert late.admitted_s == pytest.approx(11 * STEP_S)
    assert late.first_scheduled_s == pytest.approx(11 * STEP_S + 0.03)


def test_the_fill_gate_opens_once_everyone_has_arrived():
    scheduler = make(limits(fill_gate=3))
    for k in range(2):
        scheduler.add(Sequence(k, 8, 50, kind="generation_only", ready_s=0.2 * k), 0.0)
    assert scheduler.begin(0.3) is None
    assert scheduler.gate_problem() is None
    scheduler.add(Sequence(2, 8, 50, kind="generation_only", ready_s=0.9), 0.3)
    assert scheduler.begin(0.4) is None
    assert scheduler.wake_s() == 0.9
    step = scheduler.begin(0.9)
    assert step.ranks[0].num_gen_requests == 3
    scheduler.finish(step, step.end_s)
    scheduler.cancel(0)
    assert scheduler.begin(1.0) is not None  # it stays open


def test_a_fill_gate_that_can_never_open_says_so():
    scheduler = make(limits(fill_gate=3, kv_tokens=128))
    for k in range(3):
        scheduler.add(Sequence(k, 8, 50, kind="generation_only"), 0.0)
    assert scheduler.begin(0.0) is None
    assert "Insufficient KV cache for gen-only benchmark mode: 1 request(s)" in scheduler.gate_problem()
    assert "(currently 3)" in scheduler.gate_problem()


# ------------------------------------------------------------------------------------------------ attention DP


@given(st.integers(1, 40), st.sampled_from([2, 4, 8]))
def test_attention_dp_spreads_requests_evenly(count, ranks):
    scheduler = make(limits(f"DEP{ranks}", max_batch_size=64, max_num_tokens=512))
    for k in range(count):
        scheduler.add(Sequence(k, 8, 20), 0.0)
    step = scheduler.begin(0.0)
    assert sum(counts.num_ctx_requests for counts in step.ranks) == count
    assert max(scheduler.active_per_rank) - min(scheduler.active_per_rank) <= 1


def test_attention_dp_limits_count_per_rank():
    scheduler = make(limits("DEP4", max_batch_size=2))
    for k in range(9):
        scheduler.add(Sequence(k, 8, 20), 0.0)
    scheduler.begin(0.0)
    assert scheduler.active_per_rank == (2, 2, 2, 2)
    assert scheduler.num_queued == 1
    assert scheduler.kv_max_blocks == 4 * 512


def test_balancing_makes_a_lonely_prompt_wait_for_the_other_ranks():
    def steps_until_prompt(balance):
        scheduler = make(limits("DEP2", balance=balance))
        for k in range(2):
            scheduler.add(Sequence(k, 8, 100), 0.0)
        _, now_s = run(scheduler, steps=2)
        lonely = Sequence(2, 8, 4)
        scheduler.add(lonely, now_s)
        run(scheduler, now_s)
        return round((lonely.first_scheduled_s - now_s) / STEP_S)

    assert steps_until_prompt(None) == 0
    assert steps_until_prompt(AttentionDpBalance(timeout_iters=5, batching_wait_iters=0)) == 5


def test_balancing_lets_prompts_of_all_ranks_run_together():
    scheduler = make(limits("DEP2", balance=AttentionDpBalance(timeout_iters=50, batching_wait_iters=0)))
    for k in range(2):
        scheduler.add(Sequence(k, 8, 100), 0.0)
    _, now_s = run(scheduler, steps=2)
    for k in range(2, 4):
        scheduler.add(Sequence(k, 8, 4), now_s)
    assert [counts.num_ctx_requests for counts in scheduler.begin(now_s).ranks] == [1, 1]


def test_prompts_wait_for_further_ones_while_something_generates():
    def waited(gathering, prompts=1, mapping="TP2"):
        scheduler = make(limits(mapping, gathering=gathering))
        scheduler.add(Sequence(0, 8, 200), 0.0)
        _, now_s = run(scheduler, steps=2)
        late = [Sequence(1 + k, 8, 4) for k in range(prompts)]
        for seq in late:
            scheduler.add(seq, now_s)
        run(scheduler, now_s)
        return round((late[0].first_scheduled_s - now_s) / STEP_S)

    budget = limits("TP2").token_budget
    assert waited(None) == 0
    assert waited(PromptGathering(5, 1.0)) == 5
    assert waited(PromptGathering(0, 1.0)) == 0  # iterations limit it
    assert waited(PromptGathering(5, 17 / budget), prompts=2) == 0  # 16 tokens of prompts and one of generation
    assert waited(PromptGathering(5, 17.5 / budget), prompts=2) == 5
    assert waited(PromptGathering(5, 1.0), mapping="DEP2") == 0  # ranks would have to agree
    scheduler = make(limits("TP2", gathering=PromptGathering(5, 1.0)))
    scheduler.add(Sequence(0, 8, 4), 0.0)
    assert scheduler.begin(0.0).ranks[0].num_ctx_requests == 1  # nobody waits for nothing


# ------------------------------------------------------------------------------------------------ drafts


@pytest.mark.parametrize(("mtp", "expected"), [(1, 1.8), (2, 1.8 + 0.48), (3, 1.8 + 0.48 + 0.24)])
def test_mean_tokens_per_step_follow_the_conditional_acceptance(mtp, expected):
    config = limits(
        max_batch_size=100,
        max_num_tokens=1000,
        max_seq_len=1100,
        kv_tokens=200_000,
        mtp=mtp,
        acceptance=(0.8, 0.6, 0.5),
    )
    scheduler = make(config, seed=3)
    for k in range(50):
        scheduler.add(Sequence(k, 8, 1000), 0.0)
    generating = []
    emissions, _ = run(scheduler, each=lambda step: generating.append(step.ranks[0].num_gen_requests))
    decoded = sum(emission.tokens for emission in emissions) - 50
    # about 20,000 draws of standard deviation at most 1.2: three sigma are 0.026; cut-off last steps take 0.005
    assert decoded / sum(generating) == pytest.approx(expected, abs=0.035)
    assert 1 + mtp * scheduler.accepted_tokens / scheduler.draft_tokens == pytest.approx(expected, abs=0.03)


def test_generation_tokens_count_drafts():
    scheduler = make(limits(mtp=3, forced_acceptance=3))
    scheduler.add(Sequence(0, 8, 9), 0.0)
    steps = []
    emissions, _ = run(scheduler, each=steps.append)
    assert [step.ranks[0].num_generation_tokens for step in steps] == [0, 4, 4]
    assert [emission.tokens for emission in emissions] == [1, 4, 4]


@pytest.mark.parametrize(("forced", "low", "high"), [(0, 1, 1), (1, 2, 2), (1.5, 2.4, 2.6), (7, 4, 4)])
def test_forced_acceptance(forced, low, high):
    scheduler = make(limits(mtp=3, forced_acceptance=forced, max_seq_len=4096))
    scheduler.add(Sequence(0, 8, 4001), 0.0)
    emissions, _ = run(scheduler)
    assert low * 0.999 <= 4000 / (len(emissions) - 1) <= high * 1.001


def test_drafts_are_reproducible_by_seed():
    def lengths(seed):
        scheduler = make(limits(mtp=2, acceptance=(0.5, 0.5)), seed)
        scheduler.add(Sequence(0, 8, 300), 0.0)
        return [emission.tokens for emission in run(scheduler)[0]]

    assert lengths(1) == lengths(1)
    assert lengths(1) != lengths(2)


def test_missing_or_impossible_acceptance_is_refused():
    with pytest.raises(ValueError, match="mtp=3 needs 3 acceptance rates, got 1"):
        make(limits(mtp=3, acceptance=(0.8,)))
    with pytest.raises(ValueError, match="not probabilities"):
        make(limits(mtp=1, acceptance=(1.8,)))


# ------------------------------------------------------------------------------------------------ steps


def test_steps_come_one_at_a_time():
    scheduler = make(limits())
    assert scheduler.begin(0.0) is None
    scheduler.add(Sequence(0, 8, 3), 0.0)
    step = scheduler.begin(0.0)
    with pytest.raises(RuntimeError, match="was not finished"):
        scheduler.begin(0.0)
    scheduler.finish(step, step.end_s)
    with pytest.raises(RuntimeError, match="not in flight"):
        scheduler.finish(step, step.end_s)


def test_used_blocks_follow_the_tokens():
    scheduler = make(limits(tokens_per_block=8))
    scheduler.add(Sequence(0, 8, 20), 0.0)
    used = []
    run(scheduler, each=lambda step: used.append(scheduler.kv_used_blocks))
    # cached tokens before each step: 0, then 8, 9, 10, ...: a new block after every eight
    assert used == [0, *(-(-cached // 8) for cached in range(8, 27))]
    assert scheduler.kv_used_blocks == 0

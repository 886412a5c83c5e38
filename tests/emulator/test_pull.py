"""A prompt whose KV blocks are fetched from another server: what it costs, whom it delays, what it gives."""

import itertools

import pytest

from ratematch.emulator.iteration import Pull
from ratematch.emulator.scheduler import Scheduler, SchedulerConfig, Sequence
from ratematch.emulator.steptime import ConstantStepTime, RooflineStepTime
from ratematch.emulator.vllm.transfer import POST_IPC_S, is_local, layout
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.parallelism import parse_mapping

STEP_S = 0.01
PULL = Pull(latency_s=0.001, post_block_s=0.002, move_block_s=0.003)


def make(**changes):
    fields = {"max_batch_size": 8, "max_num_tokens": 64, "max_seq_len": 512, "kv_tokens": 4096, "tokens_per_block": 8}
    config = SchedulerConfig(parse_mapping("TP1"), **{**fields, "chunked_prefill": True, "chunk_unit": 1, **changes})
    return Scheduler(config, ConstantStepTime(STEP_S))


def finish(scheduler, step):
    return scheduler.finish(step, step.end_s)


def test_the_blocks_are_posted_and_moved_and_then_one_token_of_the_prompt_is_computed():
    scheduler = make()
    seq = Sequence(1, prompt_len=20, max_tokens=3, pull=PULL)
    scheduler.add(seq, 0.0)
    assert scheduler.begin(0.0) is None and scheduler.fetching_per_rank == (1,)
    assert seq.pulled == 3
    assert scheduler.wake_s() == pytest.approx(0.001 + 3 * (0.002 + 0.003))

    step = scheduler.begin(scheduler.wake_s())
    assert step.loads[0].ctx_tokens == 1 and step.loads[0].ctx_attended == 20
    assert step.duration_s == pytest.approx(STEP_S), "posting was over before this step"
    told = finish(scheduler, step)
    while (step := scheduler.begin(step.end_s)) is not None:
        told += finish(scheduler, step)
    assert [(emission.tokens, emission.first, emission.finished) for emission in told] == [
        (1, True, False),
        (1, False, False),
        (1, False, True),
    ]
    assert scheduler.kv_used_blocks == 0


def test_posting_makes_the_step_of_those_longer_that_generate_meanwhile():
    scheduler = make()
    scheduler.add(Sequence(1, prompt_len=8, max_tokens=50), 0.0)
    step = scheduler.begin(0.0)
    finish(scheduler, step)
    scheduler.add(Sequence(2, prompt_len=40, max_tokens=5, pull=PULL), step.end_s)
    posted = scheduler.begin(step.end_s)
    assert posted.duration_s == pytest.approx(STEP_S + 5 * PULL.post_block_s)
    finish(scheduler, posted)
    after = scheduler.begin(posted.end_s)
    assert after.duration_s == pytest.approx(STEP_S), "only the step that began the pull"


def test_only_blocks_that_are_not_in_the_cache_are_fetched():
    scheduler = make(block_reuse=True)
    hashes = (11, 12, 13, 14)
    first = Sequence(1, prompt_len=36, max_tokens=1, prompt_hash=hashes, pull=PULL)
    scheduler.add(first, 0.0)
    scheduler.begin(0.0)
    finish(scheduler, scheduler.begin(scheduler.wake_s()))
    again = Sequence(2, prompt_len=36, max_tokens=1, prompt_hash=(*hashes[:3], 99), pull=PULL)
    scheduler.add(again, 1.0)
    scheduler.begin(1.0)
    assert (first.pulled, first.reused) == (5, 0)
    assert (again.pulled, again.reused) == (2, 24)


def test_pulls_share_the_link_one_after_the_other():
    scheduler = make()
    seqs = [Sequence(index, prompt_len=80, max_tokens=1, pull=PULL) for index in range(3)]
    for seq in seqs:
        scheduler.add(seq, 0.0)
    scheduler.begin(0.0)
    ready = [seq.ready_s for seq in seqs]
    assert ready[0] == pytest.approx(0.001 + 10 * 0.005)
    assert [b - a for a, b in itertools.pairwise(ready)] == pytest.approx([10 * 0.003] * 2)


def test_a_cancelled_pull_leaves_nothing():
    scheduler = make()
    scheduler.add(Sequence(1, prompt_len=20, max_tokens=3, pull=PULL), 0.0)
    scheduler.begin(0.0)
    assert scheduler.cancel(1)
    assert scheduler.fetching_per_rank == (0,) and scheduler.kv_used_per_rank == (0,)
    assert scheduler.begin(1.0) is None


def test_prompt_pieces_need_not_be_whole_blocks():
    scheduler = make(tokens_per_block=128, max_num_tokens=100)
    scheduler.add(Sequence(1, prompt_len=150, max_tokens=1), 0.0)
    assert scheduler.begin(0.0).loads[0].ctx_tokens == 100


def test_descriptors_are_blocks_by_layers_by_regions():
    model, gpu = load_model("llama-3.3-70b"), load_gpu("h200")
    mapping = parse_mapping("TP8")
    small, large = (layout(model, mapping, "bf16", size) for size in (16, 128))
    assert small.descriptors == large.descriptors == 80 * 2, "K and V of each layer, a block"
    assert large.block_b == 8 * small.block_b
    # 2,048 tokens: 128 blocks of 16 or 16 of 128; the bytes are the same, the posting is not.
    fine, coarse = small.pull(gpu, local=True), large.pull(gpu, local=True)
    assert 128 * fine.post_block_s == pytest.approx(128 * 160 * POST_IPC_S)
    assert 128 * fine.post_block_s == pytest.approx(8 * 16 * coarse.post_block_s)
    assert 128 * fine.move_block_s == pytest.approx(16 * coarse.move_block_s)
    assert small.pull(gpu, local=False).post_block_s < fine.post_block_s
    assert layout(load_model("deepseek-r1"), parse_mapping("DEP8"), "fp8", 64).descriptors == 61


def test_what_is_local():
    assert is_local("127.0.0.1") and is_local("localhost") and is_local("::1")
    assert not is_local("192.0.2.7") and not is_local("node-17")


def served(block_size: int, requests: int = 96, at_once: int = 32) -> float:
    """Requests per second of a decode server of Qwen3-8B on one H200 that pulls 2,048 tokens for each request."""
    model, mapping, gpu = load_model("qwen3-8b"), parse_mapping("TP1"), load_gpu("h200")
    config = SchedulerConfig(
        mapping, 64, 8192, 4096, kv_tokens=400_000, tokens_per_block=block_size, chunked_prefill=True, chunk_unit=1
    )
    scheduler = Scheduler(config, RooflineStepTime(model, gpu, mapping, "bf16", "bf16"))
    pull = layout(model, mapping, "bf16", block_size).pull(gpu, local=True)
    now_s, sent, done = 0.0, 0, 0
    while done < requests:
        while sent < requests and sent - done < at_once:
            scheduler.add(Sequence(sent, prompt_len=2048, max_tokens=128, pull=pull), now_s)
            sent += 1
        step = scheduler.begin(now_s)
        if step is None:
            now_s = scheduler.wake_s()
            continue
        now_s = step.end_s
        done += sum(emission.finished for emission in scheduler.finish(step, now_s))
    return requests / now_s


def test_small_blocks_cost_throughput_and_large_ones_hardly_any():
    fine, coarse = served(16), served(128)
    per_request_s = 1 / fine - 1 / coarse
    posted_s = (9216 - 1152) * POST_IPC_S
    assert per_request_s == pytest.approx(posted_s, rel=0.15), "9,216 descriptors a request instead of 1,152"
    assert fine < 0.9 * coarse

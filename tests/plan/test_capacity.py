"""How many requests an instance holds, and what a sweep drops because of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.emulator.environment import read_environment
from ratematch.emulator.errors import SettingsError
from ratematch.emulator.iteration import Kind
from ratematch.emulator.scheduler import Sequence
from ratematch.emulator.trtllm.assembly import build
from ratematch.emulator.trtllm.settings import worker_settings
from ratematch.engines.trtllm_serve.render import kv_settings, worker_config
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.capacity import KvSettings, find_capacity
from ratematch.plan.deployment import Deployment, Role, ServerGroup
from ratematch.plan.limits import with_limits
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.workload import Workload
from tests.support.invented import experiment
from tests.support.sweeptext import GOOD, expanded, parse

FP8 = KvSettings(0.9, "fp8")
R1, GB200 = load_model("deepseek-r1"), load_gpu("gb200")


def gen(mapping: Parallelism, batch: int, mtp: int = 0) -> ServerGroup:
    return ServerGroup("gen", mapping, mtp=mtp, max_batch_size=batch, max_num_tokens=batch * (mtp + 1))


def test_slots_count_per_attention_dp_rank() -> None:
    short = Workload(64, 8)
    tensor = find_capacity(gen(Parallelism(tp=4, ep=4), 16), short, R1, GB200, FP8)
    data = find_capacity(gen(Parallelism(tp=4, ep=4, attention_dp=True), 16), short, R1, GB200, FP8)
    assert (tensor.requests, data.requests) == (16, 64)
    assert "16 sequence slots" in tensor.explanation and "16 x 4 ranks = 64" in data.explanation


def test_kv_memory_limits_long_requests() -> None:
    """The worked sum of a public study: about 129 requests of 8,448 tokens a GPU for R1 in FP8 on 8 H200."""
    group = gen(Parallelism(tp=8, ep=8, attention_dp=True), 4096)
    capacity = find_capacity(group, Workload(8192, 256), R1, load_gpu("h200"), KvSettings(0.8, "fp8"))
    assert 0.7 * 129 <= capacity.requests / 8 <= 1.3 * 129
    assert "tokens a request x 8 ranks" in capacity.explanation


def test_weights_that_do_not_fit_leave_no_room() -> None:
    capacity = find_capacity(gen(Parallelism(tp=8, ep=8), 8), Workload(64, 8), R1, load_gpu("h100"), FP8)
    assert capacity.requests == 0
    assert "the weights do not fit" in capacity.explanation and "84.3 GB weights" in capacity.explanation


def test_combinations_that_hold_nothing_are_dropped_with_the_sum() -> None:
    sweep = parse(GOOD)
    small = replace(sweep, gpu=replace(sweep.gpu, memory_b=90e9))
    expansion = expanded(small)
    assert [e.deployment.label for e in expansion.experiments] == ["gen1xDEP8-mtp0", "gen1xDEP8-mtp1"]
    assert all("the weights do not fit" in dropped.reason for dropped in expansion.dropped)
    assert {dropped.stage for dropped in expansion.dropped} == {"ctx", "gen"}


def test_loads_beyond_the_slots_are_dropped_and_the_rest_is_kept() -> None:
    sweep = parse(GOOD, "gen.axes.max_batch_size=4")
    expansion = expanded(sweep)
    tep = next(e for e in expansion.experiments if e.deployment.label == "gen1xTEP4-mtp0")
    assert [load.concurrency for load in tep.loads if isinstance(load, Concurrency)] == [1]
    reasons = [d.reason for d in expansion.dropped if d.combination.endswith("at 64 in flight")]
    assert reasons and all("sequence slots" in reason for reason in reasons)


@pytest.mark.parametrize("isl", [100, 8191, 8192, 8193, 20000])
@pytest.mark.parametrize("mtp", [0, 3])
def test_derived_limits_take_the_whole_prompt_and_its_first_step(isl: int, mtp: int) -> None:
    for role in ("ctx", "agg"):
        group = with_limits(ServerGroup(role, Parallelism(tp=8, ep=8), mtp=mtp), Workload(isl, 16), 4)
        assert group.max_num_tokens is not None and group.max_num_tokens >= isl + mtp + 1
        assert find_capacity(group, Workload(isl, 16), R1, GB200, FP8).requests >= 1


def test_prompts_longer_than_a_step_need_chunked_prefill() -> None:
    group = ServerGroup("ctx", Parallelism(tp=8, ep=8), max_batch_size=1, max_num_tokens=8192)
    capacity = find_capacity(group, Workload(8193, 1), R1, GB200, FP8)
    assert capacity.requests == 0
    assert "max_num_tokens 8192 is less than ISL 8193" in capacity.explanation
    assert find_capacity(group, Workload(8193, 1), R1, GB200, replace(FP8, chunked_prefill=True)).requests > 0
    shared = replace(group, mapping=Parallelism(tp=8, ep=8, cp=2))
    assert find_capacity(shared, Workload(16384, 1), R1, GB200, FP8).requests > 0, "each cp rank has its share"
    assert "ISL 16385 / cp 2" in find_capacity(shared, Workload(16385, 1), R1, GB200, FP8).explanation


@pytest.mark.parametrize("role", ["ctx", "agg"])
@pytest.mark.parametrize("mtp", [0, 1, 3])
@pytest.mark.parametrize("isl", [1000, 8192])
def test_a_prompt_of_exactly_max_num_tokens_is_taken(role: Role, mtp: int, isl: int) -> None:
    group = ServerGroup(role, Parallelism(tp=8, ep=8), mtp=mtp, max_batch_size=1, max_num_tokens=isl)
    assert find_capacity(group, Workload(isl, 16), R1, GB200, FP8).requests >= 1
    served = replace(experiment(deployment=Deployment(agg=group), workload=Workload(isl, 16)), model="deepseek-r1")
    config = worker_config(served, group)
    settings = worker_settings("deepseek-r1", {}, set(), config, "1.2")
    scheduler = build(settings, read_environment({"RATEMATCH_EMULATED_GPU": "gb200"})).scheduler
    kind: Kind = "context_only" if role == "ctx" else "full"
    assert settings.max_num_tokens == isl
    assert scheduler.refusal(Sequence(1, isl, 1 if role == "ctx" else 16, kind)) is None
    assert "should not exceed" in (scheduler.refusal(Sequence(2, isl + 1, 1, kind)) or "")


@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    attention_dp=st.booleans(),
    name=st.sampled_from(["deepseek-r1", "qwen3-235b-a22b", "llama-3.3-70b", "qwen3-30b-a3b"]),
    gpu=st.sampled_from(["h100", "h200", "gb200"]),
    in_flight=st.sampled_from([1, 16, 256]),
    isl=st.sampled_from([128, 1024, 8192]),
)
def test_plan_and_emulator_agree_on_what_fits(
    tp: int, attention_dp: bool, name: str, gpu: str, in_flight: int, isl: int
) -> None:
    """What the plan keeps starts on the emulator, and what has no room there was dropped by the plan."""
    model, workload = load_model(name), Workload(isl, 128)
    mapping = Parallelism(tp=tp, ep=tp if model.moe else 1, attention_dp=attention_dp)
    group = with_limits(ServerGroup("agg", mapping), workload, in_flight)
    capacity = find_capacity(group, workload, model, load_gpu(gpu), kv_settings(group))
    served = replace(experiment(deployment=Deployment(agg=group), workload=workload), model=name, model_path=name)
    config = worker_config(served, group)
    try:
        build(worker_settings(name, {}, set(), config, "1.2"), read_environment({"RATEMATCH_EMULATED_GPU": gpu}))
        starts = True
    except SettingsError as error:
        assert "insufficient GPU memory" in str(error), error
        starts = False
    if capacity.requests >= 1:
        assert starts, capacity.explanation
    if not starts:
        assert capacity.requests == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.5])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        find_capacity(gen(Parallelism(tp=4), 4), Workload(8, 8), R1, GB200, KvSettings(fraction, "fp8"))

"""What the plan lets through, the emulator takes: files, memory, and a request of the workload; and the other way
round, what the emulator refuses was refused by the plan first, with a message that says why."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ratematch.campaign.precheck import expand_sweep, refuse_unlaunchable
from ratematch.emulator.environment import read_environment
from ratematch.emulator.errors import SettingsError
from ratematch.emulator.scheduler import Sequence
from ratematch.emulator.trtllm.assembly import build
from ratematch.emulator.trtllm.orchestrator_settings import orchestrator_settings
from ratematch.emulator.trtllm.settings import worker_settings
from ratematch.engines import ENGINES, find_engine
from ratematch.engines.trtllm_serve.agreement import differences, hand_over
from ratematch.errors import SweepError
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.capacity import find_capacity
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.memory import weight_bytes_per_rank
from ratematch.plan.placement import nodes_needed, place
from ratematch.plan.sweep import Sweep
from ratematch.plan.sweepfile import parse_sweep
from tests.support.examples import examples

CLUSTERS = {
    "gb200": Cluster("gb200", "gb200", gpus_per_node=4, nodes=18, emulated=True),
    "h200": Cluster("h200", "h200", gpus_per_node=8, nodes=8, emulated=True),
    "h100": Cluster("h100", "h100", gpus_per_node=8, nodes=4, emulated=True),
}
ENGINE = find_engine("trtllm-serve")


def plan(content: dict[str, Any], warnings: list[str] | None = None) -> tuple[Sweep, tuple[Experiment, ...]]:
    """What `ratematch plan` does with a sweep file; its warnings go to ``warnings``.

    Raises:
        SweepError: it refuses.
    """
    sweep = parse_sweep(
        yaml.safe_dump(content),
        "drawn.yaml",
        find_model=load_model,
        find_cluster=CLUSTERS.__getitem__,
        find_gpu=load_gpu,
        engines=ENGINES,
    )
    experiments = expand_sweep(sweep).experiments
    given = refuse_unlaunchable(sweep, experiments, here=False)
    if warnings is not None:
        warnings.extend(given)
    return sweep, experiments


def emulate(experiment: Experiment, cluster: Cluster) -> None:
    """Start-up of every process of every launch, in this process, and one request of the workload.

    Raises:
        SettingsError: a process refuses its files, or a server the request.
    """
    for part in experiment.launches():
        nodes = [f"n{index}" for index in range(nodes_needed(part.deployment, cluster.gpus_per_node))]
        launch = ENGINE.plan_launch(part, place(part.deployment, cluster, nodes, 8000), cluster, 60.0)
        files = {file.path: file.content for file in launch.files}
        for process in launch.processes:
            environment = read_environment(dict(process.env))
            config = yaml.safe_load(files[f"{process.role}.yaml"])
            if process.role == "orchestrator":
                orchestrator_settings(config, environment, start_timeout_s=1, request_timeout_s=1)
                continue
            told = worker_settings(
                experiment.model,
                {"host": process.host, "port": process.port},
                ("host", "port"),
                config,
                environment.version,
                environment.unchecked,
            )
            scheduler = build(told, environment).scheduler
            kind = {"ctx": "context_only", "gen": "generation_only", "agg": "full"}[process.role]
            osl = 1 if process.role == "ctx" else experiment.workload.osl
            asked = Sequence(1, experiment.workload.isl, osl, kind)  # type: ignore[arg-type]
            if why := scheduler.refusal(asked):
                raise SettingsError(why)
            gate, slots = scheduler.config.fill_gate, scheduler.config.slots * told.mapping.dp_ranks
            if gate is not None and gate > slots:
                raise SettingsError(f"a batch of {gate} never fills: {slots} slots")


# ---------------------------------------------------------------------------------------------------- drawn sweeps

FRAGMENTS: tuple[dict[str, Any], ...] = (
    {},
    {"kv_cache_config": {"free_gpu_memory_fraction": 0.1}},
    {"kv_cache_config": {"dtype": "auto"}},
    {"kv_cache_config": {"tokens_per_block": 64}},
    {"kv_cache_config": {"enable_block_reuse": True, "event_buffer_max_size": 1024}},
    {"cuda_graph_config": None},
    {"cuda_graph_config": {"max_batch_size": 64}},
    {"cuda_graph_config": {"batch_sizes": [1, 2, 4]}},
    {"cuda_graph_config": {"batch_sizes": [1, 2, 4], "max_batch_size": 8}},
    {"max_seq_len": 2048},
    {"max_seq_len": 300_000},
    {"max_batch_size": 4},
    {"max_num_tokens": 1024},
    {"max_num_tokens": 1024, "enable_chunked_prefill": True},
    {"moe_config": {"backend": "WIDEEP"}},
    {"moe_config": {"backend": "CUTEDSL", "load_balancer": {"num_slots": 288, "layer_updates_per_iter": 1}}},
    {"moe_config": {"load_balancer": {"num_slots": 10}}},
    {"attention_dp_config": {"enable_balance": True, "timeout_iters": 50}},
    {"attention_dp_config": {"enable_balance": True, "timeout_iters": -1}},
    {"attention_dp_config": {"kv_cache_routing": True}},
    {"cache_transceiver_config": {"backend": "NIXL"}},
    {"cache_transceiver_config": {"backend": "UCX", "transceiver_runtime": "PYTHON"}},
    {"cache_transceiver_config": {"backend": "nccl"}},
    {"cache_transceiver_config": {"kv_transfer_poll_interval_ms": 100}},
    {"num_serve_frontends": 2},
    {"stream_interval": 20, "num_postprocess_workers": 4},
    {"stream_interval": 0},
    {"moe_tensor_parallel_size": 3},
    {"no_such_key": 1},
    {"speculative_config": {"decoding_type": "Eagle3", "speculative_model": "/eagle"}},
    {"speculative_config": {"decoding_type": "NGram", "max_draft_len": 2}},
    {"cp_config": {"cp_type": "HELIX", "tokens_per_block": 32}},
)


def fragments() -> st.SearchStrategy[dict[str, Any]]:
    """Options of a stage: mostly none or one of the fragments, each of which is right for some sweeps only."""
    return st.sampled_from(({},) * (2 * len(FRAGMENTS)) + FRAGMENTS)


def axes() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "tp": st.lists(st.sampled_from([1, 2, 3, 4, 8, 16]), min_size=2, max_size=4, unique=True),
            "ep": st.sampled_from([[1, "tp"], ["tp"], ["tp"], [2], [1]]),
            "pp": st.sampled_from([1, 1, 1, 2]),
            "cp": st.sampled_from([1, 1, 1, 2]),
            "attention_dp": st.sampled_from([[True, False], [True], [False]]),
            "mtp": st.sampled_from([[0], [0], [0, 1], [0, 3], [2]]),
        },
        optional={
            "max_batch_size": st.integers(1, 64),
            "max_num_tokens": st.sampled_from([[3, 16384], [16384], [64, 4096]]),
        },
    )


def stages(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    loads = st.fixed_dictionaries(
        {"concurrency": st.lists(st.sampled_from([1, 7, 64, 2000]), min_size=1, unique=True)}
    )
    return st.fixed_dictionaries({"axes": axes(), "options": fragments(), "loads": loads, **more})


@st.composite
def sweeps(draw: st.DrawFn) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": "drawn",
        "about": "drawn",
        "model": draw(st.sampled_from(["deepseek-r1", "qwen3-235b-a22b", "llama-3.3-70b", "gpt-oss-120b"])),
        "cluster": draw(st.sampled_from(list(CLUSTERS))),
        "engine": {"version": draw(st.sampled_from(["1.2", "1.2.1", "1.3.0rc17", "1.3.0rc28", "1.4.0rc4", "main"]))},
        "workloads": [{"isl": draw(st.sampled_from([64, 1000, 8192, 40_000])), "osl": draw(st.integers(2, 2000))}],
    }
    same = draw(fragments())  # both sides of a hand-over alike, more often than chance would have it
    match draw(st.sampled_from(["ifb", "measured", "fed", "named"])):
        case "ifb":
            content["ifb"] = draw(stages())
        case "named":
            router = draw(st.sampled_from(["round_robin", "load_balancing", "kv_cache_aware", "conversation"]))
            given: dict[str, Any] = {"router": router, "loads": {"concurrency": [4, 50]}}
            mtp = draw(st.integers(0, 3))
            for role in ("ctx", "gen"):
                mapping = draw(st.sampled_from(["TP1", "TP4", "TEP4", "DEP4", "TEP8", "DEP8", "DEP16", "TP4PP2"]))
                options = {**same, **draw(fragments())}
                given[role] = {
                    "mapping": mapping,
                    "mtp": mtp,
                    "options": options,
                    "instances": draw(st.integers(1, 3)),
                }
            content["deployments"] = [given]
        case mode:
            fed = {"mode": st.just("gen_only")} if mode == "fed" else {}
            content["ctx"], content["gen"] = draw(stages()), draw(stages(**fed))
            if mode == "measured":
                content["ctx"]["options"] = content["gen"]["options"] = same
                content["e2e"] = {"router": draw(st.sampled_from(["round_robin", "conversation"]))}
    return content


@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=sweeps())
def test_what_the_plan_accepts_the_emulator_accepts(content: dict[str, Any]) -> None:
    try:
        sweep, experiments = plan(content)
    except SweepError as refused:
        event("refused by the plan")
        assert all("drawn.yaml" in line for line in str(refused).splitlines())
        return
    event("accepted" if experiments else "everything dropped")
    for experiment in experiments:
        emulate(experiment, sweep.cluster)


# ---------------------------------------------------------------------------------------------------- known mistakes


def pair(version: str = "1.2", **groups: dict[str, Any]) -> dict[str, Any]:
    """A sweep with one deployment that is right, and ``groups``' keys laid over ctx and gen."""
    return {
        "name": "drawn",
        "about": "drawn",
        "model": "deepseek-r1",
        "cluster": "gb200",
        "engine": {"version": version},
        "workloads": [{"isl": 1000, "osl": 100}],
        "deployments": [
            {
                "ctx": {"mapping": "DEP4", "mtp": 1, **groups.get("ctx", {})},
                "gen": {"mapping": "DEP4", "mtp": 1, **groups.get("gen", {})},
                "loads": {"concurrency": [8]},
                **({"orchestrator": groups["orchestrator"]} if "orchestrator" in groups else {}),
            }
        ],
    }


def options(**keys: Any) -> dict[str, Any]:
    return {"options": keys}


def whole(**keys: Any) -> dict[str, Any]:
    """A worker configuration given as a whole, right but for ``keys``."""
    return {
        "config": {
            "tensor_parallel_size": 4,
            "moe_expert_parallel_size": 4,
            "enable_attention_dp": True,
            "max_batch_size": 8,
            "max_num_tokens": 8192,
            "kv_cache_config": {"dtype": "fp8", "enable_block_reuse": False, "free_gpu_memory_fraction": 0.7},
            "cache_transceiver_config": {"backend": "DEFAULT"},
            "speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 1},
        }
        | keys
    }


def test_the_pair_that_mistakes_are_laid_over_is_right() -> None:
    for content in (pair(), pair("main"), pair(ctx=whole(), gen=whole())):
        sweep, experiments = plan(content)
        for experiment in experiments:
            emulate(experiment, sweep.cluster)
        assert len(experiments) == 1


MISTAKES = (
    ("an unknown key", pair(gen=options(max_batch_sise=4)), "max_batch_sise"),
    ("a key of main in 1.2", pair(gen=options(num_serve_frontends=2)), "it came between 1.3.0rc0 and"),
    ("a key of 1.2 in main", pair("main", gen=options(kv_cache_config={"onboard_blocks": True})), "it went in 1.3"),
    ("a backend that main gave up", pair("main", gen=options(moe_config={"backend": "WIDEEP"})), "WIDEEP"),
    (
        "MTP spelt as in main",
        pair(gen=whole(speculative_config={"decoding_type": "MTP", "max_draft_len": 1})),
        "num_nextn_predict_layers in 1.2",
    ),
    ("ep that does not divide tp", pair(gen=whole(moe_expert_parallel_size=3)), "does not divide"),
    ("KV formats that differ", pair(gen=options(kv_cache_config={"dtype": "auto"})), "kv_cache_config.dtype"),
    (
        "transceivers that differ",
        pair(ctx=options(cache_transceiver_config={"backend": "UCX"})),
        "cache_transceiver_config.backend: ctx has UCX and gen has NIXL",
    ),
    (
        "runtimes that differ",
        pair(ctx=options(cache_transceiver_config={"transceiver_runtime": "PYTHON"})),
        "transceiver_runtime: ctx has PYTHON and gen has CPP",
    ),
    (
        "a runtime on one side and the default of late 1.3 on the other",
        pair("1.3.0rc27", ctx=options(cache_transceiver_config={"transceiver_runtime": "CPP"})),
        "transceiver_runtime: ctx has CPP and gen has auto",
    ),
    (
        "UCX with the default of 1.4",
        pair("1.4", **dict.fromkeys(("ctx", "gen"), whole(cache_transceiver_config={"backend": "UCX"}))),
        "PYTHON, the default of 1.4, takes backend NIXL only, and it is UCX: write transceiver_runtime: CPP",
    ),
    (
        "no time-out in 1.4",
        pair("1.4.0rc4", gen=options(cache_transceiver_config={"kv_transfer_timeout_ms": None})),
        "the Python transceiver takes no null",
    ),
    (
        "a name of late 1.3 in early 1.3",
        pair("1.3.0rc5", gen=options(speculative_config={"acceptance_rate_threshold": 0.5})),
        "it is speculative_config.acceptance_length_threshold there",
    ),
    (
        "a name of early 1.3 in late 1.3",
        pair("1.3.0rc27", gen=options(speculative_config={"acceptance_window": 5})),
        "renamed between 1.3.0rc22 and 1.3.0rc27: speculative_config.acceptance_rate_window_size",
    ),
    (
        "no transceiver",
        pair(ctx=whole(cache_transceiver_config=None), gen=whole(cache_transceiver_config=None)),
        "off",
    ),
    ("drafts that the plan does not know of", pair(gen=whole() | {"mtp": 0}), "write mtp: 1"),
    ("a sequence too long", pair(gen=options(max_seq_len=1050)), "ISL 1000 + OSL 100 = 1100 tokens"),
    ("a prompt too long", pair(ctx=options(max_num_tokens=512)), "max_num_tokens 512"),
    ("a step too short for drafts", pair(gen=options(max_num_tokens=1)), "MTP 1 + 1 tokens a step"),
    ("weights that do not fit", pair(gen={"mapping": "TP1"}), "198.0 GB"),
    ("no memory for one request", pair(gen=options(kv_cache_config={"free_gpu_memory_fraction": 0.0001})), "needed"),
    (
        "EPLB slots that ep does not divide",
        pair(gen=options(moe_config={"load_balancer": {"num_slots": 258}})),
        "258",
    ),
    (
        "a transceiver chosen twice",
        pair(
            ctx=options(cache_transceiver_config={"backend": "UCX"}),
            gen=options(cache_transceiver_config={"backend": "UCX"})
            | {"environment": {"TRTLLM_USE_NIXL_KVCACHE": "1"}},
        ),
        "TRTLLM_USE_NIXL_KVCACHE=1",
    ),
)


@pytest.mark.parametrize(("content", "why"), [mistake[1:] for mistake in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_refused_before_anything_starts(content: dict[str, Any], why: str) -> None:
    with pytest.raises(SweepError) as refused:
        plan(content)
    assert why in str(refused.value)


MTP1 = {"decoding_type": "MTP", "max_draft_len": 1}
DOUBTS = (
    (
        "1.2",
        "drafts on gen alone",
        {"ctx": whole(speculative_config=None) | {"mtp": 0}},
        "ctx has none and gen has MTP",
    ),
    (
        "1.2",
        "drafts on ctx alone",
        {"gen": whole(speculative_config=None) | {"mtp": 0}},
        "ctx has MTP and gen has none",
    ),
    (
        "1.3",
        "drafts of two kinds",
        {
            "ctx": whole(speculative_config=MTP1),
            "gen": whole(speculative_config={"decoding_type": "NGram", "max_draft_len": 1}),
        },
        "ctx has MTP and gen has NGram",
    ),
    (
        "1.2",
        "DEFAULT and what it stands for",
        {"ctx": options(cache_transceiver_config={"backend": "DEFAULT"})},
        "ctx has DEFAULT and gen has NIXL",
    ),
    (
        "1.3.0rc28",
        "a runtime that is left to the release on one side",
        {
            "ctx": whole(cache_transceiver_config={"backend": "NIXL"}),
            "gen": whole(cache_transceiver_config={"backend": "NIXL", "transceiver_runtime": "PYTHON"}),
        },
        "ctx has auto or PYTHON and gen has PYTHON",
    ),
    (
        "1.3.0rc4",
        "a backend of early 1.3",
        {"gen": options(moe_config={"backend": "WIDEEP"})},
        "'WIDEEP' went between 1.3.0rc0",
    ),
    (
        "1.3",
        "a runtime of late 1.3",
        {
            "ctx": options(cache_transceiver_config={"transceiver_runtime": "auto"}),
            "gen": options(cache_transceiver_config={"transceiver_runtime": "auto"}),
        },
        "'auto' came between 1.3.0rc20 and",
    ),
    (
        "1.3.0rc24",
        "an option of the orchestrator that came with some candidate",
        {"orchestrator": {"num_workers": 2}},
        "orchestrator.yaml: num_workers: came between 1.3.0rc20 and 1.4.0rc1",
    ),
    (
        "1.7.0",
        "a line that is not known yet",
        {},
        "engine.version: 1.7.0 is later than all that is known, and taken for 1.4",
    ),
    (
        "1.2",
        "EPLB without attention DP",
        {"gen": {"mapping": "TEP4"} | options(moe_config={"load_balancer": {"num_slots": 288}})},
        "EPLB with attention DP",
    ),
)


@pytest.mark.parametrize(("version", "groups", "why"), [(d[0], *d[2:]) for d in DOUBTS], ids=[d[1] for d in DOUBTS])
def test_what_the_engine_takes_is_a_warning_and_the_emulator_takes_it(
    version: str, groups: dict[str, Any], why: str
) -> None:
    warnings: list[str] = []
    sweep, (experiment,) = plan(pair(version, **groups), warnings)
    assert any(why in warning for warning in warnings), warnings
    emulate(experiment, sweep.cluster)
    left, right = (hand_over(config, version) for config in _worker_files(sweep, experiment))
    assert differences(left, right) == [], "the emulator hands such caches over"


def _worker_files(sweep: Sweep, experiment: Experiment) -> list[dict[str, Any]]:
    nodes = [f"n{index}" for index in range(nodes_needed(experiment.deployment, sweep.cluster.gpus_per_node))]
    placement = place(experiment.deployment, sweep.cluster, nodes, 8000)
    files = {file.path: file.content for file in ENGINE.plan_launch(experiment, placement, sweep.cluster, 60.0).files}
    return [yaml.safe_load(files[f"{role}.yaml"]) for role in ("ctx", "gen")]


def test_a_pair_without_doubts_has_no_warning() -> None:
    for version in ("1.2", "1.3.0rc18", "main"):
        warnings: list[str] = []
        plan(pair(version), warnings)
        assert warnings == []


def test_a_variable_that_names_the_backend_again_is_no_mistake() -> None:
    ucx = options(cache_transceiver_config={"backend": "UCX"})
    plan(pair(ctx=ucx, gen=ucx | {"environment": {"TRTLLM_USE_UCX_KVCACHE": "1"}}))


def eplb(mapping: str, slots: Any, *, whole_file: bool) -> dict[str, Any]:
    size = int(mapping.removeprefix("DEP"))
    balancer = {"load_balancer": slots if isinstance(slots, str) else {"num_slots": slots}}
    if not whole_file:
        return {"mapping": mapping} | options(moe_config=balancer)
    given = whole(tensor_parallel_size=size, moe_expert_parallel_size=size, moe_config=balancer)
    return {"mapping": mapping} | given


@pytest.mark.parametrize("whole_file", [True, False])
@pytest.mark.parametrize(
    ("mapping", "slots"), [("DEP48", 288), ("DEP36", 288), ("DEP20", 260), ("DEP12", 300), ("DEP64", 256)]
)
def test_ep_divides_the_slots_where_experts_have_copies(mapping: str, slots: int, whole_file: bool) -> None:
    sweep, (experiment,) = plan(pair(gen=eplb(mapping, slots, whole_file=whole_file)))
    emulate(experiment, sweep.cluster)


@pytest.mark.parametrize("whole_file", [True, False])
@pytest.mark.parametrize(
    ("mapping", "slots", "why"),
    [
        ("DEP48", 256, "does not divide the 256 experts"),
        ("DEP48", 0, "does not divide the 256 experts"),
        ("DEP48", None, "does not divide the 256 experts"),
        ("DEP48", 300, "does not divide the 300 expert slots"),
        ("DEP48", 240, "240 is less than the 256 experts"),
    ],
)
def test_slots_that_ep_does_not_divide_are_refused(mapping: str, slots: Any, why: str, whole_file: bool) -> None:
    with pytest.raises(SweepError, match=why):
        plan(pair(gen=eplb(mapping, slots, whole_file=whole_file)))


def test_copies_of_experts_take_memory_in_the_plan_and_in_the_emulator() -> None:
    tokens = []
    for slots in (256, 384):
        sweep, (experiment,) = plan(pair(gen=eplb("DEP8", slots, whole_file=True)))
        group = experiment.deployment.gen
        assert group is not None
        capacity = find_capacity(group, experiment.workload, sweep.model, sweep.gpu, ENGINE.kv_settings(group))
        settings = worker_settings("deepseek-r1", {}, set(), group.config or {}, "1.2")
        blocks = build(settings, read_environment({"RATEMATCH_EMULATED_GPU": "gb200"})).scheduler.config.kv_blocks
        tokens.append((weight_bytes_per_rank(sweep.model, group.mapping, "nvfp4", 1, slots), -blocks))
        assert capacity.requests > 0
    assert tokens[0] < tokens[1] and tokens[0][1] < tokens[1][1], "more weights, fewer KV blocks"


def test_slots_of_a_file_are_the_files_affair() -> None:
    plan(pair(gen=eplb("DEP48", "/configs/eplb.yaml", whole_file=True)))


@pytest.mark.parametrize("where", ["options", "axis"])
def test_slots_count_for_axes_too(where: str) -> None:
    content = pair()
    axes: dict[str, Any] = {"tp": [48], "ep": ["tp"], "attention_dp": [True]}
    stage: dict[str, Any] = {"axes": axes, "loads": {"concurrency": [48]}}
    if where == "options":
        stage["options"] = {"moe_config": {"load_balancer": {"num_slots": 288}}}
    else:
        axes["options.moe_config.load_balancer.num_slots"] = [288, 300]
    del content["deployments"]
    sweep, (experiment,) = plan(content | {"gen": stage})
    assert experiment.deployment.gpus == 48
    emulate(experiment, sweep.cluster)


def test_expert_parallelism_of_a_dense_model_is_a_warning_where_it_is_written_out() -> None:
    content = pair(gen=whole(speculative_config=None) | {"mtp": 0}, ctx=whole(speculative_config=None) | {"mtp": 0})
    content["model"] = "llama-3.3-70b"
    warnings: list[str] = []
    sweep, (experiment,) = plan(content, warnings)
    assert any("llama-3.3-70b has no experts" in warning for warning in warnings)
    emulate(experiment, sweep.cluster)


ROUTERS = (
    ("1.2", {"type": "conversation"}, "Unsupported router type: conversation"),
    ("main", {"type": "kv_cache_aware", "args": {"tokens": 1}}, "router.tokens: unknown key"),
    ("main", {"type": "load_balancing", "args": {"use_tokens": True}}, "generation_only"),
)


@pytest.mark.parametrize(("version", "router", "why"), ROUTERS)
def test_a_router_the_version_does_not_take(version: str, router: dict[str, Any], why: str) -> None:
    named = pair(version)
    named["deployments"][0]["router"] = router
    chosen = {key: value for key, value in pair(version).items() if key != "deployments"}
    stage = {"axes": {"mapping": "DEP4"}, "loads": {"concurrency": 1}}
    for content in (named, {**chosen, "ctx": stage, "gen": stage, "e2e": {"router": router}}):
        with pytest.raises(SweepError) as refused:
            plan(content)
        assert why in str(refused.value), "the router of deployments that matching will choose is judged before, too"


def test_a_fill_beyond_the_slots_is_dropped_with_the_sum() -> None:
    content = {key: value for key, value in pair().items() if key != "deployments"}
    gen = {"axes": {"mapping": "DEP4", "max_batch_size": 4}, "mode": "gen_only", "supply": {"mapping": "DEP4"}}
    content["gen"] = {**gen, "loads": {"concurrency": [16, 17]}}
    sweep, experiments = plan(content)
    ((left,), dropped) = ([load.label for load in e.loads] for e in experiments), expand_sweep(sweep).dropped
    assert left[0].startswith("c16-")
    assert "17" in dropped[0].combination and "max_batch_size 4 x 4 ranks = 16 sequence slots" in dropped[0].reason

"""What a vLLM deployment is told, what is refused before it starts, and what its logs and metrics say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from ratematch.engines import find_engine
from ratematch.engines.vllm.contract import KNOWN_LINES, RELEASE_LINES, check_options, serve_flags, to_argv
from ratematch.engines.vllm.diagnosis import OWN
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.capacity import find_capacity
from ratematch.plan.cluster import Cluster, Container
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import EngineRef, Experiment, from_json, to_json
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.limits import with_limits
from ratematch.plan.load import Concurrency
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.placement import nodes_needed, place
from ratematch.plan.workload import Workload
from ratematch.slurm.srun import UNPACKED, slurm_step
from tests.diagnosis.corpus import corpus_lines

VLLM = find_engine("vllm")
NODE = Cluster("node", "h200", gpus_per_node=8, nodes=2)
WORKLOAD = Workload(2048, 256)


def group(role: Any, label: str, instances: int = 1, mtp: int = 0, **options: Any) -> ServerGroup:
    return with_limits(ServerGroup(role, parse_mapping(label), instances, mtp, options=options), WORKLOAD, 64)


def asked(deployment: Deployment, version: str = "0.32", stage: Any = "e2e") -> Experiment:
    return Experiment(
        stage=stage,
        model="qwen3-8b",
        model_path="/models/Qwen3-8B",
        engine=EngineRef("vllm", version),
        gpu="h200",
        cluster="node",
        emulated=False,
        deployment=deployment,
        workload=WORKLOAD,
        loads=(Concurrency(64, 256, 16),),
    )


def launch(experiment: Experiment, cluster: Cluster = NODE) -> LaunchPlan:
    nodes = [f"node{index}" for index in range(nodes_needed(experiment.deployment, cluster.gpus_per_node))]
    placement = place(experiment.deployment, cluster, nodes, 8000, dict.fromkeys(nodes, "127.0.0.1"))
    return VLLM.plan_launch(experiment, placement, cluster, 60.0)


def refusals(deployment: Deployment, version: str = "0.32") -> list[str]:
    experiment = asked(deployment, version)
    return VLLM.check_launch(launch(experiment), experiment, load_model("qwen3-8b"))


def flag(argv: tuple[str, ...], name: str) -> str | None:
    """The word after ``--name``; empty for one that stands alone."""
    if name not in argv:
        return None
    after = argv[argv.index(name) + 1 :]
    return after[0] if after and not after[0].startswith("--") else ""


PAIR = Deployment(ctx=group("ctx", "TP1", 2), gen=group("gen", "TP2"))


def test_a_pair_is_servers_that_hand_over_and_a_proxy_that_starts_last() -> None:
    plan = launch(asked(PAIR))
    assert plan.files == () and plan.endpoint == "http://127.0.0.1:8003"
    by_name = {spec.name: spec for spec in plan.processes}
    assert list(by_name) == ["ctx-0", "ctx-1", "gen-0", "orchestrator"]
    transfer = {
        name: json.loads(flag(by_name[name].argv, "--kv-transfer-config") or "") for name in ("ctx-0", "gen-0")
    }
    assert transfer["ctx-0"]["kv_role"] == "kv_producer" and transfer["gen-0"]["kv_role"] == "kv_consumer"
    assert {each["kv_connector"] for each in transfer.values()} == {"NixlConnector"}
    assert {each["kv_load_failure_policy"] for each in transfer.values()} == {"fail"}
    for name in ("ctx-0", "ctx-1", "gen-0"):
        spec = by_name[name]
        assert spec.argv[:3] == ("vllm", "serve", "/models/Qwen3-8B")
        assert flag(spec.argv, "--port") == str(spec.port)
        assert dict(spec.env)["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "127.0.0.1"
        assert (spec.wave, spec.ready.url) == (0, f"http://127.0.0.1:{spec.port}/health")
    proxy = by_name["orchestrator"]
    assert proxy.argv[1:3] == ("-m", "ratematch.engines.vllm.proxy")
    urls = [word for word in proxy.argv if word.startswith("http://")]
    assert urls == [f"http://127.0.0.1:{by_name[name].port}" for name in ("ctx-0", "ctx-1", "gen-0")]
    assert proxy.wave == 1


def test_every_server_has_gpus_ports_and_side_channels_of_its_own() -> None:
    deployment = Deployment(ctx=group("ctx", "DEP2", 2), gen=group("gen", "TP2"))
    plan = launch(asked(deployment))
    servers = [spec for spec in plan.processes if spec.role != "orchestrator"]
    gpus = [dict(spec.env)["CUDA_VISIBLE_DEVICES"] for spec in servers]
    assert len({gpu for each in gpus for gpu in each.split(",")}) == deployment.gpus
    # vLLM listens at the given port + its data-parallel rank.
    side = [int(dict(spec.env)["VLLM_NIXL_SIDE_CHANNEL_PORT"]) for spec in servers]
    taken = [*side, side[0] + 1, side[1] + 1, *(spec.port for spec in plan.processes)]
    assert len(set(taken)) == len(taken)
    assert max(taken) < 8000 + len(plan.processes) + VLLM.spare_ports(asked(deployment))


def test_what_servers_compile_is_kept_where_the_profile_says() -> None:
    kept = replace(NODE, emulated=False, caches="/raid/cache/")
    env = dict(launch(asked(PAIR), kept).processes[0].env)
    folder = f"/raid/cache/vllm-0.32/{asked(PAIR).model}-{asked(PAIR).gpu}"
    assert env["VLLM_CACHE_ROOT"] == f"{folder}/vllm" and env["TRITON_CACHE_DIR"] == f"{folder}/triton"
    own = dict(launch(asked(PAIR), replace(kept, environment={"VLLM_CACHE_ROOT": "/own"})).processes[0].env)
    assert own["VLLM_CACHE_ROOT"] == "/own"
    assert "VLLM_CACHE_ROOT" not in dict(launch(asked(PAIR)).processes[0].env)


def test_gen_alone_answers_itself_with_a_prefix_cache_and_ctx_has_none() -> None:
    gen = asked(Deployment(gen=group("gen", "TP1"), warmed=True), stage="gen")
    plan = launch(gen)
    (server,) = plan.processes
    assert gen.mode == "gen_only_warmed" and plan.endpoint == f"http://127.0.0.1:{server.port}"
    assert "--enable-prefix-caching" in server.argv
    assert int(flag(server.argv, "--max-num-batched-tokens") or 0) >= 2048
    (alone,) = launch(asked(Deployment(ctx=group("ctx", "TP1")), stage="ctx")).processes
    assert "--no-enable-prefix-caching" in alone.argv
    assert flag(alone.argv, "--max-model-len") == str(2048 + 40)
    (aggregated,) = launch(asked(Deployment(agg=group("agg", "TP1")), stage="ifb")).processes
    assert "--kv-transfer-config" not in aggregated.argv
    assert "VLLM_NIXL_SIDE_CHANNEL_PORT" not in dict(aggregated.env)


def test_the_same_question_to_another_engine_or_version_is_another_experiment() -> None:
    deployment = Deployment(agg=group("agg", "TP1"))
    ids = {asked(deployment, version).id for version in RELEASE_LINES}
    ids.add(replace(asked(deployment), engine=EngineRef("trtllm-serve", "1.2")).id)
    assert len(ids) == len(RELEASE_LINES) + 1
    gen = asked(Deployment(gen=group("gen", "TP1"), warmed=True))
    assert from_json(json.loads(json.dumps(to_json(gen)))) == gen


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("TP4", {"--tensor-parallel-size": "4", "--enable-expert-parallel": None, "--data-parallel-size": None}),
        ("TEP4", {"--tensor-parallel-size": "4", "--enable-expert-parallel": "", "--data-parallel-size": None}),
        ("DEP4", {"--tensor-parallel-size": None, "--enable-expert-parallel": "", "--data-parallel-size": "4"}),
        ("TP2PP2", {"--tensor-parallel-size": "2", "--pipeline-parallel-size": "2"}),
    ],
)
def test_mappings(label: str, told: dict[str, str | None]) -> None:
    (server,) = launch(asked(Deployment(agg=group("agg", label)))).processes
    assert {name: flag(server.argv, name) for name in told} == told


def test_options_go_to_the_command_line_over_the_derived_ones() -> None:
    options = {
        "block_size": 128,
        "gpu-memory-utilization": 0.8,
        "generation_config": None,
        "kv_transfer_config": {"kv_connector_extra_config": {"kv_lease_duration": 60}},
        "enforce_eager": True,
        "cudagraph_capture_sizes": [1, 2, 4],
    }
    (server,) = launch(asked(Deployment(ctx=group("ctx", "TP1", **options)))).processes
    assert flag(server.argv, "--block-size") == "128" and "--enforce-eager" in server.argv
    assert server.argv.count("--gpu-memory-utilization") == 1
    assert flag(server.argv, "--gpu-memory-utilization") == "0.8"
    assert "--generation-config" not in server.argv
    at = server.argv.index("--cudagraph-capture-sizes")
    assert server.argv[at + 1 : at + 4] == ("1", "2", "4")
    transfer = json.loads(flag(server.argv, "--kv-transfer-config") or "")
    assert transfer["kv_connector"] == "NixlConnector"
    assert transfer["kv_connector_extra_config"] == {"kv_lease_duration": 60}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"block_sise": 128}, "ctx: block_sise: no flag of vllm serve in 0.32; did you mean block_size?"),
        ({"block_size": "big"}, "ctx: block_size: 'big' is no whole number"),
        ({"no_enforce_eager": True}, "ctx: no_enforce_eager: write enforce_eager: false"),
        ({"max_num_seqs": 8}, "ctx: max_num_seqs: is set from the plan: write max_batch_size"),
        ({"tp": 2}, "ctx: tensor_parallel_size: is set from the plan: write tp or mapping"),
        ({"kv_cache_dtype": "fp9"}, "ctx: kv_cache_dtype: 'fp9' is not valid; choose from auto, "),
        ({"kv_transfer_config": {"kv_rolle": "x"}}, "ctx: kv_transfer_config.kv_rolle: is no key of it"),
        ({"speculative_config": {"num_speculative_tokens": 3}}, "write mtp: 3"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype: ctx has fp8 and gen has auto"),
        ({"block_size": 128}, "block_size: 16 of gen is no multiple of 128 of ctx"),
    ],
)
def test_what_the_server_would_refuse_is_refused_first(options: dict[str, Any], said: str) -> None:
    found = refusals(Deployment(ctx=group("ctx", "TP1", **options), gen=group("gen", "TP1")))
    assert any(said in problem for problem in found), found


def test_unchecked_options_are_passed_on() -> None:
    ctx = replace(group("ctx", "TP1", brand_new=5), unchecked=("brand_new",))
    assert refusals(Deployment(ctx=ctx, gen=group("gen", "TP1"))) == []
    assert flag(launch(asked(Deployment(ctx=ctx))).processes[0].argv, "--brand-new") == "5"


@pytest.mark.parametrize(
    ("label", "said"), [("TP4EP2", "ep must be 1 or 4"), ("TP4CP2", "context parallelism"), ("TP16", "spans nodes")]
)
def test_mappings_that_vllm_cannot_run_are_told(label: str, said: str) -> None:
    assert any(said in problem for problem in refusals(Deployment(agg=group("agg", label))))


def test_flags_are_those_of_the_version() -> None:
    old, new = (serve_flags(line) for line in KNOWN_LINES)
    assert "calculate-kv-scales" in old and "calculate-kv-scales" not in new
    assert "max-num-active-seqs" in new and "max-num-active-seqs" not in old
    assert check_options({"calculate_kv_scales": True}, "0.32") == [
        "calculate_kv_scales: no flag of vllm serve in 0.32; it exists only in 0.24"
    ]
    assert check_options({"calculate_kv_scales": True, "max_num_active_seqs": 4}, "0.28.1") == [], "either may hold"
    assert to_argv({"a": True, "b_c": False, "d": [1, "x"], "e": {"f": None}, "g": None}) == (
        *("--a", "--no-b-c", "--d", "1", "x", "--e", '{"f": null}'),
    )


def test_a_router_of_ones_own_is_given_every_server() -> None:
    argv = [
        "my-router",
        "--port={port}",
        ["--prefill", "{prefill_url}"],
        "--decode-hosts",
        "{decode_host}:{decode_port}",
    ]
    deployment = replace(PAIR, router="command", router_args={"argv": argv, "health": "/ready"})
    assert refusals(deployment) == []
    router = launch(asked(deployment)).processes[-1]
    assert router.argv == (
        *("my-router", "--port=8003", "--prefill", "http://127.0.0.1:8001", "--prefill", "http://127.0.0.1:8002"),
        *("--decode-hosts", "127.0.0.1:8000"),
    )
    assert router.ready.url == "http://127.0.0.1:8003/ready"
    for args, said in (
        ({"argv": "my-router"}, "must be a list of words"),
        ({"argv": ["x", "{prot}"]}, "unknown {prot}"),
        ({"argv": ["x"]}, "no word holds {port}"),
        ({"argv": ["x", "{port}"], "halth": "/"}, "unknown halth"),
    ):
        assert any(said in problem for problem in refusals(replace(PAIR, router="command", router_args=args)))


def test_in_slurm_a_server_is_one_task_in_the_container_and_the_proxy_runs_outside() -> None:
    cluster = replace(NODE, container=Container("/images/vllm.sqsh"))
    plan = launch(asked(PAIR), cluster)
    server, proxy = (slurm_step(plan.processes[index], cluster).argv for index in (0, -1))
    assert "--ntasks=1" in server and UNPACKED in server, "in the image that its node has unpacked"
    assert not any(word.startswith("--container") for word in proxy)


def test_block_size_decides_what_may_be_put_together_and_memory_is_a_share_of_the_whole_gpu() -> None:
    layouts = {VLLM.kv_layout(group("gen", "TP1", block_size=size), "0.32") for size in (16, 128)}
    assert len(layouts) == 2
    assert VLLM.kv_layout(group("ctx", "TP1"), "0.32") == VLLM.kv_layout(group("gen", "TP2", block_size=16), "0.32")
    model, gpu = load_model("qwen3-8b"), load_gpu("h200")
    big = replace(group("gen", "TP1"), max_batch_size=4096, max_num_tokens=8192)
    held = [
        find_capacity(each, WORKLOAD, model, gpu, VLLM.kv_settings(each)).requests
        for each in (big, replace(big, options={"gpu_memory_utilization": 0.5}))
    ]
    assert held[0] - held[1] == pytest.approx(0.4 * gpu.memory_b / (2304 * 147_456), rel=0.01)


LOG_LINES = [
    ("vllm serve: error: unrecognized arguments: --block-sise 16", "does not know one of its flags"),
    ("api_server.py: error: argument --max-model-len: invalid human_readable_int value: 'x'", "a value that this"),
    (
        "ValueError: To serve at least one request with the models's max seq len (40960), 5.6 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (3.1 GiB).",
        "no room for one request",
    ),
    ("ValueError: No available memory for the cache blocks. Try increasing", "leave no memory"),
    (
        "ValueError: Free memory on device cuda:0 (10.1/139.7 GiB) on startup is less than desired GPU memory "
        "utilization (0.9, 125.7 GiB).",
        "another program holds memory",
    ),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "the GPU ran out of memory"),
    ("RuntimeError: No CUDA GPUs are available", "found no GPU"),
    ("OSError: [Errno 98] Address already in use", "a port is in use"),
    ("RuntimeError: NIXL is not available", "has no NIXL"),
    ("RuntimeError: NIXL compatibility hash mismatch. Local: a, Remote: b.", "differ in version, model"),
    (
        "Releasing expired KV blocks for request cmpl-1 which were retrieved by 0 remote worker(s)",
        "not fetched in time",
    ),
    ("NIXL transfer failure: transfer_failed | Context: {}", "a KV transfer failed"),
    (
        "Failing 1 request(s) due to KV load failure (failure_policy=fail, 512 tokens affected).",
        "could not load the KV",
    ),
    ("OSError: /models/x is not a local folder and is not a valid model identifier listed on", "there is no model"),
    (
        "User-specified max_model_len (99999) is greater than the derived max_model_len (40960)",
        "longer than the model",
    ),
    ("This model's maximum context length is 2048 tokens.", "a request is longer"),
    ("max_num_batched_tokens (64) must be greater than or equal to max_num_seqs (128)", "fewer tokens than it must"),
    ("Total number of attention heads (32) must be divisible by tensor parallel size (3).", "do not divide by tp"),
    ("bash: vllm: command not found", "has no vllm command"),
    ("prefill server http://127.0.0.1:1 cannot be reached", "the proxy could not reach"),
    ("RuntimeError: Engine core initialization failed. See root cause above.", "the engine process behind"),
]


@pytest.mark.parametrize(("line", "cause"), LOG_LINES)
def test_a_known_line_has_a_cause(line: str, cause: str) -> None:
    text = f"INFO something\n{line}\nTraceback (most recent call last):\n"
    found = VLLM.diagnose([text])
    assert found is not None and cause in found.cause


HEALTHY = """\
(APIServer pid=7) INFO 11-26 08:03:12 [api_utils.py:286] non-default args: {'model_tag': '/models/m', 'port': 8000, \
'max_num_batched_tokens': 2048, 'max_num_seqs': 16, 'kv_transfer_config': \
KVTransferConfig(kv_connector='NixlConnector', kv_role='kv_consumer', kv_load_failure_policy='fail')}
(APIServer pid=7) WARNING 11-26 08:03:12 [system_utils.py:255] Found ulimit of 20000 and failed to automatically \
increase. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`.
(APIServer pid=7) WARNING 11-26 08:03:12 [scheduler.py:345] max_num_batched_tokens (2048) exceeds max_num_seqs * \
max_model_len (736). This may lead to unexpected behavior.
(EngineCore pid=9) INFO 11-26 08:03:20 [kv_cache_utils.py:2327] GPU KV cache size: 784,512 tokens
INFO:     Application startup complete.
(APIServer pid=7) INFO 11-26 08:04:09 [loggers.py:335] Engine 000: Avg prompt throughput: 2.5 tokens/s, \
Avg generation throughput: 1.8 tokens/s, Running: 0 reqs, Waiting: 0 reqs, GPU KV cache usage: 0.0%, \
Prefix cache hit rate: 0.0%
"""


def test_a_healthy_log_has_no_cause_and_is_known_to_be_vllms() -> None:
    assert VLLM.diagnose([HEALTHY]) is None and not VLLM.has_given_up(HEALTHY)
    assert VLLM.wrote(HEALTHY) and not find_engine("trtllm-serve").wrote(HEALTHY)
    assert VLLM.has_iterations(HEALTHY)
    assert not VLLM.has_iterations(HEALTHY.replace("2.5", "0.0").replace("1.8", "0.0")), "an idle server"


def test_every_row_of_its_own_is_tried() -> None:
    lines = [line for line, _ in LOG_LINES] + corpus_lines()
    assert [row.pattern for row in OWN if not any(re.search(row.pattern, line) for line in lines)] == []


def test_a_server_whose_engine_has_ended_is_not_waited_for() -> None:
    assert VLLM.has_given_up("(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause")
    assert not VLLM.has_given_up("(EngineCore pid=7) INFO 11-26 07:42:09 [core.py:1] Initializing a V1 LLM engine")


METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} {running}
vllm:num_requests_waiting{{engine="0",model_name="m"}} 3.0
vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} 0.25
vllm:cache_config_info{{block_size="16",engine="0",num_gpu_blocks="4000"}} 1.0
vllm:prefix_cache_queries_total{{engine="0",model_name="m"}} {asked}
vllm:prefix_cache_hits_total{{engine="0",model_name="m"}} {hits}
vllm:prompt_tokens_total{{engine="0",model_name="m"}} {asked}
vllm:iteration_tokens_total_bucket{{engine="0",le="1.0",model_name="m"}} 7.0
vllm:iteration_tokens_total_count{{engine="0",model_name="m"}} {steps}
vllm:iteration_tokens_total_sum{{engine="0",model_name="m"}} 9000.0
"""


def test_metrics_are_told_under_the_common_names_as_what_grew() -> None:
    read = VLLM.iteration_reader()
    first = METRICS.format(running=8.0, asked=1000.0, hits=0.0, steps=100.0)
    assert read(first.encode(), 0) == [], "growth needs two looks"
    (step,) = read(METRICS.format(running=8.0, asked=3000.0, hits=1500.0, steps=150.0).encode(), 500_000_000)
    assert (step.iter, step.rank, step.active, step.queued) == (150, 0, 8.0, 3.0)
    assert (step.kv_used_blocks, step.kv_max_blocks) == (1000.0, 4000.0)
    assert (step.ctx_tokens, step.cache_hit_rate, step.step_ms) == (2000.0, 0.75, 10.0)
    assert read(METRICS.format(running=0.0, asked=3000.0, hits=1500.0, steps=150.0).encode(), 10**9) == [], "idle"
    with pytest.raises(ValueError, match="no iterations"):
        read(b"[]", 0)


def histogram(name: str, total: float, count: int) -> dict[str, float]:
    labels = '{engine="0",model_name="m"}'
    return {f"vllm:{name}_sum{labels}": total, f"vllm:{name}_count{labels}": float(count)}


def test_the_times_of_a_handed_over_request_come_from_both_sides() -> None:
    ctx = histogram("request_queue_time_seconds", 1.0, 10) | histogram("request_prefill_time_seconds", 2.0, 10)
    gen = (
        histogram("request_queue_time_seconds", 0.5, 10)
        | histogram("request_prefill_time_seconds", 0.1, 10)
        | histogram("request_decode_time_seconds", 20.0, 10)
        | histogram("nixl_xfer_time_seconds", 0.4, 10)
        | histogram("nixl_post_time_seconds", 0.3, 10)
        | histogram("nixl_bytes_transferred", 3020.0, 10)
        | histogram("nixl_num_descriptors", 92160.0, 10)
    )
    stages = VLLM.read_stages([ctx], [gen], 3.0)
    assert stages is not None and stages.num == 10
    assert (stages.ctx_queue_s, stages.prefill_s, stages.kv_transfer_s) == pytest.approx((0.1, 0.2, 0.04))
    assert (stages.gen_queue_s, stages.decode_s) == pytest.approx((0.01, 2.01))
    assert (stages.kv_descriptors, stages.kv_b, stages.kv_posting) == pytest.approx((9216, 302, 0.1))
    assert stages.kv_expired == 0
    expired = ctx | {'vllm:nixl_num_kv_expired_reqs_total{engine="0"}': 2.0}
    again = VLLM.read_stages([expired], [gen], 3.0)
    assert again is not None and again.kv_expired == 2
    assert VLLM.read_stages([ctx], [histogram("request_queue_time_seconds", 0.5, 10)], 3.0) is None


HELP = """\
usage: vllm serve [model_tag] [options]
  --host HOST           Host name. (default: None)
  --port PORT
  --max-num-seqs N, --max-num-batched-tokens N
  --max-model-len N
  --kv-transfer-config KV
  --enable-prefix-caching, --no-enable-prefix-caching
"""


def test_an_installation_tells_its_version_and_flags() -> None:
    version, serve = VLLM.judge_probe({"version": "INFO importing\n0.32.0\n", "serve": HELP})
    assert version.ok and 'engine: {name: vllm, version: "0.32"}' in version.found
    assert serve.ok and serve.found.startswith("7 of ")
    found = VLLM.judge_probe({"version": "0.32.0", "serve": HELP.replace("--max-num-seqs", "--most-seqs")})
    assert not found[1].ok and "--max-num-seqs" in found[1].found
    assert not VLLM.judge_probe({"version": "0.9.1", "serve": HELP})[0].ok
    assert not VLLM.judge_probe({"version": "vllm: command not found"})[0].ok

"""Dynamo's room: settings by release, rendered launches, what is refused, reports, diagnosis and probes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ratematch.campaign import doctor
from ratematch.engines import ENGINES, find_engine
from ratematch.engines.dynamo import TRTLLM, VLLM
from ratematch.engines.dynamo.commandline import VERSIONS
from ratematch.engines.dynamo.contract import RELEASE_LINES, check_flags, flags, pinned_backend, spell_flags
from ratematch.engines.dynamo.places import spare_ports
from ratematch.engines.dynamo.services import nginx_config
from ratematch.errors import PlacementError, SweepError, UserError
from ratematch.inputs.find import read_sweep
from ratematch.measure.breakdown import Breakdown
from ratematch.measure.servermetrics import doubt_iterations
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import EngineRef, from_json, to_json
from ratematch.plan.launchplan import START
from ratematch.plan.load import Concurrency
from ratematch.plan.placement import count_ports
from ratematch.plan.workload import Workload
from ratematch.run.programs import refuse_missing
from tests.engines.golden import gen_only, pair
from tests.engines.golden_dynamo import CASES, EACH, FOLDER, ONE, SEVERAL, dynamo_experiment, launch, render
from tests.support.invented import LAPTOP

ROOT = Path(__file__).parents[2]


def wrong(given: dict[str, Any], version: str = "1.6.1") -> list[str]:
    """What is said against keys below ``engine``, a line each."""
    found = ENGINES["dynamo"].read_settings(version, given)
    assert isinstance(found, list), found
    return [f"{'.'.join(each.path)}: {each.what} ({each.fix})" for each in found]


# ------------------------------------------------------------------------------------------------ golden files


@pytest.mark.parametrize(("name", "version"), EACH)
def test_rendered_files_are_the_committed_ones(name: str, version: str) -> None:
    """After a change that was meant: python -m tests.engines.golden_dynamo, and read the diff."""
    folder = FOLDER / name / version
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == render(name, version)


@pytest.mark.parametrize(("name", "version"), EACH)
def test_the_contract_takes_every_case(name: str, version: str) -> None:
    asked = dynamo_experiment(*CASES[name], version)
    assert find_engine(asked.engine.key).check_launch(launch(asked), asked) == []


def test_no_file_is_left_over() -> None:
    assert {(folder.parent.name, folder.name) for folder in FOLDER.glob("*/*")} == set(EACH)


def arguments_of(plan: Any) -> list[list[Any]]:
    """The arguments of each process that a parser of Dynamo's reads."""
    found = []
    for spec in plan.processes:
        for program in ("trtllm", "frontend"):
            if (module := f"dynamo.{program}") in spec.argv:
                found.append([program, list(spec.argv[spec.argv.index(module) + 1 :])])
    return found


@pytest.mark.skipif(find_spec("dynamo") is None, reason="NOT CHECKED: the real Dynamo is not installed here")
def test_the_real_parsers_take_what_is_rendered_and_know_the_flags_of_the_contract() -> None:
    """Those of 1.6.1, with a stub of the engine's package; and they refuse what went in earlier releases."""
    rendered = [each for case in CASES.values() for each in arguments_of(launch(dynamo_experiment(*case)))]
    gone = [
        ["trtllm", ["--migration-limit", "0"]],
        ["trtllm", ["--store-kv", "file"]],
        ["trtllm", ["--disaggregation-mode", "prefill_and_decode"]],
        ["trtllm", ["--request-plane", "http"]],
        ["frontend", ["--store-kv", "file"]],
    ]
    values = {"int": ["3"], "float": ["0.5"], "str": ["x"]}
    single = []
    for program in ("trtllm", "frontend"):
        for name, rule in flags(program, "1.6").items():  # type: ignore[arg-type]
            value = [str(rule["choices"][0])] if rule.get("choices") else values.get(rule["type"], [])
            single.append([program, [f"--{name}", *value]])
    answered = subprocess.run(
        [sys.executable, "-m", "tests.support.dynamo_parsers"],
        input=json.dumps([*rendered, *gone, *single]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=True,
    )
    answers = json.loads(answered.stdout.splitlines()[-1])
    assert answers[: len(rendered)] == [None] * len(rendered)
    assert all(answers[len(rendered) : len(rendered) + len(gone)]), "what went is refused"
    unknown = [
        words
        for (_, words), answer in zip(single, answers[-len(single) :], strict=True)
        if "exit 1" in (answer or "")
    ]
    assert unknown == [], "any other answer is about the value"


# ------------------------------------------------------------------------------------------------ settings


def test_an_engine_of_one_line_has_every_setting_and_the_version_that_its_release_pins() -> None:
    filled = ENGINES["dynamo"].read_settings("0.9.0", {})
    assert isinstance(filled, dict)
    assert (filled["backend"], filled["backend_version"], filled["event_plane"]) == ("trtllm", "1.3.0rc1", "zmq")
    newest = ENGINES["dynamo"].read_settings("1.6.1", {"backend": "vllm"})
    assert isinstance(newest, dict) and newest["backend_version"] == "0.31.0"
    assert all(pinned_backend(line, "trtllm") for line in RELEASE_LINES)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"frontend": 2}, "unknown key 'frontend' (valid keys: name, version, backend"),
        ({"frontends": 0}, "frontends: must be a whole number from 1 to 64, not 0"),
        ({"frontends": True}, "frontends: must be a whole number from 1 to 64, not True"),
        ({"nginx": "yes"}, "nginx: must be true or false, not 'yes'"),
        ({"backend": "sglang"}, "backend: unknown backend 'sglang' (known: trtllm, vllm)"),
        ({"backend_version": "soon"}, "unknown version 'soon' of TensorRT-LLM"),
        ({"discovery": "mem"}, "discovery: 'mem' is not valid in Dynamo 1.6 (choose from file, etcd)"),
        ({"request_plane": "http"}, "request_plane: 'http' is not valid in Dynamo 1.6 (choose from nats, tcp)"),
        ({"router_mode": "round_robin"}, "router_mode: 'round_robin' is not valid in Dynamo 1.6"),
        ({"frontend_args": {"router-temperature": "hot"}}, "frontend_args.router-temperature: 'hot' is no number"),
        ({"frontend_args": {"http_port": 80}}, "--http-port is set from the plan"),
        ({"frontend_args": {"migration-limit": 3}}, "must stay off while it is measured"),
        ({"frontend_args": {"router_conditional_disagg": True}}, "must stay off while it is measured"),
        ({"frontend_env": {"DYN_MIGRATION_LIMIT": "3"}}, "DYN_MIGRATION_LIMIT is set for the measurement"),
        ({"frontend_env": {"DYN_LOG": 1}}, "frontend_env: must be a map of texts"),
        ({"worker_args": {"max-batch-size": 3}}, "write max_batch_size"),
        ({"worker_args": {"override_engine_args": "{}"}}, "write options"),
        ({"programs": {"etcdctl": "/x"}}, "unknown program 'etcdctl' (known: etcd, nats-server, nginx)"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_would_be_right(given: dict[str, Any], said: str) -> None:
    assert any(said in line for line in wrong(given)), wrong(given)


@pytest.mark.parametrize(
    ("program", "version", "flag", "successor"),
    [
        ("trtllm", "1.6.1", "disaggregation_strategy", "disaggregation-mode"),
        ("trtllm", "0.8.1", "next-endpoint", "the frontend finds the workers"),
        ("trtllm", "1.6.1", "migration-limit", "frontend_args"),
        ("trtllm", "1.0.2", "store-kv", "discovery-backend"),
        ("trtllm", "1.1.0", "dyn-endpoint-types", None),
        ("frontend", "1.6.1", "store_kv", "discovery-backend"),
        ("frontend", "1.2.1", "router-ttl", "router-ttl-secs"),
        ("frontend", "1.1.0", "decode-fallback", "topology follows"),
        ("vllm", "1.5.1", "is-prefill-worker", "disaggregation-mode: prefill"),
        ("frontend", "0.8.0", "migration-limit", "it is there from 1.0 to 1.6"),
        ("frontend", "1.6.1", "router-temprature", "did you mean router-temperature?"),
    ],
)
def test_a_flag_that_went_is_refused_by_name_with_its_successor(
    program: Any, version: str, flag: str, successor: str | None
) -> None:
    said = [problem for _, problem in check_flags(program, version, {flag: "x"})]
    if successor is None:
        assert said == []  # an alias of the flag that took its place
    else:
        assert len(said) == 1 and successor in said[0], said


def test_a_spelling_that_became_two_flags_is_both() -> None:
    old = {"publish_events_and_metrics": True}
    assert spell_flags("trtllm", "1.2.1", old) == {"publish-events-and-metrics": True}
    assert spell_flags("trtllm", "1.5.1", old) == {"publish-kv-events": True}
    assert spell_flags("trtllm", "1.6.1", old) == {"publish-kv-events": True, "publish-metrics": True}
    assert spell_flags("trtllm", "1.6.1", {"no-publish-metrics": True}) == {"publish-metrics": False}


def test_vllm_flags_are_known_for_the_newer_releases_only_and_the_others_say_so() -> None:
    (line,) = wrong({"backend": "vllm"}, "1.1.0")
    assert "vLLM 0.19.0 is not known" in line and "use Dynamo 1.4 to 1.6" in line


def test_settings_are_a_part_of_what_an_experiment_is_and_come_back_from_its_file() -> None:
    one = dynamo_experiment(ONE, {})
    two = dynamo_experiment(ONE, {"frontends": 2, "nginx": True})
    assert one.id != two.id and from_json(json.loads(json.dumps(to_json(two)))) == two
    assert one.stack == "dynamo 1.6.1 (trtllm 1.3.0rc29)"
    plain = EngineRef("trtllm-serve", "1.2")
    assert plain.to_json() == {"name": "trtllm-serve", "version": "1.2"}, "ids from before the keys stay"
    assert replace(one, engine=plain).stack == "trtllm-serve 1.2"


# ------------------------------------------------------------------------------------------------ rendering


def test_every_process_has_a_port_of_its_own_within_those_that_are_counted() -> None:
    given = {"frontends": 3, "nginx": True, "request_plane": "nats"}
    for deployment in (SEVERAL, Deployment(ctx=ONE.ctx)):
        asked = dynamo_experiment(deployment, given)
        plan = launch(asked)
        ports = [port for spec in plan.processes for port in (spec.port, *spec.further_ports)]
        assert len(set(ports)) == len(ports)
        assert max(ports) < 8000 + count_ports(deployment) + spare_ports(asked)
        assert plan.endpoint.endswith(f":{next(spec.port for spec in plan.processes if spec.name == 'nginx')}")


def test_a_start_has_a_namespace_and_a_discovery_of_its_own() -> None:
    plan = launch(dynamo_experiment(ONE, {"discovery": "file"}))
    names = {dict(spec.env)["DYN_NAMESPACE"] for spec in plan.processes}
    assert names == {f"ratematch-{START}"}
    first, second = plan.started("a1"), plan.started("b2")
    assert {dict(spec.env)["DYN_NAMESPACE"] for spec in first.processes} == {"ratematch-a1"}
    assert first != second and first.files == plan.files
    assert dict(plan.processes[0].env)["DYN_FILE_KV"] == "discovery", "below the launch folder, which is new"


def test_workers_and_frontends_are_told_what_keeps_a_measurement_what_it_is() -> None:
    loads = (Concurrency(8192, 16384),)
    plan = launch(dynamo_experiment(ONE, {}, loads=loads))
    worker = dict(next(spec for spec in plan.processes if spec.name == "gen-0").env)
    assert worker["DYN_ENGINE_REQUEST_LIMIT"] == "16384" and worker["DYN_HEALTH_CHECK_ENABLED"] == "false"
    frontend = next(spec for spec in plan.processes if spec.role == "orchestrator").argv
    assert frontend[frontend.index("--migration-limit") + 1] == "0" and "--no-router-conditional-disagg" in frontend
    old = launch(dynamo_experiment(ONE, {}, "0.8.1"))
    gen = next(spec for spec in old.processes if spec.name == "gen-0").argv
    assert gen[gen.index("--migration-limit") + 1] == "0", "the worker had it then"


def test_gen_alone_computes_its_prompts_in_pieces_and_keeps_their_blocks() -> None:
    gen = replace(ONE.gen, max_batch_size=128, max_num_tokens=128)  # type: ignore[type-var]
    asked = dynamo_experiment(Deployment(gen=gen, warmed=True), {})
    explained = {setting.key: setting for setting in TRTLLM.explain_settings(asked)["gen"]}
    assert explained["enable_chunked_prefill"].value is True
    assert explained["kv_cache_config.enable_block_reuse"].value is True
    assert explained["max_num_tokens"].value == 2048 and "before the clock" in explained["max_num_tokens"].why
    assert "--disaggregation-mode" not in launch(asked).processes[1].argv, "an aggregated worker"
    cut = replace(gen, max_num_tokens=512, options={"enable_chunked_prefill": False})
    refused = dynamo_experiment(Deployment(gen=cut, warmed=True), {})
    (problem,) = TRTLLM.check_launch(launch(refused), refused)
    assert "max_num_tokens: 512 is less than ISL 8192" in problem


def test_gen_alone_with_attention_dp_finds_its_prompts_on_the_rank_that_computed_them() -> None:
    gen = gen_only("DEP4", 0)
    for version, known in (("1.6.1", True), ("1.1.1", False)):
        asked = dynamo_experiment(replace(gen, warmed=True), {}, version)
        plan = launch(asked)
        assert ("enable_kv_cache_aware_routing: true" in plan.files[0].content) is known
        told = [doubt for doubt in TRTLLM.doubt_launch(plan, asked) if "mostly end as not valid" in doubt]
        assert bool(told) is not known
        assert TRTLLM.check_launch(plan, asked) == []


def test_iteration_statistics_are_off_unless_somebody_reads_them() -> None:
    assert "enable_iter_perf_stats: false" in launch(dynamo_experiment(ONE, {})).files[0].content
    given = {"worker_args": {"publish_metrics": True}}
    plan = launch(dynamo_experiment(ONE, given))
    assert "enable_iter_perf_stats: true" in plan.files[0].content
    assert "--publish-metrics" in plan.processes[1].argv
    assert "return_perf_metrics" not in plan.files[0].content, "the request trace has the times"


@pytest.mark.parametrize(
    ("deployment", "given", "said"),
    [
        (ONE, {"frontend_args": {"kv-cache-block-size": 64}}, "blocks of 32 tokens, and engine.frontend_args says"),
        (replace(ONE, orchestrator={"num_workers": 2}), {}, "write engine.frontend_args"),
        (pair("TEP4", 1, "TEP4", 1, postprocess_tokenizer_dir="/x"), {}, "frontend turns tokens into text"),
        (pair("TEP4", 1, "TEP4", 1, backend="tensorrt"), {}, "backend"),
        (Deployment(gen=ONE.gen), {}, "mode gen_only_no_context: not with Dynamo"),
    ],
)
def test_what_would_fail_at_start_or_measure_something_else_is_refused(
    deployment: Deployment, given: dict[str, Any], said: str
) -> None:
    asked = dynamo_experiment(deployment, given)
    problems = TRTLLM.check_launch(launch(asked), asked)
    assert any(said in problem for problem in problems), problems


def test_variables_that_would_change_which_worker_answers_are_refused() -> None:
    gen = replace(ONE.gen, environment={"DYN_MIGRATION_LIMIT": "3"})  # type: ignore[type-var]
    asked = dynamo_experiment(replace(ONE, gen=gen), {})
    (problem,) = TRTLLM.check_launch(launch(asked), asked)
    assert problem == "environment: DYN_MIGRATION_LIMIT must not be set for gen-0: it is 0"


def test_variables_of_the_plan_are_refused_with_another_value_and_taken_with_its_own() -> None:
    for value, problems in (("false", 0), ("true", 1)):
        gen = replace(ONE.gen, environment={"DYN_HEALTH_CHECK_ENABLED": value})  # type: ignore[type-var]
        asked = dynamo_experiment(replace(ONE, gen=gen), {})
        found = TRTLLM.check_launch(launch(asked), asked)
        assert len(found) == problems and all("canary requests" in problem for problem in found)


def test_secrets_have_no_place_among_the_keys_of_a_stack(tmp_path: Path) -> None:
    text = SWEEP.replace("ENGINE", "{name: dynamo, version: '1.6.1', frontend_env: {HF_TOKEN: hf_abcdefgh}}")
    with pytest.raises(SweepError, match="HF_TOKEN: a secret would be"):
        read_sweep(write(tmp_path, text))
    for engine, said in (
        ("{name: vllm, version: '0.32', frontends: 2}", "engine.frontends: unknown key frontends"),
        ("{name: dynamo, version: '1.6.1', frontends: 0}", "engine.frontends: must be a whole number"),
        ("{name: dynamo, version: '2.6'}", "engine.version: unknown version '2.6' of dynamo"),
    ):
        with pytest.raises(SweepError, match=said):
            read_sweep(write(tmp_path, SWEEP.replace("ENGINE", engine)))
    sweep, _ = read_sweep(write(tmp_path, SWEEP.replace("ENGINE", "{name: dynamo, version: 1.6, frontends: 3}")))
    assert sweep.engine.key == "dynamo-trtllm" and sweep.engine.settings["frontends"] == 3


SWEEP = """
name: small
model: deepseek-r1
cluster: laptop
engine: ENGINE
workloads: [{isl: 64, osl: 8}]
ifb: {axes: {mapping: [TEP4]}, loads: {concurrency: [1]}}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_what_is_taken_and_does_not_do_what_it_seems_to_is_told() -> None:
    both = pair("TEP4", 1, "TEP4", 1, num_postprocess_workers=4)
    asked = dynamo_experiment(both, {"discovery": "file", "frontends": 2})
    doubts = TRTLLM.doubt_launch(launch(asked), asked)
    assert len([doubt for doubt in doubts if "num_postprocess_workers" in doubt]) == 2
    assert any("network file systems" in doubt for doubt in doubts)
    assert any("loads go to the first one's address" in doubt for doubt in doubts)


def test_vllm_workers_are_flags_alone_and_have_a_side_channel_each() -> None:
    two = pair("TP2", 1, "TP2", 1)
    bare = {role: replace(getattr(two, role), options={}, max_num_tokens=None) for role in ("ctx", "gen")}
    asked = dynamo_experiment(Deployment(**bare), {"backend": "vllm"})
    plan = launch(asked)
    assert VLLM is find_engine(asked.engine.key) and plan.files == ()
    workers = [spec for spec in plan.processes if spec.is_worker]
    assert all("dynamo.vllm" in spec.argv and spec.ranks == 1 for spec in workers)
    assert len({dict(spec.env)["VLLM_NIXL_SIDE_CHANNEL_PORT"] for spec in workers}) == 2
    assert all('"kv_role": "kv_both"' in " ".join(spec.argv) for spec in workers)
    assert not any("disable-uvicorn-access-log" in " ".join(spec.argv) for spec in workers), "no HTTP server there"
    assert VLLM.check_launch(plan, asked) == []


def test_programs_beside_dynamo_are_known_before_anything_starts() -> None:
    given = {"frontends": 2, "nginx": True, "request_plane": "nats", "programs": {"etcd": "/no/etcd"}}
    engine = dynamo_experiment(ONE, given).engine
    assert TRTLLM.programs(engine) == ("/no/etcd", "nats-server", "nginx")
    assert TRTLLM.programs(dynamo_experiment(ONE, {"discovery": "file"}).engine) == ()
    with pytest.raises(UserError, match="/no/etcd is not on PATH here, and dynamo needs it"):
        refuse_missing("local", LAPTOP, engine)


def test_nginx_is_given_hosts_and_nothing_else() -> None:
    text = nginx_config("node-1.site", 80, [("10.0.0.1", 1), ("::1", 2)])
    assert 'server "10.0.0.1:1"' in text and "proxy_next_upstream off" in text
    with pytest.raises(PlacementError, match="no name or address"):
        nginx_config("a", 80, [('x"; } evil', 1)])


# ------------------------------------------------------------------------------------------------ reports

LINE = {
    "timestamp": 1922,
    "event": {
        "schema": "dynamo.request.trace.v1",
        "event_type": "request_end",
        "request": {
            "request_id": "f74ae168",
            "input_tokens": 4,
            "output_tokens": 3,
            "cached_tokens": 0,
            "request_received_ms": 1796061988513,
            "prefill_wait_time_ms": 0.25,
            "prefill_time_ms": 18.25,
            "ttft_ms": 18.5,
            "total_time_ms": 37.75,
            "kv_transfer_estimated_latency_ms": 7.25,
            "worker": {"prefill_worker_id": 3422296026164732544, "decode_worker_id": 8325947973040655959},
            "replay": {"trace_block_size": 32, "input_length": 4, "input_sequence_hashes": [16777012769546811212]},
        },
    },
}


def test_a_trace_line_is_kept_without_what_grows_with_the_prompt_and_is_a_breakdown() -> None:
    kept = TRTLLM.trim_times(json.dumps(LINE).encode())
    assert "replay" not in kept and kept["request_id"] == "f74ae168"
    records = [{**kept, "request_received_ms": 1796061988513 + number} for number in range(6)]
    assert TRTLLM.read_breakdown(records, skip_first=1, skip_last=1) == Breakdown(
        4, pytest.approx(0.25e-3), 0.0, pytest.approx(18.25e-3), pytest.approx(7.25e-3), 0.0, pytest.approx(12e-3)
    )
    assert TRTLLM.read_breakdown(records[:1], skip_first=0, skip_last=0) is None
    alone = {**kept, "worker": {"decode_worker_id": 7}}
    assert TRTLLM.read_breakdown([alone] * 4, skip_first=0, skip_last=0) is None, "no prefill worker, no stages"
    for line in (b"[]", b'{"event":{"request":{}}}', b"{", b'{"event":{"tool":1}}'):
        with pytest.raises(ValueError):
            TRTLLM.trim_times(line)


def test_traces_are_read_where_the_release_has_them() -> None:
    assert TRTLLM.request_times(dynamo_experiment(ONE, {})).files == "request-trace-*.jsonl"
    assert "keeps no trace" in TRTLLM.request_times(dynamo_experiment(ONE, {}, "1.1.0")).why_none


def test_frontends_and_workers_report_under_the_common_names() -> None:
    samples = {
        'dynamo_frontend_inflight_requests{model="m"}': 3.0,
        'dynamo_frontend_queued_requests{model="m"}': 1.0,
        'trtllm_kv_cache_utilization{engine_type="trtllm"}': 0.25,
    }
    figures = TRTLLM.read_figures(samples)
    assert (figures["active"], figures["awaiting"], figures["kv_used"]) == (3.0, 1.0, 0.25)
    assert VLLM.read_figures({"vllm:num_requests_waiting": 2.0, "dynamo_engine_request": 1.0})["queued"] == 2.0
    late = {
        "dynamo_frontend_event_loop_delay_seconds_sum": 3.0,
        "dynamo_frontend_event_loop_delay_seconds_count": 100.0,
        'dynamo_tokio_worker_busy_ratio{worker="0"}': 990.0,
        'dynamo_tokio_worker_busy_ratio{worker="1"}': 810.0,
    }
    told = TRTLLM.read_figures(late)
    assert (told["loop_late_s"], told["busy"]) == (pytest.approx(0.03), pytest.approx(0.9))
    (doubt,) = doubt_iterations("frontend-0", told, Workload(64, 8))
    assert doubt == (
        "frontend-0: its threads worked 90% of the time and its event loop ran 30 ms late on average: it may be what "
        "limits, and not the GPUs"
    )
    assert TRTLLM.routes.iterations is None and VLLM.routes.iterations == "/metrics"


# ------------------------------------------------------------------------------------------------ diagnosis

NOISE = (
    "WARN dynamo_runtime::storage: Failed to send file watch event error=channel closed",
    "ERROR tokio: The Sender is dropped",
    "WARN dynamo_runtime: Failed to unregister endpoint: Could not find key v1/instances/x",
    "WARN dynamo_runtime::component: Endpoint service completed unexpectedly",
    "WARN dynamo_llm: runtime-config watch closed",
    "INFO self_host_metadata is ON but DYN_SYSTEM_PORT is unset",
    "WARN mm_routing: qwen3 is not supported for MM-aware KV routing",
)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (
            "ERROR Remote prefill failed, failing request error=Unavailable: No workers available for endpoint "
            "dynamo/prefill/generate",
            "dynamo-no-prefill",
        ),
        ("ERROR Stream ended before generation completed", "dynamo-worker-gone"),
        ('ERROR request.outcome="worker_disconnected"', "dynamo-worker-gone"),
        ("ERROR TCP connection to 10.0.0.1:4000 failed: refused", "dynamo-worker-gone"),
        ('ERROR error.type="cannot_connect" request.outcome="connection_failed"', "dynamo-worker-gone"),
        ("ERROR Worker at capacity (engine + queue full), rejecting request", "dynamo-overloaded"),
        ("HTTP 529: Service temporarily overloaded", "dynamo-overloaded"),
        ("ERROR migration retries exhausted", "dynamo-migration"),
        ("ERROR Unable to maintain lease. Check etcd server status", "dynamo-etcd-lost"),
        ("ERROR etcd startup connection timed out after 120 seconds", "dynamo-etcd-unreachable"),
        ("WARN NATS not reachable yet; retrying startup connection", "dynamo-nats-unreachable"),
        ("ERROR dynamic_flags: Unrecognized argument: --migration-limit", "dynamo-flag"),
        ("ERROR main: Unknown arguments specified: ['--store-kv', 'etcd']", "dynamo-flag"),
        ("sh: 1: etcd: not found", "dynamo-program-missing"),
        ("/usr/bin/python3: No module named dynamo", "dynamo-missing"),
        ("ValueError: No GPU devices found on the node", "dynamo-no-gpu"),
        ("HTTP 503: Model deepseek-r1 is not ready to serve requests yet", "dynamo-not-served"),
        ("HTTP 404: Model not found", "dynamo-not-served"),
    ],
)
def test_what_logs_and_answers_say_has_a_cause(line: str, name: str) -> None:
    text = "\n".join((*NOISE, line, *NOISE))
    for engine in (TRTLLM, VLLM):
        known = engine.diagnose([text])
        assert known is not None and known.name == name, known


def test_the_noise_of_a_clean_stop_is_no_failure() -> None:
    for engine in (TRTLLM, VLLM):
        assert engine.diagnose(["\n".join(NOISE)]) is None
        assert engine.explain("all_failed", dynamo_experiment(ONE, {})).cause


def test_a_log_of_dynamo_is_known_as_one() -> None:
    line = "\x1b[2m2026-11-30T18:06:26Z\x1b[0m \x1b[32m INFO\x1b[0m \x1b[2mdynamo_runtime::worker\x1b[0m: it runs"
    assert TRTLLM.wrote(line) and not TRTLLM.wrote("[TensorRT-LLM][INFO] iter = 1")


# ------------------------------------------------------------------------------------------------ probes


def test_an_installation_is_judged_by_its_versions_its_flags_and_the_programs_beside_it() -> None:
    commands = TRTLLM.probe_commands(("python3",))
    assert commands["version"] == ("python3", "-c", VERSIONS)
    assert commands["frontend"] == ("python3", "-m", "dynamo.frontend", "--help")
    answers = {
        "version": "noise\ndynamo-versions: 1.6.1 1.6.1 1.3.0rc29 -",
        "frontend": "".join(f"  --{name} X\n" for name in flags("frontend", "1.6")),
        "trtllm": "".join(f"  --{name} X\n" for name in (*flags("trtllm", "1.6"), "model-path", "brand-new")),
        "services": "etcd: etcd Version: 3.4.23\nnats-server: none\nnginx: none\n",
    }
    found = {finding.name: finding for finding in TRTLLM.judge_probe(answers)}
    assert all(found[name].ok for name in ("version", "frontend", "trtllm", "trtllm engine", "etcd")), found
    assert "not known here: brand-new" in found["trtllm"].found
    assert "request_plane or event_plane" in found["nats-server"].found
    lost = {**answers, "frontend": "  --http-host X\n"}
    assert not {finding.name: finding for finding in TRTLLM.judge_probe(lost)}["frontend"].ok
    skewed = {**answers, "version": "dynamo-versions: 1.6.1 1.5.0 - -"}
    named = {finding.name: finding for finding in TRTLLM.judge_probe(skewed)}
    assert not named["runtime"].ok and not named["trtllm engine"].ok
    assert not TRTLLM.judge_probe({"version": "No module named dynamo"})[0].ok
    assert not TRTLLM.judge_probe({"version": "dynamo-versions: 9.9.9 9.9.9 - -"})[0].ok


def test_doctor_looks_on_this_machine_where_servers_are_started_here(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"version": "dynamo-versions: 1.6.1 1.6.1 - -", "frontend": "  --http-host\n", "services": "etcd: none\n"}

    def answer(argv: tuple[str, ...]) -> str:
        return next(text for name, text in said.items() if argv == TRTLLM.local_commands((sys.executable,))[name])

    monkeypatch.setattr(doctor, "_output", answer)
    found = {finding.name: finding for finding in doctor.examine("laptop", engine="dynamo")}
    assert found["version"].ok and not found["frontend"].ok and not found["etcd"].ok
    assert "discovery: etcd needs it" in found["etcd"].found


def test_the_version_question_is_answered_by_any_python() -> None:
    asked = subprocess.run([sys.executable, "-c", VERSIONS], capture_output=True, text=True, timeout=60, check=True)
    assert asked.stdout.startswith("dynamo-versions: ") and len(asked.stdout.split()) == 5


def test_a_system_port_that_dynamo_cannot_read_is_refused_before_the_start() -> None:
    asked = dynamo_experiment(ONE, {})
    plan = launch(asked)
    high = replace(plan, processes=tuple(replace(spec, port=spec.port + 30_000) for spec in plan.processes))
    (problem,) = [found for found in TRTLLM.check_launch(high, asked) if "DYN_SYSTEM_PORT" in found]
    assert "up to 32767; set a lower port_base" in problem
    assert TRTLLM.check_launch(plan, asked) == []

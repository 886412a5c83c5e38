"""Recipes with Dynamo in front keep it: frontends, arguments, environment, planes, infrastructure and releases, in
both layouts of srt-slurm, and back again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratematch.cli import main
from ratematch.engines import ENGINES, find_engine
from ratematch.errors import RecipeError
from ratematch.exchange.recipes.choices import Choices
from ratematch.exchange.recipes.convert import Imported, import_recipes
from ratematch.exchange.recipes.dynamochoice import choose_release
from ratematch.exchange.recipes.dynamofit import fit_recipe
from ratematch.exchange.recipes.dynamoproof import compare_stack
from ratematch.exchange.recipes.dynamostack import DynamoStack
from ratematch.exchange.recipes.recipe import Recipe
from ratematch.exchange.recipes.recipefile import read_recipe_file
from ratematch.exchange.recipes.srtdynamo import release_in_image
from ratematch.exchange.recipes.srtwrite import Schema, recipe_text
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.inputs.find import read_cluster
from ratematch.plan.cluster import Cluster
from ratematch.plan.expansion import expand
from ratematch.plan.experiment import Experiment, from_json, to_json
from ratematch.plan.launchplan import LaunchPlan, ProcessSpec
from ratematch.plan.placement import nodes_on, place
from ratematch.plan.sweep import Sweep
from ratematch.plan.sweepfile import parse_sweep
from tests.exchange import invented
from tests.support.examples import examples

SHAPE = (2, "DEP4", 1, "DEP8", "gb300", 4)
"""Four nodes: two of prefill workers, two of one decode worker."""

RUNTIME = "registry.example/ai-dynamo/tensorrtllm-runtime"


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("RATEMATCH_CLUSTERS", raising=False)


def write(content: dict[str, Any], name: str = "recipe.yaml") -> str:
    Path(name).write_text(invented.to_text(content), encoding="utf-8")
    return name


def pair() -> tuple[dict[str, Any], dict[str, Any]]:
    """Short worker configurations that the engine takes."""
    both = {"print_iter_log": True, "cache_transceiver_config": {"backend": "UCX", "max_tokens_in_buffer": 8448}}
    ctx = {
        **both,
        "max_batch_size": 8,
        "max_num_tokens": 8448,
        "max_seq_len": 1064,
        "disable_overlap_scheduler": True,
    }
    gen = {**both, "max_batch_size": 16, "max_num_tokens": 64, "max_seq_len": 2088}
    return {**invented.parallelism(SHAPE[1]), **ctx}, {**invented.parallelism(SHAPE[3]), **gen}


def recipe(schema: int = 1, image: str = f"{RUNTIME}:1.1.1", **parts: Any) -> dict[str, Any]:
    """A recipe with one frontend; ``parts`` are top-level keys, maps laid over its own."""
    content = invented.srt_recipe(SHAPE, *pair(), schema=schema, frontend=None)
    for name, long in (("prefill", "prefill_environment"), ("decode", "decode_environment")):
        below, key = (content["roles"][name], "env") if schema == 2 else (content["backend"], long)
        below[key] = {"NCCL_GRAPH_MIXING_SUPPORT": "0", "OWN": name}
    content["model"]["container"] = image
    content["frontend"] = {"type": "dynamo", "enable_multiple_frontends": False}
    content["dynamo"] = {"install": False}
    for key, value in parts.items():
        below = content.get(key)
        content[key] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
    return content


def read(content: dict[str, Any]) -> Recipe:
    """The recipe as it is read, before anything is chosen for it."""
    (one,) = read_recipe_file(write(content)).recipes
    return one


def stack_in(content: dict[str, Any]) -> DynamoStack:
    stack = read(content).dynamo
    assert stack is not None
    return stack


def fitted(content: dict[str, Any], release: str) -> Recipe:
    return fit_recipe(read(content), release)


def imported(content: dict[str, Any], **choices: Any) -> Imported:
    return import_recipes([write(content)], Choices(**choices))


def parsed(text: str) -> Sweep:
    def large(name: str) -> Cluster:
        return replace(read_cluster(name), nodes=64)

    return parse_sweep(text, "s.yaml", find_model=load_model, find_cluster=large, find_gpu=load_gpu, engines=ENGINES)


def started(text: str) -> tuple[Experiment, LaunchPlan]:
    """The one experiment of a sweep file, and what it starts."""
    sweep = parsed(text)
    engine = find_engine(sweep.engine.name)
    (experiment,) = expand(sweep, engine.kv_settings).experiments
    nodes = [f"n{index}" for index in range(nodes_on(experiment.deployment, sweep.cluster))]
    return experiment, engine.plan_launch(
        experiment, place(experiment.deployment, sweep.cluster, nodes, 8000), sweep.cluster, 1
    )


def named(plan: LaunchPlan, start: str) -> list[ProcessSpec]:
    return [process for process in plan.processes if process.name.startswith(start)]


def after(process: ProcessSpec, flag: str) -> str | None:
    """The word behind a flag; ``None``: the flag is not there."""
    words = list(process.argv)
    return words[words.index(flag) + 1] if flag in words else None


def of_dynamo(result: Imported | Recipe) -> list[str]:
    """Parts without counterpart that Dynamo could say."""
    keys = [part.where.rpartition(": ")[2] for part in result.unsupported]
    return [key for key in keys if key.startswith(("frontend", "dynamo", "infra", "services", "engine", "backend"))]


# ----------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("schema", [1, 2])
def test_a_plain_recipe_is_one_frontend_and_etcd(schema: int) -> None:
    result = imported(recipe(schema))
    experiment, plan = started(result.text)
    assert (experiment.engine.name, experiment.engine.version, experiment.engine.backend) == (
        "dynamo",
        "1.1.1",
        "trtllm",
    )
    (frontend,) = named(plan, "frontend")
    assert after(frontend, "--router-mode") == "round-robin"
    assert [process.name for process in plan.processes if process.role == "service"] == (
        ["etcd", "nats"] if schema == 1 else ["etcd"]
    )
    for role, mode, count in (("ctx", "prefill", 2), ("gen", "decode", 1)):
        workers = named(plan, role)
        assert len(workers) == count
        for worker in workers:
            assert "dynamo.trtllm" in worker.argv
            assert after(worker, "--disaggregation-mode") == mode
            assert after(worker, "--extra-engine-args") == f"{role}.yaml"
            assert after(worker, "--request-plane") == "tcp"
            assert {"NCCL_GRAPH_MIXING_SUPPORT": "0", "OWN": mode}.items() <= dict(worker.env).items()
    assert of_dynamo(result) == []
    assert not any("changed: " in note for note in result.notes)


ARGS = {
    "router-mode": "kv",
    "router-temperature": 0.5,
    "active-decode-blocks-threshold": "None",
    "no-kv-events": True,
    "router-replica-sync": False,
    "router-queue-threshold": "2.5",
    "router-session-affinity-ttl-secs": "14400",
    "chat-template": None,
}


@pytest.mark.parametrize("schema", [1, 2])
def test_arguments_and_environment_of_the_frontend_are_kept(schema: int) -> None:
    content = recipe(
        schema,
        f"{RUNTIME}:1.3.0-dev.1-cuda13",
        frontend={"args": ARGS, "env": {"DYN_TOKENIZER": "fastokens", "ETCD_LEASE_TTL": "120", "CONC": 24}},
        environment={"DYN_LOG": "warn", "SHARED": "1"},
    )
    result = imported(content)
    experiment, plan = started(result.text)
    assert experiment.engine.version == "1.3.0-dev.1-cuda13" or experiment.engine.version == "1.3.0-dev.1"
    (frontend,) = named(plan, "frontend")
    words = " ".join(frontend.argv)
    assert "--router-mode kv" in words and "--router-temperature 0.5" in words
    assert "--active-decode-blocks-threshold None" in words
    assert "--no-router-kv-events" in words
    assert "--router-queue-threshold 2.5" in words and "--router-session-affinity-ttl-secs 14400" in words
    assert "--router-replica-sync" not in words and "chat-template" not in words
    env = {"DYN_TOKENIZER": "fastokens", "ETCD_LEASE_TTL": "120", "CONC": "24", "DYN_LOG": "warn", "SHARED": "1"}
    assert env.items() <= dict(frontend.env).items()
    for worker in (*named(plan, "ctx"), *named(plan, "gen")):
        assert {"DYN_LOG": "warn", "SHARED": "1"}.items() <= dict(worker.env).items()
        assert not any("publish" in word for word in worker.argv)
    assert of_dynamo(result) == []


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.parametrize(
    ("frontend", "frontends", "nginx"),
    [
        ({"enable_multiple_frontends": True}, 3, True),
        ({"enable_multiple_frontends": None}, 3, True),
        ({"enable_multiple_frontends": True, "num_additional_frontends": 1}, 2, True),
        ({"enable_multiple_frontends": True, "num_additional_frontends": 0}, 1, True),
        ({"enable_multiple_frontends": False, "num_additional_frontends": 4}, 1, False),
    ],
)
def test_frontends_behind_nginx(schema: int, frontend: dict[str, Any], frontends: int, nginx: bool) -> None:
    content = recipe(schema, frontend={**frontend, "nginx_container": "nginx.sqsh"})
    if frontend["enable_multiple_frontends"] is None:
        del content["frontend"]["enable_multiple_frontends"]  # srt-slurm's default
    one = read(content)
    assert one.dynamo is not None
    assert (one.dynamo.frontends, one.dynamo.nginx) == (frontends, nginx)
    assert of_dynamo(one) == (["frontend.nginx_container"] if nginx else [])
    assert any("has no effect" in note for note in one.notes) is not nginx


def test_the_older_keys_may_stand_below_the_newer_schema() -> None:
    one = read({"schema": 2, **recipe()})
    assert [(group.role, group.instances) for group in one.servers] == [("ctx", 2), ("gen", 1)]
    assert one.dynamo is not None and one.dynamo.worker_args == {"publish-metrics": True}


def test_a_recipe_that_names_no_frontend_has_dynamos() -> None:
    content = recipe()
    del content["frontend"], content["dynamo"]
    assert stack_in(content).nginx


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.parametrize(
    ("planes", "nats", "infra"),
    [
        ({"request_plane": "nats"}, True, {}),
        ({"request_plane": "tcp", "event_plane": "zmq"}, False, {}),
        ({"event_plane": "nats"}, True, {}),
        ({"request_plane": "nats", "event_plane": "zmq"}, True, {"dedicated": True, "payload": 24}),
    ],
)
def test_planes_and_infrastructure(schema: int, planes: dict[str, str], nats: bool, infra: dict[str, Any]) -> None:
    content = recipe(schema, dynamo=planes)
    if infra and schema == 1:
        content["infra"] = {"etcd_nats_dedicated_node": True, "nats_max_payload_mb": 24}
    elif infra:
        node = {"placement": {"node": "dedicated"}}
        content["services"] = [
            {"name": "etcd", "type": "etcd", **node},
            {"name": "nats", "type": "nats", "options": {"max_payload_mb": 24}, **node},
        ]
    one = fitted(content, "1.1.1")
    stack = one.dynamo
    assert stack is not None
    assert stack.request_plane == planes.get("request_plane", "tcp")
    assert stack.event_plane == planes.get("event_plane", "nats" if schema == 1 or nats else "zmq")
    assert (stack.infra_node, stack.nats_max_payload_mb) == ((True, 24) if infra else (False, None))
    assert of_dynamo(one) == []


EVENTS, METRICS = {"publish-kv-events": True}, {"publish-metrics": True}


@pytest.mark.parametrize(
    ("schema", "knobs", "release", "flags"),
    [
        (1, {}, "1.6.1", {}),
        (1, {"publish_events_and_metrics": False}, "1.1.1", {}),
        (1, {"publish_events_and_metrics": True}, "1.1.1", {"publish-events-and-metrics": True}),
        (2, {"publish_events_and_metrics": True}, "1.5.1", EVENTS),
        (2, {"publish_events_and_metrics": True}, "1.6.1", {**EVENTS, **METRICS}),
        (2, {}, "1.6.1", METRICS),
        (2, {}, "1.1.1", {}),
        (2, {"publish_metrics": False}, "1.6.1", {}),
        (1, {"publish_metrics": True}, "1.6.1", METRICS),
    ],
)
def test_what_workers_publish(schema: int, knobs: dict[str, bool], release: str, flags: dict[str, bool]) -> None:
    content = recipe(schema)
    content["engine" if schema == 2 else "backend"] |= knobs
    one = fitted(content, release)
    assert one.dynamo is not None and one.dynamo.worker_args == flags


def test_workers_of_a_router_by_blocks_publish_only_what_the_recipe_says() -> None:
    content = recipe(frontend={"args": {"router-mode": "kv"}, "enable_multiple_frontends": True})
    silent = fitted(content, "1.3.1").dynamo
    assert silent is not None and silent.worker_args == {"publish-kv-events": None}
    assert silent.frontend_args == {"router-replica-sync": None}, "frontends that know nothing of each other"
    content["backend"]["publish_events_and_metrics"] = True
    loud = fitted(content, "1.3.1").dynamo
    assert loud is not None and loud.worker_args == EVENTS


def test_etcd_and_nats_have_a_node_of_their_own_where_the_recipe_gives_them_one() -> None:
    infra = {"etcd_nats_dedicated_node": True, "nats_max_payload_mb": 24}
    result = imported(recipe(dynamo={"request_plane": "nats"}, infra=infra))
    experiment, plan = started(result.text)
    servers = {node for role in ("ctx", "gen", "frontend") for process in named(plan, role) for node in process.nodes}
    services = {node for name in ("etcd", "nats") for process in named(plan, name) for node in process.nodes}
    assert (len(servers), len(services), services & servers) == (4, 1, set())
    assert next(file.content for file in plan.files if file.path == "nats.conf") == "max_payload: 25165824\n"
    assert "nats.conf" in named(plan, "nats")[0].argv
    assert from_json(json.loads(json.dumps(to_json(experiment)))) == experiment
    assert not any("ratematch packs it" in note for note in result.notes)


@pytest.mark.parametrize("more", [{"environment": {}}, {"frontend": {"env": {}}}], ids=["all", "frontend"])
@pytest.mark.parametrize("schema", [1, 2])
def test_secrets_of_frontends_are_left_out_and_said(schema: int, more: dict[str, Any]) -> None:
    """A recipe's ``environment`` is of workers and frontends: a secret in it had the recipe refused."""
    environment = more["environment"] if "environment" in more else more["frontend"]["env"]
    environment |= {"HF_TOKEN": "hf_canary4711", "TOKEN_LIMIT": "9"}
    result = imported(recipe(schema, **more))
    assert "hf_canary4711" not in repr(result)
    assert "frontends: HF_TOKEN is a secret and is not copied" in "\n".join(result.notes)
    _, plan = started(result.text)
    assert dict(named(plan, "frontend")[0].env)["TOKEN_LIMIT"] == "9"
    assert ("HF_TOKEN: '***'" in result.text) is ("environment" in more)


def test_a_variable_of_the_router_mode_is_the_setting() -> None:
    by_variable = read(recipe(frontend={"env": {"DYN_ROUTER_MODE": "random", "A": "1"}})).dynamo
    assert by_variable is not None and (by_variable.router_mode, by_variable.frontend_env) == ("random", {"A": "1"})
    both = stack_in(recipe(frontend={"env": {"DYN_ROUTER_MODE": "random"}, "args": {"router-mode": "kv"}}))
    assert (both.router_mode, both.frontend_env) == ("kv", {})


def test_file_discovery_is_a_setting() -> None:
    content = recipe(
        environment={"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": "/logs/kv", "DYN_EVENT_PLANE": "zmq"}
    )
    result = imported(content)
    experiment, plan = started(result.text)
    assert experiment.engine.settings["discovery"] == "file"
    assert named(plan, "etcd") == [] == named(plan, "nats")
    assert any("DYN_FILE_KV is of one start" in note for note in result.notes)


# ----------------------------------------------------------------------------------------------- releases


@pytest.mark.parametrize(
    ("image", "dynamo", "frameworks", "release"),
    [
        (f"{RUNTIME}:0.8.1.post3", {"install": False}, {}, "0.8.1.post3"),
        ("/images/dynamo-trtllm-v0.9.1.sqsh", {"install": False}, {}, "0.9.1"),
        (f"{RUNTIME}:1.1.1", {"install": False}, {"dynamo": "1.2.1"}, "1.2.1"),
        (f"{RUNTIME}:1.1.1", {"install": True, "version": "1.3.0.dev20260708"}, {}, "1.3.0.dev20260708"),
        ("x", {"version": "1.0.2"}, {"dynamo": "1.2.1"}, "1.0.2"),
        ("x", {"wheel": "1.4.0.dev20260807"}, {}, "1.4.0.dev20260807"),
        ("x", {"source": {"pypi": "1.4.2"}}, {}, "1.4.2"),
        ("x", {"source": {"wheel": "1.5.0"}}, {}, "1.5.0"),
        ("x", {"install": False, "version": "0.8.0"}, {"ai-dynamo": "1.6.1"}, "1.6.1"),
        ("x", {}, {}, "0.8.0"),
    ],
)
def test_the_release_is_what_the_recipe_installs_states_or_its_image_is_called(
    image: str, dynamo: dict[str, Any], frameworks: dict[str, str], release: str
) -> None:
    content = recipe(image=image, identity={"frameworks": frameworks})
    content["dynamo"] = dynamo
    notes: list[str] = []
    assert choose_release([read(content)], None, notes)[0] == release
    assert not any("is assumed" in note for note in notes)


@pytest.mark.parametrize(
    ("image", "dynamo", "told"),
    [
        ("dynamo-trtllm", {"install": False}, "neither the container's name nor an identity"),
        ("x", {"hash": "4f00d"}, "builds Dynamo from source at its start (hash '4f00d')"),
        (f"{RUNTIME}:0.7.0.post2", {"install": False}, "0.7.0.post2, which is none of 0.8"),
    ],
)
def test_an_assumed_release_is_named(image: str, dynamo: dict[str, Any], told: str) -> None:
    content = recipe(image=image)
    content["dynamo"] = dynamo
    one, notes = read(content), list[str]()
    assert choose_release([one], None, notes)[0] == "0.8"
    assert any(note.startswith("Dynamo 0.8 is assumed") for note in notes)
    assert any(told in note for note in (*notes, *one.notes))


def test_an_assumed_release_takes_the_arguments() -> None:
    content = recipe(image="x", frontend={"args": {"router-queue-threshold": 2}})
    content["dynamo"] = {"hash": "4f00d"}
    notes: list[str] = []
    assert choose_release([read(content)], None, notes)[0] == "1.0"
    assert any("the oldest that takes the arguments" in note for note in notes)


def test_tensorrt_llm_behind_it_is_named_or_comes_with_the_release() -> None:
    own, _ = started(imported(recipe(identity={"frameworks": {"tensorrt_llm": "1.3.0rc13"}})).text)
    assert own.engine.backend_version == "1.3.0rc13"
    result = imported(recipe())
    pinned, _ = started(result.text)
    assert pinned.engine.backend_version == "1.3.0rc11"
    assert any("it comes with Dynamo 1.1.1" in note for note in result.notes)
    with pytest.raises(RecipeError, match=r"--backend-version 1\.3\.0rc17"):
        imported(recipe(), version="1.3.0rc17")


@pytest.mark.parametrize(
    ("image", "release"),
    [
        (f"{RUNTIME}:1.3.0-efa", "1.3.0"),
        (f"{RUNTIME}:1.3.0-model-v4-dev.1", "1.3.0"),
        ("registry#ai-dynamo+tensorrtllm-runtime+1.1.1.sqsh", "1.1.1"),
        ("dynamo-trtllm:1.3.0rc5", None),
        ("dynamo-trtllm", None),
        ("tensorrt-llm/release:1.3.0", None),
    ],
)
def test_releases_in_names_of_images(image: str, release: str | None) -> None:
    assert release_in_image(image) == release


# ----------------------------------------------------------------------------------------------- changes and refusals


def test_native_servers_are_a_change() -> None:
    result = imported(recipe(2, frontend={"args": {"router-mode": "kv"}}), engine="trtllm-serve")
    experiment, _ = started(result.text)
    assert experiment.engine.name == "trtllm-serve"
    assert any(note.endswith("and the recipe's are Dynamo's") and "changed: " in note for note in result.notes)
    assert {"frontend", "dynamo"} <= set(of_dynamo(result))


def test_a_native_recipe_stays_native() -> None:
    content = recipe(frontend=invented.NATIVE_FRONTEND)
    assert started(imported(content).text)[0].engine.name == "trtllm-serve"
    with pytest.raises(RecipeError, match="says nothing of how Dynamo would be run"):
        imported(content, engine="dynamo")
    with pytest.raises(RecipeError, match="--engine-version says TensorRT-LLM's"):
        imported(content, backend_version="1.3.0rc17")


@pytest.mark.parametrize(
    ("parts", "change"),
    [
        ({"frontend": {"args": {"migration-limit": 3}}}, "frontend.args.migration-limit 3 is left out"),
        ({"frontend": {"args": {"http-port": 9000}}}, "http-port: 9000 is of one start"),
        ({"frontend": {"args": {"metrics-prefix": "mine"}}}, "metrics-prefix mine is left out"),
        ({"frontend": {"env": {"DYN_MIGRATION_LIMIT": "3"}}}, "DYN_MIGRATION_LIMIT=3 is left out: it is 0"),
        ({"environment": {"DYN_ENGINE_REQUEST_LIMIT": "16"}}, "DYN_ENGINE_REQUEST_LIMIT=16 is left out"),
        ({"environment": {"ETCD_ENDPOINTS": "http://other:2379"}}, "ETCD_ENDPOINTS is of one start"),
    ],
)
def test_what_a_measurement_or_a_start_sets_is_named(parts: dict[str, Any], change: str) -> None:
    notes = fitted(recipe(**parts), "1.6.1").notes
    assert any(change in note for note in notes), notes


def test_what_a_measurement_sets_alike_is_no_change() -> None:
    content = recipe(environment={"DYN_HEALTH_CHECK_ENABLED": "false"}, frontend={"args": {"migration-limit": 0}})
    assert not any("changed: " in note for note in fitted(content, "1.6.1").notes)


@pytest.mark.parametrize(
    ("parts", "where", "why"),
    [
        (
            {"dynamo": {"request_plane": "tcp"}, "frontend": {"env": {"DYN_REQUEST_PLANE": "nats"}}},
            "request_plane",
            "use different ones: nats, tcp",
        ),
        ({"dynamo": {"request_plane": "udp"}}, "request_plane", "must be one of tcp, nats, http, not 'udp'"),
        ({"frontend": {"args": {"router-mode": ["kv"]}}}, "router-mode", "must be one value"),
        ({"frontend": {"enable_multiple_frontends": "no"}}, "enable_multiple", "must be true or false, not 'no'"),
        ({"environment": {"DYN_DISCOVERY_BACKEND": "kubernetes"}}, "environment", "not by kubernetes"),
        ({"services": [{"name": "etcd", "type": "etcd", "enabled": False}]}, "services[0]", "without etcd"),
    ],
)
def test_contradictions_are_refused_at_their_line(parts: dict[str, Any], where: str, why: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:") as caught:
        read(recipe(2, **parts))
    assert why in str(caught.value) and where in str(caught.value)


def test_flags_that_a_release_has_not_are_refused_with_their_successor() -> None:
    with pytest.raises(RecipeError, match="in its place: router-ttl-secs"):
        imported(recipe(frontend={"args": {"router-ttl": 60}}))


def test_other_services_are_listed_and_an_external_one_is_named() -> None:
    services = [
        {"name": "watch", "command": ["python3", "-m", "watch"]},
        {"name": "nats", "type": "nats", "external": "nats://shared:4222"},
        {"name": "etcd", "type": "etcd"},
    ]
    one = read(recipe(2, services=services))
    reasons = {part.where.rpartition(": ")[2]: part.why for part in one.unsupported}
    assert reasons["services[0]"] == "only the processes of Dynamo are started"
    assert "has a nats of its own" in reasons["services[1]"]
    assert "services[2]" not in reasons


def test_the_common_environment_stands_above_the_workers_own() -> None:
    one = read(recipe(environment={"NCCL_GRAPH_MIXING_SUPPORT": "1"}))
    assert all(group.environment["NCCL_GRAPH_MIXING_SUPPORT"] == "1" for group in one.servers)
    assert any("environment stands above the decode workers' own" in note for note in one.notes)


def test_variants_with_other_frontends_say_so_in_their_deployment() -> None:
    base = recipe(frontend={"enable_multiple_frontends": True})
    more = {"frontend": {"num_additional_frontends": 0}, "resources": {"gpu_type": "gb300"}}
    result = imported({"base": base, "override_all": {"name": "all"}, "override_one": more})
    sweep = parsed(result.text)
    counts = [
        each.engine.settings["frontends"] for each in expand(sweep, find_engine("dynamo").kv_settings).experiments
    ]
    assert counts == [3, 1]
    assert result.text.count("    engine:\n      frontends: 1") == 1


# ----------------------------------------------------------------------------------------------- the proof


def test_the_proof_sees_every_part() -> None:
    result = imported(recipe(2, dynamo={"event_plane": "zmq"}, engine={"publish_metrics": False}))
    experiment, plan = started(result.text)
    stack = result.recipes[0].dynamo
    assert stack is not None
    assert compare_stack(stack, plan, experiment.engine.version).differences == []
    for change, told in (
        ({"frontends": 2}, "1 frontends instead of 2"),
        ({"nginx": True}, "nginx is not started"),
        ({"discovery": "file"}, "etcd is started"),
        ({"request_plane": "nats"}, "nats is not started"),
        ({"request_plane": "nats"}, "ctx: request-plane tcp instead of nats"),
        ({"event_plane": "nats"}, "frontend: event-plane zmq instead of nats"),
        ({"frontend_args": {"router-temperature": 0.7}}, "frontend: --router-temperature is missing instead of 0.7"),
        ({"frontend_env": {"A": "b"}}, "frontend: A=None instead of b"),
        ({"worker_args": {"publish-events-and-metrics": True}}, "gen: --publish-events-and-metrics is missing"),
        ({"router_mode": "kv"}, "frontend: --router-mode round-robin instead of kv"),
        ({"infra_node": True}, "etcd has no node of its own"),
    ):
        differences = compare_stack(replace(stack, **change), plan, experiment.engine.version).differences
        assert any(told in each for each in differences), (change, differences)


# ----------------------------------------------------------------------------------------------- and back again

STACKS = st.builds(
    DynamoStack,
    frontends=st.integers(1, 3),
    nginx=st.just(True),
    router_mode=st.sampled_from(["round-robin", "random", "kv"]),
    frontend_args=st.fixed_dictionaries(
        {}, optional={"router-temperature": st.sampled_from([0, 0.5, 2.0]), "router-replica-sync": st.just(True)}
    ),
    frontend_env=st.dictionaries(
        st.sampled_from(["A", "DYN_LOG", "ETCD_LEASE_TTL"]), st.sampled_from(["1", "warn", "a b"])
    ),
    worker_args=st.sampled_from([{}, {"publish-events-and-metrics": True}]),
    discovery=st.sampled_from(["etcd", "file"]),
    request_plane=st.sampled_from(["tcp", "nats"]),
    event_plane=st.sampled_from(["zmq", "nats"]),
    nats=st.just(True),
    infra_node=st.booleans(),
    nats_max_payload_mb=st.sampled_from([None, 24]),
)


@settings(max_examples=examples(12), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stack=STACKS, schema=st.sampled_from([1, 2]), alone=st.booleans())
def test_a_written_recipe_is_read_as_it_was(stack: DynamoStack, schema: Schema, alone: bool) -> None:
    if alone:
        stack = replace(stack, frontends=1, nginx=False)
    (first,) = read_recipe_file(write(recipe())).recipes
    given_ = replace(first, dynamo=stack, nodes=4)
    Path("again.yaml").write_text(recipe_text(given_, schema), encoding="utf-8")
    (again,) = read_recipe_file("again.yaml").recipes
    assert again.dynamo is not None
    bare: dict[str, Any] = {"origins": {}, "releases": (), "nats": True}
    assert replace(again.dynamo, **bare) == replace(stack, **bare)
    assert [(s.role, s.instances, s.mapping, s.config, s.environment) for s in again.servers] == [
        (s.role, s.instances, s.mapping, s.config, s.environment) for s in given_.servers
    ]
    assert (again.isl, again.osl, again.osl_ratio, again.concurrency) == (1024, 1024, 0.8, (4, 192, 666))
    assert (again.nodes, again.requests_per_slot, again.warmup_per_slot) == (4, 10, 2)


OF_OURS = """
name: ours
model: {name: deepseek-r1, path: /weights/DeepSeek-R1}
cluster: gb200-nvl72
engine: ENGINE
workloads: [{isl: 1024, osl: 512}]
deployments:
  - ctx: {mapping: DEP4, instances: 2, options: {kv_cache_config: {free_gpu_memory_fraction: 0.7}}}
    gen: {mapping: DEP8, environment: {MINE: "1"}}
    ORCHESTRATOR: {}
    loads: {concurrency: [16, 64], requests_per_slot: 4, warmup_per_slot: 1, min_requests: 1}
ctx:
  axes: {mapping: [DEP4]}
  loads: {concurrency: [1]}
"""


@pytest.mark.parametrize(
    ("engine", "key", "value"),
    [
        ('{name: dynamo, version: "1.6.1", frontends: 2, nginx: true, router_mode: kv}', "orchestrator", "{}"),
        ('{name: trtllm-serve, version: "1.3.0rc17"}', "router", "{type: load_balancing}"),
    ],
)
def test_a_sweep_of_ours_is_exported_as_it_would_be_started(engine: str, key: str, value: str) -> None:
    text = OF_OURS.replace("ENGINE", engine).replace("ORCHESTRATOR: {}", f"{key}: {value}")
    Path("ours.yaml").write_text(text, encoding="utf-8")
    done = CliRunner().invoke(main, ["export", "recipe", "ours.yaml", "-o", "out", "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    (path,), (left,) = answer["files"], answer["left_out"]
    assert "this is the ctx stage alone" in left
    again = import_recipes([path], Choices())
    ours = next(
        each for each in expand(parsed(text), find_engine("dynamo").kv_settings).experiments if each.stage == "e2e"
    )
    theirs, plan = started(again.text)
    assert theirs.engine.label == ours.engine.label
    for setting in ("frontends", "nginx", "router_mode", "request_plane", "event_plane", "discovery"):
        assert theirs.engine.settings.get(setting) == ours.engine.settings.get(setting)
    assert [load.num_requests for load in theirs.loads] == [64, 256] and theirs.workload.label == ours.workload.label
    files = {file.path: file.content for file in plan.files}
    assert "free_gpu_memory_fraction: 0.7" in files["ctx.yaml"]
    assert all(dict(worker.env)["MINE"] == "1" for worker in named(plan, "gen"))
    assert not any("changed: " in note for note in again.notes), again.notes
    if key == "router":
        assert "load_balancing" in files["orchestrator.yaml"]


@pytest.mark.parametrize(("schema", "back"), [(1, 2), (2, 1)])
def test_a_sweep_is_exported_as_the_recipe_it_came_from(schema: int, back: int) -> None:
    parts: dict[str, Any] = {
        "frontend": {"enable_multiple_frontends": True, "args": ARGS, "env": {"DYN_TOKENIZER": "fastokens"}},
        "dynamo": {"request_plane": "nats", "event_plane": "zmq"},
        "identity": {"frameworks": {"dynamo": "1.3.0", "tensorrt_llm": "1.3.0rc19"}},
    }
    result = imported(recipe(schema, **parts))
    Path("sweep.yaml").write_text(result.text, encoding="utf-8")
    done = CliRunner().invoke(main, ["export", "recipe", "sweep.yaml", "--schema", str(back), "-o", "out", "--json"])
    assert done.exit_code == 0, done.output
    (path,) = json.loads(done.stdout)["files"]
    again = import_recipes([path], Choices())
    experiments = [started(each.text)[0] for each in (result, again)]
    assert experiments[0].engine == experiments[1].engine
    assert experiments[0].deployment == experiments[1].deployment
    assert experiments[0].workload == experiments[1].workload and experiments[0].loads == experiments[1].loads

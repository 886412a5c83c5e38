"""What ``engine:`` of a sweep file says of a Dynamo deployment beyond its release: checked, defaults filled in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ratematch.engines.dynamo.contract import (
    check_flags,
    flags,
    has_flag,
    pinned_backend,
    release_line,
    spell_flags,
)
from ratematch.engines.trtllm_serve.release import is_version as is_trtllm
from ratematch.engines.vllm.contract import RELEASE_LINES as VLLM_LINES
from ratematch.engines.vllm.contract import release_line as vllm_line
from ratematch.plan.deployment import Options
from ratematch.plan.enginefacts import WrongSetting
from ratematch.plan.experiment import EngineRef
from ratematch.plan.numbers import brief

Backend = Literal["trtllm", "vllm"]
BACKENDS: tuple[Backend, ...] = ("trtllm", "vllm")

MOST_FRONTENDS = 64

MOST_PAYLOAD_MB = 64
"""NATS refuses to start with a larger limit for one message."""

FORCED_FRONTEND: dict[str, tuple[object, str]] = {
    "migration-limit": (0, "a broken stream that goes on elsewhere would hide that its worker failed"),
    "router-conditional-disagg": (
        False,
        "prompts that stay on decode workers are measured as if they were handed over",
    ),
    "router-conditional-disagg-config": (
        None,
        "prompts that stay on decode workers would be measured as handed over",
    ),
}
"""Flags of a frontend that would falsify a measurement: the value that they have, and why."""

OWN_FRONTEND = {
    "http-host": "it follows from where the frontend is placed",
    "http-port": "it follows from where the frontend is placed",
    "namespace": "each start has its own",
    "namespace-prefix": "each start has its own namespace",
    "router-mode": "write router_mode",
    "discovery-backend": "write discovery",
    "store-kv": "write discovery",
    "request-plane": "write request_plane",
    "event-plane": "write event_plane",
    "interactive": "a frontend without a terminal ends at once",
    "kserve-grpc-server": "loads go over HTTP",
    "metrics-prefix": "figures are known by the usual names",
    "model-name": "the workers say it",
    "model-path": "the workers say it",
    "tls-cert-path": "loads go over plain HTTP",
    "tls-key-path": "loads go over plain HTTP",
    "dump-config-to": "nothing reads it, and several frontends would share the file",
}
"""Flags of a frontend that follow from keys with a place of their own, or stand against a measurement."""

OWN_WORKER = {
    "model": "write model",
    "model-path": "write model",
    "served-model-name": "it is the model's path, as the load names it",
    "namespace": "each start has its own",
    "endpoint": "each start has its own namespace",
    "disaggregation-mode": "it follows from the stage",
    "is-prefill-worker": "it follows from the stage",
    "is-decode-worker": "it follows from the stage",
    "extra-engine-args": "write options or config",
    "tensor-parallel-size": "write tp or mapping",
    "pipeline-parallel-size": "write pp or mapping",
    "expert-parallel-size": "write ep or mapping",
    "enable-attention-dp": "write attention_dp or mapping, such as DEP8",
    "max-batch-size": "write max_batch_size, as an axis or of a deployment",
    "max-num-tokens": "write max_num_tokens, as an axis or of a deployment",
    "max-seq-len": "write options: {max_seq_len: ...}",
    "free-gpu-memory-fraction": "write options: {kv_cache_config: {free_gpu_memory_fraction: ...}}",
    "kv-block-size": "write options: {kv_cache_config: {tokens_per_block: ...}}",
    "discovery-backend": "write discovery",
    "store-kv": "write discovery",
    "request-plane": "write request_plane",
    "event-plane": "write event_plane",
    "migration-limit": "it is 0: a stream that goes on elsewhere would hide that its worker failed",
    "engine-request-limit": "it is above every concurrency: refused requests would be measured as served ones",
    "router-mode": "write router_mode, which the frontends have",
    "router-session-affinity-mode": "write it in frontend_args: workers of one kind would be routed in their own way",
    "router-session-affinity-ttl-secs": "write it in frontend_args",
    "active-decode-blocks-threshold": "write it in frontend_args",
    "active-prefill-tokens-threshold": "write it in frontend_args",
    "active-prefill-tokens-threshold-frac": "write it in frontend_args",
    "override-engine-args": "write options, which go into the engine's file",
    "dump-config-to": "nothing reads it, and several workers would share the file",
}
"""Flags of a worker that follow from keys with a place of their own."""

FORCED_VARIABLES = {
    "DYN_MIGRATION_LIMIT": "it is 0",
    "DYN_HEALTH_CHECK_ENABLED": "it is false: canary requests would run among those that are measured",
    "DYN_ENGINE_REQUEST_LIMIT": "it is above every concurrency",
    "DYN_ROUTER_CONDITIONAL_DISAGG": "it is off",
    "DYN_ROUTER_CONDITIONAL_DISAGG_CONFIG": "it is off",
    "DYN_NAMESPACE": "each start has its own",
    "DYN_NAMESPACE_PREFIX": "each start has its own namespace",
    "DYN_SYSTEM_PORT": "it follows from where a server is placed",
    "DYN_HTTP_PORT": "it follows from where a frontend is placed",
    "DYN_FILE_KV": "each start has its own folder",
    "ETCD_ENDPOINTS": "each start has its own etcd",
    "NATS_SERVER": "each start has its own NATS",
    "DYN_DISCOVERY_BACKEND": "write discovery",
    "DYN_STORE_KV": "write discovery",
    "DYN_REQUEST_PLANE": "write request_plane",
    "DYN_EVENT_PLANE": "write event_plane",
    "DYN_ROUTER_MODE": "write router_mode",
    "DYN_METRICS_PREFIX": "figures are known by the usual names",
}
"""Variables of any process that would undo what is set for a measurement, and what is right."""


@dataclass(frozen=True)
class Stack:
    """One Dynamo deployment's own settings. ``programs``: paths of ``etcd``, ``nats-server`` and ``nginx`` where they
    are not on PATH by these names. ``service_nodes``: 1 gives etcd and NATS a node of their own.
    ``nats_max_payload_mb``: of one message, ``None`` for NATS's own limit of 1 MB."""

    version: str
    backend: Backend
    backend_version: str
    frontends: int = 1
    nginx: bool = False
    router_mode: str = "round-robin"
    frontend_args: Options = field(default_factory=dict)
    frontend_env: dict[str, str] = field(default_factory=dict)
    worker_args: Options = field(default_factory=dict)
    discovery: str = "etcd"
    request_plane: str = "tcp"
    event_plane: str = "zmq"
    programs: dict[str, str] = field(default_factory=dict)
    service_nodes: int = 0
    nats_max_payload_mb: int | None = None

    @property
    def uses_nats(self) -> bool:
        """Is there a NATS server?"""
        return "nats" in (self.request_plane, self.event_plane)

    @property
    def discovery_flag(self) -> str:
        """The flag, of all programs, that names the discovery backend."""
        return "discovery-backend" if has_flag("frontend", self.version, "discovery-backend") else "store-kv"

    def program(self, name: str) -> str:
        """What starts one of the services."""
        return self.programs.get(name, name)


def stack_of(engine: EngineRef) -> Stack:
    """The settings of a deployment, as :func:`read_settings` filled them in; defaults for what is not there."""
    known = {name: engine.settings[name] for name in Stack.__dataclass_fields__ if name in engine.settings}
    backend = cast(Backend, engine.backend or BACKENDS[0])
    version = engine.backend_version or pinned_backend(engine.version, backend) or ""
    return Stack(engine.version, backend, version, **known)


KEYS = (
    *("backend", "backend_version", "frontends", "nginx", "router_mode", "frontend_args", "frontend_env"),
    *("worker_args", "discovery", "request_plane", "event_plane", "programs"),
    *("service_nodes", "nats_max_payload_mb"),
)
"""The keys beside ``name`` and ``version``."""


def read_settings(version: str, given: Options) -> Options | list[WrongSetting]:
    """All settings of a deployment, defaults filled in; or what is wrong with ``given``."""
    backend = given.get("backend", BACKENDS[0])
    wrong = list(_unknown(given))
    if backend not in BACKENDS:
        wrong.append(WrongSetting(("backend",), f"unknown backend {brief(backend)}", f"known: {', '.join(BACKENDS)}"))
        return wrong
    pinned = pinned_backend(version, str(backend)) or ""
    plane = "zmq" if has_flag("frontend", version, "event-plane") else "nats"
    filled: Options = {
        "backend": backend,
        "backend_version": pinned,
        "frontends": 1,
        "nginx": False,
        "router_mode": "round-robin",
        "frontend_args": {},
        "frontend_env": {},
        "worker_args": {},
        "discovery": "etcd",
        "request_plane": "tcp",
        "event_plane": plane,
        "programs": {},
        **given,
    }
    wrong += [*_check_types(filled), *_check_backend(version, filled)]
    if not wrong:
        wrong += [*_check_choices(version, filled), *_check_services(filled)]
        wrong += _check_args(version, "frontend", "frontend_args", filled["frontend_args"], OWN_FRONTEND)
        wrong += _check_args(version, backend, "worker_args", filled["worker_args"], OWN_WORKER)
        wrong += _check_variables(filled)
    return wrong or filled


def _unknown(given: Options) -> Iterator[WrongSetting]:
    for name in given:
        if name not in KEYS:
            yield WrongSetting(
                (str(name),), f"unknown key {brief(name)}", f"valid keys: name, version, {', '.join(KEYS)}"
            )


def _check_types(given: Options) -> Iterator[WrongSetting]:
    count = given["frontends"]
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_FRONTENDS:
        yield WrongSetting(("frontends",), f"must be a whole number from 1 to {MOST_FRONTENDS}, not {brief(count)}")
    if not isinstance(given["nginx"], bool):
        yield WrongSetting(("nginx",), f"must be true or false, not {brief(given['nginx'])}")
    for name in ("backend_version", "router_mode", "discovery", "request_plane", "event_plane"):
        if not isinstance(given[name], str):
            yield WrongSetting((name,), f"must be text, not {brief(given[name])}", "put it in quotes")
    for name in ("frontend_args", "worker_args"):
        if not isinstance(given[name], dict):
            yield WrongSetting((name,), f"must be a map of flags, not {brief(given[name])}")
    for name in ("frontend_env", "programs"):
        value = given[name]
        if not isinstance(value, dict) or not all(isinstance(text, str) for pair in value.items() for text in pair):
            yield WrongSetting((name,), "must be a map of texts", "put numbers and true or false in quotes")
    if isinstance(given["programs"], dict):
        for name in given["programs"]:
            if name not in ("etcd", "nats-server", "nginx"):
                known = "etcd, nats-server, nginx"
                yield WrongSetting(("programs", str(name)), f"unknown program {brief(name)}", f"known: {known}")


def _check_services(given: Options) -> Iterator[WrongSetting]:
    """The settings of etcd and NATS, which may be left out."""
    nats = "nats" in (given["request_plane"], given["event_plane"])
    nodes, payload = given.get("service_nodes", 0), given.get("nats_max_payload_mb")
    if not isinstance(nodes, int) or isinstance(nodes, bool) or nodes not in (0, 1):
        yield WrongSetting(("service_nodes",), f"must be 0 or 1, not {brief(nodes)}")
    elif nodes and given["discovery"] != "etcd" and not nats:
        what = "neither etcd nor NATS is started, so nothing would stand on a node of its own"
        yield WrongSetting(("service_nodes",), what, "leave it out")
    if payload is None:
        return
    if not isinstance(payload, int) or isinstance(payload, bool) or not 1 <= payload <= MOST_PAYLOAD_MB:
        what = f"must be a whole number from 1 to {MOST_PAYLOAD_MB}, not {brief(payload)}"
        yield WrongSetting(("nats_max_payload_mb",), what)
    elif not nats:
        yield WrongSetting(("nats_max_payload_mb",), "no plane uses NATS, so none is started", "leave it out")


def _check_backend(version: str, given: Options) -> Iterator[WrongSetting]:
    backend, text = given["backend"], given["backend_version"]
    if not isinstance(text, str):
        return
    if backend == "trtllm" and not is_trtllm(text):
        yield WrongSetting(
            ("backend_version",), f"unknown version {brief(text)} of TensorRT-LLM", "such as 1.3.0rc29"
        )
    if backend == "vllm":
        try:
            vllm_line(text)
        except ValueError:
            pins = f"Dynamo {version} pins it" if "backend_version" not in given else "it is given"
            what = f"vLLM {text} is not known ({pins}): flags of {VLLM_LINES[0]} to {VLLM_LINES[-1]} are"
            yield WrongSetting(("backend",), what, "use Dynamo 1.4 to 1.6, or backend: trtllm")


def _check_choices(version: str, given: Options) -> Iterator[WrongSetting]:
    known = flags("frontend", release_line(version))
    choices: dict[str, list[str]] = {
        "router_mode": known["router-mode"]["choices"],
        "discovery": ["file", "etcd"],
        "request_plane": [name for name in known["request-plane"]["choices"] if name != "http"],
        "event_plane": known["event-plane"]["choices"] if "event-plane" in known else ["nats"],
    }
    for name, valid in choices.items():
        if given[name] not in valid:
            what = f"{brief(given[name])} is not valid in Dynamo {release_line(version)}"
            yield WrongSetting((name,), what, f"choose from {', '.join(valid)}")
    if given["router_mode"] == "direct":
        yield WrongSetting(("router_mode",), "direct needs a router in front that chooses the worker", "such as kv")


def _check_args(version: str, program: Any, key: str, given: Options, own: dict[str, str]) -> Iterator[WrongSetting]:
    wrong = dict(check_flags(program, version, given))
    for option, value in given.items():
        name, meant = next(iter(spell_flags(program, version, {option: value}).items()))
        forced = FORCED_FRONTEND.get(name) if program == "frontend" else None
        if option in wrong:
            # Flags beyond Dynamo's own are vLLM's, which its options are for.
            vllm = program == "vllm" and "in its place" not in wrong[option]
            yield WrongSetting((key, option), wrong[option], "write vLLM's own flags as options" if vllm else "")
        elif name in own:
            yield WrongSetting((key, option), f"--{name} is set from the plan", own[name])
        elif forced is not None and meant not in (forced[0], None, False):
            what = f"must stay off while it is measured: {forced[1]}"
            yield WrongSetting((key, option), what, "leave it out")


def _check_variables(given: Options) -> Iterator[WrongSetting]:
    for name in given["frontend_env"]:
        if name in FORCED_VARIABLES:
            yield WrongSetting(("frontend_env", name), f"{name} is set for the measurement", FORCED_VARIABLES[name])

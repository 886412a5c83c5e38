"""NVIDIA Dynamo: engine workers behind its frontend, router and discovery.

A sweep file says::

    engine:
      name: dynamo
      version: "1.6.1"              # a release of Dynamo, 0.8 to 1.6
      backend: trtllm               # trtllm | vllm: what computes in the workers
      backend_version: "1.3.0rc29"  # left out: what that release of Dynamo pins
      frontends: 1                  # processes of dynamo.frontend
      nginx: false                  # true: one public port in front of them
      router_mode: round-robin      # as the release knows them: random, kv, ...
      frontend_args: {}             # further flags of dynamo.frontend: {router-temperature: 0.5}
      frontend_env: {}              # variables of the frontends
      worker_args: {}               # further flags of dynamo.trtllm or dynamo.vllm: {publish-metrics: true}
      discovery: etcd               # etcd | file
      request_plane: tcp            # tcp | nats
      event_plane: zmq              # zmq | nats (0.8 has nats only)
      service_nodes: 0              # 1: etcd and NATS on a node of their own
      nats_max_payload_mb: 24       # of one message, left out: NATS's own 1 MB
      programs: {}                  # {etcd: PATH, nats-server: PATH, nginx: PATH} where they are not on PATH

Everything else stands where it does for the backend itself: ``options``, ``config``, ``environment`` of ctx, gen and
ifb are the workers' (TensorRT-LLM's YAML keys, or vLLM's flags).

On an emulated cluster frontends, routers, etcd and NATS are the real ones, started with the profile's ``command`` (a
Python that has Dynamo; ratematch's own where there is none), and a worker is
``python -m ratematch.emulator dynamo-worker dynamo.trtllm`` (or ``dynamo.vllm``) with the arguments of the real one;
in its environment are ``RATEMATCH_EMULATED_VERSION`` (Dynamo's), ``RATEMATCH_EMULATED_BACKEND_VERSION``, and
``RATEMATCH_EMULATED_GPU``, ``_MODEL``, ``_PRECISION``, ``_UNCHECKED`` as other emulated servers have. It says that
it is emulated by an endpoint of its own beside ``generate``.
"""

from __future__ import annotations

from dataclasses import replace

from ratematch.engines import trtllm_serve, vllm
from ratematch.engines.dynamo.commandline import judge_probe, local_commands, probe_commands
from ratematch.engines.dynamo.contract import RELEASE_LINES, is_version, release_line
from ratematch.engines.dynamo.diagnosis import (
    TRTLLM_KNOWN,
    VLLM_KNOWN,
    diagnose_trtllm,
    diagnose_vllm,
    explain,
)
from ratematch.engines.dynamo.engineside import why_not_forced
from ratematch.engines.dynamo.joining import join, recheck
from ratematch.engines.dynamo.joinscript import join_script
from ratematch.engines.dynamo.places import spare_ports
from ratematch.engines.dynamo.precheck import check_launch, doubt_launch
from ratematch.engines.dynamo.reasons import explain_deployment
from ratematch.engines.dynamo.render import engine_command, engine_launcher, needed_programs, plan_launch
from ratematch.engines.dynamo.reports import (
    TRTLLM_ROUTES,
    VLLM_ROUTES,
    TracedRequest,
    is_dynamo_log,
    read_breakdown,
    read_trtllm_figures,
    read_vllm_figures,
    times_sources,
    trim_record,
)
from ratematch.engines.dynamo.stack import read_settings
from ratematch.engines.trtllm_serve.agreement import expert_slots
from ratematch.engines.trtllm_serve.worker_rules import idle_options
from ratematch.plan.enginefacts import EngineFacts


def why_no_simulation() -> str:
    """What stands against simulating its servers in virtual time."""
    return "virtual time knows trtllm-serve's own orchestrator, not Dynamo's router; run it on an emulated cluster"


FACTS = EngineFacts(
    versions=RELEASE_LINES,
    reads_version=is_version,
    gen_modes=("gen_only_warmed",),
    routers=("round_robin",),
    router_hint="write engine.router_mode",
    expert_slots=expert_slots,
    idle_options=idle_options,
    read_settings=read_settings,
    why_not_forced=why_not_forced,
)
"""One for all backends: a sweep file is read before anything of its backend is planned."""

TRTLLM = replace(
    trtllm_serve.ENGINE,
    name="dynamo",
    facts=FACTS,
    product="Dynamo",
    reference="Dynamo, its engine's contract",
    routes=TRTLLM_ROUTES,
    command=engine_command,
    programs=needed_programs,
    launcher=engine_launcher,
    spare_ports=spare_ports,
    plan_launch=plan_launch,
    check_launch=check_launch,
    doubt_launch=doubt_launch,
    join=join,
    recheck=recheck,
    join_script=join_script,
    explain_settings=explain_deployment,
    read_figures=read_trtllm_figures,
    request_times=times_sources,
    trim_times=trim_record,
    read_breakdown=read_breakdown,
    timed_request=TracedRequest,
    wrote=is_dynamo_log,
    diagnose=diagnose_trtllm,
    known_failures=TRTLLM_KNOWN,
    explain=explain,
    probe_commands=probe_commands("trtllm"),
    local_commands=local_commands,
    judge_probe=judge_probe,
    release_line=release_line,
    why_no_simulation=why_no_simulation,
)
"""With TensorRT-LLM in the workers, whose memory, files, iteration lines and schema are its own room's."""

VLLM = replace(
    vllm.ENGINE,
    name="dynamo",
    facts=FACTS,
    product="Dynamo",
    reference="Dynamo, vLLM",
    routes=VLLM_ROUTES,
    command=engine_command,
    programs=needed_programs,
    launcher=engine_launcher,
    spare_ports=spare_ports,
    plan_launch=plan_launch,
    check_launch=check_launch,
    doubt_launch=doubt_launch,
    join=join,
    recheck=recheck,
    join_script=join_script,
    explain_settings=explain_deployment,
    read_figures=read_vllm_figures,
    request_times=times_sources,
    trim_times=trim_record,
    read_breakdown=read_breakdown,
    timed_request=TracedRequest,
    wrote=is_dynamo_log,
    diagnose=diagnose_vllm,
    known_failures=VLLM_KNOWN,
    explain=explain,
    probe_commands=probe_commands("vllm"),
    local_commands=local_commands,
    judge_probe=judge_probe,
    release_line=release_line,
    why_no_simulation=why_no_simulation,
)
"""With vLLM in the workers, likewise."""

ENGINES = {"dynamo": TRTLLM, "dynamo-trtllm": TRTLLM, "dynamo-vllm": VLLM}
"""By the key of an experiment's engine; the bare name stands for the usual backend."""

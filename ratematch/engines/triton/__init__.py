"""Triton Inference Server with TensorRT engines: LEGACY, deleted upstream in July 2026 (``docs/engines.md``)."""

from __future__ import annotations

from ratematch.engines.engine import Engine
from ratematch.engines.triton.build import check_engines
from ratematch.engines.triton.commandline import LINES, judge_probe, probe_commands, reads_version
from ratematch.engines.triton.derive import explain_deployment, kv_settings
from ratematch.engines.triton.diagnosis import KNOWN, diagnose, explain, has_iterations, is_triton_log
from ratematch.engines.triton.metrics import ROUTES, IterationReader, read_figures
from ratematch.engines.triton.precheck import check_launch, doubt_launch, kv_layout
from ratematch.engines.triton.render import engine_command, engine_launcher, plan_launch, request_api, spare_ports
from ratematch.plan.enginefacts import EngineFacts


def why_no_simulation() -> str:
    """What stands against simulating its servers in virtual time."""
    return "virtual time knows the scheduler of trtllm-serve only; run it on an emulated cluster instead"


ENGINE: Engine = Engine(
    name="triton",
    facts=EngineFacts(versions=LINES, gen_modes=("gen_only",), routers=("round_robin",), reads_version=reads_version),
    product="Triton (legacy) with TensorRT-LLM",
    reference="Triton's TensorRT-LLM deployment",
    routes=ROUTES,
    command=engine_command,
    launcher=engine_launcher,
    spare_ports=spare_ports,
    plan_launch=plan_launch,
    check_launch=check_launch,
    doubt_launch=doubt_launch,
    check_inputs=check_engines,
    explain_settings=explain_deployment,
    request_api=request_api,
    kv_settings=kv_settings,
    kv_layout=kv_layout,
    iteration_reader=IterationReader,
    read_figures=read_figures,
    has_iterations=has_iterations,
    wrote=is_triton_log,
    diagnose=diagnose,
    known_failures=KNOWN,
    explain=explain,
    probe_commands=probe_commands,
    judge_probe=judge_probe,
    why_no_simulation=why_no_simulation,
)

"""vLLM's own server: ``vllm serve``, aggregated or as prefill and decode servers that hand KV caches over (NIXL)."""

from __future__ import annotations

from ratematch.engines.engine import Engine
from ratematch.engines.vllm.commandline import judge_probe, probe_commands
from ratematch.engines.vllm.contract import RELEASE_LINES, release_line
from ratematch.engines.vllm.derive import why_not_forced
from ratematch.engines.vllm.diagnosis import KNOWN, diagnose, explain
from ratematch.engines.vllm.logs import has_given_up, has_iterations, is_vllm_log
from ratematch.engines.vllm.metrics import ROUTES, IterationReader, read_figures, read_stages
from ratematch.engines.vllm.options import kv_settings
from ratematch.engines.vllm.precheck import check_launch, kv_layout
from ratematch.engines.vllm.reasons import explain_deployment
from ratematch.engines.vllm.render import does_for, engine_command, engine_launcher, plan_launch, side_channels
from ratematch.engines.vllm.transfer import COSTS, transfer_work
from ratematch.plan.enginefacts import EngineFacts


def why_no_simulation() -> str:
    """What stands against simulating its servers in virtual time."""
    return "virtual time knows the scheduler of trtllm-serve only; run it on an emulated cluster instead"


ENGINE = Engine(
    name="vllm",
    # The release lines that can be rendered, and what stands in front of its servers.
    facts=EngineFacts(
        versions=RELEASE_LINES,
        gen_modes=("gen_only_warmed",),
        routers=("round_robin", "command"),
        why_not_forced=why_not_forced,
    ),
    product="vLLM",
    reference="vLLM",
    routes=ROUTES,
    command=engine_command,
    launcher=engine_launcher,
    spare_ports=side_channels,
    plan_launch=plan_launch,
    check_launch=check_launch,
    does_for=does_for,
    explain_settings=explain_deployment,
    kv_settings=kv_settings,
    kv_layout=kv_layout,
    transfer_work=transfer_work,
    transfer_costs=COSTS,
    iteration_reader=IterationReader,
    read_figures=read_figures,
    read_stages=read_stages,
    has_iterations=has_iterations,
    wrote=is_vllm_log,
    has_given_up=has_given_up,
    diagnose=diagnose,
    known_failures=KNOWN,
    explain=explain,
    probe_commands=probe_commands,
    judge_probe=judge_probe,
    release_line=release_line,
    why_no_simulation=why_no_simulation,
)

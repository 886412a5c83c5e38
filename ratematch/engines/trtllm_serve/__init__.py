"""TensorRT-LLM's own server: ``trtllm-serve`` workers and the ``disaggregated`` orchestrator."""

from __future__ import annotations

from ratematch.engines.engine import Engine
from ratematch.engines.trtllm_serve.agreement import expert_slots
from ratematch.engines.trtllm_serve.commandline import engine_command, engine_launcher, judge_probe, probe_commands
from ratematch.engines.trtllm_serve.contract import RELEASE_LINES, release_line
from ratematch.engines.trtllm_serve.diagnosis import KNOWN, diagnose, explain
from ratematch.engines.trtllm_serve.forced import why_not_forced
from ratematch.engines.trtllm_serve.iterlog import has_given_up, has_iterations, is_trtllm_log, read_log
from ratematch.engines.trtllm_serve.kvwork import COSTS, transfer_work
from ratematch.engines.trtllm_serve.metrics import ROUTES, iteration_reader, read_figures, read_samples
from ratematch.engines.trtllm_serve.precheck import check_launch, doubt_launch, kv_layout
from ratematch.engines.trtllm_serve.reasons import explain_deployment
from ratematch.engines.trtllm_serve.release import NEWEST, is_version
from ratematch.engines.trtllm_serve.render import kv_settings, plan_launch, spare_ports
from ratematch.engines.trtllm_serve.requesttimes import read_breakdown, times_sources, trim_record
from ratematch.engines.trtllm_serve.running import read_running
from ratematch.engines.trtllm_serve.schema.answer import describe_schema, read_answer, schema_command
from ratematch.engines.trtllm_serve.stages import TimedRequest
from ratematch.engines.trtllm_serve.times import breakdown_apart
from ratematch.engines.trtllm_serve.worker_rules import fill_margin, idle_options
from ratematch.plan.enginefacts import EngineFacts

ENGINE = Engine(
    name="trtllm-serve",
    # The release lines that can be rendered (contract, section 11), and what the orchestrator can do.
    facts=EngineFacts(
        versions=(*RELEASE_LINES, NEWEST),
        reads_version=is_version,
        gen_modes=("gen_only_no_context", "gen_only"),
        routers=("round_robin", "load_balancing", "kv_cache_aware", "conversation"),
        expert_slots=expert_slots,
        breakdown_apart=breakdown_apart,
        idle_options=idle_options,
        fill_margin=fill_margin,
        why_not_forced=why_not_forced,
    ),
    product="TensorRT-LLM",
    reference="contract, section 9",
    routes=ROUTES,
    command=engine_command,
    launcher=engine_launcher,
    spare_ports=spare_ports,
    plan_launch=plan_launch,
    check_launch=check_launch,
    doubt_launch=doubt_launch,
    explain_settings=explain_deployment,
    kv_settings=kv_settings,
    kv_layout=kv_layout,
    transfer_work=transfer_work,
    transfer_costs=COSTS,
    iteration_reader=iteration_reader,
    read_samples=read_samples,
    read_figures=read_figures,
    request_times=times_sources,
    trim_times=trim_record,
    read_breakdown=read_breakdown,
    timed_request=TimedRequest,
    read_log=read_log,
    read_running=read_running,
    has_iterations=has_iterations,
    has_given_up=has_given_up,
    wrote=is_trtllm_log,
    diagnose=diagnose,
    known_failures=KNOWN,
    explain=explain,
    probe_commands=probe_commands,
    judge_probe=judge_probe,
    release_line=release_line,
    schema_command=schema_command,
    read_schema=read_answer,
    describe_schema=describe_schema,
)

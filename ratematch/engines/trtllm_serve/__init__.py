"""TensorRT-LLM's own server: ``trtllm-serve`` workers and the ``disaggregated`` orchestrator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ratematch.engines.trtllm_serve.commandline import engine_command, engine_launcher, judge_probe, probe_commands
from ratematch.engines.trtllm_serve.contract import RELEASE_LINES
from ratematch.engines.trtllm_serve.diagnosis import diagnose, explain
from ratematch.engines.trtllm_serve.iterlog import parse_lines, read_span
from ratematch.engines.trtllm_serve.metrics import ROUTES, read_iterations
from ratematch.engines.trtllm_serve.precheck import check_launch
from ratematch.engines.trtllm_serve.reasons import explain_deployment
from ratematch.engines.trtllm_serve.render import kv_settings, plan_launch
from ratematch.measure.serverlog import Diagnosis, LogSpan, Symptom
from ratematch.measure.servermetrics import ReadIterations, Samples, StageTimes
from ratematch.plan.capacity import KvSettings
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.enginefacts import EngineFacts
from ratematch.plan.experiment import Experiment
from ratematch.plan.finding import Finding
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.model import Model
from ratematch.plan.placement import Placement
from ratematch.plan.setting import Setting

FACTS = EngineFacts(
    versions=RELEASE_LINES,
    gen_modes=("gen_only_no_context", "gen_only"),
    routers=("round_robin", "load_balancing", "kv_cache_aware", "conversation"),
)
"""Release lines that can be rendered (contract, section 11), and what its orchestrator can do."""


class TrtllmServe:
    """The engine boundary of :class:`ratematch.engines.Engine`, for ``trtllm-serve``."""

    product = "TensorRT-LLM"
    reference = "contract, section 9"
    routes = ROUTES

    def command(self, cluster: Cluster) -> tuple[str, ...]:
        return engine_command(cluster)

    def launcher(self, cluster: Cluster) -> tuple[str, ...]:
        return engine_launcher(cluster)

    def spare_ports(self, deployment: Deployment) -> int:
        return 0

    def plan_launch(
        self, experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float
    ) -> LaunchPlan:
        return plan_launch(experiment, placement, cluster, ready_s)

    def check_launch(self, plan: LaunchPlan, experiment: Experiment, model: Model | None = None) -> list[str]:
        return check_launch(plan, experiment, model)

    def explain_settings(self, experiment: Experiment) -> dict[str, tuple[Setting, ...]]:
        return explain_deployment(experiment)

    def kv_settings(self, group: ServerGroup) -> KvSettings:
        return kv_settings(group)

    def kv_layout(self, group: ServerGroup, version: str) -> str:
        return ""  # sides that differ are refused before anything is measured

    def extra_body(self, experiment: Experiment) -> dict[str, Any]:
        return {}

    def iteration_reader(self) -> ReadIterations:
        return read_iterations

    def read_stages(self, ctx: Sequence[Samples], gen: Sequence[Samples], elapsed_s: float) -> StageTimes | None:
        return None  # request by request instead, from /perf_metrics

    def read_log(self, text: str, group: ServerGroup, in_flight: int | None) -> LogSpan | None:
        return read_span(text, group.mapping.dp_ranks, in_flight)

    def has_iterations(self, text: str) -> bool:
        return any(True for _ in parse_lines(text.splitlines()))

    def wrote(self, text: str) -> bool:
        return "TensorRT-LLM" in text or "tensorrt_llm" in text

    def has_given_up(self, text: str) -> bool:
        return False  # its process ends

    def diagnose(self, texts: Sequence[str]) -> Diagnosis | None:
        return diagnose(texts)

    def explain(self, symptom: Symptom, experiment: Experiment) -> Diagnosis:
        return explain(symptom, experiment)

    def why_no_simulation(self) -> str | None:
        return None

    def probe_commands(self, command: Sequence[str]) -> dict[str, tuple[str, ...]]:
        return probe_commands(command)

    def judge_probe(self, answers: Mapping[str, str]) -> list[Finding]:
        return judge_probe(answers)


ENGINE = TrtllmServe()

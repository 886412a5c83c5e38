"""vLLM's own server: ``vllm serve``, aggregated or as prefill and decode servers that hand KV caches over (NIXL)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ratematch.engines.settings import explain_group
from ratematch.engines.vllm.commandline import judge_probe, probe_commands
from ratematch.engines.vllm.contract import RELEASE_LINES
from ratematch.engines.vllm.derive import derive_server
from ratematch.engines.vllm.diagnosis import diagnose, explain
from ratematch.engines.vllm.metrics import ROUTES, IterationReader, read_stages
from ratematch.engines.vllm.options import kv_settings, spell_options
from ratematch.engines.vllm.precheck import check_launch, kv_layout
from ratematch.engines.vllm.render import engine_command, plan_launch, side_channels
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

FACTS = EngineFacts(versions=RELEASE_LINES, gen_modes=("gen_only_warmed",), routers=("round_robin", "command"))
"""Release lines that can be rendered, and what stands in front of its servers."""

_GIVEN_UP = re.compile(r"EngineCore failed to start|Engine core initialization failed")
"""After this the API server may wait for ever for an engine process that has ended."""

_LINE = re.compile(
    r"\[\w+\.py:\d+\].{0,80}vLLM|\((?:APIServer|EngineCore|Worker)\w* pid=\d+\)|^(?:usage: )?vllm(?: serve)?:", re.M
)

_GENERATES = re.compile(r"Avg (?:prompt|generation) throughput: (?!0\.0 )\d")


class Vllm:
    """The engine boundary of :class:`ratematch.engines.Engine`, for ``vllm serve``."""

    product = "vLLM"
    reference = "vLLM"
    routes = ROUTES

    def command(self, cluster: Cluster) -> tuple[str, ...]:
        return engine_command(cluster)

    def launcher(self, cluster: Cluster) -> tuple[str, ...]:
        return cluster.launcher or ()

    def spare_ports(self, deployment: Deployment) -> int:
        return side_channels(deployment)

    def plan_launch(
        self, experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float
    ) -> LaunchPlan:
        return plan_launch(experiment, placement, cluster, ready_s)

    def check_launch(self, plan: LaunchPlan, experiment: Experiment, model: Model | None = None) -> list[str]:
        return check_launch(plan, experiment, model)

    def explain_settings(self, experiment: Experiment) -> dict[str, tuple[Setting, ...]]:
        version = experiment.engine.version
        return {
            group.role: explain_group(
                group,
                spell_options(group.options, version),
                () if group.config is not None else derive_server(experiment, group),
            )
            for group in experiment.deployment.groups
        }

    def kv_settings(self, group: ServerGroup) -> KvSettings:
        return kv_settings(group)

    def kv_layout(self, group: ServerGroup, version: str) -> str:
        return kv_layout(group, version)

    def extra_body(self, experiment: Experiment) -> dict[str, Any]:
        return {}

    def iteration_reader(self) -> ReadIterations:
        return IterationReader()

    def read_stages(self, ctx: Sequence[Samples], gen: Sequence[Samples], elapsed_s: float) -> StageTimes | None:
        return read_stages(ctx, gen, elapsed_s)

    def read_log(self, text: str, group: ServerGroup, in_flight: int | None) -> LogSpan | None:
        return None  # its log tells throughput every 10 s, and no step

    def has_iterations(self, text: str) -> bool:
        return _GENERATES.search(text) is not None

    def wrote(self, text: str) -> bool:
        return _LINE.search(text) is not None

    def has_given_up(self, text: str) -> bool:
        return _GIVEN_UP.search(text) is not None

    def diagnose(self, texts: Sequence[str]) -> Diagnosis | None:
        return diagnose(texts)

    def explain(self, symptom: Symptom, experiment: Experiment) -> Diagnosis:
        return explain(symptom, experiment)

    def why_no_simulation(self) -> str | None:
        return "virtual time knows the scheduler of trtllm-serve only; run it on an emulated cluster instead"

    def probe_commands(self, command: Sequence[str]) -> dict[str, tuple[str, ...]]:
        return probe_commands(command)

    def judge_probe(self, answers: Mapping[str, str]) -> list[Finding]:
        return judge_probe(answers)


ENGINE = Vllm()

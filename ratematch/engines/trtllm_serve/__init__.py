"""TensorRT-LLM's own server: ``trtllm-serve`` workers and the ``disaggregated`` orchestrator."""

from __future__ import annotations

from typing import Any

import yaml

from ratematch.engines.trtllm_serve.contract import RELEASE_LINES, check_orchestrator_config, check_worker_config
from ratematch.engines.trtllm_serve.diagnosis import diagnose
from ratematch.engines.trtllm_serve.iterlog import read_span
from ratematch.engines.trtllm_serve.render import kv_settings, plan_launch
from ratematch.plan.capacity import KvSettings
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.placement import Placement
from ratematch.plan.serverlog import LogSpan

VERSIONS = RELEASE_LINES
"""Release lines that can be rendered (contract, section 11)."""


class TrtllmServe:
    """The engine boundary of :class:`ratematch.engines.Engine`, for ``trtllm-serve``."""

    def plan_launch(
        self, experiment: Experiment, placement: Placement, cluster: Cluster, ready_s: float
    ) -> LaunchPlan:
        return plan_launch(experiment, placement, cluster, ready_s)

    def check_launch(self, plan: LaunchPlan, experiment: Experiment) -> list[str]:
        version = experiment.engine.version
        found: list[str] = []
        for file in plan.files:
            config = yaml.safe_load(file.content)
            check = check_orchestrator_config if file.path == "orchestrator.yaml" else check_worker_config
            found.extend(f"{file.path}: {problem}" for problem in check(config, version))
        return found

    def kv_settings(self, group: ServerGroup) -> KvSettings:
        return kv_settings(group)

    def extra_body(self, experiment: Experiment) -> dict[str, Any]:
        return {}

    def read_log(self, text: str, group: ServerGroup) -> LogSpan | None:
        return read_span(text, group.mapping.dp_ranks)

    def diagnose(self, log_tail: str) -> str | None:
        return diagnose(log_tail)


ENGINE = TrtllmServe()

"""What configures an orchestrator: its YAML file and command line made into one validated value."""

from __future__ import annotations

from dataclasses import dataclass

from ratematch.emulator.environment import Environment
from ratematch.emulator.errors import SettingsError
from ratematch.emulator.trtllm.routers import RoleSettings
from ratematch.engines.settings import Config, without
from ratematch.engines.trtllm_serve.orchestrator_rules import check_orchestrator_config


@dataclass(frozen=True)
class OrchestratorSettings:
    """One orchestrator. Times in seconds."""

    host: str
    port: int
    version: str
    ctx: RoleSettings
    gen: RoleSettings
    max_retries: int
    perf_kept: int
    perf_metrics: bool
    perf_metrics_folder: str | None
    max_local_prefill: int | None
    start_timeout_s: float
    request_timeout_s: float
    keep_alive_s: float
    generation_first: bool


def _role(name: str, section: Config | None) -> RoleSettings:
    block = section or {}
    router = dict(block.get("router") or {})
    kind = str(router.pop("type", "round_robin")).lower()
    args = {**router, **router.pop("args", {})} if isinstance(router.get("args"), dict) else router
    kv = block.get("kv_cache_config") or {}
    if kind == "kv_cache_aware":
        for key, value in (
            ("max_batch_size", block.get("max_batch_size")),
            ("tokens_per_block", kv.get("tokens_per_block")),
        ):
            if value is not None:
                args.setdefault(key, value)
    return RoleSettings(name, tuple(block.get("urls") or ()), kind, args)


def orchestrator_settings(
    config: Config,
    environment: Environment,
    *,
    start_timeout_s: float,
    request_timeout_s: float,
    schedule_style: str | None = None,
) -> OrchestratorSettings:
    """Settings of ``disaggregated``.

    Raises:
        SettingsError: everything that is wrong with the file, a line each.
    """
    config = without(config, environment.unchecked)
    problems = check_orchestrator_config(config, environment.version)
    if problems:
        raise SettingsError("\n".join(problems))
    if config.get("disagg_cluster"):
        raise SettingsError("disagg_cluster: service discovery is not emulated; list the servers under urls")
    conditional = config.get("conditional_disagg_config")
    style = schedule_style or config.get("schedule_style", "context_first")
    return OrchestratorSettings(
        host=config.get("hostname", "localhost"),
        port=int(config.get("port", 8000)),
        version=environment.version,
        ctx=_role("context", config.get("context_servers")),
        gen=_role("generation", config.get("generation_servers")),
        max_retries=int(config.get("max_retries", 1)),
        perf_kept=int(config.get("perf_metrics_max_requests", 0)),
        perf_metrics=bool(config.get("return_perf_metrics", False)),
        perf_metrics_folder=config.get("perf_metrics_output_dir"),
        max_local_prefill=None if conditional is None else int(conditional.get("max_local_prefill_length", 0)),
        start_timeout_s=start_timeout_s,
        request_timeout_s=request_timeout_s,
        keep_alive_s=float(config.get("server_keep_alive_timeout", 10)),
        generation_first=style == "generation_first",
    )

from dataclasses import dataclass
from typing import Any


@dataclass
class ConditionalDisaggConfig:
    max_local_prefill_length: int = 0


@dataclass
class OtlpConfig:
    otlp_traces_endpoint: str | None = None


@dataclass
class MinimalInstances:
    context_servers: int = 1
    generation_servers: int = 1


@dataclass
class DisaggClusterConfig:
    cluster_uri: str
    cluster_name: str = ""
    minimal_instances: MinimalInstances | None = None
    heartbeat_interval_sec: int = 5
    inactive_timeout_sec: int = 10


@dataclass
class DisaggServerConfig:
    server_configs: list
    hostname: str = "localhost"


def extract_disagg_cfg(
    hostname: str = "localhost",
    port: int = 8000,
    max_retries: int = 1,
    perf_metrics_max_requests: int = 0,
    context_servers: dict | None = None,
    generation_servers: dict | None = None,
    conditional_disagg_config: dict | None = None,
    otlp_config: dict | None = None,
    disagg_cluster: dict | None = None,
    **kwargs: Any,
) -> DisaggServerConfig:
    raise NotImplementedError

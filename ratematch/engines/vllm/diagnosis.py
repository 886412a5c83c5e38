"""Known failures of a ``vllm serve`` deployment: what its logs say, what that means, what to do.

A table. ``reference`` names the part of vLLM that writes the line, so that a row can be checked against its source.
What is said whatever engine runs is in :mod:`ratematch.engines.sitefailures`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ratematch.engines.failures import find_failure
from ratematch.engines.knownfailure import KnownFailure, quiet, row
from ratematch.engines.sitefailures import GPU_MEMORY, SITE
from ratematch.measure.serverlog import Diagnosis, Symptom
from ratematch.plan.experiment import Experiment

OWN: tuple[KnownFailure, ...] = (
    row(
        "unknown-flag",
        "argument parser",
        r"vllm(?: serve)?: error: unrecognized arguments?: |error: unrecognized arguments: ",
        "the server does not know one of its flags",
        "check options and engine.version in the sweep against `vllm serve --help=all`",
    ),
    row(
        "unknown-value",
        "argument parser",
        r"error: argument (?:\S+/)*--[\w-]+(?:/\S+)*: (?:invalid|expected)|invalid (?:tool call|reasoning) parser: ",
        "a flag has a value that this version does not take",
        "check options and engine.version in the sweep",
    ),
    row(
        "kv-cache-small",
        "KV cache memory",
        r"is larger than the available KV cache|estimated maximum model length is"
        r"|larger than the maximum number of tokens that can be stored in KV cache",
        "the KV cache has no room for one request of max_model_len tokens",
        "lower max_model_len, raise gpu_memory_utilization, or use more GPUs a server",
    ),
    row(
        "kv-cache-none",
        "KV cache memory",
        r"No available memory for the cache blocks",
        "weights and activations leave no memory for the KV cache",
        "raise gpu_memory_utilization, lower max_num_tokens, or use more GPUs a server",
    ),
    row(
        "gpu-memory",
        "CUDA",
        GPU_MEMORY,
        "the GPU ran out of memory (out of GPU memory)",
        "lower gpu_memory_utilization or max_num_tokens, or use more GPUs a server",
    ),
    row(
        "kv-formats-differ",
        "NixlConnector",
        r"NIXL compatibility hash mismatch",
        "prefill and decode servers differ in version, model, number format or attention backend",
        "give ctx and gen the same engine, dtype, kv_cache_dtype and attention backend",
    ),
    quiet(
        row(
            "kv-expired",
            "NixlConnector",
            r"Releasing expired KV blocks for request",
            "KV caches of prefill servers were not fetched in time and were dropped",
            "lower the load, or raise kv_transfer_config.kv_connector_extra_config.kv_lease_duration",
            rank="request",
        )
    ),
    row(
        "ucx-no-cuda",
        "NixlConnector",
        r"VRAM memory is detected as host by UCX|UCX CUDA support was not found|registerMem: registration failed",
        "UCX has no CUDA transport, mostly because of an inherited UCX_TLS",
        "unset UCX_TLS and check that UCX and NIXL were built with CUDA",
    ),
    row(
        "kv-load-failed",
        "KV load",
        # Not the option's own name, which stands in every printed configuration.
        r"due to KV load failure",
        "a decode server could not load the KV cache of a request",
        "see the decode server's log for the transfer that failed, and whether the prefill server still runs",
        rank="suspect",
    ),
    row(
        "unknown-connector",
        "KV connector",
        r"Unsupported connector type|Connector '?\w+'? is not registered|kv_role.{0,60}must be|Unsupported kv_role",
        "this version does not know the KV connector, or its role",
        "check kv_transfer_config in the sweep against the version",
    ),
    row(
        "model-length",
        "model",
        r"max_model_len \(\d+\) is greater than the derived max_model_len",
        "ISL + OSL is longer than the model was made for",
        "ask for less, or for a model with a longer context",
    ),
    row(
        "request-too-long",
        "request",
        r"maximum context length is \d+ tokens|longer than the maximum model length",
        "a request is longer than max_model_len",
        "leave max_model_len out: it then follows from ISL and OSL",
        rank="request",
    ),
    row(
        "step-tokens",
        "scheduler",
        r"max_num_batched_tokens .{0,40}(?:must be greater|is smaller) than.{0,20}max_(?:num_seqs|model_len)",
        "a step takes fewer tokens than it must",
        "raise max_num_tokens, or leave it out",
    ),
    row(
        "heads-tp",
        "parallelism",
        r"Total number of attention heads .{0,40}must be divisible by tensor parallel size",
        "the heads do not divide by tp",
        "choose another tp",
    ),
    row(
        "worker-hang",
        "executor",
        r"RPC call to \w+ timed out|Executor failed.{0,40}time|execute_model timed out",
        "a worker did not answer its engine in time: it hangs, or waits for another rank",
        "see which rank is silent; VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS if it only needs longer",
        rank="request",
    ),
    row(
        "command-missing",
        "step",
        r"vllm.{0,40}(?:command not found|No such file or directory)",
        "the image (or the node) has no vllm command",
        "check container.image, or `command` in the cluster profile; `doctor --probe` shows what is there",
    ),
    row(
        "server-unreachable",
        "proxy",
        r"(?:prefill|decode) server \S+ .{0,40}(?:cannot be reached|gone|refused)",
        "the proxy could not reach a server",
        "see that server's log",
        rank="general",
    ),
    row(
        "engine-ended",
        "engine core",
        r"RayActorError|ActorDiedError|AsyncEngineDeadError|MQEngineDeadError|Engine core initialization failed"
        r"|EngineCore encountered|EngineDeadError|EngineCore failed to start"
        r"|WorkerProc initialization failed|Worker proc \S+ died unexpectedly",
        "the engine process behind the server ended",
        "the cause is in earlier lines of its log, of EngineCore or a Worker",
        rank="general",
    ),
)

VAGUE: tuple[KnownFailure, ...] = (
    row(
        "nixl-failed",
        "NixlConnector",
        r"NIXL transfer failure|nixl_cu?\w*\.nixl\w*Error|NIXL_ERR_|nixl\._bindings\.nixl\w*Error",
        "a KV transfer failed",
        "see the lines around it; check that UCX finds the GPUs and the network (UCX_TLS unset, RDMA devices)",
        rank="suspect",
    ),
)
"""What is said with nearly every failure of a KV transfer: another row that fits the same line says more."""

KNOWN: tuple[KnownFailure, ...] = (*OWN, *SITE, *VAGUE)

SYMPTOMS: dict[Symptom, Diagnosis] = {
    "stalled": Diagnosis(
        "the servers stopped iterating without an error: every running request waits, mostly for KV blocks or for a "
        "KV transfer that never ends",
        "see `KV Transfer metrics` and `Waiting` in the logs; lower the load or use a larger block_size",
        "scheduler",
    ),
    "never_started": Diagnosis(
        "the servers never ran a first iteration", "see their logs; VLLM_LOGGING_LEVEL=DEBUG says more", "engine core"
    ),
    "all_failed": Diagnosis(
        "the servers answer /health and fail every request",
        "read what the requests were told; through the proxy, check the prefill servers' logs first",
        "proxy",
    ),
}


def diagnose(texts: Sequence[str]) -> Diagnosis | None:
    """The cause that ``texts`` (logs, error answers) show: :mod:`ratematch.engines.failures`; ``None`` for none."""
    return find_failure(texts, KNOWN)


def explain(symptom: Symptom, experiment: Experiment) -> Diagnosis:
    """What is known of trouble that leaves no line in a log."""
    return SYMPTOMS[symptom]

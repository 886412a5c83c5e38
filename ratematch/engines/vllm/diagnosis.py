"""Known failures of a ``vllm serve`` deployment: what its logs say, what that means, what to do.

A table. ``reference`` names the part of vLLM that writes the line, so that a row can be checked against its source.
"""

from __future__ import annotations

from collections.abc import Sequence

from ratematch.engines.failures import SITE, KnownFailure, find_failure, row
from ratematch.measure.serverlog import Diagnosis, Symptom
from ratematch.plan.experiment import Experiment

KNOWN: tuple[KnownFailure, ...] = (
    row(
        "argument parser",
        r"vllm(?: serve)?: error: unrecognized arguments?: |error: unrecognized arguments: ",
        "the server does not know one of its flags",
        "check options and engine.version in the sweep against `vllm serve --help=all`",
    ),
    row(
        "argument parser",
        r"error: argument (?:\S+/)*--[\w-]+(?:/\S+)*: (?:invalid|expected)",
        "a flag has a value that this version does not take",
        "check options and engine.version in the sweep",
    ),
    row(
        "KV cache memory",
        r"is larger than the available KV cache|estimated maximum model length is",
        "the KV cache has no room for one request of max_model_len tokens",
        "lower max_model_len, raise gpu_memory_utilization, or use more GPUs a server",
    ),
    row(
        "KV cache memory",
        r"No available memory for the cache blocks",
        "weights and activations leave no memory for the KV cache",
        "raise gpu_memory_utilization, lower max_num_tokens, or use more GPUs a server",
    ),
    row(
        "worker start",
        r"is less than desired GPU memory utilization",
        "another program holds memory of the GPU",
        "end it (nvidia-smi names it), or lower gpu_memory_utilization",
    ),
    row(
        "CUDA",
        r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError",
        "the GPU ran out of memory",
        "lower gpu_memory_utilization or max_num_tokens, or use more GPUs a server",
    ),
    row(
        "CUDA",
        r"No CUDA GPUs are available|CUDA driver version is insufficient|Failed to infer device type",
        "the server found no GPU that it can use",
        "check nvidia-smi, the driver, and CUDA_VISIBLE_DEVICES",
    ),
    row(
        "socket",
        r"\[Errno 98\]|Address already in use|address already in use",
        "a port is in use by another program",
        "stop it, or set another port_base in the cluster profile",
    ),
    row(
        "NixlConnector",
        r"NIXL is not available|No module named 'nixl",
        "the server has no NIXL, so it cannot hand KV caches over",
        "install nixl beside vllm (pip install nixl), or choose another kv_connector",
    ),
    row(
        "NixlConnector",
        r"NIXL compatibility hash mismatch",
        "prefill and decode servers differ in version, model, number format or attention backend",
        "give ctx and gen the same engine, dtype, kv_cache_dtype and attention backend",
    ),
    row(
        "NixlConnector",
        r"Releasing expired KV blocks for request",
        "KV caches of prefill servers were not fetched in time and were dropped",
        "lower the load, or raise kv_transfer_config.kv_connector_extra_config.kv_lease_duration",
    ),
    row(
        "NixlConnector",
        r"NIXL transfer failure|nixl_cu?\w*\.nixl\w*Error|NIXL_ERR_",
        "a KV transfer failed",
        "see the lines around it; check that UCX finds the GPUs and the network (UCX_TLS unset, RDMA devices)",
    ),
    row(
        "KV load",
        # Not the option's own name, which stands in every printed configuration.
        r"due to KV load failure",
        "a decode server could not load the KV cache of a request",
        "see the decode server's log for the transfer that failed, and whether the prefill server still runs",
    ),
    row(
        "model",
        r"Repo id must be in the form|is not a local folder and is not a valid model identifier"
        r"|Invalid repository ID or local directory",
        "there is no model where the sweep says",
        "give the folder of the checkpoint (model.path), or model_paths in the cluster profile",
    ),
    row(
        "model",
        r"max_model_len \(\d+\) is greater than the derived max_model_len",
        "ISL + OSL is longer than the model was made for",
        "ask for less, or for a model with a longer context",
    ),
    row(
        "request",
        r"maximum context length is \d+ tokens|longer than the maximum model length",
        "a request is longer than max_model_len",
        "leave max_model_len out: it then follows from ISL and OSL",
    ),
    row(
        "scheduler",
        r"max_num_batched_tokens .{0,40}(?:must be greater|is smaller) than.{0,20}max_(?:num_seqs|model_len)",
        "a step takes fewer tokens than it must",
        "raise max_num_tokens, or leave it out",
    ),
    row(
        "parallelism",
        r"Total number of attention heads .{0,40}must be divisible by tensor parallel size",
        "the heads do not divide by tp",
        "choose another tp",
    ),
    row(
        "step",
        r"vllm.{0,40}(?:command not found|No such file or directory)",
        "the image (or the node) has no vllm command",
        "check container.image, or `command` in the cluster profile; `doctor --probe` shows what is there",
    ),
    row(
        "proxy",
        r"(?:prefill|decode) server \S+ .{0,40}(?:cannot be reached|gone|refused)",
        "the proxy could not reach a server",
        "see that server's log",
        general=True,
    ),
    row(
        "engine core",
        r"Engine core initialization failed|EngineCore encountered|EngineDeadError",
        "the engine process behind the server ended",
        "the cause is in earlier lines of its log, of EngineCore or a Worker",
        general=True,
    ),
    *SITE,
)

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
    """The first known cause in ``texts`` (logs, error answers), read in order; general ones only without another."""
    return find_failure(texts, KNOWN)


def explain(symptom: Symptom, experiment: Experiment) -> Diagnosis:
    """What is known of trouble that leaves no line in a log."""
    return SYMPTOMS[symptom]

"""Known failures of a ``trtllm-serve`` deployment: what its logs say, what that means, what to do.

A table. ``reference`` names the row of the contract's section 9, so that a new row can be checked against what is
known; ``list``: its strings to grep; ``step``: what srun, pyxis and env say when a step does not start. What the site
says whatever runs on it is in :mod:`ratematch.engines.failures`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ratematch.engines.failures import SITE, KnownFailure, find_failure, row
from ratematch.measure.serverlog import Diagnosis, Symptom
from ratematch.plan.experiment import Experiment

KNOWN: tuple[KnownFailure, ...] = (
    row(
        "row 2",
        r"Couldn't find the requested block in the reuse tree",
        "block reuse does not work with disaggregation",
        "set kv_cache_config.enable_block_reuse: false",
    ),
    row(
        "row 5",
        r"Insufficient KV cache for gen-only benchmark mode",
        "the KV cache holds fewer requests than the batch that gen_only waits for",
        "raise kv_cache_config.free_gpu_memory_fraction, or lower the concurrency",
    ),
    row(
        "rows 6, 7",
        # Not the option's own name, which stands in every printed configuration.
        r"(?i)kv[ _-](?:cache[ _-])?transfer\b.{0,80}(?:timed out|time-?out\b(?!_))"
        r"|(?:timed out|time-?out\b).{0,80}\bkv[ _-](?:cache[ _-])?transfer\b",
        "a KV transfer took longer than kv_transfer_timeout_ms (60,000 by default in main)",
        "set cache_transceiver_config.kv_transfer_timeout_ms: 600000; if servers crash after it, null or a newer "
        "version",
    ),
    row(
        "row 8",
        r"UCX CUDA support was not found|VRAM memory is detected as host by UCX|registerMem: registration failed",
        "UCX has no CUDA transport, mostly because of an inherited UCX_TLS",
        "unset UCX_TLS and check the RDMA devices",
    ),
    row(
        "row 8",
        r"status == NIXL_SUCCESS",
        "the NIXL KV transfer failed",
        "unset UCX_TLS and check the RDMA devices",
    ),
    row(
        "row 9",
        r"bufferCoverTargetNum:\d+ < targetNum",
        "the KV transfer buffer is smaller than the prompt",
        "on 1.2 set cache_transceiver_config.max_tokens_in_buffer to at least ISL, in whole blocks",
    ),
    row(
        "row 10",
        r"kv_cache_transceiver is disabled|Disaggregated serving is not enabled",
        "a ctx or gen server has no KV transceiver",
        "set cache_transceiver_config.backend",
    ),
    row(
        "row 11",
        r"Executor creation failed due to insufficient GPU memory",
        "out of GPU memory at start",
        "lower kv_cache_config.free_gpu_memory_fraction, max_batch_size, max_num_tokens or the CUDA graph sizes, "
        "or use more GPUs an instance",
    ),
    row(
        "list",
        r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError",
        "out of GPU memory",
        "lower kv_cache_config.free_gpu_memory_fraction, max_batch_size or max_num_tokens, "
        "or use more GPUs an instance",
    ),
    row(
        "row 13",
        r"cuMemImportFromShareableHandle failed",
        "ctx and gen lie in different NVLink domains",
        "set UCX_CUDA_IPC_ENABLE_MNNVL=n, or keep them in one segment",
    ),
    row(
        "row 14",
        r"PMIx is detected, but OMPI_COMM_WORLD_RANK is not set",
        "wrong flavour of srun --mpi",
        "use --mpi=pmix, with ntasks = tp x pp x cp",
    ),
    row(
        "row 15",
        r"using MpiPoolSession to spawn MPI processes|All nodes which are allocated for this job are already filled",
        "the server tries to start its own MPI processes",
        "put trtllm-llmapi-launch before trtllm-serve",
    ),
    row(
        "row 16",
        r"NCCL error.{0,200}invalid usage|NCCL WARN.{0,200}Duplicate GPU",
        "NCCL was used wrongly: two ranks see the same GPU",
        "check CUDA_VISIBLE_DEVICES of each rank",
    ),
    row(
        "row 16",
        r"(?i)shm.{0,80}(?:no space left|too small)|/dev/shm.{0,80}No space",
        "/dev/shm is too small for NCCL",
        "give the container a larger /dev/shm",
    ),
    row(
        "list",
        r"Failed to bind socket",
        "the port is taken on that node",
        "stop the other server, or set port_base in the cluster profile",
    ),
    row(
        "list",
        r"No GPU devices found on the node",
        "the node shows no GPU",
        "check the gres request and CUDA_VISIBLE_DEVICES",
    ),
    row(
        "list",
        r"should not exceed max_num_tokens",
        "a prompt is longer than max_num_tokens",
        "raise it, or set enable_chunked_prefill",
    ),
    row(
        "section 3",
        r"Extra inputs are not permitted|extra_forbidden|unknown key",
        "an engine option is unknown to this version",
        "check options and engine.version in the sweep",
    ),
    row(
        "section 3",
        r"literal_error|is not valid in (?:1\.2|1\.3|main); choose from",
        "an engine option has a value that this version does not know",
        "check options and engine.version in the sweep",
    ),
    row(
        "section 3",
        r"KV cache transfer .{0,80}the two sides do not agree",
        "ctx and gen servers differ in KV format, block size, KV transceiver or kind of speculation",
        "make kv_cache_config.dtype, cache_transceiver_config and speculative_config the same on both",
    ),
    row(
        "section 3",
        r"must equal to moe_tp_size \* moe_ep_size",
        "the expert mapping does not multiply to tp",
        "choose an ep that divides tp",
    ),
    row(
        "section 2",
        r"Number of hostnames \(\d+\) should be equal",
        "the orchestrator file names another number of urls than num_instances",
        "make them agree",
    ),
    row(
        "section 2",
        r"is specified both in the top-level and in the",
        "one key of the orchestrator file has two values",
        "give it once",
    ),
    row(
        "section 2",
        r"Duplicated (ctx|gen) server config",
        "one url stands twice in a role of the orchestrator file",
        "give every server its own",
    ),
    row(
        "section 2",
        r"Unsupported router type",
        "this version does not know the router",
        "see `router` in sweeps/README.md",
    ),
    row(
        "section 2",
        r"No (context|generation|ctx|gen) servers available",
        "the orchestrator has no server of that role",
        "a worker has gone, or num_instances is 0: see the workers' logs",
    ),
    row(
        "section 1",
        r"server_role is required when",
        "a worker was given a cluster or metadata server without a role",
        "give --server_role",
    ),
    row(
        "step",
        r"trtllm-(?:llmapi-launch|serve).{0,60}(?:No such file|not found)",
        "the image (or the node) has no TensorRT-LLM commands",
        "check container.image, or `command` and `launcher` in the cluster profile; `doctor --probe` shows what is "
        "there",
    ),
    row(
        "list",
        r"Timeout waiting for context and generation servers",
        "the orchestrator gave up waiting for its workers",
        "see the workers' logs; raise ready_minutes in the cluster profile if they only need longer",
        general=True,
    ),
    row(
        "list",
        r"Client error to|- last retry",
        "the orchestrator could not reach a worker, or the worker refused a request",
        "see that worker's log",
        general=True,
    ),
    *SITE,
)

SYMPTOMS: dict[Symptom, Diagnosis] = {
    "stalled": Diagnosis(
        "the servers stopped iterating without an error; a lost KV transfer notification (NIXL) does that, and so "
        "does ctx PP with gen TP on 1.2",
        "run again; if it comes back, try another cache_transceiver_config.backend, or no PP on ctx",
        "rows 1, 17",
    ),
    "never_started": Diagnosis(
        "the servers never ran a first iteration",
        "with TP > 1 on a real node check /dev/shm and that no two ranks share a GPU; run again with "
        "TLLM_ALL_RANK_LOG=1",
        "row 16",
    ),
    "all_failed": Diagnosis(
        "the servers answer /health and fail every request",
        "read what the requests were told; with long prompts, set kv_transfer_timeout_ms: 600000",
        "rows 6, 12",
    ),
}

NEVER_FILLED = Diagnosis(
    "the generation servers wait for a batch that never fills: fewer slots or less KV (gen's, or ctx's for prompts "
    "that wait to be fetched) than TLLM_BENCHMARK_REQ_QUEUES_SIZE",
    "lower the concurrency, or raise free_gpu_memory_fraction on both sides or max_batch_size",
    "rows 3, 4",
)


def diagnose(texts: Sequence[str]) -> Diagnosis | None:
    """The first known cause in ``texts`` (logs, error answers), read in order; general ones only without another."""
    return find_failure(texts, KNOWN)


def explain(symptom: Symptom, experiment: Experiment) -> Diagnosis:
    """What is known of trouble that leaves no line in a log."""
    if symptom == "never_started" and experiment.mode == "gen_only":
        return NEVER_FILLED
    return SYMPTOMS[symptom]

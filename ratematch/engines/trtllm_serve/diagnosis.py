"""Known failures of a ``trtllm-serve`` deployment: what its logs say, what that means, what to do.

A table. ``reference`` names the row of the contract's section 9, so that a new row can be checked against what is
known; ``list``: its strings to grep. What is said whatever engine runs is in :mod:`ratematch.engines.sitefailures`.
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
        "block-reuse",
        "row 2",
        r"Couldn't find the requested block in the reuse tree",
        "block reuse does not work with disaggregation",
        "set kv_cache_config.enable_block_reuse: false",
    ),
    row(
        "gen-only-kv",
        "row 5",
        r"Insufficient KV cache for gen-only benchmark mode",
        "the KV cache holds fewer requests than the batch that gen_only waits for",
        "raise kv_cache_config.free_gpu_memory_fraction, or lower the concurrency",
    ),
    quiet(
        row(
            "kv-transfer-timeout",
            "rows 6, 7",
            # Not the option's own name, which stands in every printed configuration.
            r"(?i)kv[ _-](?:cache[ _-])?transfer\b.{0,80}(?:timed out|time-?out\b(?!_| ?[=:]| is | of ))"
            r"|(?:timed out|time-?out\b(?!_| ?[=:]| is | of )).{0,80}\bkv[ _-](?:cache[ _-])?transfer\b",
            "a KV transfer took longer than kv_transfer_timeout_ms (60,000 by default since 1.3)",
            "set cache_transceiver_config.kv_transfer_timeout_ms: 600000; if servers crash after it, null on 1.2 and "
            "with transceiver_runtime CPP, else a larger number (the Python transceiver of 1.4 takes no null)",
            rank="request",
        )
    ),
    row(
        "ucx-no-cuda",
        "row 8",
        r"UCX CUDA support was not found|VRAM memory is detected as host by UCX|registerMem: registration failed",
        "UCX has no CUDA transport, mostly because of an inherited UCX_TLS",
        "unset UCX_TLS and check the RDMA devices",
    ),
    quiet(
        row(
            "transfer-buffer",
            "row 9",
            r"bufferCoverTargetNum:\d+ < targetNum",
            "the KV transfer buffer is smaller than the prompt",
            "with the C++ transceiver set cache_transceiver_config.max_tokens_in_buffer to at least ISL, "
            "in whole blocks",
        )
    ),
    row(
        "no-transceiver",
        "row 10",
        r"kv_cache_transceiver is disabled|Disaggregated serving is not enabled",
        "a ctx or gen server has no KV transceiver",
        "set cache_transceiver_config.backend",
    ),
    row(
        "gpu-memory",
        "row 11",
        r"Executor creation failed due to insufficient GPU memory|which might indicate insufficient GPU memory",
        "out of GPU memory at start",
        "lower kv_cache_config.free_gpu_memory_fraction, max_batch_size, max_num_tokens or the CUDA graph sizes, "
        "or use more GPUs an instance",
    ),
    row(
        "gpu-memory",
        "list",
        GPU_MEMORY,
        "out of GPU memory",
        "lower kv_cache_config.free_gpu_memory_fraction, max_batch_size or max_num_tokens, "
        "or use more GPUs an instance",
    ),
    row(
        "kv-cache-small",
        "PyExecutor",
        r"[Aa]ttention window.{0,80}too large to fit"
        r"|KV cache .{0,80}(?:too small|not enough|insufficient) .{0,80}(?:sequence|max_seq_len)"
        r"|max_seq_len .{0,80}(?:exceeds|larger than) .{0,60}KV cache",
        "the KV cache has no room for one request of max_seq_len tokens",
        "lower max_seq_len, raise kv_cache_config.free_gpu_memory_fraction, or use more GPUs an instance",
    ),
    row(
        "kv-cache-full",
        "KV cache manager",
        r"Can't allocate new blocks|No free blocks left|[Nn]o more free (?:KV cache )?blocks",
        "the KV cache ran full and a request could not go on",
        "raise kv_cache_config.free_gpu_memory_fraction, or lower max_batch_size or the concurrency",
        rank="request",
    ),
    row(
        "nvlink-domains",
        "row 13",
        # UCX tries this way first and takes another one where it is closed: harmless in most logs.
        r"cuMemImportFromShareableHandle failed",
        "ctx and gen lie in different NVLink domains",
        "set UCX_CUDA_IPC_ENABLE_MNNVL=n, or keep them in one segment",
        rank="suspect",
    ),
    row(
        "mpi-spawn",
        "row 15",
        r"All nodes which are allocated for this job are already filled|MPI_ERR_SPAWN",
        "the server tries to start its own MPI processes",
        "put trtllm-llmapi-launch before trtllm-serve",
    ),
    quiet(
        row(
            "mpi-spawn",
            "row 15",
            # What every server says that is started without the launcher, on one node rightly.
            r"using MpiPoolSession to spawn MPI processes",
            "the server tries to start its own MPI processes",
            "put trtllm-llmapi-launch before trtllm-serve",
            rank="general",
        )
    ),
    row(
        "poisoned-buffer",
        "transceiver",
        r"(?:buffer|transfer|transceiver|pool).{0,160}poisoned(?!=no)|memory ranges can be safely reused",
        "a KV transfer broke off and left its buffer unusable; that server cannot transfer any more",
        "restart the servers; look for the transfer that failed first, and raise kv_transfer_timeout_ms",
    ),
    row(
        "missing-sequence",
        "KV cache manager",
        r"(?:Can't|Can not|Cannot|Could not) find sequence for request",
        "a request's KV cache was given up while it was still being transferred",
        "lower the load on ctx or raise kv_transfer_timeout_ms; a newer version mends the race",
        rank="request",
    ),
    row(
        "hang",
        "PyExecutor",
        r"[Hh]ang (?:was |is )?detected|[Hh]ang ?[Dd]etector.{0,80}(?:timeout|timed out|no progress|triggered|fired)",
        "an executor hung: one of its ranks, or a KV transfer, did not go on",
        "look for the rank without a stack in a wait, and for failed requests before it; run again",
        rank="request",
    ),
    row(
        "max-num-tokens",
        "list",
        r"should not exceed max_num_tokens",
        "a prompt is longer than max_num_tokens",
        "raise it, or set enable_chunked_prefill",
        rank="request",
    ),
    row(
        "request-too-long",
        "request",
        r"(?:prompt|sequence) length.{0,80}(?:should not exceed|exceeds|is larger than) max_(?:seq|input)_len"
        r"|exceeds? the maximum sequence length",
        "a request is longer than max_seq_len",
        "leave max_seq_len out: it then follows from ISL and OSL",
        rank="request",
    ),
    row(
        "unknown-option",
        "section 3",
        r"Extra inputs are not permitted|extra_forbidden|unknown key|No such option",
        "an engine option is unknown to this version",
        "check options and engine.version in the sweep",
    ),
    row(
        "unknown-value",
        "section 3",
        r"literal_error|is not valid in [\w.+-]+(?: \([^)]*\))?; choose from|Invalid value for '--",
        "an engine option has a value that this version does not know",
        "check options and engine.version in the sweep",
    ),
    row(
        "transceiver-backend",
        "section 3",
        r"Python transceiver (?:currently )?only supports NIXL|takes backend NIXL only, and it is",
        "the KV transceiver that runs takes NIXL only, and the file has another backend",
        "set cache_transceiver_config.transceiver_runtime: CPP, or backend NIXL",
    ),
    row(
        "kv-formats-differ",
        "section 3",
        r"KV cache transfer .{0,80}the two sides do not agree",
        "ctx and gen servers differ in KV format, block size, KV transceiver or kind of speculation",
        "make kv_cache_config.dtype, cache_transceiver_config and speculative_config the same on both",
    ),
    row(
        "moe-mapping",
        "section 3",
        r"must equal to moe_tp_size \* moe_ep_size",
        "the expert mapping does not multiply to tp",
        "choose an ep that divides tp",
    ),
    row(
        "orchestrator-urls",
        "section 2",
        r"Number of (?:hostnames|ports) \(\d+\) should be equal",
        "the orchestrator file names another number of urls than num_instances",
        "make them agree",
    ),
    row(
        "orchestrator-twice",
        "section 2",
        r"is specified both in the top-level and in the",
        "one key of the orchestrator file has two values",
        "give it once",
    ),
    row(
        "orchestrator-url-twice",
        "section 2",
        r"Duplicated (?:ctx|gen) server config",
        "one url stands twice in a role of the orchestrator file",
        "give every server its own",
    ),
    row(
        "unknown-router",
        "section 2",
        r"Unsupported router type",
        "this version does not know the router",
        "see `router` in sweeps/README.md",
    ),
    row(
        "no-servers-of-role",
        "section 2",
        r"No (?:context|generation|ctx|gen) servers available",
        "the orchestrator has no server of that role",
        "a worker has gone, or num_instances is 0: see the workers' logs",
        rank="suspect",
    ),
    row(
        "no-role",
        "section 1",
        r"server_role is required when",
        "a worker was given a cluster or metadata server without a role",
        "give --server_role",
    ),
    row(
        "command-missing",
        "step",
        r"trtllm-(?:llmapi-launch|serve)\b.{0,60}(?:No such file|not found)",
        "the image (or the node) has no TensorRT-LLM commands",
        "check container.image, or `command` and `launcher` in the cluster profile; `doctor --probe` shows what "
        "is there",
    ),
    row(
        "workers-late",
        "list",
        r"Timeout waiting for context and generation servers",
        "the orchestrator gave up waiting for its workers",
        "see the workers' logs; raise ready_minutes in the cluster profile if they only need longer",
        rank="general",
    ),
    row(
        "worker-unreachable",
        "list",
        r"Client error to|- last retry",
        "the orchestrator could not reach a worker, or the worker refused a request",
        "see that worker's log",
        rank="general",
    ),
)

VAGUE: tuple[KnownFailure, ...] = (
    row(
        "kv-transfer-failed",
        "transceiver",
        r"(?i)error in kv cache transfer|kv cache transfer (?:failed|error)",
        "a KV transfer between ctx and gen failed",
        "see the lines before it, in the logs of both sides; UCX_TLS unset, RDMA devices, the same versions on both",
        rank="suspect",
    ),
    row(
        "nixl-failed",
        "row 8",
        r"status == NIXL_SUCCESS|NIXL_ERR_",
        "the NIXL KV transfer failed",
        "unset UCX_TLS and check the RDMA devices",
        rank="suspect",
    ),
)
"""What is said with nearly every failure of a KV transfer: another row that fits the same line says more."""

KNOWN: tuple[KnownFailure, ...] = (*OWN, *SITE, *VAGUE)

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
    """The cause that ``texts`` (logs, error answers) show: :mod:`ratematch.engines.failures`; ``None`` for none."""
    return find_failure(texts, KNOWN)


def explain(symptom: Symptom, experiment: Experiment) -> Diagnosis:
    """What is known of trouble that leaves no line in a log."""
    if symptom == "never_started" and experiment.mode == "gen_only":
        return NEVER_FILLED
    return SYMPTOMS[symptom]

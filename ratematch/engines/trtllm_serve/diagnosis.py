"""Known failures of a ``trtllm-serve`` deployment: what its logs say, what that means, what to do.

A table. ``reference`` names the row of the contract's section 9, so that a new row can be checked against what is
known; ``list``: its strings to grep; ``step``: what srun, pyxis and env say when a step does not start. Specific rows
win over general ones wherever they stand: a ``Traceback`` or an ``MPI_ABORT`` follows almost every failure and
explains none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ratematch.plan.experiment import Experiment
from ratematch.plan.serverlog import Diagnosis, Symptom


@dataclass(frozen=True)
class KnownFailure:
    """Lines that match ``pattern`` and what they mean. ``general``: counts only when no specific one is found."""

    pattern: str
    diagnosis: Diagnosis
    general: bool = False


def _row(reference: str, pattern: str, cause: str, remedy: str, *, general: bool = False) -> KnownFailure:
    return KnownFailure(pattern, Diagnosis(cause, remedy, reference), general)


KNOWN: tuple[KnownFailure, ...] = (
    _row(
        "row 2",
        r"Couldn't find the requested block in the reuse tree",
        "block reuse does not work with disaggregation",
        "set kv_cache_config.enable_block_reuse: false",
    ),
    _row(
        "row 5",
        r"Insufficient KV cache for gen-only benchmark mode",
        "the KV cache holds fewer requests than the batch that gen_only waits for",
        "raise kv_cache_config.free_gpu_memory_fraction, or lower the concurrency",
    ),
    _row(
        "rows 6, 7",
        # Not the option's own name, which stands in every printed configuration.
        r"(?i)kv[ _-](?:cache[ _-])?transfer\b.{0,80}(?:timed out|time-?out\b(?!_))"
        r"|(?:timed out|time-?out\b).{0,80}\bkv[ _-](?:cache[ _-])?transfer\b",
        "a KV transfer took longer than kv_transfer_timeout_ms (60,000 by default in main)",
        "set cache_transceiver_config.kv_transfer_timeout_ms: 600000; if servers crash after it, null or a newer "
        "version",
    ),
    _row(
        "row 8",
        r"UCX CUDA support was not found|VRAM memory is detected as host by UCX|registerMem: registration failed",
        "UCX has no CUDA transport, mostly because of an inherited UCX_TLS",
        "unset UCX_TLS and check the RDMA devices",
    ),
    _row(
        "row 8",
        r"status == NIXL_SUCCESS",
        "the NIXL KV transfer failed",
        "unset UCX_TLS and check the RDMA devices",
    ),
    _row(
        "row 9",
        r"bufferCoverTargetNum:\d+ < targetNum",
        "the KV transfer buffer is smaller than the prompt",
        "on 1.2 set cache_transceiver_config.max_tokens_in_buffer to at least ISL, in whole blocks",
    ),
    _row(
        "row 10",
        r"kv_cache_transceiver is disabled|Disaggregated serving is not enabled",
        "a ctx or gen server has no KV transceiver",
        "set cache_transceiver_config.backend",
    ),
    _row(
        "row 11",
        r"Executor creation failed due to insufficient GPU memory",
        "out of GPU memory at start",
        "lower kv_cache_config.free_gpu_memory_fraction, max_batch_size, max_num_tokens or the CUDA graph sizes, "
        "or use more GPUs an instance",
    ),
    _row(
        "list",
        r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError",
        "out of GPU memory",
        "lower kv_cache_config.free_gpu_memory_fraction, max_batch_size or max_num_tokens, "
        "or use more GPUs an instance",
    ),
    _row(
        "row 13",
        r"cuMemImportFromShareableHandle failed",
        "ctx and gen lie in different NVLink domains",
        "set UCX_CUDA_IPC_ENABLE_MNNVL=n, or keep them in one segment",
    ),
    _row(
        "row 14",
        r"PMIx is detected, but OMPI_COMM_WORLD_RANK is not set",
        "wrong flavour of srun --mpi",
        "use --mpi=pmix, with ntasks = tp x pp x cp",
    ),
    _row(
        "row 15",
        r"using MpiPoolSession to spawn MPI processes|All nodes which are allocated for this job are already filled",
        "the server tries to start its own MPI processes",
        "put trtllm-llmapi-launch before trtllm-serve",
    ),
    _row(
        "row 16",
        r"NCCL error.{0,200}invalid usage|NCCL WARN.{0,200}Duplicate GPU",
        "NCCL was used wrongly: two ranks see the same GPU",
        "check CUDA_VISIBLE_DEVICES of each rank",
    ),
    _row(
        "row 16",
        r"(?i)shm.{0,80}(?:no space left|too small)|/dev/shm.{0,80}No space",
        "/dev/shm is too small for NCCL",
        "give the container a larger /dev/shm",
    ),
    _row(
        "list",
        r"Failed to bind socket",
        "the port is taken on that node",
        "stop the other server, or set port_base in the cluster profile",
    ),
    _row(
        "list",
        r"No GPU devices found on the node",
        "the node shows no GPU",
        "check the gres request and CUDA_VISIBLE_DEVICES",
    ),
    _row(
        "list",
        r"should not exceed max_num_tokens",
        "a prompt is longer than max_num_tokens",
        "raise it, or set enable_chunked_prefill",
    ),
    _row(
        "section 3",
        r"Extra inputs are not permitted|extra_forbidden|unknown key",
        "an engine option is unknown to this version",
        "check options and engine.version in the sweep",
    ),
    _row(
        "section 3",
        r"literal_error|is not valid in (?:1\.2|1\.3|main); choose from",
        "an engine option has a value that this version does not know",
        "check options and engine.version in the sweep",
    ),
    _row(
        "section 3",
        r"KV cache transfer .{0,80}the two sides do not agree",
        "ctx and gen servers differ in KV format, block size, KV transceiver or kind of speculation",
        "make kv_cache_config.dtype, cache_transceiver_config and speculative_config the same on both",
    ),
    _row(
        "section 3",
        r"must equal to moe_tp_size \* moe_ep_size",
        "the expert mapping does not multiply to tp",
        "choose an ep that divides tp",
    ),
    _row(
        "section 2",
        r"Number of hostnames \(\d+\) should be equal",
        "the orchestrator file names another number of urls than num_instances",
        "make them agree",
    ),
    _row(
        "section 2",
        r"is specified both in the top-level and in the",
        "one key of the orchestrator file has two values",
        "give it once",
    ),
    _row(
        "section 2",
        r"Duplicated (ctx|gen) server config",
        "one url stands twice in a role of the orchestrator file",
        "give every server its own",
    ),
    _row(
        "section 2",
        r"Unsupported router type",
        "this version does not know the router",
        "see `router` in sweeps/README.md",
    ),
    _row(
        "section 2",
        r"No (context|generation|ctx|gen) servers available",
        "the orchestrator has no server of that role",
        "a worker has gone, or num_instances is 0: see the workers' logs",
    ),
    _row(
        "section 1",
        r"server_role is required when",
        "a worker was given a cluster or metadata server without a role",
        "give --server_role",
    ),
    _row("list", r"DUE TO TIME LIMIT", "the Slurm job reached its time limit", "ask for more time, or fewer loads"),
    _row(
        "list",
        r"oom_kill|Out Of Memory",
        "the host ran out of memory",
        "ask Slurm for more memory, or start fewer servers on a node at a time",
    ),
    _row(
        "list",
        r"slurmstepd: error: pyxis:|pyxis:.{0,200}(?:fail|error|couldn't|No such)",
        "the container could not be started",
        "see the pyxis lines; check the image and its mounts",
    ),
    _row(
        "step",
        r"Couldn't find the specified plugin name for mpi/|can not load PMIx library|Invalid MPI type",
        "this Slurm does not have the MPI flavour that steps are started with",
        "set slurm.mpi in the cluster profile to one that `srun --mpi=list` names",
    ),
    _row(
        "step",
        r"(?:unrecognized|invalid|unknown) option.{0,10}--(?:no-)?container-",
        "this Slurm cannot start containers: pyxis is not installed",
        "install it, or remove `container` from the cluster profile",
    ),
    _row(
        "step",
        r"numactl.{0,60}(?:No such file|not found)|libnuma: .{0,80}out of range|numactl: .{0,60}invalid",
        "numactl is not there, or the node has no such NUMA nodes",
        'set numactl in the cluster profile, "" for none',
    ),
    _row(
        "step",
        r"trtllm-(?:llmapi-launch|serve).{0,60}(?:No such file|not found)",
        "the image (or the node) has no TensorRT-LLM commands",
        "check container.image, or `command` and `launcher` in the cluster profile; `doctor --probe` shows what is "
        "there",
    ),
    _row(
        "list",
        r"NCCL error",
        "NCCL failed",
        "see the lines before it; /dev/shm too small and two ranks on one GPU are common",
        general=True,
    ),
    _row(
        "list",
        r"Timeout waiting for context and generation servers",
        "the orchestrator gave up waiting for its workers",
        "see the workers' logs; raise ready_minutes in the cluster profile if they only need longer",
        general=True,
    ),
    _row(
        "list",
        r"Client error to|- last retry",
        "the orchestrator could not reach a worker, or the worker refused a request",
        "see that worker's log",
        general=True,
    ),
    _row(
        "step",
        r"Unable to create step|More processors requested than permitted|Requested node configuration",
        "Slurm could not start the server's step",
        "see the srun line; slurm.gpus, slurm.tasks and slurm.srun of the cluster profile decide what is asked for",
        general=True,
    ),
    _row("list", r"Segmentation fault", "the server crashed (segmentation fault)", "see its log", general=True),
    _row(
        "list",
        r"MPI_ABORT",
        "one rank ended all of them",
        "the first error is in an earlier line, or in another rank's log (TLLM_ALL_RANK_LOG=1 shows all)",
        general=True,
    ),
    _row(
        "list",
        r"slurmstepd: error",
        "Slurm ended the step",
        "see the slurmstepd line",
        general=True,
    ),
    _row(
        "list",
        r"Traceback \(most recent call last\)",
        "the server ended with an exception that is not known here",
        "see the traceback in its log",
        general=True,
    ),
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
    for general in (False, True):
        rows = [row for row in KNOWN if row.general is general]
        for text in texts:
            found = [(match.start(), row) for row in rows if (match := re.search(row.pattern, text))]
            if found:
                return min(found, key=lambda pair: pair[0])[1].diagnosis
    return None


def explain(symptom: Symptom, experiment: Experiment) -> Diagnosis:
    """What is known of trouble that leaves no line in a log."""
    if symptom == "never_started" and experiment.mode == "gen_only":
        return NEVER_FILLED
    return SYMPTOMS[symptom]

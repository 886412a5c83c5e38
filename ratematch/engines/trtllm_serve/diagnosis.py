"""Log strings of a ``trtllm-serve`` deployment that name a cause, with the remedy (contract, section 9)."""

from __future__ import annotations

import re

_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"Failed to bind socket",
        "the port is taken on that node: stop the other server, or set port_base in the cluster profile",
    ),
    (
        r"Executor creation failed due to insufficient GPU memory|CUDA out of memory|torch\.OutOfMemoryError",
        "out of GPU memory: lower kv_cache_config.free_gpu_memory_fraction, max_batch_size or max_num_tokens, "
        "or use more GPUs an instance",
    ),
    (
        r"Insufficient KV cache for gen-only benchmark mode",
        "the KV cache holds fewer requests than the load: raise free_gpu_memory_fraction or lower the concurrency",
    ),
    (r"No GPU devices found on the node", "the node shows no GPU: check the gres request and CUDA_VISIBLE_DEVICES"),
    (
        r"Extra inputs are not permitted|extra_forbidden|unknown key",
        "an engine option is unknown to this version: check options and engine.version in the sweep",
    ),
    (
        r"should not exceed max_num_tokens",
        "a prompt is longer than max_num_tokens: raise it, or enable_chunked_prefill",
    ),
    (
        r"kv_cache_transceiver is disabled|Disaggregated serving is not enabled",
        "cache_transceiver_config.backend is not set on a ctx or gen server",
    ),
    (
        r"Couldn't find the requested block in the reuse tree",
        "block reuse does not work with disaggregation: set kv_cache_config.enable_block_reuse: false",
    ),
    (
        r"UCX CUDA support was not found|VRAM memory is detected as host by UCX|registerMem: registration failed",
        "UCX has no CUDA transport: unset UCX_TLS and check the RDMA devices",
    ),
    (
        r"cuMemImportFromShareableHandle failed",
        "ctx and gen lie in different NVLink domains: set UCX_CUDA_IPC_ENABLE_MNNVL=n or keep them in one segment",
    ),
    (r"PMIx is detected, but OMPI_COMM_WORLD_RANK is not set", "wrong srun --mpi flavour: use pmix"),
    (
        r"All nodes which are allocated for this job are already filled|using MpiPoolSession to spawn MPI processes",
        "trtllm-llmapi-launch is missing before trtllm-serve",
    ),
    (r"Timeout waiting for context and generation servers", "the orchestrator gave up waiting for its workers"),
    (
        r"bufferCoverTargetNum:\d+ < targetNum",
        "the KV transfer buffer is smaller than the prompt: on 1.2 set cache_transceiver_config.max_tokens_in_buffer "
        "to at least ISL, in whole blocks",
    ),
    (
        r"status == NIXL_SUCCESS",
        "the NIXL KV transfer failed: unset UCX_TLS and check the RDMA devices",
    ),
    (
        r"must equal to moe_tp_size \* moe_ep_size",
        "the expert mapping does not multiply to tp: choose an ep that divides tp",
    ),
    (
        r"Number of hostnames \(\d+\) should be equal",
        "the orchestrator file names another number of urls than num_instances",
    ),
    (
        r"is specified both in the top-level and in the",
        "one key of the orchestrator file has two values: give it once",
    ),
    (
        r"Duplicated (ctx|gen) server config",
        "one url stands twice in a role of the orchestrator file",
    ),
    (
        r"Unsupported router type",
        "this version does not know the router: see `router` in sweeps/README.md",
    ),
    (
        r"No (context|generation|ctx|gen) servers available",
        "the orchestrator has no server of that role: a worker has gone, or num_instances is 0",
    ),
    (
        r"server_role is required when",
        "a worker was given a cluster or metadata server without --server_role",
    ),
    (
        r"Client error to .* - last retry",
        "the orchestrator could not reach a worker: see that worker's log",
    ),
    (
        r"MPI_ABORT",
        "one rank ended all of them: the first error is in an earlier line, or in another rank's log "
        "(TLLM_ALL_RANK_LOG=1 shows all)",
    ),
    (r"NCCL error", "NCCL failed: see the lines before it; /dev/shm too small and two ranks on one GPU are common"),
    (r"oom_kill|Out Of Memory", "the host ran out of memory"),
    (r"DUE TO TIME LIMIT", "the Slurm job reached its time limit"),
    (r"pyxis:", "the container could not be started: see the pyxis lines"),
    (r"Segmentation fault", "the server crashed (segmentation fault)"),
)


def diagnose(log_tail: str) -> str | None:
    """The first known cause in ``log_tail`` with its remedy; ``None`` when no line is known."""
    for pattern, remedy in _CAUSES:
        if re.search(pattern, log_tail):
            return remedy
    return None

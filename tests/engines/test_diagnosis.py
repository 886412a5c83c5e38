"""Log strings and symptoms to causes and remedies: the contract's section 9, row by row."""

from __future__ import annotations

import re

import pytest

from ratematch.engines.trtllm_serve import ENGINE
from ratematch.engines.trtllm_serve.diagnosis import OWN
from tests.diagnosis.corpus import corpus_lines
from tests.support.invented import PAIR, experiment

ROWS = [
    ("row 2", "Couldn't find the requested block in the reuse tree", "enable_block_reuse"),
    (
        "row 5",
        "ValueError: Insufficient KV cache for gen-only benchmark mode: 3 request(s)",
        "free_gpu_memory_fraction",
    ),
    ("rows 6, 7", "Terminating request 7: KV cache transfer timed out after 60 s", "kv_transfer_timeout_ms: 600000"),
    ("row 8", "UCX CUDA support was not found", "UCX_TLS"),
    ("row 8", "VRAM memory is detected as host by UCX", "UCX_TLS"),
    ("row 8", "registerMem: registration failed", "UCX_TLS"),
    ("row 8", "Assertion failed: status == NIXL_SUCCESS", "RDMA"),
    ("row 9", "getOrAllocateBuffers: bufferCoverTargetNum:0 < targetNum:1, may use dynamic", "max_tokens_in_buffer"),
    ("row 10", "kv_cache_transceiver is disabled", "cache_transceiver_config.backend"),
    ("row 10", "Disaggregated serving is not enabled, please check the configuration?", "cache_transceiver_config"),
    ("row 11", "Executor creation failed due to insufficient GPU memory", "free_gpu_memory_fraction"),
    ("row 13", "cuMemImportFromShareableHandle failed: invalid resource handle", "MNNVL"),
    ("row 14", "PMIx is detected, but OMPI_COMM_WORLD_RANK is not set", "pmix"),
    ("row 15", "rank 0 using MpiPoolSession to spawn MPI processes", "trtllm-llmapi-launch"),
    ("row 15", "All nodes which are allocated for this job are already filled", "trtllm-llmapi-launch"),
    ("row 16", "NCCL error in: x.cpp:94, invalid usage, NCCL version 2.2", "CUDA_VISIBLE_DEVICES"),
    ("row 16", "Error while creating shared memory segment /dev/shm/nccl-x: No space left on device", "/dev/shm"),
    ("list", "RuntimeError: Failed to bind socket to n0:8000: in use", "port_base"),
    ("list", "No GPU devices found on the node", "gres"),
    ("list", "The sum of prompt length (9), query length (1) should not exceed max_num_tokens (8)", "chunked"),
    ("list", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", "free_gpu_memory_fraction"),
    ("list", "slurmstepd: error: *** JOB 7 CANCELLED AT x DUE TO TIME LIMIT ***", "more time"),
    ("list", "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0", "memory"),
    ("list", "slurmstepd: error: pyxis: couldn't start container", "image"),
    ("list", "NCCL error in: y.cpp:1, unhandled system error", "lines before"),
    ("list", "TimeoutError: Timeout waiting for context and generation servers", "ready_minutes"),
    ("list", "Client error to n0:8000: boom - last retry 1 of 1", "worker's log"),
    ("list", "*** Process received signal *** Segmentation fault (11)", "log"),
    ("list", "MPI_ABORT was invoked on rank 3", "TLLM_ALL_RANK_LOG"),
    ("list", "slurmstepd: error: something", "slurmstepd"),
    ("list", "Traceback (most recent call last):", "traceback"),
    ("step", "srun: error: Couldn't find the specified plugin name for mpi/pmix looking at all files", "slurm.mpi"),
    ("step", "srun: unrecognized option '--container-image=/a.sqsh'", "remove `container`"),
    ("step", "env: ‘numactl’: No such file or directory", "numactl"),
    ("step", "libnuma: Warning: node argument 1 is out of range", "numactl"),
    ("step", "slurmstepd: error: execve(): trtllm-llmapi-launch: No such file or directory", "container.image"),
    ("step", "env: ‘trtllm-serve’: No such file or directory", "container.image"),
    ("step", "srun: error: Unable to create step for job 7: More processors requested than permitted", "slurm.tasks"),
    ("section 3", "ValueError: Python transceiver currently only supports NIXL backend, got UCX.", "CPP"),
    ("section 2", "ValueError: Number of hostnames (1) should be equal to the number of instances (2)", "agree"),
    ("section 2", "ValueError: Unsupported router type: x. Supported types are: []", "router"),
    ("section 2", "ValueError: No generation servers available", "worker has gone"),
    ("section 2", "hostname is specified both in the top-level and in the file", "once"),
    ("section 2", "Duplicated gen server config", "its own"),
    ("section 1", "server_role is required when", "--server_role"),
    ("section 3", "backendd: Extra inputs are not permitted", "engine.version"),
    ("section 3", "moe_config.backend: 'WIDEEP' is not valid in main; choose from AUTO, CUTLASS", "engine.version"),
    ("section 3", "KV cache transfer of request 7 failed: the two sides do not agree: x", "kv_cache_config.dtype"),
    (
        "section 3",
        "ValueError: tp_size must equal to moe_tp_size * moe_ep_size * moe_cluster_size",
        "ep that divides",
    ),
]


@pytest.mark.parametrize(("reference", "line", "remedy"), ROWS, ids=[line[:40] for _, line, _ in ROWS])
def test_known_log_strings_have_cause_remedy_and_reference(reference: str, line: str, remedy: str) -> None:
    found = ENGINE.diagnose([f"noise\n{line}\nmore noise"])
    assert found is not None and found.reference == reference
    assert remedy in found.remedy and found.cause


def test_every_row_of_the_table_is_tried_here_or_in_the_corpus() -> None:
    corpus = corpus_lines()
    lines = [line for _, line, _ in ROWS]
    untried = [
        row.pattern
        for row in OWN
        if not any(re.search(row.pattern, line) for line in lines)
        and not any(re.search(row.pattern, line) for line in corpus)
    ]
    assert untried == []


def test_a_specific_cause_wins_over_what_follows_it_in_any_log() -> None:
    follow = "Traceback (most recent call last):\nMPI_ABORT was invoked\nClient error to n0 - last retry 1 of 1"
    found = ENGINE.diagnose([follow, f"{follow}\nUCX CUDA support was not found\n{follow}"])
    assert found is not None and found.reference == "row 8"


def test_the_first_of_two_causes_wins() -> None:
    first, second = "CUDA out of memory", "Couldn't find the requested block in the reuse tree"
    for text, reference in ((f"{first}\n{second}", "list"), (f"{second}\n{first}", "row 2")):
        found = ENGINE.diagnose([text])
        assert found is not None and found.reference == reference


@pytest.mark.parametrize(
    "line",
    [
        "all is well",
        "cache_transceiver_config=CacheTransceiverConfig(backend='UCX', kv_transfer_timeout_ms=60000)",
        "pyxis: importing docker image: nvcr.io/x",
        "pyxis: imported docker image",
    ],
)
def test_ordinary_lines_name_no_cause(line: str) -> None:
    assert ENGINE.diagnose([line]) is None


def test_trouble_without_a_line_is_explained_by_what_was_going_on() -> None:
    fed = experiment(stage="gen", deployment=PAIR)
    assert "TLLM_BENCHMARK_REQ_QUEUES_SIZE" in ENGINE.explain("never_started", fed).cause
    assert "row 16" in ENGINE.explain("never_started", experiment()).reference
    assert "NIXL" in ENGINE.explain("stalled", fed).cause
    assert "kv_transfer_timeout_ms" in ENGINE.explain("all_failed", fed).remedy

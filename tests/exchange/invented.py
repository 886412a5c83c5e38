"""Recipes made up for tests: every key and class of values that public TensorRT-LLM recipes use, in every shape."""

from __future__ import annotations

from typing import Any

import yaml

MTP = {"decoding_type": "MTP", "num_nextn_predict_layers": 3}

# key of the worker YAML -> values met in public recipes, nulls, lists and maps included.
WORKER_VALUES: dict[str, list[Any]] = {
    "max_batch_size": [16, 2, 8, 1, 32, 256, 64, 128],
    "max_num_tokens": [16384, 256, 16640, 512, 8320, 128, 32, 16],
    "max_seq_len": [9256, 8232, 2088, 2048, 1064, 8320, 9344, 1044],
    "cache_transceiver_config": [
        {"backend": backend, "max_tokens_in_buffer": tokens}
        for backend in ("UCX", "DEFAULT")
        for tokens in (16384, 8448, 8192, 8320, 1152, 1280, 8256, 32768)
    ],
    "cuda_graph_config": [
        None,
        {"enable_padding": True, "batch_sizes": [1, 2, 4]},
        {"enable_padding": False, "max_batch_size": 128},
        {"enable_padding": True, "batch_sizes": [*range(1, 33), 64, 128, 256]},
        {"batch_sizes": [768]},
        {"enable_padding": True, "max_batch_size": 1},
    ],
    "kv_cache_config": [
        {"dtype": "fp8", "enable_block_reuse": False, "free_gpu_memory_fraction": fraction}
        for fraction in (0.6, 0.8, 0.9, 0.75, 0.7, 0.85, 0.1, 0.4)
    ],
    "moe_config": [
        {"backend": "TRTLLM"},
        {"backend": "DEEPGEMM"},
        {"backend": "CUTLASS", "use_low_precision_moe_combine": True},
        {"backend": "WIDEEP", "load_balancer": {"num_slots": 256, "layer_updates_per_iter": 1}},
        {"backend": "CUTEDSL", "load_balancer": {"num_slots": 288, "layer_updates_per_iter": 1}},
        {"backend": "WIDEEP", "max_num_tokens": 16384},
        {"backend": "CUTLASS", "load_balancer": {"num_slots": 0}},
        {"backend": "WIDEEP", "load_balancer": "/configs/eplb.yaml"},
    ],
    "print_iter_log": [True],
    "disable_overlap_scheduler": [True, False],
    "stream_interval": [100, 20, 40],
    "num_postprocess_workers": [4],
    "speculative_config": [MTP, {**MTP, "num_nextn_predict_layers": 1}, {**MTP, "num_nextn_predict_layers": 2}],
    "enable_lm_head_tp_in_adp": [False, True],
    "allreduce_strategy": ["AUTO", "MNNVL"],
    "nvfp4_gemm_config": [{"allowed_backends": ["cutlass", "cublaslt", "cutedsl", "cuda_core"]}],
    "enable_chunked_prefill": [False, True],
    "backend": ["pytorch"],
    "trust_remote_code": [True],
    "enable_iter_perf_stats": [False],
    "enable_iter_req_stats": [False],
    "attention_dp_config": [
        {"enable_balance": True},
        {"enable_balance": True, "batching_wait_iters": 0, "timeout_iters": 60},
    ],
    "gpus_per_node": [4],
}

AGREEING = ("speculative_config", "cache_transceiver_config", "kv_cache_config")

ENVIRONMENT: dict[str, str] = {
    "TRTLLM_SERVER_DISABLE_GC": "1",
    "TRTLLM_WORKER_DISABLE_GC": "1",
    "NCCL_GRAPH_MIXING_SUPPORT": "0",
    "TRTLLM_ENABLE_PDL": "1",
    "TLLM_LOG_LEVEL": "INFO",
    "UCX_CUDA_IPC_ENABLE_MNNVL": "n",
    "TLLM_OVERRIDE_LAYER_NUM": "61",
    "OMPI_MCA_coll_ucc_enable": "0",
    "TLLM_ALL_RANK_LOG": "1",
    "UCX_RNDV_SCHEME": "put_zcopy",
    "ENROOT_ALLOW_DEV": "yes",
    "UCX_MAX_RMA_RAILS": "1",
    "UCX_MAX_RNDV_RAILS": "1",
    "OMPI_MCA_btl": "tcp,self",
    "OMPI_MCA_pml": "ob1",
    "TRTLLM_UCX_INTERFACE": "mlx5_0:1,mlx5_1:1,mlx5_2:1",
    "TRTLLM_FORCE_COMM_METHOD": "NVLINK_TWO_SIDED",
    "ENABLE_CONFIGURABLE_MOE": "1",
    "UCX_TLS": "rc,dc,ud,cuda_copy,cuda_ipc,gdr_copy,tcp",
    "TRTLLM_DISABLE_KV_CACHE_TRANSFER_OVERLAP": "1",
    "TRTLLM_FORCE_ALLTOALL_METHOD": "DeepEP",
    "NCCL_NVLS_ENABLE": "0",
    "PYTHONUNBUFFERED": "1",
    "DYN_HEALTH_CHECK_ENABLED": "false",
}

# (servers, label) of ctx and gen, GPU type, GPUs a node: from 1:11 to 7:1, part of a node to eight nodes.
SHAPES: list[tuple[int, str, int, str, str, int]] = [
    (1, "DEP4", 4, "TEP8", "gb200", 4),
    (1, "DEP16", 3, "TEP16", "h100", 8),
    (1, "DEP4", 1, "DEP32", "gb200", 4),
    (1, "DEP2", 4, "TEP8", "gb300", 4),
    (1, "DEP8", 3, "TEP8", "b200", 8),
    (1, "DEP4", 5, "TEP8", "gb300", 4),
    (1, "DEP8", 9, "TEP8", "h200", 8),
    (2, "DEP4", 1, "DEP32", "gb300", 4),
    (3, "DEP4", 2, "DEP8", "b200", 8),
    (7, "DEP4", 1, "DEP8", "gb200", 4),
    (1, "TEP8", 7, "TEP8", "h200", 8),
    (1, "DEP4", 8, "TP8", "b200", 8),
    (1, "DEP4", 11, "TEP8", "gb200", 4),
    (7, "DEP2", 1, "DEP16", "gb300", 4),
    (12, "DEP4", 1, "DEP8", "gb300", 4),
    (1, "TEP4", 2, "TP8EP2", "b200", 8),
]


def parallelism(label: str) -> dict[str, Any]:
    """The keys of the worker YAML behind ``DEP8``, ``TEP8``, ``TP8`` or ``TP8EP2``."""
    dp, rest = label.startswith("D"), label.lstrip("DTEP")
    tp, _, ep = rest.partition("EP")
    whole = label.startswith(("DEP", "TEP"))
    return {
        "tensor_parallel_size": int(tp),
        "moe_expert_parallel_size": int(tp) if whole else int(ep or 1),
        "pipeline_parallel_size": 1,
        "enable_attention_dp": dp,
    }


def worker(label: str, turn: int, **more: Any) -> dict[str, Any]:
    """A worker YAML with every key; ``turn`` walks through the values of each."""
    values = {key: listed[turn % len(listed)] for key, listed in WORKER_VALUES.items()}
    return {**parallelism(label), **values, **more}


def usual_pair(ctx: str, gen: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Worker YAMLs of a context and a generation server as public recipes for 1024/1024 with MTP 3 have them."""
    both = {
        "pipeline_parallel_size": 1,
        "print_iter_log": True,
        "speculative_config": MTP,
        "cache_transceiver_config": {"backend": "UCX", "max_tokens_in_buffer": 8448},
    }
    kv = {"dtype": "fp8", "enable_block_reuse": False}
    return (
        {
            **parallelism(ctx),
            **both,
            "max_batch_size": 8,
            "max_num_tokens": 8448,
            "max_seq_len": 1064,
            "cuda_graph_config": None,
            "disable_overlap_scheduler": True,
            "kv_cache_config": {**kv, "free_gpu_memory_fraction": 0.6},
            "moe_config": {"backend": "CUTLASS"},
        },
        {
            **parallelism(gen),
            **both,
            "max_batch_size": 16,
            "max_num_tokens": 64,
            "max_seq_len": 2088,
            "cuda_graph_config": {"enable_padding": True, "batch_sizes": [1, 2, 4, 8, 16]},
            "stream_interval": 100,
            "num_postprocess_workers": 4,
            "kv_cache_config": {**kv, "free_gpu_memory_fraction": 0.8},
            "moe_config": {"backend": "TRTLLM", "use_low_precision_moe_combine": True},
            "nvfp4_gemm_config": {"allowed_backends": ["cutlass", "cublaslt", "cutedsl", "cuda_core"]},
        },
    )


def nodes_of(servers: int, gpus: int, per_node: int) -> int:
    return servers * gpus // per_node if gpus >= per_node else -(-servers // (per_node // gpus))


def _weights(gpu: str) -> dict[str, str]:
    """The checkpoint that such GPUs are served: FP4 where they compute it."""
    if gpu.startswith("h"):
        return {"path": "/weights/DeepSeek-R1-0528", "precision": "fp8"}
    return {"path": "/weights/DeepSeek-R1-0528-FP4-v2", "precision": "fp4"}


NATIVE_FRONTEND = {"type": "trtllm_serve", "enable_multiple_frontends": False}
"""Of recipes whose servers are ``trtllm-serve`` itself; one that names no frontend has Dynamo's."""


def srt_recipe(
    shape: tuple[int, str, int, str, str, int],
    ctx: dict[str, Any],
    gen: dict[str, Any],
    *,
    schema: int = 1,
    frontend: dict[str, Any] | None = NATIVE_FRONTEND,
) -> dict[str, Any]:
    """A disaggregated recipe in either layout of srt-slurm."""
    ctx_count, _, gen_count, _, gpu, per_node = shape
    sizes = [config["tensor_parallel_size"] for config in (ctx, gen)]
    rows = [
        ("prefill", ctx_count, sizes[0], ctx, ENVIRONMENT),
        ("decode", gen_count, sizes[1], gen, {**ENVIRONMENT, "TLLM_LOG_LEVEL": "DEBUG"}),
    ]
    content: dict[str, Any] = {
        "name": "made-up",
        "model": {**_weights(gpu), "container": "trtllm.sqsh"},
        "resources": {"gpu_type": gpu, "gpus_per_node": per_node},
        "benchmark": {"type": "sa-bench", "isl": 1024, "osl": 1024, "concurrencies": "4x192x666", "req_rate": "inf"},
        **({"frontend": frontend} if frontend else {}),
    }
    if schema == 2:
        content["schema"] = 2
        content["engine"] = {"type": "trtllm"}
        content["roles"] = {
            name: {
                "nodes": nodes_of(count, size, per_node),
                "workers": count,
                "gpus": size,
                "env": environment,
                "args": config,
            }
            for name, count, size, config, environment in rows
        }
        return content
    content["backend"] = {"type": "trtllm", "trtllm_config": {}}
    for name, count, size, config, environment in rows:
        content["resources"] |= {
            f"{name}_nodes": nodes_of(count, size, per_node),
            f"{name}_workers": count,
            f"gpus_per_{name}": size,
        }
        content["backend"][f"{name}_environment"] = environment
        content["backend"]["trtllm_config"][name] = config
    return content


def trtllm_config(ctx: dict[str, Any], gen: dict[str, Any], **benchmark: Any) -> dict[str, Any]:
    """A ``config.yaml`` of TensorRT-LLM's slurm/benchmark."""
    return {
        "slurm": {"partition": "<partition>", "numa_bind": True, "extra_args": ""},
        "benchmark": {
            "mode": "e2e",
            "use_nv_sa_benchmark": False,
            "multi_round": 5,
            "benchmark_ratio": 0.8,
            "concurrency_list": "16 64",
            "input_length": 1024,
            "output_length": 1024,
            **benchmark,
        },
        "hardware": {"gpus_per_node": 4, "num_ctx_servers": 2, "num_gen_servers": 3},
        "environment": {
            "model_path": "/weights/deepseek-ai/DeepSeek-R1",
            "container_image": "nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc17",
            "worker_env_var": "TLLM_LOG_LEVEL=INFO TRTLLM_ENABLE_PDL=1",
            "gen_worker_env_var": "UCX_TLS=rc,tcp NOTE='two words'",
        },
        "worker_config": {"ctx": ctx, "gen": gen},
    }


def to_text(content: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(content, sort_keys=False)
    return text

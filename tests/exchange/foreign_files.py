"""Result files as other tools write them: their own field names, units and quirks, with invented numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EPOCH = 1_760_000_000_000_000_000


def aiperf_line(k: int, *, phase: str = "profiling", error: dict[str, Any] | None = None) -> dict[str, Any]:
    """One line of ``profile_export.jsonl``: 2 slots, request k starts when k - 2 has ended, 1.1 s each."""
    start = EPOCH + (k // 2) * 1_100_000_000 + (k % 2) * 500_000_000
    metrics: dict[str, Any] = {
        "time_to_first_token": {"value": 100.0, "unit": "ms"},
        "time_to_second_token": {"value": 10.0, "unit": "ms"},
        "inter_token_latency": {"value": 10.0, "unit": "ms"},
        "inter_chunk_latency": {"value": [10.0] * 100, "unit": "ms"},
        "request_latency": {"value": 1100.0, "unit": "ms"},
        "input_sequence_length": {"value": 1024, "unit": "tokens"},
        "output_sequence_length": {"value": 101, "unit": "tokens"},
        "output_token_count": {"value": 101, "unit": "tokens"},
        "reasoning_token_count": {"value": 0, "unit": "tokens"},
        "output_token_throughput_per_user": {"value": 100.0, "unit": "tokens/sec/user"},
    }
    return {
        "metadata": {
            "session_num": k,
            "x_request_id": f"0000-{k}",
            "x_correlation_id": f"0001-{k}",
            "conversation_id": f"session_{k:06d}",
            "turn_index": 0,
            "request_start_ns": start,
            "request_ack_ns": start + 2_000_000,
            "request_end_ns": start + 1_100_000_000,
            "worker_id": "worker_1c12efdd",
            "record_processor_id": "record_processor_0",
            "benchmark_phase": phase,
            "was_cancelled": False,
            "cancellation_time_ns": None,
        },
        "metrics": {"error_isl": {"value": 1024, "unit": "tokens"}} if error else metrics,
        "error": error,
    }


def write_aiperf_lines(path: Path, count: int = 60) -> Path:
    lines = [aiperf_line(k, phase="warmup") for k in range(2)]
    lines += [aiperf_line(k) for k in range(2, 2 + count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _distribution(avg: float, unit: str) -> dict[str, Any]:
    parts = {f"p{p}": avg * (1 + (p - 50) / 1000) for p in (1, 5, 10, 25, 50, 75, 90, 95, 99)}
    return {"unit": unit, "avg": avg, **parts, "min": avg * 0.9, "max": avg * 1.1, "std": 1.5}


AIPERF_SUMMARY: dict[str, Any] = {
    "request_throughput": {"unit": "requests/sec", "avg": 1.8},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 181.8},
    "request_latency": _distribution(1100.0, "ms"),
    "time_to_first_token": _distribution(0.1, "sec"),
    "inter_token_latency": _distribution(10.0, "ms"),
    "input_sequence_length": _distribution(1024.0, "tokens"),
    "output_sequence_length": _distribution(101.0, "tokens"),
    "request_count": {"unit": "requests", "avg": 60.0},
    "error_request_count": {"unit": "requests", "avg": 0.0},
    "benchmark_duration": {"unit": "sec", "avg": 33.0},
    "input_config": {
        "endpoint": {"model_names": ["deepseek-ai/DeepSeek-R1"], "type": "chat", "streaming": True},
        "loadgen": {"concurrency": 2, "request_count": 60},
    },
    "was_cancelled": False,
    "error_summary": [],
}

TRTLLM_SERVING: dict[str, Any] = {
    "date": "20260301-101500",
    "backend": "openai",
    "model_id": "deepseek-ai/DeepSeek-R1",
    "tokenizer_id": "deepseek-ai/DeepSeek-R1",
    "best_of": 1,
    "num_prompts": 512,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 64,
    "duration": 100.0,
    "completed": 512,
    "total_input_tokens": 512 * 8192,
    "total_output_tokens": 512 * 256,
    "request_throughput": 5.12,
    "request_goodput:": None,
    "output_throughput": 1310.72,
    "total_token_throughput": 43253.76,
    "user_throughput": 21.0,
    "avg_decoded_tokens_per_iter": 2.4,
    **{
        f"{which}_ttft_ms": value
        for which, value in (("mean", 2000.0), ("median", 1900.0), ("std", 300.0), ("p99", 4000.0))
    },
    **{f"{which}_tpot_ms": value for which, value in (("mean", 40.0), ("median", 39.0), ("std", 2.0), ("p99", 50.0))},
    **{f"{which}_itl_ms": value for which, value in (("mean", 96.0), ("median", 95.0), ("std", 9.0), ("p99", 150.0))},
}

SA_BENCH: dict[str, Any] = {
    **{k: v for k, v in TRTLLM_SERVING.items() if not k.startswith("total_") and k != "user_throughput"},
    "total_input": 512 * 8192,
    "total_output": 512 * 256,
    "peak_output_tokens_per_s": 1500.0,
    "reuse_http_connections": False,
    "percentiles_ttft_ms": [[90.0, 3000.0], [99.0, 4000.0]],
    "percentiles_tpot_ms": [[90.0, 45.0], [99.0, 50.0]],
}

VLLM: dict[str, Any] = {
    **TRTLLM_SERVING,
    "backend": "vllm",
    "request_rate": 4.0,
    "max_concurrency": None,
    "completed": 500,
    "failed": 12,
    "max_concurrent_requests": 80,
}

INFERENCEX_DISAGG: dict[str, Any] = {
    "hw": "gb200",
    "conc": 256,
    "image": "nvcr.io#nvidia/ai-dynamo/tensorrtllm-runtime:1.0",
    "model": "deepseek-ai/DeepSeek-R1-0528",
    "infmax_model_prefix": "dsr1",
    "framework": "dynamo-trt",
    "precision": "fp4",
    "spec_decoding": "none",
    "disagg": True,
    "is_multinode": True,
    "recipe_fingerprint": "abc123",
    "isl": 8192,
    "osl": 1024,
    "router": {"name": "dynamo", "version": "1.0"},
    "prefill_tp": 4,
    "prefill_pp": 1,
    "prefill_dcp_size": 1,
    "prefill_pcp_size": 1,
    "prefill_ep": 4,
    "prefill_dp_attention": True,
    "prefill_num_workers": 2,
    "decode_tp": 8,
    "decode_pp": 1,
    "decode_dcp_size": 1,
    "decode_pcp_size": 1,
    "decode_ep": 8,
    "decode_dp_attention": True,
    "decode_num_workers": 1,
    "num_prefill_gpu": 8,
    "num_decode_gpu": 8,
    # 12.8 requests/s x (7,372.8 + 921.6 tokens): lengths are drawn from 0.8 L to L, 0.9 L on average.
    "tput_per_gpu": 12.8 * (7372.8 + 921.6) / 16,
    "output_tput_per_gpu": 12.8 * 921.6 / 8,
    "input_tput_per_gpu": 12.8 * 7372.8 / 8,
    **{
        f"{which}_ttft": value
        for which, value in (("mean", 1.588), ("median", 1.5), ("std", 0.4), ("p90", 2.2), ("p99", 3.0))
    },
    **{
        f"{which}_tpot": value
        for which, value in (("mean", 0.02), ("median", 0.0199), ("std", 0.001), ("p99", 0.025))
    },
    "mean_intvty": 50.0,
    "median_intvty": 50.25,
    "p99_intvty": 40.0,
    **{f"{which}_e2el": value for which, value in (("mean", 20.0), ("median", 19.9), ("std", 2.0), ("p99", 26.0))},
    "power_valid": True,
    "avg_power_w": 900.0,
    "joules_per_output_token": 1.2,
}

INFERENCEX_AGG: dict[str, Any] = {
    "hw": "h200",
    "conc": 64,
    "image": "nvcr.io#nvidia/tensorrt-llm/release:1.2.0",
    "model": "deepseek-ai/DeepSeek-R1-0528",
    "framework": "trt",
    "precision": "fp8",
    "spec_decoding": "mtp",
    "disagg": False,
    "is_multinode": False,
    "isl": 1024,
    "osl": 1024,
    "tp": 8,
    "pp": 1,
    "ep": 1,
    "dp_attention": "false",
    "tput_per_gpu": 512.0,
    "output_tput_per_gpu": 256.0,
    "input_tput_per_gpu": 256.0,
    "mean_ttft": 0.4,
    "mean_tpot": 0.03,
    "mean_e2el": 32.0,
}

AIC_DISAGG = """\
model,isl,osl,prefix,concurrency,request_rate,(p)bs,(p)global_bs,(p)workers,(d)bs,(d)global_bs,(d)workers,ttft,tpot,\
request_latency,seq/s,seq/s/gpu,tokens/s,tokens/s/gpu,tokens/s/user,(p)seq/s/worker,(d)seq/s/worker,num_total_gpus,\
(p)tp,(p)pp,(p)dp,(p)moe_tp,(p)moe_ep,(p)parallel,(p)backend,(p)version,(p)system,\
(d)tp,(d)pp,(d)dp,(d)moe_tp,(d)moe_ep,(d)parallel,(d)backend,(d)version,(d)system,power_w
deepseek-ai/DeepSeek-R1,8192,256,0,208,10.6,1,8,3,26,208,1,3672.0,44.58,15040.0,10.587,0.331,2710.2,84.694,22.43,\
3.92,18.3,32,1,1,8,1,8,dep8,trtllm,1.2.0,h200_sxm,1,1,8,1,8,dep8,trtllm,1.2.0,h200_sxm,600
deepseek-ai/DeepSeek-R1,8192,256,0,96,10.6,1,8,3,12,96,1,3672.0,30.0,11322.0,10.587,0.331,2710.2,84.694,33.33,\
3.92,12.5,32,1,1,8,1,8,dep8,trtllm,1.2.0,h200_sxm,1,1,8,1,8,dep8,trtllm,1.2.0,h200_sxm,600
"""

AIC_AGG = """\
model,isl,osl,prefix,concurrency,request_rate,bs,global_bs,ttft,tpot,request_latency,seq/s,seq/s/gpu,tokens/s,\
tokens/s/gpu,tokens/s/user,num_total_gpus,tp,pp,dp,moe_tp,moe_ep,parallel,memory,backend,version,system,power_w
deepseek-ai/DeepSeek-R1,8192,256,0,64,4.0,64,64,2000.0,40.0,12200.0,4.0,0.5,1024.0,128.0,25.0,8,8,1,1,1,8,tep8,120,\
trtllm,1.2.0,h200_sxm,600
"""

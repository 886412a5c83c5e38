"""Results of single runs as other tools write them, with invented numbers that agree with each other."""

from __future__ import annotations

from typing import Any


def serving_run(
    concurrency: int | None = 8, requests: int = 80, *, ttft_ms: float = 200.0, tpot_ms: float = 14.0, osl: int = 256
) -> dict[str, Any]:
    """A result of ``vllm bench serve`` whose slots were never empty: req/s = C / E2EL."""
    e2el_ms = ttft_ms + (osl - 1) * tpot_ms
    duration = requests * e2el_ms / 1000 / (concurrency or 8)
    latencies = {"ttft": ttft_ms, "tpot": tpot_ms, "itl": tpot_ms, "e2el": e2el_ms}
    return {
        "date": "20270102-030405",
        "backend": "vllm",
        "label": None,
        "model_id": "acme/north-8b",
        "tokenizer_id": "acme/north-8b",
        "num_prompts": requests,
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": concurrency,
        "duration": duration,
        "completed": requests,
        "failed": 0,
        "total_input_tokens": requests * 1000,
        "total_output_tokens": requests * osl,
        "request_throughput": requests / duration,
        "output_throughput": requests * osl / duration,
        **{f"mean_{name}_ms": value for name, value in latencies.items()},
        **{f"median_{name}_ms": 0.98 * value for name, value in latencies.items()},
        **{f"std_{name}_ms": 0.05 * value for name, value in latencies.items()},
        **{f"p99_{name}_ms": 1.2 * value for name, value in latencies.items()},
    }


def sglang_run(concurrency: int = 32, requests: int = 320) -> dict[str, Any]:
    """The same run as SGLang's ``bench_serving`` writes it: a line of a .jsonl."""
    run = serving_run(concurrency, requests)
    other = ("date", "label", "model_id", "tokenizer_id", "num_prompts", "failed", "burstiness")
    kept = {key: value for key, value in run.items() if key not in other and "_e2el_" not in key}
    latencies = {key.replace("e2el", "e2e_latency"): value for key, value in run.items() if "_e2el_" in key}
    own = {"tag": None, "backend": "sglang", "dataset_name": "random", "request_rate": float("inf")}
    own |= {"input_throughput": 1.0, "total_output_tokens_retokenized": 80000, "concurrency": 0.99 * concurrency}
    return {**own, **kept, **latencies, "accept_length": None, "server_info": {"model_path": "acme/north-8b"}}


def inferencex_run(conc: int = 128, **changes: Any) -> dict[str, Any]:
    """An aggregated row of InferenceX's files: 8 GPUs, answers of 921.6 tokens, TTFT 0.4 s, TPOT 15 ms."""
    e2el = 0.4 + 920.6 * 0.015
    req_s = conc / e2el
    row = {
        "hw": "b200-dgxc-slurm_3",
        "conc": conc,
        "image": "acme/engine:2.0",
        "model": "deepseek-ai/DeepSeek-R1-0528",
        "framework": "sglang",
        "precision": "fp8",
        "spec_decoding": "none",
        "disagg": False,
        "isl": 1024,
        "osl": 1024,
        "tp": 8,
        "ep": 8,
        "dp_attention": True,
        "tput_per_gpu": req_s * 1843.2 / 8,
        "output_tput_per_gpu": req_s * 921.6 / 8,
        "input_tput_per_gpu": req_s * 921.6 / 8,
        "mean_ttft": 0.4,
        "median_ttft": 0.35,
        "p99_ttft": 1.1,
        "mean_tpot": 0.015,
        "median_tpot": 0.0149,
        "p99_tpot": 0.017,
        "mean_e2el": e2el,
        "mean_intvty": 66.7,
    }
    return {**row, **changes}


def api_row(**changes: Any) -> dict[str, Any]:
    """The same row from InferenceX's public API."""
    row = inferencex_run()
    figures = {key: row.pop(key) for key in list(row) if "_" in key and key.split("_")[0] in _FIGURES}
    server = {"tp": row.pop("tp"), "ep": row.pop("ep"), "dp_attention": row.pop("dp_attention")}
    named = {"hardware": str(row.pop("hw")).split("-")[0], "spec_method": row.pop("spec_decoding")}
    return {
        **row,
        **named,
        **{f"{role}_{key}": value for role in ("prefill", "decode") for key, value in server.items()},
        "prefill_num_workers": 0,
        "decode_num_workers": 0,
        "num_prefill_gpu": 64,  # tp x ep, as the API counts older rows
        "num_decode_gpu": 64,
        "metrics": figures,
        "date": "2027-01-02",
        "run_url": None,
        **changes,
    }


_FIGURES = ("tput", "output", "input", "mean", "median", "p99")

DASHBOARD_HEAD = (
    "# Licensed under Apache License 2.0\n# Attribution is required\n"
    "Model,ISL,OSL,Hardware,Hardware Key,Framework,Precision,TP,Concurrency,Date,Throughput/GPU (tok/s),"
    "Output Throughput/GPU (tok/s),Input Throughput/GPU (tok/s),Mean TTFT (ms),Median TTFT (ms),Mean TPOT (ms),"
    "Median TPOT (ms),Mean Interactivity (tok/s/user),Mean E2E Latency (ms),Disaggregated,Num Prefill GPUs,"
    "Num Decode GPUs,Spec Decoding,EP,DP Attention,Is Multinode\n"
)


def dashboard_line(per_second: float = 1.0, *, apart: bool = False, ttft: float = 0.4) -> str:
    """A line of the dashboard's CSV, its times in units of which ``per_second`` make a second. ``apart``: 8 prefill
    and 16 decode GPUs."""
    row = inferencex_run(128)
    req_s, gpus = 128 / row["mean_e2el"], 24 if apart else 8
    rates = (req_s * 1843.2 / gpus, req_s * 921.6 / (16 if apart else 8), req_s * 921.6 / 8)
    times = [value * per_second for value in (ttft, ttft * 0.9, row["mean_tpot"], row["mean_tpot"])]
    cells = ["R1", 1024, 1024, "b200", "b200_trt", "trt", "fp8", gpus, 128, "2027-01-02", *rates, *times, 66.7]
    cells += [row["mean_e2el"] * per_second, str(apart).lower(), 8 if apart else 0, 16 if apart else 0, "none", 8]
    return ",".join(str(cell) for cell in [*cells, "true", str(apart).lower()]) + "\n"


AIC_CELL_HEAD = (
    "model,isl,osl,prefix,concurrency,request_rate,bs,global_bs,ttft,tpot,request_latency,encoder_latency,seq/s,"
    "seq/s/gpu,tokens/s,tokens/s/gpu,tokens/s/user,num_total_gpus,tp,pp,dp,moe_tp,moe_ep,cp,backend,version,system,"
    "(a)workers,(e)workers,(e)tp,(e)pp,(e)bs\n"
)
AIC_CELL = (
    "vl-30b,2000,400,0,96,6.0,32,32,300,25,10275,90,10,0.7143,4000,285.7,40,14,4,1,1,4,1,1,"
    "vllm,0.24,h200_sxm,3,2,1,1,8\n"
)
"""Three aggregated workers of 4 GPUs and two encoders of 1."""
AIC_PLAIN = (
    "vl-30b,2000,400,0,32,2.0,32,32,300,25,10275,0,3.5,0.875,1400,350,40,4,4,1,1,4,1,1,vllm,0.24,h200_sxm,,,,,\n"
)

AIC_EPD_HEAD = (
    "model,isl,osl,concurrency,(p)bs,(p)global_bs,(p)workers,(d)bs,(d)global_bs,(d)workers,ttft,tpot,seq/s,tokens/s,"
    "tokens/s/gpu,tokens/s/user,(p)seq/s/worker,(d)seq/s/worker,num_total_gpus,(p)tp,(p)pp,(p)dp,(p)moe_tp,(p)moe_ep,"
    "(d)tp,(d)pp,(d)dp,(d)moe_tp,(d)moe_ep,(p)backend,(p)version,(p)system,(d)backend,(d)version,(d)system,"
    "(e)workers,(e)tp,(e)pp,(e)bs\n"
)
AIC_EPD = (
    "vl-30b,2000,100,240,2,2,4,80,80,3,198,8,60,6000,142.86,125,16.667,22,42,4,1,1,1,4,8,1,1,1,8,"
    "trtllm,1.2.0,h200_sxm,trtllm,1.2.0,h200_sxm,2,1,1,4\n"
)
"""Four prefill workers of 4 GPUs, three decode workers of 8, two encoders of 1."""

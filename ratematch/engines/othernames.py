"""Prometheus names of servers that have no room of their own here, but whose addresses a load may be given."""

from __future__ import annotations

from ratematch.measure.metricnames import MetricNames, Samples, common_figures

SGLANG = MetricNames(
    queued=("sglang:num_queue_reqs",),
    active=("sglang:num_running_reqs",),
    kv_share=("sglang:token_usage", "sglang:full_token_usage"),
    kv_blocks=(("sglang:num_used_tokens", "sglang:max_total_num_tokens"),),
    # Before retracted requests were counted there was a gauge of the last batch's alone.
    paused=("sglang:num_paused_reqs", "sglang:num_retracted_reqs"),
    preempted=("sglang:num_retracted_requests_total",),
    cache_hits=(("sglang:cached_tokens_total", "sglang:prompt_tokens_total"),),
    cache_hit_rate=("sglang:cache_hit_rate",),
)

DYNAMO = MetricNames(
    # The frontend's queued_requests are those without a first token, whose prompt may well be computed already.
    queued=(
        "dynamo_frontend_router_queue_pending_requests",
        "dynamo_work_handler_queue_depth",
        "dynamo_request_queue",
    ),
    active=(
        "dynamo_frontend_inflight_requests",
        "dynamo_frontend_inflight_requests_total",
        "dynamo_frontend_active_requests",
        "dynamo_engine_request",
        "dynamo_component_inflight_requests",
    ),
    awaiting=("dynamo_frontend_queued_requests", "dynamo_frontend_queued_requests_total"),
    kv_share=("dynamo_component_kvstats_gpu_cache_usage_percent", "dynamo_component_gpu_cache_usage_percent"),
    kv_blocks=(
        ("dynamo_component_kvstats_active_blocks", "dynamo_component_kvstats_total_blocks"),
        ("dynamo_frontend_worker_active_decode_blocks", "dynamo_frontend_model_total_kv_blocks"),
    ),
    cache_hits=(
        ("dynamo_frontend_cached_tokens_sum", "dynamo_frontend_input_sequence_tokens_sum"),
        ("dynamo_component_router_kv_hit_rate_sum", "dynamo_component_router_kv_hit_rate_count"),
        ("dynamo_frontend_kv_hit_rate_sum", "dynamo_frontend_kv_hit_rate_count"),
    ),
    cache_hit_rate=("dynamo_component_kvstats_gpu_prefix_cache_hit_rate",),
    busy_permille=("dynamo_tokio_worker_busy_ratio",),
    loop_late=(("dynamo_frontend_event_loop_delay_seconds_sum", "dynamo_frontend_event_loop_delay_seconds_count"),),
)


def read_figures(samples: Samples) -> dict[str, float]:
    """The figures that all servers have in common, in the samples of a server of one of these kinds."""
    return common_figures(samples, DYNAMO) | common_figures(samples, SGLANG)

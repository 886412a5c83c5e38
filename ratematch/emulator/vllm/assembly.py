"""From the settings of an emulated ``vllm serve`` to a scheduler with the memory and the speed of its GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from ratematch.emulator.assembly import draft_acceptance, make_step_time
from ratematch.emulator.environment import Environment
from ratematch.emulator.scheduler import Scheduler, SchedulerConfig
from ratematch.emulator.trtllm.settings import SettingsError
from ratematch.emulator.vllm.settings import GIB, ServeSettings
from ratematch.emulator.vllm.transfer import Layout, layout
from ratematch.plan.memory import (
    RUNTIME_RESERVE_B,
    activation_bytes,
    default_precision,
    kv_bytes_per_token_per_rank,
    memory_fit,
)


@dataclass(frozen=True)
class Emulation:
    """The inside of one server."""

    scheduler: Scheduler
    layout: Layout


def build(settings: ServeSettings, environment: Environment) -> Emulation:
    """The scheduler that behaves like this server.

    Raises:
        SettingsError: an unknown number format; weights or one longest sequence that do not fit (in vLLM's words).
    """
    model, mapping, gpu = settings.model, settings.mapping, settings.gpu
    draft_layers = min(settings.drafts, model.mtp_layers)
    try:
        precision = environment.precision or default_precision(model, gpu)
        reserve_b = RUNTIME_RESERVE_B + (1 - settings.memory_share) * gpu.memory_b
        reserve_b += activation_bytes(model, mapping, settings.max_num_batched_tokens, settings.max_num_seqs)
        fit = memory_fit(model, gpu, mapping, precision, settings.kv_format, 1.0, reserve_b, mtp_layers=draft_layers)
        step_time = make_step_time(environment, model, gpu, mapping, precision, settings.kv_format, settings.drafts)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    blocks = settings.num_blocks if settings.num_blocks is not None else fit.kv_tokens // settings.block_size
    if blocks <= 0:
        raise SettingsError(
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the "
            f"engine. ({fit.explanation})"
        )
    if (room := blocks * settings.block_size) < settings.max_model_len:
        token_b = kv_bytes_per_token_per_rank(model, mapping, settings.kv_format, draft_layers)
        raise SettingsError(
            f"To serve at least one request with the models's max seq len ({settings.max_model_len}), "
            f"({settings.max_model_len * token_b / GIB:.2f} GiB KV cache is needed, which is larger than the "
            f"available KV cache memory ({room * token_b / GIB:.2f} GiB). Based on the available memory, "
            f"the estimated maximum model length is {room}. Try increasing "
            "`gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
        )
    config = SchedulerConfig(
        mapping=mapping,
        max_batch_size=settings.max_num_seqs,
        max_num_tokens=settings.max_num_batched_tokens,
        max_seq_len=settings.max_model_len,
        kv_tokens=blocks * settings.block_size,
        tokens_per_block=settings.block_size,
        mtp=settings.drafts,
        acceptance=draft_acceptance(environment, model, settings.drafts),
        forced_acceptance=environment.forced_acceptance,
        chunked_prefill=settings.chunked_prefill,
        block_reuse=settings.prefix_caching,
        overlap=settings.async_scheduling,
        chunk_unit=1,
    )
    return Emulation(
        Scheduler(config, step_time, environment.seed),
        layout(model, mapping, settings.kv_format, settings.block_size, draft_layers),
    )

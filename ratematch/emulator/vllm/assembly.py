"""From the settings of an emulated ``vllm serve`` to a scheduler with the memory and the speed of its GPUs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ratematch.emulator.assembly import ServerShape, fit_memory, learnt_of, make_step_time, scheduler_config
from ratematch.emulator.efficiency import LearntSet
from ratematch.emulator.environment import Environment
from ratematch.emulator.errors import SettingsError
from ratematch.emulator.scheduler import Scheduler
from ratematch.emulator.steptime import StepTime
from ratematch.emulator.vllm.settings import GIB, ServeSettings
from ratematch.emulator.vllm.transfer import Layout, layout


@dataclass(frozen=True)
class Emulation:
    """The inside of one server. ``learnt``: what its step times were learnt from."""

    scheduler: Scheduler
    step_time: StepTime
    layout: Layout
    learnt: LearntSet


def build(settings: ServeSettings, environment: Environment) -> Emulation:
    """The scheduler that behaves like this server.

    Raises:
        SettingsError: an unknown number format; weights or one longest sequence that do not fit (in vLLM's words).
    """
    environment = replace(environment, forced_acceptance=settings.forced_acceptance)
    shape = ServerShape(
        settings.model,
        settings.gpu,
        settings.mapping,
        settings.kv_format,
        settings.drafts,
        settings.max_num_seqs,
        settings.max_num_batched_tokens,
        spare_b=(1 - settings.memory_share) * settings.gpu.memory_b,
    )
    try:
        fit = fit_memory(shape, environment)
        step_time = make_step_time(shape, environment)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    blocks = settings.num_blocks if settings.num_blocks is not None else fit.kv_tokens // settings.block_size
    if blocks <= 0:
        raise SettingsError(
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the "
            f"engine. ({fit.explanation})"
        )
    if (room := blocks * settings.block_size) < settings.max_model_len:
        token_b = shape.kv_token_b
        raise SettingsError(
            f"To serve at least one request with the models's max seq len ({settings.max_model_len}), "
            f"({settings.max_model_len * token_b / GIB:.2f} GiB KV cache is needed, which is larger than the "
            f"available KV cache memory ({room * token_b / GIB:.2f} GiB). Based on the available memory, "
            f"the estimated maximum model length is {room}. Try increasing "
            "`gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
        )
    config = replace(
        scheduler_config(shape, environment, settings.max_model_len, room, settings.block_size),
        chunked_prefill=settings.chunked_prefill,
        block_reuse=settings.prefix_caching,
        overlap=settings.async_scheduling,
        chunk_unit=1,
    )
    return Emulation(
        Scheduler(config, step_time, environment.seed),
        step_time,
        layout(settings.model, settings.mapping, settings.kv_format, settings.block_size, shape.draft_layers),
        learnt_of(shape, environment),
    )

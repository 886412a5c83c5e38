"""From settings to a scheduler with the memory and the speed of the emulated GPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ratematch.catalog import load_gpu
from ratematch.emulator.environment import Environment
from ratematch.emulator.kernelsteps import KernelStepTime
from ratematch.emulator.scheduler import Scheduler, SchedulerConfig
from ratematch.emulator.settings import SettingsError, WorkerSettings
from ratematch.emulator.steptime import RooflineStepTime, StepTime
from ratematch.emulator.transfer import TRANSFER_LATENCY_S
from ratematch.engines.trtllm_serve.render import KV_FORMATS
from ratematch.errors import CatalogError
from ratematch.plan.memory import (
    RUNTIME_RESERVE_B,
    activation_bytes,
    default_precision,
    kv_bytes_per_token_per_rank,
    memory_fit,
)


@dataclass(frozen=True)
class Emulation:
    """The inside of one worker. ``kv_bytes(tokens)``, ``transfer_s(tokens)``: of one KV transfer to it."""

    scheduler: Scheduler
    step_time: StepTime
    kv_bytes: Callable[[int], float]
    transfer_s: Callable[[int], float]


def build(settings: WorkerSettings, environment: Environment) -> Emulation:
    """The scheduler that behaves like this worker.

    Raises:
        SettingsError: an unknown GPU or number format, or weights that do not fit (in the engine's words).
    """
    model, mapping = settings.model, settings.mapping
    try:
        gpu = load_gpu(environment.gpu)
        precision = environment.precision or default_precision(model, gpu)
        kv_format = KV_FORMATS.get(settings.kv_dtype, "bf16")
        mtp_layers = min(settings.mtp, model.mtp_layers)
        reserve_b = RUNTIME_RESERVE_B + activation_bytes(
            model, mapping, settings.max_num_tokens, settings.max_batch_size
        )
        fit = memory_fit(
            model, gpu, mapping, precision, kv_format, settings.kv_fraction, reserve_b, mtp_layers=mtp_layers
        )
        step_time: StepTime
        if environment.steps == "kernels":
            step_time = KernelStepTime(model, gpu, mapping, precision, kv_format, settings.mtp)
        else:
            step_time = RooflineStepTime(model, gpu, mapping, precision, kv_format)
    except (CatalogError, ValueError) as error:
        raise SettingsError(str(error)) from None
    if not fit.fits:
        raise SettingsError(
            "CUDA out of memory\nRuntimeError: Executor creation failed due to insufficient GPU memory.\n"
            + fit.explanation
        )
    kv_tokens = fit.kv_tokens if settings.kv_max_tokens is None else min(fit.kv_tokens, settings.kv_max_tokens)
    acceptance = model.mtp_acceptance[: settings.mtp]
    if len(acceptance) < settings.mtp and environment.forced_acceptance is None:
        # Further drafts than the catalog knows rates for are taken to be as good as the last known one.
        acceptance += (acceptance[-1] if acceptance else 0.0,) * (settings.mtp - len(acceptance))
    config = SchedulerConfig(
        mapping=mapping,
        max_batch_size=settings.max_batch_size,
        max_num_tokens=settings.max_num_tokens,
        max_seq_len=settings.max_seq_len,
        kv_tokens=kv_tokens,
        tokens_per_block=settings.tokens_per_block,
        mtp=settings.mtp,
        acceptance=acceptance,
        forced_acceptance=environment.forced_acceptance,
        chunked_prefill=settings.chunked_prefill,
        block_reuse=settings.block_reuse,
        overlap=settings.overlap,
        fill_gate=environment.fill_gate,
        balance=settings.balance,
    )
    token_b = kv_bytes_per_token_per_rank(model, mapping, kv_format, mtp_layers)
    # Transfers run over NVLink inside a rack-scale domain, over the network between smaller ones.
    link_b_s = gpu.nvlink_b_s if gpu.nvlink_domain > 8 else gpu.network_b_s
    return Emulation(
        Scheduler(config, step_time, environment.seed),
        step_time,
        kv_bytes=lambda tokens: tokens * token_b,
        transfer_s=lambda tokens: TRANSFER_LATENCY_S + tokens * token_b / link_b_s,
    )

"""From settings to a scheduler with the memory and the speed of the emulated GPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ratematch.emulator.environment import Environment
from ratematch.emulator.kernelsteps import KernelStepTime
from ratematch.emulator.scheduler import Scheduler, SchedulerConfig
from ratematch.emulator.steptime import RooflineStepTime, StepTime
from ratematch.emulator.transfer import TRANSFER_LATENCY_S
from ratematch.emulator.trtllm.settings import SettingsError, WorkerSettings
from ratematch.engines.trtllm_serve.render import KV_FORMATS
from ratematch.errors import CatalogError
from ratematch.inputs.catalog import load_gpu
from ratematch.plan.memory import (
    RUNTIME_RESERVE_B,
    activation_bytes,
    default_precision,
    kv_bytes_per_token_per_rank,
    memory_fit,
)
from ratematch.plan.model import Gpu, Model
from ratematch.plan.parallelism import Parallelism


@dataclass(frozen=True)
class Emulation:
    """The inside of one worker. ``kv_bytes(tokens)``, ``transfer_s(tokens)``: of one KV transfer to it."""

    scheduler: Scheduler
    step_time: StepTime
    kv_bytes: Callable[[int], float]
    transfer_s: Callable[[int], float]


def make_step_time(
    environment: Environment,
    model: Model,
    gpu: Gpu,
    mapping: Parallelism,
    precision: str,
    kv_format: str,
    drafts: int,
) -> StepTime:
    """The step-time model that ``environment`` asks for.

    Raises:
        ValueError: an unknown number format, or something that was not measured in kernels.
    """
    if environment.steps == "kernels":
        return KernelStepTime(model, gpu, mapping, precision, kv_format, drafts)
    return RooflineStepTime(model, gpu, mapping, precision, kv_format)


def draft_acceptance(environment: Environment, model: Model, drafts: int) -> tuple[float, ...]:
    """Acceptance rate of each draft, 0..1. Further drafts than the catalog knows rates for are taken to be as good as
    the last known one, unless the number that is accepted is forced."""
    known = model.mtp_acceptance[:drafts]
    if len(known) < drafts and environment.forced_acceptance is None:
        known += (known[-1] if known else 0.0,) * (drafts - len(known))
    return known


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
        step_time = make_step_time(environment, model, gpu, mapping, precision, kv_format, settings.mtp)
    except (CatalogError, ValueError) as error:
        raise SettingsError(str(error)) from None
    if not fit.fits:
        raise SettingsError(
            "CUDA out of memory\nRuntimeError: Executor creation failed due to insufficient GPU memory.\n"
            + fit.explanation
        )
    kv_tokens = fit.kv_tokens if settings.kv_max_tokens is None else min(fit.kv_tokens, settings.kv_max_tokens)
    config = SchedulerConfig(
        mapping=mapping,
        max_batch_size=settings.max_batch_size,
        max_num_tokens=settings.max_num_tokens,
        max_seq_len=settings.max_seq_len,
        kv_tokens=kv_tokens,
        tokens_per_block=settings.tokens_per_block,
        mtp=settings.mtp,
        acceptance=draft_acceptance(environment, model, settings.mtp),
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

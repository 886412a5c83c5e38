"""From the settings of an emulated worker to a scheduler with the memory and the speed of its GPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ratematch.emulator.assembly import ServerShape, fit_memory, learnt_of, make_step_time, scheduler_config
from ratematch.emulator.efficiency import LearntSet
from ratematch.emulator.environment import Environment
from ratematch.emulator.errors import SettingsError
from ratematch.emulator.scheduler import Scheduler
from ratematch.emulator.steptime import StepTime
from ratematch.emulator.trtllm.settings import WorkerSettings
from ratematch.emulator.trtllm.transfer import TRANSFER_LATENCY_S
from ratematch.engines.trtllm_serve.agreement import expert_slots
from ratematch.engines.trtllm_serve.forced import takes
from ratematch.engines.trtllm_serve.render import KV_FORMATS
from ratematch.errors import CatalogError
from ratematch.inputs.catalog import load_gpu


@dataclass(frozen=True)
class Emulation:
    """The inside of one worker. ``kv_bytes(tokens)``, ``transfer_s(tokens)``: of one KV transfer to it. ``learnt``:
    what its step times were learnt from."""

    scheduler: Scheduler
    step_time: StepTime
    kv_bytes: Callable[[int], float]
    transfer_s: Callable[[int], float]
    learnt: LearntSet


def build(settings: WorkerSettings, environment: Environment) -> Emulation:
    """The scheduler that behaves like this worker.

    Raises:
        SettingsError: an unknown GPU or number format, or weights that do not fit (in the engine's words).
    """
    try:
        gpu = load_gpu(environment.gpu)
        shape = ServerShape(
            settings.model,
            gpu,
            settings.mapping,
            settings.model.kv_precision or "bf16"
            if settings.kv_dtype == "auto"
            else KV_FORMATS.get(settings.kv_dtype, "bf16"),
            settings.mtp,
            settings.max_batch_size,
            settings.max_num_tokens,
            settings.kv_fraction,
            expert_slots=expert_slots(settings.config, 0) or 0,
            moe_backend=str((settings.config.get("moe_config") or {}).get("backend") or ""),
            prompts_launched=not settings.prompt_graphs,
        )
        fit = fit_memory(shape, environment)
        step_time = make_step_time(shape, environment)
    except (CatalogError, ValueError) as error:
        raise SettingsError(str(error)) from None
    if not fit.fits:
        raise SettingsError(
            "CUDA out of memory\nRuntimeError: Executor creation failed due to insufficient GPU memory.\n"
            + fit.explanation
        )
    if environment.forced_acceptance is not None and not takes(environment.version, environment.forced_acceptance):
        environment = replace(environment, forced_acceptance=None)  # a warning, and drafts are looked at
    kv_tokens = fit.kv_tokens if settings.kv_max_tokens is None else min(fit.kv_tokens, settings.kv_max_tokens)
    config = replace(
        scheduler_config(shape, environment, settings.max_seq_len, kv_tokens, settings.tokens_per_block),
        chunked_prefill=settings.chunked_prefill,
        block_reuse=settings.block_reuse,
        overlap=settings.overlap,
        fill_gate=environment.fill_gate,
        balance=settings.balance,
        gathering=settings.gathering,
        routing=settings.routing,
    )
    token_b = shape.kv_token_b
    # Transfers run over NVLink inside a rack-scale domain, over the network between smaller ones.
    link_b_s = gpu.nvlink_b_s if gpu.nvlink_domain > 8 else gpu.network_b_s
    return Emulation(
        Scheduler(config, step_time, environment.seed),
        step_time,
        kv_bytes=lambda tokens: tokens * token_b,
        transfer_s=lambda tokens: TRANSFER_LATENCY_S + tokens * token_b / link_b_s,
        learnt=learnt_of(shape, environment),
    )

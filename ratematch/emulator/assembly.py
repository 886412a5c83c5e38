"""From what decides a server's memory and speed to the parts of its scheduler, whichever engine it is of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ratematch.emulator.efficiency import LearntSet, corrected, efficiency_of, find_learnt
from ratematch.emulator.environment import Environment
from ratematch.emulator.iteration import SchedulerConfig
from ratematch.emulator.kernelsteps import KernelStepTime
from ratematch.emulator.steptime import RooflineStepTime, StepTime
from ratematch.engines.steptimes import correction_of
from ratematch.plan.memory import (
    RUNTIME_RESERVE_B,
    MemoryFit,
    MemoryUse,
    activation_bytes,
    default_precision,
    kv_bytes_per_token_per_rank,
    memory_fit,
    state_tokens,
)
from ratematch.plan.model import Gpu, Model
from ratematch.plan.parallelism import Parallelism


@dataclass(frozen=True)
class ServerShape:
    """What a server's memory and speed follow from.

    ``kv_format``: number format of its KV cache. ``drafts``: draft tokens a step. ``max_batch_size``,
    ``max_num_tokens``: limits of an attention-DP rank. ``kv_fraction``: share of what weights and activations leave
    that the KV cache takes. ``spare_b``: bytes of each GPU that the server does not use at all.
    ``expert_slots``: experts of a layer with the copies that a load balancer keeps, 0 = no copies.
    ``moe_backend``: the engine's name for its kernels of routed experts, empty: the one it chooses itself.
    ``prompts_launched``: kernels of a step with prompts are launched one by one from Python, as TensorRT-LLM's
    PyTorch backend does outside CUDA graphs.
    """

    model: Model
    gpu: Gpu
    mapping: Parallelism
    kv_format: str
    drafts: int
    max_batch_size: int
    max_num_tokens: int
    kv_fraction: float = 1.0
    spare_b: float = 0.0
    expert_slots: int = 0
    moe_backend: str = ""
    prompts_launched: bool = False

    @property
    def draft_layers(self) -> int:
        """Layers of the checkpoint that draft: they hold weights and KV cache too."""
        return min(self.drafts, self.model.mtp_layers)

    @property
    def kv_token_b(self) -> float:
        """Bytes of one token's KV cache on one GPU."""
        return kv_bytes_per_token_per_rank(self.model, self.mapping, self.kv_format, self.draft_layers)

    def precision(self, environment: Environment) -> str:
        """Number format of the weights: forced, else what deployments of this model on this GPU normally use."""
        return environment.precision or default_precision(self.model, self.gpu)


def fit_memory(shape: ServerShape, environment: Environment) -> MemoryFit:
    """How the GPUs' memory is shared out.

    Raises:
        ValueError: an unknown number format.
    """
    reserve_b = RUNTIME_RESERVE_B + shape.spare_b
    reserve_b += activation_bytes(shape.model, shape.mapping, shape.max_num_tokens, shape.max_batch_size)
    precision, draft_layers = shape.precision(environment), shape.draft_layers
    use = MemoryUse(precision, shape.kv_format, shape.kv_fraction, reserve_b, draft_layers, shape.expert_slots)
    return memory_fit(shape.model, shape.gpu, shape.mapping, use)


def make_step_time(shape: ServerShape, environment: Environment) -> StepTime:
    """The step-time model that ``environment`` names.

    Raises:
        ValueError: an unknown number format, something that was not measured in kernels, or a server that is not of
            what was calibrated.
    """
    model, gpu, mapping, precision = shape.model, shape.gpu, shape.mapping, shape.precision(environment)
    if environment.steps == "kernels":
        return KernelStepTime(model, gpu, mapping, precision, shape.kv_format, shape.drafts, shape.moe_backend)
    efficiency = efficiency_of(gpu, model, precision, shape.moe_backend, mapping.attention_dp)
    if not shape.prompts_launched:
        efficiency = replace(efficiency, launch_layer_s=0.0)
    if (correction := correction_of(environment.steps)) is not None:
        correction.refuse_other(gpu.name, model.name, precision)
        efficiency = corrected(efficiency, correction, mapping.label)
    return RooflineStepTime(model, gpu, mapping, precision, shape.kv_format, efficiency, environment.all_to_all)


def learnt_of(shape: ServerShape, environment: Environment) -> LearntSet:
    """What the step times of this server were learnt from; no values where nothing was, or kernels were measured."""
    if environment.steps == "kernels":
        return LearntSet({}, "")
    precision, attention_dp = shape.precision(environment), shape.mapping.attention_dp
    learnt = find_learnt(shape.gpu, shape.model, precision, shape.moe_backend, attention_dp)
    if shape.prompts_launched:
        return learnt
    return learnt._replace(values={name: each for name, each in learnt.values.items() if name != "launch_layer_s"})


def draft_acceptance(environment: Environment, model: Model, drafts: int) -> tuple[float, ...]:
    """Acceptance rate of each draft, 0..1. Further drafts than the catalog knows rates for are taken to be as good as
    the last known one, unless the number that is accepted is forced."""
    known = model.mtp_acceptance[:drafts]
    if len(known) < drafts and environment.forced_acceptance is None:
        known += (known[-1] if known else 0.0,) * (drafts - len(known))
    return known


def _beside_states(shape: ServerShape, kv_tokens: int, max_seq_len: int) -> int:
    """What is left of the cache beside the states of as many sequences as it holds at their longest, or as a batch
    has."""
    state = state_tokens(shape.model, shape.mapping, shape.kv_token_b)
    if not state:
        return kv_tokens
    whole_batch = kv_tokens - shape.max_batch_size * state
    return max(whole_batch, kv_tokens * max_seq_len // (max_seq_len + state))


def scheduler_config(
    shape: ServerShape, environment: Environment, max_seq_len: int, kv_tokens: int, tokens_per_block: int
) -> SchedulerConfig:
    """The limits that ``shape`` and the size of the KV cache give; what only one engine has is left at its default.

    ``kv_tokens``: of an attention-DP rank.
    """
    return SchedulerConfig(
        mapping=shape.mapping,
        max_batch_size=shape.max_batch_size,
        max_num_tokens=shape.max_num_tokens,
        max_seq_len=max_seq_len,
        kv_tokens=_beside_states(shape, kv_tokens, max_seq_len),
        tokens_per_block=tokens_per_block,
        mtp=shape.drafts,
        acceptance=draft_acceptance(environment, shape.model, shape.drafts),
        forced_acceptance=environment.forced_acceptance,
    )

"""Step times from measured kernels: AIConfigurator's database, an optional extra (``ratematch[kernels]``).

The same interface as the roofline. The database has matrix products, attention, experts and exchanges as they were
timed on the GPU with TensorRT-LLM, each summed over layers by AIConfigurator's own engine. An iteration is put
together here, from what each of them works on:

* attention: each rank's own sequences, prompts and decoding sequences apart; the slowest rank decides;
* experts: the tokens of all ranks together, whichever rank they come from;
* everything else (projections, norms, exchanges): the tokens of the busiest rank;
* output projection: one row for each token that is sampled, prompts too.

The engine's own mixed step is not used: it gives the experts the busiest rank's tokens times the ranks, leaves the
output projection out, and under MLA (whose attention is one measured block) prices all tokens as one prompt and the
decoding sequences' attention at nothing. Host time and the fixed part of a step are the roofline model's, for the
database holds kernels only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import count
from typing import Any

from ratematch.emulator.efficiency import Efficiency
from ratematch.emulator.steptime import RankLoad, StepBatch, merge_alike
from ratematch.plan.model import Gpu, Model
from ratematch.plan.parallelism import Parallelism

EXTRA = "pip install 'ratematch[kernels]'"

SYSTEMS = {
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "b200": "b200_sxm",
    "gb200": "gb200",
    "b300": "b300_sxm",
    "gb300": "gb300",
}
MODELS = {
    "deepseek-r1": "deepseek-ai/DeepSeek-R1",
    "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B",
    "qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B",
    "llama-3.3-70b": "meta-llama/Meta-Llama-3.1-70B",  # the same layers
    "gpt-oss-120b": "openai/gpt-oss-120b",
}
GEMM = {"nvfp4": "nvfp4", "fp8": "fp8", "bf16": "bfloat16", "mxfp4": "bfloat16"}
EXPERTS = {"nvfp4": "nvfp4", "fp8": "fp8", "bf16": "bfloat16", "mxfp4": "w4a16_mxfp4"}
CACHE = {"fp8": "fp8", "nvfp4": "fp8", "bf16": "bfloat16"}
_SEQUENCES = ("attention", "mla_block")
"""Operations whose time depends on the lengths of sequences. Their tokens alone decide over all others."""
_EXPERTS = ("moe", "moe_overlap")
_HEAD = ("logits_gemm",)
_REMEMBERED = 4096


class KernelStepTime:
    """Step times of ``model`` on ``gpu`` with ``mapping`` and ``mtp`` drafts, from measured kernels.

    Drafts cost further layers: the database's engine adds them to decoding; in a step with prompts the first draft
    layer sees all tokens and later ones, which see one for each sequence, are left out.

    Raises:
        ValueError: the extra is not installed, or the database has nothing for this combination.
    """

    def __init__(self, model: Model, gpu: Gpu, mapping: Parallelism, precision: str, kv_dtype: str, mtp: int = 0):
        if mapping.pp > 1 or mapping.cp > 1:
            raise ValueError("step times from kernels know no pipeline or context parallelism: use the roofline")
        for name, known, what in ((gpu.name, SYSTEMS, "GPU"), (model.name, MODELS, "model")):
            if name not in known:
                raise ValueError(f"the kernel database is not used for {what} {name!r}; known: {', '.join(known)}")
        self._fixed = Efficiency()  # host and step times: nothing of them is learnt
        attention = model.attention_precision.get(precision, precision)
        gemm = GEMM[attention]
        experts = EXPERTS[precision]
        if precision == "mxfp4" and "nvfp4" in gpu.flops:  # Blackwell multiplies MXFP4 with FP8 activations
            experts = "w4a8_mxfp4_mxfp8"
        if model.mla and precision == "fp8":  # DeepSeek's FP8 checkpoint has a scale for each block of weights
            gemm = experts = "fp8_block"
        engine = _compile(
            MODELS[model.name], SYSTEMS[gpu.name], mapping, gemm, experts if model.moe else None, CACHE[kv_dtype], mtp
        )
        self._layers = 1 + 1 / model.layers if mtp else 1.0
        self._prompts = _Phase(engine.evaluate_context_ops)
        self._decoding = _Phase(engine.evaluate_generation_ops)

    def seconds(self, batch: StepBatch, overlap: bool = True) -> float:
        """Seconds of the iteration; the slowest rank decides."""
        fixed, ranks = self._fixed, batch.ranks
        tokens = [load.ctx_tokens + load.gen_requests * load.query_tokens for load in ranks]
        most, mean = _whole(max(tokens)), _whole(sum(tokens) / len(tokens))
        kinds = [load for load, _ in merge_alike(ranks)]
        if any(load.ctx_tokens for load in ranks):
            prompts, decoding = self._prompts, self._decoding
            rows = max([load.ctx_requests + load.gen_requests * load.query_tokens for load in ranks])
            device_ms = self._layers * (prompts.experts(mean) + prompts.others(most))
            device_ms += max(map(self._prompt_attention, kinds)) + decoding.head(_whole(rows))
        elif most:
            decoding = self._decoding
            device_ms = max(map(self._decode_attention, kinds)) + decoding.experts(mean) + decoding.others(most)
            device_ms += decoding.head(most)
        else:
            device_ms = 0.0
        device = device_ms / 1000 + fixed.step_s
        host = fixed.host_step_s
        host += fixed.host_request_s * max([load.gen_requests + load.ctx_requests for load in ranks])
        return max(device, host) if overlap else device + host

    def _prompt_attention(self, load: RankLoad) -> float:
        """Attention of a rank in a step with prompts, ms: its prompts as long as their mean, and what decodes."""
        milliseconds = self._decode_attention(load)
        if load.ctx_tokens > 0:
            requests = load.ctx_requests or 1.0
            new = load.ctx_tokens / requests
            # n tokens after p others attend to n (p + (n + 1) / 2).
            before = load.ctx_attended / load.ctx_tokens - (new + 1) / 2
            # Less than one prompt, in the mean step of a steady state, is that part of a whole one.
            part = self._layers * requests / _whole(requests)
            milliseconds += part * self._prompts.attention(_whole(requests), _whole(new), max(0, round(before)))
        return milliseconds

    def _decode_attention(self, load: RankLoad) -> float:
        if load.gen_requests <= 0:
            return 0.0
        cached = _whole(load.kv_read_tokens / load.gen_requests)
        return self._decoding.attention(_whole(load.gen_requests * load.query_tokens), cached, 0)


def _whole(number: float) -> int:
    """The nearest whole number, of something that is not nothing at least 1."""
    return max(1, round(number)) if number > 0 else 0


class _Phase:
    """The operations of prompts or of decoding, by what they work on. All in ms, over all layers."""

    def __init__(self, evaluate: Callable[..., list[tuple[str, float, float, str]]]):
        self._evaluate = evaluate
        names = list(_names(evaluate))
        self._sequences = [index for index, name in enumerate(names) if name in _SEQUENCES]
        groups: dict[tuple[str, ...], list[int]] = {
            kind: [index for index, name in enumerate(names) if name in kind] for kind in (_EXPERTS, _HEAD)
        }
        if not self._sequences:
            raise ValueError(f"the kernel database has no attention by a name known here: {', '.join(names)}")
        taken = {*self._sequences, *groups[_EXPERTS], *groups[_HEAD]}
        remember = lru_cache(maxsize=_REMEMBERED)
        self.experts = remember(partial(self._of_tokens, groups[_EXPERTS]))
        self.head = remember(partial(self._of_tokens, groups[_HEAD]))
        self.others = remember(partial(self._of_tokens, [k for k in range(len(names)) if k not in taken]))

    def attention(self, sequences: int, tokens: int, before: int) -> float:
        """Milliseconds of attention of ``sequences`` sequences of ``tokens`` tokens: cached ones, or new ones after
        ``before`` others."""
        operations = self._evaluate(self._sequences, batch_size=sequences, s=max(1, tokens), prefix=before)
        return sum([milliseconds for _, milliseconds, *_ in operations])

    def _of_tokens(self, indices: list[int], tokens: int) -> float:
        operations = self._evaluate(indices, batch_size=tokens, s=1, x=tokens) if indices and tokens else []
        return sum([milliseconds for _, milliseconds, *_ in operations])


def _names(evaluate: Callable[..., list[tuple[str, float, float, str]]]) -> Iterator[str]:
    """Names of an engine's operations, in order, without the phase they begin with. The engine does not say how many
    there are: it refuses the one after the last."""
    for index in count():
        try:
            ((name, *_),) = evaluate([index], batch_size=1, s=1024)
        except ValueError as error:
            if index and "out of range" in str(error):
                return
            raise
        yield name.partition("_")[2]


@lru_cache(maxsize=64)
def _compile(
    path: str, system: str, mapping: Parallelism, gemm: str, experts: str | None, cache: str, mtp: int
) -> Any:
    try:
        engine = importlib.import_module("aiconfigurator_core.sdk.engine")
    except ImportError:
        raise ValueError(f"step times from measured kernels need an extra: {EXTRA}") from None
    whole = {
        "tp_size": 1 if mapping.attention_dp else mapping.tp,
        "attention_dp_size": mapping.tp if mapping.attention_dp else 1,
        "gemm_quant_mode": gemm,
        "kvcache_quant_mode": cache,
        "nextn": mtp,
    }
    if experts is not None:
        whole |= {"moe_tp_size": mapping.moe_tp, "moe_ep_size": mapping.ep, "moe_quant_mode": experts}
    failures = []
    # The database has attention in the cache's format for some models and in bf16 for others.
    for attention in ("fp8" if cache == "fp8" else None, "bfloat16"):
        try:
            handle = engine.EngineHandle.compile(path, system, "trtllm", fmha_quant_mode=attention, **whole)
            handle.predict_prefill_latency(1, 1024)
            handle.decode_step_latency(1, 1024, 2)
        except Exception as error:  # its errors share no class
            failures.append(" ".join(str(error).split())[:200])
        else:
            return handle
    raise ValueError(f"no measured kernels for {path} on {system} with {mapping.label}: {failures[-1]}")

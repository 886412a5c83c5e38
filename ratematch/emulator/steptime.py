"""How long one iteration of an inference server takes: a roofline over compute, memory and links.

Per layer and part (attention matrices, attention itself, experts, exchange between GPUs) the time is the larger of
FLOPs / rate and bytes / bandwidth; parts and layers add up. It is a model of the shape of the curves, good to a
factor of two against NVIDIA's published aggregated throughput (``benchmarks/emulator_peaks.py``), and no substitute
for a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

from ratematch.emulator.efficiency import Efficiency, efficiency_of
from ratematch.emulator.gathering import gathers, share_of_tokens
from ratematch.emulator.mixing import CoreRates, choose_s, mix_s
from ratematch.plan.formats import format_bytes, rate_of
from ratematch.plan.memory import (
    attention_params,
    expert_params,
    kv_elements_per_layer,
    part_bytes,
    part_mix,
    shared_params,
    some_indexers,
)
from ratematch.plan.mixers import indexer_bytes, mixer_params
from ratematch.plan.model import Gpu, Mixer, Model, Part
from ratematch.plan.parallelism import Parallelism

_REMEMBERED = 4096
"""Numbers of tokens for which the time of a part is kept: from step to step most of a server's are the same."""


class RankLoad(NamedTuple):
    """What one attention-DP rank (or the whole instance, without attention DP) computes in one iteration.

    ``ctx_attended``: sum over the step's prompt tokens of the tokens each one attends to; for a chunk of n tokens
    after p earlier ones that is n * (p + (n + 1) / 2). ``query_tokens``: 1 + draft tokens, of the server.
    ``kv_read_tokens``: cached tokens of all generating sequences together. ``ctx_pieces``: how many micro-batches the
    prompts can be spread over under pipeline parallelism (0: one per prompt). Fractions are fine: the mean step of
    a steady state has them.
    """

    ctx_requests: float = 0
    ctx_tokens: float = 0
    ctx_attended: float = 0.0
    gen_requests: float = 0
    query_tokens: int = 1
    kv_read_tokens: float = 0
    ctx_pieces: float = 0


class StepBatch(NamedTuple):
    """One iteration: one :class:`RankLoad` per attention-DP rank, or a single one."""

    ranks: tuple[RankLoad, ...]


class StepTime(Protocol):
    """Anything that knows how long an iteration takes."""

    def seconds(self, batch: StepBatch, overlap: bool = True) -> float:
        """Seconds of the iteration. ``overlap``: the host prepares the next step while the device works."""
        ...


@dataclass(frozen=True)
class ConstantStepTime:
    """Every iteration takes the same time: for tests and for measuring the serving path itself."""

    step_s: float = 0.5e-3

    def seconds(self, batch: StepBatch, overlap: bool = True) -> float:
        return self.step_s


class RooflineStepTime:
    """Roofline step time of ``model`` on ``gpu`` with ``mapping``; see :class:`Efficiency` for what bends the peaks.

    Weights are read once per step; of the experts only those that the step's tokens are expected to touch,
    E * (1 - (1 - k/E)^tokens) for uniform routing. Attention DP: the slowest rank decides. Pipeline parallel: a step
    stands for ``pp`` micro-batches in flight, one per stage, so it costs all layers on 1/pp of the batch. Drafts:
    the main model sees 1 + mtp tokens per sequence, and each draft costs one more layer and one more output
    projection, for prompts too.

    ``all_to_all``: attention DP exchanges tokens by all-to-all kernels however few the ranks.

    Raises:
        ValueError: unknown format, or one that the GPU has no rate for.
    """

    def __init__(
        self,
        model: Model,
        gpu: Gpu,
        mapping: Parallelism,
        precision: str,
        kv_dtype: str = "fp8",
        efficiency: Efficiency | None = None,
        all_to_all: bool = False,
    ):
        eff = efficiency or efficiency_of(gpu, model, precision, attention_dp=mapping.attention_dp)
        self.model, self.gpu, self.mapping, self.efficiency = model, gpu, mapping, eff
        self.precision, self.kv_dtype, self.all_to_all = precision, kv_dtype, all_to_all
        self._uniform = not model.mixers and model.plain_layers == model.wide_layers
        shards = 1 if mapping.attention_dp else mapping.tp
        self._shards = shards
        self._set_rates(kv_dtype)
        self._rates = CoreRates(self._core_rate, self._gen_core_rate, self._bandwidth, shards, kv_dtype)
        weight_b = part_bytes(model, precision, "experts")

        # Indexers of some layers count as the same share of one in each.
        self._attn_params = (attention_params(model) + some_indexers(model) / max(1, model.plain_layers)) / shards
        self._attn_weights_b = self._attn_params * part_bytes(model, precision, "attention")
        self._dense_params = model.mlp_matrices * model.hidden * model.ffn / shards
        self._dense_weights_b = self._dense_params * part_bytes(model, precision, "dense")
        self._head_params = model.vocab * model.hidden / shards
        self._mixer_b = part_bytes(model, precision, "mixers")
        self._shared_b = part_bytes(model, precision, "shared")
        moe = model.moe
        if moe:
            self._dense_layers = moe.dense_layers
            self._shared_params = shared_params(model, moe) / shards
            self._expert_params = expert_params(model, moe) / mapping.moe_tp
        else:
            self._dense_layers, self._shared_params, self._expert_params = model.wide_layers, 0.0, 0.0
        self._weight_b = weight_b
        # FP8 in blocks, as MLA models have it, is quantised after it was sent (TensorRT-LLM's fused_moe_cutlass.py).
        self._sent_b = 2.0 if model.mla and precision == "fp8" else weight_b

        self._ctx_pair_flops, self._gen_pair_flops = self._pair_flops(shards)
        kv_share = min(shards if model.mla is None else 1, model.kv_heads)
        self._kv_b = kv_elements_per_layer(model) * format_bytes(kv_dtype) / kv_share
        self._link_b_s = self._link()
        self._gathers = gathers(model, gpu, mapping, all_to_all)
        self._share_here = share_of_tokens(model, mapping, self._gathers)

        # Of a step only the reading of caches differs from that of the one before, as a rule.
        remember = lru_cache(maxsize=_REMEMBERED)
        self._projections = remember(self._projections_s)
        self._mixed_projections = [remember(partial(self._mixed_projections_s, mixer)) for mixer in model.mixers]
        self._dense = remember(self._dense_s)
        self._moe = remember(self._moe_s)
        self._exchange = remember(self._exchange_s)
        self._head = remember(self._head_s)

    def _set_rates(self, kv_dtype: str) -> None:
        """FLOP/s of each kind of product, and bytes/s of memory."""
        eff, gpu, precision = self.efficiency, self.gpu, self.precision
        self._rate = eff.gemm * self._part_rate(precision, "dense")
        self._moe_rate = eff.moe_gemm * self._part_rate(precision, "experts")
        self._shared_rate = eff.gemm * self._part_rate(precision, "shared")
        self._attn_rate = eff.gemm * self._part_rate(precision, "attention")
        self._mixer_rate = eff.gemm * self._part_rate(precision, "mixers")
        self._head_rate = eff.gemm * gpu.flops["bf16"]
        prompts = "fp8" if self.model.mla and kv_dtype == "fp8" and "fp8" in gpu.flops else "bf16"
        self._core_rate = eff.attention * gpu.flops[prompts]
        self._gen_core_rate = eff.gen_attention * gpu.flops["fp8" if kv_dtype in ("fp8", "nvfp4") else "bf16"]
        self._bandwidth = eff.memory * gpu.memory_b_s
        self._expert_bandwidth = eff.expert_memory * gpu.memory_b_s

    def _part_rate(self, precision: str, part: Part) -> float:
        """FLOP/s of products with a part's matrices: each format's rate, weighted by its share of the elements."""
        mix = part_mix(self.model, precision, part)
        if len(mix) == 1:
            return rate_of(self.gpu, next(iter(mix)))
        return 1 / sum(share / rate_of(self.gpu, name) for name, share in mix.items())

    def _pair_flops(self, shards: int) -> tuple[float, float]:
        """FLOPs of attention proper per (query token, cached token) pair, per layer and rank: of prompts, which use
        plain heads, and of generation, which under MLA uses the absorbed form on the latent itself."""
        model, heads = self.model, self.model.heads / shards
        if model.mla:
            mla = model.mla
            return (
                2 * heads * (mla.nope_dim + mla.rope_dim + mla.v_dim),
                2 * heads * (2 * mla.kv_lora_rank + mla.rope_dim),
            )
        both = 2 * heads * (model.head_dim + (model.v_dim or model.head_dim))
        return both, both

    def _link(self) -> float:
        """Bytes/s: the slower of what crosses NVLink and what must cross the network, for evenly spread peers."""
        size, domain, eff = self.mapping.tp, self.gpu.nvlink_domain, self.efficiency.link
        if size <= domain:
            return eff * self.gpu.nvlink_b_s
        outside = (size - domain) / (size - 1)
        return eff * min(self.gpu.nvlink_b_s / (1 - outside), self.gpu.network_b_s / outside)

    # ------------------------------------------------------------------------------------------------ public

    def with_efficiency(self, efficiency: Efficiency) -> RooflineStepTime:
        """The same server with other shares and fixed times."""
        return RooflineStepTime(
            self.model, self.gpu, self.mapping, self.precision, self.kv_dtype, efficiency, self.all_to_all
        )

    def seconds(self, batch: StepBatch, overlap: bool = True) -> float:
        """Seconds of the iteration; more with any more work, 0-work iterations cost the fixed part."""
        return self.merged_seconds(merge_alike(batch.ranks), overlap)

    def merged_seconds(self, kinds: list[tuple[RankLoad, int]], overlap: bool = True) -> float:
        """The same of ranks that :func:`merge_alike` has merged."""
        mapping, model, eff = self.mapping, self.model, self.efficiency
        whole = kinds
        if mapping.pp > 1 or mapping.cp > 1:
            kinds = [(self._micro_batch(load), ranks) for load, ranks in kinds]
        query = max([load.query_tokens for load, _ in kinds])
        attention = later_attention = 0.0
        generating = False
        most_tokens = all_tokens = most_rows = all_rows = most_logits = slowest_gen = slowest_read = 0.0
        for load, ranks in kinds:
            ctx, ctx_tokens, _, gen, queries, read, pieces = load
            tokens, rows, logits = ctx_tokens + gen * queries, ctx + gen, gen * queries + ctx
            all_tokens += tokens * ranks
            all_rows += rows * ranks
            generating = generating or gen > 0
            most_tokens = tokens if tokens > most_tokens else most_tokens
            most_rows = rows if rows > most_rows else most_rows
            most_logits = logits if logits > most_logits else most_logits
            # No slower than another rank that has as many sequences and tokens to read.
            if not ctx_tokens and gen <= slowest_gen and read <= slowest_read:
                continue
            if queries == query and gen >= slowest_gen and read >= slowest_read:
                slowest_gen, slowest_read = gen, read
            attention = max(attention, self._attention(load, tokens))
            if query > 2:
                later = RankLoad(ctx, ctx, 0.0, gen, 1, read, pieces)
                later_attention = max(later_attention, self._attention(later, rows))
        mixing = attention
        if not self._uniform:
            loads = [load for load, _ in kinds]
            mixing = self._mix(
                attention, loads, [load.ctx_tokens + load.gen_requests * load.query_tokens for load in loads]
            )
        if not model.plain_layers:
            attention = mixing  # of a draft layer too
        device = model.depth * (mixing + self._exchange(most_tokens) + eff.layer_s)
        device += self._dense_layers * self._dense(most_tokens)
        device += (model.wide_layers - self._dense_layers) * self._moe(all_tokens, most_tokens)
        device += self._head(most_logits)
        if query > 1:
            device += self._draft(attention, most_tokens, all_tokens, most_rows)
        if query > 2:
            device += (query - 2) * self._draft(later_attention, most_rows, all_rows, most_rows)
        if mapping.pp > 1:
            device += (mapping.pp - 1) * (eff.collective_s + most_tokens * model.hidden * 2 / self._link_b_s)
        device += eff.step_s
        if eff.launch_layer_s and (prompts := sum([load.ctx_requests * ranks for load, ranks in kinds])):
            device += min(1.0, prompts) * max(0.0, model.depth * eff.launch_layer_s - device)
        host = eff.host_step_s
        if kinds is not whole:
            most_rows = max([load.gen_requests + load.ctx_requests for load, _ in whole])
        host += eff.host_request_s * most_rows
        speed = eff.gen_speed if generating else eff.ctx_speed
        return (max(device, host) if overlap else device + host) / speed

    # ------------------------------------------------------------------------------------------------ parts

    def _gemm(self, params: float, weights_b: float, tokens: float, rate: float | None = None) -> float:
        if tokens <= 0:
            return 0.0
        return max(2 * params * tokens / (rate or self._rate), weights_b / self._bandwidth)

    def _micro_batch(self, load: RankLoad) -> RankLoad:
        """The share of a rank's work that one micro-batch computes on one GPU. A micro-batch holds at least one
        sequence or prompt piece, so few of them cannot use all stages; ``cp`` ranks share prompt and cache."""
        pp, cp = self.mapping.pp, self.mapping.cp
        if pp == 1 and cp == 1:
            return load
        gen = max(1 / pp, 1 / max(1.0, load.gen_requests))
        ctx = max(1 / pp, 1 / max(1.0, load.ctx_pieces or load.ctx_requests))
        return RankLoad(
            ctx_requests=load.ctx_requests * ctx,
            ctx_tokens=load.ctx_tokens * ctx / cp,
            ctx_attended=load.ctx_attended * ctx / cp,
            gen_requests=load.gen_requests * gen,
            query_tokens=load.query_tokens,
            kv_read_tokens=load.kv_read_tokens * gen / cp,
        )

    def _attention(self, load: RankLoad, tokens: float) -> float:
        """Attention of one layer on one rank: projections, prompt attention, generation attention, elementwise."""
        if tokens <= 0:
            return 0.0
        model = self.model
        seconds = self._projections(tokens)
        attended, read = load.ctx_attended, load.kv_read_tokens
        if model.sliding_layers:
            near = model.sliding_layers / model.plain_layers
            attended += near * (min(attended, load.ctx_tokens * model.sliding_window) - attended)
            read += near * (min(read, load.gen_requests * model.sliding_window) - read)
        if model.indexer:
            share = (model.indexer.layers or model.plain_layers) / model.plain_layers
            entry_b = indexer_bytes(model.indexer)
            seconds += share * choose_s(model.indexer, entry_b, load, attended, read, self._rates)
            attended = min(attended, load.ctx_tokens * model.indexer.top_k)
            read = min(read, load.gen_requests * model.indexer.top_k)
        seconds += self._ctx_pair_flops * attended / self._core_rate
        gen_flops = self._gen_pair_flops * read * load.query_tokens
        return seconds + max(gen_flops / self._gen_core_rate, read * self._kv_b / self._bandwidth)

    def _mix(self, attention: float, loads: list[RankLoad], tokens: list[float]) -> float:
        """Seconds of token mixing of all layers, spread over the model's depth. ``attention``: of one plain layer."""
        seconds = self.model.plain_layers * attention
        for mixer, projections in zip(self.model.mixers, self._mixed_projections, strict=True):
            slowest = max(
                projections(count) + mix_s(mixer, load, self._rates) if count > 0 else 0.0
                for load, count in zip(loads, tokens, strict=True)
            )
            seconds += mixer.layers * slowest
        return seconds / self.model.depth

    def _mixed_projections_s(self, mixer: Mixer, tokens: float) -> float:
        params = mixer_params(mixer, self.model.hidden) / self._shards
        seconds = self._gemm(params, params * self._mixer_b, tokens, self._mixer_rate)
        return seconds + self.efficiency.elementwise_passes * tokens * self.model.hidden * 2 / self._bandwidth

    def _projections_s(self, tokens: float) -> float:
        """Attention's matrices and what is done to each element between matrix products, of one layer."""
        seconds = self._gemm(self._attn_params, self._attn_weights_b, tokens, self._attn_rate)
        return seconds + self.efficiency.elementwise_passes * tokens * self.model.hidden * 2 / self._bandwidth

    def _dense_s(self, tokens: float) -> float:
        """The feed-forward part of a layer without experts."""
        return self._gemm(self._dense_params, self._dense_weights_b, tokens)

    def _moe_s(self, all_tokens: float, most_tokens: float) -> float:
        """Routed and shared experts of one layer on the busiest rank."""
        moe, mapping = self.model.moe, self.mapping
        if moe is None or all_tokens <= 0:
            return 0.0
        touched = moe.experts * (1.0 - math.pow(1.0 - moe.top_k / moe.experts, all_tokens))
        imbalance = self.efficiency.moe_imbalance if mapping.ep > 1 else 1.0
        copies = imbalance * all_tokens * moe.top_k / mapping.ep
        flops = 2 * self._expert_params * copies
        weights_b = touched / mapping.ep * self._expert_params * self._weight_b
        eff, width = self.efficiency, moe.latent or self.model.hidden
        rows_b = copies * (eff.moe_row_b * width + eff.moe_row_ffn_b * moe.ffn / mapping.moe_tp)
        rows_b += all_tokens * self._share_here * width * 2.0  # sums of a token's experts, in bf16
        seconds = max(flops / self._moe_rate, weights_b / self._expert_bandwidth) + rows_b / self._bandwidth
        seconds += eff.moe_layer_s
        if self._shared_params:
            shared_b = self._shared_params * self._shared_b
            seconds += self._gemm(self._shared_params, shared_b, most_tokens, self._shared_rate)
        return seconds

    def _exchange_s(self, tokens: float) -> float:
        """Exchanges of one layer. Attention DP: dispatch and combine (combine in bf16) with the distinct ranks that a
        token's experts live on, or with all (:func:`gathers`). Without attention DP two all-reduces."""
        mapping, model, eff = self.mapping, self.model, self.efficiency
        if mapping.tp == 1 or tokens <= 0:
            return 0.0
        if mapping.attention_dp:
            peers = self._share_here * mapping.ep * mapping.moe_tp * (mapping.tp - 1) / mapping.tp
            if self._gathers:
                peers = mapping.tp - 1.0
            wire_b = tokens * peers * model.hidden * (self._sent_b + 2.0)
        else:
            wire_b = 2 * 2 * (mapping.tp - 1) / mapping.tp * tokens * model.hidden * 2.0
            wire_b *= eff.link / eff.allreduce
        return 2 * eff.collective_s + wire_b / self._link_b_s

    def _head_s(self, rows: float) -> float:
        """Output projection (bf16) for ``rows`` tokens, and the pass over their logits."""
        if rows <= 0:
            return 0.0
        logits_b = 3 * rows * self._head_params / self.model.hidden * 4.0
        return (
            self._gemm(self._head_params, self._head_params * 2.0, rows, self._head_rate) + logits_b / self._bandwidth
        )

    def _draft(self, attention: float, most_tokens: float, all_tokens: float, most_rows: float) -> float:
        """One draft pass: a layer, with its attention given, and an output projection for each sequence and prompt.
        The first sees all tokens, later ones one per sequence and prompt. ``most``: of the busiest rank."""
        seconds = attention + self._exchange(most_tokens) + self.efficiency.layer_s
        seconds += self._moe(all_tokens, most_tokens) if self.model.moe else self._dense(most_tokens)
        return seconds + self._head(most_rows)


def merge_alike(ranks: tuple[RankLoad, ...]) -> list[tuple[RankLoad, int]]:
    """One load of each kind, and how many ranks have it: of those that differ in cached tokens alone, the slowest."""
    if len(ranks) == 1:
        return [(ranks[0], 1)]
    kinds: dict[tuple[float, ...], tuple[RankLoad, int]] = {}
    for load in ranks:
        kind = load[:5]
        known = kinds.get(kind)
        if known is None:
            kinds[kind] = (load, 1)
        else:
            kinds[kind] = (load if load.kv_read_tokens > known[0].kv_read_tokens else known[0], known[1] + 1)
    return list(kinds.values())

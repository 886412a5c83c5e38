"""What a deployment needs of memory and links, and whether the machines have it.

Bandwidths are averages over time at the planned rate; a single transfer's time is :func:`kv_transfer_s`. Formulas:
egress per ctx GPU = R_c x ISL x b / G_c, ingress per gen GPU = d x R_g x ISL x b / G_g, with b the KV bytes of a
token and d how often each is stored in a gen instance (replicated under tensor parallelism).

KV memory needs no rule here: a plan never holds more requests in an instance than were held when it was measured, at
the same ISL and OSL. What cannot be held is dropped before it is measured (:mod:`ratematch.plan.capacity`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ratematch.match.curves import Bools, Floats
from ratematch.match.options import own_limit_ms
from ratematch.match.pairs import Pair, with_posting
from ratematch.match.solver import Rows
from ratematch.plan.deployment import ServerGroup
from ratematch.plan.load import Constraints
from ratematch.plan.memory import transfer_bytes, transfer_bytes_received
from ratematch.plan.model import Gpu, Model
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.transfer import TransferCosts, TransferWork

TransferWorkOf = Callable[[ServerGroup, ServerGroup, int], TransferWork | None]
"""ctx and gen servers and a prompt's tokens to what its KV transfer is made of; ``None`` where that is not known."""


def no_work(ctx: ServerGroup, gen: ServerGroup, isl: int) -> TransferWork | None:
    """Nothing is known of what transfers are made of."""
    return None


@dataclass(frozen=True)
class Links:
    """What KV transfers carry, and over what. ``kv_dtype``: format of the KV cache. ``isl``: prompt tokens, set
    workload by workload. ``work``: what the serving stack makes of a transfer, and ``costs``: what that costs a gen
    server, on one NVLink domain and beyond it; ``None`` where nothing is known."""

    model: Model
    gpu: Gpu
    kv_dtype: str
    isl: int = 0
    work: TransferWorkOf = no_work
    costs: TransferCosts | None = None

    def posting_s(self, pair: Pair, gpus: int, piece_s: float | None = None) -> float:
        """Seconds that a gen instance of ``pair`` posts a request's transfer and does nothing else; 0 where that is
        not known. ``gpus``: of the deployment. ``piece_s``: instead of what a piece is believed to cost."""
        if self.costs is None:
            return 0.0
        work = self.work(pair.ctx.servers, pair.gen.servers, self.isl)
        if work is None:
            return 0.0
        costs = self.costs if piece_s is None else replace(self.costs, piece_s=piece_s)
        return costs.post_s(work, near=gpus <= self.gpu.nvlink_domain)

    def b_s(self, gpus: int) -> float:
        """Bytes/s of one GPU towards another instance: NVLink while the whole deployment is in one domain."""
        return self.gpu.nvlink_b_s if gpus <= self.gpu.nvlink_domain else self.gpu.network_b_s

    def at_isl(self, isl: int) -> Links:
        """The same links, with prompts of ``isl`` tokens."""
        return replace(self, isl=isl)


def egress_b_s(links: Links, req_s: float, ctx: Parallelism, mtp: int) -> float:
    """Bytes/s that each GPU of a ctx instance sends at ``req_s`` requests/s of that instance."""
    return req_s * transfer_bytes(links.model, links.isl, links.kv_dtype, mtp) / ctx.gpus


def ingress_b_s(links: Links, req_s: float, gen: Parallelism, mtp: int) -> float:
    """Bytes/s that each GPU of a gen instance receives at ``req_s`` requests/s of that instance."""
    return req_s * transfer_bytes_received(links.model, gen, links.isl, links.kv_dtype, mtp) / gen.gpus


def kv_transfer_s(links: Links, ctx: Parallelism, gen: Parallelism, mtp: int, gpus: int) -> float:
    """Shortest time of one request's KV transfer: its bytes over the links that carry it, s. Latency is not in it.

    Links: of the side with fewer senders or receivers. Attention DP keeps a request on one GPU.
    """
    sent = transfer_bytes(links.model, links.isl, links.kv_dtype, mtp)
    received = transfer_bytes_received(links.model, gen, links.isl, links.kv_dtype, mtp)
    senders, receivers = (1 if side.attention_dp else side.tp * side.pp for side in (ctx, gen))
    return max(sent / senders, received / receivers) / links.b_s(gpus)


def feasible_rows(
    rows: Rows, pairs: Sequence[Pair], links: Links | None, segment_gpus: int | None
) -> tuple[Bools, list[str]]:
    """Which rows the machines can carry, and why others are left out, in words.

    ``links``: ``None`` when model or GPU are not known; transfers are then not judged. ``segment_gpus``: most GPUs of
    one instance.
    """
    kept = np.ones(rows.size, dtype=np.bool_)
    notes: list[str] = []
    for number, pair in enumerate(pairs):
        own = rows.pair == number
        if not own.any():
            continue
        name = f"{pair.ctx.label} + {pair.gen.label}"
        for role, gpus in (("ctx", pair.ctx.rates.gpus), ("gen", pair.gen.rates.gpus)):
            if segment_gpus is not None and gpus > segment_gpus:
                kept &= ~own
                notes.append(f"{name}: a {role} instance of {gpus} GPUs exceeds one segment")
        if links is None:
            continue
        for what, needed, has in _needed_b_s(rows, pair, links):
            over = own & kept & (needed > has)
            if over.any():
                kept &= ~over
                notes.append(
                    f"{name}: {int(over.sum())} rows need up to {needed[over].max() / 1e9:.3g} GB/s {what}, more "
                    f"than the {has[over].max() / 1e9:.3g} GB/s of a link"
                )
    return kept, list(dict.fromkeys(notes))


def _needed_b_s(rows: Rows, pair: Pair, links: Links) -> list[tuple[str, Floats, Floats]]:
    """(what, bytes/s needed of one GPU, bytes/s that it has) for every row, were it of this pair."""
    mtp, gpu = pair.gen.servers.mtp, links.gpu
    has = np.where(rows.gpus <= gpu.nvlink_domain, gpu.nvlink_b_s, gpu.network_b_s)
    out = egress_b_s(links, 1.0, pair.ctx.servers.mapping, mtp) * rows.req_s / rows.x
    into = ingress_b_s(links, 1.0, pair.gen.servers.mapping, mtp) * rows.req_s / rows.y
    return [("egress of a ctx GPU", out, has), ("ingress of a gen GPU", into, has)]


def add_transfer(
    pairs: Iterable[Pair], links: Links, max_gpus: int, constraints: Constraints
) -> tuple[list[Pair], list[str]]:
    """Pairs with the KV transfer as their handover, so that it is inside TTFT; and notes on what no longer fits.

    It is the time of one request alone on its links, those of the largest deployment allowed, and its posting. ctx
    capacities whose TTFT with it is over the limit are left out, and pairs without any.
    """
    carried: list[Pair] = []
    notes: list[str] = []
    for pair in pairs:
        ctx, gen = pair.ctx, pair.gen.servers
        moved_s = kv_transfer_s(links, ctx.servers.mapping, gen.mapping, gen.mtp, max_gpus)
        posted_s = links.posting_s(pair, max_gpus)
        seconds = moved_s + posted_s
        limit_ms = own_limit_ms(constraints, len(ctx.rates.curve.loads))
        kept = [
            k
            for k, ttft_s in enumerate(ctx.ttft_limit_s)
            if limit_ms is None or (ttft_s + seconds) * 1000 <= limit_ms
        ]
        if not kept:
            name = f"{ctx.label} + {pair.gen.label}"
            notes.append(f"{name}: over the TTFT limit with {seconds * 1000:.3g} ms of KV transfer")
            continue
        rates = replace(ctx.rates, capacities=tuple(ctx.rates.capacities[k] for k in kept))
        option = replace(
            ctx,
            rates=rates,
            noise=tuple(ctx.noise[k] for k in kept),
            ttft_limit_s=tuple(ctx.ttft_limit_s[k] for k in kept),
        )
        kept_pair = replace(pair, ctx=option if len(kept) < len(ctx.ttft_limit_s) else ctx, handover_s=moved_s)
        carried.append(with_posting(kept_pair, posted_s))
    return carried, notes

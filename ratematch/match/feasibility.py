"""What a deployment needs of memory and links, and whether the machines have it.

Bandwidths are averages over time at the planned rate; a single transfer's time is :func:`kv_transfer_s`. Formulas:
egress per ctx GPU = R_c x ISL x b / G_c, ingress per gen GPU = d x R_g x ISL x b / G_g, with b the KV bytes of a
token and d how often each is stored in a gen instance (replicated under tensor parallelism).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ratematch.match.packing import Packing
from ratematch.match.predict import Pair
from ratematch.match.solver import Bools, Rows
from ratematch.plan.mapping import Mapping
from ratematch.plan.memory import kv_bytes_held, transfer_bytes, transfer_bytes_received
from ratematch.plan.model import Gpu, Model


@dataclass(frozen=True)
class Site:
    """The machines and the model, as far as a plan must fit them.

    ``packing``: nodes. ``segment_gpus``: most GPUs of one instance (NVLink domain, Slurm segment; ``None``: any).
    ``kv_dtype``: format of the KV cache. ``isl``: prompt tokens, set workload by workload.
    """

    model: Model
    gpu: Gpu
    kv_dtype: str
    isl: int = 0
    packing: Packing | None = None
    segment_gpus: int | None = None

    def link_b_s(self, gpus: int) -> float:
        """Bytes/s of one GPU towards another instance: NVLink while the whole deployment is in one domain."""
        return self.gpu.nvlink_b_s if gpus <= self.gpu.nvlink_domain else self.gpu.network_b_s


def egress_b_s(site: Site, req_s: float, ctx: Mapping, mtp: int) -> float:
    """Bytes/s that each GPU of a ctx instance sends at ``req_s`` requests/s of that instance."""
    return req_s * transfer_bytes(site.model, site.isl, site.kv_dtype, mtp) / ctx.gpus


def ingress_b_s(site: Site, req_s: float, gen: Mapping, mtp: int) -> float:
    """Bytes/s that each GPU of a gen instance receives at ``req_s`` requests/s of that instance."""
    return req_s * transfer_bytes_received(site.model, gen, site.isl, site.kv_dtype, mtp) / gen.gpus


def kv_transfer_s(site: Site, ctx: Mapping, gen: Mapping, mtp: int, gpus: int) -> float:
    """Shortest time of one request's KV transfer: its bytes over the links that carry it, s. Latency is not in it.

    Links: of the side with fewer senders or receivers. Attention DP keeps a request on one GPU.
    """
    sent = transfer_bytes(site.model, site.isl, site.kv_dtype, mtp)
    received = transfer_bytes_received(site.model, gen, site.isl, site.kv_dtype, mtp)
    senders, receivers = (1 if side.attention_dp else side.tp * side.pp for side in (ctx, gen))
    return max(sent / senders, received / receivers) / site.link_b_s(gpus)


def feasible_rows(rows: Rows, pairs: Sequence[Pair], site: Site) -> tuple[Bools, list[str]]:
    """Which rows the site can carry, and why others are left out, in words."""
    kept = np.ones(rows.size, dtype=np.bool_)
    notes: list[str] = []
    for number, pair in enumerate(pairs):
        own = rows.pair == number
        if not own.any():
            continue
        name = f"{pair.ctx.group.mapping.label} + {pair.gen.group.mapping.label}"
        mtp = pair.gen.group.mtp
        for role, option in (("ctx", pair.ctx.group), ("gen", pair.gen.group)):
            if site.segment_gpus is not None and option.mapping.gpus > site.segment_gpus:
                kept &= ~own
                notes.append(f"{name}: a {role} instance of {option.mapping.gpus} GPUs exceeds one segment")
        links = np.where(rows.gpus <= site.gpu.nvlink_domain, site.gpu.nvlink_b_s, site.gpu.network_b_s)
        out = egress_b_s(site, 1.0, pair.ctx.group.mapping, mtp) * rows.req_s / rows.x
        into = ingress_b_s(site, 1.0, pair.gen.group.mapping, mtp) * rows.req_s / rows.y
        for what, needed in (("egress of a ctx GPU", out), ("ingress of a gen GPU", into)):
            over = own & kept & (needed > links)
            if over.any():
                kept &= ~over
                notes.append(
                    f"{name}: {int(over.sum())} rows need up to {needed[over].max() / 1e9:.3g} GB/s {what}, more "
                    f"than the {links[over].max() / 1e9:.3g} GB/s of a link"
                )
    return kept, list(dict.fromkeys(notes))


def gen_kv_bytes(site: Site, pair: Pair, load: float, osl: float) -> float:
    """KV bytes on each GPU of a gen instance that holds ``load`` requests until their last token."""
    group = pair.gen.group
    return kv_bytes_held(site.model, group.mapping, site.kv_dtype, load, site.isl + osl + group.mtp, group.mtp)

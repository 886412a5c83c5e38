"""Where the time of a request goes, from the servers' own timing records (``/perf_metrics``, contract, section 5.2).

A disaggregated request: orchestrator -> ctx queue -> prefill -> handover -> KV transfer and gen queue -> decode.
"""

from __future__ import annotations

from dataclasses import dataclass

from ratematch.measure.servermetrics import StageTimes


@dataclass(frozen=True)
class Breakdown:
    """Mean seconds of the stages of ``num`` requests.

    ``ctx_queue``: arrival to first scheduled, ``prefill``: to the first token, both in the ctx server.
    ``kv_transfer``: its own start to end. ``gen_queue``: from the gen server's arrival to its first scheduling, the
    transfer in between taken out. ``decode``: first to last token in the gen server, and from scheduling to the first
    token there. ``dispatch``: orchestrator arrival to ctx arrival, and ctx first token to gen arrival; 0 where nobody
    has it, and then a part of what the client sees beyond the servers.

    ``kv_posting``: share of the time in which gen servers posted KV transfers while their decode waited; it is
    within ``decode``. ``kv_descriptors``: pieces that the KV cache of a request was sent in, ``kv_b`` bytes in all.
    ``kv_post_s``: that a gen server posted one of them. ``None``: not reported.
    """

    num: int
    dispatch_s: float
    ctx_queue_s: float
    prefill_s: float
    kv_transfer_s: float
    gen_queue_s: float
    decode_s: float
    kv_posting: float | None = None
    kv_descriptors: float | None = None
    kv_b: float | None = None
    kv_post_s: float | None = None

    @staticmethod
    def of(stages: StageTimes) -> Breakdown:
        """From the sums of the servers' counters, which have no ``dispatch``."""
        return Breakdown(
            num=stages.num,
            dispatch_s=0.0,
            ctx_queue_s=stages.ctx_queue_s,
            prefill_s=stages.prefill_s,
            kv_transfer_s=stages.kv_transfer_s,
            gen_queue_s=stages.gen_queue_s,
            decode_s=stages.decode_s,
            kv_posting=stages.kv_posting,
            kv_descriptors=stages.kv_descriptors,
            kv_b=stages.kv_b,
            kv_post_s=stages.kv_post_s,
        )

    @property
    def total_s(self) -> float:
        return (
            self.dispatch_s
            + self.ctx_queue_s
            + self.prefill_s
            + self.kv_transfer_s
            + self.gen_queue_s
            + self.decode_s
        )

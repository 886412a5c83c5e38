"""What is asked of the servers: input and output lengths, and the requests made from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, order=True)
class Workload:
    """One ISL/OSL pair.

    ``isl``: prompt tokens, exact. ``osl``: longest output in tokens. ``osl_ratio`` r in (0, 1]: output lengths are
    uniform whole numbers in [ceil(r * osl), osl]; 1 means every output has exactly ``osl`` tokens. A spread keeps
    closed-loop requests from ending in step (convoys).
    """

    isl: int
    osl: int
    osl_ratio: float = 1.0

    @property
    def osl_min(self) -> int:
        return max(1, int(np.ceil(self.osl_ratio * self.osl)))

    @property
    def mean_osl(self) -> float:
        """E[OSL] in tokens: the middle of the uniform range."""
        return (self.osl_min + self.osl) / 2

    @property
    def label(self) -> str:
        return f"{self.isl}/{self.osl}" + (f"~{self.osl_ratio:g}" if self.osl_ratio < 1 else "")


@dataclass(frozen=True)
class RequestSpec:
    """One request to send: prompt as token ids (int array of length isl) and output length in tokens."""

    seq: int
    prompt: NDArray[np.int32]
    osl: int


def draw_lengths(workload: Workload, num_requests: int, seed: int) -> list[int]:
    """Output lengths of ``num_requests`` requests, reproducible from ``seed``."""
    rng = np.random.default_rng((seed, 1))
    lengths: list[int] = rng.integers(workload.osl_min, workload.osl, size=num_requests, endpoint=True).tolist()
    return lengths


def make_requests(
    workload: Workload, num_requests: int, vocab_size: int, seed: int, first_seq: int = 0
) -> list[RequestSpec]:
    """``num_requests`` requests of exactly ``workload.isl`` random token ids, reproducible from ``seed``.

    Ids are drawn from [100, vocab_size) to stay clear of special tokens, which sit at the bottom of most
    vocabularies. The first ids of every prompt hold its own number, so that no two prompts share a KV block by
    accident (block reuse would then make prefill look faster than it is).
    """
    low = min(100, vocab_size // 2)
    rng = np.random.default_rng(seed)
    prompts = rng.integers(low, vocab_size, size=(num_requests, workload.isl), dtype=np.int32)
    lengths = draw_lengths(workload, num_requests, seed)
    span = vocab_size - low
    numbers = np.arange(first_seq, first_seq + num_requests)
    salt = min(workload.isl, 3)
    for place in range(salt):
        prompts[:, place] = low + (numbers // span**place) % span
    return [RequestSpec(first_seq + k, prompts[k], lengths[k]) for k in range(num_requests)]

"""What one sending process has to do: its requests, encoded, and when each is due.

Several processes that are given the same load, requests and seed each take their share (:class:`Shard`): together
they send the schedule that one would have sent, each request once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ratematch.errors import UserError
from ratematch.plan.load import Concurrency, Load, Rate, Trace, due_times_s
from ratematch.plan.workload import RequestSpec

Chain = list[tuple[RequestSpec, bytes]]
"""Requests that are sent one after another: one, or the turns of a conversation."""


LONGEST_S = 366 * 86400.0
"""Seconds after which no request of a load is due that anybody means; instants are counted in 64 bits of ns."""


@dataclass(frozen=True)
class Shard:
    """The ``index``-th (from 0) of ``count`` senders."""

    index: int
    count: int


@dataclass(frozen=True)
class Share:
    """What one sending process sends of a schedule, and when it begins.

    ``wait_start`` is called when the warm-up is through and returns the instant to start at (ns, this machine's
    monotonic clock); ``None``: at once.
    """

    shard: Shard
    wait_start: Callable[[], int] | None = None


ALONE = Share(Shard(0, 1))


@dataclass(frozen=True)
class Part:
    """One sender's share of a load. Offsets count from the start, in ns.

    ``slot_offsets_ns``: closed loop, when each slot begins. ``due_ns``: open loop, when each chain is due. ``total``:
    requests to be sent, 0 where only their end tells.
    """

    load: Load
    chains: Iterator[Chain]
    total: int
    slot_offsets_ns: Sequence[int] = ()
    due_ns: Sequence[int] = ()
    max_in_flight: int = 0
    most_sockets: int = 0


def take_part(
    load: Load, requests: Iterable[RequestSpec], encode: Callable[[RequestSpec], bytes], seed: int, shard: Shard
) -> Part:
    """The share of ``shard``: every ``count``-th conversation or request, and its share of the slots.

    Raises:
        ValueError: concurrency, rate or speed is not positive.
        UserError: requests are due in another year.
    """
    pushed = (
        load.concurrency if isinstance(load, Concurrency) else load.req_s if isinstance(load, Rate) else load.speed
    )
    if pushed <= 0:
        raise ValueError(f"{load.label}: concurrency, rate and speed must be positive")
    if not isinstance(requests, Sequence):
        chains = islice(_chain_neighbours(requests), shard.index, None, shard.count)
        encoded = ([(spec, encode(spec)) for spec in chain] for chain in chains)
        return _closed(load, encoded, 0, shard)
    grouped = _chain_all(requests, by_the_clock=isinstance(load, Trace))
    own = [[(spec, encode(spec)) for spec in chain] for chain in grouped[shard.index :: shard.count]]
    total = sum(len(chain) for chain in own)
    if isinstance(load, Concurrency):
        return _closed(load, iter(own), total, shard)
    if not own:
        return Part(load, iter(()), 0)
    due_s = _due_s(load, grouped, seed)[shard.index :: shard.count]
    if due_s.max() > LONGEST_S:
        raise UserError(f"{load.label}: its last request would be due after {due_s.max() / 86400:.3g} days")
    most = load.max_in_flight and _share(load.max_in_flight, shard)
    return Part(
        load,
        iter(own),
        total,
        due_ns=np.round(due_s * 1e9).astype(np.int64).tolist(),
        max_in_flight=most,
        most_sockets=most or total,
    )


def _closed(load: Load, chains: Iterator[Chain], total: int, shard: Shard) -> Part:
    if not isinstance(load, Concurrency):
        raise ValueError(f"{load.label}: requests without end need a closed loop")
    most = _share(load.concurrency, shard)
    slots = min(most, total) if total else most
    gap_ns = load.stagger_s * 1e9 / load.concurrency
    offsets = [round((k * shard.count + shard.index) * gap_ns) for k in range(slots)]
    return Part(load, chains, total, slot_offsets_ns=offsets, most_sockets=most)


def _share(number: int, shard: Shard) -> int:
    return number // shard.count + (shard.index < number % shard.count)


def _due_s(load: Rate | Trace, chains: Sequence[Sequence[RequestSpec]], seed: int) -> NDArray[np.float64]:
    if isinstance(load, Rate):
        return due_times_s(replace(load, num_requests=len(chains)), seed)
    return np.array([chain[0].due_s or 0.0 for chain in chains], dtype=np.float64) / load.speed


def _chain_all(requests: Sequence[RequestSpec], by_the_clock: bool = False) -> list[list[RequestSpec]]:
    """Requests of one session together, in the order of their first ones. ``by_the_clock``: a turn that has an
    instant of its own is sent then, and waits for no other."""
    chains: dict[tuple[str, int], list[RequestSpec]] = {}
    newest: dict[int, tuple[str, int]] = {}
    for spec in requests:
        if spec.session is None:
            key = ("request", spec.seq)
        elif by_the_clock and spec.due_s is not None:
            key = newest[spec.session] = ("request", spec.seq)
        else:
            key = newest.setdefault(spec.session, ("session", spec.session))
        chains.setdefault(key, []).append(spec)
    return list(chains.values())


def _chain_neighbours(requests: Iterable[RequestSpec]) -> Iterator[list[RequestSpec]]:
    chain: list[RequestSpec] = []
    for spec in requests:
        if chain and (spec.session is None or spec.session != chain[-1].session):
            yield chain
            chain = []
        chain.append(spec)
    if chain:
        yield chain

"""What passes between the compiled loop and Python: limits of servers in, step times on demand, records out.

The loop holds all of the simulation's state: clock, queues, sequences. Python is asked for one thing meanwhile, how
long a step takes, so there is one step-time model and any will do.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import NewType

import numpy as np
from numpy.typing import NDArray

from ratematch.emulator.admission import EngineFailure
from ratematch.emulator.errors import TransferError
from ratematch.emulator.iteration import Kind
from ratematch.emulator.steptime import RankLoad, RooflineStepTime, StepBatch
from ratematch.emulator.trtllm.routers import LoadBalancing, RoundRobin, Router
from ratematch.emulator.trtllm.transfer import KvSource, check_layout
from ratematch.emulator.waitqueue import gate_message
from ratematch.errors import RunError
from ratematch.measure.records import RequestRecord
from ratematch.simulate.phase import PhaseResult, Reply, Schedule, fill_record
from ratematch.simulate.service import Service, Worker

Library = NewType("Library", ctypes.CDLL)

_FIELDS = 8
"""Numbers of a load: those of :class:`RankLoad`, and how many ranks have it."""
_BLOCK = 256
"""Requests drawn at once for a load that lasts for a time."""
_STARVED, _GATE_STUCK = 1, 2
_WHOLE, _REFUSED_BY_CTX, _REFUSED_BY_GEN, _KV_GONE = range(1, 5)
_ROW = 12

_I64 = ctypes.c_int64
_F64 = ctypes.c_double
_STEP_TIME = ctypes.CFUNCTYPE(_F64, _I64, _I64, ctypes.POINTER(_I64))
_MORE = ctypes.CFUNCTYPE(_I64)


class _Limits(ctypes.Structure):
    """``Limits`` of ``scheduler.h``, in its order."""

    _fields_ = [
        *((name, _I64) for name in ("ranks", "slots", "token_budget", "kv_blocks", "block", "mtp", "max_num_tokens")),
        *((name, _I64) for name in ("cp", "max_seq_len", "chunked", "chunk_unit", "balance", "timeout_iters")),
        *((name, _I64) for name in ("wait_iters", "gathering", "gate", "interval", "limit", "forced")),
        *((name, _F64) for name in ("timeout_s", "mean", "forced_drafts", "tokens_ratio")),
        ("rising", _F64 * 16),
        ("next_double", ctypes.c_void_p),
        ("random", ctypes.c_void_p),
    ]


def declare(library: ctypes.CDLL) -> Library:
    """``library`` with the types of its functions."""
    pointer = ctypes.c_void_p
    library.simulation_new.restype = pointer
    library.simulation_new.argtypes = [_I64, pointer, pointer, pointer, _STEP_TIME]
    library.simulation_free.argtypes = [pointer]
    library.simulation_free.restype = None
    library.simulation_run.restype = ctypes.c_int
    library.simulation_run.argtypes = [pointer, pointer, pointer, _I64, _MORE, _I64, _F64, _F64, pointer, _I64, _I64]
    for name in ("simulation_counts", "simulation_read"):
        getattr(library, name).argtypes = [pointer, pointer, pointer]
        getattr(library, name).restype = None
    library.simulation_server.argtypes = [pointer, _I64, pointer, pointer]
    library.simulation_server.restype = None
    return Library(library)


def why_not_compiled(service: Service) -> str | None:
    """What of a deployment only the plain loop knows; ``None``: nothing."""
    for router in (router for front in service.fronts for router in front.routers.values()):
        if not isinstance(router, (RoundRobin, LoadBalancing)):
            return f"the router {type(router).__name__}"
    workers = list(service.workers.values())
    if any(worker.server.scheduler.config.mtp > 16 for worker in workers):
        return "more than 16 drafts"
    if service.orchestrator is None:
        return None
    gens = [service.workers[url] for url in service.orchestrator.gen.urls]
    if len({gen.emulation.transfer_s(tokens) for gen in gens for tokens in (1 << 20,)}) > 1:
        return "generation servers whose KV transfers take different times"
    try:
        for ctx in (service.workers[url] for url in service.orchestrator.ctx.urls):
            for gen in gens:
                check_layout(KvSource(ctx.server.name, 0, 1, ctx.layout), gen.layout)
    except TransferError:
        return "context and generation servers that do not agree"
    return None


class CompiledLoop:
    """The loads of one :class:`Service`, run by ``library``. Counters of its servers and its clock are kept as the
    plain loop would, at the end of every load; what is inside its schedulers is not."""

    def __init__(self, library: Library, service: Service):
        self._library = library
        self._timeline = service.timeline
        self._orchestrator = orchestrator = service.orchestrator
        self._failures: list[BaseException] = []
        urls = [*orchestrator.ctx.urls, *orchestrator.gen.urls] if orchestrator else list(service.workers)[:1]
        self._workers = [service.workers[url] for url in urls]
        self._step_time = _answer_for_steps(self._workers, self._failures)  # C holds no reference to it
        limits = (_Limits * len(self._workers))(*map(_limits, self._workers))
        shape, delays = np.array(_shape(service), dtype=np.int64), service.delays
        numbers = np.array([delays.hop_s, delays.request_s, delays.token_s, delays.serving_s, service.timeline.now_s])
        self._simulation = ctypes.c_void_p(
            library.simulation_new(len(limits), limits, shape.ctypes.data, numbers.ctypes.data, self._step_time)
        )

    def __del__(self) -> None:
        if simulation := getattr(self, "_simulation", None):
            self._library.simulation_free(simulation)

    def run(self, schedule: Schedule) -> PhaseResult:
        """Run one phase of a load to its end.

        Raises:
            RunError: the servers can never answer. EngineFailure: a fill gate can never open.
        """
        size = _BLOCK if schedule.endless else schedule.count
        lengths, transfers = np.zeros((size, 2), dtype=np.int64), np.zeros(size)
        source = iter(schedule.lengths)

        def more() -> int:
            try:
                return self._draw(source, lengths, transfers)
            except BaseException as error:
                self._failures.append(error)
                return 0

        due_s = np.array(schedule.due_s, dtype=float)
        count = self._draw(source, lengths, transfers)
        with _uncollected():
            ended = self._library.simulation_run(
                self._simulation,
                lengths.ctypes.data,
                transfers.ctypes.data,
                count,
                _MORE(more) if schedule.endless else _MORE(),
                schedule.slots,
                schedule.seconds,
                schedule.stagger_s,
                due_s.ctypes.data if schedule.open_loop else None,
                due_s.size,
                schedule.most_in_flight,
            )
            if self._failures:
                raise self._failures[0]
            return self._result(ended, schedule)

    # ------------------------------------------------------------------------------------------------ inside

    def _result(self, ended: int, schedule: Schedule) -> PhaseResult:
        counts, now_s = np.zeros(6, dtype=np.int64), _F64()
        self._library.simulation_counts(self._simulation, counts.ctypes.data, ctypes.byref(now_s))
        sent, most, chunks, stuck, waiting, done = counts.tolist()
        if ended == _GATE_STUCK:
            raise EngineFailure(gate_message(waiting, self._workers[stuck].server.scheduler.config.fill_gate or 0))
        if ended == _STARVED:
            raise RunError(f"{schedule.label}: {sent - done} requests would never be answered")
        self._note(now_s.value)
        rows, instants = np.zeros((sent, _ROW), dtype=np.int64), np.zeros(chunks, dtype=np.int64)
        self._library.simulation_read(self._simulation, rows.ctypes.data, instants.ctypes.data)
        every = instants.tolist()
        records = [self._record(seq, row, every) for seq, row in enumerate(rows.tolist(), schedule.first_seq)]
        return PhaseResult(records, most)

    def _draw(
        self, source: Iterator[tuple[int, int]], lengths: NDArray[np.int64], transfers: NDArray[np.float64]
    ) -> int:
        """Write the next requests to ``lengths`` and ``transfers``; how many."""
        drawn = list(islice(source, transfers.size))
        if drawn:
            lengths[: len(drawn)] = drawn
        worker = self._workers[-1]
        known: dict[int, float] = {}
        for place, (isl, _) in enumerate(drawn):
            if isl not in known:
                known[isl] = worker.emulation.transfer_s(isl)
            transfers[place] = known[isl]
        return len(drawn)

    def _note(self, now_s: float) -> None:
        """Keep clock and counters where those of the plain loop are."""
        self._timeline.now_s = now_s
        counts, busy_s = np.zeros(5, dtype=np.int64), _F64()
        for index, worker in enumerate(self._workers):
            self._library.simulation_server(self._simulation, index, counts.ctypes.data, ctypes.byref(busy_s))
            scheduler = worker.server.scheduler
            scheduler.iter, scheduler.num_completed, scheduler.num_cancelled = counts[:3].tolist()
            scheduler.accepted_tokens, scheduler.draft_tokens = counts[3:].tolist()
            worker.server.busy_s = busy_s.value

    def _record(self, seq: int, row: list[int], instants: list[int]) -> RequestRecord:
        intended, sent, end, isl, osl, outcome, tokens, iterations, start, count, _, _ = row
        if outcome != _WHOLE:
            return self._failed(seq, row)
        mine, per_iter = instants[start : start + count], round(tokens / iterations, 4)
        return RequestRecord(
            seq,
            intended,
            sent,
            mine[0],
            mine[-1],
            end,
            mine,
            isl,
            isl,
            osl,
            tokens,
            0,
            "length",
            "ok",
            200,
            None,
            per_iter,
        )

    def _failed(self, seq: int, row: list[int]) -> RequestRecord:
        intended, sent_ns, end, isl, osl, outcome, _, _, _, _, server, ctx_id = row
        record = RequestRecord(seq, intended, sent_ns, isl=isl, osl_requested=osl)
        if outcome == _KV_GONE:
            reply = Reply(0.0, status=200, error=f"KV cache of request {ctx_id} is no longer held")
        else:
            worker, orchestrator = self._workers[server], self._orchestrator
            whole = orchestrator is None or (bool(orchestrator.ctx.urls) and not ctx_id)
            kind: Kind = "full" if whole else "generation_only"
            if outcome == _REFUSED_BY_CTX:
                kind = "context_only"
            why = worker.server.scheduler.refusal(worker.sequence(isl, osl, kind))
            error = f"Internal server error {why}" if kind == "context_only" else why
            reply = Reply(0.0, status=400 if orchestrator is None else 500, error=error)
        fill_record(record, reply)
        record.end_ns = end
        return record


def _shape(service: Service) -> list[int]:
    """Orchestrated? Longest prompt without a context server, first and number of servers of either role,
    orchestrators; and of each what its routers do, whose turn it is, and in which order they know their servers."""
    orchestrator = service.orchestrator
    if orchestrator is None:
        return [0, -1, 0, 0, 0, 1, 0]
    most, ctx, gen = orchestrator.max_local_prefill, orchestrator.ctx, orchestrator.gen
    first = len(ctx.urls)
    servers = [0, first, first, len(gen.urls)]
    fronts = [
        [
            *(number for role in (ctx, gen) for number in _turn(front.routers.get(role.role))),
            *(place for role in (ctx, gen) for place in front.orders.get(role.role, ())),
        ]
        for front in service.fronts
    ]
    return [1, -1 if most is None else most, *servers, len(fronts), *chain.from_iterable(fronts)]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection within: there are thousands of new objects and nothing to collect."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _turn(router: Router | None) -> tuple[int, int]:
    """How a router chooses, and whose turn it is."""
    if isinstance(router, LoadBalancing):
        return 2 if router.use_tokens else 1, 0
    return 0, router.turn if isinstance(router, RoundRobin) else 0


def _limits(worker: Worker) -> _Limits:
    """What the loop has to know of a server."""
    scheduler, timeout_s = worker.server.scheduler, worker.settings.transfer_timeout_s
    config, acceptance = scheduler.config, scheduler.acceptance
    balance, gate = config.balance, config.fill_gate
    gathering = config.gathering if config.mapping.dp_ranks == 1 else None
    random = acceptance.rng.bit_generator.ctypes
    rising = acceptance.rising.tolist()
    return _Limits(
        ranks=config.mapping.dp_ranks,
        slots=config.slots,
        token_budget=config.token_budget,
        kv_blocks=config.kv_blocks,
        block=config.tokens_per_block,
        mtp=config.mtp,
        max_num_tokens=config.max_num_tokens,
        cp=config.mapping.cp,
        max_seq_len=config.max_seq_len,
        chunked=config.chunked_prefill,
        chunk_unit=config.chunk_unit or config.tokens_per_block,
        balance=balance is not None,
        timeout_iters=gathering.timeout_iters if gathering else balance.timeout_iters if balance else 0,
        wait_iters=balance.batching_wait_iters if balance else 0,
        gathering=gathering is not None,
        gate=-1 if gate is None else gate,
        interval=worker.settings.stream_interval,
        limit=worker.settings.max_seq_len,
        forced=acceptance.forced is not None,
        timeout_s=-1.0 if timeout_s is None else timeout_s,
        mean=acceptance.mean,
        forced_drafts=acceptance.forced or 0.0,
        tokens_ratio=gathering.tokens_ratio if gathering else 0.0,
        rising=(_F64 * 16)(*rising),
        next_double=ctypes.cast(random.next_double, ctypes.c_void_p),
        random=random.state_address,
    )


def _answer_for_steps(workers: list[Worker], failures: list[BaseException]) -> ctypes._CFunctionType:
    """What answers the loop; an error inside it is noted and ends the load."""
    clocks = [_clock(worker) for worker in workers]

    def step_time(server: int, kinds: int, loads: ctypes._Pointer[ctypes.c_int64]) -> float:
        try:
            return clocks[server](loads[: _FIELDS * kinds])
        except BaseException as error:
            failures.append(error)
            return math.nan

    return _STEP_TIME(step_time)


def _clock(worker: Worker) -> Callable[[list[int]], float]:
    """Seconds of a step of ``worker``, by its loads one after another."""
    step_time, overlap = worker.emulation.step_time, worker.server.scheduler.config.overlap
    merged = step_time.merged_seconds if isinstance(step_time, RooflineStepTime) else None
    load_of = RankLoad._make

    def seconds(numbers: list[int]) -> float:
        kinds = [(load_of(numbers[at : at + 7]), numbers[at + 7]) for at in range(0, len(numbers), _FIELDS)]
        if merged is not None:
            return merged(kinds, overlap)
        every = [load for load, ranks in kinds for _ in range(ranks)]
        return step_time.seconds(StepBatch(tuple(every)), overlap)

    return seconds

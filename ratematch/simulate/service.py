"""A whole deployment in virtual time: orchestrator, routers, context and generation servers, KV hand-over.

Schedulers are configured from the files that a launch would write, read by the emulator's own settings. HTTP is
replaced by fixed delays (:class:`ratematch.simulate.delays.Delays`). Not simulated: the orchestrator's processor time
for parsing requests, prefix reuse (a benchmark's prompts share nothing), and injected faults.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from ratematch.emulator.environment import read_environment
from ratematch.emulator.errors import SettingsError, TransferError
from ratematch.emulator.iteration import Kind, Sequence
from ratematch.emulator.scheduler import Emission
from ratematch.emulator.trtllm.assembly import Emulation, build
from ratematch.emulator.trtllm.orchestrator_settings import OrchestratorSettings, orchestrator_settings
from ratematch.emulator.trtllm.routers import RoleSettings, Routed, Router, build_router
from ratematch.emulator.trtllm.settings import WorkerSettings, worker_settings
from ratematch.emulator.trtllm.transfer import KvSource, check_layout
from ratematch.engines.ownyaml import read_own_yaml
from ratematch.engines.trtllm_serve.agreement import hand_over
from ratematch.errors import RunError
from ratematch.plan.launchplan import LaunchPlan, ProcessSpec
from ratematch.simulate.delays import Delays
from ratematch.simulate.phase import Loop, Reply
from ratematch.simulate.server import Server
from ratematch.simulate.timeline import Timeline

OnReply = Callable[[Reply], None]


@dataclass(slots=True)
class Door:
    """Where the requests to one process are read, one after another. ``free_s``: when the last one is."""

    free_s: float = 0.0


@dataclass(slots=True)
class Frontend:
    """An orchestrator: its routers by role, in which order each knows its servers, and where it reads requests."""

    routers: dict[str, Router]
    orders: dict[str, tuple[int, ...]]
    door: Door


class Worker:
    """A server with what its settings say of requests."""

    def __init__(self, name: str, settings: WorkerSettings, emulation: Emulation, gen_only: bool, timeline: Timeline):
        self.settings = settings
        self.gen_only = gen_only
        self.emulation = emulation
        self.server = Server(name, emulation.scheduler, timeline)
        self.layout = hand_over(settings.config, settings.version)
        self.door = Door()
        self._ids = itertools.count(1)

    def sequence(self, isl: int, osl: int, kind: Kind) -> Sequence:
        """What the server is given to run; it may refuse it."""
        wanted = min(self.settings.max_seq_len - isl, osl)
        return Sequence(next(self._ids), isl, 1 if kind == "context_only" else wanted, kind)


class Service:
    """Answers requests as the processes of ``plan`` would.

    ``frontends``: how many orchestrators stand side by side behind a proxy that takes them in turn, each with routers
    of its own that know nothing of the others' choices. Each knows the servers in an order of its own (Dynamo's
    frontends list what they discovered in the order of a hash map) and has sent some requests before: both are drawn.

    ``workers``: by ``host:port``; ``orchestrator``: its settings, if there is one; ``fronts``: the orchestrators.
    ``loop``: what runs its loads, from the first one on: the timeline's events, or
    :mod:`ratematch.simulate.compiled`.

    Raises:
        RunError: a server would not start.
    """

    def __init__(self, plan: LaunchPlan, timeline: Timeline, delays: Delays | None = None, frontends: int = 1):
        self.timeline = timeline
        self.delays = delays or Delays()
        self.steps = "roofline"
        self.loop: Loop | None = None
        files = {file.path: file.content for file in plan.files}
        self.workers: dict[str, Worker] = {}
        self.orchestrator: OrchestratorSettings | None = None
        for spec in plan.processes:
            try:
                self._add(spec, files)
            except (SettingsError, ValueError) as error:
                raise RunError(f"{spec.name} would not start: {error}") from error
        self._by_tokens: dict[int, Routed] = {}
        orchestrator = self.orchestrator
        self.fronts: list[Frontend] = []
        if orchestrator is not None:
            self.fronts = [self._front(orchestrator, place) for place in range(frontends)]
        self._turn = itertools.cycle(self.fronts)
        self._held: set[tuple[Worker, int]] = set()

    def _add(self, spec: ProcessSpec, files: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in spec.unset}
        environment = read_environment({**inherited, **dict(spec.env)})
        if spec.role == "orchestrator":
            config = read_own_yaml(files["orchestrator.yaml"])
            self.orchestrator = orchestrator_settings(config, environment, start_timeout_s=1, request_timeout_s=1)
            return
        config = read_own_yaml(files[f"{spec.role}.yaml"])
        path = spec.argv[spec.argv.index("serve") + 1]
        settings = worker_settings(
            path, {}, (), config, environment.version, environment.unchecked, environment.model
        )
        self.steps = environment.steps
        address = f"{spec.host}:{spec.port}"
        emulation = build(settings, environment)
        self.workers[address] = Worker(spec.name, settings, emulation, environment.gen_only, self.timeline)

    def _front(self, settings: OrchestratorSettings, place: int) -> Frontend:
        """An orchestrator's own routers. The first knows the servers in the order of its file."""
        roles = [role for role in (settings.ctx, settings.gen) if role.urls]
        routers = {role.role: build_router(role) for role in roles}
        orders = {role.role: tuple(range(len(role.urls))) for role in roles}
        random = np.random.default_rng(place)
        for role in roles if place else []:
            router, seen = routers[role.role], self._routed(role, 1)
            for _ in range(int(random.integers(len(role.urls)))):
                router.finish(router.choose(seen), seen)
            orders[role.role] = tuple(random.permutation(len(role.urls)).tolist())
        return Frontend(routers, orders, Door())

    @property
    def servers(self) -> tuple[Server, ...]:
        return tuple(worker.server for worker in self.workers.values())

    @property
    def emulations(self) -> dict[str, Emulation]:
        """The inside of one server of each role: ``ctx``, ``gen``, ``agg``."""
        return {worker.server.name.rsplit("-", 1)[0]: worker.emulation for worker in self.workers.values()}

    @property
    def acceptance(self) -> tuple[int, int]:
        """Drafts accepted so far, and how often a sequence drafted."""
        accepted = drafted = 0
        for worker in self.workers.values():
            if worker.settings.mtp:
                accepted += worker.server.scheduler.accepted_tokens
                drafted += worker.server.scheduler.draft_tokens // worker.settings.mtp
        return accepted, drafted

    # ------------------------------------------------------------------------------------------------ requests

    def send(self, isl: int, osl: int, on_reply: OnReply) -> None:
        """Send a request now; ``on_reply`` is called when the client has all of the reply."""
        if self.orchestrator is None:
            worker = next(iter(self.workers.values()))
            begin = partial(self._generate, worker, isl, osl, "full", None, 1, on_reply)
            self._enter(worker.door, isl, begin, self.delays.serving_s)
        else:
            front = next(self._turn)
            self._enter(front.door, isl, partial(self._forward, front, isl, osl, on_reply), self.delays.serving_s)

    def _enter(self, door: Door, isl: int, event: Callable[[], None], more_s: float = 0.0) -> None:
        """Send a request of ``isl`` prompt tokens to a process; ``event`` ``more_s`` after it has been read there."""
        delays = self.delays
        begin_s = max(self.timeline.now_s + delays.hop_s, door.free_s)
        door.free_s = begin_s + delays.request_s + isl * delays.token_s
        self.timeline.at(door.free_s + more_s, event)

    def _after(self, hops: int, event: Callable[[], None]) -> None:
        self.timeline.at(self.timeline.now_s + hops * self.delays.hop_s, event)

    def _fail(self, hops: int, status: int, error: str, on_reply: OnReply) -> None:
        end_s = self.timeline.now_s + hops * self.delays.hop_s
        self._after(hops, lambda: on_reply(Reply(end_s, status=status, error=error)))

    def _forward(self, front: Frontend, isl: int, osl: int, on_reply: OnReply) -> None:
        """The orchestrator's way: context first."""
        settings = self.orchestrator
        assert settings is not None
        if not settings.ctx.urls:  # the context is invented
            self._to_generation(front, isl, osl, "generation_only", None, on_reply)
            return
        if settings.max_local_prefill is not None and isl <= settings.max_local_prefill:
            self._to_generation(front, isl, osl, "full", None, on_reply)
            return
        worker, done = self._pick(front, settings.ctx, isl)

        def compute() -> None:
            try:
                worker.server.submit(worker.sequence(isl, osl, "context_only"), finished)
            except ValueError as error:
                done()
                self._fail(2, 500, f"Internal server error {error}", on_reply)

        def finished(emission: Emission) -> None:
            key = (worker, emission.seq.id)
            self._held.add(key)
            timeout_s = worker.settings.transfer_timeout_s
            if timeout_s is not None:
                self.timeline.at(self.timeline.now_s + timeout_s, lambda: self._release(key))
            self._after(1, lambda: answered(key))

        def answered(key: tuple[Worker, int]) -> None:
            done()
            self._to_generation(front, isl, osl, "generation_only", key, on_reply)

        self._enter(worker.door, isl, compute)

    def _to_generation(
        self, front: Frontend, isl: int, osl: int, kind: Kind, source: tuple[Worker, int] | None, on_reply: OnReply
    ) -> None:
        assert self.orchestrator is not None
        worker, done = self._pick(front, self.orchestrator.gen, isl)

        def answered(reply: Reply) -> None:
            done()
            on_reply(reply)

        self._enter(worker.door, isl, lambda: self._generate(worker, isl, osl, kind, source, 2, answered))

    def _pick(self, front: Frontend, role: RoleSettings, isl: int) -> tuple[Worker, Callable[[], None]]:
        router = front.routers[role.role]
        routed = self._routed(role, isl)
        index = router.choose(routed)
        url = role.urls[front.orders[role.role][index]]
        return self.workers[url], lambda: router.finish(index, routed)

    def _routed(self, role: RoleSettings, isl: int) -> Routed:
        """What routers see. Prompts share no block, so those that compare prompts see none; one may weigh them."""
        if role.router != "load_balancing":
            return Routed()
        return self._by_tokens.setdefault(isl, Routed(prompt_ids=(0,) * isl))

    def _generate(
        self,
        worker: Worker,
        isl: int,
        osl: int,
        kind: Kind,
        source: tuple[Worker, int] | None,
        hops: int,
        on_reply: OnReply,
    ) -> None:
        """A request at the server that streams its tokens back over ``hops``."""
        sequence = worker.sequence(isl, osl, kind)
        first_s = 0.0

        def progress(emission: Emission) -> None:
            nonlocal first_s
            now_s = self.timeline.now_s
            if emission.first:
                first_s = now_s
            if not emission.finished:
                return
            chunks_s = self._chunks(worker, sequence, first_s) + hops * self.delays.hop_s
            steps = 0 if sequence.gains is None else sequence.gains.size
            reply = Reply(now_s + hops * self.delays.hop_s, chunks_s, sequence.max_tokens, 1 + steps)
            self._after(hops, lambda: on_reply(reply))

        def admitted() -> None:
            assert source is not None
            if source not in self._held:
                worker.server.cancel(sequence.id)
                self._fail(hops, 200, f"KV cache of request {source[1]} is no longer held", on_reply)
                return
            self._held.discard(source)
            ctx = source[0].server
            self.timeline.at(self.timeline.now_s + sequence.transfer_s, lambda: ctx.release(source[1]))

        try:
            if source is not None:
                check_layout(KvSource(source[0].server.name, source[1], isl, source[0].layout), worker.layout)
                sequence.transfer_s = worker.emulation.transfer_s(isl)
            worker.server.submit(sequence, progress, admitted if source is not None else None)
        except (ValueError, TransferError) as error:
            self._fail(hops, 400 if hops == 1 else 500, str(error), on_reply)

    def _release(self, key: tuple[Worker, int]) -> None:
        if key in self._held:
            self._held.discard(key)
            key[0].server.release(key[1])

    def _chunks(self, worker: Worker, sequence: Sequence, first_s: float) -> NDArray[np.float64]:
        """When the events of a stream are sent: with the first token, at every ``stream_interval``-th iteration of
        the request, and with the last. The prompt's is its first iteration, here or on a context server."""
        times = worker.server.token_times(sequence)
        full = sequence.kind == "full"
        sent = times[_due(times.size, worker.settings.stream_interval, not full)]
        return np.concatenate([[first_s], sent]) if full else sent


@lru_cache(maxsize=4096)
def _due(iterations: int, interval: int, first: bool) -> NDArray[np.int64]:
    """After which of its iterations an event of a stream is sent, counted from the one after the prompt's."""
    due = list(range(-2 % interval, iterations, interval))
    if first and due[:1] != [0]:
        due.insert(0, 0)
    if iterations and due[-1:] != [iterations - 1]:
        due.append(iterations - 1)
    return np.array(due, dtype=np.int64)

"""When a Dynamo deployment is ready, and whether it is still the one that was started.

A frontend answers ``/health`` with 200 from its first moment, and a worker may answer "not ready" for ever while it
serves. What counts: every frontend lists the instances of ``generate`` that were started, by component, in the
namespace of this start, and no other; a streamed completion comes with its usage; and every pair of a prefill and a
decode worker has answered once, which opens their connections. The router would not see to that: two counters that go
round side by side meet each pair only where their numbers have no common divisor.

An instance too many takes its share of the load, wherever it comes from: it is refused, not waited out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import msgspec

from ratematch.engines.asking import Ask, Conversation, Note, NotYet, Question, Reply
from ratematch.engines.dynamo.contract import components
from ratematch.engines.dynamo.stack import stack_of
from ratematch.errors import WrongServers
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan, ProcessSpec

GENERATE = "generate"
"""The endpoint of a worker that takes requests; its others are for the router."""

PROMPT = tuple(range(11, 27))
"""Token ids that every vocabulary has."""

TOKENS = 2
"""Of each answer: the first is the prefill worker's, the second the decode worker's."""

ANSWER_S = 60.0
"""A first request on a cold worker may wait for its kernels."""

MOST_PAIRS = 1024


class Instance(msgspec.Struct):
    """One endpoint of one worker, as a frontend lists it."""

    component: str = ""
    endpoint: str = ""
    namespace: str = ""
    instance_id: int = 0


class Health(msgspec.Struct):
    """The answer of a frontend's ``/health``."""

    instances: list[Instance] = []


@dataclass(frozen=True)
class Expected:
    """What a start has: ``counts`` of workers by component, in ``namespace``."""

    namespace: str
    counts: Mapping[str, int]
    prefill: str
    decode: str
    model: str


def expected(plan: LaunchPlan, experiment: Experiment) -> Expected:
    """The workers of a plan that was started, by what they register as."""
    stack, deployment = stack_of(experiment.engine), experiment.deployment
    names = components(stack.version, stack.backend)
    frontend = frontends(plan)[0]
    namespace = dict(frontend.env)["DYN_NAMESPACE"]
    if deployment.ctx is not None and deployment.gen is not None:
        counts = {names["prefill"]: deployment.ctx.instances, names["decode"]: deployment.gen.instances}
    else:
        counts = {names["decode"]: sum(group.instances for group in deployment.groups)}
    return Expected(namespace, counts, names["prefill"], names["decode"], experiment.model_path)


def frontends(plan: LaunchPlan) -> list[ProcessSpec]:
    """The processes that take requests."""
    return [spec for spec in plan.processes if spec.role == "orchestrator"]


def join(plan: LaunchPlan, experiment: Experiment) -> Conversation:
    """Waits until the deployment is whole and has answered; see the module."""
    wanted = expected(plan, experiment)
    listed: list[Instance] = []
    for frontend in frontends(plan):
        while True:
            listed = yield from _list(frontend)
            if (missing := _missing(frontend.name, listed, wanted)) is None:
                break
            yield NotYet(missing)
    for frontend in frontends(plan):
        while (why := (yield from _complete(_base(frontend), wanted.model))) is not None:
            yield NotYet(f"{frontend.name}: {why}")
    yield from _meet(plan, listed, wanted)
    yield from recheck(plan, experiment)


def recheck(plan: LaunchPlan, experiment: Experiment) -> Conversation:
    """Raises WrongServers where a frontend lists other workers than were started."""
    wanted = expected(plan, experiment)
    for frontend in frontends(plan):
        missing = _missing(frontend.name, (yield from _list(frontend)), wanted)
        if missing is not None:
            raise WrongServers(f"not the deployment that was started: {missing}")


def _base(frontend: ProcessSpec) -> str:
    return f"http://{frontend.host}:{frontend.port}"


def _list(frontend: ProcessSpec) -> Generator[Question, Reply, list[Instance]]:
    """The instances that take requests, as a frontend lists them; asks until it answers."""
    while True:
        reply = yield Ask(f"{_base(frontend)}/health")
        try:
            health = msgspec.json.decode(reply.body, type=Health)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            yield NotYet(f"{frontend.name}: {reply.why or f'/health answers {reply.status} and no list of workers'}")
            continue
        return [instance for instance in health.instances if instance.endpoint == GENERATE]


def _missing(name: str, listed: Sequence[Instance], wanted: Expected) -> str | None:
    """Which workers a frontend does not list yet.

    Raises:
        WrongServers: it lists one that was not started here.
    """
    counts = Counter(instance.component for instance in listed if instance.namespace == wanted.namespace)
    strays = Counter(
        f"{instance.namespace}/{instance.component}" for instance in listed if instance.namespace != wanted.namespace
    )
    strays |= Counter(
        {
            f"{wanted.namespace}/{component}": count - wanted.counts.get(component, 0)
            for component, count in counts.items()
            if count > wanted.counts.get(component, 0)
        }
    )
    if strays:
        named = ", ".join(f"{count} of {what}" for what, count in sorted(strays.items()))
        raise WrongServers(
            f"{name} lists workers that were not started here: {named}; they would take a share of every load. "
            "End them, or give this deployment a discovery of its own (engine.discovery)"
        )
    short = [
        f"{counts.get(component, 0)} of {count} {component} workers"
        for component, count in wanted.counts.items()
        if counts.get(component, 0) < count
    ]
    return f"{name} lists {', '.join(short)}" if short else None


# ------------------------------------------------------------------------------------------------ requests


def _body(model: str, *, stream: bool, nvext: Mapping[str, object] | None = None) -> bytes:
    content: dict[str, object] = {
        "model": model,
        "prompt": list(PROMPT),
        "max_tokens": TOKENS,
        "min_tokens": TOKENS,
        "ignore_eos": True,
        "stream": stream,
    }
    if stream:
        content["stream_options"] = {"include_usage": True}
    if nvext:
        content["nvext"] = dict(nvext)
    return json.dumps(content).encode()


def plain_request(model: str) -> str:
    """The JSON of a completion that every ready deployment answers."""
    return _body(model, stream=False).decode()


def _complete(base: str, model: str) -> Generator[Question, Reply, str | None]:
    """Why a streamed completion does not come whole yet; ``None`` when it does.

    Raises:
        WrongServers: the frontend refuses the request itself, or knows models of other names only.
    """
    reply = yield Ask(f"{base}/v1/completions", _body(model, stream=True), ANSWER_S)
    if reply.status == 400:
        raise WrongServers(f"the frontend refuses a plain completion: {_words(reply)}")
    if reply.status == 404:
        served = yield from _models(base)
        if served and model not in served:
            raise WrongServers(f"the workers serve {', '.join(served)}, and loads name the model {model}")
        return f"no servable model {model} yet"
    if reply.status != 200:
        return f"a completion is answered with {_words(reply)}"
    counted, error = _read_stream(reply.body)
    if error is not None:
        return f"a stream ends with an error: {error}"
    if counted is None:
        return "a stream has no usage"
    return None if counted == TOKENS else f"a stream has {counted} tokens where {TOKENS} were asked for"


def _models(base: str) -> Generator[Question, Reply, list[str]]:
    reply = yield Ask(f"{base}/v1/models")
    try:
        data = json.loads(reply.body)["data"]
        return [str(card["id"]) for card in data]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _read_stream(body: bytes) -> tuple[int | None, str | None]:
    """Completion tokens by the last usage of a stream, and the error that it reports; Dynamo ends both with
    [DONE]."""
    counted: int | None = None
    for event in _events(body):
        if (error := event.get("error")) is not None:
            message = error.get("message") if isinstance(error, dict) else error
            return counted, " ".join(str(message).split())[:200]
        usage = event.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            counted = usage["completion_tokens"]
    return counted, None


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    for line in body.split(b"\n"):
        data = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            try:
                content = json.loads(data)
            except (ValueError, RecursionError):
                continue
            if isinstance(content, dict):
                yield content


def _words(reply: Reply) -> str:
    """An answer that is no success, in one line."""
    text = " ".join(reply.body.decode("utf-8", "replace").split())[:200]
    return f"{reply.status} {text}".strip() if reply.status else reply.why


# ------------------------------------------------------------------------------------------------ pairs


def _meet(plan: LaunchPlan, listed: Sequence[Instance], wanted: Expected) -> Conversation:
    """One request through every pair of a prefill and a decode worker, or as many as the router makes of it where the
    release does not let a request choose."""
    prefill = [instance.instance_id for instance in listed if instance.component == wanted.prefill]
    decode = [instance.instance_id for instance in listed if instance.component == wanted.decode]
    if len(wanted.counts) < 2:
        return
    pairs = list(islice(product(prefill, decode), MOST_PAIRS))
    if len(prefill) * len(decode) > MOST_PAIRS:
        yield Note(f"{len(prefill)} x {len(decode)} pairs of workers: the first {MOST_PAIRS} have met")
    base = _base(frontends(plan)[0])
    for left, right in pairs:
        chosen = {"extra_fields": ["worker_id"], "prefill_worker_id": left, "decode_worker_id": right}
        asked = Ask(f"{base}/v1/completions", _body(wanted.model, stream=False, nvext=chosen), ANSWER_S)
        while (reply := (yield asked)).status not in (200, 400):
            yield NotYet(f"prefill worker {left} and decode worker {right}: {_words(reply)}")
        if reply.status == 400:
            yield Note("this release lets no request choose its workers: that every pair has met is not shown")
            yield from _meet_by_chance(base, wanted, 2 * len(pairs))
            return
        if (seen := _workers(reply.body)) is not None and seen != (left, right):
            raise WrongServers(
                f"a request for workers {left} (prefill) and {right} (decode) was answered by {seen[0]} and {seen[1]}"
            )


def _meet_by_chance(base: str, wanted: Expected, count: int) -> Conversation:
    asked = Ask(f"{base}/v1/completions", _body(wanted.model, stream=False), ANSWER_S)
    for _ in range(count):
        while (reply := (yield asked)).status != 200:
            yield NotYet(f"a completion is answered with {_words(reply)}")


def _workers(body: bytes) -> tuple[int, int] | None:
    """Which prefill and decode worker answered; ``None`` where it does not say."""
    try:
        names = json.loads(body)["nvext"]["worker_id"]
        return int(names["prefill_worker_id"]), int(names["decode_worker_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None

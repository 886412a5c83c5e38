"""When a Dynamo deployment is ready: the conversation with its frontends, answer by answer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ratematch.engines.asking import Ask, Conversation, Note, NotYet, Reply
from ratematch.engines.dynamo import TRTLLM
from ratematch.errors import WrongServers
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import Experiment
from ratematch.run.script import run_script
from tests.engines.golden import RACK
from tests.engines.golden_dynamo import ONE, SEVERAL, dynamo_experiment, launch

NAMESPACE = "ratematch-abc"
MODEL = "deepseek-r1"


class Frontends:
    """All frontends of a deployment, as far as they are asked. ``instances``: (namespace, component, id)."""

    def __init__(
        self, instances: list[tuple[str, str, int]], more: Mapping[str, Callable[[Any], Reply]] | None = None
    ):
        self.instances = instances
        self.more = dict(more or {})
        self.asked: list[Any] = []

    def answer(self, ask: Ask) -> Reply:
        path = "/" + ask.url.partition("://")[2].partition("/")[2]
        if path in self.more:
            return self.more[path](None if ask.body is None else json.loads(ask.body))
        if path == "/health":
            listed = [
                {"namespace": namespace, "component": component, "endpoint": endpoint, "instance_id": number}
                for namespace, component, number in self.instances
                for endpoint in ("generate", f"worker_kv_query_source_{number:x}")
            ]
            return Reply(200, json.dumps({"status": "healthy", "instances": listed}).encode())
        body = json.loads(ask.body or b"{}")
        self.asked.append(body)
        if body["stream"]:
            return stream({"usage": {"completion_tokens": body["max_tokens"]}})
        chosen = body.get("nvext", {})
        workers = {name: chosen.get(name) for name in ("prefill_worker_id", "decode_worker_id")}
        return Reply(200, json.dumps({"nvext": {"worker_id": workers}}).encode())


def stream(*events: Mapping[str, Any]) -> Reply:
    lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    return Reply(200, b"".join(lines) + b"data: [DONE]\n\n")


def workers(prefill: int, decode: int, namespace: str = NAMESPACE) -> list[tuple[str, str, int]]:
    big = 1 << 63
    left = [(namespace, "prefill", big + number) for number in range(prefill)]
    return [*left, *((namespace, "backend", big + 100 + number) for number in range(decode))]


def talk(conversation: Conversation, frontends: Frontends, most: int = 3) -> tuple[list[str], list[str]]:
    """What a conversation waited for, ``most`` times at most, and its notes."""
    waits: list[str] = []
    notes: list[str] = []
    reply = Reply(0)
    try:
        asked = next(conversation)
        while len(waits) < most:
            if isinstance(asked, Ask):
                reply = frontends.answer(asked)
            elif isinstance(asked, NotYet):
                waits.append(asked.why)
            else:
                assert isinstance(asked, Note)
                notes.append(asked.text)
            asked = conversation.send(reply)
    except StopIteration:
        pass
    return waits, notes


def joining(frontends: Frontends, asked: Experiment | None = None, most: int = 3) -> tuple[list[str], list[str]]:
    experiment = asked or dynamo_experiment(SEVERAL, {})
    return talk(TRTLLM.join(launch(experiment).started("abc"), experiment), frontends, most)


def test_a_whole_deployment_answers_once_through_every_pair() -> None:
    frontends = Frontends(workers(2, 3))
    assert joining(frontends) == ([], [])
    streamed, *pairs = frontends.asked
    assert streamed["stream_options"] == {"include_usage": True} and streamed["min_tokens"] == streamed["max_tokens"]
    met = {(body["nvext"]["prefill_worker_id"], body["nvext"]["decode_worker_id"]) for body in pairs}
    assert len(met) == len(pairs) == 6


def test_every_frontend_is_asked_and_each_must_answer() -> None:
    asked = dynamo_experiment(ONE, {"frontends": 2, "nginx": True})
    frontends = Frontends(workers(1, 1))
    assert joining(frontends, asked) == ([], [])
    assert [body["stream"] for body in frontends.asked] == [True, True, False]


def test_a_role_alone_is_aggregated_workers() -> None:
    alone = dynamo_experiment(Deployment(ctx=ONE.ctx), {})
    frontends = Frontends(workers(0, 1))
    assert joining(frontends, alone) == ([], []) and len(frontends.asked) == 1
    assert joining(Frontends(workers(0, 0)), alone)[0][0] == "frontend-0 lists 0 of 1 backend workers"


def test_workers_of_older_releases_have_another_name() -> None:
    asked = dynamo_experiment(ONE, {}, "1.1.0")
    there = [(NAMESPACE, "prefill", 1), (NAMESPACE, "tensorrt_llm", 2)]
    assert joining(Frontends(there), asked) == ([], [])
    with pytest.raises(WrongServers, match="1 of ratematch-abc/backend"):
        joining(Frontends(workers(1, 1)), asked)


def test_what_is_still_missing_is_told_until_it_is_there() -> None:
    waits, _ = joining(Frontends(workers(1, 2)))
    assert waits == ["frontend-0 lists 1 of 2 prefill workers, 2 of 3 backend workers"] * 3
    dead = Frontends([], {"/health": lambda body: Reply(0, b"", "connection refused")})
    assert joining(dead)[0][0] == "frontend-0: connection refused"
    garbled = Frontends([], {"/health": lambda body: Reply(200, b"<html>")})
    assert "no list of workers" in joining(garbled)[0][0]


@pytest.mark.parametrize(
    ("instances", "said"),
    [
        (workers(3, 3), "1 of ratematch-abc/prefill"),
        (workers(2, 5), "2 of ratematch-abc/backend"),
        ([*workers(2, 3), (NAMESPACE, "tensorrt_llm", 7)], "1 of ratematch-abc/tensorrt_llm"),
        ([*workers(2, 3), *workers(0, 1, "dynamo")], "1 of dynamo/backend"),
        ([*workers(1, 1), *workers(2, 3, "ratematch-old")], "2 of ratematch-old/prefill"),
    ],
)
def test_a_worker_that_was_not_started_here_is_refused_at_once(
    instances: list[tuple[str, str, int]], said: str
) -> None:
    with pytest.raises(WrongServers, match="were not started here") as caught:
        joining(Frontends(instances))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            stream({"error": {"message": "No workers\n available", "code": 503}}),
            "with an error: No workers available",
        ),
        (stream({"choices": [{"text": "a"}]}), "a stream has no usage"),
        (stream({"usage": {"completion_tokens": 1}}), "a stream has 1 tokens where 2 were asked for"),
        (Reply(503, b"Model x is not ready"), "answered with 503 Model x is not ready"),
        (Reply(0, b"", "timed out"), "answered with timed out"),
        (Reply(404, b""), "no servable model deepseek-r1 yet"),
    ],
)
def test_a_completion_that_does_not_come_whole_is_waited_for(reply: Reply, said: str) -> None:
    answers = {"/v1/completions": lambda body: reply, "/v1/models": lambda body: Reply(200, b'{"data": []}')}
    waits, _ = joining(Frontends(workers(2, 3), answers))
    assert len(waits) == 3 and all(said in wait for wait in waits), waits


def test_a_model_of_another_name_and_a_request_that_is_refused_are_not_waited_for() -> None:
    named = {
        "/v1/completions": lambda body: Reply(404),
        "/v1/models": lambda body: Reply(200, b'{"data":[{"id":"m"}]}'),
    }
    with pytest.raises(WrongServers, match="the workers serve m, and loads name the model deepseek-r1"):
        joining(Frontends(workers(2, 3), named))
    refused = {"/v1/completions": lambda body: Reply(400, b"unknown field `min_tokens`")}
    with pytest.raises(WrongServers, match="refuses a plain completion: 400 unknown field"):
        joining(Frontends(workers(2, 3), refused))


def test_a_release_that_lets_no_request_choose_its_workers_is_told_so() -> None:
    count = 0

    def answer(body: Any) -> Reply:
        nonlocal count
        if body["stream"]:
            return stream({"usage": {"completion_tokens": 2}})
        if "nvext" in body:
            return Reply(400, b"unknown field")
        count += 1
        return Reply(200, b"{}")

    waits, notes = joining(Frontends(workers(2, 3), {"/v1/completions": answer}))
    assert waits == [] and "is not shown" in notes[0] and count == 12


def test_a_pair_that_others_answer_for_is_refused() -> None:
    def answer(body: Any) -> Reply:
        if body["stream"]:
            return stream({"usage": {"completion_tokens": 2}})
        return Reply(200, b'{"nvext": {"worker_id": {"prefill_worker_id": 1, "decode_worker_id": 2}}}')

    with pytest.raises(WrongServers, match=r"was answered by 1 and 2"):
        joining(Frontends(workers(2, 3), {"/v1/completions": answer}))


def test_a_deployment_is_looked_at_again_and_must_be_the_same() -> None:
    experiment = dynamo_experiment(SEVERAL, {})
    plan = launch(experiment).started("abc")
    assert talk(TRTLLM.recheck(plan, experiment), Frontends(workers(2, 3))) == ([], [])
    with pytest.raises(WrongServers, match="not started here: 1 of ratematch-abc/backend"):
        talk(TRTLLM.recheck(plan, experiment), Frontends(workers(2, 4)))
    with pytest.raises(WrongServers, match="not the deployment that was started: frontend-0 lists 1 of 2 prefill"):
        talk(TRTLLM.recheck(plan, experiment), Frontends(workers(1, 3)))


def test_a_script_waits_for_every_worker_and_gives_each_start_a_name() -> None:
    asked = dynamo_experiment(SEVERAL, {"frontends": 2, "nginx": True})
    text = run_script(asked, launch(asked), RACK, allocated=True)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False, timeout=30).returncode == 0
    assert text.count("whole http://node") == 4 and text.count("completes http://node") == 2
    assert "START=$(od" in text and 'DYN_NAMESPACE=ratematch-"$START"' in text
    assert "ready ctx-0 http://node0:8000/health 600 any" in text

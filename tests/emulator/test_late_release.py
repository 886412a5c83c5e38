"""What late 1.3 and 1.4 do otherwise: times with answers and in files, states of starting, errors passed on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ratematch.emulator.serving import STATE_HEADER, Life, bind, new_app, serve
from ratematch.emulator.trtllm.forwarding import StreamEnd, inner_message
from ratematch.emulator.trtllm.logs import Log
from ratematch.engines.trtllm_serve.requesttimes import ASK, read_breakdown, read_times
from ratematch.measure.breakdown import Breakdown

from .servers import DISAGG, QUICK, get, make_worker, orchestrating, post, serving

LATE = replace(QUICK, version="main")
BODY: dict[str, Any] = {"model": "m", "prompt": list(range(1, 41)), "max_tokens": 12, "ignore_eos": True}
STREAM = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
EVENT = b"event: trtllm.perf_metrics\n"


async def send(address: str, body: dict[str, Any], *, ask: bool = True) -> tuple[bytes, dict[str, str]]:
    headers = dict([ASK.header]) if ask else {}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/v1/completions", json=body, headers=headers) as answer,
    ):
        assert answer.status == 200
        return await answer.read(), {name: answer.headers[name] for name in ASK.fields if name in answer.headers}


def times_in(raw: bytes) -> dict[str, str]:
    answer, _, rest = raw.partition(b"data: [DONE]\n\n")
    assert EVENT not in answer
    assert rest.startswith(EVENT + b"data: ") and rest.endswith(b"\n\n") and rest.count(b"event:") == 1
    return dict(json.loads(rest.removeprefix(EVENT + b"data: ")))


def without_limit(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    transceiver = {"backend": "DEFAULT"}
    return {**config, "cache_transceiver_config": transceiver, **more}


async def run(version: str, folder: Path, requests: int = 8, ask: bool = False) -> list[dict[str, Any]]:
    """Records of some requests, one after the other, from the best source that the version has, or from answers."""
    environment = replace(QUICK, version=version)
    late = version == "main"
    config = without_limit(DISAGG) if late else DISAGG
    keys = [{"perf_metrics_output_dir": str(folder / role)} if late else {} for role in ("ctx", "gen", "disagg")]
    ctx, gen = (make_worker({**config, **more}, environment, step_s=0.01) for more in keys[:2])
    gen.emulation = replace(gen.emulation, transfer_s=lambda tokens: 0.02)
    records: list[dict[str, Any]] = []
    async with serving(ctx) as first, serving(gen) as second:
        more = {"return_perf_metrics": True, **keys[2]} if late else {}
        async with orchestrating([first], [second], environment, **more) as address:
            for number in range(requests):
                raw, _ = await send(address, STREAM, ask=ask)
                if ask:
                    records.append({"request": number, "times": times_in(raw)})
            if not late:
                return list((await get(address, "/perf_metrics"))[1])
    if ask:
        return records
    files = sorted(folder.glob("*/perf_metrics-*.jsonl"))
    return [
        {"server": f"{file.parent.name}/{file.name}", **json.loads(line)}
        for file in files
        for line in file.read_text().splitlines()
    ]


def mean_of(records: Sequence[dict[str, Any]]) -> Breakdown:
    breakdown = read_breakdown(records, skip_first=1, skip_last=1)
    assert breakdown is not None
    return breakdown


def test_every_source_gives_the_same_breakdown(tmp_path: Path) -> None:
    route = mean_of(asyncio.run(run("1.2", tmp_path / "none")))
    files = mean_of(asyncio.run(run("main", tmp_path / "late")))
    answers = mean_of(asyncio.run(run("main", tmp_path / "asked", ask=True)))
    assert route.num == files.num == answers.num == 6
    for other in (files, answers):
        for name in ("ctx_queue_s", "prefill_s", "kv_transfer_s", "decode_s"):
            assert getattr(other, name) == pytest.approx(getattr(route, name), abs=0.008), name
        assert other.kv_transfer_s == pytest.approx(0.02, abs=1e-4)


def test_files_of_workers_fill_in_what_came_over_headers(tmp_path: Path) -> None:
    records = asyncio.run(run("main", tmp_path, requests=3))
    own = [record for record in records if record["server"].startswith("disagg")]
    assert len(records) == 9 and len(own) == 3
    timing = own[0]["gen_perf_metrics"]["perf_metrics"]["timing_metrics"]
    assert "kv_cache_transfer_start" not in timing and timing["first_token_time"] is not None
    assert all(times.stages() is None for times in read_times(own))
    joined = read_times(records)
    assert len(joined) == 3 and all(times.stages() is not None for times in joined)
    assert {times.id for times in joined} == {str(record["disagg_request_id"]) for record in own}


def test_times_come_only_where_they_are_asked_for_and_kept() -> None:
    async def go(**more: Any) -> tuple[bytes, bytes, dict[str, str]]:
        config = without_limit(DISAGG)
        async with (
            serving(make_worker(config, LATE)) as ctx,
            serving(make_worker(config, LATE)) as gen,
            orchestrating([ctx], [gen], LATE, **more) as address,
        ):
            quiet, _ = await send(address, STREAM, ask=False)
            asking, _ = await send(address, STREAM)
            _, headers = await send(address, BODY)
            return quiet, asking, headers

    quiet, asking, headers = asyncio.run(go(return_perf_metrics=True))
    assert quiet.endswith(b"data: [DONE]\n\n")
    fields = times_in(asking)
    for text in (fields["Server-Timing"], headers["Server-Timing"]):
        for name in ("disagg_queue", "disagg_ttft", "ctx_queue", "ctx_ttft", "gen_e2e", "gen_kv_transfer"):
            assert text.count(f"{name};dur=") == 1, name
    assert {"ctx-start", "ctx-end", "gen-start", "gen-end"} == {
        item.strip().partition(";")[0] for item in fields["X-TRTLLM-Start-End-Time"].split(",")
    }
    quiet, asking, headers = asyncio.run(go())
    assert EVENT not in quiet + asking and not headers, "the orchestrator does not keep them"


@pytest.mark.parametrize(("version", "status"), [("1.2", 200), ("1.3", 200), ("main", 404)])
def test_the_route_of_times_is_gone(version: str, status: int) -> None:
    async def go() -> list[int]:
        environment = replace(QUICK, version=version)
        config = DISAGG if version == "1.2" else without_limit(DISAGG)
        async with (
            serving(make_worker(config, environment)) as ctx,
            serving(make_worker(config, environment)) as gen,
            orchestrating([ctx], [gen], environment) as address,
        ):
            return [(await get(where, "/perf_metrics"))[0] for where in (ctx, address)]

    assert asyncio.run(go()) == [status, status]


@pytest.mark.parametrize("version", ["1.2", "main"])
def test_a_stream_that_fails_ends_with_done_late(version: str) -> None:
    async def go() -> bytes:
        environment = replace(QUICK, version=version)
        config = DISAGG if version == "1.2" else without_limit(DISAGG)
        ctx, gen = make_worker(config, environment), make_worker(config, environment)
        ctx.holds.hold = lambda request_id, sequence_id: None  # type: ignore[method-assign]
        async with (
            serving(ctx) as first,
            serving(gen) as second,
            orchestrating([first], [second], environment) as address,
        ):
            return (await post(address, STREAM))[1]

    raw = asyncio.run(go())
    if version == "1.2":
        assert b"[DONE]" not in raw and b"error" not in raw
        return
    error, done = raw.strip().split(b"\n\n")[-2:]
    assert "message" in json.loads(error.removeprefix(b"data: "))["error"]
    assert done == b"data: [DONE]"


def test_the_orchestrator_lists_the_models_of_a_context_server() -> None:
    async def go() -> tuple[Any, Any]:
        config = without_limit(DISAGG)
        async with serving(make_worker(config, LATE)) as ctx, serving(make_worker(config, LATE)) as gen:
            async with orchestrating([ctx], [gen], LATE) as both:
                listed = await get(both, "/v1/models")
            async with orchestrating([], [gen], replace(LATE, gen_only=True)) as alone:
                return listed, await get(alone, "/v1/models")

    listed, none = asyncio.run(go())
    assert listed[0] == 200 and listed[1]["data"][0]["id"] == "qwen3-30b-a3b"
    assert none[0] == 503


def test_an_invented_context_has_no_id_of_its_own() -> None:
    async def go() -> list[dict[str, Any]]:
        gen = make_worker(DISAGG, replace(QUICK, gen_only=True))
        async with (
            serving(gen) as address,
            orchestrating([], [address], replace(QUICK, gen_only=True)) as front,
        ):
            await post(front, BODY)
        return list(gen.perf.drain())

    (record,) = asyncio.run(go())
    assert record["ctx_request_id"] == 1 and "disagg_request_id" not in record


@pytest.mark.parametrize("early", [False, True])
def test_a_late_server_answers_that_it_is_starting(early: bool) -> None:
    async def go() -> tuple[tuple[int, str | None, str | None] | None, int]:
        sock = bind("127.0.0.1", 0)
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        loaded = asyncio.Event()
        seen: list[tuple[int, str | None, str | None]] = []

        async def prepare() -> None:
            try:
                status, _, headers = await get(address, "/health")
                seen.append((status, headers.get(STATE_HEADER), headers.get("Retry-After")))
            except aiohttp.ClientConnectorError:
                pass
            loaded.set()

        async def during() -> None:
            await asyncio.Event().wait()

        server = asyncio.ensure_future(serve(new_app(), sock, Log("error"), Life(5.0, prepare, during, early)))
        await loaded.wait()
        while True:
            try:
                after = (await get(address, "/no_such_route"))[0]
                if after != 503:
                    break
            except aiohttp.ClientConnectorError:
                pass
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await server == signal.SIGTERM
        return (seen or [None])[0], after

    assert asyncio.run(go()) == ((503, "starting", "1") if early else None, 404)


def test_only_workers_of_late_releases_listen_while_they_load() -> None:
    assert make_worker(without_limit(DISAGG), LATE).listens_while_loading
    assert not make_worker(DISAGG, QUICK).listens_while_loading


@pytest.mark.parametrize("cut", range(1, 44, 3))
def test_what_follows_an_answer_is_parted_from_it_wherever_reads_end(cut: int) -> None:
    answer, rest = b'data: {"a":1}\n\ndata: [DONE]\n\n', b"event: x\ndata: 1\n\n"
    whole = answer + rest
    end = StreamEnd()
    assert end.take(whole[:cut]) + end.take(whole[cut:]) + end.flush() == answer
    assert end.rest == rest
    broken = StreamEnd()
    assert broken.take(answer[:-3]) + broken.flush() == answer[:-3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"object": "error", "message": "too long", "code": 400}', "too long"),
        ('{"error": {"message": "too long"}}', "too long"),
        ('{"error": "too long"}', "too long"),
        ('{"detail": "too long"}', "too long"),
        ("too long", "too long"),
        ("[1]", "[1]"),
    ],
)
def test_the_inner_message_of_a_refusal(text: str, message: str) -> None:
    assert inner_message(text) == message

"""The proxy in front of prefill and decode servers: the two steps, whole and broken answers, clients that leave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ratematch.engines.vllm.disagg_requests import HandoverError, decode_body, prefill_body, read_body
from ratematch.engines.vllm.proxy import EMULATED, Proxy, serve

from ..emulator.servers import get, post, wait_healthy
from ..ports import free_port, free_ports

ASK: dict[str, Any] = {"model": "m", "prompt": [1, 2, 3], "max_tokens": 7, "stream": True, "min_tokens": 7}
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


# ------------------------------------------------------------------------------------------- bodies


def test_prefill_is_asked_for_one_token_in_one_piece_and_to_keep_the_blocks() -> None:
    given = {**ASK, "stream_options": {"include_usage": True}, "max_completion_tokens": 9, "temperature": 0.5}
    asked = json.loads(prefill_body(read_body(json.dumps(given).encode())))
    assert asked["max_tokens"] == 1 and asked["stream"] is False
    assert asked["kv_transfer_params"]["do_remote_decode"] is True
    assert asked["prompt"] == [1, 2, 3] and asked["temperature"] == 0.5
    assert not asked.keys() & {"stream_options", "min_tokens", "max_completion_tokens"}


def test_decode_is_asked_what_the_client_asked_and_told_where_the_blocks_are() -> None:
    where = {"do_remote_prefill": True, "remote_block_ids": [[1, 2]]}
    raw = decode_body(
        read_body(json.dumps(ASK).encode()), json.dumps({"id": 1, "kv_transfer_params": where}).encode()
    )
    assert json.loads(raw) == {**ASK, "kv_transfer_params": where}


@pytest.mark.parametrize("answer", [b"{}", b'{"kv_transfer_params":null}', b"oops"])
def test_an_answer_that_does_not_tell_is_an_error(answer: bytes) -> None:
    with pytest.raises(HandoverError):
        decode_body(read_body(b"{}"), answer)


@pytest.mark.parametrize("body", [b"", b"[1]", b"{"])
def test_a_body_that_is_no_object_is_an_error(body: bytes) -> None:
    with pytest.raises(HandoverError, match="no JSON object"):
        read_body(body)


# ------------------------------------------------------------------------------------------- inside one loop


class Side:
    """A prefill or decode server that answers as it is told, and keeps what it was asked."""

    def __init__(self, name: str, answer: Answer, healthy: bool = True, emulated: bool = False):
        self.name, self.healthy, self.asked = name, healthy, list[dict[str, Any]]()
        self.left = asyncio.Event()
        self._answer, self._emulated = answer, emulated

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [web.get("/health", self._health), web.get("/v1/models", self._models)]
            + [web.post(f"/v1/{route}", self._post) for route in ("completions", "chat/completions")]
        )
        return app

    async def _health(self, request: web.Request) -> web.Response:
        headers = {EMULATED: "1"} if self._emulated else {}
        return web.Response(status=200 if self.healthy else 503, headers=headers)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": self.name}]})

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({**await request.json(), "id": request.headers["X-Request-Id"], "path": request.path})
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            self.left.set()
            raise


async def keeps(request: web.Request) -> web.StreamResponse:
    return web.json_response({"kv_transfer_params": {"do_remote_prefill": True, "remote_host": "h"}})


async def streams(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for index in range(3):
        await response.write(b"data: %d\n\n" % index)
    await response.write(b"data: [DONE]\n\n")
    return response


async def never(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def proxied(prefill: list[Side], decode: list[Side], ready: bool = True) -> AsyncIterator[tuple[str, Proxy]]:
    """``host:port`` of a proxy in front of servers."""
    async with _all(prefill) as left, _all(decode) as right:
        proxy = Proxy([f"http://{address}" for address in left], [f"http://{address}" for address in right])
        await proxy.start()
        if ready:
            await proxy.wait_ready(5)
        async with listening(proxy.app()) as address:
            try:
                yield address, proxy
            finally:
                await proxy.close()


@asynccontextmanager
async def _all(sides: list[Side]) -> AsyncIterator[list[str]]:
    if not sides:
        yield []
        return
    async with listening(sides[0].app()) as address, _all(sides[1:]) as others:
        yield [address, *others]


def test_both_steps_carry_one_id_and_the_stream_comes_through_byte_for_byte() -> None:
    async def go() -> None:
        left, right = Side("p", keeps), Side("d", streams)
        async with proxied([left], [right]) as (address, _):
            status, body = await post(address, ASK)
            assert (status, body) == (200, b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: [DONE]\n\n")
            assert left.asked[0]["max_tokens"] == 1 and right.asked[0]["max_tokens"] == 7
            assert right.asked[0]["kv_transfer_params"]["remote_host"] == "h"
            assert left.asked[0]["id"] == right.asked[0]["id"]
            assert (await post(address, {"messages": []}, "/v1/chat/completions"))[0] == 200
            assert left.asked[1]["path"] == right.asked[1]["path"] == "/v1/chat/completions"
            assert (await get(address, "/v1/models"))[1]["data"][0]["id"] == "d"

    asyncio.run(go())


def test_servers_take_turns() -> None:
    async def go() -> Counter[str]:
        left, right = [Side(f"p{i}", keeps) for i in range(2)], [Side(f"d{i}", streams) for i in range(3)]
        async with proxied(left, right) as (address, _):
            for _ in range(12):
                await post(address, ASK)
            return Counter({side.name: len(side.asked) for side in (*left, *right)})

    assert asyncio.run(go()) == {"p0": 6, "p1": 6, "d0": 4, "d1": 4, "d2": 4}


def test_an_event_is_passed_on_before_the_next_one_is_there() -> None:
    async def go() -> None:
        seen = asyncio.Event()

        async def waits(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"data: first\n\n")
            await asyncio.wait_for(seen.wait(), 10)
            await response.write(b"data: last\n\n")
            return response

        async with (
            proxied([Side("p", keeps)], [Side("d", waits)]) as (address, _),
            aiohttp.ClientSession() as http,
            http.post(f"http://{address}/v1/completions", json=ASK) as answer,
        ):
            assert await answer.content.readany() == b"data: first\n\n"
            seen.set()
            assert await answer.content.read() == b"data: last\n\n"

    asyncio.run(go())


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_errors_of_servers_are_passed_on_with_their_status(role: str) -> None:
    async def refuses(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "too long", "code": 400}}, status=400)

    async def go() -> None:
        left = Side("p", refuses if role == "prefill" else keeps)
        right = Side("d", refuses if role == "decode" else streams)
        async with proxied([left], [right]) as (address, _):
            status, body = await post(address, ASK)
            assert status == 400 and json.loads(body)["error"]["message"] == "too long"
            assert len(right.asked) == (role == "decode")

    asyncio.run(go())


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_server_that_is_gone_is_a_bad_gateway_that_names_it(role: str) -> None:
    async def go() -> None:
        gone = f"http://127.0.0.1:{free_port()}"
        async with listening(Side("p", keeps).app()) as left:
            prefill, decode = (gone, gone) if role == "prefill" else (f"http://{left}", gone)
            proxy = Proxy([prefill], [decode])
            await proxy.start()
            async with listening(proxy.app()) as address:
                status, body = await post(address, ASK)
                assert status == 502 and f"{role} server {gone}: nobody listens" in body.decode()
            await proxy.close()

    asyncio.run(go())


def test_a_prefill_server_without_a_connector_is_told_of() -> None:
    async def forgets(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kv_transfer_params": None})

    async def go() -> None:
        async with proxied([Side("p", forgets)], [Side("d", streams)]) as (address, _):
            status, body = await post(address, ASK)
            assert status == 502 and "was it started with --kv-transfer-config?" in body.decode()
            async with (
                aiohttp.ClientSession() as http,
                http.post(f"http://{address}/v1/completions", data=b"{") as bad,
            ):
                assert bad.status == 400

    asyncio.run(go())


def test_an_answer_that_breaks_off_does_not_look_whole() -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: 0\n\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def go() -> None:
        async with proxied([Side("p", keeps)], [Side("d", breaks)]) as (address, _):
            with pytest.raises(aiohttp.ClientError):
                await post(address, ASK)

    asyncio.run(go())


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_client_that_leaves_ends_its_request_at_the_server(role: str) -> None:
    async def go() -> None:
        left = Side("p", never if role == "prefill" else keeps)
        right = Side("d", never)
        waiting = left if role == "prefill" else right
        async with proxied([left], [right]) as (address, _):
            leaving = asyncio.ensure_future(post(address, ASK))
            while not waiting.asked:
                await asyncio.sleep(0.01)
            leaving.cancel()
            await asyncio.wait_for(waiting.left.wait(), 10)

    asyncio.run(go())


def test_health_waits_for_every_server_and_emulated_ones_are_told_of() -> None:
    async def go() -> None:
        right = Side("d", streams, healthy=False, emulated=True)
        async with proxied([Side("p", keeps)], [right], ready=False) as (address, proxy):
            waiting = asyncio.ensure_future(proxy.wait_ready(30))
            assert (await get(address, "/health"))[0] == 503
            right.healthy = True
            await waiting
            status, _, headers = await get(address, "/health")
            assert status == 200 and headers[EMULATED] == "1"

    asyncio.run(go())


def test_servers_that_never_answer_end_the_proxy(capfd: pytest.CaptureFixture[str]) -> None:
    async def go() -> int:
        left, right, own = free_ports(3)
        proxy = Proxy([f"http://127.0.0.1:{left}"], [f"http://127.0.0.1:{right}"])
        return await serve(proxy, "127.0.0.1", own, 0.3)

    assert asyncio.run(go()) == 1
    assert "not ready after 0.3 s: http://127.0.0.1:" in capfd.readouterr().err


# ------------------------------------------------------------------------------------------- real processes


@pytest.mark.slow
def test_two_prefill_and_two_decode_processes_behind_the_proxy() -> None:
    ports = free_ports(9)
    servers, sides = ports[:4], ports[4:8]
    started = []

    def start(*words: str, **env: str) -> None:
        started.append(subprocess.Popen([sys.executable, "-m", *words], env={**os.environ, **env}))

    try:
        for index, (port, side) in enumerate(zip(servers, sides, strict=True)):
            role = "kv_producer" if index < 2 else "kv_consumer"
            start(
                *("ratematch.emulator.vllm", "serve", "qwen3-30b-a3b", "--host", "127.0.0.1", "--port", str(port)),
                *("--max-model-len", "4096", "--block_size=32"),
                *("--kv-transfer-config", json.dumps({"kv_connector": "NixlConnector", "kv_role": role})),
                RATEMATCH_EMULATED_GPU="h200",
                RATEMATCH_EMULATED_LOAD_S="0",
                VLLM_NIXL_SIDE_CHANNEL_HOST="127.0.0.1",
                VLLM_NIXL_SIDE_CHANNEL_PORT=str(side),
            )
        urls = [f"http://127.0.0.1:{port}" for port in servers]
        words = ["--prefill", urls[0], "--prefill", urls[1], "--decode", urls[2], "--decode", urls[3]]
        start("ratematch.engines.vllm.proxy", "--port", str(ports[8]), *words)
        wait_healthy(ports[8])
        asyncio.run(_load(f"127.0.0.1:{ports[8]}", [f"127.0.0.1:{port}" for port in servers]))
        for process in started:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(10) for process in started] == [0] * 5
    finally:
        for process in started:
            process.kill()
            process.wait()


async def _load(address: str, servers: list[str]) -> None:
    body = {"prompt": list(range(1, 65)), "max_tokens": 8, "stream": True, "stream_options": {"include_usage": True}}
    answers = await asyncio.gather(*(post(address, {**body, "prompt": [n, *body["prompt"]]}) for n in range(8)))
    for status, raw in answers:
        events = raw.decode().split("\n\n")
        assert status == 200 and events[-2] == "data: [DONE]"
        assert json.loads(events[-3].removeprefix("data: "))["usage"]["completion_tokens"] == 8
    for index, server in enumerate(servers):
        text = (await get(server, "/metrics"))[1]
        generated = next(line for line in text.splitlines() if line.startswith("vllm:generation_tokens_total"))
        assert generated.endswith(" 4.0" if index < 2 else " 32.0")
    await _leave(address, servers)


async def _leave(address: str, servers: list[str]) -> None:
    """A client that goes away in the middle leaves nothing running."""
    async with aiohttp.ClientSession() as http:
        asked = {"prompt": [5, 6], "max_tokens": 4000, "stream": True}
        async with http.post(f"http://{address}/v1/completions", json=asked) as answer:
            await answer.content.readany()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        texts = [(await get(server, "/metrics"))[1] for server in servers]
        if all("num_requests_running" in text and '"} 0.0' in _line(text, "num_requests_running") for text in texts):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("a request still runs")


def _line(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"vllm:{name}"))

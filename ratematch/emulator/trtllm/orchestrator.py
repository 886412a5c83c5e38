"""The orchestrator's HTTP server: ``trtllm-serve disaggregated`` (contract, sections 2 and 4.7)."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.client_exceptions import ClientConnectionResetError

from ratematch.emulator.environment import Environment
from ratematch.emulator.protocol import Json
from ratematch.emulator.serving import Life, bind, json_answer, new_app, run_blocking, serve, version_text
from ratematch.emulator.trtllm.forwarding import ForwardError, StreamEnd, inner_message
from ratematch.emulator.trtllm.logs import Log
from ratematch.emulator.trtllm.orchestrator_settings import OrchestratorSettings
from ratematch.emulator.trtllm.perf_metrics import Forwarded, PerfJoin
from ratematch.emulator.trtllm.routers import RoleSettings, Routed, Router, build_router, read_routed
from ratematch.emulator.trtllm.startup import align_clock, wait_for_workers
from ratematch.emulator.trtllm.times import (
    RETURN_HEADER,
    RETURN_VALUE,
    TimesFile,
    fields_for_client,
    fields_of_headers,
    read_event,
    times_event,
    wants_times,
)
from ratematch.engines.trtllm_serve.contract import release_line
from ratematch.engines.trtllm_serve.reporting import reporting

RETRY_PAUSE_S = 1.0
DROPPED_RETRIES = 5
ROLE_COUNTS = ("total", "error", "retry", "completed")


class Orchestrator:
    """Forwards requests to context and generation workers; ``run`` serves until a stop signal."""

    def __init__(self, settings: OrchestratorSettings, environment: Environment, log: Log):
        self.settings = settings
        self.environment = environment
        self.log = log
        self.counts: Counter[str] = Counter()
        self._routers: dict[str, Router] = {
            role.role: build_router(role) for role in (settings.ctx, settings.gen) if role.urls
        }
        self._ids = itertools.count()
        self._session: aiohttp.ClientSession | None = None
        self._late = reporting(settings.version).late
        # Either key has the workers send their times, and only one of them shows them to clients.
        self._keeps_times = self._late and (settings.perf_metrics or settings.perf_metrics_folder is not None)
        self._times_file = TimesFile(settings.perf_metrics_folder if self._late else None, "disagg")
        self._perf = PerfJoin(0 if self._late else settings.perf_kept)
        self._ready = False

    # ------------------------------------------------------------------------------------------- life

    def run(self) -> int:
        """Bind, wait for the workers, serve until a stop signal; its number.

        Raises:
            RuntimeError: the address cannot be bound.
            TimeoutError: the workers did not become ready in time.
        """
        sock = bind(self.settings.host, self.settings.port)
        keep_alive_s = self.settings.keep_alive_s
        return run_blocking(serve(self.app(), sock, self.log, Life(keep_alive_s, self.start, self._until_stopped)))

    async def start(self) -> None:
        """Open the client session and wait for the workers.

        Raises:
            TimeoutError: they did not become ready in time.
        """
        settings = self.settings
        timeout = aiohttp.ClientTimeout(total=settings.request_timeout_s)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)
        try:
            await wait_for_workers(self._session, settings, gen_only=self.environment.gen_only, log=self.log)
        except TimeoutError:
            await self.close()
            raise
        if settings.perf_kept or self._keeps_times:
            for url in (*settings.ctx.urls, *settings.gen.urls):
                await align_clock(self._session, url, self.log)
        if settings.generation_first:
            self.log.warning("schedule_style generation_first is emulated as context_first")
        self._ready = True

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _until_stopped(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    @property
    def http(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    # ------------------------------------------------------------------------------------------- routes

    def app(self) -> web.Application:
        app = new_app()
        own = [web.get("/v1/models", self.models)] if self._late else [web.get("/perf_metrics", self.perf_metrics)]
        app.add_routes(
            [
                *own,
                web.get("/health", self.health),
                web.get("/cluster_info", self.cluster_info),
                web.get("/version", self.version),
                web.get("/prometheus/metrics", self.prometheus),
                web.post("/v1/completions", self.completions),
                web.post("/v1/chat/completions", self.chat),
            ]
        )
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self._ready else 503)

    async def cluster_info(self, request: web.Request) -> web.Response:
        settings = self.settings
        return json_answer(
            {
                "is_ready": self._ready,
                "context_servers": list(settings.ctx.urls),
                "generation_servers": list(settings.gen.urls),
            }
        )

    async def version(self, request: web.Request) -> web.Response:
        return json_answer({"version": version_text(self.settings.version)})

    async def prometheus(self, request: web.Request) -> web.Response:
        names = (
            "total_requests", "stream_requests", "nonstream_requests", "validation_exceptions", "http_exceptions",
            "internal_errors", "total_responses",
            *(f"{role}_{kind}_requests" for role in ("ctx", "gen") for kind in ROLE_COUNTS),
        )  # fmt: skip
        return web.Response(text="".join(f"{name} {self.counts[name]}\n" for name in names))

    async def models(self, request: web.Request) -> web.Response:
        """What the first context worker lists."""
        urls = self.settings.ctx.urls if self._ready else ()
        try:
            async with self.http.get(f"http://{urls[0]}/v1/models") as answer:
                return web.Response(body=await answer.read(), status=answer.status, content_type="application/json")
        except (IndexError, aiohttp.ClientError, OSError, asyncio.TimeoutError):
            return json_answer({"detail": "No context server is available"}, 503)

    async def perf_metrics(self, request: web.Request) -> web.Response:
        """Records joined on ``ctx_request_id``; those without a partner yet stay for the next call."""
        for short, role in (("ctx", self.settings.ctx), ("gen", self.settings.gen)):
            for url in role.urls:
                self._perf.add(short, url, await self._worker_perf(url))
        return json_answer(self._perf.drain())

    async def _worker_perf(self, url: str) -> list[Json]:
        try:
            async with self.http.get(f"http://{url}/perf_metrics") as answer:
                records: list[Json] = msgspec.json.decode(await answer.read())
                return records
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, msgspec.DecodeError) as error:
            self.log.warning(f"Cannot read perf metrics of {url}: {error}")
            return []

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._forward(request, "/v1/completions", chat=False)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._forward(request, "/v1/chat/completions", chat=True)

    # ------------------------------------------------------------------------------------------- forwarding

    async def _forward(self, request: web.Request, route: str, *, chat: bool) -> web.StreamResponse:
        arrival_s = time.monotonic()
        self.counts["total_requests"] += 1
        try:
            body = msgspec.json.decode(await request.read())
            if not isinstance(body, dict):
                raise ValueError("the body must be a JSON object")
            routed = read_routed(body, chat, request.headers)
        except (ValueError, msgspec.DecodeError) as error:
            self.counts["validation_exceptions"] += 1
            return json_answer({"error": str(error)}, 400)
        self.counts["stream_requests" if body.get("stream") else "nonstream_requests"] += 1
        record = Forwarded(arrival_s)
        try:
            gen_body = await self._run_context(route, body, routed, record)
            if isinstance(gen_body, web.Response):
                return gen_body
            response = await self._run_generation(request, route, gen_body, routed, record)
        except ForwardError as error:
            self.counts["internal_errors" if error.status == 500 else "http_exceptions"] += 1
            self.log.error(f"Error in processing request: {error}")
            return json_answer({"detail": error.detail}, error.status)
        except asyncio.CancelledError:
            # Nobody is left to read the status; the workers' requests end with this one.
            if self._late:
                self.counts["http_exceptions"] += 1
                self.log.info("499 Client Closed Request")
            raise
        self.counts["total_responses"] += 1
        self._perf.forwarded(record)
        if self._keeps_times and record.ctx_server is not None:
            self._times_file.write(record.as_late_record())
        return response

    async def _run_context(self, route: str, body: Json, routed: Routed, record: Forwarded) -> Json | web.Response:
        """The body for the generation server, or the answer when the prompt alone ended the request."""
        request_id = self._new_id()
        if self.environment.gen_only:
            record.ctx_request_id = 1
            return {
                **body,
                "ignore_eos": True,
                "disaggregated_params": {
                    "request_type": "generation_only",
                    "first_gen_tokens": [7],
                    "ctx_request_id": 1,
                },
            }
        limit = self.settings.max_local_prefill
        if limit is not None and not routed.chat and len(routed.prompt_ids) <= limit:
            return body
        ctx_body = {
            **body,
            "stream": False,
            "disaggregated_params": {"request_type": "context_only", "disagg_request_id": request_id},
        }
        ctx_body.pop("stream_options", None)
        record.ctx_dispatch_s, record.disagg_request_id = time.monotonic(), request_id
        raw, url = await self._post_context(route, ctx_body, routed, record)
        answer = msgspec.json.decode(raw)
        choices = answer.get("choices") or []
        if len(choices) != 1:
            raise ForwardError(f"Context server returned {len(choices)} choices, expecting 1.")
        params = choices[0].get("disaggregated_params")
        if params is None:
            raise ForwardError("Context server did not return disaggregated params")
        if params.get("ctx_request_id") is None:
            raise ForwardError("Invalid disaggregated params: ctx_request_id is None")
        record.ctx_server, record.ctx_request_id = url, params["ctx_request_id"]
        if choices[0].get("finish_reason") not in ("length", "not_finished"):
            return web.Response(body=raw, content_type="application/json")
        prompt_key = "prompt_token_ids" if routed.chat else "prompt"
        params = {**params, "request_type": "generation_only"}
        return {**body, prompt_key: answer["prompt_token_ids"], "disaggregated_params": params}

    def _new_id(self) -> int:
        """39 bits of milliseconds, 8 of node, 6 of process, 10 of counter; at least 2**40."""
        now_ms = int(time.time() * 1e3) & ((1 << 39) - 1)
        return max(1 << 40, now_ms << 24 | next(self._ids) & 0x3FF)

    def _pick(self, role: RoleSettings, routed: Routed) -> tuple[str, Callable[[], None]]:
        router = self._routers.get(role.role)
        if router is None:
            raise ForwardError(f"No {role.role} servers available")
        try:
            index = router.choose(routed)
        except ValueError as error:
            raise ForwardError(str(error)) from None
        return role.urls[index], lambda: router.finish(index, routed)

    async def _post_context(self, route: str, body: Json, routed: Routed, record: Forwarded) -> tuple[bytes, str]:
        url, done = self._pick(self.settings.ctx, routed)
        try:
            answer = await self._post(f"http://{url}{route}", body, "ctx")
            async with answer:
                record.fields["ctx"] = fields_of_headers(answer.headers)
                return await answer.read(), url
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise ForwardError(f"{url}: {error or type(error).__name__}") from None
        finally:
            done()

    async def _post(self, url: str, body: Json, role: str) -> aiohttp.ClientResponse:
        """POST until it works or the retries are used up; the open answer.

        1.2 tries again whatever went wrong; later lines do not repeat what a worker refused (4xx), and are more
        patient with connections that drop.

        Raises:
            ForwardError: no answer, or one that is not 200.
        """
        self.counts[f"{role}_total_requests"] += 1
        data = msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"}
        if self._keeps_times:
            headers[RETURN_HEADER] = RETURN_VALUE
        status, detail = 500, None
        for attempt in itertools.count():
            retries = 0 if self.environment.no_retry else self.settings.max_retries
            try:
                answer = await self.http.post(url, data=data, headers=headers)
                if answer.status == 200:
                    self.counts[f"{role}_completed_requests"] += 1
                    return answer
                text = (await answer.text())[:500]
                answer.release()
                what = f"{answer.status}, message={answer.reason!r}, url={url!r}: {text}"
                if self._late:
                    status, detail = answer.status, inner_message(text)
                if release_line(self.settings.version) != "1.2" and answer.status < 500:
                    retries = attempt
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                what = f"Client error to {url}: {error or type(error).__name__}"
                status, detail = 500, None
                dropped = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
                dropped = dropped and not isinstance(error, aiohttp.ClientConnectorError)
                if dropped and retries and release_line(self.settings.version) != "1.2":
                    retries = max(retries, DROPPED_RETRIES)
            if attempt >= retries:
                self.log.error(f"{what} - last retry {attempt} of {retries}")
                break
            self.log.error(f"{what} - retry {attempt} of {retries}")
            self.counts[f"{role}_retry_requests"] += 1
            await asyncio.sleep(RETRY_PAUSE_S)
        self.counts[f"{role}_error_requests"] += 1
        raise ForwardError(what, status, detail)

    async def _run_generation(
        self, request: web.Request, route: str, body: Json, routed: Routed, record: Forwarded
    ) -> web.StreamResponse:
        url, done = self._pick(self.settings.gen, routed)
        record.gen_server = url
        try:
            answer = await self._post(f"http://{url}{route}", body, "gen")
            async with answer:
                if not body.get("stream"):
                    raw = await answer.read()
                    record.first_token_s = time.monotonic()
                    record.fields["gen"] = fields_of_headers(answer.headers)
                    times = self._times_for(request, record)
                    return web.Response(body=raw, content_type="application/json", headers=times)
                response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
                await response.prepare(request)
                await self._relay(answer, response, record, request)
                return response
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise ForwardError(f"{url}: {error or type(error).__name__}") from None
        finally:
            done()

    def _times_for(self, request: web.Request, record: Forwarded) -> dict[str, str]:
        """What the client is sent of the times of its request, where it asked for them and they are kept."""
        if not (self._late and self.settings.perf_metrics and wants_times(request.headers)):
            return {}
        return fields_for_client(record.own_times, record.fields)

    async def _relay(
        self, answer: aiohttp.ClientResponse, response: web.StreamResponse, record: Forwarded, request: web.Request
    ) -> None:
        """Bytes as they come. When the worker's side breaks, the stream just ends: status 200 was already sent.

        What a worker sends behind the end of its answer is kept back: the client gets the times of the whole way."""
        end = StreamEnd()
        try:
            async for chunk in answer.content.iter_any():
                if record.first_token_s is None:
                    record.first_token_s = time.monotonic()
                if own := end.take(chunk) if self._keeps_times else chunk:
                    await response.write(own)
            record.fields["gen"] = read_event(end.rest)
            if last := end.flush() + times_event(self._times_for(request, record)):
                await response.write(last)
            await response.write_eof()
        except ClientConnectionResetError:
            return  # the client went away
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            self.log.error(f"Error in generation stream: {error or type(error).__name__}")
            self.counts["internal_errors"] += 1
            await response.write_eof()

"""HTTP to servers of ours: never through a proxy, and never more than was asked for.

A site's ``http_proxy`` is for the outside world. Compute nodes are reached directly, and a proxy that cannot reach
them would make every server look dead. Whoever answers may be another program, or a server gone wrong: an answer has
a limit in bytes and one in time, however slowly it drips, and whatever is wrong with it is an OSError.
"""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from time import monotonic
from typing import Any

from ratematch.loadgen.limits import HEAD_BYTES, SIDE_BYTES
from ratematch.measure.emulatedmarks import EMULATED_ENDPOINT, EMULATED_HEADER, EMULATED_ID, EMULATED_INFO
from ratematch.store.provenance import ServerVersion

_PATIENCE = 4
"""An answer that drips on may take so many times as long as one wait for its bytes."""

_VERSION_LENGTH = 200


@dataclass(frozen=True)
class Answer:
    """A whole answer to a GET with a status below 400, and none of redirection."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def get(url: str | urllib.request.Request, timeout_s: float, most: int = SIDE_BYTES) -> Answer:
    """The answer to GET ``url``, or to a whole request: http or https, redirections followed. ``timeout_s``: longest
    wait for bytes of it; ``most``: bytes of it, head included.

    Raises:
        urllib.error.HTTPError (an OSError): it answers with an error.
        OSError: nobody answers, not in time, too much, or something that is not HTTP.
    """
    opener = urllib.request.OpenerDirector()
    bounds = _Bounds(most, monotonic() + _PATIENCE * timeout_s)
    for handler in (
        _Handler(bounds),
        urllib.request.UnknownHandler(),  # file:, ftp: and data: are refused
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except OSError:
        raise
    except Exception as problem:  # http.client's own, and ValueError for what it did not foresee
        raise OSError(f"no HTTP answer ({type(problem).__name__}: {str(problem)[:100]})") from problem


def server_version(host: str, port: int) -> ServerVersion:
    """What GET ``/version`` answers, or what else says it; a server that does not say is of no known version. Never
    raises."""
    base = f"http://{host}:{port}"
    try:
        answer = get(f"{base}/version", 5)
    except urllib.error.HTTPError:
        return _triton_version(base) or _dynamo_version(base)
    except OSError:
        return ServerVersion(None, False)
    return ServerVersion(_read_version(answer.body), answer.headers.get(EMULATED_HEADER) is not None)


def _triton_version(base: str) -> ServerVersion | None:
    """Of Triton Inference Server, which says at ``/v2`` what it is; ``None``: it is none."""
    about = _json_object(f"{base}/v2")
    if not isinstance(about.get("extensions"), list):
        return None
    return ServerVersion(_read_version(json.dumps(about).encode()), about.get("name") == EMULATED_ID)


def _dynamo_version(base: str) -> ServerVersion:
    """Of a frontend or a worker of NVIDIA Dynamo, which have no ``/version``: real ones with emulated workers behind
    or inside are told by what they list."""
    health = _json_object(f"{base}/health")
    instances = health.get("instances")
    if not isinstance(instances, list):
        known = "endpoints" in health and "emulated" in _json_object(f"{base}/engine/{EMULATED_INFO}")
        return ServerVersion(None, known)
    names = {instance.get("endpoint") for instance in instances if isinstance(instance, dict)}
    info = _json_object(f"{base}/openapi.json").get("info")
    version = _read_version(json.dumps(info).encode()) if isinstance(info, dict) else None
    return ServerVersion(version, EMULATED_ENDPOINT in names or _is_mocker(_json_object(f"{base}/v1/models")))


def _is_mocker(models: Mapping[str, Any]) -> bool:
    """Has a model no room for a single token? Dynamo's own mocker registers 0 (1.6.1), an engine what it has."""
    cards = models.get("data")
    if not isinstance(cards, list):
        return False
    return any(isinstance(card, dict) and card.get("context_window") == 0 for card in cards)


def _json_object(url: str) -> Mapping[str, Any]:
    """The JSON object that is answered, with whatever status; empty where it is none."""
    try:
        try:
            body = get(url, 5).body
        except urllib.error.HTTPError as error:
            with error:
                body = error.read(SIDE_BYTES)
        content = json.loads(body)
    except (OSError, HTTPException, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_version(body: bytes) -> str | None:
    """The ``version`` of a JSON object, if it is a word or two."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    version = content.get("version") if isinstance(content, dict) else None
    if isinstance(version, str) and version.isprintable() and 0 < len(version) <= _VERSION_LENGTH:
        return version
    return None


class _Bounds:
    """What is left of an answer's bytes and of its time, over all redirections."""

    def __init__(self, most: int, deadline_s: float) -> None:
        self._most = self._left = most
        self._deadline_s = deadline_s
        self.head_left: int | None = None

    def take(self, size: int) -> None:
        """Raises OSError: the limit is reached."""
        self._left -= size
        if self._left < 0:
            raise OSError(f"the answer has more than {self._most} bytes")
        if self.head_left is not None:
            self.head_left -= size
            if self.head_left < 0:
                raise OSError(f"no end of the headers within {HEAD_BYTES} bytes")
        if monotonic() > self._deadline_s:
            raise TimeoutError("the answer does not end")


class _BoundedBytes(io.RawIOBase):
    def __init__(self, source: Any, bounds: _Bounds) -> None:
        self._source, self._bounds = source, bounds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        size: int | None = self._source.readinto(buffer)
        self._bounds.take(size or 0)
        return size

    def close(self) -> None:
        self._source.close()
        super().close()


class _BoundedResponse(HTTPResponse):
    """Reads its head within the bounds too: http.client reads interim answers on and on."""

    def __init__(self, bounds: _Bounds, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._bounds = bounds
        self.fp.close()
        self.fp = io.BufferedReader(_BoundedBytes(sock.makefile("rb", buffering=0), bounds))

    def begin(self) -> None:
        self._bounds.head_left = HEAD_BYTES
        super().begin()
        self._bounds.head_left = None


class _Handler(urllib.request.AbstractHTTPHandler):
    def __init__(self, bounds: _Bounds) -> None:
        super().__init__()
        self._bounds = bounds

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(self._connect, HTTPConnection), request)

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(self._connect, HTTPSConnection), request)

    def _connect(self, kind: Any, host: str, **options: Any) -> Any:
        connection = kind(host, **options)
        connection.response_class = partial(_BoundedResponse, self._bounds)
        return connection

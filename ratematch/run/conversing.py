"""Drives what an engine's room asks its servers (:mod:`ratematch.engines.asking`): sends, waits, gives up."""

from __future__ import annotations

import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

from ratematch.engines import Engine
from ratematch.engines.asking import Ask, Conversation, Note, Reply
from ratematch.errors import WrongServers
from ratematch.loadgen.http import get
from ratematch.loadgen.limits import SIDE_BYTES
from ratematch.plan.experiment import Experiment
from ratematch.run.launch import Servers
from ratematch.run.stopping import Interrupted
from ratematch.store.progress import Waiting

PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0

RECHECK_S = 30.0
"""How long servers that are up may take to say so again."""

WHOLE = "deployment"
"""The name under which a person sees what the deployment as a whole still waits for."""


def join(
    servers: Servers,
    engine: Engine,
    experiment: Experiment,
    stop: threading.Event,
    on_wait: Callable[[Sequence[Waiting]], None],
) -> None:
    """Return when the deployment as a whole is ready.

    Raises:
        ServerDied: a process ended meanwhile. NotReady: not within the longest deadline of its processes.
        WrongServers: what no waiting will mend. Interrupted: ``stop`` was set.
    """
    limit_s = max(spec.ready.deadline_s for spec in servers.plan.processes)
    _drive(engine.join(servers.plan, experiment), servers, stop, limit_s, on_wait)


def recheck(servers: Servers, engine: Engine, experiment: Experiment, stop: threading.Event) -> None:
    """Return when the servers are still those that were started. Errors as in :func:`join`."""
    _drive(engine.recheck(servers.plan, experiment), servers, stop, RECHECK_S, lambda waiting: None)


def _drive(
    conversation: Conversation,
    servers: Servers,
    stop: threading.Event,
    limit_s: float,
    on_wait: Callable[[Sequence[Waiting]], None],
) -> None:
    begin, pause, reply = time.monotonic(), PAUSE_S, Reply(0)
    try:
        asked = next(conversation)
        while True:
            servers.check()
            if isinstance(asked, Ask):
                reply = _send(asked)
            elif isinstance(asked, Note):
                sys.stderr.write(f"note: {asked.text}\n")
            else:
                seconds = time.monotonic() - begin
                if seconds > limit_s:
                    raise servers.never_whole(asked.why, seconds)
                on_wait([Waiting(WHOLE, asked.why, seconds, "")])
                if stop.wait(pause):
                    raise Interrupted("stopped while servers were starting")
                pause = min(LONGEST_PAUSE_S, pause * 1.2)
            asked = conversation.send(reply)
    except StopIteration:
        return
    except WrongServers:
        # A worker that has just ended may be all that is wrong.
        servers.check()
        raise


def _send(asked: Ask) -> Reply:
    request = urllib.request.Request(asked.url)
    if asked.body is not None:
        request = urllib.request.Request(asked.url, asked.body, {"Content-Type": "application/json"})
    try:
        answer = get(request, asked.timeout_s)
        return Reply(answer.status, answer.body)
    except urllib.error.HTTPError as error:
        with error:
            try:
                return Reply(error.code, error.read(SIDE_BYTES))
            except OSError:
                return Reply(error.code)
    except OSError as error:
        return Reply(0, b"", str(error) or type(error).__name__)

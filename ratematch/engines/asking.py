"""How an engine's room asks its running servers something without a socket of its own: it yields questions, and
whoever drives it sends back the answers.

A conversation is a generator: it yields an :class:`Ask` and is sent the :class:`Reply`; it yields :class:`NotYet`
where it cannot go on, and goes on a while later; it yields :class:`Note` where a person should know something; it
returns when all is well. It raises :class:`ratematch.errors.WrongServers` for what no waiting will mend.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass


@dataclass(frozen=True)
class Ask:
    """GET ``url``, or POST ``body`` (JSON) to it. ``timeout_s``: the longest wait for bytes of the answer."""

    url: str
    body: bytes | None = None
    timeout_s: float = 5.0


@dataclass(frozen=True)
class Reply:
    """``status``: of HTTP, 0 where nobody answered, and ``why`` then says in words why not."""

    status: int
    body: bytes = b""
    why: str = ""


@dataclass(frozen=True)
class NotYet:
    """What is still missing, in words."""

    why: str


@dataclass(frozen=True)
class Note:
    """What a person should know; nothing is answered to it."""

    text: str


@dataclass(frozen=True)
class Shell:
    """The wait for a whole deployment in Bash, for ``run.sh``: ``functions``, which may use its ``die`` and
    ``alive``, and ``calls`` of them, a list of words each."""

    functions: str
    calls: tuple[tuple[str, ...], ...]


Question = Ask | NotYet | Note

Conversation = Generator[Question, Reply, None]
"""What is sent after a :class:`NotYet` or a :class:`Note` means nothing."""

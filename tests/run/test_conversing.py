"""What an engine's room asks its servers, driven: answers, waits, deaths, deadlines, and the end of a wait."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ratematch.engines import find_engine
from ratematch.engines.asking import Ask, Conversation, Note, NotYet, Reply
from ratematch.engines.dynamo.services import etcd_argv
from ratematch.errors import NotReady, ServerDied, WrongServers
from ratematch.plan.launchplan import LaunchPlan, ProcessSpec, ReadyProbe
from ratematch.run import guard
from ratematch.run.conversing import WHOLE, join, recheck
from ratematch.run.launch import Servers, ThisMachine, _Child
from ratematch.run.maskedlog import ServerLog
from ratematch.run.probes import probe_ready
from ratematch.run.stopping import Interrupted
from ratematch.store.progress import Waiting
from tests.support.invented import experiment
from tests.support.processes import wait_until

ASKED = experiment()


class Server(BaseHTTPRequestHandler):
    """Says what it was sent, with the status that its path names."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.send_response(int(self.path.strip("/") or 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Tests are quiet."""


@pytest.fixture(scope="module")
def url() -> Any:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


class Up:
    """Servers that are up until ``dies`` looks have been taken."""

    def __init__(self, deadline_s: float = 60.0, dies: int = 10**9):
        ready = ReadyProbe("http://127.0.0.1:1/health", deadline_s)
        spec = ProcessSpec("agg-0", "agg", ("x",), (), (), ("node",), "127.0.0.1", 1, "agg-0.log", ready)
        self.plan = LaunchPlan((), (spec,), "http://127.0.0.1:1")
        self.looks, self.dies = 0, dies

    def check(self) -> None:
        self.looks += 1
        if self.looks > self.dies:
            raise ServerDied("agg-0 ended with exit code 0")

    def never_whole(self, why: str, seconds: float) -> NotReady:
        return NotReady(f"not ready: {why}")


def talk(
    conversation: Callable[[], Conversation],
    servers: Up,
    stop: threading.Event | None = None,
    waits: list[Sequence[Waiting]] | None = None,
) -> None:
    engine = replace(find_engine("vllm"), join=lambda plan, asked: conversation())
    seen = [] if waits is None else waits
    join(servers, engine, ASKED, stop or threading.Event(), seen.append)  # type: ignore[arg-type]


def test_questions_are_sent_and_their_answers_come_back_whatever_they_are(url: str) -> None:
    replies: list[Reply] = []

    def conversation() -> Conversation:
        replies.append((yield Ask(f"{url}/200", b'{"a": 1}')))
        replies.append((yield Ask(f"{url}/503", b"busy")))
        replies.append((yield Ask(f"{url}/404")))
        replies.append((yield Ask("http://127.0.0.1:1/", timeout_s=1.0)))

    talk(conversation, Up())
    assert [(reply.status, reply.body) for reply in replies] == [
        (200, b'{"a": 1}'),
        (503, b"busy"),
        (404, b""),
        (0, b""),
    ]
    assert "refused" in replies[-1].why


def test_what_is_missing_is_shown_and_a_note_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    waits: list[Sequence[Waiting]] = []

    def conversation() -> Conversation:
        yield NotYet("1 of 2 workers")
        yield Note("one pair has not met")

    talk(conversation, Up(), waits=waits)
    assert [(waiting.name, waiting.why) for (waiting,) in waits] == [(WHOLE, "1 of 2 workers")]
    assert capsys.readouterr().err == "note: one pair has not met\n"


def endless() -> Conversation:
    while True:
        yield NotYet("0 of 2 workers")


def test_a_wait_ends_with_the_deadline_a_death_or_a_signal() -> None:
    with pytest.raises(NotReady, match="not ready: 0 of 2 workers"):
        talk(endless, Up(deadline_s=0.0))
    with pytest.raises(ServerDied, match="exit code 0"):
        talk(endless, Up(dies=1))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        talk(endless, Up(), stop)


def wrong() -> Conversation:
    yield from ()
    raise WrongServers("one worker too many")


def test_wrong_servers_are_named_unless_one_has_just_ended() -> None:
    with pytest.raises(WrongServers, match="one worker too many"):
        talk(wrong, Up())
    with pytest.raises(ServerDied):
        talk(wrong, Up(dies=0))


def test_an_engine_whose_addresses_say_it_all_is_asked_nothing() -> None:
    servers = Up(dies=0)
    engine = find_engine("vllm")
    join(servers, engine, ASKED, threading.Event(), lambda waiting: None)  # type: ignore[arg-type]
    recheck(servers, engine, ASKED, threading.Event())  # type: ignore[arg-type]
    assert servers.looks == 0 and engine.join_script(servers.plan, ASKED) is None


def test_a_process_that_answers_anything_is_alive_where_that_is_enough(url: str) -> None:
    assert probe_ready(ReadyProbe(f"{url}/503", 1.0, alive=True)) is None
    assert probe_ready(ReadyProbe(f"{url}/503", 1.0)) == "answers 503"
    assert probe_ready(ReadyProbe("http://127.0.0.1:1/", 1.0, alive=True)) is not None


def test_what_servers_left_on_a_nodes_own_disk_goes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An etcd that is killed with its shell cannot take its folder along."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    mark = "0123456789abcdef" * 2
    for name in (f"ratematch-etcd.{mark[: guard.NAME]}", "ratematch-etcd.fedcba987654"):
        (tmp_path / name / "member").mkdir(parents=True)
    guard.end(mark, 0.0)
    assert [folder.name for folder in tmp_path.iterdir()] == ["ratematch-etcd.fedcba987654"]


def test_a_service_has_a_folder_of_its_start_that_goes_with_it(tmp_path: Path) -> None:
    argv = LaunchPlan((), (service("true"),), "").started("abc").processes[0].argv
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    assert subprocess.run(argv, env=environment, timeout=30, check=False).returncode == 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "ratematch-etcd.abc").mkdir()
    assert subprocess.run(argv, env=environment, timeout=30, check=False, stderr=-3).returncode == 1, "another's"


def service(program: str) -> ProcessSpec:
    argv = etcd_argv(program, "127.0.0.1", 1, 2)
    ready = ReadyProbe("http://127.0.0.1:1/health", 1.0)
    return ProcessSpec("etcd", "service", argv, (), (), ("node",), "127.0.0.1", 1, "etcd.log", ready)


def test_what_servers_find_each_other_by_ends_when_they_are_gone(tmp_path: Path) -> None:
    """A worker that loses etcd while all are stopped would say so, and that would pass for the cause of its end."""
    worker = replace(service("true"), name="agg-0", role="agg", wave=1)
    plan = LaunchPlan((), (service("true"), worker), "")
    servers = Servers(plan, tmp_path, lambda texts: None, ThisMachine())
    wait = "touch up-$0; while :; do sleep 0.02; done"
    scripts = {
        "etcd": f"trap 'exit 0' TERM; {wait}",
        "agg-0": f"trap 'sleep 0.3; kill -0 $1 && touch etcd-was-there; exit 0' TERM; {wait}",
    }
    started = 0
    for spec in servers.plan.processes:
        words = ["sh", "-c", scripts[spec.name], spec.name, str(started)]
        process = subprocess.Popen(words, cwd=tmp_path, start_new_session=True)
        servers._children.append(_Child(spec, process, ServerLog(tmp_path / spec.log), 0.0))
        started = process.pid
    wait_until(lambda: (tmp_path / "up-agg-0").exists() and (tmp_path / "up-etcd").exists(), "both to be up")
    servers.stop()
    assert (tmp_path / "etcd-was-there").exists()
